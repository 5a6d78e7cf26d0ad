//! Matrix products on strided f32 matrices, so that transposes and head slices need no copies.
//!
//! The `gemm` crate adds up each element in an order that depends on the shapes and the processor,
//! not on the number of threads (tested here).

mod kernel;
mod packed;

use gemm::Parallelism;
pub(super) use packed::{Operand, Panels, Side, product_of};
use std::marker::PhantomData;

/// Runs on all threads of the current pool, where the product is large enough to gain.
pub(super) const PARALLEL: Parallelism = Parallelism::Rayon(0);

/// A matrix to read.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a> {
    values: &'a [f32],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// Rows of `columns` adjacent values, `row_stride` apart, the first at the start of `values`.
    pub(super) fn new(values: &'a [f32], rows: usize, columns: usize, row_stride: usize) -> Self {
        assert!(fits(values.len(), rows, columns, row_stride), "the matrix exceeds its values");
        Self { values, rows, columns, row_stride, column_stride: 1 }
    }

    pub(super) fn row_count(&self) -> usize {
        self.rows
    }

    /// `count` rows from `start`.
    pub(super) fn rows(self, start: usize, count: usize) -> Self {
        assert!(start + count <= self.rows, "rows of a matrix");
        Self { values: &self.values[start * self.row_stride..], rows: count, ..self }
    }

    pub(super) fn t(self) -> Self {
        Self {
            values: self.values,
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
        }
    }
}

/// A row-major matrix to write.
pub(super) struct MatrixMut<'a> {
    first: *mut f32,
    rows: usize,
    columns: usize,
    row_stride: usize,
    values: PhantomData<&'a mut [f32]>,
}

// SAFETY: it borrows its values mutably, as `&mut [f32]` does.
unsafe impl Send for MatrixMut<'_> {}

impl<'a> MatrixMut<'a> {
    /// As [`Matrix::new`].
    pub(super) fn new(values: &'a mut [f32], rows: usize, columns: usize, row_stride: usize) -> Self {
        assert!(fits(values.len(), rows, columns, row_stride), "the matrix exceeds its values");
        Self { first: values.as_mut_ptr(), rows, columns, row_stride, values: PhantomData }
    }

    fn fill(&mut self, value: f32) {
        for i in 0..self.rows {
            // SAFETY: the row lies within the values, which are borrowed mutably.
            unsafe { std::slice::from_raw_parts_mut(self.first.add(i * self.row_stride), self.columns) }
                .fill(value);
        }
    }
}

/// Values of which several threads write disjoint matrices.
pub(super) struct Shared<'a> {
    first: *mut f32,
    length: usize,
    values: PhantomData<&'a mut [f32]>,
}

// SAFETY: the pointer is only reached through `matrix`, whose callers keep threads apart.
unsafe impl Sync for Shared<'_> {}

impl<'a> Shared<'a> {
    pub(super) fn new(values: &'a mut [f32]) -> Self {
        Self { first: values.as_mut_ptr(), length: values.len(), values: PhantomData }
    }

    /// The values of a matrix, and those between its rows, which are not to be touched.
    fn of(matrix: &'a mut MatrixMut) -> Self {
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
    pub(super) unsafe fn matrix(
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

fn fits(length: usize, rows: usize, columns: usize, row_stride: usize) -> bool {
    columns <= row_stride.max(1) && (rows == 0 || (rows - 1) * row_stride + columns <= length)
}

/// destination = scale·(left · right), or added to it.
pub(super) fn product(
    destination: &mut MatrixMut,
    accumulate: bool,
    scale: f32,
    left: Matrix,
    right: Matrix,
    parallelism: Parallelism,
) {
    let (m, n, k) = (destination.rows, destination.columns, left.columns);
    assert!(left.rows == m && right.columns == n && right.rows == k, "shapes of a matrix product");
    // SAFETY: all three matrices lie within their values, which was asserted when they were made, and
    // the destination is borrowed mutably, so it does not overlap the others.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            destination.first,
            1,
            destination.row_stride as isize,
            accumulate,
            left.values.as_ptr(),
            left.column_stride as isize,
            left.row_stride as isize,
            right.values.as_ptr(),
            right.column_stride as isize,
            right.row_stride as isize,
            1.,
            scale,
            false,
            false,
            false,
            parallelism,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wave(count: usize, f: f32) -> Vec<f32> {
        (0..count).map(|i| (i as f32 * f).sin()).collect()
    }

    #[test]
    fn every_layout_gives_the_sum_of_products() {
        for (m, n, k) in [(1, 1, 1), (5, 3, 7), (1, 33, 20), (33, 1, 20), (17, 50, 64), (70, 70, 5)] {
            let (a, b) = (wave(m * (k + 2), 0.3), wave(n * (k + 1), 0.7));
            let (left, right) = (Matrix::new(&a, m, k, k + 2), Matrix::new(&b, n, k, k + 1).t());
            let mut found = vec![1f32; m * (n + 3)];
            product(&mut MatrixMut::new(&mut found, m, n, n + 3), true, 0.5, left, right, PARALLEL);
            for (i, row) in found.chunks(n + 3).enumerate() {
                for (j, &x) in row.iter().enumerate() {
                    let term = |l: usize| f64::from(a[i * (k + 2) + l]) * f64::from(b[j * (k + 1) + l]);
                    // Beyond the matrix nothing is written.
                    let expected = if j < n { 1. + 0.5 * (0..k).map(term).sum::<f64>() } else { 1. };
                    assert!((f64::from(x) - expected).abs() < 1e-5, "{m} {n} {k} at {i} {j}");
                }
            }
        }
    }

    #[test]
    fn the_bits_do_not_depend_on_the_number_of_threads() {
        for (m, n, k) in [(400, 384, 1536), (384, 1152, 400), (97, 1001, 130)] {
            let (a, b) = (wave(m * k, 0.3), wave(n * k, 0.7));
            let run = |threads: usize, transposed: bool| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let mut found = vec![0f32; m * n];
                let left = if transposed { Matrix::new(&a, k, m, m).t() } else { Matrix::new(&a, m, k, k) };
                let right = if transposed { Matrix::new(&b, k, n, n) } else { Matrix::new(&b, n, k, k).t() };
                pool.install(|| {
                    let mut destination = MatrixMut::new(&mut found, m, n, n);
                    product(&mut destination, false, 1., left, right, PARALLEL);
                });
                found
            };
            for transposed in [false, true] {
                let one = run(1, transposed);
                assert!([2, 3, 7].iter().all(|&threads| run(threads, transposed) == one), "{m} {n} {k}");
            }
        }
    }
}
