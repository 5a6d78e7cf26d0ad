//! Functions of single values, with the kernels `<name>` and `<name>_gradient`.

use super::launch::{ELEMENTWISE, Grid, launch, size};
use super::value::{OnDevice, allocate, argument, device_of, on_cpu, storage, tensor, values};
use crate::ops::autograd::ApplyOp;
use candle_core::{CpuStorage, CudaStorage, CustomOp1, Layout, Result, Shape, Tensor};

/// The function `name` of every value of an f32 tensor.
pub(in crate::ops) fn elementwise(name: &'static str, x: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply1(Elementwise { name })
}

struct Elementwise {
    name: &'static str,
}

impl CustomOp1 for Elementwise {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        on_cpu(self.name)
    }

    fn cuda_fwd(&self, x: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let (device, count) = (&x.device, layout.shape().elem_count());
        let y = allocate::<f32>(device, count)?;
        let arguments = [argument::<f32>(x, layout)?.into(), y.pointer().into(), size(count)];
        launch(device, &ELEMENTWISE, self.name, Grid::fours(count), &arguments)?;
        Ok((storage(y, device), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let (device, count, grad) = (device_of(x)?, x.elem_count(), grad.contiguous()?);
        let guards = [x, &grad].map(Tensor::storage_and_layout);
        let [x_values, grads] = guards.each_ref().map(|(guard, layout)| values(guard, layout));
        let gradient = allocate::<f32>(&device, count)?;
        let arguments = [x_values?.into(), grads?.into(), gradient.pointer().into(), size(count)];
        launch(&device, &ELEMENTWISE, &format!("{}_gradient", self.name), Grid::fours(count), &arguments)?;
        Ok(Some(tensor(gradient, x.shape(), &device)))
    }
}
