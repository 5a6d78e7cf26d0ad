//! What can be wrong with the operations of a recipe, found before any image is read.

/// An operation or a number of a pipeline that cannot work.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum AugmentError {
    #[error("images have 1 or 3 channels, not {0}")]
    Channels(usize),
    #[error("{what} has {values} values, the images have {channels} channels")]
    PerChannel { what: &'static str, values: usize, channels: usize },
    #[error("{what} is {found}, expected {expected}")]
    Unexpected { what: &'static str, found: String, expected: &'static str },
    #[error("size [{0}, {1}] of an operation is empty")]
    EmptySize(usize, usize),
    #[error("{op}: size is 0")]
    ZeroSize { op: &'static str },
    #[error("resize_short: give `size` or `crop_ratio`, not both")]
    SizeAndRatio,
    #[error("photometric: brightness is {brightness}, hue {hue}; expected 0 to 255 and 0 to 90")]
    Photometric { brightness: f64, hue: i32 },
}

/// Refuses the value of `what` unless it is `right`.
pub(super) fn expect(
    right: bool,
    what: &'static str,
    found: impl ToString,
    expected: &'static str,
) -> Result<(), AugmentError> {
    if right { Ok(()) } else { Err(AugmentError::Unexpected { what, found: found.to_string(), expected }) }
}

pub(super) fn probability(what: &'static str, p: f64) -> Result<(), AugmentError> {
    expect((0. ..=1.).contains(&p), what, p, "0 to 1")
}

/// A range of positive numbers.
pub(super) fn range(what: &'static str, [low, high]: [f64; 2]) -> Result<(), AugmentError> {
    let right = low > 0. && low <= high && high.is_finite();
    expect(right, what, format!("[{low}, {high}]"), "0 < low ≤ high")
}
