//! Pooling, channel-wise norms and regions of feature maps [B, C, H, W].

use super::conv::channel_sums;
use super::launch::{Argument, Grid, THREADS, VISION, int, launch, size};
use super::value::{OnDevice, allocate, argument, device_of, on_cpu, storage, tensor, values};
use crate::ops::autograd::ApplyOp;
use crate::ops::branch::Kept;
use crate::ops::conv::Plane;
use candle_core::cuda::CudaDevice;
use candle_core::cuda::cudarc::driver::CudaSlice;
use candle_core::{CpuStorage, CudaStorage, CustomOp1, CustomOp3, Layout, Result, Shape, Tensor};

/// [`crate::ops::max_pool2d`] of an f32 map, with the size of its result.
pub(in crate::ops) fn max_pool2d(
    x: &Tensor,
    (kernel, stride, padding): (usize, usize, usize),
    to: (usize, usize),
) -> Result<Tensor> {
    x.contiguous()?.apply1(MaxPool { kernel, stride, padding, to, places: Kept::nothing() })
}

struct MaxPool {
    kernel: usize,
    stride: usize,
    padding: usize,
    to: (usize, usize),
    /// Index of the largest value in its plane. [B, C, H', W']
    places: Kept<CudaSlice<u32>>,
}

impl MaxPool {
    fn sizes(&self, (height, width): (usize, usize)) -> Result<[Argument; 7]> {
        let Self { kernel, stride, padding, to, .. } = *self;
        Ok([int(height)?, int(width)?, int(to.0)?, int(to.1)?, int(kernel)?, int(stride)?, int(padding)?])
    }
}

