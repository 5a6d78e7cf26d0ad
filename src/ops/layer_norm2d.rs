//! Layer normalisation over the channels of feature maps: "LayerNorm2d" of ConvNeXt and ViTDet.
//!
//! Tasks are blocks of pixels; a vector holds neighbouring pixels, and statistics are computed again in
//! the backward pass.

use super::autograd::{ApplyOp, deliver};
#[cfg(feature = "cuda")]
use super::cuda;
use super::fresh::to_overwrite;
use super::simd::{Kernel, sum, sum2, vectorized};
use super::storage::{argument, for_columns, for_rows_costing, fused, values};
use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

/// Pixels of a task.
const BLOCK: usize = 64;
/// Values that are worth another thread.
const SHARED: usize = 1 << 14;

/// Layer normalisation of feature maps: (x − mean)/sqrt(var + eps)·weight + bias, with mean and biased variance over
/// the channels of every pixel. `x` [B, C, H, W]; `weight`, `bias` `[C]`.
///
/// # Errors
/// When the shapes do not fit.
pub fn layer_norm2d(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    let (_, c, _, _) = x.dims4()?;
    if c == 0 || weight.dims() != [c] || bias.dims() != [c] {
        bail!("layer_norm2d: x {:?}, weight {:?}, bias {:?}", x.shape(), weight.shape(), bias.shape());
    }
    if fused(&[x, weight, bias]) {
        let op = LayerNorm2d { eps: eps as f32 };
        return x.contiguous()?.apply3(&weight.contiguous()?, &bias.contiguous()?, op);
    }
    #[cfg(feature = "cuda")]
    if cuda::fused(&[x, weight, bias]) {
        return cuda::layer_norm2d(x, weight, bias, eps);
    }
    let centred = x.broadcast_sub(&x.mean_keepdim(1)?)?;
    let std = (centred.sqr()?.mean_keepdim(1)? + eps)?.sqrt()?;
    let y = centred.broadcast_div(&std)?.broadcast_mul(&weight.reshape((c, 1, 1))?)?;
    y.broadcast_add(&bias.reshape((c, 1, 1))?)
}

struct LayerNorm2d {
    eps: f32,
}

impl CustomOp3 for LayerNorm2d {
    fn name(&self) -> &'static str {
        "layer_norm2d"
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
        let (_, c, h, w) = x_layout.shape().dims4()?;
        let (x, pixels) = (argument(x, x_layout)?, h * w);
        let (weight, bias) = (argument(weight, weight_layout)?, argument(bias, bias_layout)?);
        let mut y = to_overwrite(x.len()); // [B, C, H, W]
        for_images(&mut y, x, c * pixels, |y, x| {
            for_columns(y, pixels, BLOCK, |columns, y| {
                let x = Block { values: x, pixels, first: columns.start, count: columns.len() };
                vectorized(Forward { x, weight, bias, eps: self.eps, y });
            });
        });
        Ok((CpuStorage::F32(y), x_layout.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (b, c, h, w) = x.dims4()?;
        let (grad, pixels) = (grad.contiguous()?, h * w);
        let (x_guard, x_layout) = x.storage_and_layout();
        let (weight_guard, weight_layout) = weight.storage_and_layout();
        let (grad_guard, grad_layout) = grad.storage_and_layout();
        let (x_values, grads) = (values(&x_guard, x_layout)?, values(&grad_guard, grad_layout)?);
        let weights = values(&weight_guard, weight_layout)?;

        // Mean and scale of every pixel of an image, one after the other.
        let mut statistics = to_overwrite(2 * b * pixels); // [B, 2, H·W]
        let mut dx = to_overwrite(x_values.len()); // [B, C, H, W]
        let images =
            statistics.par_chunks_mut((2 * pixels).max(1)).zip(dx.par_chunks_mut((c * pixels).max(1)));
        let least = SHARED.div_ceil((c * pixels).max(1));
        images.enumerate().with_min_len(least).for_each(|(image, (statistics, dx))| {
            let span = image * c * pixels..(image + 1) * c * pixels;
            let (x, grads) = (&x_values[span.clone()], &grads[span]);
            let (means, scales) = statistics.split_at_mut(pixels);
            let least_blocks = SHARED.div_ceil((c * BLOCK).max(1));
            let found = means.par_chunks_mut(BLOCK).zip(scales.par_chunks_mut(BLOCK)).enumerate();
            found.with_min_len(least_blocks).for_each(|(i, (mean, scale))| {
                let x = Block { values: x, pixels, first: i * BLOCK, count: mean.len() };
                vectorized(Statistics { x, eps: self.eps, mean, scale });
            });
            for_columns(dx, pixels, BLOCK, |columns, dx| {
                let block = |values| Block { values, pixels, first: columns.start, count: columns.len() };
                let (x, grad) = (block(x), block(grads));
                let (mean, scale) = (&means[columns.clone()], &scales[columns.clone()]);
                vectorized(InputGradient { x, grad, weight: weights, mean, scale, dx });
            });
        });
        let mut affine = vec![[0f32; 2]; c]; // Σ g·x̂, Σ g
        for_rows_costing(2 * b * pixels, &mut affine, 1, |channels, affine| {
            for (channel, affine) in channels.zip(affine) {
                let mut totals = [0f64; 2];
                for image in 0..b {
                    let span = (image * c + channel) * pixels..(image * c + channel + 1) * pixels;
                    let (mean, scale) = statistics[2 * image * pixels..][..2 * pixels].split_at(pixels);
                    let (x, grad) = (&x_values[span.clone()], &grads[span]);
                    let sums = vectorized(AffineGradient { x, grad, mean, scale });
                    totals.iter_mut().zip(sums).for_each(|(total, sum)| *total += f64::from(sum));
                }
                *affine = totals.map(|total| total as f32);
            }
        });
        let tensor = |like: &Tensor, k: usize| {
            let sums = affine.iter().map(|sums| sums[k]).collect();
            Tensor::from_vec(sums, like.shape(), like.device()).map(|sums| deliver(like, sums))
        };
        let dx = Tensor::from_vec(dx, x.shape(), x.device())?;
        Ok((deliver(x, dx), tensor(weight, 0)?, tensor(bias, 1)?))
    }
}

/// Runs `task` on the output and the input of each image of `size` values.
fn for_images(y: &mut [f32], x: &[f32], size: usize, task: impl Fn(&mut [f32], &[f32]) + Sync) {
    let size = size.max(1);
    let images = y.par_chunks_mut(size).zip(x.par_chunks(size));
    images.with_min_len(SHARED.div_ceil(size)).for_each(|(y, x)| task(y, x));
}

/// Some neighbouring pixels of an image [C, H·W].
#[derive(Clone, Copy)]
struct Block<'a> {
    values: &'a [f32],
    pixels: usize,
    first: usize,
    count: usize,
}

