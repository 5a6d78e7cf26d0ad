//! Layer normalisation as a layer.

use crate::ops;
use candle_core::{Result, Tensor};
use candle_nn::{Init, VarBuilder};

/// Normalises the last dimension; parameters `weight` (1) and `bias` (0), both `[C]`.
#[derive(Clone, Debug)]
pub struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f64,
}

impl LayerNorm {
    /// A norm of `width` channels with ε `eps`.
    ///
    /// # Errors
    /// When the builder lacks a parameter.
    pub fn new(width: usize, eps: f64, vb: VarBuilder) -> Result<Self> {
        Ok(Self {
            weight: vb.get_with_hints(width, "weight", Init::Const(1.))?,
            bias: vb.get_with_hints(width, "bias", Init::Const(0.))?,
            eps,
        })
    }

    /// `x` [.., C] -> [.., C].
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        ops::layer_norm(x, &self.weight, &self.bias, self.eps)
    }

    /// Weight and bias.
    pub(super) fn affine(&self) -> (&Tensor, &Tensor) {
        (&self.weight, &self.bias)
    }
}
