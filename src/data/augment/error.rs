//! Errors in the operations of a recipe, which are found before any image is read.

use crate::config::ConfigError;

/// An invalid operation or value of a pipeline.
#[derive(Debug, thiserror::Error)]
pub enum AugmentError {
    /// An unknown operation, or options that do not parse.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A number of channels other than 1 and 3.
    #[error("images have 1 or 3 channels, not {0}")]
    Channels(usize),
    /// A list that has neither one value nor one per channel.
    #[error("{what} has {values} values, but the images have {channels} channels")]
    PerChannel {
        /// Operation and key.
        what: &'static str,
        /// Number of values in the list.
        values: usize,
        /// Channels of the images.
        channels: usize,
    },
    /// A value outside of its range.
    #[error("{what} is {found}, expected {expected}")]
    Unexpected {
        /// Operation and key.
        what: &'static str,
        /// The value.
        found: String,
        /// The allowed values.
        expected: &'static str,
    },
    /// A height or width of 0.
    #[error("size [{0}, {1}] of an operation is empty")]
    EmptySize(usize, usize),
    /// A side of 0 pixels.
    #[error("{op}: size is 0")]
    ZeroSize {
        /// The operation.
        op: &'static str,
    },
    /// Two keys of `resize_short` that exclude each other.
    #[error("resize_short: give `size` or `crop_ratio`, not both")]
    SizeAndRatio,
    /// Ranges of `photometric` that are too wide.
    #[error("photometric: brightness is {brightness}, hue {hue}; expected 0 to 255 and 0 to 90")]
    Photometric {
        /// Levels.
        brightness: f64,
        /// Steps of 2°.
        hue: i32,
    },
    /// A table `[[views]]` that makes no view.
    #[error("views: count is 0, expected at least 1")]
    NoView,
}

/// Fails unless the value of `what` is `right`.
pub(super) fn expect(
    right: bool,
    what: &'static str,
    found: impl ToString,
    expected: &'static str,
) -> Result<(), AugmentError> {
    if right { Ok(()) } else { Err(AugmentError::Unexpected { what, found: found.to_string(), expected }) }
}

/// Fails for numbers outside [0, 1].
pub(super) fn probability(what: &'static str, p: f64) -> Result<(), AugmentError> {
    expect((0. ..=1.).contains(&p), what, p, "0 to 1")
}

/// Fails unless the value is a range of positive numbers.
pub(super) fn range(what: &'static str, [low, high]: [f64; 2]) -> Result<(), AugmentError> {
    let right = low > 0. && low <= high && high.is_finite();
    expect(right, what, format!("[{low}, {high}]"), "0 < low ≤ high")
}
