//! Random erasing (arXiv:1708.04896) as timm's mode `pixel`: after normalisation, one rectangle becomes normal noise.

use crate::config::Erase;
use crate::rng::Rng;
use rand::Rng as _;
use rand_distr::{Distribution, StandardNormal};

/// Tries to find a rectangle that fits.
const TRIES: usize = 10;

/// (top, left, height, width), or `None` when nothing is erased.
pub(super) fn draw(
    erase: &Erase,
    (height, width): (usize, usize),
    rng: &mut Rng,
) -> Option<(usize, usize, usize, usize)> {
    if rng.random::<f64>() >= erase.p {
        return None;
    }
    let log_ratio = erase.ratio.map(f64::ln);
    for _ in 0..TRIES {
        let area = (height * width) as f64 * rng.random_range(erase.area[0]..=erase.area[1]);
        let aspect = rng.random_range(log_ratio[0]..=log_ratio[1]).exp();
        let h = (area * aspect).sqrt().round_ties_even() as usize;
        let w = (area / aspect).sqrt().round_ties_even() as usize;
        if (1..height).contains(&h) && (1..width).contains(&w) {
            return Some((rng.random_range(0..=height - h), rng.random_range(0..=width - w), h, w));
        }
    }
    None
}

/// Fills the rectangle of `pixels` [C, H, W] with noise.
pub(super) fn fill(
    pixels: &mut [f32],
    (height, width): (usize, usize),
    (top, left, h, w): (usize, usize, usize, usize),
    rng: &mut Rng,
) {
    for plane in pixels.chunks_exact_mut(height * width) {
        for row in plane.chunks_exact_mut(width).skip(top).take(h) {
            row[left..left + w].iter_mut().for_each(|p| *p = StandardNormal.sample(rng));
        }
    }
}
