//! The gradient of the weight of a convolution: sums over all pixels of all images.

use super::geometry::Geometry;
use super::im2col::{Word, copy_run};
use crate::ops::gemm::{
    self, Matrix, MatrixMut, Operand, Pairs, Panels, Precision, Shared, Side, Store, unpaired,
};
use crate::ops::simd::{Kernel, vectorized};
use crate::ops::storage::for_rows;
use rayon::prelude::*;
use std::ops::Range;

/// Approximate number of pixels in a band.
const PIXELS: usize = 2048;
/// Channels of a block, or a multiple of them where the kernel is small.
const CHANNELS: usize = 16;
/// Lanes of a block, at least, and those that are multiplied at once, at most.
const LANES: Range<usize> = 96..288;
/// Approximate number of tasks when the image has few channels.
const TASKS: usize = 32;

/// `x` [B, C, H, W], `grad` [B, O, H', W'] -> [O, C, kh, kw].
pub(super) fn gradient(geometry: &Geometry, precision: Precision, x: &[f32], grad: &[f32]) -> Vec<f32> {
    match precision {
        Precision::F32 => sum::<f32>(geometry, precision, x, grad),
        Precision::Bf16 => sum::<u32>(geometry, precision, x, grad),
    }
}

fn sum<T: Word>(geometry: &Geometry, precision: Precision, x: &[f32], grad: &[f32]) -> Vec<f32>
where
    for<'s> Slab<'s, T>: Operand + Fill,
{
    let Geometry { input, output, .. } = *geometry;
    let (taps, size) = (geometry.taps(), output.channels * input.channels * geometry.taps());
    if size == 0 {
        return vec![];
    }
    let panels = |band| {
        let gradients = Gradients { geometry, band, grad, line: output.width.next_multiple_of(T::VALUES) };
        Panels::new(Side::Left, precision, &gradients)
    };
    let bands = bands(geometry);
    let panels: Vec<(&Band, Panels)> = bands.iter().map(|band| (band, panels(band))).collect();
    let step = CHANNELS * LANES.start.div_ceil(CHANNELS * taps);
    let blocks: Vec<Range<usize>> =
        (0..input.channels).step_by(step).map(|start| start..input.channels.min(start + step)).collect();
    // Blocks of channels are tasks; if there are few, bands are tasks too, and their sums are added in order.
    let parts = TASKS.div_ceil(blocks.len()).min(bands.len()).max(1);
    let bands_of_part = bands.len().div_ceil(parts).max(1);
    let mut sums = vec![0f32; parts * size];
    let shared = Shared::new(&mut sums);
    (0..parts * blocks.len()).into_par_iter().for_each_init(Scratch::<T>::default, |scratch, task| {
        let (part, channels) = (task / blocks.len(), blocks[task % blocks.len()].clone());
        let lanes = channels.len() * taps;
        scratch.sums.resize(output.channels * lanes, 0.);
        scratch.sums.fill(0.);
        for (band, panels) in panels.iter().skip(part * bands_of_part).take(bands_of_part) {
            let mut slab = Slab::new(geometry, band, channels.len(), std::mem::take(&mut scratch.slab));
            slab.fill(x, channels.start, &mut scratch.line);
            for start in (0..lanes).step_by(LANES.end) {
                let part = start..lanes.min(start + LANES.end);
                let mut sums = MatrixMut::new(&mut scratch.sums[start..], output.channels, part.len(), lanes);
                panels.multiply(&slab, part, &mut sums, Store::ADD, &mut scratch.panels);
            }
            scratch.slab = slab.words;
        }
        let start = part * size + channels.start * taps;
        // SAFETY: the tasks have different parts or channels.
        let mut result = unsafe { shared.matrix(start, output.channels, lanes, input.channels * taps) };
        for (out, sums) in scratch.sums.chunks_exact(lanes).enumerate() {
            let sums = Matrix::new(sums, taps, channels.len(), channels.len());
            sums.pack(0..taps, 0..channels.len(), taps, result.row(out)); // [channels, taps]
        }
    });
    if parts > 1 {
        let (total, rest) = sums.split_at_mut(size);
        for_rows(total, 1, |range, total| {
            for part in rest.chunks_exact(size) {
                total.iter_mut().zip(&part[range.clone()]).for_each(|(total, &sum)| *total += sum);
            }
        });
        sums.truncate(size);
    }
    sums
}

