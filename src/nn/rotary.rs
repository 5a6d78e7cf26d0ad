//! Rotary position embeddings of patches on a grid, as in DINOv3 (arXiv:2508.10104).

use crate::ops::Rotary;
use candle_core::{Device, Result};
use std::f64::consts::TAU;

/// The tokens whose queries and keys [`rotary_of_grid`] rotates.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RotaryGrid {
    /// Rows and columns of patches.
    pub grid: (usize, usize),
    /// Tokens before the patches (class token and registers), which are not rotated. 0 with windows.
    pub before: usize,
    /// Side of the square windows within which tokens attend; `None` for global attention.
    pub window: Option<usize>,
    /// Channels of a head: a multiple of 4.
    pub channels: usize,
    /// The periods are base^(4·k/channels) for k from 0 to channels/4 − 1, in coordinates from −1 to 1.
    pub base: f64,
}

/// The rotations of all patches. The centre of a patch has coordinates y and x from −1 to 1, normalised by the height and
/// the width of the grid separately; the first half of the angles is 2π·y/period, the second half 2π·x/period. Computed in
/// f64 for any grid, so nothing is interpolated. Padding of windows is not rotated.
///
/// # Errors
/// Channels that are not a multiple of 4.
pub fn rotary_of_grid(of: RotaryGrid, device: &Device) -> Result<Rotary> {
    let RotaryGrid { grid: (height, width), before, window, channels, base } = of;
    if channels == 0 || !channels.is_multiple_of(4) {
        candle_core::bail!("rotary positions: {channels} channels in a head are not a multiple of 4");
    }
    let quarter = channels / 4;
    let periods: Vec<f64> = (0..quarter).map(|k| base.powf(k as f64 / quarter as f64)).collect();
    let coordinate = |i: usize, of: usize| 2. * (i as f64 + 0.5) / of as f64 - 1.;
    let mut angles = vec![0.; before * 2 * quarter];
    let mut push = |y: usize, x: usize| match y < height && x < width {
        true => {
            for coordinate in [coordinate(y, height), coordinate(x, width)] {
                angles.extend(periods.iter().map(|period| TAU * coordinate / period));
            }
        }
        false => angles.extend(std::iter::repeat_n(0., 2 * quarter)),
    };
    let (rows, columns) = window.map_or((height, width), |side| (side, side));
    for top in (0..height).step_by(rows.max(1)) {
        for left in (0..width).step_by(columns.max(1)) {
            for y in top..top + rows {
                (left..left + columns).for_each(|x| push(y, x));
            }
        }
    }
    Rotary::new(&angles, 2 * quarter, before + rows * columns, device)
}
