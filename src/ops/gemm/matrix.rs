//! Strided matrices over slices, to read and to write.

use super::destination::fits;
use super::elements::{Precision, rounded};
use super::panels::{BLOCK, Operand};
use crate::ops::simd::{Kernel, vectorized};
use half::bf16;
use std::ops::Range;

/// A value of a matrix to read.
pub(in crate::ops) trait Element: Copy + Default + Send + Sync + 'static {
    /// The precision of products of such values.
    const PRECISION: Precision;
    fn wide(self) -> f32;
    /// The nearest value.
    fn of(x: f32) -> Self;
    /// The bits of the nearest bf16.
    fn narrow(self) -> u32;
}

impl Element for f32 {
    const PRECISION: Precision = Precision::F32;

    #[inline(always)]
    fn wide(self) -> f32 {
        self
    }

    #[inline(always)]
    fn of(x: f32) -> Self {
        x
    }

    #[inline(always)]
    fn narrow(self) -> u32 {
        rounded(self)
    }
}

impl Element for bf16 {
    const PRECISION: Precision = Precision::Bf16;

    #[inline(always)]
    fn wide(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    #[inline(always)]
    fn of(x: f32) -> Self {
        Self::from_bits(rounded(x) as u16)
    }

    #[inline(always)]
    fn narrow(self) -> u32 {
        self.to_bits().into()
    }
}

/// A matrix to read.
#[derive(Clone, Copy)]
pub(in crate::ops) struct Matrix<'a, T = f32> {
    pub(super) values: &'a [T],
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) row_stride: usize,
    pub(super) column_stride: usize,
}

impl<'a, T: Element> Matrix<'a, T> {
    /// Rows of `columns` adjacent values, `row_stride` apart, the first at the start of `values`.
    pub(in crate::ops) fn new(values: &'a [T], rows: usize, columns: usize, row_stride: usize) -> Self {
        assert!(fits(values.len(), rows, columns, row_stride), "the matrix exceeds its values");
        Self { values, rows, columns, row_stride, column_stride: 1 }
    }

    /// `count` rows from `start`.
    pub(in crate::ops) fn rows(self, start: usize, count: usize) -> Self {
        assert!(start + count <= self.rows, "rows of a matrix");
        Self { values: &self.values[start * self.row_stride..], rows: count, ..self }
    }

    pub(in crate::ops) fn t(self) -> Self {
        Self {
            values: self.values,
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
        }
    }

    #[cfg(test)]
    pub(super) fn at(&self, row: usize, column: usize) -> T {
        self.values[row * self.row_stride + column * self.column_stride]
    }

    /// Values from the first of `lanes` at the first of `depth` on.
    fn from(&self, lanes: &Range<usize>, depth: &Range<usize>) -> &'a [T] {
        &self.values[lanes.start * self.row_stride + depth.start * self.column_stride..]
    }
}

/// The rows of a matrix.
impl<T: Element> Operand for Matrix<'_, T> {
    fn lanes(&self) -> usize {
        self.rows
    }

    fn depth(&self) -> usize {
        self.columns
    }

    fn pack(&self, lanes: Range<usize>, depth: Range<usize>, width: usize, panel: &mut [f32]) {
        let (values, lanes, depth) = (self.from(&lanes, &depth), lanes.len(), depth.len());
        if self.row_stride == 1 {
            vectorized(SideBySide { values, lanes, step: self.column_stride, width, panel });
        } else {
            assert!(self.column_stride == 1, "one stride of a matrix is 1");
            vectorized(Transpose { values, lanes, step: self.row_stride, depth, width, panel });
        }
    }

    fn pack_pairs(&self, lanes: Range<usize>, depth: Range<usize>, width: usize, panel: &mut [u32]) -> bool {
        let (values, lanes, depth) = (self.from(&lanes, &depth), lanes.len(), depth.len());
        #[cfg(target_arch = "x86_64")]
        if super::pairs::available() {
            let step = if self.row_stride == 1 { self.column_stride } else { self.row_stride };
            let lines = super::pairs::Lanes { values, lanes, step, depth, width, panel };
            // SAFETY: the instructions are available.
            unsafe { if self.row_stride == 1 { lines.interleave() } else { lines.transpose() } };
            return true;
        }
        if self.row_stride == 1 {
            vectorized(Interleave { values, lanes, step: self.column_stride, depth, width, panel });
        } else {
            vectorized(TransposePairs { values, lanes, step: self.row_stride, depth, width, panel });
        }
        true
    }
}

/// Two values in a word, the first in the low half.
#[inline(always)]
fn pair<T: Element>(low: T, high: T) -> u32 {
    low.narrow() | (high.narrow() << 16)
}

