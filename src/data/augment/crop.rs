//! Random crops and flips: torchvision's `RandomResizedCrop` and the BYOL-style variant of MAE's linear probe
//! (`util/crop.py`), `RandomCrop`, mirror.

use super::super::{Geometry, Image, Size};
use super::error::{AugmentError, probability, range};
use super::input::ModelInput;
use super::resample::{Rect, resize};
use super::resize::cut;
use super::transform::{Augmentation, SampleMut, Transform};
use crate::config::{Interpolation, SquareOrSize, optional_size};
use crate::rng::Rng;
use rand::Rng as _;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// torchvision `RandomResizedCrop`; with `single_draw`, the BYOL-style variant of MAE's linear probe (one draw, clamped
/// to the image: `util/crop.py`).
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RandomResizedCropOptions {
    /// [height, width] of the result; that of the model's input when absent.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "optional_size")]
    #[schemars(with = "Option<SquareOrSize>")]
    size: Option<[usize; 2]>,
    /// Area of the crop relative to the image.
    scale: [f64; 2],
    /// Width / height of the crop, log-uniform.
    #[serde(default = "ratio")]
    ratio: [f64; 2],
    #[serde(default)]
    interpolation: Interpolation,
    #[serde(default)]
    single_draw: bool,
}

fn ratio() -> [f64; 2] {
    [3. / 4., 4. / 3.]
}

/// A crop of random area and aspect, scaled to `size`.
#[derive(Clone, Debug)]
pub(super) struct RandomResizedCrop {
    pub size: Size,
    /// Area relative to the image.
    pub scale: [f64; 2],
    /// Width / height, log-uniform.
    pub ratio: [f64; 2],
    pub interpolation: Interpolation,
    /// Clamps the first draw to the image instead of drawing again.
    pub single_draw: bool,
}

/// Number of draws before the central crop is used.
const TRIES: usize = 10;

impl Augmentation for RandomResizedCrop {
    const OP: &'static str = "random_resized_crop";
    const RANDOM: bool = true;
    type Options = RandomResizedCropOptions;

    fn new(options: Self::Options, input: &ModelInput) -> Result<Self, AugmentError> {
        let RandomResizedCropOptions { size, scale, ratio, interpolation, single_draw } = options;
        let size = input.or_size(size)?;
        range("random_resized_crop: scale", scale)?;
        range("random_resized_crop: ratio", ratio)?;
        Ok(Self { size, scale, ratio, interpolation, single_draw })
    }
}

impl RandomResizedCrop {
    pub(super) fn draw(&self, image: Size, rng: &mut Rng) -> Rect {
        let log_ratio = self.ratio.map(f64::ln);
        for _ in 0..TRIES {
            let part = rng.random_range(self.scale[0]..=self.scale[1]);
            let aspect = rng.random_range(log_ratio[0]..=log_ratio[1]).exp();
            if let Some((height, width)) = self.shape(image, part, aspect) {
                let top = rng.random_range(0..=image.0 - height);
                let left = rng.random_range(0..=image.1 - width);
                return Rect { top, left, height, width };
            }
        }
        self.central(image)
    }

    /// The crop that covers `part` of the image's area at `aspect` = width / height; `None` when it does not fit.
    pub(super) fn shape(&self, (height, width): Size, part: f64, aspect: f64) -> Option<Size> {
        let area = (height * width) as f64 * part;
        let w = (area * aspect).sqrt().round_ties_even() as usize;
        let h = (area / aspect).sqrt().round_ties_even() as usize;
        if self.single_draw {
            return Some((h.clamp(1, height), w.clamp(1, width)));
        }
        ((1..=height).contains(&h) && (1..=width).contains(&w)).then_some((h, w))
    }

    /// The largest central crop whose aspect is allowed.
    pub(super) fn central(&self, (height, width): Size) -> Rect {
        let aspect = width as f64 / height as f64;
        let (h, w) = if aspect < self.ratio[0] {
            ((width as f64 / self.ratio[0]).round_ties_even() as usize, width)
        } else if aspect > self.ratio[1] {
            (height, (height as f64 * self.ratio[1]).round_ties_even() as usize)
        } else {
            (height, width)
        };
        // An image of one row or column can round to nothing.
        let (h, w) = (h.clamp(1, height), w.clamp(1, width));
        Rect { top: (height - h) / 2, left: (width - w) / 2, height: h, width: w }
    }
}

