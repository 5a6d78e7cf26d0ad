//! Layer normalisation over the last dimension.
//!
//! One pass forward and one backward over each row; the backward pass computes the statistics of
//! the row again instead of keeping them.

use super::autograd::ApplyOp;
#[cfg(feature = "cuda")]
use super::cuda;
use super::fresh::to_overwrite;
use super::simd::{Kernel, sum, sum2, vectorized};
use super::storage::{argument, for_rows, fused, sum_rows, values};
use candle_core::{CpuStorage, CustomOp3, D, Layout, Result, Shape, Tensor, bail};

/// Layer normalisation (arXiv:1607.06450): (x − mean) / sqrt(var + eps) · weight + bias over the last dimension, with
/// the biased variance. `x` `[.., C]`; `weight`, `bias` `[C]`.
///
/// # Errors
/// When the shapes do not fit.
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    if fused(&[x, weight, bias]) {
        let op = LayerNorm { eps: eps as f32 };
        return x.contiguous()?.apply3(&weight.contiguous()?, &bias.contiguous()?, op);
    }
    #[cfg(feature = "cuda")]
    if cuda::fused(&[x, weight, bias]) {
        return cuda::layer_norm(x, weight, bias, eps);
    }
    let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let std = (centred.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?;
    centred.broadcast_div(&std)?.broadcast_mul(weight)?.broadcast_add(bias)
}

struct LayerNorm {
    eps: f32,
}

impl CustomOp3 for LayerNorm {
    fn name(&self) -> &'static str {
        "layer_norm"
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
        let shape = x_layout.shape();
        let width = shape.dims().last().copied().unwrap_or(0);
        if width == 0 || weight_layout.dims() != [width] || bias_layout.dims() != [width] {
            let (weight, bias) = (weight_layout.shape(), bias_layout.shape());
            bail!("layer_norm: x {shape:?}, weight {weight:?}, bias {bias:?}");
        }
        let x = argument(x, x_layout)?;
        let (weight, bias) = (argument(weight, weight_layout)?, argument(bias, bias_layout)?);
        let mut y = to_overwrite(x.len());
        for_rows(&mut y, width, |rows, y| {
            let x = &x[rows.start * width..rows.end * width];
            vectorized(Forward { x, weight, bias, eps: self.eps, y });
        });
        Ok((CpuStorage::F32(y), shape.clone()))
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
        let width = weight.elem_count();
        let (x_guard, x_layout) = x.storage_and_layout();
        let (weight_guard, weight_layout) = weight.storage_and_layout();
        let (grad_guard, grad_layout) = grad.storage_and_layout();
        let (x_values, weights) = (values(&x_guard, x_layout)?, values(&weight_guard, weight_layout)?);
        let grads = values(&grad_guard, grad_layout)?;

        let mut dx = to_overwrite(x_values.len());
        for_rows(&mut dx, width, |rows, dx| {
            let span = rows.start * width..rows.end * width;
            let (x, grad) = (&x_values[span.clone()], &grads[span]);
            vectorized(InputGradient { x, weight: weights, grad, eps: self.eps, dx });
        });
        let sums = sum_rows(x_values.len() / width, 2 * width, |rows, sums| {
            let span = rows.start * width..rows.end * width;
            let (x, grad) = (&x_values[span.clone()], &grads[span]);
            let (weight, bias) = sums.split_at_mut(width);
            vectorized(AffineGradient { x, grad, eps: self.eps, weight, bias });
        });
        let affine = |sums: &[f32], like: &Tensor| Tensor::from_slice(sums, like.shape(), like.device());
        Ok((
            Some(Tensor::from_vec(dx, x.shape(), x.device())?),
            Some(affine(&sums[..width], weight)?),
            Some(affine(&sums[width..], bias)?),
        ))
    }
}

/// Mean and 1/sqrt(var + eps) of a row.
#[inline(always)]
pub(super) fn statistics(row: &[f32], eps: f32) -> (f32, f32) {
    let count = row.len() as f32;
    let mean = sum(row, |x| x) / count;
    let variance = sum(row, |x| (x - mean) * (x - mean)) / count;
    (mean, 1. / (variance + eps).sqrt())
}

pub(super) struct Forward<'a> {
    pub x: &'a [f32],
    pub weight: &'a [f32],
    pub bias: &'a [f32],
    pub eps: f32,
    pub y: &'a mut [f32],
}

