//! Multi-head self-attention with its two projections.

use super::attention_pattern::{AttentionPattern, RelativePositionBias, decomposed_bias};
use super::linear::xavier_uniform;
use super::{LayerNorm, Linear};
use crate::ops::{self, AttentionBias, AttentionWeights, AttentionWindow, Branch};
use candle_core::{Result, Tensor};
use candle_nn::{Init, VarBuilder};

/// Multi-head self-attention, `proj`(attention(`qkv`(x))); rows of `qkv.weight` [3·C, C] are queries, keys, values.
#[derive(Clone, Debug)]
pub struct Attention {
    qkv: Projection,
    proj: Linear,
    heads: usize,
}

/// Tokens to queries, keys and values.
#[derive(Clone, Debug)]
enum Projection {
    /// `qkv.weight`, `qkv.bias`.
    Biased(Linear),
    /// BEiT: `qkv.weight`, and `q_bias` and `v_bias` `[C]`; keys have no bias.
    NoKeyBias { weight: Tensor, q_bias: Tensor, v_bias: Tensor },
}

impl Projection {
    fn new(width: usize, key_bias: bool, vb: VarBuilder) -> Result<Self> {
        if key_bias {
            return Ok(Self::Biased(Linear::new(width, 3 * width, vb.pp("qkv"))?));
        }
        let bias = |name| vb.get_with_hints(width, name, Init::Const(0.));
        Ok(Self::NoKeyBias {
            weight: vb.get_with_hints((3 * width, width), "qkv.weight", xavier_uniform(width, 3 * width))?,
            q_bias: bias("q_bias")?,
            v_bias: bias("v_bias")?,
        })
    }

    /// Weight [3·C, C] and bias `[3·C]`.
    fn affine(&self) -> Result<(Tensor, Tensor)> {
        match self {
            Self::Biased(linear) => linear.scaled(None),
            Self::NoKeyBias { weight, q_bias, v_bias } => {
                let bias = Tensor::cat(&[q_bias, &q_bias.detach().zeros_like()?, v_bias], 0)?;
                Ok((weight.clone(), bias))
            }
        }
    }
}

impl Attention {
    /// `width` channels C; without `key_bias` the parameters are those of BEiT.
    ///
    /// # Errors
    /// When `width` is not a multiple of `heads`, or the builder lacks a parameter.
    pub fn new(width: usize, heads: usize, key_bias: bool, vb: VarBuilder) -> Result<Self> {
        if heads == 0 || !width.is_multiple_of(heads) {
            candle_core::bail!("attention: width {width} is not a multiple of heads {heads}");
        }
        let qkv = Projection::new(width, key_bias, vb.clone())?;
        Ok(Self { qkv, proj: Linear::new(width, width, vb.pp("proj"))?, heads })
    }

    /// `x` + scale·`channels`·`proj`(attention(`qkv`(`norm`(x)))). [B, N, C] -> [B, N, C]
    pub(super) fn branch(
        &self,
        x: &Tensor,
        norm: &LayerNorm,
        channels: Option<&Tensor>,
        branch: &Branch,
    ) -> Result<Tensor> {
        let (qkv, proj) = (self.qkv.affine()?, self.proj.scaled(channels)?);
        let (qkv, proj) = ((&qkv.0, &qkv.1), (&proj.0, &proj.1));
        let weights = AttentionWeights { norm: norm.affine(), qkv, proj };
        ops::attention_branch(x, &weights, self.heads, branch)
    }

    /// [`Attention::branch`] within the windows and with the relative position bias of `pattern`.
    pub(super) fn windowed_branch(
        &self,
        x: &Tensor,
        norm: &LayerNorm,
        channels: Option<&Tensor>,
        pattern: &AttentionPattern,
        branch: &Branch,
    ) -> Result<Tensor> {
        let AttentionPattern { grid, window, ref relative, ref rotary } = *pattern;
        let (qkv, proj) = (self.qkv.affine()?, self.proj.scaled(channels)?);
        let (qkv, proj) = ((&qkv.0, &qkv.1), (&proj.0, &proj.1));
        let weights = AttentionWeights { norm: norm.affine(), qkv, proj };
        let within = |table| AttentionWindow { grid, side: window, table, rotary: None };
        match relative {
            RelativePositionBias::None => {
                // Without windows and biases, all tokens are alike, also registers.
                let grid = if window.is_none() { (1, x.dim(1)?) } else { grid };
                let within = AttentionWindow { grid, rotary: rotary.as_ref(), ..within(None) };
                ops::windowed_attention_branch(x, &weights, self.heads, &within, branch)
            }
            RelativePositionBias::Table(table) => {
                ops::windowed_attention_branch(x, &weights, self.heads, &within(Some(table)), branch)
            }
            RelativePositionBias::Decomposed { rows, columns } => {
                let area = window.map_or(grid, |side| (side, side));
                let bias = |qkv: &Tensor| self.decomposed(qkv, rows, columns, area).map(Some);
                ops::composed_attention_branch(x, &weights, self.heads, &within(None), bias, branch)
            }
        }
    }

    /// Decomposed relative positions, which depend on the queries in `qkv` [samples, N, 3·C].
    fn decomposed(
        &self,
        qkv: &Tensor,
        rows: &Tensor,
        columns: &Tensor,
        area: (usize, usize),
    ) -> Result<AttentionBias> {
        let (samples, tokens, channels) = qkv.dims3()?;
        let width = channels / 3;
        let q = qkv.narrow(2, 0, width)?.reshape((samples, tokens, self.heads, width / self.heads))?;
        let q = q.transpose(1, 2)?.contiguous()?; // [B, heads, N, d]
        let [rows, columns] = decomposed_bias(&q, rows, columns, area)?;
        Ok(AttentionBias::Decomposed { rows, columns })
    }
}
