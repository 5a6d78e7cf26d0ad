//! mmsegmentation's `PhotoMetricDistortion`: brightness, contrast, saturation and hue, each with probability ½, in
//! 8 bits after each step; contrast comes second or last.
//!
//! Colours go through OpenCV's 8-bit HSV (H 0–179, S and V 0–255), with the bytes of its vector instructions; in the last
//! pixels of a row, fewer than fill a vector, OpenCV rounds up to one level higher. Grey images keep their saturation and hue.

use super::super::Image;
use super::error::{AugmentError, range};
use super::input::ModelInput;
use super::transform::{Augmentation, SampleMut, Transform};
use crate::rng::Rng;
use rand::Rng as _;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// mmsegmentation's `PhotoMetricDistortion`: each adjustment with probability ½. `brightness` is in levels of 255,
/// `hue` in steps of 2°, both up or down; the others are ranges of factors.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Photometric {
    /// Largest change of brightness, in levels up or down.
    #[serde(default = "levels")]
    pub brightness: f64,
    /// Lowest and highest factor.
    #[serde(default = "factors")]
    pub contrast: [f64; 2],
    /// Lowest and highest factor.
    #[serde(default = "factors")]
    pub saturation: [f64; 2],
    /// Largest change of hue, in steps of 2°.
    #[serde(default = "turn")]
    pub hue: i32,
}

fn levels() -> f64 {
    32.
}
fn factors() -> [f64; 2] {
    [0.5, 1.5]
}
fn turn() -> i32 {
    18
}

/// One adjustment with its number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Adjustment {
    /// Replaces every value x by x·factor + shift.
    Levels {
        factor: f32,
        shift: f32,
    },
    Saturation(f32),
    Hue(i32),
}

impl Augmentation for Photometric {
    const OP: &'static str = "photometric";
    const RANDOM: bool = true;
    type Options = Self;