impl Transform for RandomResizedCrop {
    fn apply(&self, sample: &mut SampleMut, rng: &mut Rng) -> Result<(), String> {
        let from = sample.image.size();
        let rect = self.draw(from, rng);
        let image = resize(sample.image, rect, self.size, self.interpolation)?;
        let [top, left, height, width] = [rect.top, rect.left, rect.height, rect.width].map(|v| v as f64);
        sample.moved(image, &Geometry::crop_resize(from, top, left, height, width, self.size));
        Ok(())
    }
}

/// A crop of the target size at a random place, after padding with zeros or reflection.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RandomCropOptions {
    /// [height, width] of the result; that of the model's input when absent.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "optional_size")]
    #[schemars(with = "Option<SquareOrSize>")]
    size: Option<[usize; 2]>,
    /// Pixels added on every side.
    #[serde(default)]
    padding: usize,
    /// Pads with the mirrored image instead of zeros.
    #[serde(default)]
    reflect: bool,
}

/// A crop of `size` at a random place, after padding every side.
#[derive(Clone, Debug)]
pub(super) struct RandomCrop {
    pub size: Size,
    pub padding: usize,
    /// Pads with the mirrored image instead of zeros.
    pub reflect: bool,
}

impl Augmentation for RandomCrop {
    const OP: &'static str = "random_crop";
    const RANDOM: bool = true;
    type Options = RandomCropOptions;

    fn new(options: Self::Options, input: &ModelInput) -> Result<Self, AugmentError> {
        let RandomCropOptions { size, padding, reflect } = options;
        Ok(Self { size: input.or_size(size)?, padding, reflect })
    }
}

impl Transform for RandomCrop {
    fn apply(&self, sample: &mut SampleMut, rng: &mut Rng) -> Result<(), String> {
        let from = sample.image.size();
        let (h, w) = self.size;
        let room = |have: usize, want: usize| (have + 2 * self.padding).checked_sub(want);
        let (Some(down), Some(right)) = (room(from.0, h), room(from.1, w)) else {
            return Err(format!(
                "random_crop takes {h}x{w} pixels, but the image has {}x{} with a padding of {}",
                from.0, from.1, self.padding
            ));
        };
        if self.reflect && self.padding >= from.0.min(from.1) {
            return Err(format!(
                "random_crop reflects {} pixels, but the image has only {}x{}",
                self.padding, from.0, from.1
            ));
        }
        let top = rng.random_range(0..=down) as isize - self.padding as isize;
        let left = rng.random_range(0..=right) as isize - self.padding as isize;
        let image = match self.reflect {
            false => cut(sample.image, top, left, self.size),
            true => cut_reflected(sample.image, top, left, self.size),
        };
        let moved = Geometry::crop_resize(from, top as f64, left as f64, h as f64, w as f64, self.size);
        sample.moved(image, &moved);
        Ok(())
    }
}

/// Mirrors at the border without repeating the border pixel (NumPy `reflect`).
pub(super) fn cut_reflected(image: &Image, top: isize, left: isize, (height, width): Size) -> Image {
    let mirror = |i: isize, n: usize| {
        let last = n as isize - 1;
        (last - (last - i.abs()).abs()) as usize
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
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Flip {
    pub p: f64,
}

impl Augmentation for Flip {
    const OP: &'static str = "flip";
    const RANDOM: bool = true;
    type Options = Self;

    fn new(options: Self, _: &ModelInput) -> Result<Self, AugmentError> {
        probability("flip: p", options.p)?;
        Ok(options)
    }
}

impl Transform for Flip {
    fn apply(&self, sample: &mut SampleMut, rng: &mut Rng) -> Result<(), String> {
        if rng.random::<f64>() < self.p {
            let image = mirrored(sample.image);
            sample.moved(image, &Geometry::flip(sample.image.size()));
        }
        Ok(())
    }
}

pub(super) fn mirrored(image: &Image) -> Image {
    let mut mirrored = image.clone();
    for row in mirrored.data.chunks_exact_mut(image.width * image.channels) {
        match image.channels {
            1 => row.reverse(),
            3 => row.as_chunks_mut::<3>().0.reverse(),
            c => {
                row.reverse();
                row.chunks_exact_mut(c).for_each(<[u8]>::reverse);
            }
        }
    }
    mirrored
}
