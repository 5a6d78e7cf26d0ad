//! The element types of the panels of a matrix product, and the conversion of f32 values to them.

use super::operand::Operand;
use super::words::Words;
use crate::ops::simd::{Kernel, vectorized};
use half::bf16;
use half::slice::HalfFloatSliceExt;
use std::ops::Range;

/// The type in which the operands of matrix products are multiplied. Sums are f32 in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// f32.
    #[default]
    F32,
    /// Operands are rounded to bf16, to nearest, ties to even.
    Bf16,
}

impl Precision {
    /// The precision of layers whose builder has this dtype; their parameters are f32 in any case.
    ///
    /// # Errors
    /// A dtype other than f32, bf16 and f64 (which the reference compositions compute in).
    pub fn of(dtype: candle_core::DType) -> candle_core::Result<Self> {
        use candle_core::DType;
        match dtype {
            DType::F32 | DType::F64 => Ok(Self::F32),
            DType::BF16 => Ok(Self::Bf16),
            other => candle_core::bail!("cannot compute in {other:?}; use f32 or bf16"),
        }
    }

    /// The dtype of a builder of layers that compute in this precision.
    pub fn dtype(self) -> candle_core::DType {
        match self {
            Self::F32 => candle_core::DType::F32,
            Self::Bf16 => candle_core::DType::BF16,
        }
    }
}

/// The words of a panel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Elements {
    /// An f32.
    Single,
    /// An f32 that bf16 holds exactly.
    Rounded,
    /// The bf16 of two adjacent depths, the first in the low half.
    Pairs,
}

impl Elements {
    /// Depths in a word.
    pub(super) fn per_word(self) -> usize {
        match self {
            Self::Single | Self::Rounded => 1,
            Self::Pairs => 2,
        }
    }

    /// Words of a lane of `depth` values.
    pub(super) fn words(self, depth: usize) -> usize {
        depth.div_ceil(self.per_word())
    }

    /// Packs `lanes` of an operand at `depth` into `panels` [⌈lanes/width⌉, words of the depth, width].
    pub(super) fn fill(
        self,
        operand: &impl Operand,
        lanes: Range<usize>,
        depth: Range<usize>,
        width: usize,
        panels: &mut [u32],
        scratch: &mut Vec<f32>,
    ) {
        if self == Self::Pairs {
            if !operand.pack_panels_of_pairs(lanes.clone(), depth.clone(), width, panels) {
                let (values, words) = (depth.len() * width, self.words(depth.len()) * width);
                scratch.resize(lanes.len().div_ceil(width) * values, 0.);
                operand.pack_panels(lanes, depth, width, scratch);
                for (values, words) in scratch.chunks_exact(values).zip(panels.chunks_exact_mut(words)) {
                    vectorized(Pair { values, width, words });
                }
            }
            return;
        }
        let values = as_f32(panels);
        operand.pack_panels(lanes, depth, width, values);
        if self == Self::Rounded {
            vectorized(Round { values });
        }
    }
}

/// Words as the f32 whose bits they are.
pub(super) fn as_f32(words: &mut [u32]) -> &mut [f32] {
    // SAFETY: both types have the same size and alignment, and every bit pattern is a value of both.
    unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast(), words.len()) }
}

/// The bits of `x` rounded to bf16, to nearest, ties to even; NaN stays NaN.
#[inline(always)]
pub(in crate::ops) fn rounded(x: f32) -> u32 {
    let bits = x.to_bits();
    let nearest = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    if x.is_nan() { 0x7fc0 } else { nearest }
}

/// A value of a matrix to read.
pub(in crate::ops) trait Element: Copy + Default + Send + Sync + 'static {
    /// The precision of products of such values.
    const PRECISION: Precision;
    fn wide(self) -> f32;
    /// A few values as f32.
    #[inline(always)]
    fn all_wide<const N: usize>(values: &[Self; N]) -> [f32; N] {
        values.map(Self::wide)
    }
    /// The nearest value.
    fn of(x: f32) -> Self;
    /// The bits of the nearest bf16.
    fn narrow(self) -> u32;
    /// Values as f32, in `buffer` unless they are.
    fn widened<'a>(values: &'a [Self], buffer: &'a mut [f32]) -> &'a [f32];
    /// The bits of the nearest bf16, in `buffer` unless the values are bf16.
    fn narrowed<'a>(values: &'a [Self], buffer: &'a mut [u16]) -> &'a [u16];
}

impl Element for f32 {
    const PRECISION: Precision = Precision::F32;

    #[inline(always)]
    fn wide(self) -> f32 {
        self
    }

    #[inline(always)]
    fn all_wide<const N: usize>(values: &[Self; N]) -> [f32; N] {
        *values
    }

    #[inline(always)]
    fn of(x: f32) -> Self {
        x
    }

    #[inline(always)]
    fn narrow(self) -> u32 {
        rounded(self)
    }

    fn widened<'a>(values: &'a [Self], _: &'a mut [f32]) -> &'a [f32] {
        values
    }

    fn narrowed<'a>(values: &'a [Self], buffer: &'a mut [u16]) -> &'a [u16] {
        narrow(values, buffer);
        &buffer[..values.len()]
    }
}

impl Element for bf16 {
    const PRECISION: Precision = Precision::Bf16;

