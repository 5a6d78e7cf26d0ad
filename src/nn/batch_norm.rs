//! Batch normalisation (arXiv:1502.03167) with PyTorch's conventions: batch statistics in training
//! (biased variance to normalise, unbiased into the running estimate), running statistics in evaluation.
//!
//! The running statistics are parameters `running_mean` and `running_var` that no optimiser updates;
//! training writes them in place. PyTorch's counter `num_batches_tracked` is not kept.

use super::Pass;
use crate::ops::{Moments, batch_norm, batch_norm_with};
use candle_core::{Result, Tensor};
use candle_nn::{Init, VarBuilder};

/// Weight of the newest batch in the running statistics.
const MOMENTUM: f64 = 0.1;

/// Normalises each channel of [B, C] or [B, C, H, W].
#[derive(Clone, Debug)]
pub struct BatchNorm {
    running_mean: Tensor,
    running_var: Tensor,
    /// Weight and bias `[C]`; none in the head of a linear probe.
    affine: Option<(Tensor, Tensor)>,
    eps: f64,
}

impl BatchNorm {
    /// A norm of `channels` channels, with ε `eps`, and with a trained weight and bias if `affine` is set.
    ///
    /// # Errors
    /// When the builder lacks a parameter.
    pub fn new(channels: usize, eps: f64, affine: bool, vb: VarBuilder) -> Result<Self> {
        let get = |name, value| vb.get_with_hints(channels, name, Init::Const(value));
        let affine = if affine { Some((get("weight", 1.)?, get("bias", 0.)?)) } else { None };
        Ok(Self { running_mean: get("running_mean", 0.)?, running_var: get("running_var", 1.)?, affine, eps })
    }

    /// `x` [B, C] or [B, C, H, W] -> the same shape.
    ///
    /// # Errors
    /// In training, when a channel has a single value: its variance is not defined.
    pub fn forward(&self, x: &Tensor, pass: &mut Pass) -> Result<Tensor> {
        let affine = self.affine.as_ref().map(|(weight, bias)| (weight, bias));
        if !pass.is_train() {
            let moments = Moments { mean: self.running_mean.clone(), var: self.running_var.clone() };
            return batch_norm_with(x, &moments, affine, self.eps);
        }
        let count = x.elem_count() / x.dim(1)?.max(1);
        if count < 2 {
            candle_core::bail!("batch norm in training: {count} values per channel (shape {:?})", x.dims());
        }
        let (y, Moments { mean, var }) = batch_norm(x, affine, self.eps)?;
        let unbiased = (var * (count as f64 / (count - 1) as f64))?;
        for (running, batch) in [(&self.running_mean, mean), (&self.running_var, unbiased)] {
            let moved = ((running.detach() * (1. - MOMENTUM))? + (batch * MOMENTUM)?)?;
            running.slice_set(&moved, 0, 0)?;
        }
        Ok(y)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::Params;
    use crate::nn::test_tolerance;
    use crate::rng::Rng;
    use candle_core::{Device, Var};

    /// Two training steps and an evaluation of `torch.nn.BatchNorm{1,2}d` (`scripts/golden/mae.py`).
    #[test]
    fn outputs_gradients_and_running_statistics_equal_pytorch() -> Result<()> {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/mae_parts.safetensors");
        let golden = candle_core::safetensors::load(path, &Device::Cpu)?;
        for (case, channels, eps) in [("plain", 5, 1e-6), ("affine", 3, 1e-5)] {
            let golden = |name: &str| &golden[&format!("norm.{case}.{name}")];
            let params = Params::new(0, &Device::Cpu);
            let norm = BatchNorm::new(channels, eps, case == "affine", params.builder())?;
            for name in ["weight", "bias"] {
                if let Some(p) = params.get(name) {
                    p.var.set(golden(name))?;
                }
            }
            let mut rng = Rng::new(0, "test", &[]);
            for step in 0..2 {
                let x = Var::from_tensor(golden(&format!("{step}.x")))?;
                let y = norm.forward(&x, &mut Pass::train(&mut rng))?;
                assert!(test_tolerance::absolute(&y, golden(&format!("{step}.y"))) < 1e-5);
                let gradients = (y * golden(&format!("{step}.seed")))?.sum_all()?.backward()?;
                let gradient = gradients.get(&x).expect("x is a variable");
                assert!(test_tolerance::absolute(gradient, golden(&format!("{step}.gradient"))) < 1e-5);
            }
            for name in ["running_mean", "running_var"] {
                let p = params.get(name).expect("running statistics are saved");
                assert!(!p.trainable);
                assert!(test_tolerance::absolute(p.var.as_tensor(), golden(name)) < 1e-5, "{case}: {name}");
            }
            let y = norm.forward(golden("1.x"), &mut Pass::Eval)?;
            assert!(test_tolerance::absolute(&y, golden("eval")) < 1e-5, "{case}: evaluation");
        }
        Ok(())
    }

    #[test]
    fn one_value_per_channel_has_no_variance() -> Result<()> {
        let norm = BatchNorm::new(2, 1e-6, false, Params::new(0, &Device::Cpu).builder())?;
        let mut rng = Rng::new(0, "test", &[]);
        let x = Tensor::new(&[[1f32, 2.]], &Device::Cpu)?;
        assert!(norm.forward(&x, &mut Pass::train(&mut rng)).is_err());
        assert!(norm.forward(&x, &mut Pass::Eval).is_ok());
        Ok(())
    }
}
