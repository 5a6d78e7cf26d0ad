//! Random crops and flips: torchvision's `RandomResizedCrop` and the BYOL-style variant of MAE's linear probe
//! (`util/crop.py`), `RandomCrop`, mirror.

use super::super::{Geometric, Geometry, Image, Sample, Size};
use super::Transform;
use super::resize::{Rect, cut, resize};
use crate::config::Interpolation;
use crate::rng::Rng;
use rand::Rng as _;

/// A crop of random area and aspect, scaled to `size`.
pub(super) struct RandomResizedCrop {
    pub size: Size,
    pub scale: [f64; 2],
    pub ratio: [f64; 2],
    pub interpolation: Interpolation,
    pub single_draw: bool,
}

/// Tries before the central fallback.
const TRIES: usize = 10;

impl RandomResizedCrop {
    /// (top, left, height, width) in whole pixels.
    pub(super) fn draw(&self, (height, width): Size, rng: &mut Rng) -> (usize, usize, usize, usize) {
        let area = (height * width) as f64;
        let log_ratio = self.ratio.map(f64::ln);
        let tries = if self.single_draw { 1 } else { TRIES };
        for _ in 0..tries {
            let target = area * rng.random_range(self.scale[0]..=self.scale[1]);
            let aspect = rng.random_range(log_ratio[0]..=log_ratio[1]).exp();
            let mut w = (target * aspect).sqrt().round_ties_even() as usize;
            let mut h = (target / aspect).sqrt().round_ties_even() as usize;
            if self.single_draw {
                (w, h) = (w.min(width), h.min(height));
            }
            if (1..=width).contains(&w) && (1..=height).contains(&h) {
                let top = rng.random_range(0..=height - h);
                let left = rng.random_range(0..=width - w);
                return (top, left, h, w);
            }
        }
        self.central((height, width))
    }

    /// The largest central crop whose aspect is allowed.
    fn central(&self, (height, width): Size) -> (usize, usize, usize, usize) {
        let aspect = width as f64 / height as f64;
        let (h, w) = if aspect < self.ratio[0] {
            ((width as f64 / self.ratio[0]).round_ties_even() as usize, width)
        } else if aspect > self.ratio[1] {
            (height, (height as f64 * self.ratio[1]).round_ties_even() as usize)
        } else {
            (height, width)
        };
        ((height - h) / 2, (width - w) / 2, h, w)
    }
}

impl<T: Geometric> Transform<T> for RandomResizedCrop {
    fn apply(&self, sample: &mut Sample<T>, rng: &mut Rng) -> Result<(), String> {
        let from = sample.image.size();
        let (top, left, height, width) = self.draw(from, rng);
        let [top, left, height, width] = [top, left, height, width].map(|v| v as f64);
        let image = resize(&sample.image, Rect { top, left, height, width }, self.size, self.interpolation)?;
        sample.moved(image, &Geometry::crop_resize(from, top, left, height, width, self.size));
        Ok(())
    }
}

/// A crop of `size` at a random place, after padding every side.
pub(super) struct RandomCrop {
    pub size: Size,
    pub padding: usize,
    /// Pads with the mirrored image instead of zeros.
    pub reflect: bool,
}

impl<T: Geometric> Transform<T> for RandomCrop {
    fn apply(&self, sample: &mut Sample<T>, rng: &mut Rng) -> Result<(), String> {
        let from = sample.image.size();
        let (h, w) = self.size;
        let room = |have: usize, want: usize| (have + 2 * self.padding).checked_sub(want);
        let (Some(down), Some(right)) = (room(from.0, h), room(from.1, w)) else {
            return Err(format!(
                "random_crop of {h}×{w} from {}×{}, padding {}",
                from.0, from.1, self.padding
            ));
        };
        if self.reflect && self.padding >= from.0.min(from.1) {
            return Err(format!(
                "random_crop: padding {} reflects beyond {}×{}",
                self.padding, from.0, from.1
            ));
        }
        let top = rng.random_range(0..=down) as isize - self.padding as isize;
        let left = rng.random_range(0..=right) as isize - self.padding as isize;
        let image = match self.reflect {
            false => cut(&sample.image, top, left, self.size),
            true => cut_reflected(&sample.image, top, left, self.size),
        };
        let moved = Geometry::crop_resize(from, top as f64, left as f64, h as f64, w as f64, self.size);
        sample.moved(image, &moved);
        Ok(())
    }
}

/// Mirrors at the border without repeating the border pixel (NumPy `reflect`).
fn cut_reflected(image: &Image, top: isize, left: isize, (height, width): Size) -> Image {
    let mirror = |i: isize, n: usize| {
        let last = n as isize - 1;
        (if i < 0 {
            -i
        } else if i > last {
            2 * last - i
        } else {
            i
        }) as usize
    };
    let c = image.channels;
    let mut data = Vec::with_capacity(height * width * c);
    for y in 0..height as isize {
        let row = mirror(y + top, image.height) * image.width;
        for x in 0..width as isize {
            let at = (row + mirror(x + left, image.width)) * c;
            data.extend_from_slice(&image.data[at..at + c]);
        }
    }
    Image::new(height, width, c, data)
}

/// Left-right mirror with probability `p`.
pub(super) struct Flip {
    pub p: f64,
}

impl<T: Geometric> Transform<T> for Flip {
    fn apply(&self, sample: &mut Sample<T>, rng: &mut Rng) -> Result<(), String> {
        if rng.random::<f64>() < self.p {
            let size = sample.image.size();
            sample.moved(mirrored(&sample.image), &Geometry::flip(size));
        }
        Ok(())
    }
}

pub(super) fn mirrored(image: &Image) -> Image {
    let c = image.channels;
    let mut data = Vec::with_capacity(image.data.len());
    for row in image.data.chunks_exact(image.width * c) {
        row.chunks_exact(c).rev().for_each(|pixel| data.extend_from_slice(pixel));
    }
    Image::new(image.height, image.width, c, data)
}
