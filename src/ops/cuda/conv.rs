//! Convolutions as matrix products with the columns of some images at a time.

use super::blas::{Operand, product, product_of_many};
use super::cast::{Rounded, rounded};
use super::launch::{Argument, CONV, Grid, THREADS, int, launch, size};
use super::value::{OnDevice, Pointer, Value, allocate, argument, device_of, storage, tensor, values};
use crate::ops::autograd::{ApplyOp, deliver};
use crate::ops::conv::{Geometry, Plane};
use crate::ops::gemm::Precision;
use candle_core::cuda::CudaDevice;
use candle_core::cuda::cudarc::driver::CudaSlice;
use candle_core::{CpuStorage, CudaStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor, bail};
use half::bf16;
use std::marker::PhantomData;

/// Largest number of column values in memory at a time, unless one image has more.
const MOST: usize = 1 << 27;

/// A convolution or, from the output of its geometry to the input, a transposed one, of contiguous f32 tensors of
/// shapes that fit.
pub(in crate::ops) fn convolution(
    geometry: Geometry,
    transposed: bool,
    precision: Precision,
    (x, weight, bias): (&Tensor, &Tensor, Option<&Tensor>),
) -> Result<Tensor> {
    match precision {
        Precision::F32 => Convolution::<f32>::new(geometry, transposed).apply(x, weight, bias),
        Precision::Bf16 => Convolution::<bf16>::new(geometry, transposed).apply(x, weight, bias),
    }
}

struct Convolution<T> {
    geometry: Geometry,
    transposed: bool,
    of: PhantomData<T>,
}

impl<T: Value> Convolution<T> {
    fn new(geometry: Geometry, transposed: bool) -> Self {
        Self { geometry, transposed, of: PhantomData }
    }

    fn apply(self, x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        let (x, weight) = (x.contiguous()?, weight.contiguous()?);
        match bias {
            Some(bias) => x.apply3(&weight, &bias.contiguous()?, self),
            None => x.apply2(&weight, self),
        }
    }

