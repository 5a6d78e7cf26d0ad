//! Separable linear maps of images: resizes and average pools.

use super::launch::{Grid, VISION, int, launch, size};
use super::value::{OnDevice, Pointer, allocate, argument, device_of, on_cpu, storage, tensor, values};
use crate::ops::autograd::ApplyOp;
use crate::ops::resample::{Axis, AxisList};
use candle_core::cuda::CudaDevice;
use candle_core::cuda::cudarc::driver::CudaSlice;
use candle_core::{CpuStorage, CudaStorage, CustomOp1, Layout, Result, Shape, Tensor};

/// Maps the rows of an f32 tensor [B, C, H, W] by the first axis and its columns by the second.
pub(in crate::ops) fn resample(name: &'static str, x: &Tensor, axes: (Axis, Axis)) -> Result<Tensor> {
    x.contiguous()?.apply1(Resample { name, axes })
}

struct Resample {
    name: &'static str,
    /// Vertical and horizontal.
    axes: (Axis, Axis),
}

impl CustomOp1 for Resample {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        on_cpu(self.name)
    }

    fn cuda_fwd(&self, x: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let (device, (b, c, ..)) = (&x.device, layout.shape().dims4()?);
        let lists = (self.axes.0.list(), self.axes.1.list());
        let shape = (b, c, lists.0.outputs, lists.1.outputs);
        Ok((storage(map(device, argument::<f32>(x, layout)?, b * c, &lists)?, device), shape.into()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let (device, (b, c, ..), grad) = (device_of(x)?, x.dims4()?, grad.contiguous()?);
        let (guard, layout) = grad.storage_and_layout();
        let lists = (self.axes.0.transposed().list(), self.axes.1.transposed().list());
        let gradient = map(&device, values(&guard, layout)?, b * c, &lists)?;
        Ok(Some(tensor(gradient, x.shape(), &device)))
    }
}

/// Maps planes, columns first if that leaves fewer rows.
fn map(
    device: &CudaDevice,
    x: Pointer,
    planes: usize,
    (vertical, horizontal): &(AxisList, AxisList),
) -> Result<CudaSlice<f32>> {
    if vertical.inputs <= vertical.outputs {
        let between = map_axis(device, x, planes * vertical.inputs, horizontal, 1)?;
        map_axis(device, between.pointer(), planes, vertical, horizontal.outputs)
    } else {
        let between = map_axis(device, x, planes, vertical, horizontal.inputs)?;
        map_axis(device, between.pointer(), planes * vertical.outputs, horizontal, 1)
    }
}

/// x [planes, inputs, inner] -> [planes, outputs, inner].
fn map_axis(
    device: &CudaDevice,
    x: Pointer,
    planes: usize,
    axis: &AxisList,
    inner: usize,
) -> Result<CudaSlice<f32>> {
    let of_plane = axis.outputs * inner;
    let y = allocate::<f32>(device, planes * of_plane)?;
    if planes * of_plane == 0 {
        return Ok(y);
    }
    let list = device.clone_htod(&axis.values)?;
    let words = |count: usize| list.pointer().after(count * size_of::<u32>());
    let arguments = [
        x.into(),
        list.pointer().into(),
        words(axis.outputs + 1).into(),
        words(axis.outputs + 1 + axis.taps).into(),
        y.pointer().into(),
        size(planes),
        int(axis.inputs)?,
        int(axis.outputs)?,
        int(inner)?,
    ];
    launch(device, &VISION, "map_axis", Grid::planes(planes, of_plane), &arguments)?;
    Ok(y)
}
