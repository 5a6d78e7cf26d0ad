//! Packing of bf16 pairs with AVX-512, where values are rounded by the processor's own conversion and lanes are
//! transposed in registers. The same words as those of the portable loops in [`super::matrix`], except that a subnormal
//! number becomes zero, as which `vdpbf16ps` multiplies it anyway.

use super::elements::Precision;
use super::matrix::Element;
use std::arch::x86_64::*;

/// The order of 32 values that takes one of the first half and one of the second half in turn.
const ALTERNATING: [u16; 32] = {
    let (mut order, mut i) = ([0; 32], 0);
    while i < 32 {
        order[i] = (i / 2 + i % 2 * 16) as u16;
        i += 1;
    }
    order
};

/// Whether this processor has the instructions.
pub(super) fn available() -> bool {
    is_x86_feature_detected!("avx512bf16")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
}

/// Lanes to pack into a panel [⌈depth/2⌉, width]; see [`super::panels::Operand::pack_pairs`].
pub(super) struct Lanes<'a, T> {
    pub values: &'a [T],
    pub lanes: usize,
    /// Values from one lane to the next, or from one depth to the next.
    pub step: usize,
    pub depth: usize,
    pub width: usize,
    pub panel: &'a mut [u32],
}

impl<T: Element> Lanes<'_, T> {
    /// Packs lanes `step` apart whose depths lie side by side.
    ///
    /// # Safety
    /// The instructions are [`available`].
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    pub(super) unsafe fn transpose(self) {
        let Self { values, lanes, step, depth, width, panel } = self;
        assert!(panel.len() >= depth.div_ceil(2) * width && lanes <= width, "a panel of these lanes");
        for first in (0..lanes).step_by(8) {
            // The last lane stands for those that do not exist.
            let group: [&[T]; 8] =
                std::array::from_fn(|i| &values[(first + i).min(lanes - 1) * step..][..depth]);
            let places = first_ones(width - first) as u8;
            for start in (0..depth).step_by(16) {
                let valid = first_ones(depth - start);
                // Loops instead of `map`: the compiler does not inline intrinsics into functions of the baseline.
                let mut square = [_mm256_setzero_si256(); 8];
                for (line, lane) in square.iter_mut().zip(&group) {
                    // SAFETY: the masked values lie within their lanes.
                    *line = unsafe { load(lane.as_ptr().add(start), valid) };
                }
                let lines = panel[start / 2 * width..].chunks_mut(width);
                let columns = transposed(&square);
                for (line, &words) in lines.zip(&columns).take((depth - start).div_ceil(2)) {
                    let place = line[first..].as_mut_ptr().cast();
                    // SAFETY: the mask ends with the line, as the assertion at the start makes sure.
                    unsafe { _mm256_mask_storeu_epi32(place, places, words) };
                }
            }
        }
    }

    /// Packs lanes that lie side by side, `step` from one depth to the next.
    ///
    /// # Safety
    /// The instructions are [`available`].
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    pub(super) unsafe fn interleave(self) {
        let Self { values, lanes, step, depth, width, panel } = self;
        assert!(lanes <= width, "a panel of these lanes");
        // SAFETY: 32 numbers of 16 bits.
        let order = unsafe { _mm512_loadu_epi16(ALTERNATING.as_ptr().cast()) };
        for (k, line) in panel.chunks_exact_mut(width).enumerate().take(depth.div_ceil(2)) {
            let low = &values[2 * k * step..][..lanes];
            // The last one of an odd number of depths is paired with zeros.
            let high: &[T] = if 2 * k + 1 < depth { &values[(2 * k + 1) * step..][..lanes] } else { &[] };
            for first in (0..lanes).step_by(16) {
                let valid = first_ones(lanes - first);
                let valid_high = if high.is_empty() { 0 } else { valid };
                // SAFETY: the masked values lie within their lines, and the mask of the words ends with the panel's.
                unsafe {
                    let low = load(low.as_ptr().wrapping_add(first), valid);
                    let high = load(high.as_ptr().wrapping_add(first), valid_high);
                    let both = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high);
                    let place = line[first..].as_mut_ptr().cast();
                    let words = _mm512_permutexvar_epi16(order, both);
                    _mm512_mask_storeu_epi32(place, first_ones(width - first), words);
                }
            }
        }
    }
}

/// A mask of the first `count` of 16 elements.
fn first_ones(count: usize) -> u16 {
    u16::MAX >> (16 - count.min(16))
}

