//! Operations on 8-bit images with Pillow's arithmetic (`ImageEnhance`, `ImageOps`, `ImageFilter`, `Image.blend`).

use super::super::Image;
use super::super::image::luma;

/// `Image.blend(from, to, alpha)`: truncated, and clipped where alpha lies outside of [0, 1].
fn blend(from: u8, to: u8, alpha: f32) -> u8 {
    (f32::from(from) + alpha * (f32::from(to) - f32::from(from))) as u8 // `as` saturates
}

fn enhance(image: &Image, degenerate: impl Fn(usize) -> u8, factor: f64) -> Image {
    let alpha = factor as f32;
    let data = image.data.iter().enumerate().map(|(i, v)| blend(degenerate(i), *v, alpha)).collect();
    Image::new(image.height, image.width, image.channels, data)
}

/// Luma of every pixel.
fn grey(image: &Image) -> Vec<u8> {
    match image.channels {
        3 => image.data.chunks_exact(3).map(luma).collect(),
        _ => image.data.clone(),
    }
}

/// `ImageEnhance.Brightness`: from black.
pub(super) fn brightness(image: &Image, factor: f64) -> Image {
    enhance(image, |_| 0, factor)
}

/// `ImageEnhance.Contrast`: from the rounded mean luma.
pub(super) fn contrast(image: &Image, factor: f64) -> Image {
    let grey = grey(image);
    let sum: u64 = grey.iter().map(|v| u64::from(*v)).sum();
    let mean = (sum as f64 / grey.len() as f64 + 0.5) as u8;
    enhance(image, |_| mean, factor)
}

/// `ImageEnhance.Color`: from grey. Nothing happens to a grey image.
pub(super) fn saturation(image: &Image, factor: f64) -> Image {
    let (grey, channels) = (grey(image), image.channels);
    enhance(image, |i| grey[i / channels], factor)
}

/// `ImageEnhance.Sharpness`: from the image smoothed by 3×3 weights (1 1 1, 1 5 1, 1 1 1) / 13; borders stay.
pub(super) fn sharpness(image: &Image, factor: f64) -> Image {
    let smooth = smoothed(image);
    enhance(image, |i| smooth[i], factor)
}

fn smoothed(image: &Image) -> Vec<u8> {
    let (h, w, c) = (image.height, image.width, image.channels);
    let mut smooth = image.data.clone();
    if h < 3 || w < 3 {
        return smooth;
    }
    let (side, centre) = (1f32 / 13., 5f32 / 13.);
    for y in 1..h - 1 {
        for x in 1..w - 1 {
            for k in 0..c {
                let at = |y: usize, x: usize| f32::from(image.data[(y * w + x) * c + k]);
                let row =
                    |y: usize, middle: f32| at(y, x - 1) * side + at(y, x) * middle + at(y, x + 1) * side;
                let sum = 0.5 + row(y + 1, side) + row(y, centre) + row(y - 1, side);
                smooth[(y * w + x) * c + k] = sum as u8;
            }
        }
    }
    smooth
}

/// Adds a hue in turns, through Pillow's 8-bit HSV; `hue` in [−0.5, 0.5]. Nothing happens to a grey image.
pub(super) fn hue(image: &Image, hue: f64) -> Image {
    if image.channels != 3 {
        return image.clone();
    }
    let shift = (hue * 255.) as i32 as u8; // NumPy's uint8 of a negative number wraps
    let turn = |rgb: &[u8]| {
        let [h, s, v] = rgb_to_hsv([rgb[0], rgb[1], rgb[2]]);
        hsv_to_rgb([h.wrapping_add(shift), s, v])
    };
    let data = image.data.chunks_exact(3).flat_map(turn).collect();
    Image::new(image.height, image.width, 3, data)
}

