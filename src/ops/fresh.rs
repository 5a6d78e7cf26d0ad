//! Memory for results that tasks write part by part. Unlike `vec![0.; n]` it is not set to zero first, which one thread
//! would do while the others wait.

use super::gemm::{Element, Matrix, MatrixMut, Operand, Precision, Store, product_of};
use super::simd::{Kernel, vectorized};
use std::mem::MaybeUninit;

/// A list of values, every one of which some task writes.
pub(super) struct Fresh<T> {
    /// Holds no values, but has room for `length`.
    values: Vec<T>,
    first: *mut MaybeUninit<T>,
    length: usize,
}

// SAFETY: the pointer is only reached through functions whose callers keep threads apart.
unsafe impl<T: Send> Sync for Fresh<T> {}

impl<T: Element> Fresh<T> {
    pub(super) fn new(length: usize) -> Self {
        let mut values = Vec::with_capacity(length);
        let first = values.spare_capacity_mut().as_mut_ptr();
        Self { values, first, length }
    }

    /// `count` values from `start`. They are zero: a task sets its own part to zero shortly before it writes it, while
    /// it is in its cache.
    ///
    /// # Safety
    /// No two parts that share a value may be alive at once.
    #[allow(clippy::mut_from_ref)]
    pub(super) unsafe fn part(&self, start: usize, count: usize) -> &mut [T] {
        assert!(start <= self.length && count <= self.length - start, "a part exceeds its values");
        // SAFETY: the part lies within the reserved memory, the caller vouches that nothing else uses it, and zero in
        // all bits is the number 0 of both types.
        unsafe {
            let first = self.first.add(start);
            first.write_bytes(0, count);
            std::slice::from_raw_parts_mut(first.cast(), count)
        }
    }

    /// Writes `rows` [.., width], rounded to `T`, to rows that begin at `start` and are `step` apart.
    ///
    /// # Safety
    /// No other thread accesses these values.
    pub(super) unsafe fn write_rows(&self, rows: &[f32], width: usize, start: usize, step: usize) {
        let count = rows.len() / width.max(1);
        let fits = count == 0 || start + (count - 1) * step + width <= self.length;
        assert!(fits && width <= step, "rows exceed their values");
        vectorized(WriteRows { rows, width, step, first: self.first.wrapping_add(start) });
    }

    /// The values.
    ///
    /// # Safety
    /// Each of them has been written.
    pub(super) unsafe fn finish(mut self) -> Vec<T> {
        // SAFETY: the memory is reserved, and the caller vouches for its values.
        unsafe { self.values.set_len(self.length) };
        self.values
    }
}

/// See [`Fresh::write_rows`], which checks that the rows lie within their values.
struct WriteRows<'a, T> {
    rows: &'a [f32],
    width: usize,
    step: usize,
    first: *mut MaybeUninit<T>,
}

impl<T: Element> Kernel for WriteRows<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for (i, row) in self.rows.chunks_exact(self.width).enumerate() {
            // SAFETY: `write_rows` has checked the last row, and its caller vouches for the others.
            let places = unsafe { std::slice::from_raw_parts_mut(self.first.add(i * self.step), self.width) };
            for (place, &x) in places.iter_mut().zip(row) {
                place.write(T::of(x));
            }
        }
    }
}

/// left · rightᵀ as new values, on all threads of the current pool.
pub(super) fn product<T: Element>(precision: Precision, left: &Matrix<T>, right: &Matrix<T>) -> Vec<f32> {
    let (rows, columns) = (left.lanes(), right.lanes());
    let mut values = Vec::with_capacity(rows * columns);
    let places = &mut values.spare_capacity_mut()[..rows * columns];
    let mut destination = MatrixMut::unwritten(places, rows, columns);
    product_of(precision, &mut destination, Store::SET, left, right);
    // SAFETY: a product that does not accumulate writes every value of its destination.
    unsafe { values.set_len(rows * columns) };
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_and_rows_fill_the_list() {
        let fresh = Fresh::<f32>::new(14);
        // SAFETY: the parts are different, one thread writes them, and together they are the list.
        let values = unsafe {
            fresh.part(0, 2).copy_from_slice(&[1., 2.]);
            assert_eq!(fresh.part(2, 2), [0.; 2]);
            fresh.write_rows(&[3., 4., 7., 8.], 2, 4, 4);
            fresh.write_rows(&[5., 6., 9., 10.], 2, 6, 4);
            fresh.write_rows(&[11., 12.], 1, 12, 1);
            fresh.write_rows(&[], 3, 14, 3);
            fresh.finish()
        };
        assert_eq!(values, [1., 2., 0., 0., 3., 4., 5., 6., 7., 8., 9., 10., 11., 12.]);
    }

    #[test]
    #[should_panic(expected = "rows exceed their values")]
    fn rows_beyond_the_end_are_refused() {
        // SAFETY: one thread.
        unsafe { Fresh::<f32>::new(5).write_rows(&[0.; 4], 2, 0, 4) };
    }

    #[test]
    fn a_product_of_no_depth_is_zero() {
        let empty = Matrix::new(&[0f32; 0], 3, 0, 0);
        assert_eq!(product(Precision::F32, &empty, &empty), [0.; 9]);
    }
}
