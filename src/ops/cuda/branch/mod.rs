//! The residual branches of a transformer block, their weights and intermediates rounded once for a pass.
//!
//! As on the CPU a branch keeps its widest intermediate alone, here without its bias; norms and activations are
//! computed again in the backward pass.

mod attention;
mod mlp;

pub(in crate::ops) use attention::AttentionBranch;
pub(in crate::ops) use mlp::MlpBranch;

use super::blas::{Operand, product};
use super::cast::rounded;
use super::launch::{Argument, Grid, ROWS, int, launch, size};
use super::norm::{Norm, column_sums};
use super::value::{OnDevice, Pointer, Value, allocate, argument, device_of, storage, tensor, values};
use crate::ops::autograd::{deliver_kept, records};
use crate::ops::branch::{Branch, Kept};
use candle_core::cuda::CudaDevice;
use candle_core::cuda::cudarc::driver::CudaSlice;
use candle_core::{CpuStorage, CudaStorage, CustomOp2, Layout, Result, Shape, Tensor};

/// Values on the device, which other threads may free.
type Values<T> = CudaSlice<T>;

/// The parts that both branches have.
struct Parts {
    /// Weight and bias of the norm, of the first and of the second linear map.
    weights: [Tensor; 6],
    eps: f32,
    scale: Option<Vec<f32>>,
    records: bool,
}

/// The sizes of x [B, N, C].
#[derive(Clone, Copy)]
struct Size {
    samples: usize,
    tokens: usize,
    width: usize,
}

impl Size {
    fn of(shape: &Shape) -> Result<Self> {
        let (samples, tokens, width) = shape.dims3()?;
        Ok(Self { samples, tokens, width })
    }

    fn rows(&self) -> usize {
        self.samples * self.tokens
    }

    fn count(&self) -> usize {
        self.rows() * self.width
    }
}

/// The gradient that comes in, scaled and rounded [rows, C], and the scales.
struct Scaled<T> {
    values: Values<T>,
    _scale: Option<Values<f32>>,
}

impl Parts {
    fn new(weights: [&Tensor; 6], branch: &Branch, x: &Tensor) -> Self {
        let records = records(weights.into_iter().chain([x]));
        let scale = branch.scale.map(<[f32]>::to_vec);
        Self { weights: weights.map(Tensor::clone), eps: branch.eps as f32, scale, records }
    }

    /// Calls `run` with where the weights are.
    fn with_weights<R>(&self, run: impl FnOnce([Pointer; 6]) -> Result<R>) -> Result<R> {
        let guards = self.weights.each_ref().map(Tensor::storage_and_layout);
        let mut pointers = [Pointer::NULL; 6];
        for (pointer, (guard, layout)) in pointers.iter_mut().zip(&guards) {
            *pointer = values(guard, layout)?;
        }
        run(pointers)
    }

    fn norm(&self, [weight, bias, ..]: [Pointer; 6]) -> Norm {
        Norm { weight, bias, eps: self.eps }
    }

    fn scale(&self, device: &CudaDevice) -> Result<Option<Values<f32>>> {
        self.scale.as_ref().map(|scale| device.clone_htod(scale)).transpose()
    }

    /// x [rows, C], normed, times the first weight [out, C] -> [rows, out].
    fn first<T: Value>(
        &self,
        device: &CudaDevice,
        weights: [Pointer; 6],
        x: Pointer,
        size: Size,
        out: usize,
    ) -> Result<Values<T>> {
        let (rows, width) = (size.rows(), size.width);
        let normed = allocate::<T>(device, size.count())?;
        self.norm(weights).forward::<T>(device, (rows, width), x, normed.pointer())?;
        let weight = rounded::<T>(device, weights[2], out * width)?;
        let y = allocate::<T>(device, rows * out)?;
        let operands = (Operand::new(normed.pointer(), width), Operand::new(weight.pointer(), width).t());
        product::<T, T>(device, (rows, out, width), operands.0, operands.1, y.pointer(), false)?;
        Ok(y)
    }

    /// x + scale·(inner [rows, `from`] times the second weight [C, `from`] + bias) -> [rows, C].
    fn second<T: Value>(
        &self,
        device: &CudaDevice,
        weights: [Pointer; 6],
        x: Pointer,
        size_of_x: Size,
        (inner, from): (Pointer, usize),
    ) -> Result<Values<f32>> {
        let (rows, width) = (size_of_x.rows(), size_of_x.width);
        let weight = rounded::<T>(device, weights[4], width * from)?;
        let y = allocate::<T>(device, size_of_x.count())?;
        let operands = (Operand::new(inner, from), Operand::new(weight.pointer(), from).t());
        product::<T, T>(device, (rows, width, from), operands.0, operands.1, y.pointer(), false)?;
        let (out, scale) = (allocate::<f32>(device, size_of_x.count())?, self.scale(device)?);
        let arguments = [
            x.into(),
            y.pointer().into(),
            weights[5].into(),
            scale.as_ref().map_or(Pointer::NULL, OnDevice::pointer).into(),
            out.pointer().into(),
            size(size_of_x.count()),
            int(width)?,
            size(size_of_x.tokens * width),
        ];
        launch(device, &ROWS, &format!("residual_{}", T::NAME), Grid::fours(size_of_x.count()), &arguments)?;
        Ok(out)
    }

