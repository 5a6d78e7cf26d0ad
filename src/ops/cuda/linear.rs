//! y = x·Wᵀ + b.

use super::blas::{Operand, product};
use super::cast::rounded;
use super::launch::{Grid, ROWS, int, launch, size};
use super::norm::column_sums;
use super::value::{OnDevice, Value, allocate, argument, device_of, on_cpu, storage, tensor, values};
use crate::ops::autograd::{ApplyOp, deliver};
use crate::ops::gemm::Precision;
use candle_core::{CpuStorage, CudaStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor};
use half::bf16;
use std::marker::PhantomData;

/// [`crate::ops::linear`] of contiguous f32 tensors of shapes that fit.
pub(in crate::ops) fn linear(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    precision: Precision,
) -> Result<Tensor> {
    match precision {
        Precision::F32 => apply::<f32>(x, weight, bias),
        Precision::Bf16 => apply::<bf16>(x, weight, bias),
    }
}

fn apply<T: Value>(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let (x, weight, op) = (x.contiguous()?, weight.contiguous()?, Linear::<T>(PhantomData));
    match bias {
        Some(bias) => x.apply3(&weight, &bias.contiguous()?, op),
        None => x.apply2(&weight, op),
    }
}

struct Linear<T>(PhantomData<T>);

impl<T: Value> Linear<T> {
    fn forward(
        &self,
        x: (&CudaStorage, &Layout),
        weight: (&CudaStorage, &Layout),
        bias: Option<(&CudaStorage, &Layout)>,
    ) -> Result<(CudaStorage, Shape)> {
        let (device, (out, width)) = (&x.0.device, weight.1.shape().dims2()?);
        let mut shape = x.1.dims().to_vec();
        shape.pop();
        let rows = shape.iter().product::<usize>();
        shape.push(out);
        let left = rounded::<T>(device, argument::<f32>(x.0, x.1)?, rows * width)?;
        let right = rounded::<T>(device, argument::<f32>(weight.0, weight.1)?, out * width)?;
        let y = allocate::<f32>(device, rows * out)?;
        let operands = (Operand::new(left.pointer(), width), Operand::new(right.pointer(), width).t());
        product::<T, f32>(device, (rows, out, width), operands.0, operands.1, y.pointer(), false)?;
        if let Some((bias, layout)) = bias {
            let bias = argument::<f32>(bias, layout)?;
            let arguments = [y.pointer().into(), bias.into(), size(rows * out), int(out)?];
            launch(device, &ROWS, "add_bias_f32", Grid::fours(rows * out), &arguments)?;
        }
        Ok((storage(y, device), shape.into()))
    }

    /// Gradients of x, weight and bias, where a variable leads to them.
    fn backward(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: Option<&Tensor>,
        grad: &Tensor,
    ) -> Result<[Option<Tensor>; 3]> {
        let (device, (out, width)) = (device_of(x)?, weight.dims2()?);
        let (rows, grad) = (x.elem_count() / width.max(1), grad.contiguous()?);
        let guards = [x, weight, &grad].map(Tensor::storage_and_layout);
        let [x_values, weights, grads] = guards.each_ref().map(|(guard, layout)| values(guard, layout));
        let grads = grads?;
        let rounded_grads = rounded::<T>(&device, grads, rows * out)?;
        let grad_matrix = Operand::new(rounded_grads.pointer(), out);
        let made =
            |like: &Tensor, rows: usize, columns: usize, inner: usize, left: Operand, right: Operand| {
                let gradient = allocate::<f32>(&device, rows * columns)?;
                product::<T, f32>(&device, (rows, columns, inner), left, right, gradient.pointer(), false)?;
                Result::Ok(deliver(like, tensor(gradient, like.shape(), &device)))
            };
        let of_x = match x.track_op() {
            true => {
                let right = rounded::<T>(&device, weights?, out * width)?;
                made(x, rows, width, out, grad_matrix, Operand::new(right.pointer(), width))?
            }
            false => None,
        };
        let of_weight = match weight.track_op() {
            true => {
                let right = rounded::<T>(&device, x_values?, rows * width)?;
                made(weight, out, width, rows, grad_matrix.t(), Operand::new(right.pointer(), width))?
            }
            false => None,
        };
        let of_bias = match bias.filter(|bias| bias.track_op()) {
            Some(bias) => {
                let sums = column_sums::<f32>(&device, (rows, out), grads)?;
                deliver(bias, tensor(sums, bias.shape(), &device))
            }
            None => None,
        };
        Ok([of_x, of_weight, of_bias])
    }
}

impl<T: Value> CustomOp2 for Linear<T> {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        on_cpu("linear")
    }

    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        x_layout: &Layout,
        weight: &CudaStorage,
        weight_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        self.forward((x, x_layout), (weight, weight_layout), None)
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let [x, weight, _] = self.backward(x, weight, None, grad)?;
        Ok((x, weight))
    }
}

impl<T: Value> CustomOp3 for Linear<T> {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        on_cpu("linear")
    }

    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        x_layout: &Layout,
        weight: &CudaStorage,
        weight_layout: &Layout,
        bias: &CudaStorage,
        bias_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        self.forward((x, x_layout), (weight, weight_layout), Some((bias, bias_layout)))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let [x, weight, bias] = self.backward(x, weight, Some(bias), grad)?;
        Ok((x, weight, bias))
    }
}
