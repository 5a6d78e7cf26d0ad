//! ReLU with a slope of 0 at 0, as in PyTorch; candle's has 1 there, so that padding and empty regions would learn.

use super::simd::{Kernel, vectorized};
use super::storage::{argument, for_rows, fused, values};
use super::tape::Taped;
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

/// max(x, 0), elementwise; NaN stays NaN.
pub fn relu(x: &Tensor) -> Result<Tensor> {
    if fused(&[x]) {
        return x.contiguous()?.taped1(Relu);
    }
    x.detach().le(0.)?.where_cond(&x.zeros_like()?, x)
}

struct Relu;

impl CustomOp1 for Relu {
    fn name(&self) -> &'static str {
        "relu"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = argument(x, layout)?;
        let mut y = vec![0f32; x.len()];
        for_rows(&mut y, 1, |range, y| vectorized(Forward { x: &x[range], y }));
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, y: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let grad = grad.contiguous()?;
        let (y_guard, y_layout) = y.storage_and_layout();
        let (grad_guard, grad_layout) = grad.storage_and_layout();
        let (y_values, grad) = (values(&y_guard, y_layout)?, values(&grad_guard, grad_layout)?);
        let mut dx = vec![0f32; y_values.len()];
        for_rows(&mut dx, 1, |range, dx| {
            vectorized(Backward { y: &y_values[range.clone()], grad: &grad[range], dx });
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
            *y = if x <= 0. { 0. } else { x };
        }
    }
}

struct Backward<'a> {
    y: &'a [f32],
    grad: &'a [f32],
    dx: &'a mut [f32],
}

impl Kernel for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for (dx, (&y, &grad)) in self.dx.iter_mut().zip(self.y.iter().zip(self.grad)) {
            *dx = if y == 0. { 0. } else { grad };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check;
    use candle_core::{DType, Device, Var};

    #[test]
    fn values_and_gradients() {
        check::operator(&[check::random(&[3, 7, 19], 0)], |t| relu(&t[0]), 1e-6);
        check::operator(&[check::random(&[5, 8], 1)], |t| relu(&t[0].t()?.narrow(0, 2, 5)?), 1e-6);
        check::threads(&[check::random(&[40_000], 2)], |t| relu(&t[0]));
        check::empty(&[check::random(&[0, 4], 0)], |t| relu(&t[0]));
    }

    #[test]
    fn the_slope_at_0_is_0_in_every_type() {
        for dtype in [DType::F32, DType::F64, DType::BF16] {
            let x = Tensor::new(&[-1f32, 0., -0., 2., f32::INFINITY, f32::NEG_INFINITY], &Device::Cpu);
            let x = Var::from_tensor(&x.unwrap().to_dtype(dtype).unwrap()).unwrap();
            let y = relu(&x).unwrap();
            let slopes = y.sum_all().unwrap().backward().unwrap().get(&x).unwrap().clone();
            let values = |t: &Tensor| t.to_dtype(DType::F32).unwrap().to_vec1::<f32>().unwrap();
            assert_eq!(values(&y), [0., 0., 0., 2., f32::INFINITY, 0.], "{dtype:?}");
            assert_eq!(values(&slopes), [0., 0., 0., 1., 1., 0.], "{dtype:?}");
        }
        let nan = Tensor::new(&[f32::NAN], &Device::Cpu).unwrap();
        assert!(relu(&nan).unwrap().to_vec1::<f32>().unwrap()[0].is_nan());
    }
}
