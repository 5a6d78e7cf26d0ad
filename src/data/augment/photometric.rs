//! mmsegmentation's `PhotoMetricDistortion`: brightness, contrast, saturation and hue, each with probability ½, in
//! 8 bits after each step; contrast comes second or last.
//!
//! Colours go through OpenCV's 8-bit HSV (H 0–179, S and V 0–255), computed in floating point and rounded: within a
//! level of OpenCV's tables. Grey images keep their saturation and hue.

use super::super::{Geometric, Image, Sample};
use super::Transform;
use crate::rng::Rng;
use rand::Rng as _;

/// Ranges of the four adjustments.
#[derive(Clone, Debug)]
pub(super) struct Photometric {
    /// Levels added or taken away, at most.
    pub brightness: f64,
    /// Factors.
    pub contrast: [f64; 2],
    pub saturation: [f64; 2],
    /// Steps of 2°, at most.
    pub hue: i32,
}

/// One adjustment with its number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Adjustment {
    /// x·factor + shift of every value.
    Levels { factor: f32, shift: f32 },
    Saturation(f32),
    Hue(i32),
}

impl Photometric {
    /// The adjustments of one image, in order.
    pub(super) fn draw(&self, rng: &mut Rng) -> Vec<Adjustment> {
        let mut adjustments = vec![];
        if rng.random::<bool>() {
            let shift = rng.random_range(-self.brightness..=self.brightness) as f32;
            adjustments.push(Adjustment::Levels { factor: 1., shift });
        }
        let contrast_first = rng.random::<bool>();
        let contrast = |rng: &mut Rng| {
            let factor = rng.random_range(self.contrast[0]..=self.contrast[1]) as f32;
            rng.random::<bool>().then_some(Adjustment::Levels { factor, shift: 0. })
        };
        if contrast_first {
            adjustments.extend(contrast(rng));
        }
        if rng.random::<bool>() {
            let factor = rng.random_range(self.saturation[0]..=self.saturation[1]) as f32;
            adjustments.push(Adjustment::Saturation(factor));
        }
        if rng.random::<bool>() {
            // The upper end is open, as in NumPy's `randint`.
            adjustments.push(Adjustment::Hue(rng.random_range(-self.hue..self.hue.max(1 - self.hue))));
        }
        if !contrast_first {
            adjustments.extend(contrast(rng));
        }
        adjustments
    }
}

impl<T: Geometric> Transform<T> for Photometric {
    fn apply(&self, sample: &mut Sample<T>, rng: &mut Rng) -> Result<(), String> {
        self.draw(rng).into_iter().for_each(|adjustment| adjustment.apply(&mut sample.image));
        Ok(())
    }
}

impl Adjustment {
    pub(super) fn apply(self, image: &mut Image) {
        match self {
            Self::Levels { factor, shift } => {
                // The cast saturates and drops the fraction, as the clip and cast of the reference.
                let table: [u8; 256] = std::array::from_fn(|v| (v as f32 * factor + shift) as u8);
                image.data.iter_mut().for_each(|byte| *byte = table[usize::from(*byte)]);
            }
            Self::Saturation(factor) => {
                recolour(image, |[h, s, v]| [h, f32::from((f32::from(s as u8) * factor) as u8), v]);
            }
            Self::Hue(steps) => {
                recolour(image, |[h, s, v]| [(h as i32 + steps).rem_euclid(180) as f32, s, v]);
            }
        }
    }
}

/// Changes the whole numbers H, S, V of every pixel.
fn recolour(image: &mut Image, change: impl Fn([f32; 3]) -> [f32; 3]) {
    if image.channels != 3 {
        return;
    }
    for rgb in image.data.chunks_exact_mut(3) {
        rgb.copy_from_slice(&from_hsv(change(hsv([rgb[0], rgb[1], rgb[2]]))));
    }
}

/// OpenCV's `COLOR_RGB2HSV` of bytes: whole numbers, H in 0..180.
pub(super) fn hsv(rgb: [u8; 3]) -> [f32; 3] {
    let [r, g, b] = rgb.map(f32::from);
    let (most, least) = (r.max(g).max(b), r.min(g).min(b));
    let range = most - least;
    if range == 0. {
        return [0., 0., most];
    }
    let sector = if most == r {
        (g - b) / range
    } else if most == g {
        2. + (b - r) / range
    } else {
        4. + (r - g) / range
    };
    let hue = (sector * 30.).round().rem_euclid(180.);
    [hue, (range * 255. / most).round(), most]
}

/// OpenCV's `COLOR_HSV2RGB` of whole numbers.
pub(super) fn from_hsv([h, s, v]: [f32; 3]) -> [u8; 3] {
    let (sector, s) = (h / 30., s / 255.);
    let whole = sector.floor();
    let f = sector - whole;
    let [p, q, t] = [1. - s, 1. - s * f, 1. - s * (1. - f)].map(|share| v * share);
    let rgb = match whole as u8 % 6 {
        0 => [v, t, p],
        1 => [q, v, p],
        2 => [p, v, t],
        3 => [p, q, v],
        4 => [t, p, v],
        _ => [v, p, q],
    };
    rgb.map(|x| x.round() as u8)
}