impl CustomOp1 for MaxPool {
    fn name(&self) -> &'static str {
        "max_pool2d"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        on_cpu("max_pool2d")
    }

    fn cuda_fwd(&self, x: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let (device, (b, c, h, w)) = (&x.device, layout.shape().dims4()?);
        let count = b * c * self.to.0 * self.to.1;
        let y = allocate::<f32>(device, count)?;
        // SAFETY: the kernel writes a place for every value.
        let places = unsafe { device.alloc::<u32>(count.max(1))? };
        let mut arguments: Vec<Argument> = vec![
            argument::<f32>(x, layout)?.into(),
            y.pointer().into(),
            places.pointer().into(),
            size(count),
        ];
        arguments.extend(self.sizes((h, w))?);
        launch(device, &VISION, "max_pool", Grid::threads(count), &arguments)?;
        self.places.set(places);
        Ok((storage(y, device), (b, c, self.to.0, self.to.1).into()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let (device, (.., h, w), grad) = (device_of(x)?, x.dims4()?, grad.contiguous()?);
        let (places, count) = (self.places.take("max_pool2d")?, x.elem_count());
        let gradient = allocate::<f32>(&device, count)?;
        let (guard, layout) = grad.storage_and_layout();
        let mut arguments: Vec<Argument> = vec![
            values(&guard, layout)?.into(),
            places.pointer().into(),
            gradient.pointer().into(),
            size(count),
        ];
        arguments.extend(self.sizes((h, w))?);
        launch(&device, &VISION, "max_pool_gradient", Grid::threads(count), &arguments)?;
        Ok(Some(tensor(gradient, x.shape(), &device)))
    }
}

/// [`crate::ops::roi_align`] of an f32 map and valid boxes [R, 5].
pub(in crate::ops) fn roi_align(
    x: &Tensor,
    boxes: &Tensor,
    size: (usize, usize),
    scale: f64,
    sampling_ratio: usize,
) -> Result<Tensor> {
    let boxes = boxes.to_device(x.device())?.contiguous()?;
    x.contiguous()?.apply1(RoiAlign { boxes, size, scale: scale as f32, sampling_ratio })
}

struct RoiAlign {
    boxes: Tensor,
    size: (usize, usize),
    scale: f32,
    sampling_ratio: usize,
}

impl RoiAlign {
    /// Queues a kernel over all bins, from one map to another.
    fn run(&self, device: &CudaDevice, kernel: &str, map: &Shape, [from, to]: [Argument; 2]) -> Result<()> {
        let (_, channels, height, width) = map.dims4()?;
        let count = self.boxes.dim(0)? * channels * self.size.0 * self.size.1;
        let (guard, layout) = self.boxes.storage_and_layout();
        let arguments = [
            from,
            values(&guard, layout)?.into(),
            to,
            size(count),
            int(channels)?,
            int(height)?,
            int(width)?,
            int(self.size.0)?,
            int(self.size.1)?,
            self.scale.into(),
            int(self.sampling_ratio)?,
        ];
        launch(device, &VISION, kernel, Grid::threads(count), &arguments)
    }
}

impl CustomOp1 for RoiAlign {
    fn name(&self) -> &'static str {
        "roi_align"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        on_cpu("roi_align")
    }

    fn cuda_fwd(&self, x: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let (device, map, (down, across)) = (&x.device, layout.shape(), self.size);
        let shape = (self.boxes.dim(0)?, map.dims4()?.1, down, across);
        let y = allocate::<f32>(device, shape.0 * shape.1 * down * across)?;
        let places = [argument::<f32>(x, layout)?.into(), y.pointer().into()];
        self.run(device, "roi_align", map, places)?;
        Ok((storage(y, device), shape.into()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let (device, grad) = (device_of(x)?, grad.contiguous()?);
        let gradient = device.alloc_zeros::<f32>(x.elem_count().max(1))?;
        let (guard, layout) = grad.storage_and_layout();
        let places = [values(&guard, layout)?.into(), gradient.pointer().into()];
        self.run(&device, "roi_align_gradient", x.shape(), places)?;
        Ok(Some(tensor(gradient, x.shape(), &device)))
    }
}

/// [`crate::ops::layer_norm2d`] of f32 tensors of shapes that fit.
pub(in crate::ops) fn layer_norm2d(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    let op = LayerNorm2d { eps: eps as f32, moments: Kept::nothing() };
    x.contiguous()?.apply3(&weight.contiguous()?, &bias.contiguous()?, op)
}

struct LayerNorm2d {
    eps: f32,
    /// Mean and 1/sqrt(var + ε) of every pixel. [2, B·H·W]
    moments: Kept<CudaSlice<f32>>,
}

impl CustomOp3 for LayerNorm2d {
    fn name(&self) -> &'static str {
        "layer_norm2d"
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
        on_cpu("layer_norm2d")
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
        let (device, (b, c, h, w)) = (&x.device, x_layout.shape().dims4()?);
        let (y, moments) = (allocate::<f32>(device, b * c * h * w)?, allocate::<f32>(device, 2 * b * h * w)?);
        let arguments = [
            argument::<f32>(x, x_layout)?.into(),
            argument::<f32>(weight, weight_layout)?.into(),
            argument::<f32>(bias, bias_layout)?.into(),
            y.pointer().into(),
            moments.pointer().into(),
            size(b * h * w),
            int(c)?,
            int(h * w)?,
            self.eps.into(),
        ];
        launch(device, &VISION, "layer_norm2d", Grid::threads(b * h * w), &arguments)?;
        self.moments.set(moments);
        Ok((storage(y, device), x_layout.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (device, (b, c, h, w), grad) = (device_of(x)?, x.dims4()?, grad.contiguous()?);
        let moments = self.moments.take("layer_norm2d")?;
        let guards = [x, weight, &grad].map(Tensor::storage_and_layout);
        let [x_values, weights, grads] = guards.each_ref().map(|(guard, layout)| values(guard, layout));
        let (x_values, grads) = (x_values?, grads?);
        let dx = allocate::<f32>(&device, x.elem_count())?;
        let arguments = [
            x_values.into(),
            weights?.into(),
            grads.into(),
            moments.pointer().into(),
            dx.pointer().into(),
            size(b * h * w),
            int(c)?,
            int(h * w)?,
        ];
        launch(&device, &VISION, "layer_norm2d_gradient", Grid::threads(b * h * w), &arguments)?;
        let slopes = allocate::<f32>(&device, c)?;
        let arguments = [
            x_values.into(),
            grads.into(),
            moments.pointer().into(),
            slopes.pointer().into(),
            int(b)?,
            int(c)?,
            int(h * w)?,
        ];
        let grid = Grid { blocks: (c, 1), threads: THREADS, shared: 0 };
        launch(&device, &VISION, "layer_norm2d_slope", grid, &arguments)?;
        let sums = channel_sums(&device, grads, b, Plane { channels: c, height: h, width: w })?;
        Ok((
            Some(tensor(dx, x.shape(), &device)),
            Some(tensor(slopes, weight.shape(), &device)),
            Some(tensor(sums, bias.shape(), &device)),
        ))
    }
}
