//! The transforms of Winograd's minimal filtering F(4×4, 3×3): tiles of 4×4 pixels of the result, which 6×6 pixels of
//! the source reach, become 36 points; there the convolution is a product of each point for itself.
//!
//! A tile and a kernel are polynomials (in rows and in columns) that are evaluated at 0, ±A, ±B and ∞. With A = 3/4 and
//! B = 3/2 errors of rounding are a sixth of those with the usual 1 and 2: at 256 channels they are 2.4e-6 of the
//! largest value, and 4e-7 where products are summed directly.

use super::geometry::Plane;
use super::im2col::copy_run;
use super::lanes::{Lanes, ZERO, filled};
use crate::ops::gemm::rounded;
use crate::ops::simd::{Kernel, LANES};
use std::ops::Range;

/// Pixels of a side of a tile of the result.
pub(super) const TILE: usize = 4;
/// Pixels of the source that a side of a tile reads, and points of a side.
const SIDE: usize = TILE + 2;
/// Points of a tile.
pub(super) const POINTS: usize = SIDE * SIDE;
/// Approximate number of tiles that are transformed at a time: their scratch memory fits the level-1 cache.
const UNIT: usize = 64;

const A: f32 = 0.75;
const B: f32 = 1.5;
const A2: f32 = A * A;
const B2: f32 = B * B;
/// Factors of the points 0, ±A and ±B of a kernel.
const AT_0: f32 = 1. / (A2 * B2);
const AT_A: f32 = 1. / (2. * A2 * (A2 - B2));
const AT_B: f32 = 1. / (2. * B2 * (B2 - A2));

/// The points of pixels of the source.
#[inline(always)]
fn points_of_source(d: [Lanes; SIDE]) -> [Lanes; SIDE] {
    let (even, odd) = (d[4] - d[2] * B2, (d[3] - d[1] * B2) * A);
    let (even2, odd2) = (d[4] - d[2] * A2, (d[3] - d[1] * A2) * B);
    let end = |i: usize| d[i] * (A2 * B2) - d[i + 2] * (A2 + B2) + d[i + 4];
    [end(0), even + odd, even - odd, even2 + odd2, even2 - odd2, end(1)]
}

/// The pixels of the result from the points of the products.
#[inline(always)]
fn result_of_points(m: [Lanes; SIDE]) -> [Lanes; TILE] {
    let (even, odd) = (m[1] + m[2], m[1] - m[2]);
    let (even2, odd2) = (m[3] + m[4], m[3] - m[4]);
    [m[0] + even + even2, odd * A + odd2 * B, even * A2 + even2 * B2, odd * (A * A2) + odd2 * (B * B2) + m[5]]
}

/// The transpose of [`result_of_points`]: the points of gradients of the result.
#[inline(always)]
fn points_of_result(y: [Lanes; TILE]) -> [Lanes; SIDE] {
    let (even, odd) = (y[0] + y[2] * A2, y[1] * A + y[3] * (A * A2));
    let (even2, odd2) = (y[0] + y[2] * B2, y[1] * B + y[3] * (B * B2));
    [y[0], even + odd, even - odd, even2 + odd2, even2 - odd2, y[3]]
}

/// The points of weights.
#[inline(always)]
fn points_of_kernel(g: [Lanes; 3]) -> [Lanes; SIDE] {
    let (even, odd) = ((g[0] + g[2] * A2) * AT_A, g[1] * (A * AT_A));
    let (even2, odd2) = ((g[0] + g[2] * B2) * AT_B, g[1] * (B * AT_B));
    [g[0] * AT_0, even + odd, even - odd, even2 + odd2, even2 - odd2, g[2]]
}

/// The transpose of [`points_of_kernel`]: gradients of weights from those of their points.
#[inline(always)]
fn kernel_of_points(u: [Lanes; SIDE]) -> [Lanes; 3] {
    let (even, odd) = ((u[1] + u[2]) * AT_A, (u[1] - u[2]) * (A * AT_A));
    let (even2, odd2) = ((u[3] + u[4]) * AT_B, (u[3] - u[4]) * (B * AT_B));
    [u[0] * AT_0 + even + even2, odd + odd2, even * A2 + even2 * B2 + u[5]]
}

/// The tiles of an image: rows of tiles and tiles of a row. Rows are counted through all images.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Tiling {
    pub rows: usize,
    pub columns: usize,
}

impl Tiling {
    pub(super) fn of(result: Plane) -> Self {
        Self { rows: result.height.div_ceil(TILE), columns: result.width.div_ceil(TILE) }
    }

    /// The image and the first row of pixels of a row of tiles.
    fn place(&self, row: usize) -> (usize, usize) {
        (row / self.rows, row % self.rows * TILE)
    }

    /// Rows of tiles that are transformed at a time, if a row of them takes so many lanes.
    fn units(rows: Range<usize>, lanes: usize) -> impl Iterator<Item = Range<usize>> {
        let step = (UNIT / lanes).max(1);
        let end = rows.end;
        rows.step_by(step).map(move |start| start..end.min(start + step))
    }
}

