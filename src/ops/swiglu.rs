//! The gate of SwiGLU (arXiv:2002.05202): silu of one half of the channels times the other half.

use super::autograd::ApplyOp;
use super::fresh::to_overwrite;
use super::simd::{Kernel, exp, vectorized};
use super::storage::{argument, for_rows_costing, fused, values};
use candle_core::{CpuStorage, CustomOp1, D, Layout, Result, Shape, Tensor, bail};

/// silu(a)·b, where a and b are the two halves of the last dimension: `x` [.., 2·H] -> [.., H]; silu(a) = a/(1 + exp(−a)).
///
/// # Errors
/// The last dimension is odd or absent.
pub fn swiglu(x: &Tensor) -> Result<Tensor> {
    let width = x.dim(D::Minus1)?;
    if !width.is_multiple_of(2) {
        bail!("swiglu: the last dimension of {:?} is odd", x.shape());
    }
    if fused(&[x]) {
        return x.contiguous()?.apply1(Swiglu);
    }
    let (gate, value) = (x.narrow(D::Minus1, 0, width / 2)?, x.narrow(D::Minus1, width / 2, width / 2)?);
    gate.contiguous()?.silu()? * value
}

struct Swiglu;

/// The cost of a value, in passes over memory.
const COST: usize = 3;

/// silu(x) and its derivative.
#[inline(always)]
fn silu(x: f32) -> (f32, f32) {
    // exp of at most 0 does not overflow, and the quotients keep their relative precision on both sides.
    let tail = exp(-x.abs());
    let share = 1. / (1. + tail);
    let sigmoid = if x < 0. { tail * share } else { share };
    let complement = if x < 0. { share } else { tail * share };
    (x * sigmoid, sigmoid * (1. + x * complement))
}

impl CustomOp1 for Swiglu {
    fn name(&self) -> &'static str {
        "swiglu"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = argument(x, layout)?;
        let mut dims = layout.dims().to_vec();
        let Some(width) = dims.last_mut() else { bail!("swiglu: a scalar") };
        *width /= 2;
        let width = *width;
        let mut y = to_overwrite(x.len() / 2);
        for_rows_costing(COST * width, &mut y, width, |range, y| {
            vectorized(Forward { x: &x[2 * width * range.start..2 * width * range.end], width, y });
        });
        Ok((CpuStorage::F32(y), dims.into()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let grad = grad.contiguous()?;
        let (x_guard, x_layout) = x.storage_and_layout();
        let (grad_guard, grad_layout) = grad.storage_and_layout();
        let (x_values, grad) = (values(&x_guard, x_layout)?, values(&grad_guard, grad_layout)?);
        let width = x.dim(D::Minus1)? / 2;
        let mut dx = to_overwrite(x_values.len());
        for_rows_costing(2 * COST * width, &mut dx, 2 * width, |range, dx| {
            let x = &x_values[2 * width * range.start..2 * width * range.end];
            let grad = &grad[width * range.start..width * range.end];
            vectorized(Backward { x, grad, width, dx });
        });
        Tensor::from_vec(dx, x.shape(), x.device()).map(Some)
    }
}

struct Forward<'a> {
    x: &'a [f32],
    width: usize,
    y: &'a mut [f32],
}

impl Kernel for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let width = self.width.max(1);
        for (x, y) in self.x.chunks_exact(2 * width).zip(self.y.chunks_exact_mut(width)) {
            let (gate, value) = x.split_at(width);
            for (y, (&a, &b)) in y.iter_mut().zip(gate.iter().zip(value)) {
                *y = silu(a).0 * b;
            }
        }
    }
}

struct Backward<'a> {
    x: &'a [f32],
    grad: &'a [f32],
    width: usize,
    dx: &'a mut [f32],
}

impl Kernel for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let width = self.width.max(1);
        let lines = self.x.chunks_exact(2 * width).zip(self.grad.chunks_exact(width));
        for (dx, (x, grad)) in self.dx.chunks_exact_mut(2 * width).zip(lines) {
            let (gate, value) = x.split_at(width);
            let (of_gate, of_value) = dx.split_at_mut(width);
            let outputs = of_gate.iter_mut().zip(of_value);
            for ((of_gate, of_value), ((&a, &b), &g)) in outputs.zip(gate.iter().zip(value).zip(grad)) {
                let (active, slope) = silu(a);
                *of_gate = g * b * slope;
                *of_value = g * active;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::gradient_check;

    #[test]
    fn values_and_gradients() {
        for (shape, stream) in [(&[3usize, 7, 38][..], 0), (&[5, 2], 1), (&[40, 3000], 2)] {
            let x = [gradient_check::random(shape, stream)];
            match shape.iter().product::<usize>() < 1000 {
                true => gradient_check::operator(&x, |t| swiglu(&t[0]), 1e-6),
                false => gradient_check::composition(&x, |t| swiglu(&t[0]), 1e-6),
            }
            gradient_check::threads(&x, |t| swiglu(&t[0]));
        }
        let x = gradient_check::random(&[5, 8], 1);
        gradient_check::operator(&[x], |t| swiglu(&t[0].t()?.narrow(1, 1, 4)?), 1e-6);
        gradient_check::empty(&[gradient_check::random(&[0, 4], 0)], |t| swiglu(&t[0]));
    }

    #[test]
    fn silu_is_accurate_in_both_tails() {
        for x in [-80f32, -20., -5., -1e-3, 0., 1e-3, 2., 20., 80.] {
            let exact = f64::from(x) / (1. + (-f64::from(x)).exp());
            assert!((f64::from(silu(x).0) - exact).abs() <= 5e-7 * exact.abs(), "{x}");
        }
        assert!(silu(f32::NAN).0.is_nan() && silu(-200.).0.abs() < 1e-30 && silu(200.) == (200., 1.));
        let odd = gradient_check::random(&[2, 3], 0);
        assert!(swiglu(&odd).unwrap_err().to_string().contains("odd"));
    }
}
