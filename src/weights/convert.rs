//! [`convert_weights`]: weights in the names of other programs, for those who go on with Python.

use super::key_mapping::{HUGGING_FACE, HUGGING_FACE_BEIT, HUGGING_FACE_BEIT_MASKED, TIMM};
use super::mapped::renamed;
use super::transformers::{CheckpointHints, HfConfig};
use super::{Contents, InferredVit, WeightFile, WeightFileError, WeightSaveError, save_tensors};
use crate::nn::is_relative_position;
use candle_core::{DType, Device, Tensor};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The program whose names the new file has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// facebookresearch/mae: encoder, and decoder where there is one.
    Fair,
    /// timm: the encoder, and a classifier where there is one.
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
    /// What the other program must be told, and what was assumed.
    pub notes: Vec<String>,
    /// The file that describes the model, where the other program reads one.
    pub config: Option<PathBuf>,
}

/// Weights that cannot be converted.
#[derive(Debug, thiserror::Error)]
pub enum ConvertError {
    #[error(transparent)]
    File(#[from] WeightFileError),
    #[error(transparent)]
    Save(#[from] WeightSaveError),
    #[error("weights `{}`: {reason}", path.display())]
    Source { path: PathBuf, reason: String },
    #[error("`{}`: safetensors are written, whose name must end in `.safetensors`", path.display())]
    Ending { path: PathBuf },
    #[error("`{}` is there already", path.display())]
    Exists { path: PathBuf },
    #[error("cannot write `{}`: {source}", path.display())]
    Write { path: PathBuf, source: std::io::Error },
}

/// What training leaves in a file and no other program reads.
const OURS: [&str; 2] = ["target.", "encoder_mask_token"];
/// What only pre-training needs.
const PRETRAINING: [&str; 3] = ["decoder_", "mask_token", "lm_head."];

/// Reads `source` and writes it to `out`, a `.safetensors` file, in the names of `program`. What the file does not tell
/// of its model is what its run or a `config.json` beside it says, or `asked`, or assumed in a note.
///
/// # Errors
/// A source that is not a ViT, heads that do not divide the width, `asked` for other than is known, `out` of another
/// ending, files that are there already.
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
        Contents::Unread(_) | Contents::Tokenizer | Contents::Detector | Contents::Unknown
    );
    let guess = InferredVit::of(file.entries()).filter(|_| !other);
    let guess = guess.ok_or_else(|| fail(format!("{contents}: only a ViT can be converted")))?;
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
    let mut new = renamed_for(program, &contents, file.read(&Device::Cpu)?).map_err(fail)?;
    new.left_out.extend(file.unread().iter().cloned());
    save_tensors(out, &new.tensors, &BTreeMap::from([("format".to_string(), "pt".to_string())]))?;
    if let Some(config) = &config {
        new.notes.extend(assumed);
        let image = model.as_ref().map(|model| model.image);
        let text = format!("{:#}\n", details.described(&contents, &guess, image, &new.tensors));
        std::fs::write(config, text)
            .map_err(|source| ConvertError::Write { path: config.clone(), source })?;
    }
    Ok(Converted { tensors: new.tensors.len(), left_out: new.left_out, notes: new.notes, config })
}

/// Refuses to write over files; the path of `config.json` where `program` reads one.
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

/// Tensors in the names of another program.
struct Renamed {
    tensors: Vec<(String, Tensor)>,
    left_out: Vec<String>,
    notes: Vec<String>,
}

/// The tensors of a file that holds `contents` in the names of `program`; the error names one that has no place there.
fn renamed_for(
    program: Program,
    contents: &Contents,
    tensors: Vec<(String, Tensor)>,
) -> Result<Renamed, String> {
    let starts = |name: &str, parts: &[&str]| parts.iter().any(|part| name.starts_with(part));
    let (unread, tensors): (Vec<_>, Vec<_>) = tensors.into_iter().partition(|(name, _)| {
        starts(name, &OURS) || (program == Program::Timm && starts(name, &PRETRAINING))
    });
    let mut left_out: Vec<String> = unread.into_iter().map(|(name, _)| name).collect();
    match program {
        Program::Fair => Ok(Renamed { tensors, left_out, notes: vec![] }),
        // In the names of unilm there too.
        Program::Timm if *contents == Contents::Beit => Ok(Renamed { tensors, left_out, notes: vec![] }),
        Program::Timm => {
            let (mut tensors, more) = renamed(&TIMM, &tensors).map_err(|e| e.to_string())?;
            if let Some(name) = more.iter().find(|name| is_relative_position(name)) {
                return Err(format!("a ViT of timm has no place for `{name}`"));
            }
            left_out.extend(more);
            let note = without_class_position(&mut tensors).map_err(|e| e.to_string())?;
            Ok(Renamed { tensors, left_out, notes: Vec::from_iter(note) })
        }
        Program::HuggingFace => {
            let masked = tensors.iter().any(|(name, _)| name.starts_with("lm_head."));
            let names = match contents {
                Contents::Beit if masked => &HUGGING_FACE_BEIT_MASKED,
                Contents::Beit => &HUGGING_FACE_BEIT,
                _ => &HUGGING_FACE,
            };
            let (tensors, more) = renamed(names, &tensors).map_err(|e| e.to_string())?;
            match more.is_empty() {
                true => Ok(Renamed { tensors, left_out, notes: vec![] }),
                // A model without them would compute something else.
                false => Err(format!("{} has no place for `{}`", names.title, more.join("`, `"))),
            }
        }
    }
}

/// timm's DeiT III has layer scale and no position of the class token: one that adds nothing is left out with it.
fn without_class_position(tensors: &mut [(String, Tensor)]) -> candle_core::Result<Option<String>> {
    let scaled = tensors.iter().any(|(name, _)| name == "blocks.0.ls1.gamma");
    let Some((_, positions)) = tensors.iter_mut().find(|(name, _)| name == "pos_embed" && scaled) else {
        return Ok(None);
    };
    let largest = positions.narrow(1, 0, 1)?.abs()?.flatten_all()?.to_dtype(DType::F32)?.max(0)?;
    if largest.to_scalar::<f32>()? > 0. {
        return Ok(None);
    }
    *positions = positions.narrow(1, 1, positions.dim(1)? - 1)?.contiguous()?;
    Ok(Some("the class token has no position, as in DeiT III: no_embed_class=True".into()))
}