/// Memory of a thread.
#[derive(Default)]
pub(super) struct Scratch {
    pixels: Vec<f32>,
    phases: Vec<f32>,
    points: Vec<f32>,
}

/// One channel of the images [B, C, H, W], of which the tiles in `rows` are transformed.
pub(super) struct Channel<'a> {
    pub images: &'a [f32],
    pub plane: Plane,
    pub channel: usize,
    pub tiling: Tiling,
    pub rows: Range<usize>,
    /// Whether to round the pixels to bf16.
    pub round: bool,
}

impl Channel<'_> {
    /// Copies `N` rows of pixels a row of tiles, `width` long and surrounded by zeros, to [N, length].
    #[inline(always)]
    fn read<const N: usize>(
        &self,
        rows: Range<usize>,
        padding: usize,
        width: usize,
        pixels: &mut [f32],
        length: usize,
    ) {
        let Plane { height, width: columns, .. } = self.plane;
        let count = columns.min(width - padding);
        for (k, row) in rows.enumerate() {
            let (image, first) = self.tiling.place(row);
            let image = &self.images[image * self.plane.values() + self.channel * self.plane.pixels()..];
            for i in 0..N {
                let to = &mut pixels[i * length + k * width..][..width];
                match (first + i).checked_sub(padding).filter(|&row| row < height) {
                    Some(row) => {
                        to[..padding].fill(0.);
                        copy_run(&mut to[padding..padding + count], &image[row * columns..][..count]);
                        to[padding + count..].fill(0.);
                    }
                    None => to.fill(0.),
                }
            }
        }
        if self.round {
            for x in pixels {
                *x = f32::from_bits(rounded(*x) << 16);
            }
        }
    }

    /// Writes the points of every tile, of which a side has `N` pixels, to `points`.
    #[inline(always)]
    fn spread<const N: usize>(
        &self,
        padding: usize,
        transform: impl Fn([Lanes; N]) -> [Lanes; SIDE],
        scratch: &mut Scratch,
        points: &mut [&mut [f32]; POINTS],
    ) {
        let Scratch { pixels, phases, points: found } = scratch;
        let tiles = self.tiling.columns;
        // A lane beyond the last tile of a row has the pixels that reach over its end.
        let columns = tiles + (N - TILE).div_ceil(TILE);
        let mut done = 0;
        for rows in Tiling::units(self.rows.clone(), columns) {
            let lanes = (rows.len() * columns).next_multiple_of(LANES);
            let (length, step) = (TILE * lanes, lanes + LANES);
            pixels.resize(N * length, 0.);
            phases.resize(SIDE * TILE * step, 0.);
            found.resize(POINTS * lanes, 0.);
            self.read::<N>(rows.clone(), padding, columns * TILE, pixels, length);
            for first in (0..lanes).step_by(LANES) {
                let mut lines = [[0f32; TILE * LANES]; SIDE];
                for part in (0..TILE * LANES).step_by(LANES) {
                    let source = filled(ZERO, |i| Lanes::load(&pixels[i * length + first * TILE + part..]));
                    for (line, value) in lines.iter_mut().zip(transform(source)) {
                        value.store(&mut line[part..part + LANES]);
                    }
                }
                for (line, phases) in lines.iter().zip(phases.chunks_exact_mut(TILE * step)) {
                    for (phase, place) in phases.chunks_exact_mut(step).enumerate() {
                        Lanes(filled(0., |lane| line[lane * TILE + phase])).store(&mut place[first..]);
                    }
                }
            }
            for first in (0..lanes).step_by(LANES) {
                for (phases, found) in
                    phases.chunks_exact(TILE * step).zip(found.chunks_exact_mut(SIDE * lanes))
                {
                    let source =
                        filled(ZERO, |i| Lanes::load(&phases[i % TILE * step + first + i / TILE..][..LANES]));
                    for (value, place) in transform(source).into_iter().zip(found.chunks_exact_mut(lanes)) {
                        value.store(&mut place[first..first + LANES]);
                    }
                }
            }
            for (points, found) in points.iter_mut().zip(found.chunks_exact(lanes)) {
                let lines = points[done..done + rows.len() * tiles].chunks_exact_mut(tiles);
                for (line, found) in lines.zip(found.chunks(columns)) {
                    copy_run(line, &found[..tiles]);
                }
            }
            done += rows.len() * tiles;
        }
    }
}

/// Transforms the pixels of the source.
pub(super) struct Source<'a> {
    pub channel: Channel<'a>,
    pub padding: usize,
    pub scratch: &'a mut Scratch,
    pub points: [&'a mut [f32]; POINTS],
}

impl Kernel for Source<'_> {
    type Output = ();

    #[inline(always)]
    fn run(mut self) {
        self.channel.spread(self.padding, points_of_source, self.scratch, &mut self.points);
    }
}

/// Transforms the gradients of the result.
pub(super) struct Gradients<'a> {
    pub channel: Channel<'a>,
    pub scratch: &'a mut Scratch,
    pub points: [&'a mut [f32]; POINTS],
}

