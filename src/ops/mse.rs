//! Mean squared error of patches, with a weight for each patch.

use super::autograd::ApplyOp;
#[cfg(feature = "cuda")]
use super::cuda;
use super::fresh::to_overwrite;
use super::simd::{Kernel, sum2, vectorized};
use super::storage::{argument, for_rows, for_rows_costing, fused, values};
use candle_core::{CpuStorage, CustomOp3, D, Layout, Result, Shape, Tensor, bail};

/// Mean squared error of patches, Σ weights·mean((prediction − target)²) / Σ weights (arXiv:2111.06377 §3, where
/// weights are 1 on masked patches). `prediction`, `target` [.., P]; `weights` [..]. Target and weights are constants
/// (an error otherwise).
pub fn patch_mse(prediction: &Tensor, target: &Tensor, weights: &Tensor) -> Result<Tensor> {
    let (_, patches) = prediction.dims().split_last().unwrap_or((&0, &[]));
    if target.dims() != prediction.dims() || weights.dims() != patches || patches.is_empty() {
        let (prediction, target, weights) = (prediction.shape(), target.shape(), weights.shape());
        bail!("patch_mse: prediction {prediction:?}, target {target:?}, weights {weights:?}");
    }
    if target.track_op() || weights.track_op() {
        bail!("patch_mse: target or weights depend on variables, but get no gradient; detach them");
    }
    if fused(&[prediction, target, weights]) {
        let (target, weights) = (target.contiguous()?, weights.contiguous()?);
        return prediction.contiguous()?.apply3(&target, &weights, PatchMse);
    }
    #[cfg(feature = "cuda")]
    if cuda::fused(&[prediction, target, weights]) {
        let [prediction, target] = [prediction, target].map(|t| t.flatten_to(D::Minus2)?.unsqueeze(0));
        return cuda::patch_mse(&prediction?, &target?, &weights.flatten_all()?.unsqueeze(0)?);
    }
    let per_patch = (prediction - target)?.sqr()?.mean(D::Minus1)?; // [B, L]
    (per_patch * weights)?.sum_all()? / weights.sum_all()?
}

struct PatchMse;

impl CustomOp3 for PatchMse {
    fn name(&self) -> &'static str {
        "patch_mse"
    }

    fn cpu_fwd(
        &self,
        prediction: &CpuStorage,
        prediction_layout: &Layout,
        target: &CpuStorage,
        target_layout: &Layout,
        weights: &CpuStorage,
        weights_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let width = prediction_layout.dims().last().copied().unwrap_or(0);
        let (prediction, target) =
            (argument(prediction, prediction_layout)?, argument(target, target_layout)?);
        let weights = argument(weights, weights_layout)?;
        let mut errors = to_overwrite(weights.len()); // [B·L]
        for_rows_costing(width, &mut errors, 1, |rows, errors| {
            let span = rows.start * width..rows.end * width;
            vectorized(Errors { prediction: &prediction[span.clone()], target: &target[span], errors });
        });
        let weighted = errors.iter().zip(weights).map(|(&e, &w)| f64::from(e) * f64::from(w)).sum::<f64>();
        Ok((CpuStorage::F32(vec![(weighted / total(weights)) as f32]), Shape::from(())))
    }

    fn bwd(
        &self,
        prediction: &Tensor,
        target: &Tensor,
        weights: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let width = prediction.dim(D::Minus1)?;
        let (prediction_guard, prediction_layout) = prediction.storage_and_layout();
        let (target_guard, target_layout) = target.storage_and_layout();
        let (weights_guard, weights_layout) = weights.storage_and_layout();
        let prediction_values = values(&prediction_guard, prediction_layout)?;
        let target_values = values(&target_guard, target_layout)?;
        let weight_values = values(&weights_guard, weights_layout)?;
        let scale = 2. * f64::from(grad.to_scalar::<f32>()?) / (width as f64 * total(weight_values));
        let mut gradient = to_overwrite(prediction_values.len()); // [B, L, P]
        for_rows(&mut gradient, width, |rows, gradient| {
            let span = rows.start * width..rows.end * width;
            vectorized(Gradient {
                prediction: &prediction_values[span.clone()],
                target: &target_values[span],
                weights: &weight_values[rows],
                scale: scale as f32,
                gradient,
            });
        });
        Ok((Some(Tensor::from_vec(gradient, prediction.shape(), prediction.device())?), None, None))
    }
}

fn total(weights: &[f32]) -> f64 {
    weights.iter().map(|&w| f64::from(w)).sum()
}

/// Mean squared difference of each row.
struct Errors<'a> {
    prediction: &'a [f32],
    target: &'a [f32],
    errors: &'a mut [f32],
}

impl Kernel for Errors<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let width = self.prediction.len() / self.errors.len();
        let rows = self.prediction.chunks_exact(width).zip(self.target.chunks_exact(width));
        for (error, (prediction, target)) in self.errors.iter_mut().zip(rows) {
            *error = sum2(prediction, target, |p, t| (p - t) * (p - t)) / width as f32;
        }
    }
}

/// weight·scale·(prediction − target), one weight per row.
struct Gradient<'a> {
    prediction: &'a [f32],
    target: &'a [f32],
    weights: &'a [f32],
    scale: f32,
    gradient: &'a mut [f32],
}

impl Kernel for Gradient<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let width = self.prediction.len() / self.weights.len();
        let rows = self.prediction.chunks_exact(width).zip(self.target.chunks_exact(width));
        let rows = rows.zip(self.weights);
        for (gradient, ((prediction, target), &weight)) in self.gradient.chunks_exact_mut(width).zip(rows) {
            let scale = weight * self.scale;
            for (g, (&p, &t)) in gradient.iter_mut().zip(prediction.iter().zip(target)) {
                *g = scale * (p - t);
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
        for (b, l, p) in [(1, 1, 1), (2, 5, 12), (3, 4, 27)] {
            let (target, weights) =
                (gradient_check::random(&[b, l, p], 1), gradient_check::random(&[b, l], 2).abs().unwrap());
            let loss = |t: &[Tensor]| {
                let dtype = t[0].dtype();
                patch_mse(&t[0], &target.to_dtype(dtype)?, &weights.to_dtype(dtype)?)
            };
            gradient_check::operator(&[gradient_check::random(&[b, l, p], 0)], loss, 2e-6);
            // The predictions behind a class token are not contiguous.
            let behind = |t: &[Tensor]| loss(&[t[0].narrow(1, 1, l)?]);
            gradient_check::operator(&[gradient_check::random(&[b, l + 1, p], 0)], behind, 2e-6);
        }
    }

    #[test]
    fn patches_of_weight_zero_do_not_count() {
        let tensor = |values: &[f32], shape: &[usize]| {
            Tensor::from_slice(values, shape, &candle_core::Device::Cpu).unwrap()
        };
        let prediction = tensor(&[1., 3., 100., 100.], &[1, 2, 2]);
        let loss =
            patch_mse(&prediction, &tensor(&[0.; 4], &[1, 2, 2]), &tensor(&[1., 0.], &[1, 2])).unwrap();
        assert_eq!(loss.to_scalar::<f32>().unwrap(), 5.);
    }
}
