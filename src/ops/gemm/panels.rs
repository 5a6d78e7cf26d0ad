//! Matrix products whose operands are packed into panels first.
//!
//! An operand says how its values are packed, so that it need not exist as a matrix: the columns of a convolution
//! are gathered from the image panel by panel ([`Operand`]). The order of a sum depends on its length alone, so results
//! have the same bits for any number of threads.

use super::destination::{MatrixMut, Shared};
use super::elements::Precision;
use super::kernel::{MicroKernel, Store};
use super::operand::{DEPTH, Operand, together};
use super::words::Words;
use crate::ops::storage::least_tasks;
use rayon::prelude::*;
use std::ops::Range;

/// Approximate number of values of the destination per task: half of a typical level-2 cache.
const TASK: usize = 1 << 17;
/// Fewest lanes of the other operand per task: the panels of an operand come from the level-3 cache for each task, and
/// this many lanes are multiplied by one while the next is fetched.
const ROWS: usize = 96;
/// Words of the left operand that stay in the level-2 cache while panels of the right one pass.
const LEFT: usize = 1 << 16;
/// Words whose packing is worth another thread.
const PACKED: usize = 1 << 15;
/// The number of tasks is a multiple of this, so that a few tasks are still distributed evenly.
const SHARES: usize = 4;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::ops) enum Side {
    Left,
    Right,
}

impl Side {
    /// Lanes of a panel.
    fn width(self, kernel: &MicroKernel) -> usize {
        match self {
            Self::Left => kernel.rows,
            Self::Right => kernel.columns,
        }
    }

    fn other(self) -> Self {
        match self {
            Self::Left => Self::Right,
            Self::Right => Self::Left,
        }
    }
}

/// Memory that a thread packs into.
#[derive(Default)]
pub(in crate::ops) struct Scratch {
    words: Words,
    values: Vec<f32>,
}

/// A whole operand in panels: for every block of the depth every panel, [words of the block, width].
pub(in crate::ops) struct Panels {
    side: Side,
    kernel: &'static MicroKernel,
    lanes: usize,
    depth: usize,
    words: Words,
}

impl Panels {
    /// Packs in parallel.
    pub(in crate::ops) fn new(side: Side, precision: Precision, operand: &impl Operand) -> Self {
        Self::for_kernel(side, MicroKernel::best(precision), operand)
    }

    fn for_kernel(side: Side, kernel: &'static MicroKernel, operand: &impl Operand) -> Self {
        let mut panels = Self { side, kernel, lanes: 0, depth: 0, words: Words::default() };
        panels.reset(operand);
        let (lanes, width) = (panels.lanes, side.width(kernel));
        let mut rest = &mut panels.words[..];
        for block in blocks(kernel, panels.depth) {
            let words = kernel.elements.words(block.len());
            let (now, later) = rest.split_at_mut(lanes.next_multiple_of(width) * words);
            let some = together(width);
            let now =
                now.par_chunks_mut(some * words).enumerate().with_min_len(PACKED.div_ceil(some * words));
            now.for_each_init(Vec::new, |scratch, (i, panels)| {
                let lanes = i * some..lanes.min((i + 1) * some);
                pack(kernel, operand, lanes, block.clone(), width, panels, scratch);
            });
            rest = later;
        }
        panels
    }

    /// Empty panels, whose memory is reused for many operands.
    pub(in crate::ops) fn empty(side: Side, precision: Precision) -> Self {
        Self { side, kernel: MicroKernel::best(precision), lanes: 0, depth: 0, words: Words::default() }
    }

    /// Packs another operand, on this thread.
    pub(in crate::ops) fn refill(&mut self, operand: &impl Operand, scratch: &mut Scratch) {
        self.reset(operand);
        let (kernel, width) = (self.kernel, self.side.width(self.kernel));
        let mut start = 0;
        for block in blocks(kernel, self.depth) {
            let words = kernel.elements.words(block.len());
            let end = start + self.lanes.next_multiple_of(width) * words;
            let panels = &mut self.words[start..end];
            pack(kernel, operand, 0..self.lanes, block, width, panels, &mut scratch.values);
            start = end;
        }
    }

