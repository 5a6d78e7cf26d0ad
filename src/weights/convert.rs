//! [`convert`]: weights in the names of other programs, for those who go on with Python.

use super::names::{HUGGING_FACE, HUGGING_FACE_BEIT};
use super::translation::renamed;
use super::{Dialect, FileError, Guess, SaveError, WeightFile, save_tensors};
use crate::config::{ModelConfig, parse};
use candle_core::{Device, Tensor};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The program whose names the new file has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// facebookresearch/mae: encoder, and decoder where there is one.
    Fair,
    /// timm: the encoder.
    Timm,
    /// Hugging Face transformers, with `config.json` beside the file.
    HuggingFace,
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Converted {
    pub tensors: usize,
    /// Tensors of the source that the other program has no name for.
    pub left_out: Vec<String>,
    /// The file that describes the model, where the other program reads one.
    pub config: Option<PathBuf>,
}

/// Weights that cannot be converted.
#[derive(Debug, thiserror::Error)]
pub enum ConvertError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Save(#[from] SaveError),
    #[error("weights `{}`: {reason}", path.display())]
    Source { path: PathBuf, reason: String },
    #[error("`{}` is there already", path.display())]
    Exists { path: PathBuf },
    #[error("cannot write `{}`: {source}", path.display())]
    Write { path: PathBuf, source: std::io::Error },
}

/// What training leaves in a file and no other program reads.
const OURS: [&str; 2] = ["target.", "encoder_mask_token"];
/// What only pre-training needs.
const PRETRAINING: [&str; 3] = ["decoder_", "mask_token", "lm_head."];

/// Reads `source` and writes it to `out`, a `.safetensors` file, in the names of `program`. `heads` of attention are
/// those that the file tells of itself, or the width over 64.
///
/// # Errors
/// A source that is no ViT, heads that do not divide the width, files that are there already.
pub fn convert(
    source: &Path,
    program: Program,
    out: &Path,
    heads: Option<usize>,
) -> Result<Converted, ConvertError> {
    let fail = |reason: String| ConvertError::Source { path: source.into(), reason };
    let file = WeightFile::open(source)?;
    let dialect = Dialect::of(file.entries());
    let guess = Guess::of(file.entries()).filter(|_| !matches!(dialect, Dialect::Foreign(_) | Dialect::Dvae));
    let guess = guess.ok_or_else(|| fail(format!("{dialect}: only a ViT can be converted")))?;
    let config = out.with_file_name("config.json");
    for path in [Some(out), (program == Program::HuggingFace).then_some(&config)].into_iter().flatten() {
        if path.exists() {
            return Err(ConvertError::Exists { path: path.into() });
        }
    }
    let model: Option<ModelConfig> = match file.metadata().get("bench.model") {
        Some(text) => Some(parse(text, source.display()).map_err(|e| fail(e.to_string()))?),
        None => None,
    };
    let heads = heads.or(model.as_ref().map(|model| model.heads)).unwrap_or(guess.width / 64);
    if heads == 0 || !guess.width.is_multiple_of(heads) {
        let width = guess.width;
        return Err(fail(format!(
            "{heads} heads do not divide the width {width}: say how many with --heads"
        )));
    }
    let tensors = file.read(&Device::Cpu)?;
    let starts = |name: &str, parts: &[&str]| parts.iter().any(|part| name.starts_with(part));
    let (unread, tensors): (Vec<_>, Vec<_>) = tensors.into_iter().partition(|(name, _)| {
        starts(name, &OURS) || (program == Program::Timm && starts(name, &PRETRAINING))
    });
    let left_out: Vec<String> = unread.into_iter().map(|(name, _)| name).collect();
    let tensors = match program {
        Program::Fair | Program::Timm => tensors,
        Program::HuggingFace => {
            let names = if dialect == Dialect::Beit { &HUGGING_FACE_BEIT } else { &HUGGING_FACE };
            let (tensors, more) = renamed(names, &tensors).map_err(|e| fail(e.to_string()))?;
            if !more.is_empty() {
                let reason = format!("{} has no place for `{}`", names.title, more.join("`, `"));
                return Err(fail(reason)); // a model without them would compute something else
            }
            tensors
        }
    };
    let metadata = BTreeMap::from([("format".to_string(), "pt".to_string())]);
    save_tensors(out, &tensors, &metadata)?;
    let described = (program == Program::HuggingFace).then(|| {
        let text = format!("{:#}\n", described(&dialect, &guess, heads, model.as_ref(), &tensors));
        std::fs::write(&config, text).map_err(|source| ConvertError::Write { path: config.clone(), source })
    });
    described.transpose()?;
    let config = (program == Program::HuggingFace).then_some(config);
    Ok(Converted { tensors: tensors.len(), left_out, config })
}

/// `config.json` of transformers.
fn described(
    dialect: &Dialect,
    guess: &Guess,
    heads: usize,
    model: Option<&ModelConfig>,
    tensors: &[(String, Tensor)],
) -> Value {
    let has = |part: &str| tensors.iter().any(|(name, _)| name.contains(part));
    let (kind, architecture) = match (dialect, guess.decoder, guess.classes) {
        (Dialect::Beit, _, Some(_)) => ("beit", "BeitForImageClassification"),
        (Dialect::Beit, ..) if has("lm_head") => ("beit", "BeitForMaskedImageModeling"),
        (Dialect::Beit, ..) => ("beit", "BeitModel"),
        (_, Some(_), _) => ("vit_mae", "ViTMAEForPreTraining"),
        (_, None, Some(_)) => ("vit", "ViTForImageClassification"),
        (_, None, None) => ("vit", "ViTModel"),
    };
    let side = guess.positions.isqrt() * guess.patch;
    let image = model.map_or([side, side], |model| model.image);
    let image = if image[0] == image[1] { json!(image[0]) } else { json!(image) };
    let mut config = json!({
        "model_type": kind,
        "architectures": [architecture],
        "image_size": image,
        "patch_size": guess.patch,
        "num_channels": guess.channels,
        "hidden_size": guess.width,
        "num_hidden_layers": guess.depth,
        "num_attention_heads": heads,
        "intermediate_size": guess.mlp_hidden,
        "hidden_act": "gelu",
        "qkv_bias": true,
        "layer_norm_eps": model.map_or(1e-6, |model| model.norm_eps),
    });
    if let Some((width, depth)) = guess.decoder {
        let known = model.map(|model| model.decoder.heads);
        let heads = known.unwrap_or(if width.is_multiple_of(32) { (width / 32).min(16) } else { 1 });
        let hidden = 4 * width;
        config["decoder_hidden_size"] = json!(width);
        config["decoder_num_hidden_layers"] = json!(depth);
        config["decoder_num_attention_heads"] = json!(heads);
        config["decoder_intermediate_size"] = json!(hidden);
        config["norm_pix_loss"] = json!(true);
        config["mask_ratio"] = json!(0.75);
    }
    if *dialect == Dialect::Beit {
        config["use_absolute_position_embeddings"] = json!(has("position_embeddings"));
        config["use_shared_relative_position_bias"] = json!(has("encoder.relative_position_bias"));
        config["use_relative_position_bias"] = json!(has("attention.relative_position_bias"));
        config["use_mask_token"] = json!(has("mask_token"));
    }
    if let Some(classes) = guess.classes {
        let labels: serde_json::Map<String, Value> =
            (0..classes).map(|k| (k.to_string(), json!(format!("LABEL_{k}")))).collect();
        config["id2label"] = Value::Object(labels);
    }
    config
}
