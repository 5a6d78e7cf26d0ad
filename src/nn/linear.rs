//! y = x·Wᵀ + b with the initialisation of MAE, or with a given one for heads.

use crate::ops::{self, Precision};
use candle_core::{Result, Tensor};
use candle_nn::{Init, VarBuilder};

/// A linear layer with bias: parameters `weight` [out, in] and `bias` `[out]`.
#[derive(Clone, Debug)]
pub struct Linear {
    weight: Tensor,
    bias: Tensor,
    precision: Precision,
}

impl Linear {
    /// Weight Xavier-uniform (U(±√(6 / (in + out)))), bias 0, as in every linear layer of MAE.
    ///
    /// # Errors
    /// When the builder lacks a parameter.
    pub fn new(input: usize, output: usize, vb: VarBuilder) -> Result<Self> {
        Self::with_init(input, output, xavier_uniform(input, output), vb)
    }

    /// Weight normal(0, `std`), bias 0. Heads: 2e-5 in fine-tuning, 0.01 in linear probing, where the truncation at ±2
    /// in the reference has no effect.
    pub fn with_std(input: usize, output: usize, std: f64, vb: VarBuilder) -> Result<Self> {
        Self::with_init(input, output, Init::Randn { mean: 0., stdev: std }, vb)
    }

    /// Weight as `init` says, bias 0.
    pub fn with_init(input: usize, output: usize, init: Init, vb: VarBuilder) -> Result<Self> {
        Ok(Self {
            weight: vb.get_with_hints((output, input), "weight", init)?,
            bias: vb.get_with_hints(output, "bias", Init::Const(0.))?,
            precision: Precision::of(vb.dtype())?,
        })
    }

    /// `x` [.., in] -> [.., out].
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        ops::linear(x, &self.weight, Some(&self.bias), self.precision)
    }

    /// Weight and bias of the layer with its outputs multiplied by `channels` `[out]`.
    pub(super) fn scaled(&self, channels: Option<&Tensor>) -> Result<(Tensor, Tensor)> {
        match channels {
            Some(channels) => {
                Ok((self.weight.broadcast_mul(&channels.unsqueeze(1)?)?, (&self.bias * channels)?))
            }
            None => Ok((self.weight.clone(), self.bias.clone())),
        }
    }

    /// Weight and bias.
    pub(super) fn affine(&self) -> (&Tensor, &Tensor) {
        (&self.weight, &self.bias)
    }
}

/// Xavier-uniform for a weight that maps `input` to `output` values.
pub(crate) fn xavier_uniform(input: usize, output: usize) -> Init {
    let bound = (6. / (input + output) as f64).sqrt();
    Init::Uniform { lo: -bound, up: bound }
}
