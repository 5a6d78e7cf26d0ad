//! x + scale·fc2(gelu(fc1(norm(x)))).

use super::*;
use crate::ops::cuda::value::on_cpu;

/// x + scale·fc2(gelu(fc1(norm(x)))) of f32 tensors, weights as in `MlpWeights`.
pub(in crate::ops) fn mlp_branch(x: &Tensor, weights: [&Tensor; 6], branch: &Branch) -> Result<Tensor> {
    match branch.precision {
        Precision::F32 => MlpBranch::<f32>::apply(x, weights, branch),
        Precision::Bf16 => MlpBranch::<bf16>::apply(x, weights, branch),
    }
}

struct MlpBranch<T: Value> {
    parts: Parts,
    kept: Kept<Hidden<T>>,
}

/// What is kept for the backward pass: fc1(norm(x)) without its bias [rows, H], and the matrices of both maps.
struct Hidden<T> {
    hidden: Values<T>,
    matrices: [Rounded<T>; 2],
}

impl<T: Value> MlpBranch<T> {
    fn apply(x: &Tensor, weights: [&Tensor; 6], branch: &Branch) -> Result<Tensor> {
        let parts = Parts::new(weights, None, branch, x)?;
        let (input, records) = (parts.derived.input(&parts.weights)?, parts.records);
        apply(x, &input, records, Self { parts, kept: Kept::nothing() })
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
        on_cpu("mlp_branch")
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
            let matrices = self.parts.matrices::<T>(device, weights)?;
            let [first, second] = matrices.each_ref().map(OnDevice::pointer);
            let hidden = self.parts.first::<T>(device, (weights, first), x, size, h)?;
            let count = size.rows() * h;
            let active = allocate::<T>(device, count)?;
            self.activation(device, "bias_gelu", [hidden.pointer(), weights[3], active.pointer()], count)?;
            let out = self.parts.second::<T>(device, (weights[5], second), x, size, (active.pointer(), h))?;
            if self.parts.records {
                self.kept.set(Hidden { hidden, matrices });
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
        let (Hidden { hidden: active, matrices }, grad) = (self.kept.take("mlp_branch")?, grad.contiguous()?);
        let (device, size, h) = (device_of(x)?, Size::of(x.shape())?, self.parts.weights[3].elem_count());
        let guards = [x, &grad].map(Tensor::storage_and_layout);
        let [x_values, grads] = guards.each_ref().map(|(guard, layout)| values(guard, layout));
        let (x_values, grads) = (x_values?, grads?);
        let dx = self.parts.with_weights(|weights| {
            let [first, second] = matrices.each_ref().map(OnDevice::pointer);
            let scaled = self.parts.scaled::<T>(&device, grads, size)?;
            let of_active =
                self.parts.input_gradient::<T>(&device, (4, second), scaled.values.pointer(), size.rows())?;
            let of_hidden = of_active;
            let values = [active.pointer(), weights[3], of_hidden.pointer()];
            self.activation(&device, "bias_gelu_gradient", values, size.rows() * h)?;
            let pair = (scaled.values.pointer(), active.pointer());
            self.parts.weight_gradient::<T>(&device, 4, pair, size.rows())?;
            drop((scaled, active));
            self.parts.bias_gradient::<T>(&device, 3, (size.rows(), h), of_hidden.pointer())?;
            self.parts.finish::<T>(&device, (weights, first), (x_values, grads), size, of_hidden.pointer())
        })?;
        Ok((x.track_op().then(|| tensor(dx, x.shape(), &device)), self.parts.derived.gradient()?))
    }
}
