//! x + scale·fc2(gelu(fc1(norm(x)))).

use super::*;
use crate::ops::cuda::value::on_cpu;

/// The operator of x + scale·fc2(gelu(fc1(norm(x)))), weights as in `MlpWeights`.
pub(in crate::ops) struct MlpBranch<T: Value> {
    parts: Parts,
    hidden: Kept<Values<T>>,
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
            let hidden = self.parts.first::<T>(device, weights, x, size, h)?;
            let count = size.rows() * h;
            let active = allocate::<T>(device, count)?;
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