impl Kernel for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let width = self.weight.len();
        for (y, x) in self.y.chunks_exact_mut(width).zip(self.x.chunks_exact(width)) {
            let (mean, scale) = statistics(x, self.eps);
            for ((y, &x), (&w, &b)) in y.iter_mut().zip(x).zip(self.weight.iter().zip(self.bias)) {
                *y = (x - mean) * scale * w + b;
            }
        }
    }
}

/// dx = scale·(g·w − mean(g·w) − x̂·mean(g·w·x̂)), x̂ = (x − mean)·scale.
pub(super) struct InputGradient<'a> {
    pub x: &'a [f32],
    pub weight: &'a [f32],
    pub grad: &'a [f32],
    pub eps: f32,
    pub dx: &'a mut [f32],
}

impl Kernel for InputGradient<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let width = self.weight.len();
        let rows = self.x.chunks_exact(width).zip(self.grad.chunks_exact(width));
        for (dx, (x, grad)) in self.dx.chunks_exact_mut(width).zip(rows) {
            input_gradient(x, self.weight, grad, statistics(x, self.eps), dx);
        }
    }
}

/// See [`InputGradient`]; of one row with these [`statistics`].
#[inline(always)]
pub(super) fn input_gradient(
    x: &[f32],
    weight: &[f32],
    grad: &[f32],
    (mean, scale): (f32, f32),
    dx: &mut [f32],
) {
    let width = weight.len() as f32;
    for (dx, (&g, &w)) in dx.iter_mut().zip(grad.iter().zip(weight)) {
        *dx = g * w;
    }
    let average = sum(dx, |g| g) / width;
    let slope = sum2(dx, x, |g, x| g * (x - mean)) * scale * scale / width;
    for (dx, &x) in dx.iter_mut().zip(x) {
        *dx = scale * (*dx - average - (x - mean) * slope);
    }
}

/// dw = Σ g·x̂, db = Σ g over rows.
pub(super) struct AffineGradient<'a> {
    pub x: &'a [f32],
    pub grad: &'a [f32],
    pub eps: f32,
    pub weight: &'a mut [f32],
    pub bias: &'a mut [f32],
}

impl Kernel for AffineGradient<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let width = self.weight.len();
        for (x, grad) in self.x.chunks_exact(width).zip(self.grad.chunks_exact(width)) {
            let (mean, scale) = statistics(x, self.eps);
            let sums = self.weight.iter_mut().zip(self.bias.iter_mut());
            for ((dw, db), (&x, &g)) in sums.zip(x.iter().zip(grad)) {
                *dw += g * (x - mean) * scale;
                *db += g;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::gradient_check;

    #[test]
    fn values_and_gradients() {
        for (shape, width) in [(&[2, 3, 7][..], 7), (&[5, 50], 50), (&[3, 16], 16)] {
            let inputs = [
                gradient_check::random(shape, 0),
                gradient_check::random(&[width], 1),
                gradient_check::random(&[width], 2),
            ];
            gradient_check::operator(&inputs, |t| layer_norm(&t[0], &t[1], &t[2], 1e-6), 2e-6);
        }
        // A class token cut out of a sequence is not contiguous.
        let inputs = [
            gradient_check::random(&[4, 3, 9], 0),
            gradient_check::random(&[9], 1),
            gradient_check::random(&[9], 2),
        ];
        gradient_check::operator(&inputs, |t| layer_norm(&t[0].narrow(1, 1, 1)?, &t[1], &t[2], 1e-5), 2e-6);
    }

    #[test]
    fn the_bits_do_not_depend_on_the_number_of_threads() {
        let inputs = [
            gradient_check::random(&[400, 384], 0),
            gradient_check::random(&[384], 1),
            gradient_check::random(&[384], 2),
        ];
        gradient_check::threads(&inputs, |t| layer_norm(&t[0], &t[1], &t[2], 1e-6));
    }

    #[test]
    fn wrong_shapes_are_refused() {
        let inputs = [gradient_check::random(&[4, 6], 0), gradient_check::random(&[5], 1)]
            .map(|t| gradient_check::single(&t));
        assert!(layer_norm(&inputs[0], &inputs[1], &inputs[1], 1e-6).is_err());
    }
}
