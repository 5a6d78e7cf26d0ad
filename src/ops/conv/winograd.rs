//! 3×3 convolutions of stride 1 by Winograd's minimal filtering F(4×4, 3×3): 36 products of matrices, which together
//! take a quarter of the multiplications, between the transforms of [`super::transform`].
//!
//! Operands that are to be rounded to bf16 are rounded before they are transformed, and then multiplied in f32. A value
//! that is not finite makes up to 16 pixels around it not finite.

use super::geometry::{Geometry, Layer, Plane};
use super::lanes::transformed;
use super::transform::{
    Channel, Gradients, KernelGradients, Kernels, POINTS, Products, Scratch, Source, Tiling,
};
use crate::ops::fresh::to_overwrite;
use crate::ops::gemm::{self, Matrix, MatrixMut, Panels, Precision, Shared, Side, Store, paired};
use crate::ops::simd::LANES;
use rayon::prelude::*;
use std::array::from_fn;
use std::ops::Range;

/// Approximate number of tiles, and largest number of channels of the source, whose points are stored at a time: with
/// the products they fit a level-3 cache if there are 256 channels.
const TILES: usize = 320;
const CHANNELS: usize = 384;
/// What the transforms of a tile and a channel on either side cost, in multiplications.
const TRANSFORMS: f64 = 2500.;
/// Tiles of an image from which on the transforms of kernels pay even for a single image: in f32, and in bf16 where the
/// processor has faster units for it.
const FEW: usize = 16;
const MANY: usize = 64;

/// Whether a convolution can be computed this way.
pub(super) fn possible(geometry: &Geometry) -> bool {
    geometry.kernel == (3, 3) && geometry.stride == 1 && geometry.padding <= 2 && geometry.batch > 0
}

/// Whether a convolution and its gradients are at least a tenth faster this way than as sums over taps. The size of the
/// batch does not matter, so that the last bits of an image do not depend on the images beside it.
pub(super) fn pays(geometry: &Geometry, precision: Precision) -> bool {
    let Geometry { input, output, .. } = *geometry;
    let Tiling { rows, columns } = Tiling::of(output);
    let tiles = (rows * columns) as f64;
    let (from, to) = (input.channels as f64, output.channels as f64);
    // For each channel on either side: multiplications of a sum over taps, and of the points.
    let channels = from * to / (from + to).max(1.);
    let sums = 9. * output.pixels() as f64 / tiles.max(1.) * channels;
    let points = POINTS as f64 * channels + TRANSFORMS;
    let (sums, least) = if paired(precision) { (sums / 2., MANY) } else { (sums, FEW) };
    possible(geometry) && rows * columns >= least && sums >= 1.1 * points
}

/// `x` [B, C, H, W] -> [B, O, H', W'].
pub(super) fn forward(layer: &Layer, x: &[f32]) -> Vec<f32> {
    let Layer { geometry, precision, weight, bias } = *layer;
    let Geometry { batch, input, output, padding, .. } = *geometry;
    let round = precision == Precision::Bf16;
    Correlation { batch, source: input, result: output, padding, turned: false, weight, bias, round }.run(x)
}

/// `grad` [B, O, H', W'] -> [B, C, H, W].
pub(super) fn backward(layer: &Layer, grad: &[f32]) -> Vec<f32> {
    let Layer { geometry, precision, weight, bias } = *layer;
    let Geometry { batch, input, output, padding, .. } = *geometry;
    let (padding, round) = (2 - padding, precision == Precision::Bf16);
    Correlation { batch, source: output, result: input, padding, turned: true, weight, bias, round }.run(grad)
}

/// The points of the tiles or kernels of a matrix of channels: for each of them [rows, columns].
struct Points {
    values: Vec<f32>,
    rows: usize,
    columns: usize,
}

impl Points {
    /// Memory for the points of such a matrix or a smaller one.
    fn new(rows: usize, columns: usize) -> Self {
        Self { values: to_overwrite(POINTS * Self::step(rows, columns)), rows, columns }
    }

