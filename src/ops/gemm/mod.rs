//! Matrix products on strided f32 matrices, so that transposes and head slices need no copies.
//!
//! The `gemm` crate adds up each element in an order that depends on the shapes and the processor,
//! not on the number of threads (tested here).

mod elements;
mod kernel;
mod matrix;
mod panels;

use elements::Elements;
pub use elements::Precision;
pub(super) use elements::{ToBf16, rounded};
use gemm::Parallelism;
pub(super) use matrix::{Matrix, MatrixMut, Shared};
pub(super) use panels::{Operand, Panels, Scratch, Side, product_of};

/// Runs on all threads of the current pool, where the product is large enough to gain.
pub(super) const PARALLEL: Parallelism = Parallelism::Rayon(0);

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
