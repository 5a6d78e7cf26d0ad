//! `config.json` of Hugging Face transformers, which states what names and shapes do not reveal: read if it lies beside
//! weights, and written beside converted weights.

use super::{Contents, InferredVit, WeightFileError};
use crate::config::{ModelConfig, ReconstructionTarget, RunConfig, read};
use crate::files;
use crate::pretrain::{MaeOptions, MaskedAutoencoder, PretrainObjective};
use candle_core::Tensor;
use serde::Deserialize;
use serde_json::{Value, json};
use std::path::Path;

/// Properties of a model that its weights do not reveal. `None` means unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CheckpointHints {
    /// Number of attention heads.
    pub heads: Option<usize>,
    /// ε of layer norms.
    pub norm_eps: Option<f64>,
    /// Base of the periods of rotary positions.
    pub rope_base: Option<f64>,
    /// Number of attention heads of the decoder.
    pub decoder_heads: Option<usize>,
    /// Whether the decoder predicts pixels that are normalized per patch.
    pub norm_pix_loss: Option<bool>,
    /// Fraction of patches that are masked in pre-training: 0 to 1.
    pub mask_ratio: Option<f64>,
}

/// The part of a `config.json` that is used.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct HfConfig {
    model_type: String,
    hidden_size: usize,
    num_attention_heads: Option<usize>,
    layer_norm_eps: Option<f64>,
    rope_theta: Option<f64>,
    decoder_num_attention_heads: Option<usize>,
    norm_pix_loss: Option<bool>,
    mask_ratio: Option<f64>,
}

/// Values of `model_type` whose models are plain ViTs.
const KNOWN: [&str; 7] = ["vit", "vit_mae", "beit", "deit", "dinov2", "dinov2_with_registers", DINOV3];
const DINOV3: &str = "dinov3_vit";
/// The base of the periods of DINOv3's rotary positions.
const ROPE_BASE: f64 = 100.;

impl HfConfig {
    /// Reads the `config.json` in the folder of `weights`; `None` if there is none, or if it does not describe a ViT of
    /// transformers.
    ///
    /// # Errors
    /// A file that is not JSON, or a description of a ViT with values of other types.
    pub(crate) fn beside(weights: &Path) -> Result<Option<Self>, WeightFileError> {
        let path = weights.with_file_name("config.json");
        if !path.is_file() {
            return Ok(None);
        }
        let fail = |reason: String| WeightFileError { path: path.clone(), reason };
        let bytes = files::read(&path).map_err(fail)?;
        let text = files::utf8(&bytes).map_err(fail)?;
        let mut value: Value = serde_json::from_str(&text).map_err(|e| fail(e.to_string()))?;
        if let Some(backbone) = value.get_mut("backbone_config") {
            value = backbone.take(); // the backbone of a UperNet
        }
        if !value.get("model_type").and_then(Value::as_str).is_some_and(|kind| KNOWN.contains(&kind)) {
            return Ok(None);
        }
        serde_json::from_value(value).map(Some).map_err(|e| fail(e.to_string()))
    }

    /// The properties that the file states.
    pub(crate) fn details(&self) -> CheckpointHints {
        let mae = self.model_type == "vit_mae";
        CheckpointHints {
            heads: self.num_attention_heads,
            norm_eps: self.layer_norm_eps,
            rope_base: self.rope_base(),
            decoder_heads: self.decoder_num_attention_heads.filter(|_| mae),
            norm_pix_loss: self.norm_pix_loss.filter(|_| mae),
            mask_ratio: self.mask_ratio.filter(|_| mae),
        }
    }

    fn rope_base(&self) -> Option<f64> {
        (self.model_type == DINOV3).then(|| self.rope_theta.unwrap_or(ROPE_BASE))
    }

    /// ε of layer norms, for loading the weights into `model`; `None` if the file does not state it.
    ///
    /// # Errors
    /// A file that describes another width, number of heads or rotary positions than `model`.
    pub(crate) fn eps_for(&self, model: &ModelConfig) -> Result<Option<f64>, String> {
        let heads = self.num_attention_heads.unwrap_or(model.heads);
        if self.rope_base() != model.rope_base {
            let said =
                |base: Option<f64>| base.map_or("no rotary positions".into(), |base| format!("base {base}"));
            return Err(format!(
                "config.json beside the weights describes a model with {}, and the model has {} (`rope_base`)",
                said(self.rope_base()),
                said(model.rope_base)
            ));
        }
        if (self.hidden_size, heads) == (model.width, model.heads) {
            return Ok(self.layer_norm_eps);
        }
        Err(format!(
            "config.json beside the weights describes a model of width {} with {heads} attention heads; the model has \
             width {} and {} heads",
            self.hidden_size, model.width, model.heads
        ))
    }
}

