//! Drawing on images: boxes, filled regions, outlines and captions, in distinct colors; and pictures in rows and columns.
//!
//! Each kind of task decides how its predictions are drawn. The font is DejaVu Sans, which is included with its license in
//! `src/draw/font`; characters that it lacks are shown as boxes.

mod figure;
mod heatmap;

pub use figure::{Drawing, Figure, LegendEntry};
pub use heatmap::Heatmap;

use crate::data::{Image, Size};
use ab_glyph::FontRef;
use image::imageops::{FilterType, resize};
use image::{Rgb, RgbImage};
use imageproc::drawing::{draw_filled_rect_mut, draw_text_mut, text_size};
use imageproc::rect::Rect;
use std::sync::LazyLock;

static FONT: LazyLock<FontRef<'static>> = LazyLock::new(|| {
    FontRef::try_from_slice(include_bytes!("font/DejaVuSans-subset.ttf")).expect("the built-in font is valid")
});

/// Red, green and blue: 0 to 255.
pub type Color = [u8; 3];

/// Color number `k`. Consecutive colors differ strongly, and the first 12 are easy to distinguish.
pub fn color(k: usize) -> Color {
    // Steps of the golden ratio around the color wheel never repeat; brightness alternates.
    let hue = (k as f64 * 0.618_033_988_749_895).fract() * 6.;
    let (strong, weak) = [(255., 30.), (215., 0.), (255., 110.)][k % 3];
    let channel = |offset: f64| {
        let place = (hue + offset) % 6.;
        let part = (2. - (place - 3.).abs()).clamp(0., 1.); // 0 up to 1, full from 2 to 4
        (weak + (strong - weak) * part) as u8
    };
    [channel(3.), channel(1.), channel(5.)]
}

/// Shade number `k` of a color: in turn the color itself, a darker and a lighter one.
pub fn shade(color: Color, k: usize) -> Color {
    let (towards, part) = [(0., 0.), (0., 0.4), (255., 0.45)][k % 3];
    color.map(|v| (f32::from(v) + part * (towards - f32::from(v))).round() as u8)
}

/// The color of each class: `None` for a class called `background`, which is not colored. The other classes have the same
/// colors whether there is a background or not.
pub fn class_colors(classes: &[String]) -> Vec<Option<Color>> {
    let mut next = 0..;
    let mut own = |class: &String| {
        let ground = class.eq_ignore_ascii_case("background");
        if ground { None } else { next.next().map(color) }
    };
    classes.iter().map(&mut own).collect()
}

/// Minimum length of the shorter side in pixels: smaller images are enlarged, so that captions do not cover them.
const SHORTEST: usize = 384;
/// Maximum length of the longer side of enlarged images, in pixels.
const LONGEST: usize = 2048;

/// The smallest integer factor that makes the shorter side of an image of this size at least `shortest` pixels long, unless
/// its longer side became longer than 2048.
fn zoom(height: usize, width: usize, shortest: usize) -> usize {
    let (shorter, longer) = (height.min(width).max(1), height.max(width).max(1));
    shortest.div_ceil(shorter).min(LONGEST / longer).max(1)
}

/// `picture`, bicubically enlarged by an integer factor until its shorter side has at least `shortest` pixels, unless its
/// longer side became longer than 2048.
pub fn enlarged(picture: RgbImage, shortest: usize) -> RgbImage {
    let (width, height) = picture.dimensions();
    match zoom(height as usize, width as usize, shortest) as u32 {
        1 => picture,
        factor => resize(&picture, width * factor, height * factor, FilterType::CatmullRom),
    }
}

/// An image of 1 or 3 channels, resized so that its longer side has `side` pixels.
///
/// # Errors
/// Another number of channels.
pub fn fitted(image: &Image, side: u32) -> Result<RgbImage, String> {
    let Image { height, width, data, .. } = image.with_channels(3)?;
    let (height, width) = (height as u32, width as u32);
    let picture = RgbImage::from_raw(width, height, data);
    let picture = picture.ok_or("the number of pixels does not match the size")?;
    let longer = height.max(width).max(1);
    let scaled = |length: u32| ((length * side + longer / 2) / longer).max(1);
    // Averages where it makes the picture smaller, as it must.
    Ok(resize(&picture, scaled(width), scaled(height), FilterType::CatmullRom))
}

