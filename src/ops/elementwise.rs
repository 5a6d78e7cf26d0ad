//! Elementwise operators: a fused kernel for values and gradients of f32 tensors on the CPU.

use super::autograd::ApplyOp;
use super::fresh::to_overwrite;
use super::simd::{Kernel, vectorized};
use super::storage::{argument, for_rows_costing, values};
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use std::marker::PhantomData;

/// A function of one value. Mark both methods `#[inline(always)]`: see [`Kernel`].
pub(super) trait Elementwise: Send + Sync + 'static {
    /// The name of the operator.
    const NAME: &'static str;

    /// The cost of a value, in passes over memory.
    const COST: usize;

    /// f(x).
    fn value(x: f32) -> f32;

    /// grad·f′(x).
    fn gradient(x: f32, grad: f32) -> f32;
}

/// Applies `F` to every value of a contiguous f32 tensor on the CPU.
pub(super) fn elementwise<F: Elementwise>(x: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply1(ElementwiseOp::<F>(PhantomData))
}

struct ElementwiseOp<F>(PhantomData<F>);

impl<F: Elementwise> CustomOp1 for ElementwiseOp<F> {
    fn name(&self) -> &'static str {
        F::NAME
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = argument(x, layout)?;
        let mut y = to_overwrite(x.len());
        for_rows_costing(F::COST, &mut y, 1, |range, y| {
            vectorized(Forward::<F> { x: &x[range], y, function: PhantomData })
        });
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let grad = grad.contiguous()?;
        let (x_guard, x_layout) = x.storage_and_layout();
        let (grad_guard, grad_layout) = grad.storage_and_layout();
        let (x_values, grad) = (values(&x_guard, x_layout)?, values(&grad_guard, grad_layout)?);
        let mut dx = to_overwrite(x_values.len());
        for_rows_costing(F::COST, &mut dx, 1, |range, dx| {
            let (x, grad) = (&x_values[range.clone()], &grad[range]);
            vectorized(Backward::<F> { x, grad, dx, function: PhantomData });
        });
        Tensor::from_vec(dx, x.shape(), x.device()).map(Some)
    }
}

struct Forward<'a, F> {
    x: &'a [f32],
    y: &'a mut [f32],
    function: PhantomData<F>,
}

impl<F: Elementwise> Kernel for Forward<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for (y, &x) in self.y.iter_mut().zip(self.x) {
            *y = F::value(x);
        }
    }
}

struct Backward<'a, F> {
    x: &'a [f32],
    grad: &'a [f32],
    dx: &'a mut [f32],
    function: PhantomData<F>,
}

impl<F: Elementwise> Kernel for Backward<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for (dx, (&x, &grad)) in self.dx.iter_mut().zip(self.x.iter().zip(self.grad)) {
            *dx = F::gradient(x, grad);
        }
    }
}