impl CheckpointHints {
    /// Properties stated by the run that wrote `weights`: in their metadata (`model`), or in the folder of the run.
    pub(super) fn of_run(weights: &Path, model: &ModelConfig) -> Self {
        let config = read::<RunConfig>(&weights.with_file_name("config.toml")).ok();
        let config = config.filter(|config| config.model == *model); // otherwise it belongs to other weights
        let table = config.and_then(|config| config.recipe.pretrain);
        let mae = table.filter(|table| table.name == MaskedAutoencoder::NAME);
        let mae = mae.and_then(|table| table.parse::<MaeOptions>().ok());
        Self {
            heads: Some(model.heads),
            norm_eps: Some(model.norm_eps),
            rope_base: model.rope_base,
            decoder_heads: Some(model.decoder.heads),
            norm_pix_loss: mae.as_ref().map(|mae| mae.target == ReconstructionTarget::NormPixel),
            mask_ratio: mae.map(|mae| mae.mask_ratio),
        }
    }

    /// Combines `self` with the properties `known` to `who`.
    ///
    /// # Errors
    /// Values that contradict each other.
    pub(super) fn agreeing(&self, known: &Self, who: &str) -> Result<Self, String> {
        fn one<T: Copy + PartialEq + std::fmt::Display>(
            asked: Option<T>,
            known: Option<T>,
            (what, who): (&str, &str),
        ) -> Result<Option<T>, String> {
            match (asked, known) {
                (Some(asked), Some(known)) if asked != known => {
                    Err(format!("{what}: {asked} was requested, but {who} says {known}"))
                }
                _ => Ok(asked.or(known)),
            }
        }
        Ok(Self {
            heads: one(self.heads, known.heads, ("heads", who))?,
            norm_eps: one(self.norm_eps, known.norm_eps, ("norm_eps", who))?,
            rope_base: one(self.rope_base, known.rope_base, ("rope_base", who))?,
            decoder_heads: one(self.decoder_heads, known.decoder_heads, ("decoder_heads", who))?,
            norm_pix_loss: one(self.norm_pix_loss, known.norm_pix_loss, ("norm_pix_loss", who))?,
            mask_ratio: one(self.mask_ratio, known.mask_ratio, ("mask_ratio", who))?,
        })
    }

    /// Fills in assumptions for all unknown values; also returns a description of each assumption.
    ///
    /// # Errors
    /// Heads that do not divide their width.
    pub(super) fn completed(&self, guess: &InferredVit) -> Result<(Self, Vec<String>), String> {
        let mut assumed = Vec::new();
        let mut assume =
            |what: String| assumed.push(format!("assumed, because the file does not say: {what}"));
        let heads = self.heads.unwrap_or_else(|| {
            let heads = guess.width / 64;
            assume(format!("{heads} heads of 64 channels (--heads)"));
            heads
        });
        let norm_eps = self.norm_eps.unwrap_or_else(|| {
            let eps = if guess.rotary { 1e-5 } else { 1e-6 };
            assume(format!("layer norms with ε {eps:e} (--norm-eps)"));
            eps
        });
        let rope_base = self.rope_base.or_else(|| {
            guess.rotary.then(|| {
                assume(format!("rotary positions with base {ROPE_BASE}"));
                ROPE_BASE
            })
        });
        let width = guess.width;
        if heads == 0 || !width.is_multiple_of(heads) {
            return Err(format!(
                "{heads} heads do not divide the width {width}: set the number with --heads"
            ));
        }
        let mut details = Self { heads: Some(heads), norm_eps: Some(norm_eps), rope_base, ..*self };
        let Some((width, _)) = guess.decoder else { return Ok((details, assumed)) };
        let decoder_heads = self.decoder_heads.unwrap_or_else(|| {
            let heads = if width.is_multiple_of(32) { (width / 32).min(16) } else { 1 };
            assume(format!("a decoder with {heads} attention heads (--decoder-heads)"));
            heads
        });
        if decoder_heads == 0 || !width.is_multiple_of(decoder_heads) {
            return Err(format!(
                "{decoder_heads} heads do not divide the width {width} of the decoder: set the number with \
                 --decoder-heads"
            ));
        }
        details.decoder_heads = Some(decoder_heads);
        details.norm_pix_loss.get_or_insert_with(|| {
            assume("the decoder predicts pixels normalized per patch (--norm-pix-loss)".into());
            true
        });
        details.mask_ratio.get_or_insert_with(|| {
            assume("three quarters of the patches are masked (--mask-ratio)".into());
            0.75
        });
        Ok((details, assumed))
    }

