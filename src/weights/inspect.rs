//! [`inspect_weights`]: what a weight file holds, judging by the names and shapes of its tensors.

use super::entry::{Unusable, WeightEntry};
use super::error::WeightFileError;
use super::file::WeightFile;
use super::finite::NotFinite;
use super::{key_mapping, metadata};
use crate::nn::is_relative_position;
use candle_core::Tensor;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Kind of model in a file, regardless of the program that wrote it ([`Inspection::program`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Contents {
    /// A ViT encoder alone.
    Encoder,
    /// Encoder and decoder of a masked autoencoder.
    EncoderAndDecoder,
    /// An encoder with a classifier.
    Classifier,
    /// A distilled DeiT: an encoder with a classifier on the class token and one on the distillation token.
    Distilled,
    /// A ViT encoder without a class token.
    ClasslessEncoder,
    /// BEiT, with or without a classifier.
    Beit,
    /// A backbone with UperNet.
    Segmenter,
    /// A backbone with Mask R-CNN.
    Detector,
    /// A discrete autoencoder.
    Tokenizer,
    /// A model that is recognized, but not supported; described by the text.
    Unread(&'static str),
    /// Another or unknown model.
    Unknown,
}

impl Contents {
    /// Recognizes the model from tensor names, after the key mapping.
    pub fn of(entries: &[WeightEntry]) -> Self {
        let has = |name: &str| entries.iter().any(|e| e.name == name);
        if let Some(program) = key_mapping::unsupported_model(entries) {
            return Self::Unread(program);
        }
        let blocks = has("blocks.0.attn.qkv.weight");
        if has("blocks.input.w") || has("encoder.blocks.input.w") {
            Self::Tokenizer
        } else if blocks && has("decode_head.conv_seg.weight") {
            Self::Segmenter
        } else if blocks
            && has("rpn.head.cls_logits.weight")
            && has("roi_heads.box_predictor.cls_score.weight")
        {
            Self::Detector
        } else if has("blocks.0.attn.q_bias") && has("cls_token") && !has_rotations(entries) {
            Self::Beit
        } else if !blocks || !has("patch_embed.proj.weight") {
            Self::Unknown
        } else if !has("cls_token") {
            Self::ClasslessEncoder
        } else if has("head_dist.weight") {
            Self::Distilled
        } else if has("decoder_embed.weight") {
            Self::EncoderAndDecoder
        } else if has("head.weight") || has("head.1.weight") {
            Self::Classifier
        } else {
            Self::Encoder
        }
    }
}

impl std::fmt::Display for Contents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Encoder => "encoder",
            Self::EncoderAndDecoder => "encoder and decoder of a masked autoencoder",
            Self::Classifier => "encoder and classifier",
            Self::Distilled => "distilled DeiT: encoder and two classifiers",
            Self::ClasslessEncoder => "encoder without a class token",
            Self::Beit => "BEiT",
            Self::Segmenter => "segmenter: backbone and UperNet",
            Self::Detector => "detector: backbone and Mask R-CNN",
            Self::Tokenizer => "discrete autoencoder",
            Self::Unread(what) => return write!(f, "{what}: recognized, but not supported"),
            Self::Unknown => "unknown",
        })
    }
}

/// Sizes of a ViT, from names and shapes. The number of attention heads cannot be inferred from weights.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct InferredVit {
    /// Width of the token embeddings.
    pub width: usize,
    /// Number of blocks.
    pub depth: usize,
    /// Hidden width of the MLPs.
    pub mlp_hidden: usize,
    /// Whether the MLPs are gated (SwiGLU).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub gated: bool,
    /// Side of the patches in pixels.
    pub patch: usize,
    /// Number of channels of the input images.
    pub channels: usize,
    /// Number of position embeddings without that of the class token; 0 if there are only relative positions.
    pub positions: usize,
    /// Whether queries and keys are rotated (RoPE). Weights show it only indirectly: DINOv3 has registers, no bias of the keys,
    /// and no positions of another kind.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub rotary: bool,
    /// Number of register tokens.
    pub registers: usize,
    /// (width, depth) of the decoder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decoder: Option<(usize, usize)>,
    /// Number of classes of the classifier, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub classes: Option<usize>,
}

