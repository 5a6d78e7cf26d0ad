//! [`WeightEntry`]: name, shape and type of a tensor, and where its values lie in a file.

use candle_core::DType;
use serde::Serialize;
use std::ops::Range;

/// Name, shape and type of a tensor in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightEntry {
    /// Name of the tensor, such as `blocks.0.attn.qkv.weight`.
    pub name: String,
    /// Sizes of its dimensions; empty for a scalar.
    pub shape: Vec<usize>,
    /// Type of its values.
    pub dtype: DType,
}

impl WeightEntry {
    /// Number of values in the tensor.
    pub fn count(&self) -> usize {
        self.shape.iter().fold(1, |count, n| count.saturating_mul(*n))
    }

    /// Whether it is a single integer, such as a number of steps: no parameter is.
    pub(super) fn is_counter(&self) -> bool {
        !self.dtype.is_float() && self.count() == 1
    }
}

/// Words in the names of modules beside a backbone: heads, losses, queues, statistics, other encoders. What they hold does not
/// change the features.
const BESIDE: [&str; 28] = [
    "head",
    "heads",
    "classifier",
    "fc",
    "proj",
    "projector",
    "projection",
    "predictor",
    "decoder",
    "criterion",
    "loss",
    "queue",
    "queues",
    "center",
    "prototypes",
    "metric",
    "metrics",
    "acc",
    "accuracy",
    "auroc",
    "logit",
    "temperature",
    "teacher",
    "student",
    "momentum",
    "ema",
    "mean",
    "std",
];

/// Whether a tensor that no model here has lies beside the backbone, so that it can be ignored. Any other unknown tensor might
/// change the features.
pub(super) fn lies_beside(name: &str) -> bool {
    let module = name.split('.').next().unwrap_or_default();
    module.split('_').any(|word| BESIDE.contains(&word.trim_end_matches(|c: char| c.is_ascii_digit())))
}

/// A tensor and the place of its values in the file.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub entry: WeightEntry,
    /// Byte range from its first value to its last.
    pub bytes: Range<usize>,
    /// Strides in values; `None` if the tensor is contiguous.
    pub strides: Option<Vec<usize>>,
    /// Whether each byte of its values is written as a character of Latin-1, in UTF-8.
    pub latin1: bool,
}

/// The CRC-32 that the file states for a range of its bytes.
#[derive(Clone, Debug)]
pub(super) struct Checksum {
    pub bytes: Range<usize>,
    pub crc32: u32,
}

/// Number of tensors of no use that an error names.
const SHOWN: usize = 3;

/// A tensor that a file holds in a form that is not read: the values of no other tensor depend on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Unusable {
    /// Its name in the state dict.
    pub name: String,
    /// Why it is not read, and what to do about it.
    pub reason: String,
    /// Whether it lies beside the model, so that it can be ignored.
    pub beside: bool,
}

impl std::fmt::Display for Unusable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "`{}`: {}", self.name, self.reason)
    }
}

impl Unusable {
    /// The tensor `name`, which lies beside the model if its name says so.
    pub(super) fn new(name: String, reason: String) -> Self {
        let beside = lies_beside(&name.replace('/', "."));
        Self { name, reason, beside }
    }

    /// Names and reasons of the first of `tensors`, and how many more there are.
    pub(super) fn listed(tensors: &[Self]) -> String {
        let first: Vec<String> =
            tensors.iter().take(SHOWN).map(|tensor| format!("tensor {tensor}")).collect();
        match tensors.len() - first.len() {
            0 => first.join("; "),
            more => format!("{}; and {more} more", first.join("; ")),
        }
    }
}

/// What is found in a file.
#[derive(Default)]
pub(super) struct Located {
    pub stored: Vec<Stored>,
    /// Checksums of the parts that hold their values.
    pub checksums: Vec<Checksum>,
    /// Tensors that are not read, with their names in the file.
    pub unusable: Vec<Unusable>,
    /// What was unpacked, for [`Content`](super::content::Content).
    pub unpacked: Vec<u8>,
}
