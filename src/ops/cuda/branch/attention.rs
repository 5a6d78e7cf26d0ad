//! x + scale·proj(attention(qkv(norm(x)))).

use super::*;
use crate::ops::cuda::attention::{Heads, Offsets};
use crate::ops::cuda::value::on_cpu;

/// The operator of x + scale·proj(attention(qkv(norm(x)))), weights as in `AttentionWeights`.
pub(in crate::ops) struct AttentionBranch<T: Value> {
    parts: Parts,
    heads: usize,
    kept: Kept<Attended<T>>,
}

/// Values that attention keeps for the backward pass: qkv [rows, 3·C], its output [rows, C], logarithms of sums of
/// exponentials.
struct Attended<T> {
    qkv: Values<T>,
    out: Values<T>,
    lse: Values<f32>,
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
        self.parts.with_weights(|weights| {
            let qkv = self.parts.first::<T>(device, weights, x, size_of_x, 3 * width)?;
            let count = 3 * size_of_x.count();
            let arguments = [qkv.pointer().into(), weights[3].into(), size(count), int(3 * width)?];
            launch(device, &ROWS, &format!("add_bias_{}", T::NAME), Grid::fours(count), &arguments)?;
            let out = allocate::<T>(device, size_of_x.count())?;
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
            let of_qkv = allocate::<T>(&device, 3 * size.count())?;
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