/// An image to draw on. Coordinates and sizes refer to the original image, even if the drawing is enlarged.
pub struct Canvas {
    picture: RgbImage,
    /// Factor by which the drawing is enlarged.
    zoom: usize,
    /// Captions so far: left, top, width and height in pixels of the drawing.
    captions: Vec<[i32; 4]>,
}

impl Canvas {
    /// Starts with an image of 1 or 3 channels, which is bicubically enlarged by an integer factor if it is small.
    ///
    /// # Errors
    /// Another number of channels.
    pub fn new(image: &Image) -> Result<Self, String> {
        Self::with_shortest(image, SHORTEST)
    }

    fn with_shortest(image: &Image, shortest: usize) -> Result<Self, String> {
        let Image { height, width, data, .. } = image.with_channels(3)?;
        let photograph = RgbImage::from_raw(width as u32, height as u32, data);
        let photograph = photograph.ok_or("the number of pixels does not match the size")?;
        let zoom = zoom(height, width, shortest);
        Ok(Self { picture: enlarged(photograph, shortest), zoom, captions: vec![] })
    }

    /// (height, width) of the drawing.
    fn size(&self) -> Size {
        (self.picture.height() as usize, self.picture.width() as usize)
    }

    /// Height of captions in pixels of the drawing.
    fn font_size(&self) -> f32 {
        let (height, width) = self.size();
        (height.min(width) as f32 / 32.).clamp(14., 40.)
    }

    /// Height of captions in pixels of the original image.
    pub fn text_height(&self) -> f32 {
        self.font_size() / self.zoom as f32
    }

    /// Width of lines in pixels of the drawing.
    fn stroke(&self) -> usize {
        (self.font_size() / 8.).round().max(1.) as usize
    }