    /// Lanes of the operand.
    pub(in crate::ops) fn lanes(&self) -> usize {
        self.lanes
    }

    fn reset(&mut self, operand: &impl Operand) {
        (self.lanes, self.depth) = (operand.lanes(), operand.depth());
        let padded = self.lanes.next_multiple_of(self.side.width(self.kernel));
        self.words.resize(padded * self.kernel.elements.words(self.depth));
    }

    /// The panels of the words `from..from + words` of the depth.
    fn block(&self, from: usize, words: usize) -> &[u32] {
        let padded = self.lanes.next_multiple_of(self.side.width(self.kernel));
        &self.words[padded * from..padded * (from + words)]
    }

    /// destination = scale·(left · right), or added to it, on this thread: one side is `self`, the other some lanes
    /// of `operand`, packed block by block into `scratch`.
    pub(in crate::ops) fn multiply(
        &self,
        operand: &impl Operand,
        lanes: Range<usize>,
        destination: &mut MatrixMut,
        store: Store,
        scratch: &mut Scratch,
    ) {
        assert!(operand.depth() == self.depth, "depths of a matrix product");
        let shape = match self.side {
            Side::Left => (self.lanes, lanes.len()),
            Side::Right => (lanes.len(), self.lanes),
        };
        assert!(shape == (destination.rows, destination.columns), "shapes of a matrix product");
        if self.depth == 0 && !store.accumulate {
            destination.fill(0.);
        }
        let (kernel, width) = (self.kernel, self.side.other().width(self.kernel));
        let Scratch { words: panels, values } = scratch;
        for block in blocks(kernel, self.depth) {
            let words = kernel.elements.words(block.len());
            panels.resize(lanes.len().next_multiple_of(width) * words);
            pack(kernel, operand, lanes.clone(), block.clone(), width, panels, values);
            let store = Store { accumulate: store.accumulate || block.start > 0, ..store };
            let own = self.block(block.start / kernel.elements.per_word(), words);
            match self.side {
                Side::Left => tiles(kernel, destination, own, panels, words, store),
                Side::Right => tiles(kernel, destination, panels, own, words, store),
            }
        }
    }

    /// Lanes of the other operand, cut into tasks by shape alone.
    pub(in crate::ops) fn tasks(&self, lanes: usize) -> Vec<Range<usize>> {
        let width = self.side.other().width(self.kernel);
        let (groups, most) =
            (lanes.div_ceil(width), (TASK / (self.lanes.max(1) * width)).max(ROWS / width).max(1));
        let count = groups.div_ceil(most).next_multiple_of(SHARES).min(groups);
        let start = |i: usize| lanes.min(groups * i / count * width);
        (0..count).map(|i| start(i)..start(i + 1)).collect()
    }
}

/// Packs `lanes` at `depth` into panels of a kernel.
fn pack(
    kernel: &MicroKernel,
    operand: &impl Operand,
    lanes: Range<usize>,
    depth: Range<usize>,
    width: usize,
    panels: &mut [u32],
    scratch: &mut Vec<f32>,
) {
    let some = together(width);
    let groups = panels.chunks_mut(some * kernel.elements.words(depth.len()));
    for (panels, start) in groups.zip(lanes.clone().step_by(some)) {
        let lanes = start..lanes.end.min(start + some);
        kernel.elements.fill(operand, lanes, depth.clone(), width, panels, scratch);
    }
}

/// The depth in blocks.
fn blocks(kernel: &MicroKernel, depth: usize) -> impl Iterator<Item = Range<usize>> + use<> {
    let step = DEPTH * kernel.elements.per_word();
    (0..depth).step_by(step).map(move |start| start..depth.min(start + step))
}

