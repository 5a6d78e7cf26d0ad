//! `configs/models/<name>.toml`: a backbone and its sizes.

use super::{Normalize, SquareOrSize, size};
use schemars::JsonSchema;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

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

/// How absolute positions are resized when the weights have another grid than the model. All variants are bicubic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ResizePositions {
    /// Four neighbours for any sizes: MAE, ViTDet, transformers.
    #[default]
    Bicubic,
    /// With antialiasing, as many neighbours as an output covers: timm, DINOv2 with registers.
    Antialias,
    /// With a scale factor for n + 0.1 outputs instead of n: DINOv2 without registers.
    Offset,
}

/// The MLP of a ViT's blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MlpKind {
    /// Two linear layers with a GELU between them.
    #[default]
    Gelu,
    /// Two linear layers with a SwiGLU between them (arXiv:2002.05202): one half of the first layer's outputs, through
    /// SiLU, times the other half.
    Swiglu,
}

/// The default backbone of model files: the plain vision transformer.
pub const VIT: &str = "vit";

/// A model: the backbone, its input and its sizes. `image`, `channels`, `patch`, `width`, `depth` and `normalize` are
/// common to all backbones; `options` belongs to the named backbone; all other keys belong to the plain vision
/// transformer (ViT, arXiv:2010.11929) and are refused for other backbones.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, remote = "Self")]
pub struct ModelConfig {
    /// Input height and width in pixels; multiples of the patch.
    #[serde(deserialize_with = "size")]
    #[schemars(with = "SquareOrSize")]
    pub image: [usize; 2],
    /// Channels of the input.
    #[serde(default = "three")]
    pub channels: usize,
    /// Side of a square patch in pixels; for a convolutional network, its stride.
    pub patch: usize,
    /// Channels of the features.
    pub width: usize,
    /// Number of blocks: features are taken after blocks 0 to `depth` − 1.
    pub depth: usize,
    /// Attention heads of a ViT.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub heads: usize,
    /// Hidden width of the MLP of a ViT's block, as a multiple of `width`. A SwiGLU has two thirds of it, rounded up to a
    /// multiple of 8, so that both kinds have about as many parameters.
    #[serde(default = "four")]
    pub mlp_ratio: f64,
    /// The MLP of a ViT's blocks.
    #[serde(default, skip_serializing_if = "is_gelu")]
    pub mlp: MlpKind,
    /// ε of the layer norms of a ViT.
    #[serde(default = "norm_eps")]
    pub norm_eps: f64,
    /// Input statistics; ImageNet's when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub normalize: Option<Normalize>,
    /// Positions added to the patch embeddings; BEiT has none.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub absolute_positions: bool,
    /// How absolute positions are resized when weights with another grid are loaded.
    #[serde(default, skip_serializing_if = "is_bicubic")]
    pub resize_positions: ResizePositions,
    /// Relative positions of BEiT: one table of biases for all blocks in pre-training, one per block after it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub relative_positions: bool,
    /// Base of the periods of rotary position embeddings (RoPE): queries and keys of patches are rotated by their row and
    /// column, as in DINOv3, whose base is 100. None when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rope_base: Option<f64>,
    /// Initial factor of every channel of each residual branch (arXiv:2103.17239); none when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer_scale: Option<f64>,
    /// Number of register tokens: learnt tokens without a position (arXiv:2309.16588).
    #[serde(default, skip_serializing_if = "is_zero")]
    pub registers: usize,
    /// Whether the key projection has a bias; BEiT has none.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub key_bias: bool,
    /// The name of a registered backbone; `vit` when absent.
    #[serde(default = "vit", skip_serializing_if = "is_vit")]
    pub backbone: String,
    /// Decoder of MAE pre-training for a ViT; 512 wide, 8 deep, 16 heads when absent.
    #[serde(default)]
    pub decoder: DecoderConfig,
    /// Keys that the backbone itself defines.
    #[serde(default, skip_serializing_if = "toml::Table::is_empty")]
    #[schemars(with = "serde_json::Map<String, serde_json::Value>")]
    pub options: toml::Table,
}

/// The keys of a model file of a backbone other than the ViT.
#[derive(Serialize)]
struct CommonKeys<'a> {
    image: [usize; 2],
    channels: usize,
    patch: usize,
    width: usize,
    depth: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    normalize: &'a Option<Normalize>,
    backbone: &'a str,
    #[serde(skip_serializing_if = "toml::Table::is_empty")]
    options: &'a toml::Table,
}

impl Serialize for ModelConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.backbone == VIT {
            return Self::serialize(self, serializer);
        }
        let Self { image, channels, patch, width, depth, ref normalize, ref backbone, ref options, .. } =
            *self;
        CommonKeys { image, channels, patch, width, depth, normalize, backbone, options }
            .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for ModelConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::deserialize(deserializer).map_err(|error| {
            match error.to_string().contains("unknown field `foreign`") {
                true => D::Error::custom(
                    "`foreign` is now `backbone`, and `heads` is left out: `backbone = \"resnet50\"`",
                ),
                false => error,
            }
        })
    }
}

/// The MAE decoder (arXiv:2111.06377 §3, Table 1a, 1b).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DecoderConfig {
    /// Channels of its tokens.
    pub width: usize,
    /// Number of blocks.
    pub depth: usize,
    /// Attention heads.
    pub heads: usize,
}

impl Default for DecoderConfig {
    fn default() -> Self {
        Self { width: 512, depth: 8, heads: 16 }
    }
}

impl ModelConfig {
    /// Patches per column and row.
    pub fn grid(&self) -> (usize, usize) {
        (self.image[0] / self.patch, self.image[1] / self.patch)
    }

