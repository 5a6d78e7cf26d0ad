//! Multi-head self-attention with its two projections.

use super::{LayerNorm, Linear};
use crate::ops::{self, AttentionWeights, Branch};
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

    /// `x` + scale·`proj`(attention(`qkv`(`norm`(x)))). [B, N, C] -> [B, N, C]
    pub(super) fn branch(&self, x: &Tensor, norm: &LayerNorm, branch: &Branch) -> Result<Tensor> {
        let (qkv, proj) = (self.qkv.affine(), self.proj.affine());
        let weights = AttentionWeights { norm: norm.affine(), qkv, proj };
        ops::attention_branch(x, &weights, self.heads, branch)
    }
}