fn rgb_to_hsv([r, g, b]: [u8; 3]) -> [u8; 3] {
    let (most, least) = (r.max(g).max(b), r.min(g).min(b));
    if most == least {
        return [0, 0, most];
    }
    let range = f32::from(most - least);
    let saturation = range / f32::from(most);
    let [rc, gc, bc] = [r, g, b].map(|v| f32::from(most - v) / range);
    let sector = match most {
        m if m == r => bc - gc,
        m if m == g => 2. + rc - bc,
        _ => 4. + gc - rc,
    };
    let hue = (f64::from(sector) / 6. + 1.) % 1.;
    [(hue * 255.) as u8, (f64::from(saturation) * 255.) as u8, most]
}

fn hsv_to_rgb([h, s, v]: [u8; 3]) -> [u8; 3] {
    if s == 0 {
        return [v; 3];
    }
    let place = f64::from(f32::from(h) * 6. / 255.);
    let sector = place.floor();
    let (f, fs) = (place - sector, f64::from(f32::from(s) / 255.));
    let value = f64::from(v);
    let p = (value * (1. - fs)).round() as u8;
    let q = (value * (1. - fs * f)).round() as u8;
    let t = (value * (1. - fs * (1. - f))).round() as u8;
    match sector as u8 % 6 {
        0 => [v, t, p],
        1 => [q, v, p],
        2 => [p, v, t],
        3 => [p, q, v],
        4 => [t, p, v],
        _ => [v, p, q],
    }
}

/// Maps every value of every channel by a table.
fn mapped(image: &Image, table: impl Fn(usize) -> [u8; 256]) -> Image {
    let channels = image.channels;
    let tables: Vec<[u8; 256]> = (0..channels).map(table).collect();
    let data = image.data.iter().enumerate().map(|(i, v)| tables[i % channels][*v as usize]).collect();
    Image::new(image.height, image.width, channels, data)
}

fn table(of: impl Fn(usize) -> u8) -> [u8; 256] {
    std::array::from_fn(of)
}

fn histogram(image: &Image, channel: usize) -> [usize; 256] {
    let mut counts = [0; 256];
    image.data[channel..].iter().step_by(image.channels).for_each(|v| counts[*v as usize] += 1);
    counts
}

/// `ImageOps.autocontrast`: each channel stretched to 0–255.
pub(super) fn auto_contrast(image: &Image) -> Image {
    mapped(image, |channel| {
        let counts = histogram(image, channel);
        let low = counts.iter().position(|n| *n > 0).unwrap_or(0);
        let high = counts.iter().rposition(|n| *n > 0).unwrap_or(0);
        if high <= low {
            return table(|v| v as u8);
        }
        let scale = 255. / (high - low) as f64;
        let offset = -(low as f64) * scale;
        table(|v| (v as f64 * scale + offset) as u8)
    })
}

/// `ImageOps.equalize`: each channel to a flat histogram.
pub(super) fn equalize(image: &Image) -> Image {
    mapped(image, |channel| {
        let counts = histogram(image, channel);
        let last = counts.iter().rfind(|n| **n > 0).copied().unwrap_or(0);
        let step = (counts.iter().sum::<usize>() - last) / 255;
        if step == 0 {
            return table(|v| v as u8);
        }
        let mut sum = step / 2;
        let mut equal = [0; 256];
        for (out, count) in equal.iter_mut().zip(counts) {
            *out = (sum / step).min(255) as u8;
            sum += count;
        }
        equal
    })
}

pub(super) fn invert(image: &Image) -> Image {
    mapped(image, |_| table(|v| 255 - v as u8))
}

/// Keeps the highest `bits` bits.
pub(super) fn posterize(image: &Image, bits: u32) -> Image {
    let mask = !((1u32 << (8 - bits.min(8))) - 1);
    mapped(image, |_| table(|v| (v as u32 & mask) as u8))
}

/// Inverts values of at least `threshold`.
pub(super) fn solarize(image: &Image, threshold: usize) -> Image {
    mapped(image, |_| table(|v| if v < threshold { v as u8 } else { 255 - v as u8 }))
}

/// Adds `add` to values below 128.
pub(super) fn solarize_add(image: &Image, add: usize) -> Image {
    mapped(image, |_| table(|v| if v < 128 { (v + add).min(255) as u8 } else { v as u8 }))
}
