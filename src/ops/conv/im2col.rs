//! The columns of a convolution as operands of a matrix product, gathered from the image as they are packed.

use super::geometry::Plane;
use crate::ops::gemm::{Operand, Pairs, unpaired};
use crate::ops::simd::{Kernel, LANES, vectorized};
use rayon::prelude::*;
use std::ops::Range;

/// The values of an image: f32, or words of two bf16.
pub(super) trait Word: Copy + Default + Send + Sync {
    /// Values in a word: those of adjacent channels of a pixel.
    const VALUES: usize;
}

impl Word for f32 {
    const VALUES: usize = 1;
}

impl Word for u32 {
    const VALUES: usize = 2;
}

/// For every pixel of a grid over every image (a lane), the words that the taps read there (the depth).
pub(super) struct Im2Col<'a, T> {
    /// [B, channels in words, height, width]
    pub image: &'a [T],
    pub batch: usize,
    pub source: Plane,
    /// Rows and columns of the grid.
    pub grid: (usize, usize),
    /// Pixels of the image from one of the grid to the next.
    pub step: usize,
    /// Offsets of each row and each column of taps, relative to `step` times the pixel of the grid.
    pub offsets: &'a (Vec<isize>, Vec<isize>),
}

/// [channels, rows of taps, columns of taps]
impl Operand for Im2Col<'_, f32> {
    fn lanes(&self) -> usize {
        self.batch * self.grid.0 * self.grid.1
    }

    fn depth(&self) -> usize {
        self.channels() * self.taps()
    }

    fn pack(&self, lanes: Range<usize>, depth: Range<usize>, width: usize, panel: &mut [f32]) {
        vectorized(Gather { columns: self, lanes, depth, width, panel });
    }
}

/// [channels / 2, rows of taps, columns of taps, 2], with zeros after an odd number of channels.
impl Operand for Im2Col<'_, u32> {
    fn lanes(&self) -> usize {
        self.batch * self.grid.0 * self.grid.1
    }

    fn depth(&self) -> usize {
        2 * self.channels() * self.taps()
    }

    fn pack(&self, lanes: Range<usize>, depth: Range<usize>, width: usize, panel: &mut [f32]) {
        unpaired(panel, width, |words| self.pack_pairs(lanes, depth, width, words));
    }

    fn pack_pairs(&self, lanes: Range<usize>, depth: Range<usize>, width: usize, panel: &mut [u32]) -> bool {
        let depth = depth.start / 2..depth.end / 2;
        vectorized(Gather { columns: self, lanes, depth, width, panel });
        true
    }
}

/// The channels of `image` [B, channels, pixels] in pairs, rounded to bf16: [B, channels / 2, pixels].
pub(super) fn paired_channels(image: &[f32], source: Plane) -> Vec<u32> {
    let (pixels, pairs) = (source.pixels().max(1), source.channels.div_ceil(2).max(1));
    let mut words = vec![0; image.len() / source.values().max(1) * pairs * pixels];
    words.par_chunks_mut(pixels).enumerate().for_each(|(i, words)| {
        let channel = 2 * (i % pairs);
        let start = i / pairs * source.values() + channel * pixels;
        let (low, high) = image[start..].split_at(pixels);
        let high = if channel + 1 < source.channels { &high[..pixels] } else { &[] };
        vectorized(Pairs { low, high, words });
    });
    words
}

struct Gather<'a, T> {
    columns: &'a Im2Col<'a, T>,
    lanes: Range<usize>,
    depth: Range<usize>,
    width: usize,
    panel: &'a mut [T],
}

/// Lanes in a row of the grid.
struct Span {
    lanes: Range<usize>,
    /// The first word of their image.
    image: usize,
    row: usize,
    column: usize,
}

/// Lanes whose words lie `step` apart in the image.
struct Run {
    lanes: Range<usize>,
    /// Offset of the first lane in the first channel; may be outside the image where lanes are padding.
    source: isize,
}

