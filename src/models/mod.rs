//! The backbone contract, and the backbones.

mod cost;
pub mod dvae;
mod foreign;
pub mod pyramid;
pub mod vit;

pub use cost::{gmacs, mae_gmacs, parameter_count};
pub use foreign::foreign;
pub use vit::{Vit, VitOptions};

use crate::config::ModelConfig;
use crate::nn::Pass;
use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;

/// What a head is built from: never from the backbone itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackboneSpec {
    /// Channels of every tap.
    pub width: usize,
    pub depth: usize,
    /// Side of a patch in pixels: the stride of the taps.
    pub patch: usize,
}

/// What a backbone gives a head.
#[derive(Clone, Debug)]
pub struct Features {
    /// Patch tokens after the asked blocks, in the asked order, before the final norm. [B, N, C]
    pub taps: Vec<Tensor>,
    /// Class token after the last block and the final norm, where the backbone has both. [B, C]
    pub cls: Option<Tensor>,
    /// Patches per column and row; N = product.
    pub grid: (usize, usize),
}

impl Features {
    /// The tap as a map. [B, C, h, w]
    pub fn map(&self, tap: usize) -> Result<Tensor> {
        let Some(tokens) = self.taps.get(tap) else {
            candle_core::bail!("features of {} taps have no tap {tap}", self.taps.len());
        };
        let (b, _, c) = tokens.dims3()?;
        tokens.transpose(1, 2)?.contiguous()?.reshape((b, c, self.grid.0, self.grid.1))
    }
}

/// An image encoder with token features.
pub trait Backbone: Send + Sync {
    fn spec(&self) -> &BackboneSpec;
    /// `images` [B, C, H, W], normalised; `taps` are block indices from 0.
    fn forward(&self, images: &Tensor, taps: &[usize], pass: &mut Pass) -> Result<Features>;
    /// Layer of a parameter for layer-wise lr decay: 0 for embeddings, i + 1 for block i, depth + 1 for the rest.
    fn layer_of(&self, parameter: &str) -> usize;
}

/// Builds the backbone that `config` describes; parameter names are relative to the root of the checkpoint.
pub fn build(config: &ModelConfig, options: VitOptions, vb: VarBuilder) -> Result<Box<dyn Backbone>> {
    Ok(Box::new(Vit::new(config, options, vb)?))
}
