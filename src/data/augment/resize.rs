//! Resampling as Pillow does it (antialiased when shrinking), and the resize and centre-crop rules of torchvision on
//! PIL images.

use super::super::{Geometric, Geometry, Image, Sample, Size};
use super::Transform;
use crate::config::Interpolation;
use crate::rng::Rng;
use fast_image_resize::images::{Image as Canvas, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};

/// A rectangle in pixels; may lie between pixels and reach outside where the caller fills.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Rect {
    pub top: f64,
    pub left: f64,
    pub height: f64,
    pub width: f64,
}

impl Rect {
    pub fn whole((height, width): Size) -> Self {
        Self { top: 0., left: 0., height: height as f64, width: width as f64 }
    }
}

/// Scales the part `rect` of `image` (inside of it) to `to` = (height, width).
pub(super) fn resize(
    image: &Image,
    rect: Rect,
    to: Size,
    interpolation: Interpolation,
) -> Result<Image, String> {
    let fail = |e: &dyn std::fmt::Display| format!("resize from {:?} to {to:?}: {e}", image.size());
    let pixel = match image.channels {
        1 => PixelType::U8,
        3 => PixelType::U8x3,
        n => return Err(fail(&format!("{n} channels"))),
    };
    let whole = rect == Rect::whole(image.size());
    if whole && to == image.size() {
        return Ok(image.clone());
    }
    let source =
        ImageRef::new(image.width as u32, image.height as u32, &image.data, pixel).map_err(|e| fail(&e))?;
    let mut canvas = Canvas::new(to.1 as u32, to.0 as u32, pixel);
    let algorithm = match interpolation {
        Interpolation::Nearest => ResizeAlg::Nearest,
        Interpolation::Bilinear => ResizeAlg::Convolution(FilterType::Bilinear),
        Interpolation::Bicubic => ResizeAlg::Convolution(FilterType::CatmullRom),
        Interpolation::Lanczos => ResizeAlg::Convolution(FilterType::Lanczos3),
    };
    let options =
        ResizeOptions::new().resize_alg(algorithm).crop(rect.left, rect.top, rect.width, rect.height);
    Resizer::new().resize(&source, &mut canvas, &options).map_err(|e| fail(&e))?;
    Ok(Image::new(to.0, to.1, image.channels, canvas.into_vec()))
}

/// Cuts `height` × `width` pixels from (`top`, `left`), which may reach outside: zeros there.
pub(super) fn cut(image: &Image, top: isize, left: isize, (height, width): Size) -> Image {
    let c = image.channels;
    let mut data = vec![0; height * width * c];
    let columns = (-left).max(0)..(image.width as isize - left).min(width as isize);
    for y in 0..height {
        let from = y as isize + top;
        if !(0..image.height as isize).contains(&from) || columns.is_empty() {
            continue;
        }
        let start = (from as usize * image.width + (columns.start + left) as usize) * c;
        let count = (columns.end - columns.start) as usize * c;
        let to = (y * width + columns.start as usize) * c;
        data[to..to + count].copy_from_slice(&image.data[start..start + count]);
    }
    Image::new(height, width, c, data)
}

/// Scales to exactly `size`.
pub(super) struct Resize {
    pub size: Size,
    pub interpolation: Interpolation,
}

impl<T: Geometric> Transform<T> for Resize {
    fn apply(&self, sample: &mut Sample<T>, _: &mut Rng) -> Result<(), String> {
        scale(sample, self.size, self.interpolation)
    }
}

fn scale<T: Geometric>(sample: &mut Sample<T>, to: Size, interpolation: Interpolation) -> Result<(), String> {
    let from = sample.image.size();
    let image = resize(&sample.image, Rect::whole(from), to, interpolation)?;
    sample.moved(image, &Geometry::crop_resize(from, 0., 0., from.0 as f64, from.1 as f64, to));
    Ok(())
}

/// Scales the shorter side to `size`; the longer one becomes ⌊size · long / short⌋ (torchvision `Resize(int)`).
pub(super) struct ResizeShort {
    pub size: usize,
    pub interpolation: Interpolation,
}

impl ResizeShort {
    pub(super) fn target(&self, (height, width): Size) -> Size {
        let long = |long: usize, short: usize| (self.size * long / short).max(1);
        if width <= height { (long(height, width), self.size) } else { (self.size, long(width, height)) }
    }
}

impl<T: Geometric> Transform<T> for ResizeShort {
    fn apply(&self, sample: &mut Sample<T>, _: &mut Rng) -> Result<(), String> {
        scale(sample, self.target(sample.image.size()), self.interpolation)
    }
}

/// Cuts the middle; pads a smaller image with zeros.
pub(super) struct CenterCrop {
    pub size: Size,
}

impl CenterCrop {
    /// (top, left): torchvision pads first, by ⌊missing / 2⌋, and rounds half to even when cutting.
    pub(super) fn corner(&self, (height, width): Size) -> (isize, isize) {
        let place = |have: usize, want: usize| match have >= want {
            true => ((have - want) as f64 / 2.).round_ties_even() as isize,
            false => -(((want - have) / 2) as isize),
        };
        (place(height, self.size.0), place(width, self.size.1))
    }
}

impl<T: Geometric> Transform<T> for CenterCrop {
    fn apply(&self, sample: &mut Sample<T>, _: &mut Rng) -> Result<(), String> {
        let from = sample.image.size();
        let (top, left) = self.corner(from);
        let (h, w) = self.size;
        let image = cut(&sample.image, top, left, self.size);
        sample.moved(
            image,
            &Geometry::crop_resize(from, top as f64, left as f64, h as f64, w as f64, self.size),
        );
        Ok(())
    }
}