impl<'a> Block<'a> {
    /// The pixels of each channel in turn.
    #[inline(always)]
    fn channels(self) -> impl Iterator<Item = &'a [f32]> {
        self.values.chunks_exact(self.pixels).map(move |plane| &plane[self.first..][..self.count])
    }

    /// Mean and 1/sqrt(var + eps) of each pixel.
    #[inline(always)]
    fn statistics(self, eps: f32, mean: &mut [f32], scale: &mut [f32]) {
        let channels = (self.values.len() / self.pixels) as f32;
        mean.fill(0.);
        scale.fill(0.);
        for x in self.channels() {
            mean.iter_mut().zip(x).for_each(|(mean, x)| *mean += x);
        }
        mean.iter_mut().for_each(|mean| *mean /= channels);
        for x in self.channels() {
            for (square, (x, mean)) in scale.iter_mut().zip(x.iter().zip(&*mean)) {
                *square += (x - mean) * (x - mean);
            }
        }
        scale.iter_mut().for_each(|square| *square = 1. / (*square / channels + eps).sqrt());
    }
}

struct Forward<'a> {
    x: Block<'a>,
    weight: &'a [f32],
    bias: &'a [f32],
    eps: f32,
    y: Vec<&'a mut [f32]>,
}

impl Kernel for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let (mut mean, mut scale) = ([0f32; BLOCK], [0f32; BLOCK]);
        let (mean, scale) = (&mut mean[..self.x.count], &mut scale[..self.x.count]);
        self.x.statistics(self.eps, mean, scale);
        let affine = self.weight.iter().zip(self.bias);
        for ((y, x), (&w, &b)) in self.y.into_iter().zip(self.x.channels()).zip(affine) {
            for ((y, x), (mean, scale)) in y.iter_mut().zip(x).zip(mean.iter().zip(&*scale)) {
                *y = (x - mean) * scale * w + b;
            }
        }
    }
}

struct Statistics<'a> {
    x: Block<'a>,
    eps: f32,
    mean: &'a mut [f32],
    scale: &'a mut [f32],
}

impl Kernel for Statistics<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        self.x.statistics(self.eps, self.mean, self.scale);
    }
}

