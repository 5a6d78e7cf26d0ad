//! Scales and crops of scenes whose every pixel has a label: mmsegmentation's `Resize` (keep ratio), `RandomCrop` and
//! `Pad`.
//!
//! Deviations: images are scaled by Pillow's bilinear filter, which averages when it shrinks, where mmsegmentation's
//! (OpenCV) picks neighbours; labels take the nearest pixel by its centre, where OpenCV takes it by its corner. Padding
//! is the mean colour in bytes, where mmsegmentation pads with 0 after normalising: within half a level the same.

use super::super::{Geometric, Geometry, Image, Sample, Size};
use super::Transform;
use super::resample::{Rect, resize};
use crate::config::Interpolation;
use crate::rng::Rng;
use rand::Rng as _;

/// Scales so that the image just fits into `short` × `long` pixels, whatever its orientation, times a random factor.
#[derive(Clone, Debug)]
pub(super) struct ResizeWithin {
    pub short: usize,
    pub long: usize,
    pub scale: [f64; 2],
    pub interpolation: Interpolation,
}

impl ResizeWithin {
    /// The size of an image of (`height`, `width`) pixels at a factor.
    pub(super) fn target(&self, (height, width): Size, factor: f64) -> Size {
        let side = |pixels: usize| (pixels as f64 * factor).trunc();
        let (low, high) = (height.min(width) as f64, height.max(width) as f64);
        let ratio = (side(self.long) / high).min(side(self.short) / low);
        let scaled = |pixels: usize| ((pixels as f64 * ratio + 0.5) as usize).max(1);
        (scaled(height), scaled(width))
    }
}

impl<T: Geometric> Transform<T> for ResizeWithin {
    fn apply(&self, sample: &mut Sample<T>, rng: &mut Rng) -> Result<(), String> {
        let [low, high] = self.scale;
        let factor = if low < high { rng.random_range(low..=high) } else { low };
        let from = sample.image.size();
        let to = self.target(from, factor);
        if to != from {
            let image = resize(&sample.image, Rect::whole(from), to, self.interpolation)?;
            let moved = Geometry::crop_resize(from, 0., 0., from.0 as f64, from.1 as f64, to);
            sample.moved(image, &moved);
        }
        Ok(())
    }
}

/// A crop of `size` at a random place. Where the image is smaller, all of it, padded at the right and at the bottom.
#[derive(Clone, Debug)]
pub(super) struct SceneCrop {
    pub size: Size,
    /// Draws again while a class covers this share of the labelled pixels, or more; 1 takes the first draw.
    pub class_share: f64,
    /// One byte a channel.
    pub fill: Vec<u8>,
}

/// Draws before the last one is taken as it is.
const TRIES: usize = 10;

impl SceneCrop {
    /// (top, left) of a crop.
    fn corner(&self, image: Size, rng: &mut Rng) -> (usize, usize) {
        let place = |have: usize, want: usize, rng: &mut Rng| rng.random_range(0..=have.saturating_sub(want));
        (place(image.0, self.size.0, rng), place(image.1, self.size.1, rng))
    }

    /// A crop that the classes share, where one is found.
    pub(super) fn draw<T: Geometric>(&self, image: Size, target: &T, rng: &mut Rng) -> (usize, usize) {
        let (height, width) = (self.size.0.min(image.0), self.size.1.min(image.1));
        let mut corner = self.corner(image, rng);
        if self.class_share < 1. {
            for _ in 0..TRIES {
                let share = target.largest_share([corner.0, corner.1, height, width]);
                if share.is_none_or(|share| share < self.class_share) {
                    break;
                }
                corner = self.corner(image, rng);
            }
        }
        corner
    }
}

impl<T: Geometric> Transform<T> for SceneCrop {
    fn apply(&self, sample: &mut Sample<T>, rng: &mut Rng) -> Result<(), String> {
        let from = sample.image.size();
        let (top, left) = self.draw(from, &sample.target, rng);
        let image = cut_filled(&sample.image, (top, left), self.size, &self.fill);
        let (h, w) = self.size;
        let moved = Geometry::crop_resize(from, top as f64, left as f64, h as f64, w as f64, self.size);
        sample.moved(image, &moved);
        Ok(())
    }
}

/// Cuts `height` × `width` pixels from (`top`, `left`) on; `fill` where the image has ended.
fn cut_filled(image: &Image, (top, left): Size, (height, width): Size, fill: &[u8]) -> Image {
    let c = image.channels;
    let mut data: Vec<u8> = fill.iter().copied().cycle().take(height * width * c).collect();
    let there = (image.width - left).min(width) * c;
    for (y, row) in data.chunks_exact_mut(width * c).take(image.height - top).enumerate() {
        let start = ((top + y) * image.width + left) * c;
        row[..there].copy_from_slice(&image.data[start..start + there]);
    }
    Image::new(height, width, c, data)
}
