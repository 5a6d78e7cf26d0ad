//! The transformer block of ViT (arXiv:2010.11929): pre-norm attention and MLP, plain or gated, with stochastic depth.

use super::{Attention, AttentionPattern, LayerNorm, Linear, Pass, drop_path};
use crate::ops::{self, Branch, MlpWeights, Precision};
use candle_core::{Result, Tensor};
use candle_nn::{Init, VarBuilder};

/// The MLP of a block: `fc2`(gelu(`fc1`(x))), or `fc2`(silu(a)·b) with the halves a and b of `fc1`(x), which is SwiGLU
/// (arXiv:2002.05202).
#[derive(Clone, Debug)]
pub struct Mlp {
    fc1: Linear,
    fc2: Linear,
    gated: bool,
    precision: Precision,
}

impl Mlp {
    /// From `width` channels to `hidden` and back; a gated one is a SwiGLU, whose `fc1` has 2·`hidden` outputs.
    ///
    /// # Errors
    /// When the builder lacks a parameter.
    pub fn new(width: usize, hidden: usize, gated: bool, vb: VarBuilder) -> Result<Self> {
        let fc1 = Linear::new(width, if gated { 2 * hidden } else { hidden }, vb.pp("fc1"))?;
        let fc2 = Linear::new(hidden, width, vb.pp("fc2"))?;
        Ok(Self { fc1, fc2, gated, precision: Precision::of(vb.dtype())? })
    }

    /// `x` + scale·`channels`·mlp(`norm`(x)). [B, N, C] -> [B, N, C]
    fn branch(
        &self,
        x: &Tensor,
        norm: &LayerNorm,
        channels: Option<&Tensor>,
        branch: &Branch,
    ) -> Result<Tensor> {
        let (weight, bias) = self.fc2.scaled(channels)?;
        if self.gated {
            let hidden = ops::swiglu(&self.fc1.forward(&norm.forward(x)?)?)?;
            return branch.residual(x, &ops::linear(&hidden, &weight, Some(&bias), self.precision)?);
        }
        let (fc1, fc2) = (self.fc1.affine(), (&weight, &bias));
        ops::mlp_branch(x, &MlpWeights { norm: norm.affine(), fc1, fc2 }, branch)
    }
}

/// The sizes of a block.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BlockConfig {
    /// Channels of the tokens.
    pub width: usize,
    /// Attention heads.
    pub heads: usize,
    /// Hidden width of the MLP.
    pub hidden: usize,
    /// Whether the MLP is gated: SwiGLU instead of GELU.
    pub gated: bool,
    /// ε of both norms.
    pub norm_eps: f64,
    /// Probability of dropping each residual branch, per sample, in training.
    pub drop_path: f64,
    /// Initial layer scale, of parameters `gamma_1` and `gamma_2`; no layer scale when absent.
    pub layer_scale: Option<f64>,
    /// Whether keys have a bias.
    pub key_bias: bool,
}

/// A transformer block: x + `attn`(`norm1`(x)), then x + `mlp`(`norm2`(x)).
#[derive(Clone, Debug)]
pub struct Block {
    norm1: LayerNorm,
    attn: Attention,
    norm2: LayerNorm,
    mlp: Mlp,
    /// Layer scale of the channels of each branch. `[C]`
    scales: (Option<Tensor>, Option<Tensor>),
    /// Global attention without relative positions when absent.
    pattern: Option<AttentionPattern>,
    drop_path: f64,
    eps: f64,
    precision: Precision,
}

impl Block {
    /// A block with global attention.
    ///
    /// # Errors
    /// When `width` is not a multiple of `heads`, or the builder lacks a parameter.
    pub fn new(config: BlockConfig, vb: VarBuilder) -> Result<Self> {
        let BlockConfig { width, heads, hidden, gated, norm_eps, drop_path, layer_scale, key_bias } = config;
        let scale = |name| {
            let scale = layer_scale.map(|value| vb.get_with_hints(width, name, Init::Const(value)));
            scale.transpose()
        };
        Ok(Self {
            norm1: LayerNorm::new(width, norm_eps, vb.pp("norm1"))?,
            attn: Attention::new(width, heads, key_bias, vb.pp("attn"))?,
            norm2: LayerNorm::new(width, norm_eps, vb.pp("norm2"))?,
            mlp: Mlp::new(width, hidden, gated, vb.pp("mlp"))?,
            scales: (scale("gamma_1")?, scale("gamma_2")?),
            pattern: None,
            drop_path,
            eps: norm_eps,
            precision: Precision::of(vb.dtype())?,
        })
    }

    /// The same block with the attention windows and the relative position bias of `pattern`.
    pub fn with_attention(self, pattern: AttentionPattern) -> Self {
        Self { pattern: Some(pattern), ..self }
    }

    /// `x` [B, N, C] -> [B, N, C].
    pub fn forward(&self, x: &Tensor, pass: &mut Pass) -> Result<Tensor> {
        let batch = x.dim(0)?;
        let mut scale = || drop_path(batch, self.drop_path, pass);
        let branch = Branch { eps: self.eps, precision: self.precision, scale: None };
        let (gamma_1, gamma_2) = &self.scales;
        let kept = scale();
        let of_attention = Branch { scale: kept.as_deref(), ..branch };
        let x = match &self.pattern {
            Some(pattern) => {
                self.attn.windowed_branch(x, &self.norm1, gamma_1.as_ref(), pattern, &of_attention)?
            }
            None => self.attn.branch(x, &self.norm1, gamma_1.as_ref(), &of_attention)?,
        };
        let kept = scale();
        let of_mlp = Branch { scale: kept.as_deref(), ..branch };
        self.mlp.branch(&x, &self.norm2, gamma_2.as_ref(), &of_mlp)
    }
}
