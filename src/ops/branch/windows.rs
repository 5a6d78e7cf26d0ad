//! Rows of tokens in the order of their windows and back, for attention within windows.
//!
//! Only the projected queries, keys and values are put in order: norms and projections run over the tokens that exist.
//! The padding of the last windows holds the bias of the projection, which is the projection of zeros, because the
//! reference pads after the norm (detectron2 `modeling/backbone/utils.py`).

use crate::ops::gemm::Element;
use rayon::prelude::*;

/// Rows that a task copies.
const BLOCK: usize = 64;

/// The order of the tokens of a grid in its windows.
#[derive(Clone, Debug)]
pub(super) struct Windows {
    /// Token of every place of the windows, row by row; [`PADDING`] where there is none.
    tokens: Vec<u32>,
    /// Place of every token.
    places: Vec<u32>,
    /// Tokens of a window.
    pub(super) size: usize,
}

const PADDING: u32 = u32::MAX;

impl Windows {
    pub(super) fn new((height, width): (usize, usize), side: usize) -> Self {
        let (rows, columns) = (height.div_ceil(side), width.div_ceil(side));
        let mut places = vec![0; height * width];
        let tokens = (0..rows * columns * side * side).map(|place| {
            let (window, within) = (place / (side * side), place % (side * side));
            let y = window / columns * side + within / side;
            let x = window % columns * side + within % side;
            if y >= height || x >= width {
                return PADDING;
            }
            places[y * width + x] = place as u32;
            (y * width + x) as u32
        });
        Self { tokens: tokens.collect(), places, size: side * side }
    }

    /// Windows of a sample.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.tokens.len() / self.size
    }

    /// `rows` [B·N, width] -> [B·windows·size, width], with `padding` where there is no token.
    pub(super) fn partition<T: Copy + Default + Send + Sync>(&self, rows: &[T], padding: &[T]) -> Vec<T> {
        copied(rows, self.places.len(), &self.tokens, padding)
    }

    /// The inverse of [`Windows::partition`].
    pub(super) fn merge<T: Copy + Default + Send + Sync>(&self, rows: &[T], width: usize) -> Vec<T> {
        copied(rows, self.tokens.len(), &self.places, &vec![T::default(); width])
    }

    /// Adds the rows of the padding to `sums`.
    pub(super) fn add_padding<T: Element>(&self, rows: &[T], sums: &mut [f32]) {
        let places = self.tokens.iter().cycle();
        for (row, _) in rows.chunks_exact(sums.len()).zip(places).filter(|(_, token)| **token == PADDING) {
            sums.iter_mut().zip(row).for_each(|(sum, &x)| *sum += x.wide());
        }
    }
}

/// Row `order[i]` of each sample of `count` rows at place i, or `padding`.
fn copied<T: Copy + Default + Send + Sync>(rows: &[T], count: usize, order: &[u32], padding: &[T]) -> Vec<T> {
    let width = padding.len();
    let samples = rows.len() / (count * width).max(1);
    let mut out = vec![T::default(); samples * order.len() * width];
    out.par_chunks_mut(BLOCK * width).enumerate().for_each(|(block, out)| {
        for (i, out) in out.chunks_exact_mut(width).enumerate() {
            let (sample, place) = ((block * BLOCK + i) / order.len(), (block * BLOCK + i) % order.len());
            out.copy_from_slice(match order[place] {
                PADDING => padding,
                from => &rows[(sample * count + from as usize) * width..][..width],
            });
        }
    });
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::partition_windows;
    use candle_core::{Device, Tensor};

    #[test]
    fn order_and_padding_are_those_of_partition_windows() {
        for ((h, w), side) in [((4, 6), 2), ((5, 7), 3), ((2, 2), 4)] {
            let windows = Windows::new((h, w), side);
            let values: Vec<f32> = (1..=2 * h * w * 3).map(|i| i as f32).collect();
            let found = windows.partition(&values, &[0.; 3]);
            let x = Tensor::from_slice(&values, (2, h, w, 3), &Device::Cpu).unwrap();
            let expected = partition_windows(&x, side).unwrap();
            assert_eq!(found, expected.flatten_all().unwrap().to_vec1::<f32>().unwrap());
            assert_eq!(expected.dims(), [2 * windows.count(), windows.size, 3]);
            assert_eq!(windows.merge(&found, 3), values);
            let (mut sums, marked) = ([0f32; 3], windows.partition(&values, &[1., 2., 3.]));
            windows.add_padding(&marked, &mut sums);
            let padding = (2 * (windows.count() * side * side - h * w)) as f32;
            assert_eq!(sums, [padding, 2. * padding, 3. * padding]);
        }
    }
}