    /// Hidden width of the MLP of a block of `width` channels.
    pub fn mlp_hidden(&self, width: usize) -> usize {
        let hidden = (width as f64 * self.mlp_ratio) as usize;
        match self.mlp {
            MlpKind::Gelu => hidden,
            MlpKind::Swiglu => (2 * hidden / 3).next_multiple_of(8),
        }
    }

    /// Input statistics, with the default filled in.
    pub fn normalize(&self) -> Normalize {
        self.normalize.clone().unwrap_or_else(|| Normalize::imagenet(self.channels))
    }

    /// Checks the keys of all backbones, and that other backbones set no keys of the ViT.
    ///
    /// # Errors
    /// A message that names the key.
    pub fn check(&self) -> Result<(), String> {
        if self.patch == 0 || self.image.iter().any(|side| *side == 0 || side % self.patch != 0) {
            return Err(format!("image {:?} is not a multiple of patch {}", self.image, self.patch));
        }
        for (key, value) in [("width", self.width), ("depth", self.depth), ("channels", self.channels)] {
            if value == 0 {
                return Err(format!("{key} must be at least 1"));
            }
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
        match self.vit_keys().as_slice() {
            [key, ..] if self.backbone != VIT => Err(format!(
                "`{key}` is a key of `backbone = \"{VIT}\"`, and the backbone is `{}`; its own keys go into `[options]`",
                self.backbone
            )),
            _ => Ok(()),
        }
    }

    /// The keys of the ViT that do not have their default values.
    fn vit_keys(&self) -> Vec<&'static str> {
        let keys = [
            ("heads", self.heads != 0),
            ("mlp_ratio", self.mlp_ratio != four()),
            ("mlp", !is_gelu(&self.mlp)),
            ("norm_eps", self.norm_eps != norm_eps()),
            ("absolute_positions", !self.absolute_positions),
            ("resize_positions", !is_bicubic(&self.resize_positions)),
            ("relative_positions", self.relative_positions),
            ("rope_base", self.rope_base.is_some()),
            ("layer_scale", self.layer_scale.is_some()),
            ("registers", self.registers != 0),
            ("key_bias", !self.key_bias),
            ("decoder", self.decoder != DecoderConfig::default()),
        ];
        keys.into_iter().filter(|(_, set)| *set).map(|(key, _)| key).collect()
    }
}

fn vit() -> String {
    VIT.into()
}
fn is_vit(backbone: &str) -> bool {
    backbone == VIT
}
fn yes() -> bool {
    true
}
fn is_yes(yes: &bool) -> bool {
    *yes
}
fn is_gelu(mlp: &MlpKind) -> bool {
    *mlp == MlpKind::Gelu
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    const SIZES: &str = "image = [64, 64]\npatch = 32\nwidth = 8\ndepth = 1\n";

    fn model(more: &str) -> Result<ModelConfig, String> {
        parse(&format!("{SIZES}{more}"), "model").map_err(|error| error.to_string())
    }

    #[test]
    fn a_vit_is_the_default_and_is_not_written() {
        let vit = model("heads = 2").unwrap();
        assert_eq!(vit.backbone, VIT);
        let text = toml::to_string(&vit).unwrap();
        assert!(!text.contains("backbone") && !text.contains("options"), "{text}");
        assert!(text.contains("heads = 2\nmlp_ratio = 4.0\n") && text.contains("[decoder]"), "{text}");
        assert_eq!(parse::<ModelConfig>(&text, "again").unwrap(), vit);
    }

    #[test]
    fn another_backbone_keeps_its_options_and_has_no_keys_of_a_vit() {
        let other = model("backbone = \"mixer\"\n[options]\nhidden = 16").unwrap();
        other.check().unwrap();
        let text = toml::to_string(&other).unwrap();
        assert!(!text.contains("mlp_ratio") && !text.contains("decoder"), "{text}");
        assert_eq!(parse::<ModelConfig>(&text, "again").unwrap(), other);
        let error = model("backbone = \"mixer\"\nregisters = 4").unwrap().check().unwrap_err();
        assert!(error.contains("`registers`") && error.contains("`mixer`"), "{error}");
    }

    #[test]
    fn a_swiglu_has_two_thirds_of_the_hidden_width() {
        let hidden = |more: &str, width| model(more).unwrap().mlp_hidden(width);
        assert_eq!(hidden("", 384), 1536);
        let swiglu = "mlp = \"swiglu\"\n";
        assert_eq!(hidden(swiglu, 1536), 4096, "DINOv2 ViT-g/14");
        assert_eq!(hidden(&format!("{swiglu}mlp_ratio = 6"), 384), 1536, "DINOv3 ViT-S+/16");
        assert_eq!(hidden(swiglu, 16), 48, "42 is rounded up");
        let rotated = model("rope_base = 100\nmlp = \"swiglu\"").unwrap();
        let text = toml::to_string(&rotated).unwrap();
        assert!(text.contains("rope_base = 100.0") && text.contains("mlp = \"swiglu\""), "{text}");
        assert_eq!(parse::<ModelConfig>(&text, "again").unwrap(), rotated);
        let plain = toml::to_string(&model("").unwrap()).unwrap();
        assert!(!plain.contains("rope_base") && !plain.contains("mlp ="), "{plain}");
        for key in ["rope_base = 100", swiglu] {
            let error = model(&format!("backbone = \"mixer\"\n{key}")).unwrap().check().unwrap_err();
            assert!(error.contains(key.split(' ').next().unwrap()), "{error}");
        }
    }

    #[test]
    fn the_old_key_names_the_new_one() {
        let error = model("foreign = \"resnet50\"").unwrap_err();
        assert!(error.contains("`foreign` is now `backbone`"), "{error}");
        assert!(model("heads = 2\nhaeds = 3").unwrap_err().contains("unknown field `haeds`"));
    }
}