/// Multiplies panels of one block of the depth, `words` long.
fn tiles(
    kernel: &MicroKernel,
    destination: &mut MatrixMut,
    left: &[u32],
    right: &[u32],
    words: usize,
    store: Store,
) {
    let (rows, columns) = (kernel.rows, kernel.columns);
    let some = (LEFT / (rows * words).max(1)).max(1);
    for (chunk, lefts) in left.chunks(some * rows * words).enumerate() {
        for (j, right) in right.chunks_exact(columns * words).enumerate() {
            let mut ahead = right.as_ptr().wrapping_add(right.len());
            for (i, left) in lefts.chunks_exact(rows * words).enumerate() {
                let (row, column) = ((chunk * some + i) * rows, j * columns);
                let valid = (rows.min(destination.rows - row), columns.min(destination.columns - column));
                // SAFETY: the tile lies within the destination, which is borrowed mutably.
                unsafe {
                    let place = destination.first.add(row * destination.row_stride + column);
                    kernel.tile((left, right), ahead, place, destination.row_stride, valid, store);
                }
                ahead = ahead.wrapping_add(words * 4);
            }
        }
    }
}

/// destination = scale·(left · rightᵀ), or added to it, on all threads of the current pool; the operands are lanes of
/// one depth.
pub(in crate::ops) fn product_of(
    precision: Precision,
    destination: &mut MatrixMut,
    store: Store,
    left: &impl Operand,
    right: &impl Operand,
) {
    product_with(MicroKernel::best(precision), destination, store, left, right);
}

