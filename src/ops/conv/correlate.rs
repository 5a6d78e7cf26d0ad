//! The forward pass of a convolution and the gradient of its input: sums over taps, pixel by pixel.

use super::geometry::{Geometry, Layer, Plane};
use super::im2col::{Im2Col, Kernels, Word, paired_channels};
use crate::ops::gemm::{self, MatrixMut, Operand, Panels, Precision, Shared, Side, Store};
use crate::ops::storage::least_tasks;
use rayon::prelude::*;
use std::ops::Range;

/// `x` [B, C, H, W] -> [B, O, H', W'].
pub(super) fn forward(layer: &Layer, x: &[f32]) -> Vec<f32> {
    let Layer { geometry, precision, weight, bias } = *layer;
    let Geometry { batch, input, output, stride, .. } = *geometry;
    let taps = geometry.taps();
    let correlation = Correlation {
        batch,
        source: input,
        result: output,
        grid: (output.height, output.width),
        step: stride,
        stride: 1,
        phases: vec![Phase { taps: (0..taps).collect(), offsets: geometry.offsets() }],
        weight,
        steps: (input.channels * taps, taps),
        bias,
    };
    correlation.run(precision, x)
}

/// `grad` [B, O, H', W'] -> [B, C, H, W].
///
/// Every stride-th pixel of a row or column of the result is read by the same taps: these phases are convolutions of
/// stride 1 with some of the taps.
pub(super) fn backward(layer: &Layer, grad: &[f32]) -> Vec<f32> {
    let Layer { geometry, precision, weight, bias } = *layer;
    let Geometry { batch, input, output, kernel, stride, .. } = *geometry;
    let phases = (0..stride * stride).map(|phase| {
        let (rows, below) = geometry.phase(kernel.0, phase / stride);
        let (columns, right) = geometry.phase(kernel.1, phase % stride);
        let row = |row: usize| columns.iter().map(move |column| row * kernel.1 + column);
        Phase { taps: rows.into_iter().flat_map(row).collect(), offsets: (below, right) }
    });
    let correlation = Correlation {
        batch,
        source: output,
        result: input,
        grid: geometry.phase_grid(),
        step: 1,
        stride,
        phases: phases.collect(),
        weight,
        steps: (geometry.taps(), input.channels * geometry.taps()),
        bias,
    };
    correlation.run(precision, grad)
}

/// Some taps and where they read, relative to `step` times the pixel of the grid.
struct Phase {
    taps: Vec<usize>,
    offsets: (Vec<isize>, Vec<isize>),
}

struct Correlation<'a> {
    batch: usize,
    source: Plane,
    result: Plane,
    /// Rows and columns of each phase.
    grid: (usize, usize),
    /// Pixels of the source from one of the grid to the next.
    step: usize,
    /// Phases of each side: the pixel (row, column) of phase (i, j) is the pixel (row·stride + i, column·stride + j)
    /// of the result, if there is one.
    stride: usize,
    phases: Vec<Phase>,
    weight: &'a [f32],
    /// Weights from one channel of the result and of the source to the next.
    steps: (usize, usize),
    bias: Option<&'a [f32]>,
}

/// Scratch memory of one task.
#[derive(Default)]
struct Scratch {
    panels: gemm::Scratch,
    /// For each phase of a row [channels, lanes].
    products: Vec<f32>,
}

