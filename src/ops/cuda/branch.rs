//! The residual branches of a transformer block, their weights and intermediates rounded once for a pass.
//!
//! As on the CPU a branch keeps its widest intermediate alone, here without its bias; norms and activations are
//! computed again in the backward pass.

use super::attention::{Heads, Offsets};
use super::blas::{Operand, product};
use super::launch::{Argument, Grid, ROWS, int, launch, size};
use super::linear::rounded;
use super::norm::{Norm, column_sums};
use super::value::{OnDevice, Pointer, Value, argument, device_of, room, storage, tensor, values};
use crate::ops::branch::{Branch, Kept};
use crate::ops::tape::{deliver_kept, records};
use candle_core::cuda::CudaDevice;
use candle_core::cuda::cudarc::driver::CudaSlice;
use candle_core::{CpuStorage, CudaStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};

/// The operator of x + scale·fc2(gelu(fc1(norm(x)))), weights as in `MlpWeights`.
pub(in crate::ops) struct MlpBranch<T: Value> {
    parts: Parts,
    hidden: Kept<Values<T>>,
}

/// The operator of x + scale·proj(attention(qkv(norm(x)))), weights as in `AttentionWeights`.
pub(in crate::ops) struct AttentionBranch<T: Value> {
    parts: Parts,
    heads: usize,
    kept: Kept<Attended<T>>,
}

/// Values on the device, which other threads may free.
type Values<T> = CudaSlice<T>;

/// What attention keeps: qkv [rows, 3·C], its output [rows, C], logarithms of sums of exponentials.
struct Attended<T> {
    qkv: Values<T>,
    out: Values<T>,
    lse: Values<f32>,
}

/// What both branches are made of.
struct Parts {
    /// Of the norm, the first and the second linear map; weight and bias each.
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
        let normed = room::<T>(device, size.count())?;
        self.norm(weights).forward::<T>(device, (rows, width), x, normed.pointer())?;
        let weight = rounded::<T>(device, weights[2], out * width)?;
        let y = room::<T>(device, rows * out)?;
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
        let y = room::<T>(device, size_of_x.count())?;
        let operands = (Operand::new(inner, from), Operand::new(weight.pointer(), from).t());
        product::<T, T>(device, (rows, width, from), operands.0, operands.1, y.pointer(), false)?;
        let (out, scale) = (room::<f32>(device, size_of_x.count())?, self.scale(device)?);
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
        let (values, scale) = (room::<T>(device, size_of_x.count())?, self.scale(device)?);
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

    /// The gradient of what weight `index` [out, in] was multiplied by, from that of the product [rows, out].
    fn input_gradient<T: Value>(
        &self,
        device: &CudaDevice,
        (index, weight): (usize, Pointer),
        grad: Pointer,
        rows: usize,
    ) -> Result<Values<T>> {
        let (out, width) = self.weights[index].dims2()?;
        let weight = rounded::<T>(device, weight, out * width)?;
        let gradient = room::<T>(device, rows * width)?;
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
        let gradient = room::<f32>(device, out * width)?;
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
        let (dx, normed) = (room::<f32>(device, size_of_x.count())?, room::<T>(device, size_of_x.count())?);
        let to = (grad, dx.pointer(), normed.pointer());
        let affine = self.norm(weights).backward::<T>(device, (rows, width), x, of_normed.pointer(), to)?;
        self.weight_gradient::<T>(device, 2, (of_first, normed.pointer()), rows)?;
        let affine = tensor(affine, 2 * width, device);
        deliver_kept(&self.weights[0], affine.narrow(0, 0, width)?)?;
        deliver_kept(&self.weights[1], affine.narrow(0, width, width)?)?;
        Ok(dx)
    }
}

impl<T: Value> MlpBranch<T> {
    pub fn new(weights: [&Tensor; 6], branch: &Branch, x: &Tensor) -> Self {
        Self { parts: Parts::new(weights, branch, x), hidden: Kept::nothing() }
    }

    /// Queues the activation or its gradient.
    fn activation(
        &self,
        device: &CudaDevice,
        kernel: &str,
        values: [Pointer; 3],
        count: usize,
    ) -> Result<()> {
        let [first, bias, second] = values.map(Argument::from);
        let width = int(self.parts.weights[3].elem_count())?;
        let arguments = [first, bias, second, size(count), width];
        launch(device, &ROWS, &format!("{kernel}_{}", T::NAME), Grid::fours(count), &arguments)
    }
}

