//! GELU, the exact (erf) form.

#[cfg(feature = "cuda")]
use super::cuda;
use super::elementwise::{Elementwise, elementwise};
use super::simd::exp;
use super::storage::fused;
use candle_core::{Result, Tensor};

/// x·Φ(x), elementwise (arXiv:1606.08415; PyTorch's default form).
///
/// # Errors
/// The device fails.
pub fn gelu(x: &Tensor) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if cuda::fused(&[x]) {
        return cuda::elementwise(Gelu::NAME, x);
    }
    if fused(&[x]) { elementwise::<Gelu>(x) } else { x.gelu_erf() }
}

struct Gelu;

impl Elementwise for Gelu {
    const NAME: &'static str = "gelu";
    const COST: usize = 4;

    #[inline(always)]
    fn value(x: f32) -> f32 {
        x * normal(x).0
    }

    #[inline(always)]
    fn gradient(x: f32, grad: f32) -> f32 {
        let (cumulative, density) = normal(x);
        grad * (cumulative + x * density)
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
    let t = 1. / x.abs().mul_add(0.26, 1.);
    let p = 0.030_504_942f32;
    let p = p.mul_add(t, -0.152_829_1);
    let p = p.mul_add(t, 0.251_491_84);
    let p = p.mul_add(t, -0.150_949_61);
    let p = p.mul_add(t, 0.160_948_29);
    let p = p.mul_add(t, 0.051_027_503);
    let p = p.mul_add(t, 0.103_030_3);
    let p = p.mul_add(t, 0.103_016_74);
    let p = p.mul_add(t, 0.103_759_06);
    let tail = p * t * bell;
    (if x < 0. { tail } else { 1. - tail }, FRAC_1_SQRT_2PI * bell)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::gradient_check;

    #[test]
    fn values_and_gradients() {
        let x = gradient_check::random(&[3, 7, 19], 0);
        gradient_check::operator(&[x], |t| gelu(&t[0]), 1e-6);
        let x = gradient_check::random(&[5, 8], 1);
        gradient_check::operator(&[x], |t| gelu(&t[0].t()?.narrow(0, 2, 5)?), 1e-6);
    }

    #[test]
    fn the_normal_distribution_is_accurate_in_both_tails() {
        let grid: Vec<f64> = (-60_000..=60_000).map(|i| f64::from(i as f32 * 1e-4)).collect();
        let erf = Tensor::new(&grid[..], &candle_core::Device::Cpu).unwrap();
        let erf = (erf * std::f64::consts::FRAC_1_SQRT_2).unwrap().erf().unwrap().to_vec1::<f64>().unwrap();
        let error = |(&x, erf): (&f64, &f64)| (f64::from(normal(x as f32).0) - 0.5 * (1. + erf)).abs();
        let worst = gradient_check::greatest(grid.iter().zip(&erf).map(error));
        assert!(worst < 2.1e-7, "{worst:e}");
        for (x, expected) in [(-2., 0.022_750_132), (-5., 2.866_515_7e-7), (-10., 7.619_853e-24)] {
            let relative = (f64::from(normal(x).0) / expected - 1.).abs();
            assert!(relative < 5e-6, "{x}: {relative:e}");
        }
        assert!(normal(f32::NAN).0.is_nan());
    }
}
