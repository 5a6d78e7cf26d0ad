//! Loops that pack the rows or columns of a matrix into panels.

use super::elements::Element;
use super::operand::{BLOCK, DEPTH, TOGETHER, together};
#[cfg(target_arch = "x86_64")]
use crate::ops::simd::Instructions;
use crate::ops::simd::Kernel;

/// Lanes that are transposed together.
const SIDE: usize = 8;
/// Values of an f32 in a cache line, and lines that are copied together.
const LINE: usize = 16;
/// Depths between the line that is copied and the one that is fetched.
const LINES: usize = 16;

/// Lanes that lie side by side, `step` from one depth to the next: panels [⌈lanes/width⌉, depth, width].
pub(super) struct SideBySide<'a, T> {
    pub values: &'a [T],
    pub lanes: usize,
    pub step: usize,
    pub depth: usize,
    pub width: usize,
    pub panels: &'a mut [f32],
}

impl<T: Element> Kernel for SideBySide<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        match self.width {
            4 => self.copy::<4>(),
            8 | 24 => self.copy::<8>(),
            _ => self.copy::<LINE>(),
        }
    }
}

impl<T: Element> SideBySide<'_, T> {
    /// Copies `PART` values at a time where the lanes of a panel fill such parts. Some lines are copied panel by panel, so
    /// that a narrow panel gets whole cache lines.
    #[inline(always)]
    fn copy<const PART: usize>(self) {
        let Self { values, lanes, step, depth, width, panels } = self;
        for first in (0..depth).step_by(LINE) {
            let lines = first..depth.min(first + LINE);
            for k in lines.clone() {
                fetch(&values[k * step..][..lanes], LINES * step);
            }
            for (i, start) in (0..lanes).step_by(width).enumerate() {
                let count = width.min(lanes - start);
                let panel = &mut panels[(i * depth + first) * width..][..lines.len() * width];
                let from = &values[first * step + start..];
                if count == PART && width == PART && step >= PART {
                    for (to, from) in panel.as_chunks_mut().0.iter_mut().zip(from.chunks(step)) {
                        // The last line ends with its lanes, or later.
                        *to = from.first_chunk::<PART>().map_or([0.; PART], T::all_wide);
                    }
                    continue;
                }
                for (j, to) in panel.chunks_exact_mut(width).enumerate() {
                    let (to, rest) = to[..count].as_chunks_mut::<PART>();
                    let (from, from_rest) = from[j * step..][..count].as_chunks::<PART>();
                    to.iter_mut().zip(from).for_each(|(to, from)| *to = T::all_wide(from));
                    rest.iter_mut().zip(from_rest).for_each(|(to, x)| *to = x.wide());
                }
            }
        }
    }
}

/// Like [`SideBySide`], but two depths at a time; the last one of an odd number with zeros.
pub(super) struct Interleave<'a, T> {
    pub values: &'a [T],
    pub lanes: usize,
    pub step: usize,
    pub depth: usize,
    pub width: usize,
    pub panels: &'a mut [u32],
}

impl<T: Element> Kernel for Interleave<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { values, lanes, step, depth, width, panels } = self;
        let words = depth.div_ceil(2);
        // All lanes are rounded at once, because a panel may be narrower than a vector.
        let mut rounded = [0; TOGETHER];
        for k in 0..words {
            for start in (0..lanes).step_by(together(width)) {
                let count = together(width).min(lanes - start);
                let line = |depth: usize| &values[depth * step + start..][..count];
                let low = line(2 * k);
                let rounded = &mut rounded[..count];
                fetch(low, LINES * step);
                if 2 * k + 1 < depth {
                    let high = line(2 * k + 1);
                    fetch(high, LINES * step);
                    pairs(rounded, low, high);
                } else {
                    rounded.iter_mut().zip(low).for_each(|(word, low)| *word = low.narrow());
                }
                for (i, rounded) in rounded.chunks(width).enumerate() {
                    let to = &mut panels[((start / width + i) * words + k) * width..][..rounded.len()];
                    each(to, rounded, |to, word| *to = word);
                }
            }
        }
    }
}