    /// Looks up `mask` at (y, x) of the drawing.
    fn enlarged<'a>(&self, mask: &'a [u8]) -> impl Fn(usize, usize) -> bool + use<'a> {
        let (zoom, (height, width)) = (self.zoom, self.size());
        assert_eq!(mask.len() * zoom * zoom, height * width, "the mask must have the size of the image");
        move |y, x| y < height && x < width && mask[(y / zoom) * (width / zoom) + x / zoom] != 0
    }

    /// Fills the nonzero pixels of a mask `[H, W]` (row-major) with a color; `alpha` is its opacity, 0 to 1.
    ///
    /// # Panics
    /// If the mask does not have the size of the image.
    pub fn fill(&mut self, mask: &[u8], color: Color, alpha: f32) {
        let inside = self.enlarged(mask);
        for (x, y, pixel) in self.picture.enumerate_pixels_mut() {
            if inside(y as usize, x as usize) {
                for (byte, new) in pixel.0.iter_mut().zip(color) {
                    *byte = (f32::from(*byte) + alpha * (f32::from(new) - f32::from(*byte))).round() as u8;
                }
            }
        }
    }

    /// Draws the inner border of a mask `[H, W]` (row-major).
    ///
    /// # Panics
    /// If the mask does not have the size of the image.
    pub fn outline(&mut self, mask: &[u8], color: Color) {
        let ((height, width), inside) = (self.size(), self.enlarged(mask));
        for y in 0..height {
            for x in (0..width).filter(|x| inside(y, *x)) {
                // Values below 0 wrap around, and are therefore outside.
                let neighbors = [(y.wrapping_sub(1), x), (y + 1, x), (y, x.wrapping_sub(1)), (y, x + 1)];
                if neighbors.iter().any(|(y, x)| !inside(*y, *x)) {
                    self.picture.put_pixel(x as u32, y as u32, Rgb(color));
                }
            }
        }
    }

    /// Draws a box (x1, y1, x2, y2 in pixels), clipped to the image. Boxes with NaN are not drawn.
    pub fn rectangle(&mut self, [x1, y1, x2, y2]: [f32; 4], color: Color) {
        let (height, width) = self.size();
        let zoom = self.zoom as f32;
        let at = |v: f32, length: usize| (zoom * v).round().clamp(0., length as f32) as i32;
        let (left, top, right, bottom) = (at(x1, width), at(y1, height), at(x2, width), at(y2, height));
        let stroke = self.stroke() as i32;
        let (w, h) = (right - left, bottom - top);
        for (x, y, w, h) in [
            (left, top, w, stroke),
            (left, bottom - stroke, w, stroke),
            (left, top, stroke, h),
            (right - stroke, top, stroke, h),
        ] {
            self.block(x, y, w, h, color);
        }
    }

    /// Fills a rectangle of the drawing, clipped to it.
    fn block(&mut self, x: i32, y: i32, width: i32, height: i32, color: Color) {
        if width > 0 && height > 0 {
            draw_filled_rect_mut(
                &mut self.picture,
                Rect::at(x, y).of_size(width as u32, height as u32),
                Rgb(color),
            );
        }
    }

    /// Writes one line of text on a colored background with its upper left corner at (x, y). It is moved inside the image if
    /// necessary, and below other captions if there is room. Returns its width and height.
    pub fn caption(&mut self, text: &str, x: f32, y: f32, color: Color) -> (f32, f32) {
        let (scale, zoom) = (self.font_size(), self.zoom as f32);
        let (w, h) = text_size(scale, &*FONT, text);
        let pad = (scale / 6.).ceil() as u32;
        let (w, h) = (w + 2 * pad, h + pad);
        let (height, width) = self.size();
        let place = |v: f32, length: usize, own: u32| {
            (zoom * v).round().clamp(0., (length as f32 - own as f32).max(0.)) as i32
        };
        let (x, top) = (place(x, width, w), place(y, height, h));
        let (wide, high) = (w as i32, h as i32);
        let free = |y: &i32| {
            let meets = |[left, top, w, h]: &[i32; 4]| {
                x < left + w && *left < x + wide && *y < top + h && *top < y + high
            };
            !self.captions.iter().any(meets)
        };
        let lines = (top..=height as i32 - high).step_by(high.max(1) as usize);
        let y = lines.into_iter().find(free).unwrap_or(top);
        self.captions.push([x, y, wide, high]);
        self.block(x, y, wide, high, color);
        let ink = Rgb(ink(color));
        draw_text_mut(&mut self.picture, ink, x + pad as i32, y + pad as i32 / 2, scale, &*FONT, text);
        (w as f32 / zoom, h as f32 / zoom)
    }

    /// Returns the drawing.
    pub fn into_image(self) -> RgbImage {
        self.picture
    }
}