/// Scratch memory of one task.
#[derive(Default)]
struct Scratch<T> {
    panels: gemm::Scratch,
    slab: Vec<T>,
    line: Vec<f32>,
    /// [O, taps, channels]
    sums: Vec<f32>,
}

/// Pixels of the output: rows of one image, or all of several.
struct Band {
    images: Range<usize>,
    rows: Range<usize>,
}

fn bands(geometry: &Geometry) -> Vec<Band> {
    let (height, width) = (geometry.output.height, geometry.output.width);
    let images = (PIXELS / (height * width)).max(1);
    let rows = match images {
        1 => height.div_ceil((height * width).div_ceil(PIXELS)),
        _ => height,
    };
    let images = (0..geometry.batch).step_by(images).map(|start| start..geometry.batch.min(start + images));
    let rows_of = |images: Range<usize>| {
        let rows = (0..height).step_by(rows).map(move |start| start..height.min(start + rows));
        rows.map(move |rows| Band { images: images.clone(), rows })
    };
    images.flat_map(rows_of).collect()
}

/// For every channel of the output (a lane) the gradients of the pixels of a band, row by row (the depth).
struct Gradients<'a> {
    geometry: &'a Geometry,
    band: &'a Band,
    grad: &'a [f32],
    /// Depths of a row: its pixels, and zeros.
    line: usize,
}

impl Operand for Gradients<'_> {
    fn lanes(&self) -> usize {
        self.geometry.output.channels
    }

    fn depth(&self) -> usize {
        self.band.images.len() * self.band.rows.len() * self.line
    }

    fn pack(&self, lanes: Range<usize>, depth: Range<usize>, width: usize, panel: &mut [f32]) {
        let (output, rows) = (self.geometry.output, self.band.rows.len());
        // Rows without zeros are adjacent in an image.
        let joined = if self.line == output.width { rows } else { 1 };
        let (pixels, line) = (joined * output.width, joined * self.line);
        let mut start = depth.start;
        while start < depth.end {
            let (row, pixel) = (start / line * joined, start % line);
            let end = depth.end.min(start + line - pixel);
            let panel = &mut panel[(start - depth.start) * width..(end - depth.start) * width];
            let (image, row) = (self.band.images.start + row / rows, self.band.rows.start + row % rows);
            let place = image * output.values() + row * output.width;
            let matrix = Matrix::new(&self.grad[place..], output.channels, pixels, output.pixels());
            let present = (end - start).min(pixels.saturating_sub(pixel));
            let (panel, zeros) = panel.split_at_mut(present * width);
            matrix.pack(lanes.clone(), pixel..pixel + present, width, panel);
            zeros.fill(0.);
            start = end;
        }
    }
}

/// Some channels of the pixels that a band reads, padded, with the channels of a pixel side by side, so that the words
/// of a row of taps are adjacent: for every tap and channel (a lane) the values at the pixels of the band (the depth).
struct Slab<'a, T> {
    geometry: &'a Geometry,
    band: &'a Band,
    channels: usize,
    /// Rows and columns of an image.
    size: (usize, usize),
    /// [images, rows, columns, channels]; where a word is two values, the second is that of the next pixel of the
    /// output.
    words: Vec<T>,
}

impl<'a, T: Word> Slab<'a, T> {
    fn new(geometry: &'a Geometry, band: &'a Band, channels: usize, mut words: Vec<T>) -> Self {
        let Geometry { output, kernel, stride, .. } = *geometry;
        let extent = |pixels: usize, taps: usize| (pixels - 1) * stride + taps;
        let size = (extent(band.rows.len(), kernel.0), extent(output.width, kernel.1));
        words.resize(band.images.len() * size.0 * size.1 * channels, T::default());
        Self { geometry, band, channels, size, words }
    }

    /// Writes the pixels of a row of the slab, [columns, channels], to `values`; those that padding covers are zeros.
    fn read(&self, x: &[f32], first: usize, row: usize, values: &mut [f32]) {
        let Geometry { input, stride, padding, .. } = *self.geometry;
        let (image, row) =
            (self.band.images.start + row / self.size.0, self.band.rows.start * stride + row % self.size.0);
        let inside = padding.min(self.size.1)..(padding + input.width).min(self.size.1);
        let present = row.checked_sub(padding).filter(|&row| row < input.height && !inside.is_empty());
        let Some(row) = present else { return values.fill(0.) };
        let place = image * input.values() + first * input.pixels() + row * input.width;
        let pixels = Matrix::new(&x[place..], self.channels, inside.len(), input.pixels());
        let (before, rest) = values.split_at_mut(inside.start * self.channels);
        let (values, after) = rest.split_at_mut(inside.len() * self.channels);
        before.fill(0.);
        after.fill(0.);
        pixels.pack(0..self.channels, 0..inside.len(), self.channels, values);
    }