impl<T: Value> CustomOp2 for MlpBranch<T> {
    fn name(&self) -> &'static str {
        "mlp_branch"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        bail!("mlp_branch: tensors of a CUDA device became tensors of the CPU")
    }

    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        layout: &Layout,
        _: &CudaStorage,
        _: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let (device, size) = (&x.device, Size::of(layout.shape())?);
        let (x, h) = (argument::<f32>(x, layout)?, self.parts.weights[3].elem_count());
        self.parts.with_weights(|weights| {
            let hidden = self.parts.first::<T>(device, weights, x, size, h)?;
            let count = size.rows() * h;
            let active = room::<T>(device, count)?;
            self.activation(device, "bias_gelu", [hidden.pointer(), weights[3], active.pointer()], count)?;
            let out = self.parts.second::<T>(device, weights, x, size, (active.pointer(), h))?;
            if self.parts.records {
                self.hidden.set(hidden);
            }
            Ok((storage(out, device), layout.shape().clone()))
        })
    }

    fn bwd(
        &self,
        x: &Tensor,
        _: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (active, grad) = (self.hidden.take("mlp_branch")?, grad.contiguous()?);
        let (device, size, h) = (device_of(x)?, Size::of(x.shape())?, self.parts.weights[3].elem_count());
        let guards = [x, &grad].map(Tensor::storage_and_layout);
        let [x_values, grads] = guards.each_ref().map(|(guard, layout)| values(guard, layout));
        let (x_values, grads) = (x_values?, grads?);
        let dx = self.parts.with_weights(|weights| {
            let scaled = self.parts.scaled::<T>(&device, grads, size)?;
            let of_active = self.parts.input_gradient::<T>(
                &device,
                (4, weights[4]),
                scaled.values.pointer(),
                size.rows(),
            )?;
            let of_hidden = of_active;
            let values = [active.pointer(), weights[3], of_hidden.pointer()];
            self.activation(&device, "bias_gelu_gradient", values, size.rows() * h)?;
            let pair = (scaled.values.pointer(), active.pointer());
            self.parts.weight_gradient::<T>(&device, 4, pair, size.rows())?;
            drop((scaled, active));
            self.parts.finish::<T>(&device, weights, (x_values, grads), size, of_hidden.pointer())
        })?;
        Ok((x.track_op().then(|| tensor(dx, x.shape(), &device)), None))
    }
}

impl<T: Value> AttentionBranch<T> {
    pub fn new(weights: [&Tensor; 6], heads: usize, branch: &Branch, x: &Tensor) -> Self {
        Self { parts: Parts::new(weights, branch, x), heads, kept: Kept::nothing() }
    }

    fn heads(&self, size: Size) -> Heads {
        Heads {
            samples: size.samples,
            tokens: size.tokens,
            count: self.heads,
            width: size.width / self.heads,
        }
    }
}

impl<T: Value> CustomOp2 for AttentionBranch<T> {
    fn name(&self) -> &'static str {
        "attention_branch"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        bail!("attention_branch: tensors of a CUDA device became tensors of the CPU")
    }

    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        layout: &Layout,
        _: &CudaStorage,
        _: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let (device, size_of_x) = (&x.device, Size::of(layout.shape())?);
        let (x, width) = (argument::<f32>(x, layout)?, size_of_x.width);
        self.parts.with_weights(|weights| {
            let qkv = self.parts.first::<T>(device, weights, x, size_of_x, 3 * width)?;
            let count = 3 * size_of_x.count();
            let arguments = [qkv.pointer().into(), weights[3].into(), size(count), int(3 * width)?];
            launch(device, &ROWS, &format!("add_bias_{}", T::NAME), Grid::fours(count), &arguments)?;
            let out = room::<T>(device, size_of_x.count())?;
            let heads = self.heads(size_of_x);
            let lse = heads.forward::<T>(device, qkv.pointer(), Offsets::NONE, out.pointer())?;
            let sum = self.parts.second::<T>(device, weights, x, size_of_x, (out.pointer(), width))?;
            if self.parts.records {
                self.kept.set(Attended { qkv, out, lse });
            }
            Ok((storage(sum, device), layout.shape().clone()))
        })
    }

    fn bwd(
        &self,
        x: &Tensor,
        _: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (Attended { qkv, out, lse }, grad) = (self.kept.take("attention_branch")?, grad.contiguous()?);
        let (device, size) = (device_of(x)?, Size::of(x.shape())?);
        let guards = [x, &grad].map(Tensor::storage_and_layout);
        let [x_values, grads] = guards.each_ref().map(|(guard, layout)| values(guard, layout));
        let (x_values, grads) = (x_values?, grads?);
        let dx = self.parts.with_weights(|weights| {
            let rows = size.rows();
            let scaled = self.parts.scaled::<T>(&device, grads, size)?;
            let of_out =
                self.parts.input_gradient::<T>(&device, (4, weights[4]), scaled.values.pointer(), rows)?;
            self.parts.weight_gradient::<T>(&device, 4, (scaled.values.pointer(), out.pointer()), rows)?;
            drop(scaled);
            let of_qkv = room::<T>(&device, 3 * size.count())?;
            let kept = (qkv.pointer(), out.pointer(), lse.pointer());
            let no_bias = (Offsets::NONE, [Pointer::NULL; 3]);
            let heads = self.heads(size);
            heads.backward::<T>(&device, kept, of_out.pointer(), no_bias, of_qkv.pointer())?;
            drop((qkv, out, lse, of_out));
            self.parts.finish::<T>(&device, weights, (x_values, grads), size, of_qkv.pointer())
        })?;
        Ok((x.track_op().then(|| tensor(dx, x.shape(), &device)), None))
    }
}
