//! Strided matrices over slices, to read and to write.

use super::destination::fits;
use super::elements::Element;
use super::operand::Operand;
use super::pack::{Interleave, SideBySide, Transpose};
use crate::ops::simd::vectorized;
use std::ops::Range;

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

    /// `lanes` in parts of `width`, whose depths lie side by side.
    fn transposes(
        &self,
        lanes: Range<usize>,
        depth: &Range<usize>,
        width: usize,
    ) -> impl Iterator<Item = Transpose<'a, T>> {
        assert!(self.column_stride == 1, "one stride of a matrix is 1");
        lanes.clone().step_by(width).map(move |start| {
            let lanes = start..lanes.end.min(start + width);
            let values = self.from(&lanes, depth);
            Transpose { values, lanes: lanes.len(), step: self.row_stride, depth: depth.len(), width }
        })
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

    fn packs_panels(&self) -> bool {
        true
    }

    fn pack(&self, lanes: Range<usize>, depth: Range<usize>, width: usize, panels: &mut [f32]) {
        if self.row_stride == 1 {
            let (values, lanes, depth) = (self.from(&lanes, &depth), lanes.len(), depth.len());
            vectorized(SideBySide { values, lanes, step: self.column_stride, depth, width, panels });
        } else {
            let panels = panels.chunks_exact_mut(depth.len() * width);
            self.transposes(lanes, &depth, width).zip(panels).for_each(|(part, panel)| part.run(panel));
        }
    }

    fn pack_pairs(&self, lanes: Range<usize>, depth: Range<usize>, width: usize, panels: &mut [u32]) -> bool {
        if self.row_stride == 1 {
            let (values, lanes, depth) = (self.from(&lanes, &depth), lanes.len(), depth.len());
            vectorized(Interleave { values, lanes, step: self.column_stride, depth, width, panels });
        } else {
            let panels = panels.chunks_exact_mut(depth.len().div_ceil(2) * width);
            self.transposes(lanes, &depth, width).zip(panels).for_each(|(part, panel)| part.run_pairs(panel));
        }
        true
    }
}
