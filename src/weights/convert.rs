//! [`convert_weights`]: exports weights with the tensor names of other programs, for use in Python.

use super::key_mapping::{
    EVA_DINOV3, EVA_DINOV3_GATED, HUGGING_FACE, HUGGING_FACE_BEIT, HUGGING_FACE_BEIT_MASKED,
    HUGGING_FACE_DINOV2, HUGGING_FACE_DINOV2_GATED, HUGGING_FACE_DINOV3, HUGGING_FACE_DINOV3_GATED,
    KeyMapping, TIMM,
};
use super::mapped::renamed;
use super::rope::ROPE_PERIODS;
use super::sincos;
use super::transformers::{CheckpointHints, HfConfig};
use super::{Contents, InferredVit, WeightFile, WeightFileError, WeightSaveError, metadata, save_tensors};
use crate::nn::is_relative_position;
use candle_core::{DType, Device, Tensor};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A program whose tensor names a converted file has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// facebookresearch/mae: the encoder, and the decoder if there is one.
    Fair,
    /// timm: the encoder, and the classifier if there is one.
    Timm,
    /// Hugging Face transformers, with a `config.json` beside the file.
    HuggingFace,
}

/// Result of a conversion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Converted {
    /// Number of tensors written.
    pub tensors: usize,
    /// Names of tensors in the source that the other program does not have.
    pub left_out: Vec<String>,
    /// Assumptions that were made, and options that the other program needs.
    pub notes: Vec<String>,
    /// The `config.json` that describes the model, if the other program needs one.
    pub config: Option<PathBuf>,
}

