//! From the samples of the components to pixels: chroma at full size, and RGB, in libjpeg's arithmetic.

use super::frame::{Colours, Component, Frame};

/// Samples of a component, with those that only fill its last blocks.
pub(super) struct Plane {
    pub samples: Vec<u8>,
    pub stride: usize,
}

impl Plane {
    fn row(&self, y: usize, width: usize) -> &[u8] {
        &self.samples[y * self.stride..][..width]
    }
}

/// How a component is brought to full size.
#[derive(Clone, Copy)]
enum Enlarged {
    /// It has it.
    Not,
    /// Twice the columns, with triangle weights.
    Wider,
    /// Twice the rows, with triangle weights.
    Higher,
    /// Both.
    Both,
    /// Each sample is repeated so often in a row, and each row so often.
    Repeated(usize, usize),
}

impl Enlarged {
    fn of(component: &Component, frame: &Frame) -> Self {
        match (frame.most_h / component.h, frame.most_v / component.v) {
            (1, 1) => Self::Not,
            (1, 2) => Self::Higher,
            (2, 1) if component.width > 2 => Self::Wider,
            (2, 2) if component.width > 2 => Self::Both,
            (h, v) => Self::Repeated(h, v),
        }
    }

    /// Row `y` of the image, of which `out` has the place for a few columns more than there are.
    #[inline(always)]
    fn row(self, plane: &Plane, component: &Component, y: usize, sums: &mut Vec<u16>, out: &mut [u8]) {
        let width = component.width;
        // The next row on the other side; the first and the last row are their own neighbours.
        let beside = |y: usize| match y % 2 {
            0 => (y / 2).saturating_sub(1),
            _ => (y / 2 + 1).min(component.height - 1),
        };
        match self {
            Self::Not => out[..width].copy_from_slice(plane.row(y, width)),
            Self::Wider => {
                sums.clear();
                sums.extend(plane.row(y, width).iter().map(|v| u16::from(*v)));
                widen::<1, 2, 2>(sums, out);
            }
            Self::Higher => {
                let bias = if y.is_multiple_of(2) { 1 } else { 2 };
                let (near, far) = (plane.row(y / 2, width), plane.row(beside(y), width));
                for ((out, near), far) in out.iter_mut().zip(near).zip(far) {
                    *out = ((3 * u16::from(*near) + u16::from(*far) + bias) >> 2) as u8;
                }
            }
            Self::Both => {
                let (near, far) = (plane.row(y / 2, width), plane.row(beside(y), width));
                sums.clear();
                sums.extend(near.iter().zip(far).map(|(near, far)| 3 * u16::from(*near) + u16::from(*far)));
                widen::<8, 7, 4>(sums, out);
            }
            Self::Repeated(h, v) => {
                let row = plane.row(y / v, width);
                for (out, value) in out.chunks_exact_mut(h).zip(row) {
                    out.fill(*value);
                }
            }
        }
    }
}

/// Twice as many columns: three quarters of the nearest one and a quarter of the next. `LEFT` and `RIGHT` are the
/// roundings of the two, and `SHIFT` the bits that they have too many.
#[inline(always)]
fn widen<const LEFT: u16, const RIGHT: u16, const SHIFT: u32>(sums: &[u16], out: &mut [u8]) {
    let n = sums.len();
    let out = &mut out[..2 * n];
    // An edge has only itself: LEFT and RIGHT would both round 4/4 of it to itself where SHIFT is 2.
    let edge = |value: u16, rounding: u16| ((4 * value + rounding) >> SHIFT) as u8;
    out[0] = edge(sums[0], LEFT);
    out[1] = ((3 * sums[0] + sums[1] + RIGHT) >> SHIFT) as u8;
    for (out, window) in out[2..].chunks_exact_mut(2).zip(sums.windows(3)) {
        out[0] = ((3 * window[1] + window[0] + LEFT) >> SHIFT) as u8;
        out[1] = ((3 * window[1] + window[2] + RIGHT) >> SHIFT) as u8;
    }
    out[2 * n - 2] = ((3 * sums[n - 1] + sums[n - 2] + LEFT) >> SHIFT) as u8;
    out[2 * n - 1] = edge(sums[n - 1], RIGHT);
}

