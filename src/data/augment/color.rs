//! torchvision's `ColorJitter` on PIL images: brightness, contrast, saturation and hue in random order.
//!
//! Saturation and hue leave grey images unchanged, as in torchvision.

use super::super::Image;
use super::error::{AugmentError, expect};
use super::input::ModelInput;
use super::point;
use super::transform::{Augmentation, SampleMut, Transform};
use crate::rng::Rng;
use rand::{Rng as _, seq::SliceRandom};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// torchvision `ColorJitter`: factors in [1−x, 1+x] (hue: ±x of a turn), in random order; 0 switches one off.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ColorJitter {
    /// Factors lie in [max(0, 1 − x), 1 + x].
    pub brightness: f64,
    pub contrast: f64,
    pub saturation: f64,
    /// Turns lie in [−x, x], at most ½.
    pub hue: f64,
}

/// One adjustment with its factor (hue: the part of a turn).
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Adjustment {
    Brightness(f64),
    Contrast(f64),
    Saturation(f64),
    Hue(f64),
}

impl Adjustment {
    pub fn apply(self, image: &mut Image) {
        match self {
            Self::Brightness(factor) => point::brightness(image, factor),
            Self::Contrast(factor) => point::contrast(image, factor),
            Self::Saturation(factor) => point::saturation(image, factor),
            Self::Hue(turn) => point::hue(image, turn),
        }
    }
}

impl Augmentation for ColorJitter {
    const OP: &'static str = "color_jitter";
    const RANDOM: bool = true;
    type Options = Self;

    fn new(options: Self, _: &ModelInput) -> Result<Self, AugmentError> {
        for (what, x) in [
            ("color_jitter: brightness", options.brightness),
            ("color_jitter: contrast", options.contrast),
            ("color_jitter: saturation", options.saturation),
        ] {
            expect(x >= 0. && x.is_finite(), what, x, "0 or more")?;
        }
        expect((0. ..=0.5).contains(&options.hue), "color_jitter: hue", options.hue, "0 to 0.5")?;
        Ok(options)
    }
}

impl ColorJitter {
    /// The adjustments of one image, in the order in which they are applied.
    pub(super) fn draw(&self, rng: &mut Rng) -> Vec<Adjustment> {
        let mut adjustments = Vec::with_capacity(4);
        let mut factor = |range: f64| rng.random_range((1. - range).max(0.)..=1. + range);
        if self.brightness > 0. {
            adjustments.push(Adjustment::Brightness(factor(self.brightness)));
        }
        if self.contrast > 0. {
            adjustments.push(Adjustment::Contrast(factor(self.contrast)));
        }
        if self.saturation > 0. {
            adjustments.push(Adjustment::Saturation(factor(self.saturation)));
        }
        if self.hue > 0. {
            adjustments.push(Adjustment::Hue(rng.random_range(-self.hue..=self.hue)));
        }
        adjustments.shuffle(rng);
        adjustments
    }
}

impl Transform for ColorJitter {
    fn apply(&self, sample: &mut SampleMut, rng: &mut Rng) -> Result<(), String> {
        self.draw(rng).into_iter().for_each(|adjustment| adjustment.apply(sample.image));
        Ok(())
    }
}
