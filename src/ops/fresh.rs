//! Memory for results that a kernel writes completely. Unlike `vec![0.; n]` it is not set to zero first, which one thread
//! would do while the others wait.

use super::gemm::{Element, Matrix, MatrixMut, Operand, Precision, Store, product_of};
use super::simd::{Kernel, vectorized};

/// `count` values, for a kernel that overwrites all of them: what they are is not specified. In tests they are NaN, so
/// that a kernel that leaves one out does not pass.
pub(super) fn to_overwrite<T: Element>(count: usize) -> Vec<T> {
    let mut values: Vec<T> = Vec::with_capacity(count);
    // SAFETY: the memory has room for `count` values, and `set_arbitrarily` has set them.
    unsafe {
        set_arbitrarily(values.as_mut_ptr(), count);
        values.set_len(count);
    }
    values
}

/// Sets `count` values from `first` to numbers that are not specified: where the compiler supports it, to those whose bits
/// the memory has.
///
/// # Safety
/// They can be written.
unsafe fn set_arbitrarily<T: Element>(first: *mut T, count: usize) {
    if cfg!(any(test, debug_assertions)) {
        // SAFETY: passed on to the caller; all bits 1 are NaN in both types of values.
        return unsafe { first.write_bytes(0xff, count) };
    }
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    // SAFETY: there are no instructions. The compiler takes them for some that may write any memory that the pointer leads
    // to, so that it can no longer assume that the values are not initialised; every bit pattern is a number.
    unsafe {
        std::arch::asm!("/* {0} */", in(reg) first, options(nostack, preserves_flags));
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    // SAFETY: passed on to the caller.
    unsafe {
        first.write_bytes(0, count);
    }
}

/// Values [`to_overwrite`] that tasks write part by part.
pub(super) struct Fresh<T> {
    values: Vec<T>,
    /// The first of the values, which nothing else reaches before [`Self::finish`].
    first: *mut T,
}

// SAFETY: the pointer is only reached through functions whose callers keep threads apart.
unsafe impl<T: Send> Sync for Fresh<T> {}

impl<T: Element> Fresh<T> {
    pub(super) fn new(length: usize) -> Self {
        let mut values = to_overwrite(length);
        let first = values.as_mut_ptr();
        Self { values, first }
    }

    /// `count` values from `start`.
    ///
    /// # Safety
    /// No two parts that share a value may be alive at once.
    #[allow(clippy::mut_from_ref)]
    pub(super) unsafe fn part(&self, start: usize, count: usize) -> &mut [T] {
        let length = self.values.len();
        assert!(start <= length && count <= length - start, "a part exceeds its values");
        // SAFETY: the part lies within the values, and the caller vouches that nothing else uses it.
        unsafe { std::slice::from_raw_parts_mut(self.first.add(start), count) }
    }

    /// Writes `rows` [.., width], rounded to `T`, to rows that begin at `start` and are `step` apart.
    ///
    /// # Safety
    /// No other thread accesses these values.
    pub(super) unsafe fn write_rows(&self, rows: &[f32], width: usize, start: usize, step: usize) {
        let count = rows.len() / width.max(1);
        let fits = count == 0 || start + (count - 1) * step + width <= self.values.len();
        assert!(fits && width <= step, "rows exceed their values");
        vectorized(WriteRows { rows, width, step, first: self.first.wrapping_add(start) });
    }

    /// The values.
    pub(super) fn finish(self) -> Vec<T> {
        self.values
    }
}

/// See [`Fresh::write_rows`], which checks that the rows lie within their values.
struct WriteRows<'a, T> {
    rows: &'a [f32],
    width: usize,
    step: usize,
    first: *mut T,
}

impl<T: Element> Kernel for WriteRows<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for (i, row) in self.rows.chunks_exact(self.width).enumerate() {
            // SAFETY: `write_rows` has checked the last row, and its caller vouches for the others.
            let places = unsafe { std::slice::from_raw_parts_mut(self.first.add(i * self.step), self.width) };
            for (place, &x) in places.iter_mut().zip(row) {
                *place = T::of(x);
            }
        }
    }
}

/// left · rightᵀ as new values, on all threads of the current pool.
pub(super) fn product<T: Element>(precision: Precision, left: &Matrix<T>, right: &Matrix<T>) -> Vec<f32> {
    let (rows, columns) = (left.lanes(), right.lanes());
    let mut values = to_overwrite(rows * columns);
    product_of(precision, &mut MatrixMut::new(&mut values, rows, columns, columns), Store::SET, left, right);
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_are_not_overwritten_are_seen_in_tests() {
        let values = to_overwrite::<f32>(1000);
        assert!(values.len() == 1000 && values.iter().all(|x| x.is_nan()));
        assert!(to_overwrite::<half::bf16>(1000).iter().all(|x| x.is_nan()));
        assert!(to_overwrite::<f32>(0).is_empty());
    }

    #[test]
    fn parts_and_rows_fill_the_list() {
        let fresh = Fresh::<f32>::new(14);
        // SAFETY: the parts are different, one thread writes them, and together they are the list.
        let values = unsafe {
            fresh.part(0, 2).copy_from_slice(&[1., 2.]);
            fresh.part(2, 2).fill(0.);
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
