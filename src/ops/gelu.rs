//! GELU, the exact (erf) form.

use super::simd::{Kernel, exp, vectorized};
use super::storage::{argument, for_rows, fused, values};
use super::tape::Taped;
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

/// x·Φ(x), elementwise (arXiv:1606.08415; PyTorch's default form).
pub fn gelu(x: &Tensor) -> Result<Tensor> {
    if fused(&[x]) { x.contiguous()?.taped1(Gelu) } else { x.gelu_erf() }
}

struct Gelu;

impl CustomOp1 for Gelu {
    fn name(&self) -> &'static str {
        "gelu"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = argument(x, layout)?;
        let mut y = vec![0f32; x.len()];
        for_rows(&mut y, 1, |range, y| vectorized(Forward { x: &x[range], y }));
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let grad = grad.contiguous()?;
        let (x_guard, x_layout) = x.storage_and_layout();
        let (grad_guard, grad_layout) = grad.storage_and_layout();
        let (x_values, grad) = (values(&x_guard, x_layout)?, values(&grad_guard, grad_layout)?);
        let mut dx = vec![0f32; x_values.len()];
        for_rows(&mut dx, 1, |range, dx| {
            vectorized(Backward { x: &x_values[range.clone()], grad: &grad[range], dx });
        });
        Tensor::from_vec(dx, x.shape(), x.device()).map(Some)
    }
}

struct Forward<'a> {
    x: &'a [f32],
    y: &'a mut [f32],
}

impl Kernel for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for (y, &x) in self.y.iter_mut().zip(self.x) {
            *y = x * normal(x).0;
        }
    }
}

struct Backward<'a> {
    x: &'a [f32],
    grad: &'a [f32],
    dx: &'a mut [f32],
}

impl Kernel for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for (dx, (&x, &grad)) in self.dx.iter_mut().zip(self.x.iter().zip(self.grad)) {
            let (cumulative, density) = normal(x);
            *dx = grad * (cumulative + x * density);
        }
    }
}

/// Φ(x) and φ(x), the standard normal distribution and its density.
///
/// Φ(−|x|) = exp(−x²/2)·t·P(t) with t = 1/(1 + 0.26·|x|), the form of Abramowitz and Stegun 7.1.26;
/// P is a minimax fit of degree 8 to a relative 2.5e-8 over |x| ≤ 14. In f32 the absolute
/// error is 2e-7; the relative one in the lower tail grows with x² from 4e-7 to 5e-6 at −10.
#[inline(always)]
pub(super) fn normal(x: f32) -> (f32, f32) {
    const FRAC_1_SQRT_2PI: f32 = 0.398_942_3;
    let bell = exp(-0.5 * x * x);
    let t = 1. / (1. + 0.26 * x.abs());
    let p = 0.030_504_942;
    let p = p * t - 0.152_829_1;
    let p = p * t + 0.251_491_84;
    let p = p * t - 0.150_949_61;
    let p = p * t + 0.160_948_29;
    let p = p * t + 0.051_027_503;
    let p = p * t + 0.103_030_3;
    let p = p * t + 0.103_016_74;
    let p = p * t + 0.103_759_06;
    let tail = p * t * bell;
    (if x < 0. { tail } else { 1. - tail }, FRAC_1_SQRT_2PI * bell)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check;

    #[test]
    fn values_and_gradients() {
        let x = check::random(&[3, 7, 19], 0);
        check::operator(&[x], |t| gelu(&t[0]), 1e-6);
        let x = check::random(&[5, 8], 1);
        check::operator(&[x], |t| gelu(&t[0].t()?.narrow(0, 2, 5)?), 1e-6);
    }

    #[test]
    fn the_normal_distribution_is_accurate_in_both_tails() {
        let grid: Vec<f64> = (-60_000..=60_000).map(|i| f64::from(i as f32 * 1e-4)).collect();
        let erf = Tensor::new(&grid[..], &candle_core::Device::Cpu).unwrap();
        let erf = (erf * std::f64::consts::FRAC_1_SQRT_2).unwrap().erf().unwrap().to_vec1::<f64>().unwrap();
        let error = |(&x, erf): (&f64, &f64)| (f64::from(normal(x as f32).0) - 0.5 * (1. + erf)).abs();
        let worst = grid.iter().zip(&erf).map(error).fold(0., f64::max);
        assert!(worst < 2.1e-7, "{worst:e}");
        for (x, expected) in [(-2., 0.022_750_132), (-5., 2.866_515_7e-7), (-10., 7.619_853e-24)] {
            let relative = (f64::from(normal(x).0) / expected - 1.).abs();
            assert!(relative < 5e-6, "{x}: {relative:e}");
        }
        assert!(normal(f32::NAN).0.is_nan());
    }
}