    /// Values from one point to the next, which do not fall on the same lines of a cache.
    fn step(rows: usize, columns: usize) -> usize {
        (rows * columns).next_multiple_of(LANES) + LANES
    }

    /// Writes all rows in parallel.
    fn fill(
        &mut self,
        rows: usize,
        columns: usize,
        write: impl Fn(usize, &mut Scratch, [&mut [f32]; POINTS]) + Sync,
    ) {
        (self.rows, self.columns) = (rows, columns);
        let step = Self::step(rows, columns);
        assert!(POINTS * step <= self.values.len(), "more points than there is memory for");
        let shared = Shared::new(&mut self.values);
        (0..rows).into_par_iter().for_each_init(Scratch::default, |scratch, row| {
            // SAFETY: the tasks have different rows, and the points of a row are different parts.
            let points = from_fn(|i| unsafe { shared.part(i * step + row * columns, columns) });
            write(row, scratch, points);
        });
    }

    /// Writes the matrix of every point in parallel.
    fn multiply(
        &mut self,
        rows: usize,
        columns: usize,
        write: impl Fn(usize, MatrixMut, &mut Panels, &mut gemm::Scratch) + Sync,
    ) {
        (self.rows, self.columns) = (rows, columns);
        let step = Self::step(rows, columns);
        let products = self.values[..POINTS * step].par_chunks_exact_mut(step).enumerate();
        let scratch = || (Panels::empty(Side::Left, Precision::F32), gemm::Scratch::default());
        products.for_each_init(scratch, |(panels, scratch), (i, values)| {
            write(i, MatrixMut::new(values, rows, columns, columns), panels, scratch);
        });
    }

    /// The matrix of a point.
    fn matrix(&self, point: usize) -> Matrix<'_> {
        let start = point * Self::step(self.rows, self.columns);
        let values = &self.values[start..start + self.rows * self.columns];
        Matrix::new(values, self.rows, self.columns, self.columns)
    }

    /// The points of a row.
    fn row(&self, row: usize) -> [&[f32]; POINTS] {
        let step = Self::step(self.rows, self.columns);
        from_fn(|i| &self.values[i * step + row * self.columns..][..self.columns])
    }
}

/// `count` parts that differ by at most one, of at most `most` if that is possible.
fn parts(total: usize, most: usize) -> Vec<Range<usize>> {
    let count = total.div_ceil(most.max(1));
    (0..count).map(|i| total * i / count..total * (i + 1) / count).collect()
}

struct Correlation<'a> {
    batch: usize,
    source: Plane,
    result: Plane,
    padding: usize,
    /// Whether the weights [channels of the source, channels of the result] are turned by half a turn, otherwise [result,
    /// source].
    turned: bool,
    weight: &'a [f32],
    bias: Option<&'a [f32]>,
    /// Whether to round the operands to bf16.
    round: bool,
}

