//! [`Pixels`]: what a decoder returns.

use super::super::orientation::Turn;

/// Largest image in bytes, because a header can claim more than the available memory.
pub(super) const MOST_BYTES: usize = 512 << 20;

/// Pixels of 8 bits.
pub(in crate::data) struct Pixels {
    pub height: usize,
    pub width: usize,
    /// 1 or 3.
    pub channels: usize,
    /// [H, W, C] row-major.
    pub data: Vec<u8>,
}

impl Pixels {
    /// The turned image.
    pub fn turned(self, turn: Turn) -> Self {
        let Self { height, width, channels, data } = self;
        let data = turn.apply((height, width), channels, data);
        let (height, width) = turn.size((height, width));
        Self { height, width, channels, data }
    }
}

/// The high byte, to which Pillow cuts 16-bit colours.
pub(super) fn high(v: u16) -> u8 {
    (v >> 8) as u8
}

/// 16-bit grey in 8 bits: 65535 becomes 255.
pub(super) fn scaled(v: u16) -> u8 {
    ((u32::from(v) + 128) / 257) as u8
}

/// The first `kept` of every `all` values.
pub(super) fn first<V: Copy>(values: &[V], all: usize, kept: usize) -> impl Iterator<Item = V> {
    values.chunks_exact(all).flat_map(move |pixel| pixel[..kept].iter().copied())
}
