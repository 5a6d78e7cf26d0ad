//! The inner loop of a matrix product: one tile of the destination in registers.

use super::elements::{Elements, Precision};
#[cfg(target_arch = "x86_64")]
use super::units;
use super::units::Unit;
use crate::ops::simd::Instructions;
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{__m256, __m512};

/// A tile of the destination that stays in registers during the loop over the depth.
#[derive(Clone, Copy)]
pub(super) struct MicroKernel {
    /// Rows of a tile: lanes of a panel of the left operand.
    pub rows: usize,
    /// Columns of a tile: lanes of a panel of the right operand.
    pub columns: usize,
    /// Element type of its panels.
    pub elements: Elements,
    run: unsafe fn(&Tile),
    /// The instructions that it multiplies with.
    pub instructions: &'static str,
    /// Their rate.
    pub unit: Option<&'static Unit>,
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
    /// What a later tile reads, to be fetched into the level-2 cache: 64 bytes for each round of the inner loop.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
    ahead: *const u32,
    /// Number of valid rows and columns of the destination, at least one each.
    valid: (usize, usize),
    store: Store,
}

/// The kernels of an instruction set for f32: of f32 as they are, and of those rounded to bf16.
const fn kernels(
    (rows, columns): (usize, usize),
    run: unsafe fn(&Tile),
    instructions: &'static str,
    unit: Option<&'static Unit>,
) -> [MicroKernel; 2] {
    let single = MicroKernel { rows, columns, elements: Elements::Single, run, instructions, unit };
    [single, MicroKernel { elements: Elements::Rounded, ..single }]
}

static PORTABLE: [MicroKernel; 2] = kernels((4, 16), portable, "baseline instructions", None);
#[cfg(target_arch = "x86_64")]
static AVX2: [MicroKernel; 2] = kernels((4, 24), avx2, "AVX2", Some(&units::AVX2));
#[cfg(target_arch = "x86_64")]
static AVX512: [MicroKernel; 2] = kernels((8, 48), avx512, "AVX-512", Some(&units::AVX512));
#[cfg(target_arch = "x86_64")]
static AVX512_BF16: MicroKernel = MicroKernel {
    rows: 8,
    columns: 48,
    elements: Elements::Pairs,
    run: avx512_bf16,
    instructions: "AVX512-BF16",
    unit: Some(&units::AVX512_BF16),
};