    /// scale·grad [rows, C]; delivers the gradient of the second bias.
    fn scaled<T: Value>(&self, device: &CudaDevice, grad: Pointer, size_of_x: Size) -> Result<Scaled<T>> {
        let (values, scale) = (allocate::<T>(device, size_of_x.count())?, self.scale(device)?);
        let arguments = [
            grad.into(),
            scale.as_ref().map_or(Pointer::NULL, OnDevice::pointer).into(),
            values.pointer().into(),
            size(size_of_x.count()),
            int(size_of_x.width)?,
            size(size_of_x.tokens * size_of_x.width),
        ];
        launch(device, &ROWS, &format!("scaled_{}", T::NAME), Grid::fours(size_of_x.count()), &arguments)?;
        self.bias_gradient::<T>(device, 5, (size_of_x.rows(), size_of_x.width), values.pointer())?;
        Ok(Scaled { values, _scale: scale })
    }

    /// The gradient of the input of weight `index` [out, in], from that of the product [rows, out].
    fn input_gradient<T: Value>(
        &self,
        device: &CudaDevice,
        (index, weight): (usize, Pointer),
        grad: Pointer,
        rows: usize,
    ) -> Result<Values<T>> {
        let (out, width) = self.weights[index].dims2()?;
        let weight = rounded::<T>(device, weight, out * width)?;
        let gradient = allocate::<T>(device, rows * width)?;
        let operands = (Operand::new(grad, out), Operand::new(weight.pointer(), width));
        product::<T, T>(device, (rows, width, out), operands.0, operands.1, gradient.pointer(), false)?;
        Ok(gradient)
    }

    /// Delivers the gradient of weight `index` [out, in] from that of the product [rows, out] and its input [rows, in].
    fn weight_gradient<T: Value>(
        &self,
        device: &CudaDevice,
        index: usize,
        (grad, input): (Pointer, Pointer),
        rows: usize,
    ) -> Result<()> {
        let weight = &self.weights[index];
        if !weight.track_op() {
            return Ok(());
        }
        let (out, width) = weight.dims2()?;
        let gradient = allocate::<f32>(device, out * width)?;
        let operands = (Operand::new(grad, out).t(), Operand::new(input, width));
        product::<T, f32>(device, (out, width, rows), operands.0, operands.1, gradient.pointer(), false)?;
        deliver_kept(weight, tensor(gradient, (out, width), device))
    }

    /// Delivers the gradient of bias `index` from that of rows it was added to.
    fn bias_gradient<T: Value>(
        &self,
        device: &CudaDevice,
        index: usize,
        (rows, width): (usize, usize),
        grad: Pointer,
    ) -> Result<()> {
        let bias = &self.weights[index];
        if !bias.track_op() {
            return Ok(());
        }
        deliver_kept(bias, tensor(column_sums::<T>(device, (rows, width), grad)?, width, device))
    }

    /// The end of a backward pass, from the gradient of the first product [rows, out]: delivers the gradients of norm
    /// and first map, and returns that of x.
    fn finish<T: Value>(
        &self,
        device: &CudaDevice,
        weights: [Pointer; 6],
        (x, grad): (Pointer, Pointer),
        size_of_x: Size,
        of_first: Pointer,
    ) -> Result<Values<f32>> {
        let (rows, width) = (size_of_x.rows(), size_of_x.width);
        self.bias_gradient::<T>(device, 3, (rows, self.weights[3].elem_count()), of_first)?;
        let of_normed = self.input_gradient::<T>(device, (2, weights[2]), of_first, rows)?;
        let (dx, normed) =
            (allocate::<f32>(device, size_of_x.count())?, allocate::<T>(device, size_of_x.count())?);
        let to = (grad, dx.pointer(), normed.pointer());
        let affine = self.norm(weights).backward::<T>(device, (rows, width), x, of_normed.pointer(), to)?;
        self.weight_gradient::<T>(device, 2, (of_first, normed.pointer()), rows)?;
        let affine = tensor(affine, 2 * width, device);
        deliver_kept(&self.weights[0], affine.narrow(0, 0, width)?)?;
        deliver_kept(&self.weights[1], affine.narrow(0, width, width)?)?;
        Ok(dx)
    }
}
