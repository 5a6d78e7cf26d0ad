//! Resizes of feature maps as PyTorch's `interpolate` does them with `align_corners=False`. Images of data
//! sets are resized in [`crate::data`] with PIL's filters.

use super::resample::{Axis, resample};
use super::storage::count;
use candle_core::{Result, Tensor, bail};

/// Nearest-neighbour resize: output i is input ⌊i·from/to⌋, with PyTorch's rounding of the ratio to f32
/// (mode `nearest`). `x` [B, C, H, W], `size` (h, w) -> [B, C, h, w].
pub fn resize_nearest(x: &Tensor, size: (usize, usize)) -> Result<Tensor> {
    resize("resize_nearest", x, size, |from, to, i| {
        let ratio = from as f32 / to as f32;
        let source = if to == 2 * from { i / 2 } else { (i as f32 * ratio) as usize };
        vec![(source.min(from - 1), 1.)]
    })
}

/// Bilinear resize. `x` [B, C, H, W], `size` (h, w) -> [B, C, h, w].
pub fn resize_bilinear(x: &Tensor, size: (usize, usize)) -> Result<Tensor> {
    resize("resize_bilinear", x, size, |from, to, i| {
        let source = centre(from as f64 / to as f64, i).max(0.);
        let (low, share) = ((source as usize).min(from - 1), source.fract());
        vec![(low, 1. - share), ((low + 1).min(from - 1), share)]
    })
}

/// Variants of bicubic interpolation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bicubic {
    /// Four neighbours, a = −0.75 (`size`).
    Plain,
    /// The same kernel, but with the spacing of outputs as if there were that many more: `scale_factor` is (outputs +
    /// offset) / inputs.
    Offset(f64),
    /// a = −0.5, with a kernel that is widened to the spacing of the outputs when shrinking (`antialias`).
    Antialias,
}

/// Bicubic resize with a = −0.75. `x` [B, C, H, W], `size` (h, w) -> [B, C, h, w].
pub fn resize_bicubic(x: &Tensor, size: (usize, usize)) -> Result<Tensor> {
    resize_bicubic_by(Bicubic::Plain, x, size)
}

/// Bicubic resize in the given variant. `x` [B, C, H, W], `size` (h, w) -> [B, C, h, w].
pub fn resize_bicubic_by(kernel: Bicubic, x: &Tensor, size: (usize, usize)) -> Result<Tensor> {
    resize("resize_bicubic", x, size, |from, to, i| match kernel {
        Bicubic::Plain => four_taps(from, centre(from as f64 / to as f64, i)),
        Bicubic::Offset(offset) => four_taps(from, centre(from as f64 / (to as f64 + offset), i)),
        Bicubic::Antialias => wide_taps(from, to, i),
    })
}

/// The four inputs around `source`, of which those beyond an edge are the one at it.
fn four_taps(from: usize, source: f64) -> Vec<(usize, f64)> {
    const A: f64 = -0.75;
    let t = source - source.floor();
    let weights = [far(A, t + 1.), near(A, t), near(A, 1. - t), far(A, 2. - t)];
    let tap = |(k, weight)| {
        let position = source.floor() as isize + k as isize - 1;
        (position.clamp(0, from as isize - 1) as usize, weight)
    };
    weights.into_iter().enumerate().map(tap).collect()
}

/// All inputs below a kernel that is stretched where outputs are further apart than inputs; weights sum to 1.
fn wide_taps(from: usize, to: usize, i: usize) -> Vec<(usize, f64)> {
    const A: f64 = -0.5;
    let ratio = from as f64 / to as f64;
    let (source, stretch) = (centre(ratio, i), ratio.max(1.));
    let first = (source - 2. * stretch + 1.).max(0.) as usize;
    let end = ((source + 2. * stretch + 1.) as usize).min(from);
    let weight = |input: usize| match ((input as f64 - source) / stretch).abs() {
        x if x < 1. => near(A, x),
        x if x < 2. => far(A, x),
        _ => 0.,
    };
    let sum: f64 = (first..end).map(weight).sum();
    (first..end).map(|input| (input, weight(input) / sum)).collect()
}

/// The cubic convolution kernel at a distance up to 1.
fn near(a: f64, x: f64) -> f64 {
    ((a + 2.) * x - (a + 3.)) * x * x + 1.
}

/// The cubic convolution kernel at a distance between 1 and 2.
fn far(a: f64, x: f64) -> f64 {
    ((a * x - 5. * a) * x + 8. * a) * x - 4. * a
}

/// Position of the centre of output pixel `i` in the input, which has `ratio` times as many pixels.
fn centre(ratio: f64, i: usize) -> f64 {
    (i as f64 + 0.5) * ratio - 0.5
}

/// Resizes both axes; `taps` are those of (from, to, output).
fn resize(
    name: &'static str,
    x: &Tensor,
    size: (usize, usize),
    taps: impl Fn(usize, usize, usize) -> Vec<(usize, f64)>,
) -> Result<Tensor> {
    let (b, c, h, w) = x.dims4()?;
    if [h, w, size.0, size.1].contains(&0) {
        bail!("{name}: x {:?}, size {size:?}", x.shape());
    }
    count(name, &[b, c, size.0, size.1])?;
    let axis = |from: usize, to: usize| Axis::new(from, (0..to).map(|i| taps(from, to, i)));
    resample(name, x, axis(h, size.0), axis(w, size.1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::gradient_check;

    const SIZES: [((usize, usize), (usize, usize)); 6] = [
        ((3, 4), (6, 8)),
        ((5, 7), (3, 9)),
        ((1, 1), (2, 3)),
        ((7, 5), (2, 2)),
        ((4, 3), (4, 3)),
        ((6, 6), (1, 17)),
    ];

    #[test]
    fn values_and_gradients() {
        for ((h, w), size) in SIZES {
            let inputs = [gradient_check::random(&[2, 3, h, w], 0)];
            gradient_check::operator(&inputs, |t| resize_nearest(&t[0], size), 2e-6);
            gradient_check::operator(&inputs, |t| resize_bilinear(&t[0], size), 2e-6);
            gradient_check::operator(&inputs, |t| resize_bicubic(&t[0], size), 2e-6);
        }
        let inputs = [gradient_check::random(&[3, 5, 2, 4], 0)];
        gradient_check::operator(&inputs, |t| resize_bilinear(&t[0].transpose(1, 3)?, (4, 3)), 2e-6);
    }

    #[test]
    fn an_empty_batch_stays_empty() {
        let inputs = [gradient_check::random(&[0, 3, 4, 5], 0)];
        gradient_check::empty(&inputs, |t| resize_bilinear(&t[0], (2, 7)));
    }

    #[test]
    fn the_bits_do_not_depend_on_the_number_of_threads() {
        gradient_check::threads(&[gradient_check::random(&[2, 5, 40, 30], 0)], |t| {
            resize_bilinear(&t[0], (90, 70))
        });
    }

    #[test]
    fn wrong_sizes_are_refused() {
        let x = gradient_check::single(&gradient_check::random(&[1, 2, 4, 4], 0));
        for size in [(0, 3), (usize::MAX / 4, 8), (1 << 40, 1 << 40)] {
            let error = resize_nearest(&x, size).unwrap_err().to_string();
            assert!(error.contains("resize_nearest"), "{error}");
        }
        assert!(resize_bicubic(&x.squeeze(0).unwrap(), (2, 2)).is_err());
    }
}