    fn title(&self) -> &'static str {
        if self.transposed { "conv_transpose2d" } else { "conv2d" }
    }

    fn result(&self) -> Plane {
        if self.transposed { self.geometry.input } else { self.geometry.output }
    }

    /// Rows of the columns of an image: channels times taps.
    fn depth(&self) -> usize {
        self.geometry.input.channels * self.geometry.taps()
    }

    /// (first image, images) that are worked on at a time.
    fn parts(&self) -> impl Iterator<Item = (usize, usize)> + use<T> {
        let of_one = self.depth() * self.geometry.output.pixels();
        let (batch, step) = (self.geometry.batch, (MOST / of_one.max(1)).max(1));
        (0..batch).step_by(step).map(move |first| (first, step.min(batch - first)))
    }

    /// The columns of some `images` of the input, where the kernel is more than a pixel.
    fn columns(&self, device: &CudaDevice, images: Pointer, count: usize) -> Result<Rounded<T>> {
        let Geometry { input, output, .. } = self.geometry;
        if self.pointwise() {
            return rounded::<T>(device, images, count * input.values());
        }
        let values = count * self.depth() * output.pixels();
        let columns = allocate::<T>(device, values)?;
        self.im2col(device, (images, columns.pointer()), count, false)?;
        Ok(Rounded::Copy(columns))
    }

    /// Whether columns are the image itself.
    fn pointwise(&self) -> bool {
        self.geometry.taps() == 1 && self.geometry.stride == 1 && self.geometry.padding == 0
    }

    fn launch(
        &self,
        device: &CudaDevice,
        kernel: &str,
        (from, to): (Pointer, Pointer),
        counts: Vec<Argument>,
        grid: Grid,
    ) -> Result<()> {
        let Geometry { input, output, kernel: (kh, kw), stride, padding, .. } = self.geometry;
        let mut arguments: Vec<Argument> = vec![from.into(), to.into()];
        arguments.extend(counts);
        let sizes =
            [input.channels, input.height, input.width, output.height, output.width, kh, kw, stride, padding];
        for size in sizes {
            arguments.push(int(size)?);
        }
        launch(device, &CONV, &format!("{kernel}_{}", T::NAME), grid, &arguments)
    }

    /// From the input of the geometry to its output.
    fn forward(&self, device: &CudaDevice, x: Pointer, weight: Pointer) -> Result<CudaSlice<f32>> {
        let Geometry { batch, input, output, .. } = self.geometry;
        let (depth, pixels) = (self.depth(), output.pixels());
        let weight = rounded::<T>(device, weight, output.channels * depth)?;
        let y = allocate::<f32>(device, batch * output.values())?;
        for (first, count) in self.parts() {
            let columns = self.columns(device, after::<f32>(x, first * input.values()), count)?;
            product_of_many::<T, f32>(
                device,
                count,
                (output.channels, pixels, depth),
                (Operand::new(weight.pointer(), depth), 0),
                (Operand::new(columns.pointer(), pixels), depth * pixels),
                (after::<f32>(y.pointer(), first * output.values()), output.values()),
                false,
            )?;
        }
        Ok(y)
    }

    /// From the output of the geometry to its input.
    fn backward(&self, device: &CudaDevice, y: Pointer, weight: Pointer) -> Result<CudaSlice<f32>> {
        let Geometry { batch, input, output, .. } = self.geometry;
        let (depth, pixels) = (self.depth(), output.pixels());
        let weight = rounded::<T>(device, weight, output.channels * depth)?;
        let x = allocate::<f32>(device, batch * input.values())?;
        for (first, count) in self.parts() {
            let y = rounded::<T>(device, after::<f32>(y, first * output.values()), count * output.values())?;
            let columns = allocate::<T>(device, count * depth * pixels)?;
            product_of_many::<T, T>(
                device,
                count,
                (depth, pixels, output.channels),
                (Operand::new(weight.pointer(), depth).t(), 0),
                (Operand::new(y.pointer(), pixels), output.values()),
                (columns.pointer(), depth * pixels),
                false,
            )?;
            let to = after::<f32>(x.pointer(), first * input.values());
            let planes = count * input.channels;
            let grid = Grid::planes(planes, input.pixels());
            self.launch(device, "conv_images", (columns.pointer(), to), vec![size(planes)], grid)?;
        }
        Ok(x)
    }

    /// The gradient of the weight, from images of the input and of the output of the geometry.
    fn weight_gradient(
        &self,
        device: &CudaDevice,
        image: Pointer,
        result: Pointer,
    ) -> Result<CudaSlice<f32>> {
        let Geometry { input, output, .. } = self.geometry;
        let (depth, pixels) = (self.depth(), output.pixels());
        let gradient = device.alloc_zeros::<f32>((output.channels * depth).max(1))?;
        for (first, count) in self.parts() {
            // [channels, count·pixels] and [depth, count·pixels]: one product sums over images and pixels.
            let result = after::<f32>(result, first * output.values());
            let results = self.side_by_side(device, result, count, output)?;
            let columns = self.columns_of_all(device, after::<f32>(image, first * input.values()), count)?;
            product::<T, f32>(
                device,
                (output.channels, depth, count * pixels),
                Operand::new(results.pointer(), count * pixels),
                Operand::new(columns.pointer(), count * pixels).t(),
                gradient.pointer(),
                true,
            )?;
        }
        Ok(gradient)
    }

    /// The channels of `count` images, those of all images one after another. [channels, count·pixels]
    fn side_by_side(
        &self,
        device: &CudaDevice,
        images: Pointer,
        count: usize,
        plane: Plane,
    ) -> Result<Rounded<T>> {
        let values = count * plane.values();
        if count == 1 {
            return rounded::<T>(device, images, values);
        }
        let to = allocate::<T>(device, values)?;
        let arguments =
            [images.into(), to.pointer().into(), int(count)?, int(plane.channels)?, int(plane.pixels())?];
        launch(
            device,
            &CONV,
            &format!("side_by_side_{}", T::NAME),
            Grid::planes(count * plane.channels, plane.pixels()),
            &arguments,
        )?;
        Ok(Rounded::Copy(to))
    }

    /// The columns of `count` images, those of all images one after another. [depth, count·pixels]
    fn columns_of_all(&self, device: &CudaDevice, images: Pointer, count: usize) -> Result<Rounded<T>> {
        if self.pointwise() {
            return self.side_by_side(device, images, count, self.geometry.input);
        }
        let columns = allocate::<T>(device, count * self.depth() * self.geometry.output.pixels())?;
        self.im2col(device, (images, columns.pointer()), count, true)?;
        Ok(Rounded::Copy(columns))
    }

    /// Writes columns: a matrix for each image, or one of all images side by side.
    fn im2col(&self, device: &CudaDevice, places: (Pointer, Pointer), count: usize, all: bool) -> Result<()> {
        let rows = count * self.depth();
        let grid = Grid::planes(rows, self.geometry.output.pixels());
        let first = [size(rows), int(if all { count } else { 1 })?];
        self.launch(device, "conv_columns", places, first.into(), grid)
    }

    fn run(
        &self,
        x: (&CudaStorage, &Layout),
        weight: (&CudaStorage, &Layout),
        bias: Option<(&CudaStorage, &Layout)>,
    ) -> Result<(CudaStorage, Shape)> {
        let (device, Plane { channels, height, width }) = (&x.0.device, self.result());
        let (x, weight) = (argument::<f32>(x.0, x.1)?, argument::<f32>(weight.0, weight.1)?);
        let y = if self.transposed {
            self.backward(device, x, weight)?
        } else {
            self.forward(device, x, weight)?
        };
        if let Some((bias, layout)) = bias {
            let bias = argument::<f32>(bias, layout)?;
            let planes = self.geometry.batch * channels;
            let arguments =
                [y.pointer().into(), bias.into(), size(planes), int(channels)?, int(height * width)?];
            launch(device, &CONV, "add_channels", Grid::planes(planes, height * width), &arguments)?;
        }
        Ok((storage(y, device), (self.geometry.batch, channels, height, width).into()))
    }

    /// Gradients of x, weight and bias, where a variable leads to them.
    fn gradients(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: Option<&Tensor>,
        grad: &Tensor,
    ) -> Result<[Option<Tensor>; 3]> {
        let (device, grad) = (device_of(x)?, grad.contiguous()?);
        let guards = [x, weight, &grad].map(Tensor::storage_and_layout);
        let [x_values, weights, grads] = guards.each_ref().map(|(guard, layout)| values(guard, layout));
        let (x_values, weights, grads) = (x_values?, weights?, grads?);
        let of_x = || match self.transposed {
            true => self.forward(&device, grads, weights),
            false => self.backward(&device, grads, weights),
        };
        let of_weight = || match self.transposed {
            true => self.weight_gradient(&device, grads, x_values),
            false => self.weight_gradient(&device, x_values, grads),
        };
        let of_bias = || channel_sums(&device, grads, self.geometry.batch, self.result());
        let made = |like: &Tensor, gradient: &dyn Fn() -> Result<CudaSlice<f32>>| -> Result<Option<Tensor>> {
            match like.track_op() {
                true => Ok(deliver(like, tensor(gradient()?, like.shape(), &device))),
                false => Ok(None),
            }
        };
        let bias = bias.map_or(Ok(None), |bias| made(bias, &of_bias))?;
        Ok([made(x, &of_x)?, made(weight, &of_weight)?, bias])
    }
}