    #[inline(always)]
    fn wide(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    #[inline(always)]
    fn of(x: f32) -> Self {
        Self::from_bits(rounded(x) as u16)
    }

    #[inline(always)]
    fn narrow(self) -> u32 {
        self.to_bits().into()
    }

    fn widened<'a>(values: &'a [Self], buffer: &'a mut [f32]) -> &'a [f32] {
        widen(values, buffer);
        &buffer[..values.len()]
    }

    fn narrowed<'a>(values: &'a [Self], _: &'a mut [u16]) -> &'a [u16] {
        values.reinterpret_cast()
    }
}

/// Makes bf16 of f32.
fn narrow(values: &[f32], bits: &mut [u16]) {
    struct Narrow<'a>(&'a [f32], &'a mut [u16]);

    impl Kernel for Narrow<'_> {
        type Output = ();

        #[inline(always)]
        fn run(self) {
            self.1.iter_mut().zip(self.0).for_each(|(to, x)| *to = x.narrow() as u16);
        }
    }

    vectorized(Narrow(values, bits));
}

/// Makes f32 of bf16.
fn widen(values: &[bf16], to: &mut [f32]) {
    struct Widen<'a>(&'a [bf16], &'a mut [f32]);

    impl Kernel for Widen<'_> {
        type Output = ();

        #[inline(always)]
        fn run(self) {
            self.1.iter_mut().zip(self.0).for_each(|(to, x)| *to = x.wide());
        }
    }

    vectorized(Widen(values, to));
}

struct Round<'a> {
    values: &'a mut [f32],
}

impl Kernel for Round<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for x in self.values {
            *x = f32::from_bits(rounded(*x) << 16);
        }
    }
}

/// Pairs up the lines of `values` [depth, width]; the last one of an odd depth with zeros.
struct Pair<'a> {
    values: &'a [f32],
    width: usize,
    words: &'a mut [u32],
}

impl Kernel for Pair<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let width = self.width;
        for (lines, words) in self.values.chunks(2 * width).zip(self.words.chunks_exact_mut(width)) {
            let (low, high) = lines.split_at(width);
            Pairs { low, high, words }.run();
        }
    }
}

/// Words of two values rounded to bf16; `high` may end early, with zeros after it.
pub(in crate::ops) struct Pairs<'a> {
    pub low: &'a [f32],
    pub high: &'a [f32],
    pub words: &'a mut [u32],
}

impl Kernel for Pairs<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let (words, rest) = self.words.split_at_mut(self.high.len().min(self.words.len()));
        let (low, low_rest) = self.low.split_at(words.len());
        for (word, (&low, &high)) in words.iter_mut().zip(low.iter().zip(self.high)) {
            *word = rounded(low) | (rounded(high) << 16);
        }
        rest.iter_mut().zip(low_rest).for_each(|(word, &low)| *word = rounded(low));
    }
}

/// The f32 panel [depth, width] of a panel of pairs [depth/2, width], which `pack` writes.
pub(in crate::ops) fn unpaired<R>(panel: &mut [f32], width: usize, pack: impl FnOnce(&mut [u32]) -> R) {
    let mut words = Words::default();
    words.resize(panel.len() / 2);
    pack(&mut words);
    vectorized(Unpair { panel, width, words: &words });
}

struct Unpair<'a> {
    panel: &'a mut [f32],
    width: usize,
    words: &'a [u32],
}

impl Kernel for Unpair<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { panel, width, words } = self;
        for (lines, words) in panel.chunks_exact_mut(2 * width).zip(words.chunks_exact(width)) {
            let (low, high) = lines.split_at_mut(width);
            for ((low, high), word) in low.iter_mut().zip(high).zip(words) {
                (*low, *high) = (f32::from_bits(word << 16), f32::from_bits(word & 0xffff_0000));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_that_of_the_half_crate() {
        let odd = [0., -0., f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN_POSITIVE, 1e-40];
        let steps = (0..200_000u32).map(|i| f32::from_bits(i.wrapping_mul(0x9e37_79b9)));
        for x in steps.chain(odd) {
            let found = bf16::from_bits(rounded(x) as u16);
            match x.is_nan() {
                true => assert!(found.is_nan()),
                false => assert_eq!(found.to_bits(), bf16::from_f32(x).to_bits(), "{x:e}"),
            }
        }
    }

    #[test]
    fn an_odd_depth_ends_with_a_pair_of_zeros() {
        /// Two lanes of three depths.
        struct Counting;

        impl Operand for Counting {
            fn lanes(&self) -> usize {
                2
            }

            fn depth(&self) -> usize {
                3
            }

            fn pack(&self, _: Range<usize>, _: Range<usize>, _: usize, panel: &mut [f32]) {
                panel.copy_from_slice(&[1., 2., 3., 4., 5., 6.]);
            }
        }

        let mut words = [0; 4];
        Elements::Pairs.fill(&Counting, 0..2, 0..3, 2, &mut words, &mut vec![]);
        let pair = |low: f32, high: f32| (low.to_bits() >> 16) | (high.to_bits() & 0xffff_0000);
        assert_eq!(words, [pair(1., 3.), pair(2., 4.), pair(5., 0.), pair(6., 0.)]);
    }
}
