//! The transforms of Winograd's minimal filtering F(4×4, 3×3): tiles of 4×4 pixels of the result, which 6×6 pixels of
//! the source reach, become 36 points; there the convolution is a product of each point for itself.
//!
//! A tile and a kernel are polynomials (in rows and in columns) that are evaluated at 0, ±A, ±B and ∞. With A = 3/4 and
//! B = 3/2 errors of rounding are a sixth of those with the usual 1 and 2: at 256 channels they are 2.4e-6 of the
//! largest value, and 4e-7 where products are summed directly.

use super::geometry::Plane;
use super::im2col::copy_run;
use super::lanes::{Transform, Vector, fetch};
use crate::ops::simd::LANES;
use std::ops::Range;

/// Pixels of a side of a tile of the result.
pub(super) const TILE: usize = 4;
/// Pixels of the source that a side of a tile reads, and points of a side.
const SIDE: usize = TILE + 2;
/// Points of a tile.
pub(super) const POINTS: usize = SIDE * SIDE;
/// Approximate number of tiles that are transformed at a time: their scratch memory fits the level-1 cache.
const UNIT: usize = 64;

/// Vectors from one that is loaded or stored to one that is fetched: the points of a tile lie on more lines than
/// processors fetch by themselves.
const AHEAD: usize = 4;

const A: f32 = 0.75;
const B: f32 = 1.5;
const A2: f32 = A * A;
const B2: f32 = B * B;
/// Factors of the points 0, ±A and ±B of a kernel.
const AT_0: f32 = 1. / (A2 * B2);
const AT_A: f32 = 1. / (2. * A2 * (A2 - B2));
const AT_B: f32 = 1. / (2. * B2 * (B2 - A2));

/// Pixels of a side of a tile that become the points of a side.
trait Pixels<const N: usize> {
    fn points<V: Vector>(pixels: [V; N]) -> [V; SIDE];
}

/// Pixels of the source.
struct OfSource;

impl Pixels<SIDE> for OfSource {
    #[inline(always)]
    fn points<V: Vector>(d: [V; SIDE]) -> [V; SIDE] {
        let (even, odd) = (d[4] - d[2] * B2, (d[3] - d[1] * B2) * A);
        let (even2, odd2) = (d[4] - d[2] * A2, (d[3] - d[1] * A2) * B);
        let first = d[0] * (A2 * B2) - d[2] * (A2 + B2) + d[4];
        let last = d[1] * (A2 * B2) - d[3] * (A2 + B2) + d[5];
        [first, even + odd, even - odd, even2 + odd2, even2 - odd2, last]
    }
}

/// Gradients of pixels of the result: the transpose of [`result_of_points`].
struct OfResult;

impl Pixels<TILE> for OfResult {
    #[inline(always)]
    fn points<V: Vector>(y: [V; TILE]) -> [V; SIDE] {
        let (even, odd) = (y[0] + y[2] * A2, y[1] * A + y[3] * (A * A2));
        let (even2, odd2) = (y[0] + y[2] * B2, y[1] * B + y[3] * (B * B2));
        [y[0], even + odd, even - odd, even2 + odd2, even2 - odd2, y[3]]
    }
}

/// The pixels of the result from the points of the products.
#[inline(always)]
fn result_of_points<V: Vector>(m: [V; SIDE]) -> [V; TILE] {
    let (even, odd) = (m[1] + m[2], m[1] - m[2]);
    let (even2, odd2) = (m[3] + m[4], m[3] - m[4]);
    [m[0] + even + even2, odd * A + odd2 * B, even * A2 + even2 * B2, odd * (A * A2) + odd2 * (B * B2) + m[5]]
}

/// The points of weights.
#[inline(always)]
fn points_of_kernel<V: Vector>(g: [V; 3]) -> [V; SIDE] {
    let (even, odd) = ((g[0] + g[2] * A2) * AT_A, g[1] * (A * AT_A));
    let (even2, odd2) = ((g[0] + g[2] * B2) * AT_B, g[1] * (B * AT_B));
    [g[0] * AT_0, even + odd, even - odd, even2 + odd2, even2 - odd2, g[2]]
}

