//! Max pooling with PyTorch's rule for equal values.
//!
//! candle's own divides the gradient among positions that are not maxima. Here the position of each
//! maximum is found once, and both passes read it.

use super::autograd::{ApplyOp, deliver};
#[cfg(feature = "cuda")]
use super::cuda;
use super::fresh::to_overwrite;
use super::simd::{Kernel, vectorized};
use super::storage::{argument, count, for_rows_costing, fused, values};
use candle_core::{CpuStorage, CustomOp1, DType, Device, Layout, Result, Shape, Tensor, bail};
use std::ops::Range;

/// Largest value of each `kernel`×`kernel` window, every `stride` pixels from −`padding`.
/// `x` [B, C, H, W] -> [B, C, (H + 2·padding − kernel)/stride + 1, …].
///
/// The first largest value in row-major order gets the whole gradient of its window. The last NaN of
/// a window counts as its largest value, as in PyTorch. Padding never wins.
///
/// # Errors
/// When a window does not fit, or the padding is more than half of it.
pub fn max_pool2d(x: &Tensor, kernel: usize, stride: usize, padding: usize) -> Result<Tensor> {
    let (b, c, h, w) = x.dims4()?;
    let windows = |size: usize| (size.saturating_add(padding.saturating_mul(2))).checked_sub(kernel);
    let sizes = windows(h).zip(windows(w)).filter(|_| kernel > 0 && stride > 0 && h * w > 0);
    let Some((rows, columns)) = sizes.filter(|_| padding <= kernel / 2 && u32::try_from(h * w).is_ok())
    else {
        bail!("max_pool2d: x {:?}, kernel {kernel}, stride {stride}, padding {padding}", x.shape());
    };
    let to = (rows / stride + 1, columns / stride + 1);
    count("max_pool2d", &[b, c, to.0, to.1])?;
    let windows = Windows { kernel, stride, padding, from: (h, w), to };
    if fused(&[x]) {
        let x = x.contiguous()?;
        let maxima = {
            let (guard, layout) = x.storage_and_layout();
            windows.maxima(values(&guard, layout)?, f32::NEG_INFINITY)
        };
        return x.apply1(MaxPool { to, maxima });
    }
    #[cfg(feature = "cuda")]
    if cuda::fused(&[x]) {
        return cuda::max_pool2d(x, (kernel, stride, padding), to);
    }
    let held = x.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?;
    let maxima = windows.maxima(&held, f64::NEG_INFINITY);
    let maxima = Tensor::from_vec(maxima, (b, c, to.0 * to.1), x.device())?;
    x.contiguous()?.flatten_from(2)?.gather(&maxima, 2)?.reshape((b, c, to.0, to.1))
}

/// The windows of one plane.
struct Windows {
    kernel: usize,
    stride: usize,
    padding: usize,
    from: (usize, usize),
    to: (usize, usize),
}

impl Windows {
    /// Index within its plane of the largest value of each window.
    fn maxima<T: Copy + PartialOrd + Send + Sync>(&self, x: &[T], lowest: T) -> Vec<u32> {
        let (from, to) = (self.from.0 * self.from.1, self.to.0 * self.to.1);
        let mut maxima = vec![0u32; x.len() / from * to];
        for_rows_costing(from + self.kernel * to, &mut maxima, to, |planes, maxima| {
            vectorized(Maxima {
                windows: self,
                x: &x[planes.start * from..planes.end * from],
                lowest,
                maxima,
            });
        });
        maxima
    }

    /// The inputs under the window of output `i` of an axis with `size` inputs.
    fn span(&self, i: usize, size: usize) -> Range<usize> {
        let first = (i * self.stride).saturating_sub(self.padding);
        first..(i * self.stride + self.kernel - self.padding).min(size)
    }
}

/// Positions of the largest values of whole planes.
struct Maxima<'a, T> {
    windows: &'a Windows,
    x: &'a [T],
    lowest: T,
    maxima: &'a mut [u32],
}

impl<T: Copy + PartialOrd> Kernel for Maxima<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Windows { kernel, stride, padding, from: (h, w), to: (to_h, to_w) } = *self.windows;
        let mut largest = vec![self.lowest; to_w];
        let planes = self.x.chunks_exact(h * w).zip(self.maxima.chunks_exact_mut(to_h * to_w));
        for (x, maxima) in planes {
            for (i, maxima) in maxima.chunks_exact_mut(to_w).enumerate() {
                let rows = self.windows.span(i, h);
                largest.fill(self.lowest);
                for (j, maximum) in maxima.iter_mut().enumerate() {
                    *maximum = (rows.start * w + self.windows.span(j, w).start) as u32;
                }
                for row in rows {
                    for k in 0..kernel {
                        // Outputs whose k-th column lies inside of the plane.
                        let first = padding.saturating_sub(k).div_ceil(stride);
                        let end = ((w + padding).saturating_sub(k)).div_ceil(stride).min(to_w);
                        if first >= end {
                            continue;
                        }
                        let start = row * w + first * stride + k - padding;
                        let x = x[start..(row + 1) * w].iter().step_by(stride).enumerate();
                        let outputs = largest[first..end].iter_mut().zip(&mut maxima[first..end]);
                        for ((largest, maximum), (j, &x)) in outputs.zip(x) {
                            #[allow(clippy::eq_op, reason = "NaN differs from itself")]
                            let wins = x > *largest || x != x;
                            *largest = if wins { x } else { *largest };
                            *maximum = if wins { (start + j * stride) as u32 } else { *maximum };
                        }
                    }
                }
            }
        }
    }
}