impl<T: Word> Kernel for Gather<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { columns, lanes, depth, width, panel } = self;
        let (taps, pixels) = (columns.taps(), columns.source.pixels());
        let spans = columns.spans(&lanes);
        let (mut runs, mut padding) = (Vec::new(), Vec::new());
        for tap in 0..taps.min(depth.len()) {
            let tap = (depth.start + tap) % taps;
            columns.trace(&spans, tap, &mut runs, &mut padding);
            let channel_from = |k: usize| (k + taps - 1 - tap) / taps;
            let channels = channel_from(depth.start)..channel_from(depth.end);
            let first = (channels.start * taps + tap - depth.start) * width;
            for run in &runs {
                let (lines, source) =
                    (Lines { panel, first: first + run.lanes.start, step: taps * width }, run.source);
                columns.copy(
                    lines,
                    run.lanes.len(),
                    source + (channels.start * pixels) as isize,
                    channels.len(),
                );
            }
            for lanes in &padding {
                let mut start = first + lanes.start;
                for _ in channels.clone() {
                    panel[start..start + lanes.len()].iter_mut().for_each(|value| *value = T::default());
                    start += taps * width;
                }
            }
        }
    }
}

/// Destination of the words of a run, channel by channel.
struct Lines<'a, T> {
    panel: &'a mut [T],
    first: usize,
    step: usize,
}

impl<T: Word> Lines<'_, T> {
    /// Copies runs of `N` words, the first of them at `start` in `image`, the next ones `step` apart.
    #[inline(always)]
    fn copy<const N: usize>(self, image: &[T], start: usize, step: usize, channels: usize) {
        for channel in 0..channels {
            let (to, from) = (self.first + channel * self.step, start + channel * step);
            let to: &mut [T] = &mut self.panel[to..to + N];
            to.copy_from_slice(&image[from..from + N]);
        }
    }
}

impl<T: Word> Im2Col<'_, T> {
    /// Its size in words.
    fn channels(&self) -> usize {
        self.source.channels.div_ceil(T::VALUES)
    }

    fn taps(&self) -> usize {
        self.offsets.0.len() * self.offsets.1.len()
    }

    /// Lanes, divided at the rows of the grid.
    #[inline(always)]
    fn spans(&self, lanes: &Range<usize>) -> Vec<Span> {
        let (rows, columns) = self.grid;
        let (mut spans, mut lane) = (Vec::new(), lanes.start);
        while lane < lanes.end {
            let (line, column) = (lane / columns, lane % columns);
            let end = lanes.end.min(lane + columns - column);
            let image = line / rows * self.channels() * self.source.pixels();
            spans.push(Span {
                lanes: lane - lanes.start..end - lanes.start,
                image,
                row: line % rows,
                column,
            });
            lane = end;
        }
        spans
    }

    /// The runs of adjacent lanes, and the lanes that a tap reads as padding, which runs may pass over.
    #[inline(always)]
    fn trace(&self, spans: &[Span], tap: usize, runs: &mut Vec<Run>, padding: &mut Vec<Range<usize>>) {
        runs.clear();
        padding.clear();
        let (Plane { height, width, .. }, columns) = (self.source, self.grid.1);
        let (step, across) = (self.step as isize, self.offsets.1.len());
        let (below, right) = (self.offsets.0[tap / across], self.offsets.1[tap % across]);
        // The columns of the grid at which the tap is inside of the image.
        let bound = |pixel: isize| {
            let first = if step == 1 { pixel - right } else { (pixel - right + step - 1).div_euclid(step) };
            first.clamp(0, columns as isize) as usize
        };
        let inside = bound(0)..bound(width as isize);
        for Span { lanes, image, row, column } in spans {
            let row = *row as isize * step + below;
            let source = *image as isize + row * width as isize + *column as isize * step + right;
            match runs.last_mut() {
                Some(run) if run.source + run.lanes.len() as isize * step == source => {
                    run.lanes.end = lanes.end
                }
                _ => runs.push(Run { lanes: lanes.clone(), source }),
            }
            let mut pad = |lanes: Range<usize>| match padding.last_mut() {
                _ if lanes.is_empty() => (),
                Some(last) if last.end == lanes.start => last.end = lanes.end,
                _ => padding.push(lanes),
            };
            if (0..height as isize).contains(&row) {
                let at = |bound: usize| (lanes.start + bound.saturating_sub(*column)).min(lanes.end);
                pad(lanes.start..at(inside.start));
                pad(at(inside.end).max(at(inside.start))..lanes.end);
            } else {
                pad(lanes.clone());
            }
        }
    }

    /// Copies a run of `count` words in each of `channels`, the first word at `source`, as far as they are in the
    /// image.
    #[inline(always)]
    fn copy(&self, lines: Lines<T>, count: usize, source: isize, channels: usize) {
        let (pixels, step) = (self.source.pixels(), self.step);
        let last = source + ((channels.max(1) - 1) * pixels + count) as isize;
        if step == 1 && source >= 0 && last <= self.image.len() as isize {
            // Whole lines of the kernels' panels, without a call for each.
            match count {
                16 => return lines.copy::<16>(self.image, source as usize, pixels, channels),
                24 => return lines.copy::<24>(self.image, source as usize, pixels, channels),
                48 => return lines.copy::<48>(self.image, source as usize, pixels, channels),
                _ => (),
            }
        }
        for channel in 0..channels {
            let line = &mut lines.panel[lines.first + channel * lines.step..][..count];
            let source = source + (channel * pixels) as isize;
            let skipped = ((-source).max(0) as usize).div_ceil(step).min(count);
            let start = (source + (skipped * step) as isize).max(0) as usize;
            copy_stepwise(&mut line[skipped..], self.image.get(start..).unwrap_or_default(), step);
        }
    }
}

