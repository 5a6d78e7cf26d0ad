//! Destinations of matrix products: matrices, and values that tasks share.

use std::marker::PhantomData;

/// A row-major matrix to write.
pub(in crate::ops) struct MatrixMut<'a> {
    pub(super) first: *mut f32,
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) row_stride: usize,
    values: PhantomData<&'a mut [f32]>,
}

// SAFETY: it borrows its values mutably, as `&mut [f32]` does.
unsafe impl Send for MatrixMut<'_> {}

impl<'a> MatrixMut<'a> {
    /// See [`Matrix::new`].
    pub(in crate::ops) fn new(values: &'a mut [f32], rows: usize, columns: usize, row_stride: usize) -> Self {
        assert!(fits(values.len(), rows, columns, row_stride), "the matrix exceeds its values");
        Self { first: values.as_mut_ptr(), rows, columns, row_stride, values: PhantomData }
    }

    pub(in crate::ops) fn row(&mut self, i: usize) -> &mut [f32] {
        assert!(i < self.rows, "rows of a matrix");
        // SAFETY: the row lies within the values, which are borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.first.add(i * self.row_stride), self.columns) }
    }

    pub(super) fn fill(&mut self, value: f32) {
        (0..self.rows).for_each(|i| self.row(i).fill(value));
    }
}

/// Values that several threads write in disjoint parts.
pub(in crate::ops) struct Shared<'a, T = f32> {
    first: *mut T,
    length: usize,
    values: PhantomData<&'a mut [T]>,
}

// SAFETY: the pointer is only reached through functions whose callers keep threads apart.
unsafe impl<T: Send> Sync for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    pub(in crate::ops) fn new(values: &'a mut [T]) -> Self {
        Self { first: values.as_mut_ptr(), length: values.len(), values: PhantomData }
    }

    /// `count` values from `start`.
    ///
    /// # Safety
    /// No two parts that share a value may be alive at once.
    #[allow(clippy::mut_from_ref)]
    pub(in crate::ops) unsafe fn part(&self, start: usize, count: usize) -> &mut [T] {
        assert!(start <= self.length && count <= self.length - start, "a part exceeds its values");
        // SAFETY: it lies within the values, and the caller vouches that nothing else uses it.
        unsafe { std::slice::from_raw_parts_mut(self.first.add(start), count) }
    }
}

impl<'a> Shared<'a> {
    /// The values of a matrix, and those between its rows, which must not be accessed.
    pub(super) fn of(matrix: &'a mut MatrixMut) -> Self {
        let length = match matrix.rows {
            0 => 0,
            rows => (rows - 1) * matrix.row_stride + matrix.columns,
        };
        Self { first: matrix.first, length, values: PhantomData }
    }

    /// The matrix whose first value is at `start`.
    ///
    /// # Safety
    /// No two matrices that share a value may be alive at once.
    pub(in crate::ops) unsafe fn matrix(
        &self,
        start: usize,
        rows: usize,
        columns: usize,
        row_stride: usize,
    ) -> MatrixMut<'_> {
        let rest = self.length.checked_sub(start);
        assert!(
            rest.is_some_and(|rest| fits(rest, rows, columns, row_stride)),
            "the matrix exceeds its values"
        );
        // SAFETY: `start` is not beyond the end.
        let first = unsafe { self.first.add(start) };
        MatrixMut { first, rows, columns, row_stride, values: PhantomData }
    }
}

pub(super) fn fits(length: usize, rows: usize, columns: usize, row_stride: usize) -> bool {
    columns <= row_stride.max(1) && (rows == 0 || (rows - 1) * row_stride + columns <= length)
}
