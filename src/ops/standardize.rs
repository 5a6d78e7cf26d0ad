//! Rows with mean 0 and variance 1, for targets.

use super::autograd::{ApplyOp, records};
use super::fresh::to_overwrite;
use super::simd::{Kernel, sum, vectorized};
use super::storage::{argument, for_rows, fused};
use candle_core::{CpuStorage, CustomOp1, D, Layout, Result, Shape, Tensor};

/// (x − mean) / √(variance + `eps`) over the last dimension, with the unbiased variance: `x` [.., C] -> [.., C].
///
/// # Errors
/// The device fails.
pub fn standardize(x: &Tensor, eps: f64) -> Result<Tensor> {
    if fused(&[x]) && !records([x]) && x.elem_count() > 0 {
        return x.contiguous()?.apply1(Standardize { eps: eps as f32 });
    }
    let (mean, deviation) = mean_and_deviation(x, eps)?;
    x.broadcast_sub(&mean)?.broadcast_div(&deviation)
}

/// Mean and √(unbiased variance + `eps`) of every row of `x` [.., C]. [.., 1] each
///
/// # Errors
/// The device fails.
pub fn mean_and_deviation(x: &Tensor, eps: f64) -> Result<(Tensor, Tensor)> {
    let count = x.dim(D::Minus1)? as f64;
    let mean = x.mean_keepdim(D::Minus1)?;
    let variance = (x.broadcast_sub(&mean)?.sqr()?.sum_keepdim(D::Minus1)? / (count - 1.))?;
    Ok((mean, (variance + eps)?.sqrt()?))
}

/// Has no backward pass: it is for constants.
struct Standardize {
    eps: f32,
}

impl CustomOp1 for Standardize {
    fn name(&self) -> &'static str {
        "standardize"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (x, width) = (argument(x, layout)?, layout.dims().last().copied().unwrap_or(1));
        let mut y = to_overwrite(x.len());
        for_rows(&mut y, width, |rows, y| {
            vectorized(Rows { x: &x[rows.start * width..rows.end * width], width, eps: self.eps, y });
        });
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }
}

struct Rows<'a> {
    x: &'a [f32],
    width: usize,
    eps: f32,
    y: &'a mut [f32],
}

impl Kernel for Rows<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { x, width, eps, y } = self;
        for (y, x) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
            let mean = sum(x, |x| x) / width as f32;
            let variance = sum(x, |x| (x - mean) * (x - mean)) / (width as f32 - 1.);
            let deviation = (variance + eps).sqrt();
            for (y, &x) in y.iter_mut().zip(x) {
                *y = (x - mean) / deviation;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::gradient_check;

    #[test]
    fn constants_are_standardized_as_by_the_composition() {
        for shape in [&[2, 5, 12][..], &[3, 27], &[4, 192]] {
            let x = gradient_check::random(shape, 0);
            let found = standardize(&gradient_check::single(&x), 1e-6).unwrap();
            let expected = gradient_check::single(&standardize(&x, 1e-6).unwrap());
            assert_eq!(found.dims(), shape);
            let flat = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            for (a, b) in flat(&found).iter().zip(flat(&expected)) {
                assert!((a - b).abs() < 2e-6, "{a} {b}");
            }
        }
    }

    #[test]
    fn variables_get_gradients() {
        let x = [gradient_check::random(&[3, 5], 0)];
        gradient_check::operator(&x, |t| standardize(&t[0], 1e-3), 3e-6);
    }

    #[test]
    fn the_bits_do_not_depend_on_the_number_of_threads() {
        let x = gradient_check::single(&gradient_check::random(&[900, 64], 0));
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| standardize(&x, 1e-6).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap())
        };
        assert_eq!(run(1), run(3));
    }
}