/// [`product_of`] with any kernel.
pub(super) fn product_with(
    kernel: &'static MicroKernel,
    destination: &mut MatrixMut,
    store: Store,
    left: &impl Operand,
    right: &impl Operand,
) {
    let (m, n, stride) = (left.lanes(), right.lanes(), destination.row_stride);
    assert!((m, n) == (destination.rows, destination.columns), "shapes of a matrix product");
    let shared = Shared::of(destination);
    if m >= n {
        let panels = Panels::for_kernel(Side::Right, kernel, right);
        let tasks = panels.tasks(m);
        let least = least_tasks(tasks.len(), m * n * left.depth());
        tasks.into_par_iter().with_min_len(least).for_each_init(Scratch::default, |scratch, rows| {
            // SAFETY: the tasks have different rows.
            let mut part = unsafe { shared.matrix(rows.start * stride, rows.len(), n, stride) };
            panels.multiply(left, rows, &mut part, store, scratch);
        });
    } else {
        let panels = Panels::for_kernel(Side::Left, kernel, left);
        let tasks = panels.tasks(n);
        let least = least_tasks(tasks.len(), m * n * left.depth());
        tasks.into_par_iter().with_min_len(least).for_each_init(Scratch::default, |scratch, columns| {
            // SAFETY: the tasks have different columns.
            let mut part = unsafe { shared.matrix(columns.start, m, columns.len(), stride) };
            panels.multiply(right, columns, &mut part, store, scratch);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::gemm::Matrix;

    fn wave(count: usize, f: f32) -> Vec<f32> {
        (0..count).map(|i| (i as f32 * f).sin()).collect()
    }

    /// What a kernel multiplies instead of `x`.
    fn seen(kernel: &MicroKernel, x: f32) -> f64 {
        f64::from(if kernel.elements == crate::ops::gemm::elements::Elements::Single {
            x
        } else {
            half::bf16::from_f32(x).to_f32()
        })
    }

    #[test]
    fn every_layout_and_kernel_gives_the_sum_of_products() {
        let shapes =
            [(1, 1, 1), (5, 3, 7), (1, 133, 20), (133, 1, 20), (17, 50, 64), (70, 70, 401), (4, 6, 0)];
        for (kernel, (m, n, k)) in
            MicroKernel::supported().into_iter().flat_map(|kernel| shapes.map(|shape| (kernel, shape)))
        {
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
                    product_with(
                        kernel,
                        &mut destination,
                        Store::adding(accumulate).scaled(0.5),
                        &left,
                        &right,
                    );
                    for (i, row) in found.chunks(n + 3).enumerate() {
                        for (j, &x) in row.iter().enumerate() {
                            let term = |l| seen(kernel, left.at(i, l)) * seen(kernel, right.at(j, l));
                            let sum = || (0..k).map(term).sum::<f64>();
                            // Nothing is written outside the matrix.
                            let expected =
                                if j < n { 0.5 * sum() + f64::from(u8::from(accumulate)) } else { 1. };
                            let what = (kernel.elements, kernel.rows, m, n, k, i, j);
                            assert!((f64::from(x) - expected).abs() < 2e-5, "{what:?}: {x} for {expected}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn values_in_bf16_are_packed_as_if_they_were_f32() {
        for (m, n, k) in [(5, 3, 7), (17, 50, 64), (70, 49, 402)] {
            let half = |values: Vec<f32>| values.into_iter().map(half::bf16::from_f32).collect::<Vec<_>>();
            let (a, b) = (half(wave(m * k, 0.3)), half(wave(n * k, 0.7)));
            let wide = |values: &[half::bf16]| values.iter().map(|x| x.to_f32()).collect::<Vec<_>>();
            let (wide_a, wide_b) = (wide(&a), wide(&b));
            for kernel in MicroKernel::supported() {
                let mut found = [vec![0f32; m * n], vec![0f32; m * n]];
                let [first, second] = &mut found;
                let mut into = MatrixMut::new(first, m, n, n);
                let (left, right) = (Matrix::new(&a, m, k, k), Matrix::new(&b, k, n, n).t());
                product_with(kernel, &mut into, Store::SET, &left, &right);
                let mut into = MatrixMut::new(second, m, n, n);
                let (left, right) = (Matrix::new(&wide_a, m, k, k), Matrix::new(&wide_b, k, n, n).t());
                product_with(kernel, &mut into, Store::SET, &left, &right);
                assert_eq!(found[0], found[1]);
            }
        }
    }

    #[test]
    fn the_bits_do_not_depend_on_the_number_of_threads() {
        for (m, n, k) in [(400, 384, 500), (97, 1001, 130)] {
            let (a, b) = (wave(m * k, 0.3), wave(n * k, 0.7));
            for precision in [Precision::F32, Precision::Bf16] {
                let run = |threads: usize| {
                    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                    let mut found = vec![0f32; m * n];
                    let (left, right) = (Matrix::new(&a, m, k, k), Matrix::new(&b, n, k, k));
                    let mut destination = MatrixMut::new(&mut found, m, n, n);
                    pool.install(|| product_of(precision, &mut destination, Store::SET, &left, &right));
                    found
                };
                let one = run(1);
                assert!([2, 3, 7].iter().all(|&threads| run(threads) == one), "{m} {n} {k}");
            }
        }
    }

    #[test]
    fn refilled_panels_are_new_panels() {
        let (a, b, c) = (wave(90 * 30, 0.3), wave(20 * 30, 0.7), wave(7 * 30, 0.1));
        let c = Matrix::new(&c, 7, 30, 30);
        let (mut panels, mut scratch) = (Panels::empty(Side::Left, Precision::Bf16), Scratch::default());
        for left in [Matrix::new(&a, 90, 30, 30), Matrix::new(&b, 20, 30, 30)] {
            let rows = left.lanes();
            let (mut found, mut expected) = (vec![0f32; rows * 7], vec![0f32; rows * 7]);
            panels.refill(&left, &mut scratch);
            let mut destination = MatrixMut::new(&mut found, rows, 7, 7);
            panels.multiply(&c, 0..7, &mut destination, Store::SET, &mut scratch);
            product_of(
                Precision::Bf16,
                &mut MatrixMut::new(&mut expected, rows, 7, 7),
                Store::SET,
                &left,
                &c,
            );
            assert!(found == expected, "{rows} rows");
        }
    }
}
