//! torchvision's `ColorJitter` on PIL images.

use super::super::{Image, Sample};
use super::{Transform, pil};
use crate::rng::Rng;
use rand::Rng as _;
use rand::seq::SliceRandom;

/// Factors in [max(0, 1 − x), 1 + x]; hue in [−x, x] turns.
pub(super) struct ColorJitter {
    pub brightness: f64,
    pub contrast: f64,
    pub saturation: f64,
    pub hue: f64,
}

/// One adjustment.
#[derive(Clone, Copy)]
enum Adjust {
    Brightness,
    Contrast,
    Saturation,
    Hue,
}

impl ColorJitter {
    fn adjust(&self, adjust: Adjust, image: &Image, rng: &mut Rng) -> Image {
        let mut factor = |x: f64| rng.random_range((1. - x).max(0.)..=1. + x);
        match adjust {
            Adjust::Brightness if self.brightness > 0. => pil::brightness(image, factor(self.brightness)),
            Adjust::Contrast if self.contrast > 0. => pil::contrast(image, factor(self.contrast)),
            Adjust::Saturation if self.saturation > 0. => pil::saturation(image, factor(self.saturation)),
            Adjust::Hue if self.hue > 0. => pil::hue(image, rng.random_range(-self.hue..=self.hue)),
            _ => image.clone(),
        }
    }
}

impl<T> Transform<T> for ColorJitter {
    fn apply(&self, sample: &mut Sample<T>, rng: &mut Rng) -> Result<(), String> {
        let mut order = [Adjust::Brightness, Adjust::Contrast, Adjust::Saturation, Adjust::Hue];
        order.shuffle(rng);
        for adjust in order {
            sample.image = self.adjust(adjust, &sample.image, rng);
        }
        Ok(())
    }
}