/// Lanes that lie side by side, `step` from one depth to the next.
struct SideBySide<'a, T> {
    values: &'a [T],
    lanes: usize,
    step: usize,
    width: usize,
    panel: &'a mut [f32],
}

impl<T: Element> Kernel for SideBySide<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for (k, line) in self.panel.chunks_exact_mut(self.width).enumerate() {
            let lanes = &self.values[k * self.step..][..self.lanes];
            line.iter_mut().zip(lanes).for_each(|(to, x)| *to = x.wide());
        }
    }
}

/// Like [`SideBySide`], but two depths at a time; the last one of an odd number with zeros.
struct Interleave<'a, T> {
    values: &'a [T],
    lanes: usize,
    step: usize,
    depth: usize,
    width: usize,
    panel: &'a mut [u32],
}

impl<T: Element> Kernel for Interleave<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for (k, line) in self.panel.chunks_exact_mut(self.width).enumerate() {
            let low = &self.values[2 * k * self.step..][..self.lanes];
            if 2 * k + 1 == self.depth {
                line.iter_mut().zip(low).for_each(|(to, &low)| *to = low.narrow());
                break;
            }
            let high = &self.values[(2 * k + 1) * self.step..][..self.lanes];
            line.iter_mut().zip(low.iter().zip(high)).for_each(|(to, (&low, &high))| *to = pair(low, high));
        }
    }
}

/// Lanes `step` apart whose depths lie side by side.
struct Transpose<'a, T> {
    values: &'a [T],
    lanes: usize,
    step: usize,
    depth: usize,
    width: usize,
    panel: &'a mut [f32],
}

impl<T: Element> Kernel for Transpose<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { values, lanes, step, depth, width, panel } = self;
        let group = |first: usize| group(values, first, lanes, step, depth);
        for first in (0..lanes).step_by(SIDE) {
            transpose(group(first), lanes - first, depth, width, &mut panel[first..], |lane, k| {
                lane[k].wide()
            });
        }
    }
}

/// Like [`Transpose`], but two depths at a time; the last one of an odd number with zeros.
struct TransposePairs<'a, T> {
    values: &'a [T],
    lanes: usize,
    step: usize,
    depth: usize,
    width: usize,
    panel: &'a mut [u32],
}

impl<T: Element> Kernel for TransposePairs<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { values, lanes, step, depth, width, panel } = self;
        // Rounding values while they are adjacent takes fewer instructions than rounding them afterwards.
        let mut rounded = [[0u16; BLOCK]; SIDE];
        for first in (0..lanes).step_by(SIDE) {
            let group = group(values, first, lanes, step, depth);
            for (to, lane) in rounded.iter_mut().zip(group) {
                to[depth.min(BLOCK - 1)] = 0;
                to.iter_mut().zip(lane).for_each(|(to, x)| *to = x.narrow() as u16);
            }
            let pairs = rounded.each_ref().map(|lane| &lane[..depth.next_multiple_of(2)]);
            let word = |lane: &[u16], k: usize| u32::from(lane[2 * k]) | (u32::from(lane[2 * k + 1]) << 16);
            transpose(pairs, lanes - first, depth.div_ceil(2), width, &mut panel[first..], word);
        }
    }
}

/// Lanes that are transposed together.
const SIDE: usize = 8;

/// The depths of the lanes from `first` on; the last lane stands for those that do not exist.
#[inline(always)]
fn group<T>(values: &[T], first: usize, lanes: usize, step: usize, depth: usize) -> [&[T]; SIDE] {
    std::array::from_fn(|i| &values[(first + i).min(lanes - 1) * step..][..depth])
}

/// Writes the words that `word` makes of `lanes`, of which the first `count` exist, to a column of each line of a
/// panel.
#[inline(always)]
fn transpose<T, W: Copy + Default>(
    lanes: [&[T]; SIDE],
    count: usize,
    words: usize,
    width: usize,
    panel: &mut [W],
    word: impl Fn(&[T], usize) -> W,
) {
    let count = count.min(SIDE);
    let whole = if count == SIDE { words - words % SIDE } else { 0 };
    let each = lanes[0].len().checked_div(words).unwrap_or(1);
    for start in (0..whole).step_by(SIDE) {
        // One square at a time, which the compiler turns into shuffles.
        let mut square = [[W::default(); SIDE]; SIDE];
        for (i, lane) in lanes.iter().enumerate() {
            let lane = &lane[each * start..each * (start + SIDE)];
            for (k, line) in square.iter_mut().enumerate() {
                line[i] = word(lane, k);
            }
        }
        for (k, line) in square.iter().enumerate() {
            panel[(start + k) * width..][..SIDE].copy_from_slice(line);
        }
    }
    for k in whole..words {
        for (to, lane) in panel[k * width..].iter_mut().zip(lanes).take(count) {
            *to = word(lane, k);
        }
    }
}
