//! `configs/models/<name>.toml`: the sizes of a backbone.

use super::{Foreign, Normalize};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which tokens a pooled classifier reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Pool {
    /// Mean of the patch tokens, then `fc_norm`.
    #[default]
    Mean,
    /// The class token after the final norm.
    Cls,
}

/// How positions of weights with another grid are brought to that of the model: bicubic in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ResizePositions {
    /// Four neighbours whatever the sizes: MAE, ViTDet, transformers.
    #[default]
    Bicubic,
    /// As many neighbours as fall below an output: timm, DINOv2 with registers.
    Antialias,
    /// As if n outputs were n + 0.1: DINOv2 without registers.
    Offset,
}

/// A plain vision transformer (ViT, arXiv:2010.11929) with fixed or free input size.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// Input height and width in pixels; multiples of the patch.
    pub image: [usize; 2],
    #[serde(default = "three")]
    pub channels: usize,
    /// Side of a square patch in pixels.
    pub patch: usize,
    pub width: usize,
    pub depth: usize,
    pub heads: usize,
    #[serde(default = "four")]
    pub mlp_ratio: f64,
    #[serde(default = "norm_eps")]
    pub norm_eps: f64,
    /// Input statistics; ImageNet's when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub normalize: Option<Normalize>,
    /// Positions added to the patch embeddings; BEiT has none.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub absolute_positions: bool,
    #[serde(default, skip_serializing_if = "is_bicubic")]
    pub resize_positions: ResizePositions,
    /// Relative positions of BEiT: one table of biases for all blocks in pre-training, one per block after it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub relative_positions: bool,
    /// Initial factor of every channel of each residual branch (arXiv:2103.17239); none when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer_scale: Option<f64>,
    /// Learnt tokens without a position that attention may use as it likes (arXiv:2309.16588).
    #[serde(default, skip_serializing_if = "is_zero")]
    pub registers: usize,
    /// Whether keys have a bias, which BEiT leaves out.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub key_bias: bool,
    /// A network of candle-transformers instead of a ViT. It is read from weights and not trained here: `width` is that of
    /// its pooled features, `patch` its stride, `depth` and `heads` are 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub foreign: Option<Foreign>,
    /// Decoder of MAE pre-training for this model; 512 wide, 8 deep, 16 heads when absent.
    #[serde(default)]
    pub decoder: Decoder,
}

/// The MAE decoder (arXiv:2111.06377 §3, Table 1a, 1b).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Decoder {
    pub width: usize,
    pub depth: usize,
    pub heads: usize,
}

impl Default for Decoder {
    fn default() -> Self {
        Self { width: 512, depth: 8, heads: 16 }
    }
}

impl ModelConfig {
    /// Patches per column and row.
    pub fn grid(&self) -> (usize, usize) {
        (self.image[0] / self.patch, self.image[1] / self.patch)
    }
    pub fn normalize(&self) -> Normalize {
        self.normalize.clone().unwrap_or_else(|| Normalize::imagenet(self.channels))
    }
    /// What cannot work, by key.
    pub fn check(&self) -> Result<(), String> {
        if self.patch == 0 || self.image.iter().any(|side| *side == 0 || side % self.patch != 0) {
            return Err(format!("image {:?} is not a multiple of patch {}", self.image, self.patch));
        }
        for (what, width, heads) in
            [("width", self.width, self.heads), ("decoder.width", self.decoder.width, self.decoder.heads)]
        {
            if heads == 0 || width == 0 || width % heads != 0 {
                return Err(format!("{what} {width} is not a multiple of heads {heads}"));
            }
            if width % 4 != 0 && self.absolute_positions {
                return Err(format!("{what} {width} is not a multiple of 4 (sin-cos positions)"));
            }
        }
        if self.layer_scale.is_some_and(|scale| !scale.is_finite()) {
            return Err("layer_scale is not a finite number".into());
        }
        if self.depth == 0 {
            return Err("depth must be at least 1".into());
        }
        if self.channels == 0 {
            return Err("channels must be at least 1".into());
        }
        if let Some(n) = &self.normalize {
            for (what, values) in [("mean", &n.mean), ("std", &n.std)] {
                if values.len() != 1 && values.len() != self.channels {
                    return Err(format!(
                        "normalize.{what} has {} values for {} channels",
                        values.len(),
                        self.channels
                    ));
                }
            }
        }
        Ok(())
    }
}

fn yes() -> bool {
    true
}
fn is_yes(yes: &bool) -> bool {
    *yes
}
fn is_bicubic(resize: &ResizePositions) -> bool {
    *resize == ResizePositions::Bicubic
}
fn is_zero(count: &usize) -> bool {
    *count == 0
}
fn three() -> usize {
    3
}
fn four() -> f64 {
    4.
}
fn norm_eps() -> f64 {
    1e-6
}