/// Words of two values, the first in the low half.
#[inline(always)]
fn pairs<T: Element>(words: &mut [u32], low: &[T], high: &[T]) {
    for (word, (low, high)) in words.iter_mut().zip(low.iter().zip(high)) {
        *word = low.narrow() | (high.narrow() << 16);
    }
}

/// Applies `set` to each pair, in groups of eight where they fill such.
#[inline(always)]
fn each<T: Copy, W>(to: &mut [W], from: &[T], set: impl Fn(&mut W, T)) {
    match (to.as_chunks_mut::<SIDE>(), from.as_chunks::<SIDE>()) {
        ((to, []), (from, [])) => {
            for (to, from) in to.iter_mut().zip(from) {
                to.iter_mut().zip(from).for_each(|(to, &x)| set(to, x));
            }
        }
        _ => to.iter_mut().zip(from).for_each(|(to, &x)| set(to, x)),
    }
}

/// Fetches what lies `distance` values after those of `line`.
#[inline(always)]
fn fetch<T>(line: &[T], distance: usize) {
    for start in (0..line.len()).step_by(64 / size_of::<T>()) {
        prefetch(line.as_ptr().wrapping_add(start + distance));
    }
}

/// Asks for the cache line of any address.
#[inline(always)]
fn prefetch<T>(place: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: prefetching changes nothing, and no address is wrong.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(place.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = place;
}

/// Lanes `step` apart whose depths lie side by side: one panel [depth, width].
pub(super) struct Transpose<'a, T> {
    pub values: &'a [T],
    pub lanes: usize,
    pub step: usize,
    pub depth: usize,
    pub width: usize,
}

impl<T: Element> Transpose<'_, T> {
    pub(super) fn run(self, panel: &mut [f32]) {
        let mut buffer = [[0f32; DEPTH]; SIDE];
        // SAFETY: both types have the same size and alignment, and every bit pattern is a value of both.
        let panel = unsafe { std::slice::from_raw_parts_mut(panel.as_mut_ptr().cast::<u32>(), panel.len()) };
        self.groups(|group, first| {
            let mut buffers = buffer.iter_mut();
            let wide = group.map(|lane| match buffers.next() {
                Some(buffer) => T::widened(lane, buffer),
                None => &[],
            });
            self.write(wide.map(|lane| lane.as_ptr().cast()), self.depth, first, size_of::<T>(), panel);
        });
    }

    /// Like [`Self::run`], but two depths at a time; the last one of an odd number with zeros.
    pub(super) fn run_pairs(self, panel: &mut [u32]) {
        let mut buffer = [[0u16; BLOCK]; SIDE];
        self.groups(|group, first| {
            let mut buffers = buffer.iter_mut();
            let narrow = group.map(|lane| match buffers.next() {
                Some(buffer) => T::narrowed(lane, buffer),
                None => &[],
            });
            self.write(
                narrow.map(|lane| lane.as_ptr().cast()),
                self.depth / 2,
                first,
                2 * size_of::<T>(),
                panel,
            );
            if self.depth % 2 == 1 {
                let line = &mut panel[self.depth / 2 * self.width + first..];
                for (to, lane) in line.iter_mut().zip(narrow).take(self.lanes - first) {
                    *to = lane[self.depth - 1].into();
                }
            }
        });
    }

    /// Calls `run` with the depths of eight lanes and the first of them; the last lane stands for those that do not
    /// exist.
    fn groups(&self, mut run: impl FnMut([&[T]; SIDE], usize)) {
        for first in (0..self.lanes).step_by(SIDE) {
            let lane = |i: usize| &self.values[(first + i).min(self.lanes - 1) * self.step..][..self.depth];
            run(std::array::from_fn(lane), first);
        }
    }

    /// Writes `words` of each lane to the columns from `first` on; a word is made of `bytes` of the matrix.
    fn write(&self, lanes: [*const u32; SIDE], words: usize, first: usize, bytes: usize, panel: &mut [u32]) {
        let width = self.width;
        assert!(
            words == 0 || panel.len() >= (words - 1) * width + width.min(first + SIDE),
            "lines of a panel"
        );
        let ahead: [*const u8; SIDE] =
            std::array::from_fn(|i| self.values.as_ptr().wrapping_add((first + SIDE + i) * self.step).cast());
        let columns = Columns { lanes, words, ahead, bytes, width };
        let place = &mut panel[first.min(width)..];
        // SAFETY: each lane has `words` words, and the panel has as many lines.
        unsafe { columns.write(place, (width - first).min(SIDE)) };
    }
}

