//! The inner loop of a matrix product: one tile of the destination in registers.

use super::elements::{Elements, Precision};
use crate::ops::simd::Instructions;

/// A tile of the destination that stays in registers during the loop over the depth.
pub(super) struct MicroKernel {
    /// Rows of a tile: lanes of a panel of the left operand.
    pub rows: usize,
    /// Columns of a tile: lanes of a panel of the right operand.
    pub columns: usize,
    /// Element type of its panels.
    pub elements: Elements,
    run: unsafe fn(&Tile),
}

/// How products are stored: destination = scale·products, or added to it.
#[derive(Clone, Copy)]
pub(in crate::ops) struct Store {
    pub accumulate: bool,
    pub scale: f32,
}

impl Store {
    /// Overwrites the destination.
    pub const SET: Self = Self { accumulate: false, scale: 1. };
    /// Adds to the destination.
    pub const ADD: Self = Self { accumulate: true, scale: 1. };

    /// [`Self::ADD`] or [`Self::SET`].
    pub fn adding(accumulate: bool) -> Self {
        Self { accumulate, scale: 1. }
    }

    pub fn scaled(self, scale: f32) -> Self {
        Self { scale, ..self }
    }
}

/// One call of a kernel.
struct Tile {
    /// Words of a lane: one value each, or two of half the width.
    depth: usize,
    /// [depth, rows]
    left: *const u32,
    /// [depth, columns]
    right: *const u32,
    destination: *mut f32,
    /// Values from one row of the destination to the next.
    stride: usize,
    /// Number of valid rows and columns of the destination, at least one each.
    valid: (usize, usize),
    store: Store,
}

static PORTABLE: [MicroKernel; 2] = [
    MicroKernel { rows: 4, columns: 16, elements: Elements::Single, run: portable },
    MicroKernel { rows: 4, columns: 16, elements: Elements::Rounded, run: portable },
];
#[cfg(target_arch = "x86_64")]
static AVX2: [MicroKernel; 2] = [
    MicroKernel { rows: 4, columns: 24, elements: Elements::Single, run: avx2 },
    MicroKernel { rows: 4, columns: 24, elements: Elements::Rounded, run: avx2 },
];
#[cfg(target_arch = "x86_64")]
static AVX512: [MicroKernel; 2] = [
    MicroKernel { rows: 8, columns: 48, elements: Elements::Single, run: avx512 },
    MicroKernel { rows: 8, columns: 48, elements: Elements::Rounded, run: avx512 },
];
#[cfg(target_arch = "x86_64")]
static AVX512_BF16: MicroKernel =
    MicroKernel { rows: 8, columns: 48, elements: Elements::Pairs, run: avx512_bf16 };

impl MicroKernel {
    /// The fastest kernel on this processor.
    pub(super) fn best(precision: Precision) -> &'static Self {
        let rounds = usize::from(precision == Precision::Bf16);
        #[cfg(target_arch = "x86_64")]
        {
            if Instructions::Avx512.allowed() && is_x86_feature_detected!("avx512f") {
                let pairs = rounds == 1 && is_x86_feature_detected!("avx512bf16");
                return if pairs { &AVX512_BF16 } else { &AVX512[rounds] };
            }
            let fma = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            if Instructions::Avx2.allowed() && fma {
                return &AVX2[rounds];
            }
        }
        &PORTABLE[rounds]
    }

    /// All kernels that run on this processor.
    #[cfg(test)]
    pub(super) fn supported() -> Vec<&'static Self> {
        let mut found: Vec<&'static Self> = PORTABLE.iter().collect();
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                found.extend(&AVX2);
            }
            if is_x86_feature_detected!("avx512f") {
                found.extend(&AVX512);
            }
            if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bf16") {
                found.push(&AVX512_BF16);
            }
        }
        found
    }

    /// Multiplies the panels `left` [depth, rows] and `right` [depth, columns] into the `valid` (rows, columns) at
    /// `destination`, whose rows are `stride` apart.
    ///
    /// # Safety
    /// `destination` is valid for reads and writes of those rows and columns, and nothing else reads or writes them.
    pub(super) unsafe fn tile(
        &self,
        left: &[u32],
        right: &[u32],
        destination: *mut f32,
        stride: usize,
        valid: (usize, usize),
        store: Store,
    ) {
        let depth = left.len() / self.rows;
        assert!(right.len() >= depth * self.columns, "panels of one depth");
        let (left, right) = (left.as_ptr(), right.as_ptr());
        // SAFETY: the panels hold `depth` words a lane, the caller vouches for the destination, and `best` and
        // `supported` have seen that the processor has the instructions.
        unsafe { (self.run)(&Tile { depth, left, right, destination, stride, valid, store }) };
    }
}

impl Tile {
    /// Stores `sums`, of which only the valid part exists in the destination.
    ///
    /// # Safety
    /// See [`MicroKernel::tile`].
    #[inline(always)]
    unsafe fn keep<const COLUMNS: usize>(&self, sums: &[[f32; COLUMNS]]) {
        for (i, sums) in sums.iter().take(self.valid.0).enumerate() {
            // SAFETY: the caller vouches for the valid rows and columns.
            let row = unsafe {
                std::slice::from_raw_parts_mut(self.destination.add(i * self.stride), self.valid.1)
            };
            for (place, &sum) in row.iter_mut().zip(sums) {
                *place = self.store.scale * sum + if self.store.accumulate { *place } else { 0. };
            }
        }
    }
}