/// Black or white, whichever is readable on the background.
fn ink([r, g, b]: Color) -> Color {
    let luma = 0.299 * f32::from(r) + 0.587 * f32::from(g) + 0.114 * f32::from(b);
    if luma > 140. { [0; 3] } else { [255; 3] }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canvas(height: usize, width: usize) -> Canvas {
        Canvas::with_shortest(&Image::new(height, width, 1, vec![100; height * width]), 1).unwrap()
    }

    #[test]
    fn small_photographs_are_enlarged_with_what_is_drawn_on_them() {
        let mut canvas = Canvas::new(&Image::new(100, 200, 1, vec![100; 100 * 200])).unwrap();
        let mut mask = vec![0; 100 * 200];
        mask[10 * 200 + 20] = 1;
        canvas.fill(&mask, [200; 3], 1.);
        canvas.rectangle([50., 40., 90., 80.], [9; 3]);
        let (_, height) = canvas.caption("a", 0., 50., [250; 3]);
        let picture = canvas.into_image();
        assert_eq!(picture.dimensions(), (800, 400), "four times its size");
        assert_eq!(
            [(80, 40), (83, 43), (84, 43)].map(|(x, y)| picture.get_pixel(x, y).0[0]),
            [200, 200, 100]
        );
        assert_eq!([(200, 200), (198, 200)].map(|(x, y)| picture.get_pixel(x, y).0[0]), [9, 100]);
        assert_eq!(picture.get_pixel(0, 200).0[0], 250);
        assert!((3. ..10.).contains(&height), "{height} of the photograph's pixels");
    }

    #[test]
    fn a_strip_is_enlarged_no_further_than_the_longest_side() {
        let drawn = |height, width| {
            let image = Image::new(height, width, 1, vec![100; height * width]);
            Canvas::new(&image).unwrap().into_image().dimensions()
        };
        assert_eq!([drawn(4, 500), drawn(2000, 4)], [(2000, 16), (4, 2000)]);
        assert_eq!(drawn(4, 20_000), (20_000, 4), "as large as it is");
        assert_eq!(drawn(4, 4), (384, 384));
        assert_eq!([drawn(64, 64), drawn(128, 128), drawn(400, 500)], [(384, 384), (384, 384), (500, 400)]);
    }

    #[test]
    fn a_background_has_no_color_and_changes_no_other() {
        let names = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        let with = class_colors(&names(&["Background", "cat", "dog"]));
        assert_eq!(with, [None, Some(color(0)), Some(color(1))]);
        assert_eq!(class_colors(&names(&["cat", "dog"])), with[1..]);
    }

    #[test]
    fn colours_differ() {
        let distance = |a: Color, b: Color| -> i32 {
            a.iter().zip(b).map(|(a, b)| (i32::from(*a) - i32::from(b)).abs()).sum()
        };
        for k in 0..12 {
            for other in 0..k {
                assert!(
                    distance(color(k), color(other)) > 60,
                    "{k} {:?}, {other} {:?}",
                    color(k),
                    color(other)
                );
            }
        }
        assert_eq!((color(0), shade(color(0), 3)), ([255, 30, 30], [255, 30, 30]));
        assert_eq!((shade([100, 0, 200], 1), shade([100, 0, 200], 2)), ([60, 0, 120], [170, 115, 225]));
    }

    #[test]
    fn masks_are_mixed_in_and_outlined() {
        let mut canvas = canvas(4, 5);
        let mask: Vec<u8> = (0..20).map(|k| u8::from((1..4).contains(&(k % 5)) && k / 5 < 3)).collect();
        canvas.fill(&mask, [200, 100, 0], 0.5);
        canvas.outline(&mask, [1, 2, 3]);
        let picture = canvas.into_image();
        assert_eq!(picture.get_pixel(2, 1).0, [150, 100, 50]);
        assert_eq!(picture.get_pixel(1, 1).0, [1, 2, 3]);
        assert_eq!(picture.get_pixel(2, 0).0, [1, 2, 3]);
        assert_eq!(picture.get_pixel(0, 0).0, [100; 3]);
    }

    #[test]
    fn whatever_sticks_out_is_cut_and_captions_stay_inside() {
        let mut canvas = canvas(60, 80);
        canvas.rectangle([-10., 5., 1e9, 20.], [9, 9, 9]);
        canvas.rectangle([f32::NAN; 4], [8, 8, 8]);
        let (w, h) = canvas.caption("ä 99 %", 500., -3., [250, 250, 250]);
        let picture = canvas.into_image();
        assert_eq!((picture.get_pixel(0, 5).0, picture.get_pixel(79, 12).0), ([9; 3], [250; 3]));
        let (left, bottom) = (80 - w as u32, h as u32);
        let caption = (0..bottom).flat_map(|y| (left..80).map(move |x| (x, y)));
        let dark = caption.filter(|(x, y)| picture.get_pixel(*x, *y).0[0] < 125).count();
        assert!(dark > 20 && w > 30. && h > 10., "{dark} dark pixels of {w}x{h}");
    }

    #[test]
    fn captions_do_not_cover_each_other_where_there_is_room() {
        let mut canvas = canvas(60, 80);
        let (_, h) = canvas.caption("a", 0., 0., [9; 3]);
        canvas.caption("a", 0., 3., [250; 3]);
        let picture = canvas.into_image();
        assert_eq!(picture.get_pixel(0, 0).0, [9; 3]);
        // The first free line from line 3 on, in steps of a caption's height.
        assert_eq!(picture.get_pixel(0, 3 + h as u32).0, [250; 3]);
    }
}
