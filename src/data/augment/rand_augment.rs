//! RandAugment (arXiv:1909.13719) as timm's `rand-m…-inc1`: operations drawn uniformly with replacement from fifteen,
//! whose strength grows with the magnitude.
//!
//! Warps move the target with the image. Pixels from outside get the mean colour of the normalisation.

use super::super::{Image, Size};
use super::affine::{self, Matrix};
use super::error::{AugmentError, expect, probability};
use super::input::ModelInput;
use super::point;
use super::transform::{Augmentation, SampleMut, Transform};
use crate::config::Interpolation;
use crate::rng::Rng;
use rand::Rng as _;
use rand_distr::{Distribution, Normal};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The largest magnitude.
const FULL: f64 = 10.;

/// One operation with its argument.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Op {
    AutoContrast,
    Equalize,
    Invert,
    /// Degrees, counter-clockwise.
    Rotate(f64),
    /// Number of bits to keep.
    Posterize(u32),
    /// The lowest value that is inverted.
    Solarize(u32),
    SolarizeAdd(u8),
    /// Factor of the blend; 1 changes nothing.
    Color(f64),
    Contrast(f64),
    Brightness(f64),
    Sharpness(f64),
    /// Columns per row, rows per column.
    ShearX(f64),
    ShearY(f64),
    /// Shift as a share of the width and of the height.
    TranslateX(f64),
    TranslateY(f64),
}

/// Number of operations to choose from.
pub(super) const OPS: usize = 15;

impl Op {
    /// Operation `index` (in timm's order) at `magnitude` (0 to [`FULL`]); `negative` chooses the direction of
    /// operations that have two.
    ///
    /// # Panics
    /// If `index` is not below [`OPS`].
    pub(super) fn new(index: usize, magnitude: f64, negative: bool) -> Self {
        let level = magnitude / FULL;
        let signed = |most: f64| if negative { -level * most } else { level * most };
        let factor = || (1. + signed(0.9)).max(0.1);
        match index {
            0 => Self::AutoContrast,
            1 => Self::Equalize,
            2 => Self::Invert,
            3 => Self::Rotate(signed(30.)),
            4 => Self::Posterize(4 - (level * 4.) as u32),
            5 => Self::Solarize(256 - (level * 256.) as u32),
            6 => Self::SolarizeAdd((level * 110.) as u8),
            7 => Self::Color(factor()),
            8 => Self::Contrast(factor()),
            9 => Self::Brightness(factor()),
            10 => Self::Sharpness(factor()),
            11 => Self::ShearX(signed(0.3)),
            12 => Self::ShearY(signed(0.3)),
            13 => Self::TranslateX(signed(0.45)),
            14 => Self::TranslateY(signed(0.45)),
            _ => panic!("operation {index} of {OPS}"),
        }
    }

    /// The matrix of an operation that moves pixels; `None` for other operations.
    pub(super) fn matrix(self, (height, width): Size) -> Option<Matrix> {
        Some(match self {
            Self::Rotate(degrees) => affine::rotation((height, width), degrees),
            Self::ShearX(factor) => [1., factor, 0., 0., 1., 0.],
            Self::ShearY(factor) => [1., 0., 0., factor, 1., 0.],
            Self::TranslateX(part) => [1., 0., part * width as f64, 0., 1., 0.],
            Self::TranslateY(part) => [1., 0., 0., 0., 1., part * height as f64],
            _ => return None,
        })
    }

    /// Changes the pixel values in place. Does nothing for a warp.
    fn recolour(self, image: &mut Image) {
        match self {
            Self::AutoContrast => point::auto_contrast(image),
            Self::Equalize => point::equalize(image),
            Self::Invert => point::invert(image),
            Self::Posterize(bits) => point::posterize(image, bits),
            Self::Solarize(threshold) => point::solarize(image, threshold),
            Self::SolarizeAdd(add) => point::solarize_add(image, add),
            Self::Color(factor) => point::saturation(image, factor),
            Self::Contrast(factor) => point::contrast(image, factor),
            Self::Brightness(factor) => point::brightness(image, factor),
            Self::Sharpness(factor) => point::sharpness(image, factor),
            Self::Rotate(_)
            | Self::ShearX(_)
            | Self::ShearY(_)
            | Self::TranslateX(_)
            | Self::TranslateY(_) => {}
        }
    }