/// # Safety
/// The panels are valid for `depth` words a lane, the destination for its valid part.
unsafe fn portable(tile: &Tile) {
    // SAFETY: the caller vouches for the lengths; every bit pattern is a number.
    let (left, right) = unsafe {
        (
            std::slice::from_raw_parts(tile.left.cast::<[f32; 4]>(), tile.depth),
            std::slice::from_raw_parts(tile.right.cast::<[f32; 16]>(), tile.depth),
        )
    };
    let mut sums = [[0f32; 16]; 4];
    for (a, b) in left.iter().zip(right) {
        for (sums, &a) in sums.iter_mut().zip(a) {
            for (sum, &b) in sums.iter_mut().zip(b) {
                *sum += a * b;
            }
        }
    }
    // SAFETY: passed on to the caller.
    unsafe { tile.keep(&sums) };
}

/// Same safety as [`portable`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2(tile: &Tile) {
    use std::arch::x86_64::*;
    let (mut left, mut right) = (tile.left.cast::<f32>(), tile.right.cast::<f32>());
    let mut sums = [[_mm256_setzero_ps(); 3]; 4];
    for _ in 0..tile.depth {
        // SAFETY: the caller vouches for `depth` words a lane.
        unsafe {
            let mut columns = [_mm256_setzero_ps(); 3];
            for (j, column) in columns.iter_mut().enumerate() {
                *column = _mm256_loadu_ps(right.add(j * 8));
            }
            for (i, sums) in sums.iter_mut().enumerate() {
                let row = _mm256_set1_ps(*left.add(i));
                for (sum, &column) in sums.iter_mut().zip(&columns) {
                    *sum = _mm256_fmadd_ps(row, column, *sum);
                }
            }
            left = left.add(4);
            right = right.add(24);
        }
    }
    // SAFETY: 3 vectors of 8 values are 24 values; the rest is passed on to the caller.
    unsafe { tile.keep(&std::mem::transmute::<[[__m256; 3]; 4], [[f32; 24]; 4]>(sums)) };
}

/// A kernel of 8 rows and up to 3 vectors of 16 columns; vectors without a valid column are left out. Same safety as
/// [`portable`].
#[cfg(target_arch = "x86_64")]
macro_rules! avx512_kernel {
    ($name:ident, $features:literal, $multiply:expr) => {
        #[target_feature(enable = $features)]
        unsafe fn $name(tile: &Tile) {
            use std::arch::x86_64::*;

            #[inline]
            #[target_feature(enable = $features)]
            unsafe fn vectors<const V: usize>(tile: &Tile) {
                let (mut left, mut right) = (tile.left.cast::<f32>(), tile.right.cast::<f32>());
                let mut sums = [[_mm512_setzero_ps(); V]; 8];
                for _ in 0..tile.depth {
                    // SAFETY: the caller vouches for `depth` words a lane.
                    unsafe {
                        let mut columns = [_mm512_setzero_ps(); V];
                        for (j, column) in columns.iter_mut().enumerate() {
                            *column = _mm512_loadu_ps(right.add(j * 16));
                        }
                        for (i, sums) in sums.iter_mut().enumerate() {
                            let row = _mm512_set1_ps(*left.add(i));
                            for (sum, &column) in sums.iter_mut().zip(&columns) {
                                *sum = ($multiply)(row, column, *sum);
                            }
                        }
                        left = left.add(8);
                        right = right.add(48);
                    }
                }
                let scale = _mm512_set1_ps(tile.store.scale);
                let last = u16::MAX >> (16 * V - tile.valid.1);
                for (i, sums) in sums.iter().take(tile.valid.0).enumerate() {
                    for (j, &sum) in sums.iter().enumerate() {
                        let mask = if j + 1 < V { u16::MAX } else { last };
                        // SAFETY: the caller vouches for the valid rows, and the mask leaves out other columns.
                        unsafe {
                            let place = tile.destination.add(i * tile.stride + j * 16);
                            let product = _mm512_mul_ps(scale, sum);
                            let value = match tile.store.accumulate {
                                true => _mm512_add_ps(_mm512_maskz_loadu_ps(mask, place), product),
                                false => product,
                            };
                            _mm512_mask_storeu_ps(place, mask, value);
                        }
                    }
                }
            }

            // SAFETY: passed on to the caller.
            unsafe {
                match tile.valid.1.div_ceil(16) {
                    1 => vectors::<1>(tile),
                    2 => vectors::<2>(tile),
                    _ => vectors::<3>(tile),
                }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
avx512_kernel!(avx512, "avx512f", |row, column, sum| _mm512_fmadd_ps(row, column, sum));
// Two products a lane and step: vdpbf16ps.
#[cfg(target_arch = "x86_64")]
avx512_kernel!(avx512_bf16, "avx512f,avx512bf16", |row, column, sum| _mm512_dpbf16_ps(
    sum,
    std::mem::transmute::<__m512, __m512bh>(row),
    std::mem::transmute::<__m512, __m512bh>(column)
));