/// The address `values` values of `T` further on.
fn after<T>(pointer: Pointer, values: usize) -> Pointer {
    pointer.after(values * size_of::<T>())
}

/// Sums of `batch` images over images and pixels -> `[C]`.
pub(super) fn channel_sums(
    device: &CudaDevice,
    images: Pointer,
    batch: usize,
    plane: Plane,
) -> Result<CudaSlice<f32>> {
    let sums = allocate::<f32>(device, plane.channels)?;
    let arguments =
        [images.into(), sums.pointer().into(), int(batch)?, int(plane.channels)?, int(plane.pixels())?];
    let grid = Grid { blocks: (plane.channels, 1), threads: THREADS, shared: 0 };
    launch(device, &CONV, "channel_sums", grid, &arguments)?;
    Ok(sums)
}

impl<T: Value> CustomOp2 for Convolution<T> {
    fn name(&self) -> &'static str {
        self.title()
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        bail!("{}: a CUDA operator was called with CPU tensors", self.title())
    }

    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        x_layout: &Layout,
        weight: &CudaStorage,
        weight_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        self.run((x, x_layout), (weight, weight_layout), None)
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let [x, weight, _] = self.gradients(x, weight, None, grad)?;
        Ok((x, weight))
    }
}

impl<T: Value> CustomOp3 for Convolution<T> {
    fn name(&self) -> &'static str {
        self.title()
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
        bail!("{}: a CUDA operator was called with CPU tensors", self.title())
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
        self.run((x, x_layout), (weight, weight_layout), Some((bias, bias_layout)))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let [x, weight, bias] = self.gradients(x, weight, Some(bias), grad)?;
        Ok((x, weight, bias))
    }
}
