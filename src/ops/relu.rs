//! ReLU with a slope of 0 at 0, as in PyTorch; candle's has 1 there, which would give gradients to padding and empty
//! regions.

#[cfg(feature = "cuda")]
use super::cuda;
use super::elementwise::{Elementwise, elementwise};
use super::storage::fused;
use candle_core::{Result, Tensor};

/// max(x, 0), elementwise; NaN stays NaN.
///
/// # Errors
/// The device fails.
pub fn relu(x: &Tensor) -> Result<Tensor> {
    if fused(&[x]) {
        return elementwise::<Relu>(x);
    }
    #[cfg(feature = "cuda")]
    if cuda::fused(&[x]) {
        return cuda::elementwise(Relu::NAME, x);
    }
    x.detach().le(0.)?.where_cond(&x.zeros_like()?, x)
}

struct Relu;

impl Elementwise for Relu {
    const NAME: &'static str = "relu";
    const COST: usize = 1;

    #[inline(always)]
    fn value(x: f32) -> f32 {
        if x <= 0. { 0. } else { x }
    }

    #[inline(always)]
    fn gradient(x: f32, grad: f32) -> f32 {
        if x <= 0. { 0. } else { grad }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::gradient_check;
    use candle_core::{DType, Device, Var};

    #[test]
    fn values_and_gradients() {
        gradient_check::operator(&[gradient_check::random(&[3, 7, 19], 0)], |t| relu(&t[0]), 1e-6);
        gradient_check::operator(
            &[gradient_check::random(&[5, 8], 1)],
            |t| relu(&t[0].t()?.narrow(0, 2, 5)?),
            1e-6,
        );
        gradient_check::threads(&[gradient_check::random(&[40_000], 2)], |t| relu(&t[0]));
        gradient_check::empty(&[gradient_check::random(&[0, 4], 0)], |t| relu(&t[0]));
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