    /// The `config.json` for `tensors`, which have the names of transformers. `image` is (height, width) of the inputs; if
    /// `None`, they are assumed to be square.
    pub(super) fn described(
        &self,
        contents: &Contents,
        guess: &InferredVit,
        image: Option<[usize; 2]>,
        tensors: &[(String, Tensor)],
    ) -> Value {
        let has = |part: &str| tensors.iter().any(|(name, _)| name.contains(part));
        let rows = |name: &str| tensors.iter().find(|(n, _)| n == name).map(|(_, t)| t.dims()[0]);
        let scaled = has("layer_scale1");
        let (kind, architecture) = match (contents, guess.decoder, guess.classes) {
            _ if guess.rotary => (DINOV3, "DINOv3ViTModel"),
            (_, _, Some(_)) if scaled && guess.registers > 0 => {
                ("dinov2_with_registers", "Dinov2WithRegistersForImageClassification")
            }
            (_, _, Some(_)) if scaled => ("dinov2", "Dinov2ForImageClassification"),
            (_, _, None) if scaled && guess.registers > 0 => {
                ("dinov2_with_registers", "Dinov2WithRegistersModel")
            }
            (_, _, None) if scaled => ("dinov2", "Dinov2Model"),
            (Contents::Beit, _, Some(_)) => ("beit", "BeitForImageClassification"),
            (Contents::Beit, ..) if has("lm_head") => ("beit", "BeitForMaskedImageModeling"),
            (Contents::Beit, ..) => ("beit", "BeitModel"),
            (_, Some(_), _) => ("vit_mae", "ViTMAEForPreTraining"),
            (_, None, Some(_)) => ("vit", "ViTForImageClassification"),
            (_, None, None) => ("vit", "ViTModel"),
        };
        let side = guess.grid_side(tensors) * guess.patch;
        let image = match image.unwrap_or([side; 2]) {
            [height, width] if height == width => json!(height),
            image => json!(image),
        };
        let mut config = json!({
            "model_type": kind,
            "architectures": [architecture],
            "image_size": image,
            "patch_size": guess.patch,
            "num_channels": guess.channels,
            "hidden_size": guess.width,
            "num_hidden_layers": guess.depth,
            "num_attention_heads": self.heads,
            "intermediate_size": guess.mlp_hidden,
            "hidden_act": "gelu",
            "qkv_bias": true,
            "layer_norm_eps": self.norm_eps,
        });
        if let Some((width, depth)) = guess.decoder {
            let hidden = rows("decoder.decoder_layers.0.intermediate.dense.weight");
            config["decoder_hidden_size"] = json!(width);
            config["decoder_num_hidden_layers"] = json!(depth);
            config["decoder_num_attention_heads"] = json!(self.decoder_heads);
            config["decoder_intermediate_size"] = json!(hidden.unwrap_or(4 * width));
            config["norm_pix_loss"] = json!(self.norm_pix_loss);
            config["mask_ratio"] = json!(self.mask_ratio);
        }
        if guess.rotary {
            config["key_bias"] = json!(false);
            config["rope_theta"] = json!(self.rope_base);
            config["use_gated_mlp"] = json!(guess.gated);
            config["hidden_act"] = json!(if guess.gated { "silu" } else { "gelu" });
            config["num_register_tokens"] = json!(guess.registers);
        } else if scaled {
            config["mlp_ratio"] = mlp_ratio(guess);
            config["use_swiglu_ffn"] = json!(guess.gated);
            config["use_mask_token"] = json!(has("mask_token"));
            if guess.registers > 0 {
                config["num_register_tokens"] = json!(guess.registers);
            }
        }
        if *contents == Contents::Beit {
            config["use_absolute_position_embeddings"] = json!(has("position_embeddings"));
            config["use_shared_relative_position_bias"] = json!(has("encoder.relative_position_bias"));
            config["use_relative_position_bias"] = json!(has("attention.relative_position_bias"));
            config["use_mask_token"] = json!(has("mask_token"));
            config["use_mean_pooling"] = json!(!has("beit.layernorm"));
            if let Some(vocabulary) = rows("lm_head.weight") {
                config["vocab_size"] = json!(vocabulary);
            }
        }
        if let Some(classes) = guess.classes {
            let labels: serde_json::Map<String, Value> =
                (0..classes).map(|k| (k.to_string(), json!(format!("LABEL_{k}")))).collect();
            config["id2label"] = Value::Object(labels);
        }
        config
    }
}

/// The ratio from which transformers' DINOv2 computes the hidden width of its MLPs; of a SwiGLU, that is two thirds, rounded
/// up to a multiple of 8.
fn mlp_ratio(guess: &InferredVit) -> Value {
    let (hidden, width) = (guess.mlp_hidden, guess.width);
    let of = |ratio: usize| match guess.gated {
        true => (2 * ratio * width / 3).next_multiple_of(8),
        false => ratio * width,
    };
    let share = if guess.gated { 1.5 } else { 1. };
    match (1..=16).find(|ratio| of(*ratio) == hidden) {
        Some(ratio) => json!(ratio),
        None => json!(share * hidden as f64 / width as f64),
    }
}