/// The columns of a panel, words of eight lanes.
struct Columns {
    lanes: [*const u32; SIDE],
    words: usize,
    /// Lanes that are packed next, and the bytes of each that become a word.
    ahead: [*const u8; SIDE],
    bytes: usize,
    width: usize,
}

impl Columns {
    /// Writes the first `count` lanes to the lines of `panel`.
    ///
    /// # Safety
    /// The lanes have `words` words; from `panel` on there are that many lines of `width`.
    unsafe fn write(&self, panel: &mut [u32], count: usize) {
        // SAFETY: passed on to the caller.
        unsafe {
            #[cfg(target_arch = "x86_64")]
            let whole = match count {
                SIDE if Instructions::Avx2.allowed() && is_x86_feature_detected!("avx2") => {
                    self.eights(panel.as_mut_ptr());
                    self.words - self.words % SIDE
                }
                4 => {
                    self.fours(panel.as_mut_ptr());
                    self.words - self.words % 4
                }
                _ => 0,
            };
            #[cfg(not(target_arch = "x86_64"))]
            let whole = 0;
            for k in whole..self.words {
                for (to, lane) in panel[k * self.width..].iter_mut().zip(self.lanes).take(count) {
                    *to = lane.add(k).read_unaligned();
                }
            }
        }
    }

    /// All eights of words of eight lanes. Same safety as [`Self::write`].
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    unsafe fn eights(&self, panel: *mut u32) {
        use std::arch::x86_64::*;
        let lanes = self.lanes.map(|lane| lane.cast::<f32>());
        for k in (0..self.words - self.words % SIDE).step_by(SIDE) {
            self.ahead.iter().for_each(|lane| prefetch(lane.wrapping_add(k * self.bytes)));
            for k in [k, k + 4] {
                // SAFETY: passed on to the caller.
                unsafe {
                    // Lane i in the low half, lane i + 4 in the high half.
                    let both = |i: usize| {
                        let low = _mm256_castps128_ps256(_mm_loadu_ps(lanes[i].add(k)));
                        _mm256_insertf128_ps::<1>(low, _mm_loadu_ps(lanes[i + 4].add(k)))
                    };
                    let (a, b, c, d) = (both(0), both(1), both(2), both(3));
                    let (low, high) = (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
                    let (low2, high2) = (_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
                    let lines = [
                        _mm256_shuffle_ps::<0x44>(low, low2),
                        _mm256_shuffle_ps::<0xee>(low, low2),
                        _mm256_shuffle_ps::<0x44>(high, high2),
                        _mm256_shuffle_ps::<0xee>(high, high2),
                    ];
                    for (i, line) in lines.into_iter().enumerate() {
                        _mm256_storeu_ps(panel.add((k + i) * self.width).cast(), line);
                    }
                }
            }
        }
    }

    /// All fours of words of the first four lanes. Same safety as [`Self::write`].
    #[cfg(target_arch = "x86_64")]
    unsafe fn fours(&self, panel: *mut u32) {
        use std::arch::x86_64::*;
        for k in (0..self.words - self.words % 4).step_by(4) {
            self.ahead[..4].iter().for_each(|lane| prefetch(lane.wrapping_add(k * self.bytes)));
            // SAFETY: passed on to the caller.
            unsafe {
                let lane = |i: usize| _mm_loadu_ps(self.lanes[i].add(k).cast());
                let (mut a, mut b, mut c, mut d) = (lane(0), lane(1), lane(2), lane(3));
                _MM_TRANSPOSE4_PS(&mut a, &mut b, &mut c, &mut d);
                for (i, line) in [a, b, c, d].into_iter().enumerate() {
                    _mm_storeu_ps(panel.add((k + i) * self.width).cast(), line);
                }
            }
        }
    }
}
