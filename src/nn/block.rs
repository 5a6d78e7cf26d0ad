//! The transformer block of ViT (arXiv:2010.11929): pre-norm attention and MLP, with stochastic depth.

use super::{Attention, LayerNorm, Linear, Pass, drop_path};
use crate::ops;
use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;

/// `fc2`(gelu(`fc1`(x))).
#[derive(Clone, Debug)]
pub struct Mlp {
    fc1: Linear,
    fc2: Linear,
}

impl Mlp {
    pub fn new(width: usize, hidden: usize, vb: VarBuilder) -> Result<Self> {
        let fc1 = Linear::new(width, hidden, vb.pp("fc1"))?;
        Ok(Self { fc1, fc2: Linear::new(hidden, width, vb.pp("fc2"))? })
    }

    /// `x` [.., C] -> [.., C].
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.fc2.forward(&ops::gelu(&self.fc1.forward(x)?)?)
    }
}

/// The sizes of a block.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BlockConfig {
    pub width: usize,
    pub heads: usize,
    /// Hidden width of the MLP.
    pub hidden: usize,
    pub norm_eps: f64,
    /// Probability of dropping each residual branch, per sample, in training.
    pub drop_path: f64,
}

/// x + `attn`(`norm1`(x)), then x + `mlp`(`norm2`(x)).
#[derive(Clone, Debug)]
pub struct Block {
    norm1: LayerNorm,
    attn: Attention,
    norm2: LayerNorm,
    mlp: Mlp,
    drop_path: f64,
}

impl Block {
    pub fn new(config: BlockConfig, vb: VarBuilder) -> Result<Self> {
        let BlockConfig { width, heads, hidden, norm_eps, drop_path } = config;
        Ok(Self {
            norm1: LayerNorm::new(width, norm_eps, vb.pp("norm1"))?,
            attn: Attention::new(width, heads, vb.pp("attn"))?,
            norm2: LayerNorm::new(width, norm_eps, vb.pp("norm2"))?,
            mlp: Mlp::new(width, hidden, vb.pp("mlp"))?,
            drop_path,
        })
    }

    /// `x` [B, N, C] -> [B, N, C].
    pub fn forward(&self, x: &Tensor, pass: &mut Pass) -> Result<Tensor> {
        let attended = self.attn.forward(&self.norm1.forward(x)?)?;
        let x = (x + drop_path(&attended, self.drop_path, pass)?)?;
        let mixed = self.mlp.forward(&self.norm2.forward(&x)?)?;
        x + drop_path(&mixed, self.drop_path, pass)?
    }
}