    /// [rows of taps, columns of taps, channels]
    fn lanes(&self) -> usize {
        self.geometry.taps() * self.channels
    }

    /// In words: rows of pixels.
    fn depth(&self) -> usize {
        self.band.images.len() * self.band.rows.len() * self.geometry.output.width.div_ceil(T::VALUES)
    }
}

trait Fill {
    /// Selects the channels from `first` on.
    fn fill(&mut self, x: &[f32], first: usize, line: &mut Vec<f32>);
}

impl Fill for Slab<'_, f32> {
    fn fill(&mut self, x: &[f32], first: usize, _: &mut Vec<f32>) {
        let mut words = std::mem::take(&mut self.words);
        for (row, values) in words.chunks_exact_mut(self.size.1 * self.channels).enumerate() {
            self.read(x, first, row, values);
        }
        self.words = words;
    }
}

impl Fill for Slab<'_, u32> {
    fn fill(&mut self, x: &[f32], first: usize, line: &mut Vec<f32>) {
        line.resize(self.size.1 * self.channels, 0.);
        let next = self.geometry.stride * self.channels;
        let mut words = std::mem::take(&mut self.words);
        for (row, words) in words.chunks_exact_mut(line.len()).enumerate() {
            self.read(x, first, row, line);
            let high = line.get(next..).unwrap_or_default();
            vectorized(Pairs { low: line, high, words });
        }
        self.words = words;
    }
}

impl Operand for Slab<'_, f32> {
    fn lanes(&self) -> usize {
        self.lanes()
    }

    fn depth(&self) -> usize {
        self.depth()
    }

    fn pack(&self, lanes: Range<usize>, depth: Range<usize>, width: usize, panel: &mut [f32]) {
        vectorized(Gather { slab: self, lanes, depth, width, panel });
    }
}

impl Operand for Slab<'_, u32> {
    fn lanes(&self) -> usize {
        self.lanes()
    }

    fn depth(&self) -> usize {
        2 * self.depth()
    }

    fn pack(&self, lanes: Range<usize>, depth: Range<usize>, width: usize, panel: &mut [f32]) {
        unpaired(panel, width, |words| self.pack_pairs(lanes, depth, width, words));
    }

    fn pack_pairs(&self, lanes: Range<usize>, depth: Range<usize>, width: usize, panel: &mut [u32]) -> bool {
        let depth = depth.start / 2..depth.end / 2;
        vectorized(Gather { slab: self, lanes, depth, width, panel });
        true
    }
}

struct Gather<'a, T> {
    slab: &'a Slab<'a, T>,
    lanes: Range<usize>,
    depth: Range<usize>,
    width: usize,
    panel: &'a mut [T],
}

impl<T: Word> Kernel for Gather<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { slab, lanes, depth, width, panel } = self;
        let Geometry { output, kernel, stride, .. } = *slab.geometry;
        let (line, run) = (slab.size.1 * slab.channels, kernel.1 * slab.channels);
        let next = T::VALUES * stride * slab.channels;
        let (rows, columns) = (slab.band.rows.len(), output.width.div_ceil(T::VALUES));
        // (lanes, where the first of them lies relative to the pixel) of each row of taps
        let mut runs = Vec::new();
        let mut lane = lanes.start;
        while lane < lanes.end {
            let end = lanes.end.min((lane / run + 1) * run);
            runs.push((lane - lanes.start..end - lanes.start, lane / run * line + lane % run));
            lane = end;
        }
        let (mut lines, mut word) = (panel.chunks_exact_mut(width), depth.start);
        while word < depth.end {
            let (row, column) = (word / columns, word % columns);
            let count = (columns - column).min(depth.end - word);
            let row = row / rows * slab.size.0 + row % rows * stride;
            let words = &slab.words[row * line + column * next..];
            for (i, panel) in lines.by_ref().take(count).enumerate() {
                for (lanes, place) in &runs {
                    copy_run(&mut panel[lanes.clone()], &words[i * next + place..][..lanes.len()]);
                }
            }
            word += count;
        }
    }
}