impl Kernel for Gradients<'_> {
    type Output = ();

    #[inline(always)]
    fn run(mut self) {
        self.channel.spread(0, points_of_result, self.scratch, &mut self.points);
    }
}

/// Writes the pixels of the result, plus `bias`, to the lines that `line` finds for (image, row).
pub(super) struct Products<'a, L> {
    pub points: [&'a [f32]; POINTS],
    pub tiling: Tiling,
    pub rows: Range<usize>,
    /// Height and width of the result.
    pub size: (usize, usize),
    pub scratch: &'a mut Scratch,
    pub bias: f32,
    pub line: L,
}

impl<'l, L: Fn(usize, usize) -> &'l mut [f32]> Kernel for Products<'_, L> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let (Tiling { columns, .. }, pixels) = (self.tiling, &mut self.scratch.pixels);
        let mut done = 0;
        for rows in Tiling::units(self.rows, columns) {
            let count = rows.len() * columns;
            let length = TILE * count.next_multiple_of(LANES);
            pixels.resize(TILE * length, 0.);
            for first in (0..count).step_by(LANES) {
                let at = |i: usize| Lanes::load(&self.points[i][done + first..]);
                let mut columns = [[ZERO; TILE]; SIDE];
                for (j, column) in columns.iter_mut().enumerate() {
                    *column = result_of_points(filled(ZERO, |i| at(i * SIDE + j)));
                }
                for (i, line) in pixels.chunks_exact_mut(length).enumerate() {
                    let row = result_of_points(filled(ZERO, |j| columns[j][i]));
                    let line = &mut line[first * TILE..][..TILE * LANES];
                    for (lane, quad) in line.as_chunks_mut::<TILE>().0.iter_mut().enumerate() {
                        *quad = filled(0., |phase| row[phase].0[lane]);
                    }
                }
            }
            for (k, row) in rows.enumerate() {
                let (image, first) = self.tiling.place(row);
                for (i, pixels) in pixels.chunks_exact(length).enumerate().take(self.size.0 - first) {
                    let pixels = &pixels[k * columns * TILE..][..self.size.1];
                    for (value, x) in (self.line)(image, first + i).iter_mut().zip(pixels) {
                        *value = x + self.bias;
                    }
                }
            }
            done += count;
        }
    }
}

/// Transforms the kernels of adjacent channels, [channels, 9].
pub(super) struct Kernels<'a> {
    pub weights: &'a [f32],
    /// Whether to turn the kernels by half a turn.
    pub turned: bool,
    /// Whether to round the weights to bf16.
    pub round: bool,
    pub points: [&'a mut [f32]; POINTS],
}

impl Kernel for Kernels<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for (group, weights) in self.weights.chunks(9 * LANES).enumerate() {
            let kernels = weights.as_chunks::<9>().0;
            let mut taps = [ZERO; 9];
            for (lane, kernel) in kernels.iter().enumerate() {
                for (tap, &weight) in kernel.iter().enumerate() {
                    let tap = if self.turned { 8 - tap } else { tap };
                    taps[tap].0[lane] = weight;
                }
            }
            if self.round {
                for x in taps.iter_mut().flat_map(|lanes| &mut lanes.0) {
                    *x = f32::from_bits(rounded(*x) << 16);
                }
            }
            let mut columns = [[ZERO; SIDE]; 3];
            for (j, column) in columns.iter_mut().enumerate() {
                *column = points_of_kernel(filled(ZERO, |i| taps[3 * i + j]));
            }
            #[expect(clippy::needless_range_loop, reason = "it is an index of the inner dimension")]
            for i in 0..SIDE {
                let points = points_of_kernel(filled(ZERO, |j| columns[j][i]));
                for (j, value) in points.into_iter().enumerate() {
                    value.store(&mut self.points[i * SIDE + j][group * LANES..]);
                }
            }
        }
    }
}

/// Writes the gradients of the kernels of adjacent channels, [channels, 9].
pub(super) struct KernelGradients<'a> {
    pub points: [&'a [f32]; POINTS],
    pub weights: &'a mut [f32],
}

impl Kernel for KernelGradients<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for (group, weights) in self.weights.chunks_mut(9 * LANES).enumerate() {
            let at = |i: usize| Lanes::load(&self.points[i][group * LANES..]);
            let (mut columns, mut rows) = ([[ZERO; 3]; SIDE], [[ZERO; 3]; 3]);
            for (j, column) in columns.iter_mut().enumerate() {
                *column = kernel_of_points(filled(ZERO, |i| at(i * SIDE + j)));
            }
            for (i, row) in rows.iter_mut().enumerate() {
                *row = kernel_of_points(filled(ZERO, |j| columns[j][i]));
            }
            for (lane, kernel) in weights.as_chunks_mut::<9>().0.iter_mut().enumerate() {
                *kernel = filled(0., |tap| rows[tap / 3][tap % 3].0[lane]);
            }
        }
    }
}