struct MaxPool {
    to: (usize, usize),
    maxima: Vec<u32>,
}

impl CustomOp1 for MaxPool {
    fn name(&self) -> &'static str {
        "max_pool2d"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (b, c, h, w) = layout.shape().dims4()?;
        let (x, to) = (argument(x, layout)?, self.to.0 * self.to.1);
        let mut y = to_overwrite(self.maxima.len()); // [B, C, h, w]
        for_rows_costing(to, &mut y, to, |planes, y| {
            let maxima = self.maxima[planes.start * to..planes.end * to].chunks_exact(to);
            let x = x[planes.start * h * w..].chunks_exact(h * w);
            for (y, (x, maxima)) in y.chunks_exact_mut(to).zip(x.zip(maxima)) {
                y.iter_mut().zip(maxima).for_each(|(y, &i)| *y = x[i as usize]);
            }
        });
        Ok((CpuStorage::F32(y), (b, c, self.to.0, self.to.1).into()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let (_, _, h, w) = x.dims4()?;
        let grad = grad.contiguous()?;
        let (guard, layout) = grad.storage_and_layout();
        let (grad, to) = (values(&guard, layout)?, self.to.0 * self.to.1);
        let mut dx = vec![0f32; x.elem_count()]; // [B, C, H, W]
        for_rows_costing(h * w + to, &mut dx, h * w, |planes, dx| {
            let span = planes.start * to..planes.end * to;
            let windows = grad[span.clone()].chunks_exact(to).zip(self.maxima[span].chunks_exact(to));
            for (dx, (grad, maxima)) in dx.chunks_exact_mut(h * w).zip(windows) {
                grad.iter().zip(maxima).for_each(|(g, &i)| dx[i as usize] += g);
            }
        });
        Tensor::from_vec(dx, x.shape(), x.device()).map(|dx| deliver(x, dx))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::gradient_check;
    use candle_core::Var;

    #[test]
    fn values_and_gradients() {
        for (h, w, kernel, stride, padding) in [
            (4, 6, 2, 2, 0),
            (7, 9, 3, 2, 1),
            (5, 5, 3, 1, 1),
            (6, 5, 1, 2, 0),
            (5, 8, 2, 3, 1),
            (2, 2, 4, 1, 2),
        ] {
            let inputs = [gradient_check::random(&[2, 3, h, w], 0)];
            gradient_check::operator(&inputs, |t| max_pool2d(&t[0], kernel, stride, padding), 2e-6);
        }
        let inputs = [gradient_check::random(&[2, 7, 3, 5], 0)];
        gradient_check::operator(&inputs, |t| max_pool2d(&t[0].transpose(1, 3)?, 3, 2, 1), 2e-6);
        gradient_check::empty(&[gradient_check::random(&[0, 3, 4, 5], 0)], |t| max_pool2d(&t[0], 2, 2, 0));
    }

    /// Gradient of the sum of the pool of a 3×3 image, and the pool.
    fn pooled(values: [f32; 9], kernel: usize, stride: usize, padding: usize) -> (Vec<f32>, Vec<f32>) {
        let x = Var::from_tensor(&Tensor::from_slice(&values, (1, 1, 3, 3), &Device::Cpu).unwrap()).unwrap();
        let y = max_pool2d(&x, kernel, stride, padding).unwrap();
        let store = y.sum_all().unwrap().backward().unwrap();
        let flat = |t: &Tensor| t.flatten_all().unwrap().to_vec1().unwrap();
        (flat(&y), flat(store.get(&x).unwrap()))
    }

    #[test]
    fn the_first_of_equal_values_gets_the_gradient() {
        assert_eq!(pooled([1.; 9], 3, 1, 0).1, [1., 0., 0., 0., 0., 0., 0., 0., 0.]);
        assert_eq!(
            pooled([0., 2., 2., 0., 2., 2., 0., 0., 0.], 2, 1, 0).1,
            [0., 2., 0., 0., 2., 0., 0., 0., 0.]
        );
        let lowest = f32::NEG_INFINITY;
        let (y, gradient) = pooled([lowest; 9], 3, 2, 1);
        assert_eq!(y, [lowest; 4]);
        assert_eq!(gradient, [1., 1., 0., 1., 1., 0., 0., 0., 0.]);
    }

    #[test]
    fn nan_wins() {
        let (y, gradient) = pooled([9., f32::NAN, 1., f32::NAN, 0., 1., 1., 1., 1.], 3, 1, 0);
        assert!(y[0].is_nan());
        assert_eq!(gradient, [0., 0., 0., 1., 0., 0., 0., 0., 0.]);
    }

    #[test]
    fn the_bits_do_not_depend_on_the_number_of_threads() {
        gradient_check::threads(&[gradient_check::random(&[3, 5, 40, 30], 0)], |t| {
            max_pool2d(&t[0], 3, 2, 1)
        });
    }

    #[test]
    fn wrong_windows_are_refused() {
        let x = gradient_check::single(&gradient_check::random(&[1, 2, 4, 4], 0));
        for (kernel, stride, padding) in [(0, 1, 0), (2, 0, 0), (5, 1, 0), (2, 1, 2), (usize::MAX, 1, 0)] {
            let error = max_pool2d(&x, kernel, stride, padding).unwrap_err().to_string();
            assert!(error.contains("max_pool2d: x [1, 2, 4, 4]"), "{error}");
        }
    }
}