/// dx = scale·(g·w − mean(g·w) − x̂·mean(g·w·x̂)), x̂ = (x − mean)·scale.
struct InputGradient<'a> {
    x: Block<'a>,
    grad: Block<'a>,
    weight: &'a [f32],
    mean: &'a [f32],
    scale: &'a [f32],
    dx: Vec<&'a mut [f32]>,
}

impl Kernel for InputGradient<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { x, grad, weight, mean, scale, dx } = self;
        let (mut average, mut slope) = ([0f32; BLOCK], [0f32; BLOCK]);
        let (average, slope) = (&mut average[..x.count], &mut slope[..x.count]);
        for ((x, g), &w) in x.channels().zip(grad.channels()).zip(weight) {
            let sums = average.iter_mut().zip(slope.iter_mut());
            for ((average, slope), ((x, g), mean)) in sums.zip(x.iter().zip(g).zip(mean)) {
                *average += g * w;
                *slope += g * w * (x - mean);
            }
        }
        let channels = weight.len() as f32;
        for ((average, slope), scale) in average.iter_mut().zip(slope.iter_mut()).zip(scale) {
            *average /= channels;
            *slope *= scale * scale / channels;
        }
        for (((dx, x), g), &w) in dx.into_iter().zip(x.channels()).zip(grad.channels()).zip(weight) {
            let pixel = mean.iter().zip(scale).zip(average.iter().zip(&*slope));
            for ((dx, (x, g)), ((mean, scale), (average, slope))) in
                dx.iter_mut().zip(x.iter().zip(g)).zip(pixel)
            {
                *dx = scale * (g * w - average - (x - mean) * slope);
            }
        }
    }
}

/// Σ g·x̂ and Σ g over the pixels of one channel.
struct AffineGradient<'a> {
    x: &'a [f32],
    grad: &'a [f32],
    mean: &'a [f32],
    scale: &'a [f32],
}

impl Kernel for AffineGradient<'_> {
    type Output = [f32; 2];

    #[inline(always)]
    fn run(self) -> [f32; 2] {
        let mut sums = [0f32; 2];
        let rows = self.x.chunks(BLOCK).zip(self.grad.chunks(BLOCK));
        for ((x, g), (mean, scale)) in rows.zip(self.mean.chunks(BLOCK).zip(self.scale.chunks(BLOCK))) {
            let mut normalized = [0f32; BLOCK];
            for ((n, x), (mean, scale)) in normalized.iter_mut().zip(x).zip(mean.iter().zip(scale)) {
                *n = (x - mean) * scale;
            }
            sums[0] += sum2(g, &normalized[..g.len()], |g, n| g * n);
            sums[1] += sum(g, |g| g);
        }
        sums
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::gradient_check;

    #[test]
    fn values_and_gradients() {
        for shape in [[2, 5, 3, 4], [1, 7, 1, 1], [2, 3, 9, 15]] {
            let c = shape[1];
            let inputs = [
                gradient_check::random(&shape, 0),
                gradient_check::random(&[c], 1),
                gradient_check::random(&[c], 2),
            ];
            gradient_check::operator(&inputs, |t| layer_norm2d(&t[0], &t[1], &t[2], 1e-3), 8e-6);
        }
        let inputs = [
            gradient_check::random(&[2, 4, 3, 6], 0),
            gradient_check::random(&[6], 1),
            gradient_check::random(&[6], 2),
        ];
        let strided = |t: &[Tensor]| layer_norm2d(&t[0].transpose(1, 3)?, &t[1], &t[2], 1e-3);
        gradient_check::operator(&inputs, strided, 8e-6);
        let inputs = [
            gradient_check::random(&[0, 4, 3, 3], 0),
            gradient_check::random(&[4], 1),
            gradient_check::random(&[4], 2),
        ];
        gradient_check::empty(&inputs, |t| layer_norm2d(&t[0], &t[1], &t[2], 1e-5));
    }

    #[test]
    fn the_bits_do_not_depend_on_the_number_of_threads() {
        let inputs = [
            gradient_check::random(&[3, 8, 40, 40], 0),
            gradient_check::random(&[8], 1),
            gradient_check::random(&[8], 2),
        ];
        gradient_check::threads(&inputs, |t| layer_norm2d(&t[0], &t[1], &t[2], 1e-6));
    }

    #[test]
    fn wrong_shapes_are_refused() {
        let [x, w] = [gradient_check::random(&[2, 6, 2, 2], 0), gradient_check::random(&[5], 1)]
            .map(|t| gradient_check::single(&t));
        let error = layer_norm2d(&x, &w, &w, 1e-5).unwrap_err().to_string();
        assert!(error.contains("layer_norm2d: x [2, 6, 2, 2], weight [5]"), "{error}");
    }
}
