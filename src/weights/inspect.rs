//! What a file of weights is, told by its names and shapes alone.

use super::{FileError, NotFinite, WeightEntry, WeightFile};
use candle_core::Tensor;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Whose names the tensors carry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Dialect {
    /// facebookresearch/mae or timm: an encoder with its final norm.
    MaeEncoder,
    /// facebookresearch/mae `_full` and `visualize`: encoder and decoder.
    MaeFull,
    /// facebookresearch/mae fine-tuned: an encoder with a classifier.
    Classifier,
    /// microsoft/unilm BEiT.
    Beit,
    /// A backbone with UperNet, in the names of mmsegmentation.
    Segmenter,
    /// A backbone with Mask R-CNN, in the names of torchvision.
    Detector,
    /// A discrete autoencoder, in the names of openai/DALL-E.
    Dvae,
    /// Recognised and not readable.
    Foreign(&'static str),
    Unknown,
}

/// Its classes are the mean of what two heads say of two tokens (arXiv:2012.12877 §4).
const DISTILLED: &str = "a distilled DeiT, whose second token and head have no place here";

/// Names that give away a dialect which cannot be read.
const FOREIGN: [(&str, &str); 3] = [
    ("dist_token", DISTILLED),
    ("embeddings.distillation_token", DISTILLED),
    ("deit.embeddings.distillation_token", DISTILLED),
];

impl Dialect {
    /// Decides by probe names.
    pub fn of(entries: &[WeightEntry]) -> Self {
        let has = |name: &str| entries.iter().any(|e| e.name == name);
        if let Some((_, dialect)) = FOREIGN.iter().find(|(probe, _)| has(probe)) {
            return Self::Foreign(dialect);
        }
        if has("decode_head.conv_seg.weight") && has("blocks.0.attn.qkv.weight") {
            return Self::Segmenter;
        }
        if has("rpn.head.cls_logits.weight") && has("blocks.0.attn.qkv.weight") {
            return Self::Detector;
        }
        if has("blocks.0.attn.q_bias") && has("cls_token") {
            return Self::Beit;
        }
        if has("blocks.input.w") || has("encoder.blocks.input.w") {
            return Self::Dvae;
        }
        if !has("blocks.0.attn.qkv.weight") || !has("patch_embed.proj.weight") || !has("cls_token") {
            return Self::Unknown;
        }
        if has("decoder_embed.weight") {
            Self::MaeFull
        } else if has("head.weight") || has("head.1.weight") {
            Self::Classifier
        } else {
            Self::MaeEncoder
        }
    }
}

impl std::fmt::Display for Dialect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::MaeEncoder => f.write_str("MAE encoder (FAIR, timm)"),
            Self::MaeFull => f.write_str("MAE encoder and decoder (FAIR)"),
            Self::Classifier => f.write_str("fine-tuned classifier (FAIR)"),
            Self::Beit => f.write_str("BEiT (unilm)"),
            Self::Segmenter => f.write_str("segmenter: backbone and UperNet"),
            Self::Detector => f.write_str("detector: backbone and Mask R-CNN"),
            Self::Dvae => f.write_str("discrete autoencoder (openai/DALL-E)"),
            Self::Foreign(name) => write!(f, "{name} (recognised, not readable)"),
            Self::Unknown => f.write_str("unknown"),
        }
    }
}

/// The sizes that names and shapes reveal. Numbers of heads are not stored in weights.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Guess {
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

impl Guess {
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

impl std::fmt::Display for Guess {
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
    pub dialect: Dialect,
    /// The program whose names the file has, where they are not ours.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub translated_from: Option<&'static str>,
    /// The version of this program that wrote it, when one did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub written_by: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<Guess>,
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
pub fn inspect(path: &Path) -> Result<Inspection, FileError> {
    Inspection::of(&WeightFile::open(path)?)
}

impl Inspection {
    /// # Errors
    /// Names a tensor that is damaged.
    pub fn of(file: &WeightFile) -> Result<Self, FileError> {
        let entries = file.entries();
        let dialect = Dialect::of(entries);
        let uses = match &dialect {
            Dialect::MaeEncoder => vec!["initialise transfer"],
            Dialect::MaeFull => vec!["initialise transfer", "reconstruct images"],
            Dialect::Classifier => vec!["evaluate", "initialise transfer (without its head)"],
            Dialect::Beit => vec!["initialise transfer (--model beit_b16 or another with its options)"],
            Dialect::Segmenter | Dialect::Detector => {
                vec!["evaluate (bench eval RUN --weights)", "initialise transfer (without its head)"]
            }
            Dialect::Dvae => vec!["make tokens for pre-training (pretrain.tokenizer)"],
            Dialect::Foreign(_) | Dialect::Unknown => vec![],
        };
        Ok(Self {
            path: file.path().into(),
            format: file.format(),
            bytes: file.bytes() as u64,
            hash: file.hash(),
            sha256: file.sha256(),
            translated_from: file.translated_from(),
            written_by: file.metadata().get("written_by").cloned(),
            model: Guess::of(entries).filter(|_| !uses.is_empty()),
            dialect,
            tensors: entries.len(),
            unread: file.unread().to_vec(),
            parameters: entries.iter().map(WeightEntry::count).fold(0, usize::saturating_add),
            metadata: file.metadata().clone(),
            not_finite: file.not_finite()?,
            uses,
        })
    }
}
