//! Random erasing (arXiv:1708.04896) as timm's mode `pixel`: after normalisation, one rectangle becomes normal noise.

use super::super::Size;
use super::error::{AugmentError, probability, range};
use super::resample::Rect;
use crate::config::Erase;
use crate::rng::Rng;
use rand::Rng as _;
use rand_distr::{Distribution, StandardNormal};

/// Number of draws before nothing is erased.
const TRIES: usize = 10;

pub(super) fn check(erase: &Erase) -> Result<(), AugmentError> {
    probability("erase: p", erase.p)?;
    range("erase: area", erase.area)?;
    range("erase: ratio", erase.ratio)
}

/// Draws the rectangle to erase from an image of size `image`, if any.
pub(super) fn draw(erase: &Erase, image: Size, rng: &mut Rng) -> Option<Rect> {
    if rng.random::<f64>() >= erase.p {
        return None;
    }
    let log_ratio = erase.ratio.map(f64::ln);
    for _ in 0..TRIES {
        let part = rng.random_range(erase.area[0]..=erase.area[1]);
        let aspect = rng.random_range(log_ratio[0]..=log_ratio[1]).exp();
        if let Some((height, width)) = shape(image, part, aspect) {
            let top = rng.random_range(0..=image.0 - height);
            let left = rng.random_range(0..=image.1 - width);
            return Some(Rect { top, left, height, width });
        }
    }
    None
}

/// The rectangle that covers `part` of the image's area at `aspect` = height / width; `None` if it covers the whole
/// height or width.
pub(super) fn shape((height, width): Size, part: f64, aspect: f64) -> Option<Size> {
    let area = (height * width) as f64 * part;
    let h = (area * aspect).sqrt().round_ties_even() as usize;
    let w = (area / aspect).sqrt().round_ties_even() as usize;
    (h < height && w < width).then_some((h, w))
}

/// Fills `rect` of `pixels` [C, height, width] with noise.
pub(super) fn fill(pixels: &mut [f32], (height, width): Size, rect: Rect, rng: &mut Rng) {
    for plane in pixels.chunks_exact_mut(height * width) {
        for row in plane.chunks_exact_mut(width).skip(rect.top).take(rect.height) {
            row[rect.left..rect.left + rect.width].iter_mut().for_each(|p| *p = StandardNormal.sample(rng));
        }
    }
}
