//! [`LoaderError`]: errors of a loader.

use super::super::SampleId;

/// The reason why a loader returns no batch.
#[derive(Debug, thiserror::Error)]
pub enum LoaderError {
    /// A sample that cannot be prepared and may not be skipped.
    #[error("sample `{id}`: {reason}")]
    Sample {
        /// The sample.
        id: SampleId,
        /// The problem.
        reason: String,
    },
    /// More unreadable images than allowed in an epoch.
    #[error(
        "{count} unreadable images in an epoch, but only {allowed} are allowed; the last is `{id}`: {reason}"
    )]
    TooMany {
        /// Number of unreadable images so far.
        count: usize,
        /// [`LoaderConfig::allowed_skips`](super::LoaderConfig::allowed_skips).
        allowed: usize,
        /// The last unreadable image.
        id: SampleId,
        /// The problem.
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
