//! x + scale·proj(attention(qkv(norm(x)))), of all tokens or within windows.

use super::*;
use crate::ops::cuda::attention::{Heads, Offsets, Relative};
use crate::ops::cuda::value::on_cpu;
use crate::ops::cuda::window::Windows;

/// Which tokens attend to each other, and in how many heads.
#[derive(Clone, Copy)]
pub(in crate::ops) struct Attention {
    pub heads: usize,
    /// Rows and columns of the tokens.
    pub grid: (usize, usize),
    /// Side of the windows; `None` for global attention.
    pub side: Option<usize>,
    /// Rows and columns of the tokens of a softmax, and whether a class token comes before them.
    pub area: ((usize, usize), bool),
}

/// x + scale·proj(attention(qkv(norm(x)))) of f32 tensors, weights as in `AttentionWeights`, and a table [T, heads] of
/// relative position biases.
pub(in crate::ops) fn attention_branch(
    x: &Tensor,
    weights: [&Tensor; 6],
    table: Option<&Tensor>,
    within: Attention,
    branch: &Branch,
) -> Result<Tensor> {
    match branch.precision {
        Precision::F32 => AttentionBranch::<f32>::apply(x, weights, table, within, branch),
        Precision::Bf16 => AttentionBranch::<bf16>::apply(x, weights, table, within, branch),
    }
}

struct AttentionBranch<T: Value> {
    /// The table, if there is one, comes after the weights.
    parts: Parts,
    within: Attention,
    kept: Kept<Attended<T>>,
}

/// Place of the table among the weights.
const TABLE: usize = 6;

/// Values that attention keeps for the backward pass, in the order of the windows: qkv [rows, 3·C], its output [rows, C],
/// logarithms of sums of exponentials; and the matrices of both maps.
struct Attended<T> {
    qkv: Values<T>,
    out: Values<T>,
    lse: Values<f32>,
    matrices: [Rounded<T>; 2],
}

impl<T: Value> AttentionBranch<T> {
    fn apply(
        x: &Tensor,
        weights: [&Tensor; 6],
        table: Option<&Tensor>,
        within: Attention,
        branch: &Branch,
    ) -> Result<Tensor> {
        let parts = Parts::new(weights, table, branch, x)?;
        let (input, records) = (parts.derived.input(&parts.weights)?, parts.records);
        apply(x, &input, records, Self { parts, within, kept: Kept::nothing() })
    }

    fn windows(&self, size: Size) -> Option<Windows> {
        let Attention { grid, side, .. } = self.within;
        side.map(|side| Windows { images: size.samples, grid, side })
    }

    fn heads(&self, size: Size) -> Heads {
        let (samples, tokens) = match self.windows(size) {
            Some(windows) => (windows.count(), windows.size()),
            None => (size.samples, size.tokens),
        };
        Heads { samples, tokens, count: self.within.heads, width: size.width / self.within.heads }
    }

    /// Calls `run` with the bias of the scores.
    fn with_offsets<R>(&self, run: impl FnOnce(Offsets) -> Result<R>) -> Result<R> {
        let Some(table) = self.parts.weights.get(TABLE) else { return run(Offsets::NONE) };
        let (guard, layout) = table.storage_and_layout();
        let (grid, class) = self.within.area;
        run(Offsets::of_table(values(&guard, layout)?, Some(Relative { grid, class })))
    }
}

