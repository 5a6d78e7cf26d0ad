//! [`LoaderError`]: why a loader gives no batch.

use super::super::SampleId;

/// Why there is no batch.
#[derive(Debug, thiserror::Error)]
pub enum LoaderError {
    /// A sample that cannot be made, where none may be skipped.
    #[error("sample `{id}`: {reason}")]
    Sample {
        /// The sample.
        id: SampleId,
        /// What is wrong with it.
        reason: String,
    },
    /// More unreadable images than an epoch may have.
    #[error("{count} unreadable images in an epoch, {allowed} are allowed; the last is `{id}`: {reason}")]
    TooMany {
        /// Unreadable images up to now.
        count: usize,
        /// [`LoaderConfig::allowed_skips`](super::LoaderConfig::allowed_skips).
        allowed: usize,
        /// The last of them.
        id: SampleId,
        /// What is wrong with it.
        reason: String,
    },
    /// Samples that cannot be stacked.
    #[error(
        "samples of one batch differ in shape: {first:?} and, of `{id}`, {other:?} (channels, height, width)"
    )]
    Shape {
        /// The sample that differs.
        id: SampleId,
        /// (C, H, W) of the first sample.
        first: (usize, usize, usize),
        /// (C, H, W) of the sample that differs.
        other: (usize, usize, usize),
    },
    /// The threads ended before this batch, counted from 0.
    #[error("all loader threads have ended before batch {0}")]
    Workers(usize),
    /// The images do not fit the device.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}