    /// Applies the operation to image and target.
    pub(super) fn apply(
        self,
        sample: &mut SampleMut,
        interpolation: Interpolation,
        fill: &[u8],
    ) -> Result<(), String> {
        let size = sample.image.size();
        let Some(matrix) = self.matrix(size) else {
            self.recolour(sample.image);
            return Ok(());
        };
        let image = affine::warp(sample.image, &matrix, interpolation, fill)?;
        let geometry = affine::geometry(size, &matrix).ok_or_else(|| format!("{self:?} has no inverse"))?;
        sample.moved(image, &geometry);
        Ok(())
    }
}

/// timm RandAugment, increasing set `inc1`: `layers` ops, each with probability `p`, at magnitude
/// Normal(`magnitude`, `magnitude_std`) clipped to [0, 10]. `rand-m9-mstd0.5-inc1` is layers 2, magnitude 9, std 0.5, p 0.5.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RandAugmentOptions {
    /// Number of operations drawn for each image.
    #[serde(default = "two")]
    layers: usize,
    /// Mean strength, 0 to 10.
    magnitude: f64,
    /// Standard deviation of the strength.
    #[serde(default)]
    magnitude_std: f64,
    /// Probability that a drawn operation is applied.
    #[serde(default = "half")]
    p: f64,
    /// `nearest`, `bilinear` or `bicubic`.
    #[serde(default)]
    interpolation: Interpolation,
}

fn two() -> usize {
    2
}
fn half() -> f64 {
    0.5
}

/// `layers` operations, each with probability `p`.
#[derive(Clone, Debug)]
pub(super) struct RandAugment {
    pub layers: usize,
    pub p: f64,
    /// Standard deviation of the magnitude, which is clipped to [0, [`FULL`]] after the draw.
    pub magnitude: Normal<f64>,
    pub interpolation: Interpolation,
    /// Colour of pixels from outside the image, one byte per channel.
    pub fill: Vec<u8>,
}

impl Augmentation for RandAugment {
    const OP: &'static str = "rand_augment";
    const RANDOM: bool = true;
    type Options = RandAugmentOptions;

    fn new(options: Self::Options, input: &ModelInput) -> Result<Self, AugmentError> {
        let RandAugmentOptions { layers, magnitude: mean, magnitude_std: deviation, p, interpolation } =
            options;
        probability("rand_augment: p", p)?;
        expect((0. ..=FULL).contains(&mean), "rand_augment: magnitude", mean, "0 to 10")?;
        let offered = interpolation != Interpolation::Lanczos;
        expect(offered, "rand_augment: interpolation", "lanczos", "nearest, bilinear or bicubic")?;
        let negative = AugmentError::Unexpected {
            what: "rand_augment: magnitude_std",
            found: deviation.to_string(),
            expected: "0 or more",
        };
        let magnitude = Normal::new(mean, deviation).ok().filter(|_| deviation >= 0.).ok_or(negative)?;
        Ok(Self { layers, p, magnitude, interpolation, fill: input.mean_colour() })
    }
}

impl RandAugment {
    /// The operations for one image, with their arguments.
    pub(super) fn draw(&self, rng: &mut Rng) -> Vec<Op> {
        let mut ops = Vec::with_capacity(self.layers);
        for _ in 0..self.layers {
            let index = rng.random_range(0..OPS);
            if rng.random::<f64>() < self.p {
                let magnitude = self.magnitude.sample(rng).clamp(0., FULL);
                ops.push(Op::new(index, magnitude, rng.random()));
            }
        }
        ops
    }
}

impl Transform for RandAugment {
    fn apply(&self, sample: &mut SampleMut, rng: &mut Rng) -> Result<(), String> {
        self.draw(rng).into_iter().try_for_each(|op| op.apply(sample, self.interpolation, &self.fill))
    }
}
