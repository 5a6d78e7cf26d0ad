//! Scaling that keeps the aspect, random places in large images, and padding: how detectors are trained and evaluated.
//!
//! Padding lies at the bottom and on the right, so the frame of a sample tells it apart: what belongs to the image is
//! its source's rectangle seen through the frame's geometry ([`Frame::shown`](super::super::Frame::shown)).

use super::super::{Geometric, Geometry, Image, Sample, Size};
use super::Transform;
use super::error::{AugmentError, range};
use super::input::ModelInput;
use super::resize::{cut, scale};
use crate::config::Interpolation;
use crate::rng::Rng;
use rand::Rng as _;

/// detectron2 `ResizeScale`.
#[derive(Clone, Debug)]
pub(super) struct ResizeScale {
    pub size: Size,
    pub scale: [f64; 2],
    pub interpolation: Interpolation,
}

impl ResizeScale {
    pub(super) fn checked(self) -> Result<Self, AugmentError> {
        range("resize_scale: scale", self.scale)?;
        Ok(self)
    }

    /// The size of the result for a drawn factor: the image fits `size` · `factor`; sides are rounded, halves to even
    /// as NumPy does, and are 1 at least.
    pub(super) fn target(&self, (height, width): Size, factor: f64) -> Size {
        let (h, w) = (height as f64, width as f64);
        let scale = (self.size.0 as f64 * factor / h).min(self.size.1 as f64 * factor / w);
        let side = |side: f64| ((side * scale).round_ties_even() as usize).max(1);
        (side(h), side(w))
    }
}

impl<T: Geometric> Transform<T> for ResizeScale {
    fn apply(&self, sample: &mut Sample<T>, rng: &mut Rng) -> Result<(), String> {
        let [low, high] = self.scale;
        let factor = low + (high - low) * rng.random::<f64>();
        scale(sample, self.target(sample.image.size(), factor), self.interpolation)
    }
}

/// Scales the longer side to `size`.
#[derive(Clone, Debug)]
pub(super) struct ResizeLongest {
    pub size: usize,
    pub interpolation: Interpolation,
}

impl ResizeLongest {
    /// To `size`, or to the longer side of the input.
    pub(super) fn new(
        input: &ModelInput,
        size: Option<usize>,
        interpolation: Interpolation,
    ) -> Result<Self, AugmentError> {
        match size.unwrap_or(input.longer_side()) {
            0 => Err(AugmentError::ZeroSize { op: "resize_longest" }),
            size => Ok(Self { size, interpolation }),
        }
    }

    /// The shorter side is rounded half up, as detectron2's `ResizeShortestEdge` does, and is 1 at least.
    pub(super) fn target(&self, (height, width): Size) -> Size {
        let scale = self.size as f64 / height.max(width) as f64;
        let side = |side: usize| ((side as f64 * scale + 0.5) as usize).max(1);
        (side(height), side(width))
    }
}

impl<T: Geometric> Transform<T> for ResizeLongest {
    fn apply(&self, sample: &mut Sample<T>, _: &mut Rng) -> Result<(), String> {
        scale(sample, self.target(sample.image.size()), self.interpolation)
    }
}

/// detectron2 `FixedSizeCrop`.
#[derive(Clone, Debug)]
pub(super) struct FixedSizeCrop {
    pub size: Size,
    /// One byte per channel.
    pub fill: Vec<u8>,
}

impl FixedSizeCrop {
    /// The corner (top, left) for a number drawn from [0, 1), which serves both axes, as in detectron2: along the
    /// diagonal of what is left over of a larger image, 0 in a smaller one.
    pub(super) fn corner(&self, (height, width): Size, drawn: f64) -> (usize, usize) {
        let place =
            |have: usize, want: usize| (have.saturating_sub(want) as f64 * drawn).round_ties_even() as usize;
        (place(height, self.size.0), place(width, self.size.1))
    }
}

impl<T: Geometric> Transform<T> for FixedSizeCrop {
    fn apply(&self, sample: &mut Sample<T>, rng: &mut Rng) -> Result<(), String> {
        let corner = self.corner(sample.image.size(), rng.random());
        place(sample, corner, self.size, &self.fill);
        Ok(())
    }
}

/// Pads to `size`.
#[derive(Clone, Debug)]
pub(super) struct Pad {
    pub size: Size,
    /// One byte per channel.
    pub fill: Vec<u8>,
}

impl<T: Geometric> Transform<T> for Pad {
    fn apply(&self, sample: &mut Sample<T>, _: &mut Rng) -> Result<(), String> {
        let ((h, w), (height, width)) = (sample.image.size(), self.size);
        if h > height || w > width {
            return Err(format!("pad makes {height}x{width} pixels, but the image has {h}x{w}"));
        }
        place(sample, (0, 0), self.size, &self.fill);
        Ok(())
    }
}

/// Cuts `to` from (top, left); what lies below and right of the image gets the colour `fill`.
pub(super) fn place<T: Geometric>(
    sample: &mut Sample<T>,
    (top, left): (usize, usize),
    to: Size,
    fill: &[u8],
) {
    let from = sample.image.size();
    let mut image = cut(&sample.image, top as isize, left as isize, to);
    let inside = (from.0.saturating_sub(top).min(to.0), from.1.saturating_sub(left).min(to.1));
    paint_outside(&mut image, inside, fill);
    let (h, w) = (to.0 as f64, to.1 as f64);
    sample.moved(image, &Geometry::crop_resize(from, top as f64, left as f64, h, w, to));
}

/// Gives all but the upper left (height, width) pixels the colour `fill`.
fn paint_outside(image: &mut Image, (height, width): Size, fill: &[u8]) {
    let c = image.channels;
    for (y, row) in image.data.chunks_exact_mut(image.width * c).enumerate() {
        let from = if y < height { width * c } else { 0 };
        row[from..].chunks_exact_mut(c).for_each(|pixel| pixel.copy_from_slice(fill));
    }
}
