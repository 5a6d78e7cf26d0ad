//! Resampling of 8-bit images, bit for bit as Pillow's `Image.resize` (`Resample.c`): a separable, antialiased
//! filter in 22-bit fixed point, horizontal pass first, rounded to 8 bits between the passes.
//!
//! The crate `fast_image_resize` is not used, because its order of passes and its 16-bit weights give other bytes than
//! Pillow. The code is compiled for the baseline processor, for AVX2 and for AVX-512; integer arithmetic gives the same
//! bytes on all.

use super::super::{Image, Size};
use crate::config::Interpolation;

/// A rectangle of whole pixels inside an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rect {
    pub top: usize,
    pub left: usize,
    pub height: usize,
    pub width: usize,
}

impl Rect {
    pub fn whole((height, width): Size) -> Self {
        Self { top: 0, left: 0, height, width }
    }
}

/// `image.crop(rect).resize(to)` of Pillow: pixels outside of `rect` have no influence. `to` is (height, width).
///
/// # Errors
/// An empty source or result, a rectangle that extends outside the image, or a number of channels other than 1 and 3.
pub(super) fn resize(
    image: &Image,
    rect: Rect,
    to: Size,
    interpolation: Interpolation,
) -> Result<Image, String> {
    let (h, w) = image.size();
    let fits = rect.top + rect.height <= h && rect.left + rect.width <= w;
    if !fits || [rect.height, rect.width, to.0, to.1].contains(&0) {
        return Err(format!(
            "cannot resize {}x{} pixels at ({}, {}) of an image of {h}x{w} to {}x{}",
            rect.height, rect.width, rect.top, rect.left, to.0, to.1
        ));
    }
    match image.channels {
        1 => Ok(resize_channels::<1, ROWS>(image, rect, to, interpolation)),
        3 => Ok(resize_channels::<3, { 4 * ROWS }>(image, rect, to, interpolation)),
        n => Err(format!("cannot resize an image of {n} channels, expected 1 or 3")),
    }
}

/// Number of source rows that the horizontal pass processes at a time, side by side in the lanes of its vectors.
const ROWS: usize = 8;

fn resize_channels<const C: usize, const L: usize>(
    image: &Image,
    rect: Rect,
    to: Size,
    interpolation: Interpolation,
) -> Image {
    let Some(filter) = Filter::of(interpolation) else { return nearest::<C>(image, rect, to) };
    let taps = |from: usize, to: usize| (from != to).then(|| filter.taps(from, to));
    let resampling = Resampling::<C, L> {
        image,
        rect,
        to,
        columns: taps(rect.width, to.1),
        rows: taps(rect.height, to.0),
    };
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2")]
        fn avx2<const C: usize, const L: usize>(resampling: &Resampling<C, L>) -> Image {
            resampling.run()
        }
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
        fn avx512<const C: usize, const L: usize>(resampling: &Resampling<C, L>) -> Image {
            resampling.run()
        }
        if is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
        {
            // SAFETY: the processor has every feature that the function enables.
            return unsafe { avx512(&resampling) };
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has the feature that the function enables.
            return unsafe { avx2(&resampling) };
        }
    }
    resampling.run()
}

/// One call of [`resize`] with its weights; an axis without weights keeps its length. `C` channels a pixel, which
/// take `L` / [`ROWS`] lanes of a vector of `L`.
struct Resampling<'a, const C: usize, const L: usize> {
    image: &'a Image,
    rect: Rect,
    to: Size,
    columns: Option<Taps>,
    rows: Option<Taps>,
}

