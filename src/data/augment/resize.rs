//! The resize and centre-crop rules of torchvision on PIL images.

use super::super::{Geometry, Image, Size};
use super::error::{AugmentError, expect};
use super::input::ModelInput;
use super::resample::{Rect, resize};
use super::transform::{Augmentation, SampleMut, Transform};
use crate::config::{Interpolation, SquareOrSize, optional_side, optional_size};
use crate::rng::Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Scales both sides to exactly `size`.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ResizeOptions {
    /// [height, width] of the result; that of the model's input when absent.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "optional_size")]
    #[schemars(with = "Option<SquareOrSize>")]
    size: Option<[usize; 2]>,
    #[serde(default)]
    interpolation: Interpolation,
}

/// Scales to exactly `size`.
#[derive(Clone, Debug)]
pub(super) struct Resize {
    pub size: Size,
    pub interpolation: Interpolation,
}

impl Augmentation for Resize {
    const OP: &'static str = "resize";
    const RANDOM: bool = false;
    type Options = ResizeOptions;

    fn new(
        ResizeOptions { size, interpolation }: Self::Options,
        input: &ModelInput,
    ) -> Result<Self, AugmentError> {
        Ok(Self { size: input.or_size(size)?, interpolation })
    }
}

impl Transform for Resize {
    fn apply(&self, sample: &mut SampleMut, _: &mut Rng) -> Result<(), String> {
        scale(sample, self.size, self.interpolation)
    }
}

pub(super) fn scale(sample: &mut SampleMut, to: Size, interpolation: Interpolation) -> Result<(), String> {
    let from = sample.image.size();
    let image = resize(sample.image, Rect::whole(from), to, interpolation)?;
    sample.moved(image, &Geometry::crop_resize(from, 0., 0., from.0 as f64, from.1 as f64, to));
    Ok(())
}

/// Scales the shorter side to `size`, or to input size / `crop_ratio`. For inputs larger than `margin_up_to` pixels
/// there is no margin (ratio 1), as in MAE's evaluation.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ResizeShortOptions {
    /// Length of the shorter side in pixels.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "optional_side")]
    size: Option<usize>,
    /// Instead of `size`: the longer side of the model's input divided by this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    crop_ratio: Option<f64>,
    /// Largest input size in pixels to which `crop_ratio` applies; no limit when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    margin_up_to: Option<usize>,
    #[serde(default)]
    interpolation: Interpolation,
}

/// Scales the shorter side to `size`; the longer one becomes ⌊size · long / short⌋ (torchvision `Resize(int)`).
#[derive(Clone, Debug)]
pub(super) struct ResizeShort {
    pub size: usize,
    pub interpolation: Interpolation,
}

impl Augmentation for ResizeShort {
    const OP: &'static str = "resize_short";
    const RANDOM: bool = false;
    type Options = ResizeShortOptions;

    /// Scales to `size`, or to the longer side of the input divided by `crop_ratio`; inputs larger than `margin_up_to`
    /// are not divided.
    fn new(options: Self::Options, input: &ModelInput) -> Result<Self, AugmentError> {
        let ResizeShortOptions { size, crop_ratio, margin_up_to, interpolation } = options;
        let side = input.longer_side();
        let size = match (size, crop_ratio) {
            (Some(_), Some(_)) => return Err(AugmentError::SizeAndRatio),
            (Some(0), _) => return Err(AugmentError::ZeroSize { op: "resize_short" }),
            (Some(size), _) => size,
            (_, Some(ratio)) => {
                let right = ratio > 0. && ratio <= 1.;
                expect(right, "resize_short: crop_ratio", ratio, "more than 0, at most 1")?;
                if margin_up_to.is_none_or(|most| side <= most) {
                    (side as f64 / ratio) as usize
                } else {
                    side
                }
            }
            (None, None) => side,
        };
        Ok(Self { size, interpolation })
    }
}

impl ResizeShort {
    pub(super) fn target(&self, (height, width): Size) -> Size {
        let long = |long: usize, short: usize| self.size * long / short;
        if width <= height { (long(height, width), self.size) } else { (self.size, long(width, height)) }
    }
}

impl Transform for ResizeShort {
    fn apply(&self, sample: &mut SampleMut, _: &mut Rng) -> Result<(), String> {
        scale(sample, self.target(sample.image.size()), self.interpolation)
    }
}

/// torchvision `CenterCrop` (zero padding when the image is smaller).
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CenterCropOptions {
    /// [height, width] of the result; that of the model's input when absent.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "optional_size")]
    #[schemars(with = "Option<SquareOrSize>")]
    size: Option<[usize; 2]>,
}

/// Crops the centre; pads a smaller image with zeros.
#[derive(Clone, Debug)]
pub(super) struct CenterCrop {
    pub size: Size,
}

impl Augmentation for CenterCrop {
    const OP: &'static str = "center_crop";
    const RANDOM: bool = false;
    type Options = CenterCropOptions;

    fn new(CenterCropOptions { size }: Self::Options, input: &ModelInput) -> Result<Self, AugmentError> {
        Ok(Self { size: input.or_size(size)? })
    }
}

impl CenterCrop {
    /// (top, left): torchvision pads first, by ⌊missing / 2⌋, and rounds half to even when cutting.
    pub(super) fn corner(&self, (height, width): Size) -> (isize, isize) {
        let place = |have: usize, want: usize| match have >= want {
            true => ((have - want) as f64 / 2.).round_ties_even() as isize,
            false => -(((want - have) / 2) as isize),
        };
        (place(height, self.size.0), place(width, self.size.1))
    }
}

impl Transform for CenterCrop {
    fn apply(&self, sample: &mut SampleMut, _: &mut Rng) -> Result<(), String> {
        let from = sample.image.size();
        let (top, left) = self.corner(from);
        let (h, w) = self.size;
        let image = cut(sample.image, top, left, self.size);
        let moved = Geometry::crop_resize(from, top as f64, left as f64, h as f64, w as f64, self.size);
        sample.moved(image, &moved);
        Ok(())
    }
}

/// Crops `height` × `width` pixels at (`top`, `left`); pixels outside the image are zeros.
pub(super) fn cut(image: &Image, top: isize, left: isize, (height, width): Size) -> Image {
    let c = image.channels;
    let mut data = vec![0; height * width * c];
    let columns = (-left).max(0)..(image.width as isize - left).min(width as isize);
    for y in 0..height {
        let from = y as isize + top;
        if !(0..image.height as isize).contains(&from) || columns.is_empty() {
            continue;
        }
        let start = (from as usize * image.width + (columns.start + left) as usize) * c;
        let count = (columns.end - columns.start) as usize * c;
        let to = (y * width + columns.start as usize) * c;
        data[to..to + count].copy_from_slice(&image.data[start..start + count]);
    }
    Image::new(height, width, c, data)
}
