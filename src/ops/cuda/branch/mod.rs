//! The residual branches of a transformer block, their weights and intermediates rounded once for a pass.
//!
//! As on the CPU a branch keeps its widest intermediate alone, here without its bias; norms and activations are
//! computed again in the backward pass. Weights may depend on variables, as those with a layer scale do.

mod attention;
mod mlp;

pub(in crate::ops) use attention::{Attention, attention_branch};
pub(in crate::ops) use mlp::mlp_branch;

use super::blas::{Operand, product};
use super::cast::{Rounded, rounded};
use super::launch::{Argument, Grid, ROWS, int, launch, size};
use super::norm::{Norm, column_sums};
use super::value::{OnDevice, Pointer, Value, allocate, argument, device_of, storage, tensor, values};
use crate::ops::autograd::{deliver_kept, records};
use crate::ops::branch::{Branch, Kept};
use crate::ops::gemm::Precision;
use candle_core::cuda::CudaDevice;
use candle_core::cuda::cudarc::driver::CudaSlice;
use candle_core::{CpuStorage, CudaStorage, CustomOp2, Layout, Result, Shape, Tensor};
use half::bf16;
use std::sync::Mutex;

/// Values on the device, which other threads may free.
type Values<T> = CudaSlice<T>;

/// The parts that both branches have.
struct Parts {
    /// Weight and bias of the norm, of the first and of the second linear map, and what a branch has beyond these.
    weights: Vec<Tensor>,
    /// The weights that are computed from variables: candle passes their gradients on.
    derived: Derived,
    eps: f32,
    scale: Option<Vec<f32>>,
    records: bool,
}

/// Which of some weights are computed from variables, and their gradients. Candle's operators have three inputs at most,
/// so all of these weights are one input, one after another.
#[derive(Default)]
struct Derived {
    indices: Vec<usize>,
    /// One for each of the indices, [values].
    gradients: Mutex<Vec<Option<Tensor>>>,
}

impl Derived {
    fn of(weights: &[Tensor]) -> Self {
        let derived = |weight: &Tensor| weight.track_op() && !weight.is_variable();
        let indices: Vec<usize> = (0..weights.len()).filter(|&i| derived(&weights[i])).collect();
        Self { gradients: Mutex::new(vec![None; indices.len()]), indices }
    }

    /// The input that stands for all weights in candle's graph.
    fn input(&self, weights: &[Tensor]) -> Result<Tensor> {
        if self.indices.is_empty() {
            // Gradients of variables are delivered, so one of them stands for all.
            return Ok(weights.iter().find(|weight| weight.track_op()).unwrap_or(&weights[0]).clone());
        }
        let flat = |&i: &usize| weights[i].flatten_all();
        Tensor::cat(&self.indices.iter().map(flat).collect::<Result<Vec<_>>>()?, 0)
    }

    /// Takes the gradient of weight `index`.
    fn deliver(&self, weights: &[Tensor], index: usize, gradient: Tensor) -> Result<()> {
        match self.indices.iter().position(|&i| i == index) {
            Some(place) => {
                let gradient = gradient.flatten_all()?;
                self.gradients.lock().unwrap_or_else(|poisoned| poisoned.into_inner())[place] =
                    Some(gradient);
                Ok(())
            }
            None => deliver_kept(&weights[index], gradient),
        }
    }

    /// The gradient of [`Derived::input`]; `None` if it is delivered already.
    fn gradient(&self) -> Result<Option<Tensor>> {
        let mut gradients = self.gradients.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let gradients = gradients.iter_mut().map(|gradient| gradient.take());
        match gradients.collect::<Option<Vec<_>>>() {
            Some(gradients) if gradients.is_empty() => Ok(None),
            Some(gradients) => Ok(Some(Tensor::cat(&gradients, 0)?)),
            None => candle_core::bail!("a branch made no gradient of one of its weights"),
        }
    }
}