impl<T: Value> CustomOp2 for AttentionBranch<T> {
    fn name(&self) -> &'static str {
        "attention_branch"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        on_cpu("attention_branch")
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
        let (windows, heads) = (self.windows(size_of_x), self.heads(size_of_x));
        self.parts.with_weights(|weights| {
            let matrices = self.parts.matrices::<T>(device, weights)?;
            let [first, second] = matrices.each_ref().map(OnDevice::pointer);
            let mut qkv = self.parts.first::<T>(device, (weights, first), x, size_of_x, 3 * width)?;
            let count = 3 * size_of_x.count();
            let arguments = [qkv.pointer().into(), weights[3].into(), size(count), int(3 * width)?];
            launch(device, &ROWS, &format!("add_bias_{}", T::NAME), Grid::fours(count), &arguments)?;
            if let Some(windows) = &windows {
                // Windows are padded after the norm, so that the padding holds the projection of zeros: the bias.
                qkv = windows.partition::<T>(device, qkv.pointer(), weights[3], 3 * width)?;
            }
            let out = allocate::<T>(device, heads.samples * heads.tokens * width)?;
            let lse = self
                .with_offsets(|offsets| heads.forward::<T>(device, qkv.pointer(), offsets, out.pointer()))?;
            let merged =
                windows.map(|windows| windows.merge::<T>(device, out.pointer(), width)).transpose()?;
            let attended = merged.as_ref().unwrap_or(&out).pointer();
            let sum =
                self.parts.second::<T>(device, (weights[5], second), x, size_of_x, (attended, width))?;
            if self.parts.records {
                self.kept.set(Attended { qkv, out, lse, matrices });
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
        let (kept, grad) = (self.kept.take("attention_branch")?, grad.contiguous()?);
        let Attended { qkv, out, lse, matrices } = kept;
        let (device, size, parts) = (device_of(x)?, Size::of(x.shape())?, &self.parts);
        let (windows, heads, width) = (self.windows(size), self.heads(size), size.width);
        let guards = [x, &grad].map(Tensor::storage_and_layout);
        let [x_values, grads] = guards.each_ref().map(|(guard, layout)| values(guard, layout));
        let (x_values, grads) = (x_values?, grads?);
        let table = parts.weights.get(TABLE).filter(|table| table.track_op());
        let of_table = table.map(|table| device.alloc_zeros::<f32>(table.elem_count().max(1))).transpose()?;
        let dx = parts.with_weights(|weights| {
            let (rows, [first, second]) = (size.rows(), matrices.each_ref().map(OnDevice::pointer));
            let scaled = parts.scaled::<T>(&device, grads, size)?;
            let mut of_out =
                parts.input_gradient::<T>(&device, (4, second), scaled.values.pointer(), rows)?;
            let merged =
                windows.map(|windows| windows.merge::<T>(&device, out.pointer(), width)).transpose()?;
            let attended = merged.as_ref().unwrap_or(&out).pointer();
            parts.weight_gradient::<T>(&device, 4, (scaled.values.pointer(), attended), rows)?;
            drop((scaled, merged));
            if let Some(windows) = &windows {
                of_out = windows.partition::<T>(&device, of_out.pointer(), Pointer::NULL, width)?;
            }
            let places = heads.samples * heads.tokens;
            let mut of_qkv = allocate::<T>(&device, 3 * places * width)?;
            let kept = (qkv.pointer(), out.pointer(), lse.pointer());
            let of_bias =
                [of_table.as_ref().map_or(Pointer::NULL, OnDevice::pointer), Pointer::NULL, Pointer::NULL];
            self.with_offsets(|offsets| {
                heads.backward::<T>(&device, kept, of_out.pointer(), (offsets, of_bias), of_qkv.pointer())
            })?;
            drop((qkv, out, lse, of_out));
            // Before the padding goes: its rows are the bias.
            parts.bias_gradient::<T>(&device, 3, (places, 3 * width), of_qkv.pointer())?;
            if let Some(windows) = &windows {
                of_qkv = windows.merge::<T>(&device, of_qkv.pointer(), 3 * width)?;
            }
            parts.finish::<T>(&device, (weights, first), (x_values, grads), size, of_qkv.pointer())
        })?;
        if let (Some(table), Some(of_table)) = (table, of_table) {
            parts.deliver(TABLE, tensor(of_table, table.shape(), &device))?;
        }
        Ok((x.track_op().then(|| tensor(dx, x.shape(), &device)), parts.derived.gradient()?))
    }
}
