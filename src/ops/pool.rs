//! Average pooling and strided subsampling, as tables of weights of [`super::resample`].

use super::resample::{Axis, resample};
use super::storage::count;
use candle_core::{Result, Tensor, bail};

/// Means of `kernel` (rows, columns) windows that lie inside of `x`, every `stride` pixels; rows and
/// columns that fill no window are left out. `x` [B, C, H, W] -> [B, C, (H − kh)/sh + 1, (W − kw)/sw + 1].
pub fn avg_pool2d(x: &Tensor, kernel: (usize, usize), stride: (usize, usize)) -> Result<Tensor> {
    let (_, _, h, w) = x.dims4()?;
    let fits = |size: usize, kernel: usize, stride: usize| kernel > 0 && stride > 0 && kernel <= size;
    if !fits(h, kernel.0, stride.0) || !fits(w, kernel.1, stride.1) {
        bail!("avg_pool2d: x {:?}, kernel {kernel:?}, stride {stride:?}", x.shape());
    }
    let axis = |size: usize, kernel: usize, stride: usize| {
        means(size, (0..=(size - kernel) / stride).map(move |i| (i * stride, i * stride + kernel)))
    };
    resample("avg_pool2d", x, axis(h, kernel.0, stride.0), axis(w, kernel.1, stride.1))
}

/// Means over `size` (h, w) windows that cover `x`, as PyTorch cuts them: window i of n goes from
/// ⌊i·N/n⌋ to ⌈(i + 1)·N/n⌉, so that neighbours may overlap. `x` [B, C, H, W] -> [B, C, h, w].
pub fn adaptive_avg_pool2d(x: &Tensor, size: (usize, usize)) -> Result<Tensor> {
    let (b, c, h, w) = x.dims4()?;
    if [h, w, size.0, size.1].contains(&0) {
        bail!("adaptive_avg_pool2d: x {:?}, size {size:?}", x.shape());
    }
    count("adaptive_avg_pool2d", &[b, c, size.0, size.1])?;
    let axis = |from: usize, to: usize| {
        means(from, (0..to).map(move |i| (i * from / to, ((i + 1) * from).div_ceil(to))))
    };
    resample("adaptive_avg_pool2d", x, axis(h, size.0), axis(w, size.1))
}

/// Every `stride`-th row and column from the first: a max pool with kernel 1 (P6 of a feature
/// pyramid, arXiv:1612.03144). `x` [B, C, H, W] -> [B, C, ⌈H/stride⌉, ⌈W/stride⌉].
pub fn subsample(x: &Tensor, stride: usize) -> Result<Tensor> {
    let (_, _, h, w) = x.dims4()?;
    if stride == 0 || h * w == 0 {
        bail!("subsample: x {:?}, stride {stride}", x.shape());
    }
    let axis = |size: usize| means(size, (0..size).step_by(stride).map(|i| (i, i + 1)));
    resample("subsample", x, axis(h), axis(w))
}

/// One mean for every window (first, end).
fn means(size: usize, windows: impl Iterator<Item = (usize, usize)>) -> Axis {
    Axis::new(
        size,
        windows.map(|(first, end)| (first..end).map(|i| (i, 1. / (end - first) as f64)).collect()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::gradient_check;

    #[test]
    fn values_and_gradients() {
        let inputs = [gradient_check::random(&[2, 3, 7, 5], 0)];
        for (kernel, stride) in [((2, 2), (2, 2)), ((3, 2), (1, 3)), ((7, 5), (1, 1)), ((1, 1), (4, 4))] {
            gradient_check::operator(&inputs, |t| avg_pool2d(&t[0], kernel, stride), 2e-6);
        }
        for size in [(1, 1), (2, 2), (3, 3), (6, 6), (4, 9)] {
            gradient_check::operator(&inputs, |t| adaptive_avg_pool2d(&t[0], size), 2e-6);
        }
        for stride in [1, 2, 3, 9] {
            gradient_check::operator(&inputs, |t| subsample(&t[0], stride), 2e-6);
        }
        gradient_check::operator(&inputs, |t| avg_pool2d(&t[0].transpose(2, 3)?, (2, 2), (1, 1)), 2e-6);
    }

    #[test]
    fn an_empty_batch_stays_empty() {
        gradient_check::empty(&[gradient_check::random(&[0, 3, 4, 5], 0)], |t| subsample(&t[0], 2));
    }

    #[test]
    fn wrong_windows_are_refused() {
        let x = gradient_check::single(&gradient_check::random(&[1, 2, 4, 4], 0));
        assert!(avg_pool2d(&x, (5, 1), (1, 1)).unwrap_err().to_string().contains("[1, 2, 4, 4]"));
        assert!(avg_pool2d(&x, (2, 2), (0, 1)).is_err());
        assert!(adaptive_avg_pool2d(&x, (0, 1)).is_err());
        assert!(adaptive_avg_pool2d(&x, (usize::MAX, 2)).is_err());
        assert!(subsample(&x, 0).is_err());
    }
}