impl InferredVit {
    /// Infers the sizes; `None` if the tensors are not those of a ViT, after the key mapping.
    pub fn of(entries: &[WeightEntry]) -> Option<Self> {
        let dim = |name: &str, i: usize| {
            entries.iter().find(|e| e.name == name).and_then(|e| e.shape.get(i)).copied()
        };
        let blocks = |prefix: &str| {
            let indices =
                entries.iter().filter_map(|e| e.name.strip_prefix(prefix)?.split('.').next()?.parse().ok());
            indices.max().map_or(0, |last: usize| last.saturating_add(1))
        };
        let mlp_hidden = dim("blocks.0.mlp.fc2.weight", 1)?;
        Some(Self {
            width: dim("patch_embed.proj.weight", 0)?,
            depth: blocks("blocks."),
            mlp_hidden,
            gated: dim("blocks.0.mlp.fc1.weight", 0)? == 2 * mlp_hidden,
            patch: dim("patch_embed.proj.weight", 2)?,
            channels: dim("patch_embed.proj.weight", 1)?,
            positions: positions(dim("pos_embed", 1).unwrap_or(0), dim("decoder_pos_embed", 1).is_some()),
            rotary: has_rotations(entries),
            registers: dim("register_tokens", 1).unwrap_or(0),
            decoder: dim("decoder_embed.weight", 0).map(|width| (width, blocks("decoder_blocks."))),
            classes: dim("head.weight", 0).or(dim("head.1.weight", 0)),
        })
    }

    /// Number of patches along one side of a square image, from position embeddings or from relative position bias tables
    /// among `tensors`; 0 if there are neither.
    pub(super) fn grid_side(&self, tensors: &[(String, Tensor)]) -> usize {
        let table = tensors.iter().find(|(name, _)| name.ends_with("relative_position_bias_table"));
        let rows = table.and_then(|(_, table)| table.dim(0).ok()?.checked_sub(3));
        match (self.positions, rows) {
            (0, Some(rows)) => rows.isqrt().div_ceil(2),
            (positions, _) => positions.isqrt(),
        }
    }

    /// Grid (rows, columns) of the position embeddings if it is square.
    pub fn square_grid(&self) -> Option<(usize, usize)> {
        let side = self.positions.isqrt();
        (side * side == self.positions).then_some((side, side))
    }
}

impl std::fmt::Display for InferredVit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { width, depth, patch, channels, positions, .. } = self;
        write!(f, "a ViT with width {width}, depth {depth}, patch {patch}, {channels} channels, ")?;
        match self.square_grid() {
            _ if self.rotary => f.write_str("rotary positions"),
            _ if *positions == 0 => f.write_str("no absolute positions"),
            Some((h, w)) => write!(f, "{h}×{w} positions"),
            None => write!(f, "{positions} positions"),
        }?;
        match self.registers {
            0 => Ok(()),
            registers => write!(f, ", {registers} registers"),
        }?;
        f.write_str(if self.gated { ", SwiGLU" } else { "" })
    }
}

/// Whether tensors are those of a model with rotary positions ([`InferredVit::rotary`]).
fn has_rotations(entries: &[WeightEntry]) -> bool {
    let has = |name: &str| entries.iter().any(|entry| entry.name == name);
    has("blocks.0.attn.q_bias")
        && has("register_tokens")
        && !has("pos_embed")
        && !entries.iter().any(|entry| is_relative_position(&entry.name))
}

/// Number of position embeddings of patches among `rows`: all but that of the class token, unless only all of them are a square
/// grid. A masked `autoencoder` always has one for the class token, and its images need not be square.
fn positions(rows: usize, autoencoder: bool) -> usize {
    let square = |n: usize| n > 1 && n.isqrt() * n.isqrt() == n;
    let patches = rows.saturating_sub(1);
    if square(rows) && !square(patches) && !autoencoder { rows } else { patches }
}

