//! Pixel-wise operations, bit for bit as Pillow's `ImageOps`, `ImageEnhance` and `Image.convert("HSV")`: look-up
//! tables, blends with a degenerate image, and rotations of the hue. Images have 1 (grey) or 3 (RGB) channels.

use super::super::Image;
use super::super::image::luma;

/// Blends `base` (factor 0) with `image` (factor 1) into `image`; factors above 1 go beyond it (`Image.blend`).
fn blend(image: &mut Image, base: impl Iterator<Item = u8>, factor: f32) {
    if factor == 1. {
        return;
    }
    for (byte, base) in image.data.iter_mut().zip(base) {
        // The cast saturates and drops the fraction, as Pillow does.
        *byte = (f32::from(base) + factor * (f32::from(*byte) - f32::from(base))) as u8;
    }
}

/// `ImageEnhance.Brightness`: 0 is black.
pub(super) fn brightness(image: &mut Image, factor: f64) {
    blend(image, std::iter::repeat(0), factor as f32);
}

/// `ImageEnhance.Contrast`: 0 is the mean of the image's grey.
pub(super) fn contrast(image: &mut Image, factor: f64) {
    let sum: u64 = match image.channels {
        3 => image.data.chunks_exact(3).map(|rgb| u64::from(luma(rgb))).sum(),
        _ => image.data.iter().copied().map(u64::from).sum(),
    };
    let mean = (sum as f64 / (image.height * image.width) as f64 + 0.5) as u8;
    blend(image, std::iter::repeat(mean), factor as f32);
}

/// `ImageEnhance.Color`: 0 is grey. Grey images are not changed.
pub(super) fn saturation(image: &mut Image, factor: f64) {
    if image.channels == 3 {
        let grey: Vec<u8> = image.data.chunks_exact(3).map(luma).collect();
        blend(image, grey.into_iter().flat_map(|g| [g; 3]), factor as f32);
    }
}

/// `ImageEnhance.Sharpness`: 0 is smoothed by a 3×3 kernel (centre 5, others 1), which leaves the border alone.
pub(super) fn sharpness(image: &mut Image, factor: f64) {
    let (h, w, c) = (image.height, image.width, image.channels);
    let mut smooth = image.data.clone();
    for y in 1..h.saturating_sub(1) {
        for i in c..(w * c).saturating_sub(c) {
            let at = y * w * c + i;
            let column = |at: usize| [at - w * c, at, at + w * c].map(|at| u32::from(image.data[at]));
            let sum: u32 = [at - c, at, at + c].into_iter().flat_map(column).sum();
            let weighted = sum + 4 * u32::from(image.data[at]);
            // Rounded; a sum of thirteenths has no ties.
            smooth[at] = ((2 * weighted + 13) / 26) as u8;
        }
    }
    blend(image, smooth.into_iter(), factor as f32);
}

/// Replaces every byte of channel c by its entry in `tables[c]`.
fn look_up(image: &mut Image, tables: &[[u8; 256]]) {
    for pixel in image.data.chunks_exact_mut(tables.len()) {
        for (byte, table) in pixel.iter_mut().zip(tables) {
            *byte = table[*byte as usize];
        }
    }
}

/// The same function for every channel.
fn map(image: &mut Image, f: impl Fn(u8) -> u8) {
    image.data.iter_mut().for_each(|byte| *byte = f(*byte));
}

/// A histogram of each channel.
fn histograms(image: &Image) -> Vec<[usize; 256]> {
    let mut counts = vec![[0; 256]; image.channels];
    for pixel in image.data.chunks_exact(image.channels) {
        for (count, byte) in counts.iter_mut().zip(pixel) {
            count[*byte as usize] += 1;
        }
    }
    counts
}

const IDENTITY: [u8; 256] = {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        table[i] = i as u8;
        i += 1;
    }
    table
};

/// `ImageOps.autocontrast`: stretches each channel to 0–255.
pub(super) fn auto_contrast(image: &mut Image) {
    let table = |counts: &[usize; 256]| {
        let low = counts.iter().position(|n| *n > 0).unwrap_or(0);
        let high = counts.iter().rposition(|n| *n > 0).unwrap_or(0);
        if high <= low {
            return IDENTITY;
        }
        let scale = 255. / (high - low) as f64;
        let offset = -(low as f64) * scale;
        std::array::from_fn(|i| (i as f64 * scale + offset) as u8)
    };
    let tables: Vec<_> = histograms(image).iter().map(table).collect();
    look_up(image, &tables);
}

