//! Convolutions and transposed convolutions of images, without groups and dilation.
//!
//! They are matrix products with the columns of the image (im2col), which are gathered panel by panel and never stored
//! as a whole. The gradient of the input is a convolution too, and so a transposed convolution is a convolution run
//! backwards.
//!
//! 3×3 convolutions of stride 1 take a quarter of the multiplications by Winograd's minimal filtering instead
//! ([`winograd`]) where that is faster: in f32, and in bf16 where the processor has no faster units for it, with about 64
//! channels or more and images of 16 tiles of 4×4 pixels or more; elsewhere in bf16 with about 200 channels or more and 64
//! tiles or more. Their largest error is up to 5e-6 of the largest value, where that of sums over taps is 4e-7.

mod correlate;
mod geometry;
mod im2col;
mod lanes;
#[cfg(test)]
mod tests;
mod transform;
mod weight;
mod winograd;

use super::autograd::{ApplyOp, deliver};
#[cfg(feature = "cuda")]
use super::cuda;
use super::gemm::Precision;
use super::simd::{Kernel, sum, vectorized};
use super::storage::{argument, fused, values};
use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor, bail};
use geometry::Layer;
pub(super) use geometry::{Geometry, Plane};
use rayon::prelude::*;

/// A convolution: `x` `[B, C, H, W]`, `weight` `[O, C, kh, kw]`, `bias` `[O]` ->
/// `[B, O, (H + 2·padding − kh)/stride + 1, (W + 2·padding − kw)/stride + 1]`: PyTorch's `conv2d` with zeros around the
/// image.
///
/// # Errors
/// When the shapes do not fit, the stride is 0, or the kernel is larger than the padded image.
pub fn conv2d(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    stride: usize,
    padding: usize,
    precision: Precision,
) -> Result<Tensor> {
    let geometry = Geometry::new(x.shape(), weight.shape(), stride, padding)?;
    let convolution = Convolution { geometry, transposed: false, precision };
    // candle's gradient needs an image whose size is covered exactly by the strides in both directions.
    let used = |side: usize, kernel: usize| (side - 1) * stride + kernel;
    let Geometry { output, kernel, .. } = geometry;
    convolution.apply(x, weight, bias, || {
        let x = x.pad_with_zeros(2, padding, padding)?.pad_with_zeros(3, padding, padding)?;
        let x = x.narrow(2, 0, used(output.height, kernel.0))?.narrow(3, 0, used(output.width, kernel.1))?;
        x.conv2d(weight, 0, stride, 1, 1)
    })
}

/// A transposed convolution: `x` `[B, C, H, W]`, `weight` `[C, O, kh, kw]`, `bias` `[O]` ->
/// `[B, O, (H − 1)·stride + kh, (W − 1)·stride + kw]`: PyTorch's `conv_transpose2d` without padding.
///
/// # Errors
/// When the shapes do not fit, the stride is 0, or the image has no pixels.
pub fn conv_transpose2d(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    stride: usize,
    precision: Precision,
) -> Result<Tensor> {
    let geometry = Geometry::transposed(x.shape(), weight.shape(), stride)?;
    let convolution = Convolution { geometry, transposed: true, precision };
    convolution.apply(x, weight, bias, || x.conv_transpose2d(weight, 0, 0, stride, 1))
}

/// The image or the gradient of the result -> the values of the other side.
type Run = fn(&Layer, &[f32]) -> Vec<f32>;

struct Convolution {
    geometry: Geometry,
    /// From the output of the geometry to its input.
    transposed: bool,
    precision: Precision,
}

