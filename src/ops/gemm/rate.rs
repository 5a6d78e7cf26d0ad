//! Rates of matrix products on this processor, for `bench doctor` and the benchmark of matrix products.

use super::destination::MatrixMut;
use super::elements::{Elements, Precision};
use super::kernel::{MicroKernel, Store};
use super::matrix::Matrix;
use super::panels::product_with;
use std::time::{Duration, Instant};

/// A way in which this processor can compute matrix products.
#[derive(Clone, Copy)]
pub struct ProductKernel(&'static MicroKernel);

impl ProductKernel {
    /// The one that products in this precision use.
    pub fn of(precision: Precision) -> Self {
        Self(MicroKernel::best(precision))
    }

    /// All that this processor has instructions for, the narrowest vectors first.
    pub fn all() -> Vec<Self> {
        MicroKernel::supported().into_iter().map(Self).collect()
    }

    /// The precision of the operands.
    pub fn precision(self) -> Precision {
        match self.0.elements {
            Elements::Single => Precision::F32,
            Elements::Rounded | Elements::Pairs => Precision::Bf16,
        }
    }

    /// Whether it multiplies with instructions for bf16. Other kernels for bf16 round operands and multiply in f32.
    pub fn multiplies_bf16(self) -> bool {
        self.0.elements == Elements::Pairs
    }

    /// The instructions that it uses.
    pub fn instructions(self) -> &'static str {
        self.0.instructions
    }

    /// GFLOP/s of one core when nothing but these instructions runs, on registers; `None` for the portable kernels.
    pub fn limit(self) -> Option<f64> {
        self.0.unit.map(|unit| unit.rate())
    }

    /// `destination` [m, n] = left · rightᵀ, of `left` [m, k] and `right` [n, k]; an operand that comes with `true` is
    /// stored transposed.
    ///
    /// # Panics
    /// When a slice is shorter than its matrix.
    pub fn multiply(
        self,
        (left, left_transposed): (&[f32], bool),
        (right, right_transposed): (&[f32], bool),
        destination: &mut [f32],
        [m, n, k]: [usize; 3],
    ) {
        let matrix = |values, transposed, lanes| match transposed {
            false => Matrix::new(values, lanes, k, k),
            true => Matrix::new(values, k, lanes, lanes).t(),
        };
        let (left, right) = (matrix(left, left_transposed, m), matrix(right, right_transposed, n));
        product_with(self.0, &mut MatrixMut::new(destination, m, n, n), Store::SET, &left, &right);
    }

    /// GFLOP/s of this thread in products of [400, 384] and [384, 1536]: the best of a tenth of a second.
    pub fn rate(self) -> f64 {
        const SHAPE: [usize; 3] = [400, 1536, 384];
        let [m, n, k] = SHAPE;
        let (left, right, mut destination) = (vec![0.5; m * k], vec![0.25; n * k], vec![0.; m * n]);
        let (start, mut best) = (Instant::now(), Duration::MAX);
        while start.elapsed() < Duration::from_millis(100) {
            let begin = Instant::now();
            self.multiply((&left, false), (&right, false), &mut destination, SHAPE);
            best = best.min(begin.elapsed());
        }
        2e-9 * (m * n * k) as f64 / best.as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transposed_operands_give_the_same_product() {
        let [m, n, k] = [3, 2, 2];
        for kernel in ProductKernel::all() {
            for (left, left_transposed) in
                [([1., 2., 3., 4., 5., 6.], false), ([1., 3., 5., 2., 4., 6.], true)]
            {
                for (right, right_transposed) in [([1., -1., 2., 0.5], false), ([1., 2., -1., 0.5], true)] {
                    let mut found = [0.; 6];
                    let operands = ((&left[..], left_transposed), (&right[..], right_transposed));
                    kernel.multiply(operands.0, operands.1, &mut found, [m, n, k]);
                    assert_eq!(found, [-1., 3., -1., 8., -1., 13.], "{}", kernel.instructions());
                }
            }
        }
    }

    #[test]
    fn a_precision_has_a_kernel_of_this_processor() {
        for precision in [Precision::F32, Precision::Bf16] {
            let kernel = ProductKernel::of(precision);
            assert_eq!(kernel.precision(), precision);
            assert!(ProductKernel::all().iter().any(|other| std::ptr::eq(other.0, kernel.0)));
        }
    }

    #[test]
    fn without_instructions_for_bf16_rounded_values_are_multiplied_in_f32() {
        use crate::ops::simd::{Instructions, restricted};
        let sizes @ [m, n, k] = [9, 30, 200];
        let wave = |count: usize, f: f32| (0..count).map(|i| (i as f32 * f).sin()).collect::<Vec<f32>>();
        let (left, right) = (wave(m * k, 0.3), wave(n * k, 0.7));
        let rounded = |x: &[f32]| x.iter().map(|&x| half::bf16::from_f32(x).to_f32()).collect::<Vec<_>>();
        let (rounded_left, rounded_right) = (rounded(&left), rounded(&right));
        for most in [Instructions::Portable, Instructions::Avx2] {
            let run = |precision, left: &[f32], right: &[f32]| {
                let mut found = vec![0.; m * n];
                let kernel = ProductKernel::of(precision);
                assert!(!kernel.multiplies_bf16());
                kernel.multiply((left, false), (right, false), &mut found, sizes);
                found
            };
            let (found, expected) = restricted(most, || {
                (run(Precision::Bf16, &left, &right), run(Precision::F32, &rounded_left, &rounded_right))
            });
            assert_eq!(found, expected, "{most:?}");
        }
    }
}