/// The transpose of [`points_of_kernel`]: gradients of weights from those of their points.
#[inline(always)]
fn kernel_of_points<V: Vector>(u: [V; SIDE]) -> [V; 3] {
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
    /// Writes the points of every tile, of which a side has `N` pixels, to `points`.
    #[inline(always)]
    fn spread<V: Vector, P: Pixels<N>, const N: usize>(
        &self,
        padding: usize,
        scratch: &mut Scratch,
        points: &mut [&mut [f32]; POINTS],
    ) {
        let Scratch { pixels, phases } = scratch;
        let Plane { height, width, .. } = self.plane;
        let tiles = self.tiling.columns;
        // A row of pixels with zeros around it, as far as whole vectors of tiles reach.
        let length = (tiles.next_multiple_of(LANES) + LANES) * TILE;
        let inside = padding..(padding + width).min(length);
        pixels.clear();
        pixels.resize(length, 0.);
        let mut done = 0;
        for rows in Tiling::units(self.rows.clone(), tiles) {
            let lanes = rows.len() * tiles;
            // [N, N, step]: the pixels at each place in the tiles.
            let step = lanes + LANES;
            phases.resize(N * N * step, 0.);
            for (k, row) in rows.enumerate() {
                let (image, first) = self.tiling.place(row);
                let image = &self.images[image * self.plane.values() + self.channel * self.plane.pixels()..];
                for (i, phases) in phases.chunks_exact_mut(N * step).enumerate() {
                    let Some(row) = (first + i).checked_sub(padding).filter(|&row| row < height) else {
                        for phase in phases.chunks_exact_mut(step) {
                            phase[k * tiles..][..tiles].fill(0.);
                        }
                        continue;
                    };
                    copy_run(&mut pixels[inside.clone()], &image[row * width..][..inside.len()]);
                    if self.round {
                        for pixels in pixels.as_chunks_mut::<LANES>().0 {
                            V::load(pixels).rounded().store(pixels);
                        }
                    }
                    // Lanes beyond the last tile are overwritten by the next row.
                    for start in (0..tiles).step_by(LANES) {
                        let place = k * tiles + start;
                        let quads = V::from_quads(load_quads(&pixels[start * TILE..]));
                        for (phase, value) in quads.into_iter().enumerate() {
                            value.store_some(&mut phases[phase * step + place..][..LANES]);
                        }
                        // The first pixels of the next tile.
                        let quads = V::from_quads(load_quads(&pixels[(start + 1) * TILE..]));
                        for (phase, value) in quads.into_iter().enumerate().take(N - TILE) {
                            value.store_some(&mut phases[(TILE + phase) * step + place..][..LANES]);
                        }
                    }
                }
            }
            for first in (0..lanes).step_by(LANES) {
                let mut columns = [[V::splat(0.); SIDE]; N];
                for (j, column) in columns.iter_mut().enumerate() {
                    let mut pixels = [V::splat(0.); N];
                    for (i, pixel) in pixels.iter_mut().enumerate() {
                        *pixel = V::load_some(&phases[(i * N + j) * step + first..][..LANES]);
                    }
                    *column = P::points(pixels);
                }
                for i in 0..SIDE {
                    let mut row = [V::splat(0.); N];
                    for (value, column) in row.iter_mut().zip(&columns) {
                        *value = column[i];
                    }
                    for (j, value) in P::points(row).into_iter().enumerate() {
                        let place = &mut points[i * SIDE + j][done + first..];
                        fetch(place, AHEAD);
                        value.store_some(place);
                    }
                }
            }
            done += lanes;
        }
    }
}

/// Vectors that lie side by side.
#[inline(always)]
fn load_quads<V: Vector>(values: &[f32]) -> [V; TILE] {
    let parts = values[..TILE * LANES].as_chunks::<LANES>().0;
    [V::load(&parts[0]), V::load(&parts[1]), V::load(&parts[2]), V::load(&parts[3])]
}

/// Transforms the pixels of the source.
pub(super) struct Source<'a> {
    pub channel: Channel<'a>,
    pub padding: usize,
    pub scratch: &'a mut Scratch,
    pub points: [&'a mut [f32]; POINTS],
}

impl Transform for Source<'_> {
    #[inline(always)]
    fn run<V: Vector>(mut self) {
        self.channel.spread::<V, OfSource, SIDE>(self.padding, self.scratch, &mut self.points);
    }
}