    fn new(options: Self, _: &ModelInput) -> Result<Self, AugmentError> {
        range("photometric: contrast", options.contrast)?;
        range("photometric: saturation", options.saturation)?;
        let Self { brightness, hue, .. } = options;
        match (0. ..=255.).contains(&brightness) && (0..=90).contains(&hue) {
            true => Ok(options),
            false => Err(AugmentError::Photometric { brightness, hue }),
        }
    }
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

impl Transform for Photometric {
    fn apply(&self, sample: &mut SampleMut, rng: &mut Rng) -> Result<(), String> {
        self.draw(rng).into_iter().for_each(|adjustment| adjustment.apply(sample.image));
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

/// `unit` / v for every byte v in fixed point, with 12 bits after the point: OpenCV's tables for H and S.
const fn reciprocals(unit: i32) -> [i32; 256] {
    let mut table = [0; 256];
    let mut v = 1;
    while v < 256 {
        let (numerator, divisor) = (unit << 12, v as i32);
        table[v] = (2 * numerator + divisor) / (2 * divisor); // rounded; there are no ties
        v += 1;
    }
    table
}

static SATURATION: [i32; 256] = reciprocals(255);
static HUE: [i32; 256] = reciprocals(30);

/// OpenCV's `COLOR_RGB2HSV` of bytes: whole numbers, H in 0..180.
pub(super) fn hsv(rgb: [u8; 3]) -> [f32; 3] {
    let [r, g, b] = rgb.map(i32::from);
    let most = r.max(g).max(b);
    let range = most - r.min(g).min(b);
    let scaled = |x: i32, table: &[i32; 256], v: i32| (x * table[v as usize] + (1 << 11)) >> 12;
    let sector = if most == r {
        g - b
    } else if most == g {
        b - r + 2 * range
    } else {
        r - g + 4 * range
    };
    let hue = scaled(sector, &HUE, range);
    let hue = if hue < 0 { hue + 180 } else { hue };
    [hue, scaled(range, &SATURATION, most), most].map(|x| x as f32)
}

/// OpenCV's `COLOR_HSV2RGB` of whole numbers. Its vector instructions drop the fraction, and so does this function; pixels at
/// the end of a row that do not fill a vector are rounded there.
pub(super) fn from_hsv([h, s, v]: [f32; 3]) -> [u8; 3] {
    let (sector, s, v) = (h * (6. / 180.), s * (1. / 255.), v * (1. / 255.));
    let whole = sector.floor();
    let f = sector - whole;
    // 1 − s·x with one rounding.
    let without = |x: f32| (1. - f64::from(s) * f64::from(x)) as f32;
    let [p, q, t] = [without(1.), without(f), without(1. - f)].map(|share| v * share);
    let rgb = match whole as u8 % 6 {
        0 => [v, t, p],
        1 => [q, v, p],
        2 => [p, v, t],
        3 => [p, q, v],
        4 => [t, p, v],
        _ => [v, p, q],
    };
    rgb.map(|x| (x * 255.) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Tensor};

    const DRAWS: u64 = 4000;

    fn photometric() -> Photometric {
        Photometric { brightness: 32., contrast: [0.5, 1.5], saturation: [0.5, 1.5], hue: 18 }
    }

    /// OpenCV and NumPy (`scripts/golden/segmentation.py`). Images of the golden file are 50 pixels wide, of which the vector
    /// instructions that it was made with took the first 32.
    #[test]
    fn colours_are_those_of_opencv() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/segmentation.safetensors");
        let golden = candle_core::safetensors::load(path, &Device::Cpu).unwrap();
        let bytes = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<u8>().unwrap();
        let rgb = bytes(&golden["photo.rgb"]);
        let by_pixel = |found: &[u8], name: &str| {
            let expected = bytes(&golden[name]);
            assert_eq!(found.len(), expected.len());
            for (place, (found, expected)) in found.chunks_exact(3).zip(expected.chunks_exact(3)).enumerate()
            {
                let rounded_up =
                    found.iter().zip(expected).all(|(f, e)| [0, 1].contains(&e.wrapping_sub(*f)));
                assert!(
                    found == expected || (place % 50 >= 32 && rounded_up),
                    "{name}, {place}: {found:?} {expected:?}"
                );
            }
        };
        let of_rgb: Vec<u8> =
            rgb.chunks_exact(3).flat_map(|rgb| hsv([rgb[0], rgb[1], rgb[2]]).map(|x| x as u8)).collect();
        assert_eq!(of_rgb, bytes(&golden["photo.hsv"]));
        let back: Vec<u8> = of_rgb
            .chunks_exact(3)
            .flat_map(|hsv| from_hsv([hsv[0], hsv[1], hsv[2]].map(f32::from)))
            .collect();
        by_pixel(&back, "photo.back");
        for (adjustment, name) in [
            (Adjustment::Hue(13), "photo.hue"),
            (Adjustment::Saturation(1.3), "photo.saturation"),
            (Adjustment::Levels { factor: 1.2, shift: -9.5 }, "photo.levels"),
        ] {
            let mut image = Image::new(40, 50, 3, rgb.clone());
            adjustment.apply(&mut image);
            by_pixel(&image.data, name);
        }
    }

    #[test]
    fn adjustments_come_in_the_order_of_the_reference_half_of_the_time() {
        let (mut counts, mut first, mut last) = ([0u64; 4], 0u64, 0u64);
        let (mut hues, mut factors, mut shifts) = (vec![], vec![], vec![]);
        for k in 0..DRAWS {
            let drawn = photometric().draw(&mut Rng::new(1, "augment", &[k]));
            let place = |test: fn(&Adjustment) -> bool| drawn.iter().position(test);
            let brightness = place(|a| matches!(a, Adjustment::Levels { factor, .. } if *factor == 1.));
            let contrast = place(|a| matches!(a, Adjustment::Levels { shift, .. } if *shift == 0.));
            let saturation = place(|a| matches!(a, Adjustment::Saturation(_)));
            let hue = place(|a| matches!(a, Adjustment::Hue(_)));
            for (count, found) in counts.iter_mut().zip([brightness, contrast, saturation, hue]) {
                *count += u64::from(found.is_some());
            }
            assert!(brightness.is_none_or(|place| place == 0));
            if let (Some(saturation), Some(hue)) = (saturation, hue) {
                assert!(saturation < hue);
            }
            if let (Some(contrast), Some(hue)) = (contrast, hue) {
                *(if contrast < hue { &mut first } else { &mut last }) += 1;
            }
            for adjustment in drawn {
                match adjustment {
                    Adjustment::Levels { factor, shift } => {
                        factors.push(factor);
                        shifts.push(shift);
                    }
                    Adjustment::Saturation(factor) => factors.push(factor),
                    Adjustment::Hue(steps) => hues.push(steps),
                }
            }
        }
        // The whole ranges are drawn, and nothing beyond them.
        assert_eq!((hues.iter().min(), hues.iter().max()), (Some(&-18), Some(&17)));
        let ends = |values: &[f32]| {
            (values.iter().copied().fold(f32::MAX, f32::min), values.iter().copied().fold(f32::MIN, f32::max))
        };
        for ((low, high), least, most) in [(ends(&factors), 0.5, 1.5), (ends(&shifts), -32., 32.)] {
            let near = (most - least) / 100.;
            assert!(
                (least..least + near).contains(&low) && (most - near..=most).contains(&high),
                "{low} {high}"
            );
        }
        let half = DRAWS / 2;
        assert!(counts.iter().all(|count| count.abs_diff(half) < 150), "{counts:?}");
        assert!(first.abs_diff(last) < 150, "contrast before the colours {first} times, after them {last}");
    }

    #[test]
    fn grey_images_keep_their_colours_and_an_absent_hue_turns_nothing() {
        let mut image = Image::new(1, 2, 1, vec![10, 200]);
        Adjustment::Hue(7).apply(&mut image);
        Adjustment::Saturation(0.5).apply(&mut image);
        assert_eq!(image.data, [10, 200]);
        let still = Photometric { hue: 0, ..photometric() };
        for k in 0..100 {
            for adjustment in still.draw(&mut Rng::new(2, "augment", &[k])) {
                assert!(!matches!(adjustment, Adjustment::Hue(steps) if steps != 0));
            }
        }
    }
}