/// Copies every step-th word, as far as there are some.
#[inline(always)]
fn copy_stepwise<T: Word>(line: &mut [T], source: &[T], step: usize) {
    match step {
        1 => {
            let count = line.len().min(source.len());
            copy_run(&mut line[..count], &source[..count]);
        }
        2 => {
            let (pairs, last) = source.as_chunks::<2>();
            let whole = line.len().min(pairs.len());
            line[..whole].iter_mut().zip(pairs).for_each(|(value, pair)| *value = pair[0]);
            line[whole..].iter_mut().zip(last).for_each(|(value, &x)| *value = x);
        }
        _ => line.iter_mut().zip(source.iter().step_by(step)).for_each(|(value, &x)| *value = x),
    }
}

/// Copies a short run without a call.
#[inline(always)]
pub(super) fn copy_run<T: Word>(line: &mut [T], source: &[T]) {
    let count = line.len();
    if count < LANES {
        line.iter_mut().zip(source).for_each(|(value, &x)| *value = x);
        return;
    }
    for (line, source) in line.as_chunks_mut::<LANES>().0.iter_mut().zip(source.as_chunks::<LANES>().0) {
        *line = *source;
    }
    line[count - LANES..].copy_from_slice(&source[count - LANES..count]);
}

/// The weights by which the columns are multiplied: for every channel of the result (a lane) those of the channels of
/// the image at some taps, in the order of the columns (the depth).
pub(super) struct Kernels<'a> {
    pub weight: &'a [f32],
    pub lanes: usize,
    pub channels: usize,
    /// Weights from one lane and from one channel to the next.
    pub steps: (usize, usize),
    pub taps: &'a [usize],
    /// Adjacent channels of one tap, as in [`Word::VALUES`].
    pub adjacent: usize,
}

