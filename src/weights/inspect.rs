//! What a file of weights is, told by its names and shapes alone.

use super::entry::WeightEntry;
use super::error::WeightFileError;
use super::file::WeightFile;
use super::finite::NotFinite;
use super::{key_mapping, metadata};
use candle_core::Tensor;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What a file holds. Whose names it has is another question ([`Inspection::dialect`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Contents {
    Encoder,
    /// Of masked autoencoding.
    EncoderAndDecoder,
    /// An encoder with a classifier.
    Classifier,
    Beit,
    /// A backbone with UperNet.
    Segmenter,
    /// A backbone with Mask R-CNN.
    Detector,
    /// A discrete autoencoder.
    Tokenizer,
    /// What no model here can read.
    Unread(&'static str),
    Unknown,
}

impl Contents {
    /// Decides by our names.
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
        } else if blocks && has("rpn.head.cls_logits.weight") {
            Self::Detector
        } else if has("blocks.0.attn.q_bias") && has("cls_token") {
            Self::Beit
        } else if !blocks || !has("patch_embed.proj.weight") || !has("cls_token") {
            Self::Unknown
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
            Self::Beit => "BEiT",
            Self::Segmenter => "segmenter: backbone and UperNet",
            Self::Detector => "detector: backbone and Mask R-CNN",
            Self::Tokenizer => "discrete autoencoder",
            Self::Unread(what) => return write!(f, "{what}: recognised, not read"),
            Self::Unknown => "unknown",
        })
    }
}

/// The sizes that names and shapes reveal. Numbers of heads are not stored in weights.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct InferredVit {
    pub width: usize,
    pub depth: usize,
    pub mlp_hidden: usize,
    pub patch: usize,
    pub channels: usize,
    /// Position rows without the class token's; 0 where there are relative positions alone.
    pub positions: usize,
    /// Tokens beside those of patches and class.
    pub registers: usize,
    /// (width, depth) of the decoder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decoder: Option<(usize, usize)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub classes: Option<usize>,
}

impl InferredVit {
    /// `None` when the tensors are not those of a ViT in the names of FAIR.
    pub fn of(entries: &[WeightEntry]) -> Option<Self> {
        let dim = |name: &str, i: usize| {
            entries.iter().find(|e| e.name == name).and_then(|e| e.shape.get(i)).copied()
        };
        let blocks = |prefix: &str| {
            let indices =
                entries.iter().filter_map(|e| e.name.strip_prefix(prefix)?.split('.').next()?.parse().ok());
            indices.max().map_or(0, |last: usize| last.saturating_add(1))
        };
        Some(Self {
            width: dim("patch_embed.proj.weight", 0)?,
            depth: blocks("blocks."),
            mlp_hidden: dim("blocks.0.mlp.fc1.weight", 0)?,
            patch: dim("patch_embed.proj.weight", 2)?,
            channels: dim("patch_embed.proj.weight", 1)?,
            positions: dim("pos_embed", 1).unwrap_or(0).saturating_sub(1),
            registers: dim("register_tokens", 1).unwrap_or(0),
            decoder: dim("decoder_embed.weight", 0).map(|width| (width, blocks("decoder_blocks."))),
            classes: dim("head.weight", 0).or(dim("head.1.weight", 0)),
        })
    }

    /// Patches along a side of a square image, by positions or by relative ones among `tensors`; 0 where neither tells.
    pub(super) fn grid_side(&self, tensors: &[(String, Tensor)]) -> usize {
        let table = tensors.iter().find(|(name, _)| name.ends_with("relative_position_bias_table"));
        let rows = table.and_then(|(_, table)| table.dim(0).ok()?.checked_sub(3));
        match (self.positions, rows) {
            (0, Some(rows)) => rows.isqrt().div_ceil(2),
            (positions, _) => positions.isqrt(),
        }
    }

    /// The grid of positions when it is square.
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
            _ if *positions == 0 => f.write_str("no absolute positions"),
            Some((h, w)) => write!(f, "{h}×{w} positions"),
            None => write!(f, "{positions} positions"),
        }?;
        match self.registers {
            0 => Ok(()),
            registers => write!(f, ", {registers} registers"),
        }
    }
}

/// Everything about a file that can be told without running it.
#[derive(Clone, Debug, Serialize)]
pub struct Inspection {
    pub path: PathBuf,
    /// `safetensors`, `pth` or `npz`.
    pub format: &'static str,
    pub bytes: u64,
    /// blake3 of the file: what records name it by.
    pub hash: String,
    /// What the Hub names it by.
    pub sha256: String,
    pub contents: Contents,
    /// The program whose names the file has, where it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub program: Option<&'static str>,
    /// The version of this program that wrote it, when one did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub written_by: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<InferredVit>,
    pub tensors: usize,
    /// Tensors that no model here reads.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unread: Vec<String>,
    /// Values in all tensors.
    pub parameters: usize,
    pub metadata: BTreeMap<String, String>,
    /// Tensors that hold NaN or infinities, in the names of the file.
    pub not_finite: Vec<NotFinite>,
    /// What it can be used for here.
    pub uses: Vec<&'static str>,
}

/// Reads the file at `path`, whole.
pub fn inspect_weights(path: &Path) -> Result<Inspection, WeightFileError> {
    Inspection::of(&WeightFile::open(path)?)
}

impl Inspection {
    /// # Errors
    /// Names a tensor that is damaged.
    pub fn of(file: &WeightFile) -> Result<Self, WeightFileError> {
        let entries = file.entries();
        let contents = Contents::of(entries);
        let uses = match contents {
            Contents::Encoder => vec!["initialise transfer"],
            Contents::EncoderAndDecoder => vec!["initialise transfer", "reconstruct images"],
            Contents::Classifier => vec!["evaluate", "initialise transfer (without its head)"],
            Contents::Beit => vec!["initialise transfer (--model beit_b16 or another with its options)"],
            Contents::Segmenter | Contents::Detector => {
                vec!["evaluate (bench eval RUN --weights)", "initialise transfer (without its head)"]
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
            parameters: entries.iter().map(WeightEntry::count).fold(0, usize::saturating_add),
            metadata: file.metadata().clone(),
            not_finite: file.not_finite()?,
            uses,
        })
    }
}
