//! Softmax cross-entropy against soft targets.

use super::autograd::ApplyOp;
#[cfg(feature = "cuda")]
use super::cuda;
use super::fresh::to_overwrite;
use super::simd::{Kernel, exp, max, sum, sum2, vectorized};
use super::storage::{argument, for_rows, for_rows_costing, fused, values};
use candle_core::{CpuStorage, CustomOp2, D, Layout, Result, Shape, Tensor, bail};

/// Cross-entropy against soft targets, −Σ target·log softmax(logits), mean over rows. `logits`, `targets` [B, K];
/// targets are constants (an error otherwise) and need not sum to 1.
pub fn softmax_cross_entropy(logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
    let shape = logits.dims2()?;
    if targets.dims2()? != shape {
        bail!("softmax_cross_entropy: logits {shape:?}, targets {:?}", targets.shape());
    }
    if targets.track_op() {
        bail!("softmax_cross_entropy: targets depend on variables, but get no gradient; detach them");
    }
    if fused(&[logits, targets]) {
        return logits.contiguous()?.apply2(&targets.contiguous()?, SoftmaxCrossEntropy);
    }
    #[cfg(feature = "cuda")]
    if cuda::fused(&[logits, targets]) {
        return cuda::softmax_cross_entropy(logits, targets);
    }
    let log_p = candle_nn::ops::log_softmax(logits, D::Minus1)?;
    (log_p * targets)?.sum(D::Minus1)?.mean_all()?.neg()
}

struct SoftmaxCrossEntropy;

impl CustomOp2 for SoftmaxCrossEntropy {
    fn name(&self) -> &'static str {
        "softmax_cross_entropy"
    }

    fn cpu_fwd(
        &self,
        logits: &CpuStorage,
        logits_layout: &Layout,
        targets: &CpuStorage,
        targets_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (b, k) = logits_layout.shape().dims2()?;
        let (logits, targets) = (argument(logits, logits_layout)?, argument(targets, targets_layout)?);
        let mut losses = to_overwrite(b);
        for_rows_costing(k, &mut losses, 1, |rows, losses| {
            let span = rows.start * k..rows.end * k;
            vectorized(Losses { logits: &logits[span.clone()], targets: &targets[span], losses });
        });
        let mean = losses.iter().map(|&loss| f64::from(loss)).sum::<f64>() / b as f64;
        Ok((CpuStorage::F32(vec![mean as f32]), Shape::from(())))
    }

    fn bwd(
        &self,
        logits: &Tensor,
        targets: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (b, k) = logits.dims2()?;
        let scale = grad.to_scalar::<f32>()? / b as f32;
        let (logits_guard, logits_layout) = logits.storage_and_layout();
        let (targets_guard, targets_layout) = targets.storage_and_layout();
        let logit_values = values(&logits_guard, logits_layout)?;
        let target_values = values(&targets_guard, targets_layout)?;
        let mut gradient = to_overwrite(b * k); // [B, K]
        for_rows(&mut gradient, k, |rows, gradient| {
            let span = rows.start * k..rows.end * k;
            let (logits, targets) = (&logit_values[span.clone()], &target_values[span]);
            vectorized(Gradient { logits, targets, scale, k, gradient });
        });
        Ok((Some(Tensor::from_vec(gradient, (b, k), logits.device())?), None))
    }
}

/// One loss per row.
struct Losses<'a> {
    logits: &'a [f32],
    targets: &'a [f32],
    losses: &'a mut [f32],
}

impl Kernel for Losses<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let k = self.logits.len() / self.losses.len();
        let rows = self.logits.chunks_exact(k).zip(self.targets.chunks_exact(k));
        for (loss, (logits, targets)) in self.losses.iter_mut().zip(rows) {
            let largest = max(logits);
            let log_sum = sum(logits, |x| exp(x - largest)).ln();
            *loss = sum2(targets, logits, |t, x| t * (log_sum - (x - largest)));
        }
    }
}

/// scale·(softmax(logits)·Σ targets − targets).
struct Gradient<'a> {
    logits: &'a [f32],
    targets: &'a [f32],
    scale: f32,
    k: usize,
    gradient: &'a mut [f32],
}

impl Kernel for Gradient<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let rows = self.logits.chunks_exact(self.k).zip(self.targets.chunks_exact(self.k));
        for (gradient, (logits, targets)) in self.gradient.chunks_exact_mut(self.k).zip(rows) {
            let largest = max(logits);
            for (g, &x) in gradient.iter_mut().zip(logits) {
                *g = exp(x - largest);
            }
            let weight = sum(targets, |t| t) / sum(gradient, |p| p);
            for (g, &t) in gradient.iter_mut().zip(targets) {
                *g = self.scale * (*g * weight - t);
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
        for (b, k) in [(1, 1), (3, 10), (4, 37)] {
            let targets = gradient_check::random(&[b, k], 1).abs().unwrap();
            let loss = |t: &[Tensor]| softmax_cross_entropy(&t[0], &targets.to_dtype(t[0].dtype())?);
            gradient_check::operator(&[gradient_check::random(&[b, k], 0)], loss, 1e-6);
            let transposed =
                |t: &[Tensor]| softmax_cross_entropy(&t[0].t()?, &targets.to_dtype(t[0].dtype())?);
            gradient_check::operator(&[gradient_check::random(&[k, b], 0)], transposed, 1e-6);
        }
    }

    #[test]
    fn a_certain_and_right_prediction_costs_nothing() {
        let logits = Tensor::new(&[[200f32, -300., 0.]], &candle_core::Device::Cpu).unwrap();
        let targets = Tensor::new(&[[1f32, 0., 0.]], &candle_core::Device::Cpu).unwrap();
        assert_eq!(softmax_cross_entropy(&logits, &targets).unwrap().to_scalar::<f32>().unwrap(), 0.);
    }

    #[test]
    fn targets_with_a_gradient_are_refused() {
        let targets = candle_core::Var::from_tensor(&gradient_check::random(&[2, 3], 0)).unwrap();
        let error =
            softmax_cross_entropy(&gradient_check::random(&[2, 3], 1), &targets).unwrap_err().to_string();
        assert!(error.contains("detach"), "{error}");
    }
}