impl Correlation<'_> {
    fn run(&self, precision: Precision, image: &[f32]) -> Vec<f32> {
        match precision {
            Precision::F32 => self.multiply(precision, image),
            Precision::Bf16 => self.multiply(precision, &paired_channels(image, self.source)),
        }
    }

    fn multiply<T: Word>(&self, precision: Precision, image: &[T]) -> Vec<f32>
    where
        for<'c> Im2Col<'c, T>: Operand,
    {
        let channels = self.result.channels;
        let mut result = vec![0f32; self.batch * self.result.values()]; // [B, channels, H, W]
        if result.is_empty() {
            return result;
        }
        let phases: Vec<(Panels, Im2Col<T>)> =
            self.phases.iter().map(|phase| self.operands(precision, image, phase)).collect();
        let shared = Shared::new(&mut result);
        let lanes = self.batch * self.grid.0 * self.grid.1;
        let tasks = phases[0].0.tasks(lanes);
        let depths = phases.iter().map(|(_, columns)| columns.depth()).sum::<usize>();
        let least = least_tasks(tasks.len(), lanes * channels * depths);
        tasks.into_par_iter().with_min_len(least).for_each_init(Scratch::default, |scratch, lanes| {
            let size = channels * lanes.len();
            scratch.products.resize(self.stride * size, 0.);
            for (i, phases) in phases.chunks_exact(self.stride).enumerate() {
                for ((kernels, columns), products) in
                    phases.iter().zip(scratch.products.chunks_exact_mut(size))
                {
                    let mut products = MatrixMut::new(products, channels, lanes.len(), lanes.len());
                    kernels.multiply(columns, lanes.clone(), &mut products, Store::SET, &mut scratch.panels);
                }
                self.store(&shared, i, lanes.clone(), &scratch.products);
            }
        });
        result
    }

    fn operands<'c, T: Word>(
        &self,
        precision: Precision,
        image: &'c [T],
        phase: &'c Phase,
    ) -> (Panels, Im2Col<'c, T>) {
        let kernels = Kernels {
            weight: self.weight,
            lanes: self.result.channels,
            channels: self.source.channels,
            steps: self.steps,
            taps: &phase.taps,
            adjacent: T::VALUES,
        };
        let columns = Im2Col {
            image,
            batch: self.batch,
            source: self.source,
            grid: self.grid,
            step: self.step,
            offsets: &phase.offsets,
        };
        (Panels::new(Side::Left, precision, &kernels), columns)
    }

    /// Writes the products of `lanes` of the phases of row `phase` to the result.
    fn store(&self, shared: &Shared, phase: usize, lanes: Range<usize>, products: &[f32]) {
        let Plane { channels, width, .. } = self.result;
        let (pixels, count, stride) = (self.result.pixels(), lanes.len(), self.stride);
        // Without phases the lanes of an image are adjacent in the result.
        let (grid, width) = if stride == 1 { ((1, pixels), pixels) } else { (self.grid, width) };
        let mut start = lanes.start;
        while start < lanes.end {
            let (line, column) = (start / grid.1, start % grid.1);
            let (image, row) = (line / grid.0, line % grid.0 * stride + phase);
            let end = lanes.end.min(start + grid.1 - column);
            let from = start - lanes.start;
            start = end;
            if row * width >= pixels {
                continue; // the last row lacks some phases
            }
            let place = image * self.result.values() + row * width + column * stride;
            let columns = (width - column * stride).min((end - lanes.start - from) * stride);
            // SAFETY: the tasks have different pixels, and here one run is written after another.
            let mut part = unsafe { shared.matrix(place, channels, columns, pixels) };
            for channel in 0..channels {
                let bias = self.bias.map_or(0., |bias| bias[channel]);
                let line = part.row(channel);
                let product = |phase: usize| &products[(phase * channels + channel) * count + from..];
                match stride {
                    1 => line.iter_mut().zip(product(0)).for_each(|(value, x)| *value = x + bias),
                    2 => {
                        let (pairs, last) = line.as_chunks_mut::<2>();
                        for ((pair, even), odd) in pairs.iter_mut().zip(product(0)).zip(product(1)) {
                            *pair = [even + bias, odd + bias];
                        }
                        last.iter_mut().for_each(|value| *value = product(0)[columns / 2] + bias);
                    }
                    _ => {
                        for phase in 0..stride.min(columns) {
                            let line = line[phase..].iter_mut().step_by(stride);
                            line.zip(product(phase)).for_each(|(value, x)| *value = x + bias);
                        }
                    }
                }
            }
        }
    }
}