/// Applies the operator of a branch with these parts to `x`.
fn apply(
    x: &Tensor,
    input: &Tensor,
    records: bool,
    op: impl CustomOp2 + Send + Sync + 'static,
) -> Result<Tensor> {
    let x = x.contiguous()?;
    if records { x.apply_op2(input, op) } else { x.apply_op2_no_bwd(input, &op) }
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
    fn new(weights: [&Tensor; 6], more: Option<&Tensor>, branch: &Branch, x: &Tensor) -> Result<Self> {
        let weights = || weights.into_iter().chain(more);
        let records = records(weights().chain([x]));
        let weights = weights().map(Tensor::contiguous).collect::<Result<Vec<_>>>()?;
        let derived = if records { Derived::of(&weights) } else { Derived::default() };
        let scale = branch.scale.map(<[f32]>::to_vec);
        Ok(Self { weights, derived, eps: branch.eps as f32, scale, records })
    }

    /// Takes the gradient of weight `index`.
    fn deliver(&self, index: usize, gradient: Tensor) -> Result<()> {
        self.derived.deliver(&self.weights, index, gradient)
    }

    /// Calls `run` with where the weights of norm and maps are.
    fn with_weights<R>(&self, run: impl FnOnce([Pointer; 6]) -> Result<R>) -> Result<R> {
        let guards: Vec<_> = self.weights.iter().map(Tensor::storage_and_layout).collect();
        let mut pointers = [Pointer::NULL; 6];
        for (pointer, (guard, layout)) in pointers.iter_mut().zip(&guards) {
            *pointer = values(guard, layout)?;
        }
        run(pointers)
    }

    /// The matrices of the first and of the second map, rounded once for a forward and a backward pass.
    fn matrices<T: Value>(&self, device: &CudaDevice, weights: [Pointer; 6]) -> Result<[Rounded<T>; 2]> {
        let matrix = |i: usize| rounded::<T>(device, weights[i], self.weights[i].elem_count());
        Ok([matrix(2)?, matrix(4)?])
    }

    fn norm(&self, [weight, bias, ..]: [Pointer; 6]) -> Norm {
        Norm { weight, bias, eps: self.eps }
    }

    fn scale(&self, device: &CudaDevice) -> Result<Option<Values<f32>>> {
        self.scale.as_ref().map(|scale| device.clone_htod(scale)).transpose()
    }

    /// x [rows, C], normed, times the first matrix [out, C] -> [rows, out].
    fn first<T: Value>(
        &self,
        device: &CudaDevice,
        (weights, matrix): ([Pointer; 6], Pointer),
        x: Pointer,
        size: Size,
        out: usize,
    ) -> Result<Values<T>> {
        let (rows, width) = (size.rows(), size.width);
        let normed = allocate::<T>(device, size.count())?;
        self.norm(weights).forward::<T>(device, (rows, width), x, normed.pointer())?;
        let y = allocate::<T>(device, rows * out)?;
        let operands = (Operand::new(normed.pointer(), width), Operand::new(matrix, width).t());
        product::<T, T>(device, (rows, out, width), operands.0, operands.1, y.pointer(), false)?;
        Ok(y)
    }

    /// x + scale·(inner [rows, `from`] times the second matrix [C, `from`] + bias) -> [rows, C].
    fn second<T: Value>(
        &self,
        device: &CudaDevice,
        (bias, matrix): (Pointer, Pointer),
        x: Pointer,
        size_of_x: Size,
        (inner, from): (Pointer, usize),
    ) -> Result<Values<f32>> {
        let (rows, width) = (size_of_x.rows(), size_of_x.width);
        let y = allocate::<T>(device, size_of_x.count())?;
        let operands = (Operand::new(inner, from), Operand::new(matrix, from).t());
        product::<T, T>(device, (rows, width, from), operands.0, operands.1, y.pointer(), false)?;
        let (out, scale) = (allocate::<f32>(device, size_of_x.count())?, self.scale(device)?);
        let arguments = [
            x.into(),
            y.pointer().into(),
            bias.into(),
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

    /// The gradient of the input of weight `index` [out, in], rounded at `matrix`, from that of the product [rows, out].
    fn input_gradient<T: Value>(
        &self,
        device: &CudaDevice,
        (index, matrix): (usize, Pointer),
        grad: Pointer,
        rows: usize,
    ) -> Result<Values<T>> {
        let (out, width) = self.weights[index].dims2()?;
        let gradient = allocate::<T>(device, rows * width)?;
        let operands = (Operand::new(grad, out), Operand::new(matrix, width));
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
        self.deliver(index, tensor(gradient, (out, width), device))
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
        self.deliver(index, tensor(column_sums::<T>(device, (rows, width), grad)?, width, device))
    }

    /// The end of a backward pass, from the gradient of the first product [rows, out]: delivers the gradients of the norm
    /// and of the weight of the first map, and returns that of x.
    fn finish<T: Value>(
        &self,
        device: &CudaDevice,
        (weights, matrix): ([Pointer; 6], Pointer),
        (x, grad): (Pointer, Pointer),
        size_of_x: Size,
        of_first: Pointer,
    ) -> Result<Values<f32>> {
        let (rows, width) = (size_of_x.rows(), size_of_x.width);
        let of_normed = self.input_gradient::<T>(device, (2, matrix), of_first, rows)?;
        let (dx, normed) =
            (allocate::<f32>(device, size_of_x.count())?, allocate::<T>(device, size_of_x.count())?);
        let to = (grad, dx.pointer(), normed.pointer());
        let affine = self.norm(weights).backward::<T>(device, (rows, width), x, of_normed.pointer(), to)?;
        self.weight_gradient::<T>(device, 2, (of_first, normed.pointer()), rows)?;
        let affine = tensor(affine, 2 * width, device);
        self.deliver(0, affine.narrow(0, 0, width)?)?;
        self.deliver(1, affine.narrow(0, width, width)?)?;
        Ok(dx)
    }
}