impl<const C: usize, const L: usize> Resampling<'_, C, L> {
    #[inline(always)]
    fn run(&self) -> Image {
        let narrow = match &self.columns {
            Some(taps) => self.horizontal(taps),
            None => (0..self.rect.height).flat_map(|y| self.source(y)).copied().collect(),
        };
        let data = match &self.rows {
            Some(taps) => vertical(&narrow, self.to.1 * C, taps),
            None => narrow,
        };
        Image::new(self.to.0, self.to.1, C, data)
    }

    /// Row `y` of the rectangle.
    #[inline(always)]
    fn source(&self, y: usize) -> &[u8] {
        let start = ((self.rect.top + y) * self.image.width + self.rect.left) * C;
        &self.image.data[start..start + self.rect.width * C]
    }

    /// [height, width, C] -> [height, to width, C]
    #[inline(always)]
    fn horizontal(&self, taps: &Taps) -> Vec<u8> {
        let (stride, width, length) = (L / ROWS, self.rect.width, self.to.1 * C);
        let mut out = vec![0; self.rect.height * length];
        // A pixel of each row of a band, side by side. The fourth byte of a colour is that of the next pixel: four bytes
        // are copied faster than three, and it is overwritten in the result.
        let mut pixels = vec![[0u8; L]; width];
        for (band, rows) in out.chunks_mut(ROWS * length).enumerate() {
            let sources: [&[u8]; ROWS] =
                std::array::from_fn(|r| self.source((band * ROWS + r).min(self.rect.height - 1)));
            for (x, pixel) in pixels.iter_mut().enumerate() {
                let mut beside = [0; L];
                let bytes = if x + 1 < width { stride } else { C };
                for (place, source) in beside.chunks_exact_mut(stride).zip(&sources) {
                    match bytes == stride {
                        true => place.copy_from_slice(&source[x * C..][..stride]),
                        false => place[..C].copy_from_slice(&source[x * C..][..C]),
                    }
                }
                *pixel = beside;
            }
            for (x, (start, weights)) in taps.iter().enumerate() {
                let mut sum = [HALF; L];
                for (bytes, weight) in pixels[start..].iter().zip(weights) {
                    for l in 0..L {
                        sum[l] += i32::from(bytes[l]) * weight;
                    }
                }
                let bytes = to_bytes(&sum);
                for (row, bytes) in rows.chunks_exact_mut(length).zip(bytes.chunks_exact(stride)) {
                    match x + 1 < self.to.1 {
                        true => row[x * C..][..stride].copy_from_slice(bytes),
                        false => row[x * C..][..C].copy_from_slice(&bytes[..C]),
                    }
                }
            }
        }
        out
    }
}

/// Bytes of a row that the vertical pass keeps in registers.
const BLOCK: usize = 32;

/// Rows of `length` bytes -> as many rows as there are taps.
#[inline(always)]
fn vertical(data: &[u8], length: usize, taps: &Taps) -> Vec<u8> {
    let mut out = vec![0; taps.starts.len() * length];
    for (row, (start, weights)) in out.chunks_exact_mut(length).zip(taps.iter()) {
        let data = &data[start * length..];
        let (blocks, rest) = row.as_chunks_mut::<BLOCK>();
        let tail = blocks.len() * BLOCK;
        for (b, block) in blocks.iter_mut().enumerate() {
            let mut sums = [HALF; BLOCK];
            for (k, weight) in weights.iter().enumerate() {
                let bytes = &data[k * length + b * BLOCK..][..BLOCK];
                for i in 0..BLOCK {
                    sums[i] += i32::from(bytes[i]) * weight;
                }
            }
            *block = to_bytes(&sums);
        }
        for (i, byte) in rest.iter_mut().enumerate() {
            let terms = weights.iter().enumerate().map(|(k, w)| i32::from(data[k * length + tail + i]) * w);
            *byte = to_byte(HALF + terms.sum::<i32>());
        }
    }
    out
}

/// Fractional bits of the weights: 8 bits for the pixel and 2 for overshoot are left of 32.
const PRECISION: u32 = 32 - 8 - 2;
const HALF: i32 = 1 << (PRECISION - 1);

#[inline(always)]
fn to_byte(sum: i32) -> u8 {
    (sum >> PRECISION).clamp(0, 255) as u8
}

/// [`to_byte`] of each; `map` of arrays is called instead of inlined.
#[inline(always)]
fn to_bytes<const N: usize>(sums: &[i32; N]) -> [u8; N] {
    let mut bytes = [0; N];
    for (byte, sum) in bytes.iter_mut().zip(sums) {
        *byte = to_byte(*sum);
    }
    bytes
}

