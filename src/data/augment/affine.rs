//! `Image.transform(size, AFFINE)` of Pillow: sampling at pixel centres, neighbours clamped to the border, and a fill
//! colour for what comes from outside.

use super::super::{Geometry, Image};
use crate::config::Interpolation;

/// x_in = a·x + b·y + c, y_in = d·x + e·y + f, from output to input in continuous pixel coordinates.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Affine(pub [f64; 6]);

impl Affine {
    /// `Image.rotate`: counter-clockwise about the centre.
    pub fn rotate(degrees: f64, (height, width): (usize, usize)) -> Self {
        let round = |v: f64| (v * 1e15).round() / 1e15;
        let angle = -degrees.rem_euclid(360.).to_radians();
        let (sin, cos) = (round(angle.sin()), round(angle.cos()));
        let (x, y) = (width as f64 / 2., height as f64 / 2.);
        Self([cos, sin, x - cos * x - sin * y, -sin, cos, y + sin * x - cos * y])
    }

    pub fn shear_x(factor: f64) -> Self {
        Self([1., factor, 0., 0., 1., 0.])
    }

    pub fn shear_y(factor: f64) -> Self {
        Self([1., 0., 0., factor, 1., 0.])
    }

    pub fn translate(x: f64, y: f64) -> Self {
        Self([1., 0., x, 0., 1., y])
    }

    /// How the image moves: the way from input to output.
    pub fn geometry(&self, size: (usize, usize)) -> Option<Geometry> {
        Geometry { from: size, to: size, forward: self.0 }.inverse()
    }

    /// The image seen through this map; `fill` holds a value a channel.
    pub fn apply(&self, image: &Image, interpolation: Interpolation, fill: &[u8]) -> Image {
        let (h, w, c) = (image.height, image.width, image.channels);
        let [a, b, cx, d, e, cy] = self.0;
        let mut data = Vec::with_capacity(h * w * c);
        for y in 0..h {
            for x in 0..w {
                let (px, py) = (x as f64 + 0.5, y as f64 + 0.5);
                let (sx, sy) = (a * px + b * py + cx, d * px + e * py + cy);
                let inside = (0. ..w as f64).contains(&sx) && (0. ..h as f64).contains(&sy);
                for (k, fill) in fill.iter().enumerate().take(c) {
                    data.push(if inside { sample(image, sx, sy, k, interpolation) } else { *fill });
                }
            }
        }
        Image::new(h, w, c, data)
    }
}

/// The value of channel `k` at (x, y) inside the image.
fn sample(image: &Image, x: f64, y: f64, k: usize, interpolation: Interpolation) -> u8 {
    let (h, w, c) = (image.height as isize, image.width as isize, image.channels);
    let at = |y: isize, x: isize| {
        let (y, x) = (y.clamp(0, h - 1) as usize, x.clamp(0, w - 1) as usize);
        f64::from(image.data[(y * image.width + x) * c + k])
    };
    if interpolation == Interpolation::Nearest {
        return at(y as isize, x as isize) as u8;
    }
    let (x, y) = (x - 0.5, y - 0.5);
    let (left, top) = (x.floor(), y.floor());
    let (dx, dy) = (x - left, y - top);
    let (left, top) = (left as isize, top as isize);
    match interpolation {
        Interpolation::Bilinear => {
            let row = |y: isize| at(y, left) + (at(y, left + 1) - at(y, left)) * dx;
            (row(top) + (row(top + 1) - row(top)) * dy) as u8
        }
        _ => {
            let row = |y: isize| cubic([-1, 0, 1, 2].map(|i| at(y, left + i)), dx);
            cubic([-1, 0, 1, 2].map(|i| row(top + i)), dy) as u8
        }
    }
}

/// Pillow's cubic through four values, `d` beyond the second (a = −1, unlike its resize).
fn cubic([v1, v2, v3, v4]: [f64; 4], d: f64) -> f64 {
    let (p2, p3, p4) = (v3 - v1, 2. * (v1 - v2) + v3 - v4, v2 - v1 - v3 + v4);
    v2 + d * (p2 + d * (p3 + d * p4))
}