/// 16 values from `first` as bf16; those that are not `valid` are zero.
///
/// # Safety
/// The valid ones can be read.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn load<T: Element>(first: *const T, valid: u16) -> __m256i {
    // SAFETY: the caller vouches for the valid values; `T` is the type that its precision names.
    unsafe {
        match T::PRECISION {
            Precision::F32 => {
                let rounded = _mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(valid, first.cast()));
                std::mem::transmute::<__m256bh, __m256i>(rounded)
            }
            Precision::Bf16 => _mm256_maskz_loadu_epi16(valid, first.cast()),
        }
    }
}

/// The transpose of 8 lines of 8 words.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn transposed(lines: &[__m256i; 8]) -> [__m256i; 8] {
    // `quads[i][k]` has words k and k + 4 of the four lines from 4·i on.
    let mut quads = [[_mm256_setzero_si256(); 4]; 2];
    for (quad, lines) in quads.iter_mut().zip(lines.as_chunks::<4>().0) {
        let [a, b, c, d] = *lines;
        let (low, high) = (_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
        let (more_low, more_high) = (_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
        quad[0] = _mm256_unpacklo_epi64(low, more_low);
        quad[1] = _mm256_unpackhi_epi64(low, more_low);
        quad[2] = _mm256_unpacklo_epi64(high, more_high);
        quad[3] = _mm256_unpackhi_epi64(high, more_high);
    }
    let mut columns = [_mm256_setzero_si256(); 8];
    for k in 0..4 {
        columns[k] = _mm256_permute2x128_si256::<0x20>(quads[0][k], quads[1][k]);
        columns[k + 4] = _mm256_permute2x128_si256::<0x31>(quads[0][k], quads[1][k]);
    }
    columns
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::bf16;

    /// The words of `lanes` at `depth`, one by one.
    fn expected(at: impl Fn(usize, usize) -> f32, lanes: usize, depth: usize, width: usize) -> Vec<u32> {
        let bits = |lane: usize, k: usize| match k < depth && lane < lanes {
            true => u32::from(bf16::from_f32(at(lane, k)).to_bits()),
            false => 0,
        };
        let word = |i: usize| bits(i % width, i / width * 2) | (bits(i % width, i / width * 2 + 1) << 16);
        (0..depth.div_ceil(2) * width).map(word).collect()
    }

    fn check<T: Element>(values: &[T], step: usize) {
        if !available() {
            return;
        }
        let widths = [(8, 8), (5, 8), (48, 48), (33, 48), (14, 14), (9, 14), (6, 6), (1, 64)];
        for ((lanes, width), depth) in
            widths.into_iter().flat_map(|of| [1usize, 2, 15, 16, 17, 31, 46].map(|depth| (of, depth)))
        {
            let packed = |pack: &dyn Fn(Lanes<T>)| {
                let mut panel = vec![7; depth.div_ceil(2) * width];
                pack(Lanes { values, lanes, step, depth, width, panel: &mut panel });
                // What lies beyond the lanes only has to be finite.
                panel
                    .iter()
                    .enumerate()
                    .map(|(i, &x)| if i % width < lanes { x } else { 0 })
                    .collect::<Vec<_>>()
            };
            // SAFETY: the instructions are there.
            let found = packed(&|lanes| unsafe { lanes.transpose() });
            assert_eq!(found, expected(|lane, k| values[lane * step + k].wide(), lanes, depth, width));
            // SAFETY: the instructions are there.
            let found = packed(&|lanes| unsafe { lanes.interleave() });
            assert_eq!(found, expected(|lane, k| values[k * step + lane].wide(), lanes, depth, width));
        }
    }

    #[test]
    fn lanes_are_packed_as_if_one_by_one() {
        let odd = [0., -0., f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN_POSITIVE, 1. + 1. / 256.];
        let values: Vec<f32> =
            (0..64 * 64).map(|i| if i % 9 == 0 { odd[i / 9 % 7] } else { (i as f32).sin() }).collect();
        check(&values, 64);
        check(&values.iter().map(|&x| bf16::from_f32(x)).collect::<Vec<_>>(), 64);
        check(&values, 50);
    }

    #[test]
    fn a_nan_stays_one() {
        if available() {
            let mut panel = [0];
            let values = [f32::from_bits(0x7f80_0001), f32::NAN];
            // SAFETY: the instructions are there.
            unsafe {
                Lanes { values: &values, lanes: 1, step: 2, depth: 2, width: 1, panel: &mut panel }
                    .transpose()
            };
            assert!([panel[0] as u16, (panel[0] >> 16) as u16].iter().all(|&x| bf16::from_bits(x).is_nan()));
        }
    }
}
