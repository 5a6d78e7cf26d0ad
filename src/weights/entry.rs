//! [`WeightEntry`]: name, shape and type of a tensor, and where its values lie in a file.

use candle_core::DType;
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
}

/// A tensor and the place of its values in the file.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub entry: WeightEntry,
    /// Byte range from its first value to its last.
    pub bytes: Range<usize>,
    /// Strides in values; `None` if the tensor is contiguous.
    pub strides: Option<Vec<usize>>,
}

/// The CRC-32 that the file states for a range of its bytes.
#[derive(Clone, Debug)]
pub(super) struct Checksum {
    pub bytes: Range<usize>,
    pub crc32: u32,
}

/// The tensors of a file and the checksums of its parts.
pub(super) type Located = (Vec<Stored>, Vec<Checksum>);
