//! A limit that benchmarks print beside their times: the arithmetic that this machine can do, as measured here with all
//! threads.

use crate::copies::{RUNS, fastest};
use rayon::prelude::*;

/// Floating-point operations a second of all threads, where nothing but registers is used.
#[derive(Clone, Copy, Debug)]
pub struct Rates {
    /// f32: a fused multiply-add counts as two.
    pub f32: f64,
    /// Products of bf16 that are added to f32; the rate of f32 where the processor has no such instruction.
    pub bf16: f64,
}

/// Steps of a loop, and independent sums in each: enough to hide the latency of an addition.
const STEPS: usize = 1 << 16;
const SUMS: usize = 12;

impl Rates {
    pub fn measure() -> Self {
        let threads = rayon::current_num_threads();
        let rate = |operations: usize, run: fn()| {
            let all = || (0..threads).into_par_iter().for_each(|_| run());
            (threads * STEPS * SUMS * operations) as f64 / fastest(RUNS, all).as_secs_f64()
        };
        let (operations, run) = multiply_adds();
        let f32 = rate(operations, run);
        let bf16 = pairs().map_or(f32, |(operations, run)| rate(operations, run));
        Self { f32, bf16 }
    }
}

/// A loop of f32 multiply-adds, and the operations of one of its instructions.
fn multiply_adds() -> (usize, fn()) {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor has the instructions.
            return (32, (|| unsafe { x86::avx512() }) as fn());
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: the processor has the instructions.
            return (16, (|| unsafe { x86::avx2() }) as fn());
        }
    }
    fn portable() {
        let mut sums = [[0f32; 4]; SUMS];
        let (a, b) = std::hint::black_box(([1f32; 4], [1e-3f32; 4]));
        for _ in 0..STEPS {
            for sum in &mut sums {
                for (sum, (a, b)) in sum.iter_mut().zip(a.iter().zip(&b)) {
                    *sum += a * b;
                }
            }
        }
        std::hint::black_box(sums);
    }
    (8, portable)
}

/// A loop of products of pairs of bf16, where the processor has the instruction.
fn pairs() -> Option<(usize, fn())> {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bf16") {
        // SAFETY: the processor has the instructions.
        return Some((64, (|| unsafe { x86::avx512_bf16() }) as fn()));
    }
    None
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{STEPS, SUMS};
    use std::arch::x86_64::*;
    use std::hint::black_box;

    #[target_feature(enable = "avx512f")]
    pub fn avx512() {
        let (a, b) = black_box((_mm512_set1_ps(1.), _mm512_set1_ps(1e-3)));
        let mut sums = [_mm512_setzero_ps(); SUMS];
        for _ in 0..STEPS {
            for sum in &mut sums {
                *sum = _mm512_fmadd_ps(a, b, *sum);
            }
        }
        black_box(sums);
    }

    #[target_feature(enable = "avx2,fma")]
    pub fn avx2() {
        let (a, b) = black_box((_mm256_set1_ps(1.), _mm256_set1_ps(1e-3)));
        let mut sums = [_mm256_setzero_ps(); SUMS];
        for _ in 0..STEPS {
            for sum in &mut sums {
                *sum = _mm256_fmadd_ps(a, b, *sum);
            }
        }
        black_box(sums);
    }

    #[target_feature(enable = "avx512f,avx512bf16")]
    pub fn avx512_bf16() {
        let (a, b) = (_mm512_set1_ps(1.), _mm512_set1_ps(1e-3));
        let (a, b) = black_box((_mm512_cvtne2ps_pbh(a, a), _mm512_cvtne2ps_pbh(b, b)));
        let mut sums = [_mm512_setzero_ps(); SUMS];
        for _ in 0..STEPS {
            for sum in &mut sums {
                *sum = _mm512_dpbf16_ps(*sum, a, b);
            }
        }
        black_box(sums);
    }
}
