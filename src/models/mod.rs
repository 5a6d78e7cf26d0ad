//! What a backbone is, the registry of backbones, and the models of the crate.

mod backbones;
mod cost;
pub mod dvae;
mod external;
pub mod pyramid;
pub mod vit;

pub use backbones::{BackboneKind, BackboneUsage, Backbones, InitialWeights, NoOptions};
pub use cost::mae_gmacs;
pub use external::{
    CONVNEXT_ATTO, CONVNEXT_BASE, CONVNEXT_LARGE, CONVNEXT_SMALL, CONVNEXT_TINY, ExternalNetwork, RESNET18,
    RESNET34, RESNET50, RESNET101,
};
pub use vit::Vit;

use crate::nn::Pass;
use candle_core::{Result, Tensor};

/// The sizes of a backbone. A head is built from them, never from the backbone itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackboneSpec {
    /// Channels of every tap.
    pub width: usize,
    /// Number of blocks, each of which can be tapped.
    pub depth: usize,
    /// Side of a patch in pixels: the stride of the taps.
    pub patch: usize,
}

/// The output of a backbone, which a head reads.
#[derive(Clone, Debug)]
pub struct Features {
    /// Patch tokens after each of the requested blocks, in the order of the request, before the final norm. [B, N, C]
    pub taps: Vec<Tensor>,
    /// Class token after the last block and the final norm; `None` if the backbone lacks either. [B, C]
    pub cls: Option<Tensor>,
    /// Patches per column and row; N is their product.
    pub grid: (usize, usize),
}

impl Features {
    /// The tap with index `tap` as a map. [B, C, h, w]
    ///
    /// # Errors
    /// When there are not so many taps.
    pub fn map(&self, tap: usize) -> Result<Tensor> {
        let Some(tokens) = self.taps.get(tap) else {
            candle_core::bail!("features of {} taps have no tap {tap}", self.taps.len());
        };
        let (b, _, c) = tokens.dims3()?;
        tokens.transpose(1, 2)?.contiguous()?.reshape((b, c, self.grid.0, self.grid.1))
    }
}

/// An image encoder whose features are tokens.
pub trait Backbone: Send + Sync {
    /// The sizes, which are those of the model file that the backbone was built from.
    fn spec(&self) -> &BackboneSpec;

    /// Features of `images` [B, C, H, W], which are normalised; `taps` are indices of blocks from 0.
    ///
    /// # Errors
    /// When the images do not have the size that the backbone was built for, or a tap does not exist.
    fn forward(&self, images: &Tensor, taps: &[usize], pass: &mut Pass) -> Result<Features>;

    /// Layer of a parameter for layer-wise learning-rate decay and for partial fine-tuning: 0 for embeddings, i + 1 for
    /// block i, `depth` + 1 for the rest.
    fn layer_of(&self, parameter: &str) -> usize;
}