/// Why weights cannot be converted.
#[derive(Debug, thiserror::Error)]
pub enum ConvertError {
    /// The source cannot be read.
    #[error(transparent)]
    File(#[from] WeightFileError),
    /// The new file cannot be written.
    #[error(transparent)]
    Save(#[from] WeightSaveError),
    /// The source cannot be converted.
    #[error("weights `{}`: {reason}", path.display())]
    Source {
        /// The source.
        path: PathBuf,
        /// The problem.
        reason: String,
    },
    /// The new file does not have the extension `.safetensors`.
    #[error("`{}`: the name of the new file must end in `.safetensors`", path.display())]
    Ending {
        /// The new file.
        path: PathBuf,
    },
    /// A file would be overwritten.
    #[error("`{}` already exists", path.display())]
    Exists {
        /// The existing file.
        path: PathBuf,
    },
    /// `config.json` cannot be written.
    #[error("cannot write `{}`: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        source: std::io::Error,
    },
}

/// Prefixes of tensors that only this program uses.
const OURS: [&str; 3] = ["target.", "encoder_mask_token", ROPE_PERIODS];
/// Prefixes of tensors that only pre-training uses.
const PRETRAINING: [&str; 3] = ["decoder_", "mask_token", "lm_head."];

/// Reads `source` and writes it to `out`, a `.safetensors` file, with the names of `program`. Properties of the model that
/// the file does not state come from its run, from a `config.json` beside it, or from `asked`; otherwise they are assumed,
/// and [`Converted::notes`] says so.
///
/// # Errors
/// A source that is not a ViT, heads that do not divide the width, values in `asked` that contradict the file, another
/// extension of `out`, or files that already exist.
pub fn convert_weights(
    source: &Path,
    program: Program,
    out: &Path,
    asked: &CheckpointHints,
) -> Result<Converted, ConvertError> {
    let fail = |reason: String| ConvertError::Source { path: source.into(), reason };
    let config = free(program, out)?;
    let file = WeightFile::open(source)?;
    let contents = Contents::of(file.entries());
    let other = matches!(
        contents,
        Contents::Unread(_)
            | Contents::Tokenizer
            | Contents::Detector
            | Contents::ClasslessEncoder
            | Contents::Unknown
    ) || file.entries().iter().any(|entry| entry.name == sincos::FREQUENCIES);
    let guess = InferredVit::of(file.entries()).filter(|_| !other);
    let guess = guess.ok_or_else(|| {
        fail(format!("{contents}: only a ViT with a class token and positions can be converted"))
    })?;
    let model = file.model().map_err(|e| fail(e.to_string()))?;
    let mut details = match &model {
        Some(model) => {
            asked.agreeing(&CheckpointHints::of_run(source, model), "the run of the weights").map_err(fail)?
        }
        None => *asked,
    };
    if let Some(described) = HfConfig::beside(source)? {
        details = details.agreeing(&described.details(), "config.json beside the weights").map_err(fail)?;
    }
    let (details, assumed) = details.completed(&guess).map_err(fail)?;
    let mut tensors = file.read(&Device::Cpu)?;
    if model.is_none() {
        with_class_position(&mut tensors, &guess).map_err(|e| fail(e.to_string()))?;
    }
    let mut new = renamed_for(program, &contents, &guess, tensors).map_err(fail)?;
    new.left_out.extend(file.unread().iter().cloned());
    if let Some(folder) = out.parent() {
        let write = |source| ConvertError::Write { path: folder.into(), source };
        std::fs::create_dir_all(folder).map_err(write)?;
    }
    save_tensors(out, &new.tensors, &kept_metadata(&file))?;
    if let Some(config) = &config {
        new.notes.extend(assumed);
        let image = model.as_ref().map(|model| model.image);
        let mut described = details.described(&contents, &guess, image, &new.tensors);
        name_classes(&mut described, &file);
        let text = format!("{described:#}\n");
        std::fs::write(config, text)
            .map_err(|source| ConvertError::Write { path: config.clone(), source })?;
    }
    Ok(Converted { tensors: new.tensors.len(), left_out: new.left_out, notes: new.notes, config })
}

/// Metadata of the new file: its framework, which transformers requires, and what the source says about its model, its task and
/// its classes, so that the new file can be trained further and can predict.
fn kept_metadata(source: &WeightFile) -> BTreeMap<String, String> {
    let kept = [metadata::MODEL_NAME, metadata::MODEL, metadata::CONFIG, metadata::DATASET];
    let kept =
        kept.into_iter().filter_map(|key| Some((key.to_string(), source.metadata().get(key)?.clone())));
    kept.chain([("format".to_string(), "pt".to_string())]).collect()
}

/// Puts the names of the classes that `source` states into the `config.json` of transformers.
fn name_classes(config: &mut Value, source: &WeightFile) {
    let dataset = source.metadata().get(metadata::DATASET);
    let dataset = dataset.and_then(|text| serde_json::from_str::<Value>(text).ok());
    let names = dataset.as_ref().and_then(|dataset| dataset["classes"].as_array());
    let Some(names) =
        names.filter(|names| config["id2label"].as_object().is_some_and(|ids| ids.len() == names.len()))
    else {
        return;
    };
    config["id2label"] = names.iter().enumerate().map(|(k, name)| (k.to_string(), name.clone())).collect();
    let named = |(k, name): (usize, &Value)| Some((name.as_str()?.to_string(), Value::from(k)));
    config["label2id"] = names.iter().enumerate().filter_map(named).collect();
}

/// Checks that no file would be overwritten; returns the path of `config.json` if `program` needs one.
fn free(program: Program, out: &Path) -> Result<Option<PathBuf>, ConvertError> {
    if out.extension().is_none_or(|ending| ending != "safetensors") {
        return Err(ConvertError::Ending { path: out.into() });
    }
    let config = (program == Program::HuggingFace).then(|| out.with_file_name("config.json"));
    for path in [Some(out), config.as_deref()].into_iter().flatten() {
        if path.exists() {
            return Err(ConvertError::Exists { path: path.into() });
        }
    }
    Ok(config)
}

/// Tensors with the names of another program.
struct Renamed {
    tensors: Vec<(String, Tensor)>,
    left_out: Vec<String>,
    notes: Vec<String>,
}

/// Renames the tensors of a file that holds `contents` for `program`; the error names a tensor that cannot be renamed.
fn renamed_for(
    program: Program,
    contents: &Contents,
    guess: &InferredVit,
    tensors: Vec<(String, Tensor)>,
) -> Result<Renamed, String> {
    let starts = |name: &str, parts: &[&str]| parts.iter().any(|part| name.starts_with(part));
    let (unread, tensors): (Vec<_>, Vec<_>) = tensors.into_iter().partition(|(name, _)| {
        starts(name, &OURS) || (program == Program::Timm && starts(name, &PRETRAINING))
    });
    let mut left_out: Vec<String> = unread.into_iter().map(|(name, _)| name).collect();
    match program {
        Program::Fair if guess.rotary => {
            Err("facebookresearch/mae has no rotary positions: give --to hf or --to timm".into())
        }
        Program::Fair => Ok(Renamed { tensors, left_out, notes: vec![] }),
        // timm uses the names of unilm too.
        Program::Timm if *contents == Contents::Beit => Ok(Renamed { tensors, left_out, notes: vec![] }),
        Program::Timm if guess.rotary => {
            let names = if guess.gated { EVA_DINOV3_GATED } else { EVA_DINOV3 };
            let (tensors, more) = renamed(&names, &tensors).map_err(|e| e.to_string())?;
            left_out.extend(more);
            let note = "queries and values have biases: use a model of timm with `_qkvb` in its name".into();
            Ok(Renamed { tensors, left_out, notes: vec![note] })
        }
        Program::Timm => {
            let (mut tensors, more) = renamed(&TIMM, &tensors).map_err(|e| e.to_string())?;
            if let Some(name) = more.iter().find(|name| is_relative_position(name)) {
                return Err(format!("a timm ViT has no parameter for `{name}`"));
            }
            left_out.extend(more);
            let note = fitted_positions(&mut tensors).map_err(|e| e.to_string())?;
            Ok(Renamed { tensors, left_out, notes: Vec::from_iter(note) })
        }
        Program::HuggingFace => {
            let find = |name: &str| tensors.iter().find(|(held, _)| held == name).map(|(_, tensor)| tensor);
            let masked = tensors.iter().any(|(name, _)| name.starts_with("lm_head."));
            let registers = find("register_tokens").is_some();
            let dinov2 = || if guess.gated { HUGGING_FACE_DINOV2_GATED } else { HUGGING_FACE_DINOV2 };
            let names = match contents {
                Contents::Beit if masked => HUGGING_FACE_BEIT_MASKED,
                Contents::Beit => HUGGING_FACE_BEIT,
                _ if guess.rotary && guess.gated => HUGGING_FACE_DINOV3_GATED,
                _ if guess.rotary => HUGGING_FACE_DINOV3,
                _ if find("blocks.0.gamma_1").is_none() && registers => {
                    return Err("transformers has no ViT with registers and without layer scale".into());
                }
                _ if find("blocks.0.gamma_1").is_none() => HUGGING_FACE,
                _ => match (find("head.weight"), find("norm.weight")) {
                    (Some(head), Some(norm)) if head.dims().get(1) != Some(&(2 * norm.elem_count())) => {
                        return Err(
                            "the classifier of transformers' DINOv2 reads the class token and the mean of the patches, \
                             but `head.weight` does not: only the backbone can be converted"
                                .into(),
                        );
                    }
                    // The backbone of a classifier has a prefix.
                    (Some(_), _) if registers => {
                        KeyMapping { prefixes: &["dinov2_with_registers."], ..dinov2() }
                    }
                    (Some(_), _) => KeyMapping { prefixes: &["dinov2."], ..dinov2() },
                    (None, _) => dinov2(),
                },
            };
            // Its models with registers always have a mask token, which they use in pre-training alone.
            let token = match (find("mask_token"), find("norm.weight")) {
                (None, Some(norm)) if registers => {
                    Some(norm.zeros_like().and_then(|norm| norm.reshape((1, ()))))
                }
                _ => None,
            };
            let token = token.transpose().map_err(|e| e.to_string())?;
            let mut tensors = tensors;
            tensors.extend(token.map(|token| ("mask_token".to_string(), token)));
            if let Some((_, token)) =
                tensors.iter_mut().find(|(name, _)| name == "mask_token" && guess.rotary)
            {
                *token = token.reshape((1, 1, ())).map_err(|e| e.to_string())?;
            }
            let (tensors, more) = renamed(&names, &tensors).map_err(|e| e.to_string())?;
            match more.is_empty() {
                true => Ok(Renamed { tensors, left_out, notes: vec![] }),
                // Without them, the model would compute something else.
                false => Err(format!("{} has no parameter for `{}`", names.title, more.join("`, `"))),
            }
        }
    }
}

/// Adds a zero embedding for the class token to position embeddings without one, which is equivalent.
fn with_class_position(tensors: &mut [(String, Tensor)], guess: &InferredVit) -> candle_core::Result<()> {
    let alone = |(name, tensor): &&mut (String, Tensor)| {
        name == "pos_embed" && tensor.dims().get(1).is_some_and(|rows| *rows > 0 && *rows == guess.positions)
    };
    if let Some((_, positions)) = tensors.iter_mut().find(alone) {
        *positions = positions.pad_with_zeros(1, 1, 0)?;
    }
    Ok(())
}

/// In timm, a model with registers or, as DeiT III, with layer scale has no position embedding for the class token: it is added
/// to the token. That of a model with layer scale alone is only dropped if it is zero. Returns what timm needs to know.
fn fitted_positions(tensors: &mut [(String, Tensor)]) -> candle_core::Result<Option<String>> {
    let find = |name: &str| tensors.iter().position(|(held, _)| held == name);
    let Some(positions) = find("pos_embed") else { return Ok(None) };
    let table = tensors[positions].1.clone(); // [1, 1 + N, C]
    let (of_class, of_patches) = (table.narrow(1, 0, 1)?, table.narrow(1, 1, table.dim(1)? - 1)?);
    let note = match (find("reg_token"), find("cls_token"), find("blocks.0.ls1.gamma")) {
        (Some(registers), Some(class), _) => {
            tensors[class].1 = (&tensors[class].1 + of_class)?;
            let registers = tensors[registers].1.dim(1)?;
            format!("a model with registers: use reg_tokens={registers}, no_embed_class=True")
        }
        (_, _, Some(_)) => {
            let largest = of_class.abs()?.flatten_all()?.to_dtype(DType::F32)?.max(0)?;
            if largest.to_scalar::<f32>()? > 0. {
                return Ok(None);
            }
            "the class token has no position embedding, as in DeiT III: use no_embed_class=True".into()
        }
        _ => return Ok(None),
    };
    tensors[positions].1 = of_patches.contiguous()?;
    Ok(Some(note))
}