/// Transforms the gradients of the result.
pub(super) struct Gradients<'a> {
    pub channel: Channel<'a>,
    pub scratch: &'a mut Scratch,
    pub points: [&'a mut [f32]; POINTS],
}

impl Transform for Gradients<'_> {
    #[inline(always)]
    fn run<V: Vector>(mut self) {
        self.channel.spread::<V, OfResult, TILE>(0, self.scratch, &mut self.points);
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

impl<'l, L: Fn(usize, usize) -> &'l mut [f32]> Transform for Products<'_, L> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        let (Tiling { columns, .. }, pixels) = (self.tiling, &mut self.scratch.pixels);
        let mut done = 0;
        for rows in Tiling::units(self.rows, columns) {
            let count = rows.len() * columns;
            let length = TILE * count.next_multiple_of(LANES);
            pixels.resize(TILE * length, 0.);
            for first in (0..count).step_by(LANES) {
                let mut columns = [[V::splat(0.); TILE]; SIDE];
                for (j, column) in columns.iter_mut().enumerate() {
                    let mut points = [V::splat(0.); SIDE];
                    for (i, point) in points.iter_mut().enumerate() {
                        let values = &self.points[i * SIDE + j][done + first..];
                        fetch(values, AHEAD);
                        *point = V::load_some(values);
                    }
                    *column = result_of_points(points);
                }
                for (i, line) in pixels.chunks_exact_mut(length).enumerate() {
                    let mut row = [V::splat(0.); SIDE];
                    for (value, column) in row.iter_mut().zip(&columns) {
                        *value = column[i];
                    }
                    let quads = V::into_quads(result_of_points(row));
                    for (part, value) in line[first * TILE..].as_chunks_mut().0.iter_mut().zip(quads) {
                        value.store(part);
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

impl Transform for Kernels<'_> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        for (group, weights) in self.weights.chunks(9 * LANES).enumerate() {
            let taps = match weights.first_chunk() {
                Some(weights) => V::from_kernels(weights),
                None => {
                    let mut padded = [0.; 9 * LANES];
                    padded[..weights.len()].copy_from_slice(weights);
                    V::from_kernels(&padded)
                }
            };
            let mut columns = [[V::splat(0.); SIDE]; 3];
            for (j, column) in columns.iter_mut().enumerate() {
                let mut weights = [V::splat(0.); 3];
                for (i, weight) in weights.iter_mut().enumerate() {
                    let tap = 3 * i + j;
                    *weight = taps[if self.turned { 8 - tap } else { tap }];
                    if self.round {
                        *weight = weight.rounded();
                    }
                }
                *column = points_of_kernel(weights);
            }
            #[expect(clippy::needless_range_loop, reason = "it is an index of the inner dimension")]
            for i in 0..SIDE {
                let points = points_of_kernel([columns[0][i], columns[1][i], columns[2][i]]);
                for (j, value) in points.into_iter().enumerate() {
                    value.store_some(&mut self.points[i * SIDE + j][group * LANES..]);
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

impl Transform for KernelGradients<'_> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        for (group, weights) in self.weights.chunks_mut(9 * LANES).enumerate() {
            let mut columns = [[V::splat(0.); 3]; SIDE];
            for (j, column) in columns.iter_mut().enumerate() {
                let mut points = [V::splat(0.); SIDE];
                for (i, point) in points.iter_mut().enumerate() {
                    *point = V::load_some(&self.points[i * SIDE + j][group * LANES..]);
                }
                *column = kernel_of_points(points);
            }
            let mut taps = [V::splat(0.); 9];
            for (i, taps) in taps.as_chunks_mut::<3>().0.iter_mut().enumerate() {
                let mut row = [V::splat(0.); SIDE];
                for (value, column) in row.iter_mut().zip(&columns) {
                    *value = column[i];
                }
                *taps = kernel_of_points(row);
            }
            match weights.first_chunk_mut() {
                Some(weights) => V::into_kernels(taps, weights),
                None => {
                    let mut padded = [0.; 9 * LANES];
                    V::into_kernels(taps, &mut padded);
                    weights.copy_from_slice(&padded[..weights.len()]);
                }
            }
        }
    }
}
