//! RandAugment (arXiv:1909.13719) as timm's `rand-m9-mstd0.5-inc1`: operations drawn with replacement, each at a
//! magnitude of its own, on PIL images. What moves pixels moves the target too.

use super::super::{Geometric, Image, Sample};
use super::affine::Affine;
use super::{Transform, pil};
use crate::config::Interpolation;
use crate::rng::Rng;
use rand::Rng as _;
use rand::seq::IndexedRandom;
use rand_distr::{Distribution, Normal};

/// The increasing set `inc1`, in timm's order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    AutoContrast,
    Equalize,
    Invert,
    Rotate,
    Posterize,
    Solarize,
    SolarizeAdd,
    Color,
    Contrast,
    Brightness,
    Sharpness,
    ShearX,
    ShearY,
    TranslateX,
    TranslateY,
}

pub(super) const OPS: [Op; 15] = [
    Op::AutoContrast,
    Op::Equalize,
    Op::Invert,
    Op::Rotate,
    Op::Posterize,
    Op::Solarize,
    Op::SolarizeAdd,
    Op::Color,
    Op::Contrast,
    Op::Brightness,
    Op::Sharpness,
    Op::ShearX,
    Op::ShearY,
    Op::TranslateX,
    Op::TranslateY,
];

/// Largest magnitude.
const MOST: f64 = 10.;

pub(super) struct RandAugment {
    pub layers: usize,
    pub magnitude: f64,
    pub magnitude_std: f64,
    pub p: f64,
    pub interpolation: Interpolation,
    /// Value a channel for what comes from outside: the mean of the data.
    pub fill: Vec<u8>,
}

impl Op {
    /// The image after this operation at `magnitude` (0 to 10), and how it moved. `negative` turns the sign of
    /// operations that have one.
    pub(super) fn apply(
        self,
        image: &Image,
        magnitude: f64,
        negative: bool,
        interpolation: Interpolation,
        fill: &[u8],
    ) -> (Image, Option<Affine>) {
        let level = magnitude / MOST;
        let signed = |value: f64| if negative { -value } else { value };
        let factor = (1. + signed(level * 0.9)).max(0.1);
        let (height, width) = (image.height as f64, image.width as f64);
        let affine = match self {
            Self::Rotate => Affine::rotate(signed(level * 30.), image.size()),
            Self::ShearX => Affine::shear_x(signed(level * 0.3)),
            Self::ShearY => Affine::shear_y(signed(level * 0.3)),
            Self::TranslateX => Affine::translate(signed(level * 0.45) * width, 0.),
            Self::TranslateY => Affine::translate(0., signed(level * 0.45) * height),
            Self::AutoContrast => return (pil::auto_contrast(image), None),
            Self::Equalize => return (pil::equalize(image), None),
            Self::Invert => return (pil::invert(image), None),
            Self::Posterize => return (pil::posterize(image, 4 - (level * 4.) as u32), None),
            Self::Solarize => return (pil::solarize(image, 256 - ((level * 256.) as usize).min(256)), None),
            Self::SolarizeAdd => return (pil::solarize_add(image, ((level * 110.) as usize).min(128)), None),
            Self::Color => return (pil::saturation(image, factor), None),
            Self::Contrast => return (pil::contrast(image, factor), None),
            Self::Brightness => return (pil::brightness(image, factor), None),
            Self::Sharpness => return (pil::sharpness(image, factor), None),
        };
        (affine.apply(image, interpolation, fill), Some(affine))
    }
}

impl<T: Geometric> Transform<T> for RandAugment {
    fn apply(&self, sample: &mut Sample<T>, rng: &mut Rng) -> Result<(), String> {
        let spread = Normal::new(self.magnitude, self.magnitude_std).map_err(|e| e.to_string())?;
        for _ in 0..self.layers {
            let Some(op) = OPS.choose(rng) else { continue };
            if rng.random::<f64>() >= self.p {
                continue;
            }
            let magnitude = spread.sample(rng).clamp(0., MOST);
            let negative = rng.random::<bool>();
            let size = sample.image.size();
            let (image, affine) =
                op.apply(&sample.image, magnitude, negative, self.interpolation, &self.fill);
            match affine.and_then(|affine| affine.geometry(size)) {
                Some(geometry) => sample.moved(image, &geometry),
                None => sample.image = image,
            }
        }
        Ok(())
    }
}