/// A filter and its support, in pixels of the coarser side.
struct Filter {
    weight: fn(f64) -> f64,
    support: f64,
}

impl Filter {
    /// `None` for nearest, which has no filter.
    fn of(interpolation: Interpolation) -> Option<Self> {
        Some(match interpolation {
            Interpolation::Nearest => return None,
            Interpolation::Bilinear => Self { weight: |x| (1. - x.abs()).max(0.), support: 1. },
            Interpolation::Bicubic => Self { weight: bicubic, support: 2. },
            Interpolation::Lanczos => Self { weight: lanczos, support: 3. },
        })
    }

    /// The weights of one axis that goes from `from` to `to` pixels.
    fn taps(&self, from: usize, to: usize) -> Taps {
        let scale = from as f64 / to as f64;
        let stretch = scale.max(1.);
        let (support, shrink) = (self.support * stretch, 1. / stretch);
        let (mut starts, mut ends) = (Vec::with_capacity(to), Vec::with_capacity(to));
        let centre = |i: usize| (i as f64 + 0.5) * scale;
        for i in 0..to {
            starts.push((centre(i) - support + 0.5).max(0.) as usize);
            ends.push(((centre(i) + support + 0.5) as usize).min(from));
        }
        // Every pixel has the same number of weights, some of them 0, so that all loops have one length.
        let count = starts.iter().zip(&ends).map(|(start, end)| end - start).max().unwrap_or(0);
        let mut weights = vec![0; count * to];
        let mut raw: Vec<f64> = Vec::with_capacity(count);
        for (i, weights) in weights.chunks_exact_mut(count).enumerate() {
            let (start, end) = (starts[i], ends[i]);
            raw.clear();
            raw.extend((start..end).map(|k| (self.weight)((k as f64 - centre(i) + 0.5) * shrink)));
            let total: f64 = raw.iter().sum();
            starts[i] = start.min(from - count);
            for (weight, raw) in weights[start - starts[i]..].iter_mut().zip(&raw) {
                *weight = (raw / total * f64::from(1 << PRECISION)).round() as i32;
            }
        }
        Taps { starts, weights, count }
    }
}

/// The first source pixel and the weights for each pixel of one axis of the result.
struct Taps {
    starts: Vec<usize>,
    /// The weights, `count` for each pixel.
    weights: Vec<i32>,
    count: usize,
}

impl Taps {
    #[inline(always)]
    fn iter(&self) -> impl Iterator<Item = (usize, &[i32])> {
        self.starts.iter().copied().zip(self.weights.chunks_exact(self.count))
    }
}

/// Keys' cubic with a = −1/2.
fn bicubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    match x.abs() {
        x if x < 1. => ((A + 2.) * x - (A + 3.)) * x * x + 1.,
        x if x < 2. => (((x - 5.) * x + 8.) * x - 4.) * A,
        _ => 0.,
    }
}

fn lanczos(x: f64) -> f64 {
    let sinc = |x: f64| {
        let x = x * std::f64::consts::PI;
        if x == 0. { 1. } else { x.sin() / x }
    };
    if (-3. ..3.).contains(&x) { sinc(x) * sinc(x / 3.) } else { 0. }
}

/// Takes the source pixel below each centre. Positions are accumulated as in Pillow, so that ties are rounded in the
/// same way.
fn nearest<const C: usize>(image: &Image, rect: Rect, to: Size) -> Image {
    let positions = |from: usize, to: usize| {
        let step = from as f64 / to as f64;
        let following = std::iter::successors(Some(step * 0.5), move |at| Some(at + step));
        following.map(move |at| (at as usize).min(from - 1)).take(to)
    };
    let columns: Vec<usize> = positions(rect.width, to.1).map(|x| (rect.left + x) * C).collect();
    let mut data = Vec::with_capacity(to.0 * to.1 * C);
    for y in positions(rect.height, to.0) {
        let row = &image.data[(rect.top + y) * image.width * C..];
        columns.iter().for_each(|x| data.extend_from_slice(&row[*x..x + C]));
    }
    Image::new(to.0, to.1, C, data)
}