/// Red, green and blue of a YCbCr pixel, in 16 bits of fixed point.
#[inline(always)]
fn rgb(y: u8, cb: u8, cr: u8) -> [u8; 3] {
    let (y, cb, cr) = (i32::from(y), i32::from(cb) - 128, i32::from(cr) - 128);
    let half = 1 << 15;
    let red = y + ((91_881 * cr + half) >> 16);
    let green = y + ((half - 22_554 * cb - 46_802 * cr) >> 16);
    let blue = y + ((116_130 * cb + half) >> 16);
    [red, green, blue].map(|v| v.clamp(0, 255) as u8)
}

/// RGB of inverted CMYK, as Pillow reads the CMYK of a JPEG and converts it.
fn from_inverted([c, m, y, k]: [u8; 4]) -> [u8; 3] {
    let paper = i32::from(k);
    [c, m, y].map(|ink| {
        let product = i32::from(255 - ink) * paper + 128;
        (paper - (((product >> 8) + product) >> 8)).clamp(0, 255) as u8
    })
}

/// The pixels of row `y` at a time: [H, W, 3], or [H, W] of grey.
#[inline(always)]
fn rows(planes: &[Plane], frame: &Frame, colours: Colours, out: &mut [u8]) {
    let width = frame.width;
    let channels = if colours == Colours::Grey { 1 } else { 3 };
    let how: Vec<Enlarged> = frame.components.iter().map(|c| Enlarged::of(c, frame)).collect();
    let mut full = vec![vec![0; width + 8]; planes.len()];
    let mut sums = vec![];
    for (y, out) in out.chunks_exact_mut(width * channels).enumerate() {
        for (k, component) in frame.components.iter().enumerate() {
            how[k].row(&planes[k], component, y, &mut sums, &mut full[k]);
        }
        let pixels = out.chunks_exact_mut(channels);
        match (colours, &full[..]) {
            (Colours::YCbCr, [l, cb, cr]) => {
                for (((out, l), cb), cr) in pixels.zip(l).zip(cb).zip(cr) {
                    out.copy_from_slice(&rgb(*l, *cb, *cr));
                }
            }
            (Colours::Cmyk | Colours::Ycck, [c, m, y, k]) => {
                for ((((out, c), m), y), k) in pixels.zip(c).zip(m).zip(y).zip(k) {
                    let ink = match colours {
                        Colours::Cmyk => [*c, *m, *y],
                        _ => rgb(*c, *m, *y).map(|v| 255 - v),
                    };
                    out.copy_from_slice(&from_inverted([ink[0], ink[1], ink[2], *k]));
                }
            }
            (Colours::Rgb, [r, g, b]) => {
                for (((out, r), g), b) in pixels.zip(r).zip(g).zip(b) {
                    out.copy_from_slice(&[*r, *g, *b]);
                }
            }
            (_, full) => out.copy_from_slice(&full[0][..width]),
        }
    }
}

/// The pixels, [H, W, 3] or, of grey, [H, W].
pub(super) fn pixels(planes: &[Plane], frame: &Frame, colours: Colours) -> (usize, Vec<u8>) {
    let channels = if colours == Colours::Grey { 1 } else { 3 };
    let mut out = vec![0; frame.height * frame.width * channels];
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2")]
        fn avx2(planes: &[Plane], frame: &Frame, colours: Colours, out: &mut [u8]) {
            rows(planes, frame, colours, out);
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has the feature that the function enables.
            unsafe { avx2(planes, frame, colours, &mut out) };
            return (channels, out);
        }
    }
    rows(planes, frame, colours, &mut out);
    (channels, out)
}