impl Convolution {
    /// `composed` is the same of candle's operators, without the bias, for other devices and types.
    fn apply(
        self,
        x: &Tensor,
        weight: &Tensor,
        bias: Option<&Tensor>,
        composed: impl Fn() -> Result<Tensor>,
    ) -> Result<Tensor> {
        let result = self.result().channels;
        if let Some(bias) = bias.filter(|bias| bias.dims() != [result]) {
            bail!("{}: weight {:?}, bias {:?}", self.title(), weight.shape(), bias.shape());
        }
        #[cfg(feature = "cuda")]
        if cuda::fused(&[x, weight]) && bias.is_none_or(|bias| cuda::fused(&[bias])) {
            return cuda::convolution(self.geometry, self.transposed, self.precision, (x, weight, bias));
        }
        if !fused(&[x, weight]) || bias.is_some_and(|bias| !fused(&[bias])) {
            return match bias {
                Some(bias) => composed()?.broadcast_add(&bias.reshape((1, (), 1, 1))?),
                None => composed(),
            };
        }
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

    /// From the input of the geometry to its output.
    fn forwards(&self) -> Run {
        if winograd::pays(&self.geometry, self.precision) { winograd::forward } else { correlate::forward }
    }

    /// From the output of the geometry to its input.
    fn backwards(&self) -> Run {
        if winograd::pays(&self.geometry, self.precision) { winograd::backward } else { correlate::backward }
    }

    fn forward(
        &self,
        x: (&CpuStorage, &Layout),
        weight: (&CpuStorage, &Layout),
        bias: Option<(&CpuStorage, &Layout)>,
    ) -> Result<(CpuStorage, Shape)> {
        let bias = bias.map(|(storage, layout)| argument(storage, layout)).transpose()?;
        let (x, weight) = (argument(x.0, x.1)?, argument(weight.0, weight.1)?);
        let run = if self.transposed { self.backwards() } else { self.forwards() };
        let Plane { channels, height, width } = self.result();
        let y = run(&Layer { geometry: &self.geometry, precision: self.precision, weight, bias }, x);
        Ok((CpuStorage::F32(y), (self.geometry.batch, channels, height, width).into()))
    }

    /// Gradients of x and weight, where a variable leads to them.
    fn backward(
        &self,
        x: &Tensor,
        weight: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (geometry, precision) = (&self.geometry, self.precision);
        let (x_guard, x_layout) = x.storage_and_layout();
        let (weight_guard, weight_layout) = weight.storage_and_layout();
        let (grad_guard, grad_layout) = grad.storage_and_layout();
        let (x_values, weight_values) = (values(&x_guard, x_layout)?, values(&weight_guard, weight_layout)?);
        let grad_values = values(&grad_guard, grad_layout)?;
        let made = |like: &Tensor, gradient: &dyn Fn() -> Vec<f32>| -> Result<Option<Tensor>> {
            if !like.track_op() {
                return Ok(None);
            }
            Ok(deliver(like, Tensor::from_vec(gradient(), like.shape(), like.device())?))
        };
        let back = if self.transposed { self.forwards() } else { self.backwards() };
        let layer = Layer { geometry, precision, weight: weight_values, bias: None };
        let gradient =
            if winograd::pays(geometry, precision) { winograd::gradient } else { weight::gradient };
        let (image, result) = if self.transposed { (grad_values, x_values) } else { (x_values, grad_values) };
        Ok((
            made(x, &|| back(&layer, grad_values))?,
            made(weight, &|| gradient(geometry, precision, image, result))?,
        ))
    }
}

impl CustomOp2 for Convolution {
    fn name(&self) -> &'static str {
        self.title()
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.forward((x, x_layout), (weight, weight_layout), None)
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        self.backward(x, weight, &grad.contiguous()?)
    }
}

impl CustomOp3 for Convolution {
    fn name(&self) -> &'static str {
        self.title()
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.forward((x, x_layout), (weight, weight_layout), Some((bias, bias_layout)))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let (x_grad, weight_grad) = self.backward(x, weight, &grad)?;
        Ok((x_grad, weight_grad, bias_gradient(bias, &grad)?))
    }
}

/// Sums of `grad` [B, O, H, W] over images and pixels, where a variable leads to `bias` `[O]`.
fn bias_gradient(bias: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
    struct Sum<'a>(&'a [f32]);

    impl Kernel for Sum<'_> {
        type Output = f32;

        #[inline(always)]
        fn run(self) -> f32 {
            sum(self.0, |x| x)
        }
    }

    if !bias.track_op() {
        return Ok(None);
    }
    let (batch, channels, height, width) = grad.dims4()?;
    let (guard, layout) = grad.storage_and_layout();
    let (grad, pixels) = (values(&guard, layout)?, height * width);
    let plane = |image: usize, channel: usize| &grad[(image * channels + channel) * pixels..][..pixels];
    let sums = (0..channels).into_par_iter().map(|channel| {
        let images = (0..batch).map(|image| vectorized(Sum(plane(image, channel))));
        images.fold(0., |total, sum| total + sum)
    });
    let gradient = Tensor::from_vec(sums.collect(), bias.shape(), bias.device())?;
    Ok(deliver(bias, gradient))
}
