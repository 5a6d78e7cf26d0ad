//! The inverse discrete cosine transform, in the integer arithmetic of libjpeg's accurate method (`islow`).
//!
//! Loeffler, Ligtenberg and Moschytz, ICASSP 1989: 12 multiplications and 32 additions for 8 values.

use super::scan::Block;

/// Bits behind the point of the constants.
const FRACTION: u32 = 13;
/// Bits behind the point between the two passes.
const BETWEEN: u32 = 2;

/// √2 times sines and cosines of multiples of π/16, and their sums, in fixed point.
const C0_298: i32 = 2446;
const C0_390: i32 = 3196;
const C0_541: i32 = 4433;
const C0_765: i32 = 6270;
const C0_899: i32 = 7373;
const C1_175: i32 = 9633;
const C1_501: i32 = 12299;
const C1_847: i32 = 15137;
const C1_961: i32 = 16069;
const C2_053: i32 = 16819;
const C2_562: i32 = 20995;
const C3_072: i32 = 25172;

type Rows = [[i16; 8]; 8];

/// Transforms the columns of `rows`, in place; the sums lose `shift` bits and are rounded.
///
/// Four sums wrap in 16 bits and results saturate, as in the vector code of libjpeg-turbo. Only damaged files come so far.
#[expect(clippy::needless_range_loop, reason = "a column runs through all rows")]
#[inline(always)]
fn columns(rows: &mut Rows, shift: u32) {
    for x in 0..8 {
        let v = |y: usize| i32::from(rows[y][x]);
        let z1 = (v(2) + v(6)).wrapping_mul(C0_541);
        let t2 = z1.wrapping_sub(v(6) * C1_847);
        let t3 = z1.wrapping_add(v(2) * C0_765);
        let t0 = i32::from(rows[0][x].wrapping_add(rows[4][x])) << FRACTION;
        let t1 = i32::from(rows[0][x].wrapping_sub(rows[4][x])) << FRACTION;
        let even = [t0.wrapping_add(t3), t1.wrapping_add(t2), t1.wrapping_sub(t2), t0.wrapping_sub(t3)];

        let z1 = (v(7) + v(1)).wrapping_mul(-C0_899);
        let z2 = (v(5) + v(3)).wrapping_mul(-C2_562);
        let z3 = i32::from(rows[7][x].wrapping_add(rows[3][x]));
        let z4 = i32::from(rows[5][x].wrapping_add(rows[1][x]));
        let z5 = (z3 + z4).wrapping_mul(C1_175);
        let z3 = z5.wrapping_sub(z3 * C1_961);
        let z4 = z5.wrapping_sub(z4 * C0_390);
        let odd = [
            (v(1) * C1_501).wrapping_add(z1).wrapping_add(z4),
            (v(3) * C3_072).wrapping_add(z2).wrapping_add(z3),
            (v(5) * C2_053).wrapping_add(z2).wrapping_add(z4),
            (v(7) * C0_298).wrapping_add(z1).wrapping_add(z3),
        ];
        let rounded = |sum: i32| {
            let scaled = sum.wrapping_add(1 << (shift - 1)) >> shift;
            scaled.clamp(i32::from(i16::MIN), i32::from(i16::MAX)) as i16
        };
        for k in 0..4 {
            rows[k][x] = rounded(even[k].wrapping_add(odd[k]));
            rows[7 - k][x] = rounded(even[k].wrapping_sub(odd[k]));
        }
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn transposed(rows: &Rows) -> Rows {
    std::array::from_fn(|y| std::array::from_fn(|x| rows[x][y]))
}

/// Three times, the rows of the upper half alternate with those of the lower half.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn transposed(rows: &Rows) -> Rows {
    use std::arch::x86_64::{__m128i, _mm_unpackhi_epi16, _mm_unpacklo_epi16};
    // SAFETY: both are eight vectors of eight numbers, for which every bit pattern is valid.
    let mut v: [__m128i; 8] = unsafe { std::mem::transmute(*rows) };
    for _ in 0..3 {
        // SAFETY: every x86-64 processor has these instructions.
        v = std::array::from_fn(|k| unsafe {
            let (a, b) = (v[k / 2], v[k / 2 + 4]);
            if k % 2 == 0 { _mm_unpacklo_epi16(a, b) } else { _mm_unpackhi_epi16(a, b) }
        });
    }
    // SAFETY: as above.
    unsafe { std::mem::transmute(v) }
}

/// The samples of a block.
#[inline(always)]
fn block(coefficients: &Block, steps: &[u16; 64]) -> [[u8; 8]; 8] {
    let others = coefficients[1..].iter().fold(0, |all, c| all | c);
    if others == 0 {
        let mean = coefficients[0].wrapping_mul(steps[0] as i16);
        let sample = (((i32::from(mean) << BETWEEN) + 16) >> (BETWEEN + 3)) + 128;
        return [[sample.clamp(0, 255) as u8; 8]; 8];
    }
    let mut rows: Rows = [[0; 8]; 8];
    for ((value, coefficient), step) in rows.as_flattened_mut().iter_mut().zip(coefficients).zip(steps) {
        *value = coefficient.wrapping_mul(*step as i16);
    }
    columns(&mut rows, FRACTION - BETWEEN);
    let mut rows = transposed(&rows);
    columns(&mut rows, FRACTION + BETWEEN + 3);
    let rows = transposed(&rows);
    let mut samples = [[0; 8]; 8];
    for (sample, value) in samples.as_flattened_mut().iter_mut().zip(rows.as_flattened()) {
        *sample = value.saturating_add(128).clamp(0, 255) as u8;
    }
    samples
}

/// Transforms a row of blocks. `out` has 8 rows of 8 samples for each block.
#[inline(always)]
fn row(blocks: &[Block], steps: &[u16; 64], out: &mut [u8]) {
    let stride = 8 * blocks.len();
    let mut rows = out.chunks_exact_mut(stride);
    let mut rows: [&mut [u8]; 8] = std::array::from_fn(|_| rows.next().unwrap_or_default());
    for (x, coefficients) in blocks.iter().enumerate() {
        let samples = block(coefficients, steps);
        for (row, samples) in rows.iter_mut().zip(&samples) {
            row[8 * x..8 * x + 8].copy_from_slice(samples);
        }
    }
}

/// Transforms a row of blocks with the widest vectors of this processor. `out` has 8 rows of 8 samples for each block.
pub(super) fn transform(blocks: &[Block], steps: &[u16; 64], out: &mut [u8]) {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2")]
        fn avx2(blocks: &[Block], steps: &[u16; 64], out: &mut [u8]) {
            row(blocks, steps, out);
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has the feature that the function enables.
            return unsafe { avx2(blocks, steps, out) };
        }
    }
    row(blocks, steps, out);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;
    use rand::RngCore as _;

    #[test]
    fn vectors_and_plain_code_give_the_same_samples() {
        let mut rng = Rng::new(0, "inverse transform", &[]);
        let mut blocks = vec![[0i16; 64]; 40];
        for (k, block) in blocks.iter_mut().enumerate() {
            // Few or many coefficients, of usual and of impossible sizes.
            for value in block.iter_mut().take(1 + 3 * (k % 20)) {
                *value = (rng.next_u32() as i16) >> (k % 12);
            }
        }
        let steps: [u16; 64] = std::array::from_fn(|k| 1 + k as u16);
        let (mut plain, mut vectors) = (vec![0; 64 * 40], vec![0; 64 * 40]);
        row(&blocks, &steps, &mut plain);
        transform(&blocks, &steps, &mut vectors);
        assert_eq!(plain, vectors);
        assert!(plain.iter().any(|v| *v != plain[0]));
    }

    #[test]
    fn samples_by_hand() {
        let (mut block, steps) = ([0; 64], [8; 64]);
        block[0] = 10; // a mean of 10 · 8 / 8 above 128
        let mut out = [0; 64];
        transform(&[block], &steps, &mut out);
        assert_eq!(out, [138; 64]);
        block[1] = 16; // half a wave along x of amplitude 16 · 8 / (4√2)
        transform(&[block], &steps, &mut out);
        let expected = [160, 157, 151, 142, 134, 125, 119, 116];
        for row in out.as_chunks::<8>().0 {
            assert!(row.iter().zip(expected).all(|(a, b)| a.abs_diff(b) <= 1), "{row:?}");
        }
    }
}
