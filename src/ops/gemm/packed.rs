//! Matrix products whose operands are packed into panels first.
//!
//! An operand says how its values are packed, so that it need not exist as a matrix: the columns of a convolution
//! are gathered from the image panel by panel ([`Operand`]). The order of a sum depends on its length alone, so results
//! have the same bits for any number of threads.

use super::kernel::{MicroKernel, Store};
use super::{Matrix, MatrixMut, Shared};
use rayon::prelude::*;
use std::ops::Range;

/// Depth of a panel: one of the right operand fits the level-1 cache.
const DEPTH: usize = 192;
/// Lanes of the operand that a task packs, about: its panels of one depth fit the level-2 cache.
const LANES: usize = 96;

/// One side of a product: lanes (rows of the left matrix, columns of the right one) of equal depth.
pub(in crate::ops) trait Operand: Sync {
    fn lanes(&self) -> usize;
    fn depth(&self) -> usize;
    /// Writes `lanes`, at most `width`, at each of `depth` to a line of `panel` [depth, width]; the rest of a line
    /// is any finite number.
    fn pack(&self, lanes: Range<usize>, depth: Range<usize>, width: usize, panel: &mut [f32]);
}

/// The rows of a matrix.
impl Operand for Matrix<'_> {
    fn lanes(&self) -> usize {
        self.rows
    }

    fn depth(&self) -> usize {
        self.columns
    }

    fn pack(&self, lanes: Range<usize>, depth: Range<usize>, width: usize, panel: &mut [f32]) {
        let (lane_step, step) = (self.row_stride, self.column_stride);
        let start = lanes.start * lane_step + depth.start * step;
        if lane_step == 1 {
            for (i, line) in panel.chunks_exact_mut(width).enumerate() {
                line[..lanes.len()].copy_from_slice(&self.values[start + i * step..][..lanes.len()]);
            }
            return;
        }
        assert!(step == 1, "one stride of a matrix is 1");
        const GROUP: usize = 8;
        let lane = |i: usize| &self.values[start + i * lane_step..][..depth.len()];
        let mut first = 0;
        while first + GROUP <= lanes.len() {
            let group: [&[f32]; GROUP] = std::array::from_fn(|i| lane(first + i));
            for (k, line) in panel.chunks_exact_mut(width).enumerate() {
                line[first..first + GROUP].copy_from_slice(&group.map(|lane| lane[k]));
            }
            first += GROUP;
        }
        for i in first..lanes.len() {
            for (line, &value) in panel.chunks_exact_mut(width).zip(lane(i)) {
                line[i] = value;
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::ops) enum Side {
    Left,
    Right,
}

impl Side {
    /// Lanes of a panel.
    fn width(self) -> usize {
        match self {
            Self::Left => MicroKernel::best().rows,
            Self::Right => MicroKernel::best().columns,
        }
    }

    /// Lanes in tasks of a few panels.
    pub(in crate::ops) fn tasks(self, lanes: usize) -> Vec<Range<usize>> {
        let step = LANES.next_multiple_of(self.width());
        (0..lanes).step_by(step).map(|start| start..lanes.min(start + step)).collect()
    }
}

/// A whole operand in panels: for every block of the depth every panel, [depth of the block, width].
pub(in crate::ops) struct Panels {
    side: Side,
    lanes: usize,
    depth: usize,
    values: Vec<f32>,
}

impl Panels {
    /// Packs in parallel.
    pub(in crate::ops) fn new(side: Side, operand: &impl Operand) -> Self {
        let (lanes, depth, width) = (operand.lanes(), operand.depth(), side.width());
        let padded = lanes.next_multiple_of(width);
        let mut values = vec![0f32; padded * depth];
        let mut rest = &mut values[..];
        for block in blocks(depth) {
            let (panels, later) = rest.split_at_mut(padded * block.len());
            panels.par_chunks_mut(width * block.len()).enumerate().for_each(|(i, panel)| {
                operand.pack(i * width..lanes.min((i + 1) * width), block.clone(), width, panel);
            });
            rest = later;
        }
        Self { side, lanes, depth, values }
    }

    fn block(&self, depth: &Range<usize>) -> &[f32] {
        let padded = self.lanes.next_multiple_of(self.side.width());
        &self.values[padded * depth.start..padded * depth.end]
    }

    /// destination = scale·(left · right), or added to it, on this thread: one side is `self`, the other some lanes
    /// of `operand`, packed block by block into `scratch`.
    pub(in crate::ops) fn multiply(
        &self,
        operand: &impl Operand,
        lanes: Range<usize>,
        destination: &mut MatrixMut,
        (accumulate, scale): (bool, f32),
        scratch: &mut Vec<f32>,
    ) {
        assert!(operand.depth() == self.depth, "depths of a matrix product");
        let (side, shape) = match self.side {
            Side::Left => (Side::Right, (self.lanes, lanes.len())),
            Side::Right => (Side::Left, (lanes.len(), self.lanes)),
        };
        assert!(shape == (destination.rows, destination.columns), "shapes of a matrix product");
        if self.depth == 0 && !accumulate {
            destination.fill(0.);
        }
        let width = side.width();
        for block in blocks(self.depth) {
            scratch.resize(lanes.len().next_multiple_of(width) * block.len(), 0.);
            for (i, panel) in scratch.chunks_exact_mut(width * block.len()).enumerate() {
                let start = lanes.start + i * width;
                operand.pack(start..lanes.end.min(start + width), block.clone(), width, panel);
            }
            let store = Store { accumulate: accumulate || block.start > 0, scale };
            match self.side {
                Side::Left => tiles(destination, self.block(&block), scratch, block.len(), store),
                Side::Right => tiles(destination, scratch, self.block(&block), block.len(), store),
            }
        }
    }
}

/// The depth in blocks.
fn blocks(depth: usize) -> impl Iterator<Item = Range<usize>> {
    (0..depth).step_by(DEPTH).map(move |start| start..depth.min(start + DEPTH))
}

/// Multiplies panels of one block of the depth.
fn tiles(destination: &mut MatrixMut, left: &[f32], right: &[f32], depth: usize, store: Store) {
    let kernel = MicroKernel::best();
    let (rows, columns) = (kernel.rows, kernel.columns);
    for (j, right) in right.chunks_exact(columns * depth).enumerate() {
        for (i, left) in left.chunks_exact(rows * depth).enumerate() {
            let (row, column) = (i * rows, j * columns);
            let valid = (rows.min(destination.rows - row), columns.min(destination.columns - column));
            // SAFETY: the tile lies within the destination, which is borrowed mutably.
            unsafe {
                let place = destination.first.add(row * destination.row_stride + column);
                kernel.tile(left, right, place, destination.row_stride, valid, store);
            }
        }
    }
}

/// destination = scale·(left · rightᵀ), or added to it, on all threads of the current pool; the operands are lanes of
/// one depth.
pub(in crate::ops) fn product_of(
    destination: &mut MatrixMut,
    (accumulate, scale): (bool, f32),
    left: &impl Operand,
    right: &impl Operand,
) {
    let (m, n, stride) = (left.lanes(), right.lanes(), destination.row_stride);
    assert!((m, n) == (destination.rows, destination.columns), "shapes of a matrix product");
    let shared = Shared::of(destination);
    if m >= n {
        let panels = Panels::new(Side::Right, right);
        Side::Left.tasks(m).into_par_iter().for_each_init(Vec::new, |scratch, rows| {
            // SAFETY: the tasks have different rows.
            let mut part = unsafe { shared.matrix(rows.start * stride, rows.len(), n, stride) };
            panels.multiply(left, rows, &mut part, (accumulate, scale), scratch);
        });
    } else {
        let panels = Panels::new(Side::Left, left);
        Side::Right.tasks(n).into_par_iter().for_each_init(Vec::new, |scratch, columns| {
            // SAFETY: the tasks have different columns.
            let mut part = unsafe { shared.matrix(columns.start, m, columns.len(), stride) };
            panels.multiply(right, columns, &mut part, (accumulate, scale), scratch);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wave(count: usize, f: f32) -> Vec<f32> {
        (0..count).map(|i| (i as f32 * f).sin()).collect()
    }

    #[test]
    fn every_layout_gives_the_sum_of_products() {
        for (m, n, k) in [(1, 1, 1), (5, 3, 7), (1, 133, 20), (133, 1, 20), (17, 50, 64), (70, 70, 401), (4, 6, 0)] {
            let (a, b) = (wave(m * (k + 2), 0.3), wave(n * (k + 1), 0.7));
            let (at, bt) = (wave(m * k, 0.3), wave(n * k, 0.7));
            for transposed in [false, true] {
                let (left, right) = match transposed {
                    false => (Matrix::new(&a, m, k, k + 2), Matrix::new(&b, n, k, k + 1)),
                    true => (Matrix::new(&at, k, m, m).t(), Matrix::new(&bt, k, n, n).t()),
                };
                for accumulate in [false, true] {
                    let mut found = vec![1f32; m * (n + 3)];
                    let mut destination = MatrixMut::new(&mut found, m, n, n + 3);
                    product_of(&mut destination, (accumulate, 0.5), &left, &right);
                    for (i, row) in found.chunks(n + 3).enumerate() {
                        for (j, &x) in row.iter().enumerate() {
                            let at = |matrix: &Matrix, i, j| {
                                f64::from(matrix.values[i * matrix.row_stride + j * matrix.column_stride])
                            };
                            let sum = || (0..k).map(|l| at(&left, i, l) * at(&right, j, l)).sum::<f64>();
                            // Beyond the matrix nothing is written.
                            let expected =
                                if j < n { 0.5 * sum() + f64::from(u8::from(accumulate)) } else { 1. };
                            assert!((f64::from(x) - expected).abs() < 2e-5, "{m} {n} {k} at {i} {j}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn every_kernel_of_this_processor_agrees() {
        let depth = 37;
        for kernel in MicroKernel::supported() {
            let (a, b) = (wave(depth * kernel.rows, 0.3), wave(depth * kernel.columns, 0.7));
            for valid in [(kernel.rows, kernel.columns), (kernel.rows - 1, kernel.columns - 3)] {
                for accumulate in [false, true] {
                    let mut found = vec![2f32; kernel.rows * kernel.columns];
                    let store = Store { accumulate, scale: 3. };
                    // SAFETY: the destination holds a whole tile.
                    unsafe { kernel.tile(&a, &b, found.as_mut_ptr(), kernel.columns, valid, store) };
                    for (index, &x) in found.iter().enumerate() {
                        let (i, j) = (index / kernel.columns, index % kernel.columns);
                        let term = |k: usize| {
                            f64::from(a[k * kernel.rows + i]) * f64::from(b[k * kernel.columns + j])
                        };
                        let expected = match (i < valid.0 && j < valid.1, accumulate) {
                            (false, _) => 2.,
                            (true, false) => 3. * (0..depth).map(term).sum::<f64>(),
                            (true, true) => 2. + 3. * (0..depth).map(term).sum::<f64>(),
                        };
                        assert!((f64::from(x) - expected).abs() < 1e-4, "{} rows", kernel.rows);
                    }
                }
            }
        }
    }

    #[test]
    fn the_bits_do_not_depend_on_the_number_of_threads() {
        for (m, n, k) in [(400, 384, 500), (97, 1001, 130)] {
            let (a, b) = (wave(m * k, 0.3), wave(n * k, 0.7));
            let run = |threads: usize| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let mut found = vec![0f32; m * n];
                let (left, right) = (Matrix::new(&a, m, k, k), Matrix::new(&b, n, k, k));
                let mut destination = MatrixMut::new(&mut found, m, n, n);
                pool.install(|| product_of(&mut destination, (false, 1.), &left, &right));
                found
            };
            let one = run(1);
            assert!([2, 3, 7].iter().all(|&threads| run(threads) == one), "{m} {n} {k}");
        }
    }
}
#[cfg(test)]
mod perf {
    use super::*;
    use std::time::Instant;
    #[test]
    #[ignore]
    fn speed() {
        for threads in [1, 2] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            for (m, n, k, kind) in [(1576, 1536, 384, 0), (1576, 512, 2048, 0), (2048, 512, 1576, 1), (1536, 384, 400, 1), (400, 1152, 384, 0), (3200, 3072, 768, 0)] {
                let (a, b) = (vec![0.5f32; m * k], vec![0.25f32; n * k]);
                let mut c = vec![0f32; m * n];
                let (left, right) = if kind == 0 {
                    (Matrix::new(&a, m, k, k), Matrix::new(&b, n, k, k))
                } else {
                    (Matrix::new(&a, k, m, m).t(), Matrix::new(&b, k, n, n).t())
                };
                let mut best = [f64::MAX; 2];
                for _ in 0..8 {
                    let t = Instant::now();
                    pool.install(|| product_of(&mut MatrixMut::new(&mut c, m, n, n), (false, 1.), &left, &right));
                    best[0] = best[0].min(t.elapsed().as_secs_f64());
                    let t = Instant::now();
                    pool.install(|| super::super::product(&mut MatrixMut::new(&mut c, m, n, n), false, 1., left, right.t(), super::super::PARALLEL));
                    best[1] = best[1].min(t.elapsed().as_secs_f64());
                }
                let g = 2e-9 * (m * n * k) as f64;
                println!("{threads}t {m}x{n}x{k} kind {kind}: own {:.0} gemm {:.0} GFLOP/s", g / best[0], g / best[1]);
            }
        }
    }
}
