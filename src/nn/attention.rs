//! Multi-head self-attention with its two projections.

use super::Linear;
use crate::ops;
use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;

/// `proj`(attention(`qkv`(x))); rows of `qkv.weight` [3·C, C] are queries, keys, values.
#[derive(Clone, Debug)]
pub struct Attention {
    qkv: Linear,
    proj: Linear,
    heads: usize,
}

impl Attention {
    /// # Errors
    /// When `width` is not a multiple of `heads`.
    pub fn new(width: usize, heads: usize, vb: VarBuilder) -> Result<Self> {
        if heads == 0 || !width.is_multiple_of(heads) {
            candle_core::bail!("attention: width {width} is not a multiple of heads {heads}");
        }
        let qkv = Linear::new(width, 3 * width, vb.pp("qkv"))?;
        Ok(Self { qkv, proj: Linear::new(width, width, vb.pp("proj"))?, heads })
    }

    /// `x` [B, N, C] -> [B, N, C].
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let qkv = self.qkv.forward(x)?; // [B, N, 3·C]
        self.proj.forward(&ops::attention(&qkv, self.heads)?)
    }
}