impl MicroKernel {
    /// The fastest kernel on this processor.
    pub(super) fn best(precision: Precision) -> &'static Self {
        let rounds = usize::from(precision == Precision::Bf16);
        #[cfg(target_arch = "x86_64")]
        {
            if Instructions::Avx512.allowed() && is_x86_feature_detected!("avx512f") {
                let pairs = rounds == 1 && is_x86_feature_detected!("avx512bf16") && units::pairs_pay();
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
    /// `destination`, whose rows are `stride` apart. What lies at `ahead`, of any length, is read soon.
    ///
    /// # Safety
    /// `destination` is valid for reads and writes of those rows and columns, and nothing else reads or writes them.
    pub(super) unsafe fn tile(
        &self,
        (left, right): (&[u32], &[u32]),
        ahead: *const u32,
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
        unsafe { (self.run)(&Tile { depth, left, right, destination, stride, ahead, valid, store }) };
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

/// Steps of the depth in a round of the inner loop.
#[cfg(target_arch = "x86_64")]
const UNROLLED: usize = 4;

/// The sums of a kernel of `$rows` rows and `$vectors` vectors of columns, of which `V` are computed. Same safety as
/// [`portable`].
///
/// Two things come from a distant cache while products are computed: the places of the destination, which the sums are
/// added to at the end, and a part of what a later tile reads.
#[cfg(target_arch = "x86_64")]
macro_rules! sums {
    ($name:ident, $features:literal, $rows:literal x $vectors:literal of $vector:ty: $zero:ident, $load:ident, $broadcast:ident,
     $multiply:expr) => {
        #[inline]
        #[target_feature(enable = $features)]
        unsafe fn $name<const V: usize>(tile: &Tile) -> [[$vector; V]; $rows] {
            use std::arch::x86_64::*;
            const LANES: usize = size_of::<$vector>() / 4;
            let (mut left, mut right) = (tile.left.cast::<f32>(), tile.right.cast::<f32>());
            let (mut rest, mut ahead) = (tile.depth, tile.ahead.cast::<i8>());
            let mut sums = [[$zero(); V]; $rows];
            macro_rules! step {
                () => {
                    let mut columns = [$zero(); V];
                    for (j, column) in columns.iter_mut().enumerate() {
                        *column = $load(right.add(j * LANES));
                    }
                    for (i, sums) in sums.iter_mut().enumerate() {
                        let row = $broadcast(*left.add(i));
                        for (sum, &column) in sums.iter_mut().zip(&columns) {
                            *sum = ($multiply)(row, column, *sum);
                        }
                    }
                    left = left.add($rows);
                    right = right.add($vectors * LANES);
                };
            }
            macro_rules! steps {
                () => {
                    rest -= UNROLLED;
                    _mm_prefetch::<_MM_HINT_T1>(ahead);
                    ahead = ahead.wrapping_add(64);
                    for _ in 0..UNROLLED {
                        step!();
                    }
                };
            }
            // SAFETY: the caller vouches for `depth` words a lane and for the destination, and any address may be
            // prefetched.
            unsafe {
                for i in 0..tile.valid.0 {
                    if rest < UNROLLED {
                        break;
                    }
                    let row = tile.destination.add(i * tile.stride);
                    for j in (0..V * LANES).step_by(16) {
                        _mm_prefetch::<_MM_HINT_T0>(row.wrapping_add(j).cast::<i8>());
                    }
                    // The lines of a row need not begin with it.
                    _mm_prefetch::<_MM_HINT_T0>(row.add(tile.valid.1 - 1).cast::<i8>());
                    steps!();
                }
                while rest >= UNROLLED {
                    steps!();
                }
                for _ in 0..rest {
                    step!();
                }
            }
            sums
        }
    };
}

#[cfg(target_arch = "x86_64")]
sums!(avx2_sums, "avx2,fma", 4 x 3 of __m256: _mm256_setzero_ps, _mm256_loadu_ps, _mm256_set1_ps,
    |row, column, sum| _mm256_fmadd_ps(row, column, sum));
#[cfg(target_arch = "x86_64")]
sums!(avx512_sums, "avx512f", 8 x 3 of __m512: _mm512_setzero_ps, _mm512_loadu_ps, _mm512_set1_ps,
    |row, column, sum| _mm512_fmadd_ps(row, column, sum));
// Two products a lane and step: vdpbf16ps.
#[cfg(target_arch = "x86_64")]
sums!(avx512_bf16_sums, "avx512f,avx512bf16", 8 x 3 of __m512: _mm512_setzero_ps, _mm512_loadu_ps, _mm512_set1_ps,
|row, column, sum| _mm512_dpbf16_ps(
    sum,
    std::mem::transmute::<__m512, __m512bh>(row),
    std::mem::transmute::<__m512, __m512bh>(column)
));

/// Same safety as [`portable`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2(tile: &Tile) {
    // SAFETY: 3 vectors of 8 values are 24 values; the rest is passed on to the caller.
    unsafe {
        let sums = avx2_sums::<3>(tile);
        tile.keep(&std::mem::transmute::<[[__m256; 3]; 4], [[f32; 24]; 4]>(sums));
    }
}

/// A kernel of 8 rows and up to 3 vectors of 16 columns; vectors without a valid column are left out. Same safety as
/// [`portable`].
#[cfg(target_arch = "x86_64")]
macro_rules! avx512_kernel {
    ($name:ident, $features:literal, $sums:ident) => {
        #[target_feature(enable = $features)]
        unsafe fn $name(tile: &Tile) {
            use std::arch::x86_64::*;

            #[target_feature(enable = $features)]
            unsafe fn vectors<const V: usize>(tile: &Tile) {
                let (scale, last) = (_mm512_set1_ps(tile.store.scale), u16::MAX >> (16 * V - tile.valid.1));
                let mask = |j: usize| if j + 1 < V { u16::MAX } else { last };
                // SAFETY: passed on to the caller, who vouches for the valid rows; the mask leaves out other columns.
                unsafe {
                    let mut sums = $sums::<V>(tile);
                    let place = |i: usize, j: usize| tile.destination.add(i * tile.stride + j * 16);
                    let value = |i: usize, j: usize, sum: __m512| {
                        let product = _mm512_mul_ps(scale, sum);
                        match tile.store.accumulate {
                            true => _mm512_add_ps(_mm512_maskz_loadu_ps(mask(j), place(i, j)), product),
                            false => product,
                        }
                    };
                    if tile.valid.0 == sums.len() {
                        // All loads before all stores: rows may lie a multiple of 4 KiB apart, where processors take
                        // a load for one of what was stored just before.
                        for (i, sums) in sums.iter_mut().enumerate() {
                            for (j, sum) in sums.iter_mut().enumerate() {
                                *sum = value(i, j, *sum);
                            }
                        }
                        for (i, sums) in sums.iter().enumerate() {
                            for (j, &sum) in sums.iter().enumerate() {
                                _mm512_mask_storeu_ps(place(i, j), mask(j), sum);
                            }
                        }
                    } else {
                        // A copy, so that only here the sums must have addresses.
                        let sums = sums;
                        for (i, sums) in sums.iter().take(tile.valid.0).enumerate() {
                            for (j, &sum) in sums.iter().enumerate() {
                                _mm512_mask_storeu_ps(place(i, j), mask(j), value(i, j, sum));
                            }
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
avx512_kernel!(avx512, "avx512f", avx512_sums);
#[cfg(target_arch = "x86_64")]
avx512_kernel!(avx512_bf16, "avx512f,avx512bf16", avx512_bf16_sums);

/// Whether products in `precision` multiply pairs of bf16, about twice as many values at a time as in f32.
pub(in crate::ops) fn paired(precision: Precision) -> bool {
    matches!(MicroKernel::best(precision).elements, Elements::Pairs)
}
