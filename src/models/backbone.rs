//! The traits of a backbone: [`Backbone`], which computes features, and [`BackboneKind`], by which one is registered.

use crate::config::{AttentionConfig, ModelConfig};
use crate::nn::Pass;
use crate::ops;
use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

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
    /// There is no tap with this index.
    pub fn map(&self, tap: usize) -> Result<Tensor> {
        let Some(tokens) = self.taps.get(tap) else {
            candle_core::bail!("there is no tap {tap} among {} taps", self.taps.len());
        };
        ops::tokens_to_map(tokens, self.grid)
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

/// A backbone that can be registered, and is then available as `backbone = "<name>"` in model files.
pub trait BackboneKind: 'static {
    /// The name in model files.
    const NAME: &'static str;

    /// Whether the backbone can be trained. A backbone that cannot be trained is built from a file of weights and stays
    /// frozen.
    const TRAINABLE: bool = true;

    /// Whether the backbone follows `[transfer.attention]` of a recipe ([`BackboneUsage::attention`]). For a backbone
    /// that does not, the table is an error.
    const ATTENTION: bool = false;

    /// `[options]` of a model file. Derive `Deserialize` with `deny_unknown_fields`, so that a misspelt key is an
    /// error; [`NoOptions`] if there are none.
    type Options: DeserializeOwned + Serialize + JsonSchema;

    /// Checks a model file before anything is built.
    ///
    /// # Errors
    /// An invalid value; the message names the key.
    fn check(_config: &ModelConfig, _options: &Self::Options) -> std::result::Result<(), String> {
        Ok(())
    }

    /// Builds the backbone from parameters that `vb` creates. Their names are the names of tensors in files of weights.
    /// `weights` are the tensors of a file of weights; they are given if [`BackboneKind::TRAINABLE`] is false, and are
    /// `None` otherwise, because weights are then loaded into the parameters afterwards.
    ///
    /// # Errors
    /// The model cannot be built for this usage, or tensors are missing from `weights`.
    fn build(
        config: &ModelConfig,
        options: &Self::Options,
        usage: BackboneUsage,
        vb: VarBuilder<'static>,
        weights: Option<&[(String, Tensor)]>,
    ) -> Result<Box<dyn Backbone>>;

    /// How the tensors of a file of initial weights are matched with the parameters.
    fn weight_matching() -> WeightMatching {
        WeightMatching::ByName
    }

    /// Billions of multiply-accumulate operations of a forward pass for one image; `None` if unknown.
    fn gmacs(_config: &ModelConfig, _options: &Self::Options) -> Option<f64> {
        None
    }
}

/// How tensors of a file of initial weights are matched with the parameters of a backbone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightMatching {
    /// Every parameter takes the tensor of its name, which must exist and have its shape. Other tensors are left out.
    ByName,
    /// Matching for vision transformers: names of other programs are translated, positions and patch kernels of another
    /// size are resized, relative positions may be missing, and an unknown tensor is an error.
    Vit,
}

/// How a model is used in a run. It does not depend on the size of the model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BackboneUsage {
    /// Probability of stochastic depth in the last block; it rises linearly from 0 in the first.
    pub drop_path: f64,
    /// Whether the final norm is built. Without it there is no class feature ([`Features::cls`]).
    pub final_norm: bool,
    /// Number of leading blocks that are frozen, together with everything before them; they run without drop path. When
    /// all blocks are frozen, the final norm is frozen too.
    pub frozen: usize,
    /// Indices of the blocks whose features the head reads as maps or tokens.
    pub taps: Vec<usize>,
    /// Attention windows and relative positions; global attention without relative positions when absent. With windows
    /// or decomposed positions there is no class token and there are no registers.
    pub attention: Option<AttentionConfig>,
    /// Whether the model is pre-trained: blocks then share one table of relative positions.
    pub pretrains: bool,
}

/// The options of a backbone that has none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NoOptions {}
