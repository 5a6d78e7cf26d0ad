//! Scaling that keeps the aspect ratio, random crops and padding, for training and evaluating detectors.
//!
//! Padding is added at the bottom and on the right. The source transform of the sample gives the area that belongs to
//! the image ([`SourceTransform::shown`](super::super::SourceTransform::shown)).

use super::super::{Geometry, Image, Size};
use super::error::{AugmentError, range};
use super::input::ModelInput;
use super::resize::{cut, scale};
use super::transform::{Augmentation, SampleMut, Transform};
use crate::config::{Interpolation, SquareOrSize, optional_side, optional_size};
use crate::rng::Rng;
use rand::Rng as _;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Large-scale jitter (detectron2 `ResizeScale`): keeps the aspect; the image fits `size` times a factor drawn
/// uniformly from `scale`.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ResizeScaleOptions {
    /// [height, width]; that of the model's input when absent.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "optional_size")]
    #[schemars(with = "Option<SquareOrSize>")]
    size: Option<[usize; 2]>,
    /// Lowest and highest factor.
    scale: [f64; 2],
    #[serde(default = "bilinear")]
    interpolation: Interpolation,
}

pub(super) fn bilinear() -> Interpolation {
    Interpolation::Bilinear
}

/// detectron2 `ResizeScale`.
#[derive(Clone, Debug)]
pub(super) struct ResizeScale {
    pub size: Size,
    pub scale: [f64; 2],
    pub interpolation: Interpolation,
}

impl Augmentation for ResizeScale {
    const OP: &'static str = "resize_scale";
    const RANDOM: bool = true;
    type Options = ResizeScaleOptions;

    fn new(options: Self::Options, input: &ModelInput) -> Result<Self, AugmentError> {
        let ResizeScaleOptions { size, scale, interpolation } = options;
        let size = input.or_size(size)?;
        range("resize_scale: scale", scale)?;
        Ok(Self { size, scale, interpolation })
    }
}

impl ResizeScale {
    /// The size of the result for a drawn factor: the image fits `size` · `factor`; sides are rounded, halves to even
    /// as NumPy does, and are 1 at least.
    pub(super) fn target(&self, (height, width): Size, factor: f64) -> Size {
        let (h, w) = (height as f64, width as f64);
        let scale = (self.size.0 as f64 * factor / h).min(self.size.1 as f64 * factor / w);
        let side = |side: f64| ((side * scale).round_ties_even() as usize).max(1);
        (side(h), side(w))
    }
}

impl Transform for ResizeScale {
    fn apply(&self, sample: &mut SampleMut, rng: &mut Rng) -> Result<(), String> {
        let [low, high] = self.scale;
        let factor = low + (high - low) * rng.random::<f64>();
        scale(sample, self.target(sample.image.size(), factor), self.interpolation)
    }
}

/// Scales the longer side to `size` (the longer one of the model's input when absent), keeping the aspect.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ResizeLongestOptions {
    /// Length of the longer side in pixels.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "optional_side")]
    size: Option<usize>,
    #[serde(default = "bilinear")]
    interpolation: Interpolation,
}

/// Scales the longer side to `size`.
#[derive(Clone, Debug)]
pub(super) struct ResizeLongest {
    pub size: usize,
    pub interpolation: Interpolation,
}

impl Augmentation for ResizeLongest {
    const OP: &'static str = "resize_longest";
    const RANDOM: bool = false;
    type Options = ResizeLongestOptions;

    fn new(options: Self::Options, input: &ModelInput) -> Result<Self, AugmentError> {
        let ResizeLongestOptions { size, interpolation } = options;
        match size.unwrap_or(input.longer_side()) {
            0 => Err(AugmentError::ZeroSize { op: "resize_longest" }),
            size => Ok(Self { size, interpolation }),
        }
    }
}

impl ResizeLongest {
    /// The shorter side is rounded half up, as detectron2's `ResizeShortestEdge` does, and is 1 at least.
    pub(super) fn target(&self, (height, width): Size) -> Size {
        let scale = self.size as f64 / height.max(width) as f64;
        let side = |side: usize| ((side as f64 * scale + 0.5) as usize).max(1);
        (side(height), side(width))
    }
}

impl Transform for ResizeLongest {
    fn apply(&self, sample: &mut SampleMut, _: &mut Rng) -> Result<(), String> {
        scale(sample, self.target(sample.image.size()), self.interpolation)
    }
}

/// Crops `size` at a random position of a larger image, and pads a smaller one at the bottom and on the right
/// (detectron2 `FixedSizeCrop`).
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct FixedSizeCropOptions {
    /// [height, width] of the result; that of the model's input when absent.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "optional_size")]
    #[schemars(with = "Option<SquareOrSize>")]
    size: Option<[usize; 2]>,
    /// Byte of each channel in the padding: one for all, or one per channel; the mean colour of `normalize`, which
    /// becomes 0, when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    fill: Option<Vec<u8>>,
}

/// detectron2 `FixedSizeCrop`.
#[derive(Clone, Debug)]
pub(super) struct FixedSizeCrop {
    pub size: Size,
    /// One byte per channel.
    pub fill: Vec<u8>,
}

impl Augmentation for FixedSizeCrop {
    const OP: &'static str = "fixed_size_crop";
    const RANDOM: bool = true;
    type Options = FixedSizeCropOptions;

    fn new(
        FixedSizeCropOptions { size, fill }: Self::Options,
        input: &ModelInput,
    ) -> Result<Self, AugmentError> {
        let fill = input.colour("fixed_size_crop: fill", fill.as_deref())?;
        Ok(Self { size: input.or_size(size)?, fill })
    }
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

impl Transform for FixedSizeCrop {
    fn apply(&self, sample: &mut SampleMut, rng: &mut Rng) -> Result<(), String> {
        let corner = self.corner(sample.image.size(), rng.random());
        place(sample, corner, self.size, &self.fill);
        Ok(())
    }
}

/// Pads at the bottom and on the right to `size`; a larger image is an error.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PadOptions {
    /// [height, width] of the result; that of the model's input when absent.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "optional_size")]
    #[schemars(with = "Option<SquareOrSize>")]
    size: Option<[usize; 2]>,
    /// See `fixed_size_crop`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    fill: Option<Vec<u8>>,
}

/// Pads to `size`.
#[derive(Clone, Debug)]
pub(super) struct Pad {
    pub size: Size,
    /// One byte per channel.
    pub fill: Vec<u8>,
}

impl Augmentation for Pad {
    const OP: &'static str = "pad";
    const RANDOM: bool = false;
    type Options = PadOptions;

    fn new(PadOptions { size, fill }: Self::Options, input: &ModelInput) -> Result<Self, AugmentError> {
        let fill = input.colour("pad: fill", fill.as_deref())?;
        Ok(Self { size: input.or_size(size)?, fill })
    }
}

impl Transform for Pad {
    fn apply(&self, sample: &mut SampleMut, _: &mut Rng) -> Result<(), String> {
        let ((h, w), (height, width)) = (sample.image.size(), self.size);
        if h > height || w > width {
            return Err(format!("pad to {height}x{width} pixels, but the image has {h}x{w}"));
        }
        place(sample, (0, 0), self.size, &self.fill);
        Ok(())
    }
}

/// Crops `to` at (top, left); pixels below and to the right of the image get the colour `fill`.
pub(super) fn place(sample: &mut SampleMut, (top, left): (usize, usize), to: Size, fill: &[u8]) {
    let from = sample.image.size();
    let mut image = cut(sample.image, top as isize, left as isize, to);
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