impl Correlation<'_> {
    fn run(&self, images: &[f32]) -> Vec<f32> {
        let (tiling, channels) = (Tiling::of(self.result), self.result.channels);
        let chunks = parts(self.batch * tiling.rows, TILES / tiling.columns);
        let blocks = parts(self.source.channels, CHANNELS);
        let (tiles, block) = (longest(&chunks) * tiling.columns, longest(&blocks));
        let mut kernels = Points::new(channels, block);
        let (mut source, mut products) = (Points::new(block, tiles), Points::new(channels, tiles));
        let mut result = to_overwrite(self.batch * self.result.values());
        let shared = Shared::new(&mut result);
        for (i, rows) in chunks.iter().enumerate() {
            let tiles = rows.len() * tiling.columns;
            for block in &blocks {
                if i == 0 || blocks.len() > 1 {
                    self.transform_kernels(block, &mut kernels);
                }
                source.fill(block.len(), tiles, |channel, scratch, points| {
                    let channel = block.start + channel;
                    let (rows, round) = (rows.clone(), self.round);
                    let channel = Channel { images, plane: self.source, channel, tiling, rows, round };
                    transformed(Source { channel, padding: self.padding, scratch, points });
                });
                products.multiply(channels, tiles, |point, mut products, panels, scratch| {
                    let kernels = kernels.matrix(point);
                    match self.turned {
                        true => panels.refill(&kernels.t(), scratch),
                        false => panels.refill(&kernels, scratch),
                    }
                    let (source, store) = (source.matrix(point).t(), Store::adding(block.start > 0));
                    panels.multiply(&source, 0..tiles, &mut products, store, scratch);
                });
            }
            (0..channels).into_par_iter().for_each_init(Scratch::default, |scratch, channel| {
                let bias = self.bias.map_or(0., |bias| bias[channel]);
                let Plane { height, width, .. } = self.result;
                let line = |image: usize, row: usize| {
                    let start = (image * channels + channel) * height * width + row * width;
                    // SAFETY: the tasks have different channels, and the rows of one are written one by one.
                    unsafe { shared.part(start, width) }
                };
                let (points, rows, size) = (products.row(channel), rows.clone(), (height, width));
                transformed(Products { points, tiling, rows, size, scratch, bias, line });
            });
        }
        result
    }

    /// The points of the kernels of some channels of the source, in the order of the weights.
    fn transform_kernels(&self, block: &Range<usize>, kernels: &mut Points) {
        let (outer, inner) = match self.turned {
            true => (block.clone(), 0..self.result.channels),
            false => (0..self.result.channels, block.clone()),
        };
        let step = if self.turned { self.result.channels } else { self.source.channels };
        kernels.fill(outer.len(), inner.len(), |row, _, points| {
            let start = (outer.start + row) * step + inner.start;
            let weights = &self.weight[9 * start..9 * (start + inner.len())];
            transformed(Kernels { weights, turned: self.turned, round: self.round, points });
        });
    }
}

/// `x` [B, C, H, W], `grad` [B, O, H', W'] -> the gradient of the weight, [O, C, 3, 3].
pub(super) fn gradient(geometry: &Geometry, precision: Precision, x: &[f32], grad: &[f32]) -> Vec<f32> {
    let Geometry { batch, input, output, padding, .. } = *geometry;
    let (tiling, round) = (Tiling::of(output), precision == Precision::Bf16);
    let chunks = parts(batch * tiling.rows, TILES / tiling.columns);
    let blocks = parts(input.channels, CHANNELS);
    let (tiles, block) = (longest(&chunks) * tiling.columns, longest(&blocks));
    let (mut gradients, mut source) = (Points::new(output.channels, tiles), Points::new(block, tiles));
    let mut products = Points::new(output.channels, block);
    let mut result = to_overwrite(output.channels * input.channels * 9);
    let shared = Shared::new(&mut result);
    for (i, block) in blocks.iter().enumerate() {
        for (j, rows) in chunks.iter().enumerate() {
            let tiles = rows.len() * tiling.columns;
            let channel = |images, plane, channel| Channel {
                images,
                plane,
                channel,
                tiling,
                rows: rows.clone(),
                round,
            };
            if i == 0 || chunks.len() > 1 {
                gradients.fill(output.channels, tiles, |out, scratch, points| {
                    transformed(Gradients { channel: channel(grad, output, out), scratch, points });
                });
            }
            source.fill(block.len(), tiles, |row, scratch, points| {
                let channel = channel(x, input, block.start + row);
                transformed(Source { channel, padding, scratch, points });
            });
            products.multiply(output.channels, block.len(), |point, mut products, panels, scratch| {
                panels.refill(&gradients.matrix(point), scratch);
                let (source, store) = (source.matrix(point), Store::adding(j > 0));
                panels.multiply(&source, 0..block.len(), &mut products, store, scratch);
            });
        }
        (0..output.channels).into_par_iter().for_each(|out| {
            let start = 9 * (out * input.channels + block.start);
            // SAFETY: the tasks have different channels of the result.
            let weights = unsafe { shared.part(start, 9 * block.len()) };
            transformed(KernelGradients { points: products.row(out), weights });
        });
    }
    result
}

fn longest(parts: &[Range<usize>]) -> usize {
    parts.iter().map(Range::len).max().unwrap_or(0)
}
