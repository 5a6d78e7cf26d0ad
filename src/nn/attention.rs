//! Multi-head self-attention with its two projections.

use super::linear::xavier_uniform;
use super::reach::{Reach, Relative, decomposed_bias};
use super::{LayerNorm, Linear};
use crate::ops::{self, AttentionBias, AttentionWeights, Branch, Precision};
use candle_core::{Result, Tensor};
use candle_nn::{Init, VarBuilder};

/// `proj`(attention(`qkv`(x))); rows of `qkv.weight` [3·C, C] are queries, keys, values.
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
    /// BEiT: `qkv.weight`, and `q_bias` and `v_bias` `[C]`, for keys have none.
    NoKeyBias { weight: Tensor, q_bias: Tensor, v_bias: Tensor, precision: Precision },
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
            precision: Precision::of(vb.dtype())?,
        })
    }

    /// Weight [3·C, C] and bias `[3·C]`.
    fn affine(&self) -> Result<(Tensor, Tensor)> {
        match self {
            Self::Biased(linear) => linear.scaled(None),
            Self::NoKeyBias { weight, q_bias, v_bias, .. } => {
                let bias = Tensor::cat(&[q_bias, &q_bias.detach().zeros_like()?, v_bias], 0)?;
                Ok((weight.clone(), bias))
            }
        }
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Biased(linear) => linear.forward(x),
            Self::NoKeyBias { precision, .. } => {
                let (weight, bias) = self.affine()?;
                ops::linear(x, &weight, Some(&bias), *precision)
            }
        }
    }
}

impl Attention {
    /// # Errors
    /// When `width` is not a multiple of `heads`.
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

    /// [`Attention::branch`] as far as `reach` says.
    pub(super) fn branch_within(
        &self,
        x: &Tensor,
        norm: &LayerNorm,
        channels: Option<&Tensor>,
        reach: &Reach,
        branch: &Branch,
    ) -> Result<Tensor> {
        let Reach { grid, window, relative } = reach;
        let table = match relative {
            Relative::None => None,
            Relative::Table(table) => Some(table),
            Relative::Decomposed { rows, columns } => {
                return self.decomposed(x, norm, channels, reach, (rows, columns), branch);
            }
        };
        let (qkv, proj) = (self.qkv.affine()?, self.proj.scaled(channels)?);
        let (qkv, proj) = ((&qkv.0, &qkv.1), (&proj.0, &proj.1));
        let weights = AttentionWeights { norm: norm.affine(), qkv, proj };
        let reach = ops::Reach { grid: *grid, window: *window, table };
        ops::attention_branch_within(x, &weights, self.heads, &reach, branch)
    }

    /// The branch with decomposed relative positions, which depend on the queries.
    fn decomposed(
        &self,
        x: &Tensor,
        norm: &LayerNorm,
        channels: Option<&Tensor>,
        reach: &Reach,
        (rows, columns): (&Tensor, &Tensor),
        branch: &Branch,
    ) -> Result<Tensor> {
        let ((b, n, c), (h, w)) = (x.dims3()?, reach.grid);
        let mut y = norm.forward(x)?;
        if let Some(side) = reach.window {
            y = ops::partition_windows(&y.reshape((b, h, w, c))?, side)?;
        }
        let qkv = self.qkv.forward(&y)?;
        let (samples, tokens, _) = qkv.dims3()?;
        let area = reach.window.map_or(reach.grid, |side| (side, side));
        let q = qkv.narrow(2, 0, c)?.reshape((samples, tokens, self.heads, c / self.heads))?;
        let q = q.transpose(1, 2)?.contiguous()?; // [B, heads, N, d]
        let [rows, columns] = decomposed_bias(&q, rows, columns, area)?;
        let bias = AttentionBias::Decomposed { rows, columns };
        y = ops::attention(&qkv, self.heads, Some(&bias), branch.precision)?;
        if let Some(side) = reach.window {
            y = ops::merge_windows(&y, side, reach.grid)?.reshape((b, n, c))?;
        }
        let (weight, bias) = self.proj.scaled(channels)?;
        let y = ops::linear(&y, &weight, Some(&bias), branch.precision)?;
        let Some(scale) = branch.scale else { return x + y };
        x + y.broadcast_mul(&Tensor::from_slice(scale, (b, 1, 1), x.device())?)?
    }
}