/// Everything that is known about a file without running a model.
#[derive(Clone, Debug, Serialize)]
pub struct Inspection {
    /// The file.
    pub path: PathBuf,
    /// Format: `safetensors`, `pth`, `npz` or `pkl`.
    pub format: &'static str,
    /// Size in bytes.
    pub bytes: u64,
    /// blake3 of the file, in hexadecimal, as in run records.
    pub hash: String,
    /// SHA-256 of the file, in hexadecimal, as on the Hub.
    pub sha256: String,
    /// Kind of model.
    pub contents: Contents,
    /// The program whose tensor names the file has; `None` if unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub program: Option<&'static str>,
    /// Name and version of this program, if it wrote the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub written_by: Option<String>,
    /// Sizes of the ViT, if it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<InferredVit>,
    /// Number of tensors.
    pub tensors: usize,
    /// Names of tensors that are ignored.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unread: Vec<String>,
    /// Tensors in a form that is not read. One that does not lie beside the model keeps the file from being used.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unusable: Vec<Unusable>,
    /// Key of the state dict that is read; empty if the file holds one at its top.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub state_dict: String,
    /// Keys of other models in the file, which `FILE#KEY` chooses.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub other_state_dicts: Vec<String>,
    /// Classes and functions to which a pickle refers and which weights do not need. They are ignored.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub strangers: Vec<String>,
    /// Number of values in all tensors.
    pub parameters: usize,
    /// Metadata of a safetensors file.
    pub metadata: BTreeMap<String, String>,
    /// Tensors that hold NaN or infinity, by their names in the file.
    pub not_finite: Vec<NotFinite>,
    /// Possible uses of the file.
    pub uses: Vec<&'static str>,
}

/// Reads the whole file at `path` and describes it.
///
/// # Errors
/// A file that cannot be read as weights.
pub fn inspect_weights(path: &Path) -> Result<Inspection, WeightFileError> {
    Inspection::of(&WeightFile::open(path)?)
}

impl Inspection {
    /// Describes an open file.
    ///
    /// # Errors
    /// Names a tensor that is damaged.
    pub fn of(file: &WeightFile) -> Result<Self, WeightFileError> {
        let entries = file.entries();
        let contents = file.unmerged().map_or_else(|| Contents::of(entries), Contents::Unread);
        let uses = match contents {
            _ if file.unusable().iter().any(|tensor| !tensor.beside) => vec![],
            Contents::Encoder => vec!["initialize transfer"],
            Contents::EncoderAndDecoder => vec!["initialize transfer", "reconstruct images"],
            Contents::Classifier => vec!["evaluate", "initialize transfer (without its head)"],
            Contents::Distilled => vec!["initialize transfer (without its heads)"],
            Contents::ClasslessEncoder => vec!["initialize transfer with windowed attention (ViTDet)"],
            Contents::Beit => vec!["initialize transfer (--model beit_b16 or another with its options)"],
            Contents::Segmenter | Contents::Detector => {
                vec!["evaluate (bench eval RUN --weights)", "initialize transfer (without its head)"]
            }
            Contents::Tokenizer => vec!["make tokens for pre-training (pretrain.tokenizer)"],
            Contents::Unread(_) | Contents::Unknown => vec![],
        };
        Ok(Self {
            path: file.path().into(),
            format: file.format(),
            bytes: file.bytes() as u64,
            hash: file.hash(),
            sha256: file.sha256(),
            program: file.source_program().or_else(|| key_mapping::native_program(entries)),
            written_by: file.metadata().get(metadata::WRITTEN_BY).cloned(),
            model: InferredVit::of(entries).filter(|_| !uses.is_empty()),
            contents,
            tensors: entries.len(),
            unread: file.unread().to_vec(),
            unusable: file.unusable().to_vec(),
            state_dict: file.state_dict().into(),
            other_state_dicts: file.other_state_dicts().to_vec(),
            strangers: file.strangers().to_vec(),
            parameters: entries.iter().map(WeightEntry::count).fold(0, usize::saturating_add),
            metadata: file.metadata().clone(),
            not_finite: file.not_finite()?,
            uses,
        })
    }
}
