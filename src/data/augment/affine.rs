//! Affine warps of 8-bit images at constant size, bit for bit as Pillow's `Image.transform(size, AFFINE, matrix,
//! resample, fillcolor)` and `Image.rotate` (`Geometry.c`).
//!
//! No antialiasing: Pillow offers no Lanczos filter for warps. Pixels whose source lies outside of the image get the
//! fill colour.

use super::super::{Geometry, Image, Size};
use crate::config::Interpolation;

/// x = a·x' + b·y' + c, y = d·x' + e·y' + f: the source (x, y) of the pixel at (x', y') of the result, in continuous
/// coordinates. Pillow's `data`; the inverse of [`Geometry::forward`].
pub(super) type Matrix = [f64; 6];

/// The matrix of `Image.rotate(degrees)`: counter-clockwise around the centre.
pub(super) fn rotation((height, width): Size, degrees: f64) -> Matrix {
    let angle = -degrees.rem_euclid(360.).to_radians();
    // Pillow rounds to 15 decimals, so that right angles are exact.
    let (sin, cos) = (decimals(angle.sin()), decimals(angle.cos()));
    let (x, y) = (width as f64 / 2., height as f64 / 2.);
    [cos, sin, cos * -x + sin * -y + x, -sin, cos, -sin * -x + cos * -y + y]
}

fn decimals(x: f64) -> f64 {
    (x * 1e15).round() / 1e15
}

/// The geometry of a warp by `matrix` of an image of `size`, by which its target moves. `None` when the matrix is
/// singular.
pub(super) fn geometry(size: Size, matrix: &Matrix) -> Option<Geometry> {
    Geometry { from: size, to: size, forward: *matrix }.inverse()
}

/// Warps `image`. `fill` has one byte per channel.
///
/// # Errors
/// Lanczos, which Pillow does not offer here.
pub(super) fn warp(
    image: &Image,
    matrix: &Matrix,
    interpolation: Interpolation,
    fill: &[u8],
) -> Result<Image, String> {
    let c = image.channels;
    let mut out: Vec<u8> = fill.iter().copied().cycle().take(image.data.len()).collect();
    let rows = out.chunks_exact_mut(image.width * c).enumerate();
    match interpolation {
        Interpolation::Nearest => rows.for_each(|(y, row)| nearest(image, matrix, y, row)),
        Interpolation::Bilinear => rows.for_each(|(y, row)| smooth(image, matrix, y, row, bilinear)),
        Interpolation::Bicubic => rows.for_each(|(y, row)| smooth(image, matrix, y, row, bicubic)),
        Interpolation::Lanczos => {
            return Err("an affine warp has no lanczos filter: use nearest, bilinear or bicubic".into());
        }
    }
    Ok(Image::new(image.height, image.width, c, out))
}

/// Positions in 16.16 fixed point, as Pillow's `affine_fixed`.
fn nearest(image: &Image, m: &Matrix, y: usize, row: &mut [u8]) {
    let fixed = |v: f64| (v * 65536. + 0.5).floor() as i64;
    let c = image.channels;
    let start = |k: usize| fixed(m[k + 2] + m[k] * 0.5 + m[k + 1] * 0.5) + fixed(m[k + 1]) * y as i64;
    let (mut sx, mut sy) = (start(0), start(3));
    for pixel in row.chunks_exact_mut(c) {
        let (x, y) = (sx >> 16, sy >> 16);
        if (0..image.width as i64).contains(&x) && (0..image.height as i64).contains(&y) {
            let at = (y as usize * image.width + x as usize) * c;
            pixel.copy_from_slice(&image.data[at..at + c]);
        }
        sx += fixed(m[0]);
        sy += fixed(m[3]);
    }
}

/// Computes one row with a filter over neighbours.
#[inline(always)]
fn smooth(image: &Image, m: &Matrix, y: usize, row: &mut [u8], filter: impl Fn(&Image, f64, f64, &mut [u8])) {
    let y = y as f64 + 0.5;
    for (x, pixel) in row.chunks_exact_mut(image.channels).enumerate() {
        let x = x as f64 + 0.5;
        let (sx, sy) = (m[0] * x + m[1] * y + m[2], m[3] * x + m[4] * y + m[5]);
        if (0. ..image.width as f64).contains(&sx) && (0. ..image.height as f64).contains(&sy) {
            filter(image, sx - 0.5, sy - 0.5, pixel);
        }
    }
}

/// Byte offsets of `N` neighbours from `first`; at the border the last pixel repeats.
fn neighbours<const N: usize>(first: isize, length: usize, stride: usize) -> [usize; N] {
    std::array::from_fn(|k| (first + k as isize).clamp(0, length as isize - 1) as usize * stride)
}

fn bilinear(image: &Image, x: f64, y: f64, pixel: &mut [u8]) {
    let (left, top) = (x.floor(), y.floor());
    let (dx, dy) = (x - left, y - top);
    let columns: [usize; 2] = neighbours(left as isize, image.width, image.channels);
    let rows: [usize; 2] = neighbours(top as isize, image.height, image.width * image.channels);
    let mix = |a: f64, b: f64, d: f64| a + (b - a) * d;
    for (c, byte) in pixel.iter_mut().enumerate() {
        let line = rows.map(|row| {
            let [a, b] = columns.map(|column| f64::from(image.data[row + column + c]));
            mix(a, b, dx)
        });
        *byte = mix(line[0], line[1], dy) as u8;
    }
}

fn bicubic(image: &Image, x: f64, y: f64, pixel: &mut [u8]) {
    let (left, top) = (x.floor(), y.floor());
    let (dx, dy) = (x - left, y - top);
    let columns: [usize; 4] = neighbours(left as isize - 1, image.width, image.channels);
    let rows: [usize; 4] = neighbours(top as isize - 1, image.height, image.width * image.channels);
    for (c, byte) in pixel.iter_mut().enumerate() {
        let line = rows.map(|row| cubic(columns.map(|column| f64::from(image.data[row + column + c])), dx));
        // The cast saturates and drops the fraction, as Pillow does.
        *byte = cubic(line, dy) as u8;
    }
}

/// The cubic with a = −1 through `v[1]` at d = 0 and `v[2]` at d = 1.
fn cubic(v: [f64; 4], d: f64) -> f64 {
    let p2 = -v[0] + v[2];
    let p3 = 2. * (v[0] - v[1]) + v[2] - v[3];
    let p4 = -v[0] + v[1] - v[2] + v[3];
    v[1] + d * (p2 + d * (p3 + d * p4))
}