/// `ImageOps.equalize`: flattens the histogram of each channel.
pub(super) fn equalize(image: &mut Image) {
    let table = |counts: &[usize; 256]| {
        let last = counts.iter().rposition(|n| *n > 0).map_or(0, |i| counts[i]);
        let step = (counts.iter().sum::<usize>() - last) / 255;
        if step == 0 {
            return IDENTITY;
        }
        let mut seen = step / 2;
        std::array::from_fn(|i| {
            let value = (seen / step).min(255) as u8;
            seen += counts[i];
            value
        })
    };
    let tables: Vec<_> = histograms(image).iter().map(table).collect();
    look_up(image, &tables);
}

/// `ImageOps.invert`
pub(super) fn invert(image: &mut Image) {
    map(image, |v| 255 - v);
}

/// `ImageOps.posterize`: keeps the `bits` (0–8) highest bits.
pub(super) fn posterize(image: &mut Image, bits: u32) {
    let mask = (0xff00u32 >> bits.min(8)) as u8;
    map(image, |v| v & mask);
}

/// `ImageOps.solarize`: inverts from `threshold` on.
pub(super) fn solarize(image: &mut Image, threshold: u32) {
    map(image, |v| if u32::from(v) < threshold { v } else { 255 - v });
}

/// timm's `solarize_add`: adds to the darker half.
pub(super) fn solarize_add(image: &mut Image, add: u8) {
    map(image, |v| if v < 128 { v.saturating_add(add) } else { v });
}

/// torchvision's `adjust_hue`: rotates the hue by `turn` (−½ to ½ of a circle) in Pillow's 8-bit HSV. Grey images are
/// not changed.
pub(super) fn hue(image: &mut Image, turn: f64) {
    // NumPy's cast of a negative float to uint8: drops the fraction, then wraps.
    let shift = (turn * 255.) as i32 as u8;
    if image.channels == 3 {
        for rgb in image.data.chunks_exact_mut(3) {
            let [h, s, v] = hsv([rgb[0], rgb[1], rgb[2]]);
            rgb.copy_from_slice(&from_hsv([h.wrapping_add(shift), s, v]));
        }
    }
}

/// Pillow's `rgb2hsv`, with its mixture of single and double precision.
fn hsv(rgb: [u8; 3]) -> [u8; 3] {
    let [r, g, b] = rgb;
    let (most, least) = (r.max(g).max(b), r.min(g).min(b));
    if most == least {
        return [0, 0, most];
    }
    let range = f32::from(most - least);
    let saturation = range / f32::from(most);
    let [rc, gc, bc] = rgb.map(|v| f32::from(most - v) / range);
    let sector = if r == most {
        bc - gc
    } else if g == most {
        (2. + f64::from(rc) - f64::from(bc)) as f32
    } else {
        (4. + f64::from(gc) - f64::from(rc)) as f32
    };
    let hue = ((f64::from(sector) / 6. + 1.) % 1.) as f32;
    [(f64::from(hue) * 255.) as u8, (f64::from(saturation) * 255.) as u8, most]
}

/// Pillow's `hsv2rgb`.
fn from_hsv([h, s, v]: [u8; 3]) -> [u8; 3] {
    if s == 0 {
        return [v; 3];
    }
    let sector = f64::from(h) * 6. / 255.;
    let whole = sector.floor();
    let f = (sector - whole) as f32;
    let fs = (f64::from(s) / 255.) as f32;
    let value = |less: f64| (f64::from(v) * (1. - less)).round() as u8;
    let p = value(f64::from(fs));
    let q = value(f64::from(fs * f));
    let t = value(f64::from(fs) * (1. - f64::from(f)));
    match whole as u8 % 6 {
        0 => [v, t, p],
        1 => [q, v, p],
        2 => [p, v, t],
        3 => [p, q, v],
        4 => [t, p, v],
        _ => [v, p, q],
    }
}