impl Operand for Kernels<'_> {
    fn lanes(&self) -> usize {
        self.lanes
    }

    fn depth(&self) -> usize {
        self.channels.next_multiple_of(self.adjacent) * self.taps.len()
    }

    fn pack(&self, lanes: Range<usize>, depth: Range<usize>, width: usize, panel: &mut [f32]) {
        let taps = self.taps.len();
        let (mut word, mut part) = (depth.start / self.adjacent, depth.start % self.adjacent);
        let mut tap = word % taps;
        word /= taps;
        for line in panel.chunks_exact_mut(width).take(depth.len()) {
            let channel = word * self.adjacent + part;
            if channel < self.channels {
                let start = lanes.start * self.steps.0 + channel * self.steps.1 + self.taps[tap];
                let weights = &self.weight[start..=start + (lanes.len() - 1) * self.steps.0];
                match line.first_chunk_mut::<8>() {
                    Some(line) if lanes.len() == 8 => {
                        *line = std::array::from_fn(|i| weights[i * self.steps.0])
                    }
                    _ => {
                        let weights = weights.iter().step_by(self.steps.0);
                        line.iter_mut().zip(weights).for_each(|(value, &x)| *value = x);
                    }
                }
            } else {
                line.fill(0.);
            }
            // The next depth, without a division.
            part += 1;
            if part == self.adjacent {
                (part, tap) = (0, tap + 1);
            }
            if tap == taps {
                (tap, word) = (0, word + 1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Small whole numbers, which bf16 holds exactly.
    #[test]
    fn both_kinds_of_words_are_what_the_taps_read() {
        let source = Plane { channels: 3, height: 4, width: 5 };
        let image: Vec<f32> = (0..2 * 60).map(|i| i as f32).collect();
        let words = paired_channels(&image, source);
        for (step, grid, rows, columns) in [
            (1, (4, 5), -1..2, -1..2),
            (2, (2, 3), -1..2, 0..2),
            (3, (3, 3), -4..-1, 2..7),
            (1, (6, 2), 0..1, -1..1),
        ] {
            let offsets: (Vec<isize>, Vec<isize>) = (rows.collect(), columns.collect());
            let taps = offsets.0.len() * offsets.1.len();
            let single = Im2Col { image: &image, batch: 2, source, grid, step, offsets: &offsets };
            let pairs = Im2Col { image: &words, batch: 2, source, grid, step, offsets: &offsets };
            let read = |lane: usize, channel: usize, tap: usize| {
                let (row, column) = (lane / grid.1 % grid.0 * step, lane % grid.1 * step);
                let row = row as isize + offsets.0[tap / offsets.1.len()];
                let column = column as isize + offsets.1[tap % offsets.1.len()];
                let inside = (0..4).contains(&row) && (0..5).contains(&column) && channel < 3;
                let plane = lane / (grid.0 * grid.1) * 3 + channel;
                if inside { (plane * 20) as f32 + (row * 5 + column) as f32 } else { 0. }
            };
            assert_eq!((single.depth(), pairs.depth()), (3 * taps, 4 * taps));
            let (lanes, width) = (1..single.lanes() - 1, single.lanes());
            for depth in [0..2, 2..3 * taps, 0..3 * taps / 2 * 2] {
                let mut panel = vec![-1.; depth.len() * width];
                single.pack(lanes.clone(), depth.clone(), width, &mut panel);
                for (line, k) in panel.chunks_exact(width).zip(depth.clone()) {
                    for (value, lane) in line.iter().zip(lanes.clone()) {
                        assert_eq!(*value, read(lane, k / taps, k % taps), "{lane} {k}");
                    }
                }
                let depth = depth.start..depth.end / 2 * 2;
                let mut panel = vec![-1.; depth.len() * width];
                pairs.pack(lanes.clone(), depth.clone(), width, &mut panel);
                for (line, k) in panel.chunks_exact(width).zip(depth) {
                    for (value, lane) in line.iter().zip(lanes.clone()) {
                        assert_eq!(*value, read(lane, k / 2 / taps * 2 + k % 2, k / 2 % taps), "{lane} {k}");
                    }
                }
            }
        }
    }
}
