//! The heads of self-attention: one task each, forward and backward.

use super::bias::Offsets;
use super::rotary::Turns;
use crate::ops::fresh::Fresh;
use crate::ops::gemm::{Element, Matrix, MatrixMut, Panels, Precision, Scratch, Shared, Side, Store};
use crate::ops::simd::{Kernel, LANES, exp, max, sum, sum2, vectorized};
use rayon::prelude::*;
use std::cell::Cell;

/// Largest number of scores in a tile: half of a typical level-2 cache.
const TILE: usize = 1 << 17;

/// Layout of the heads in `qkv` [B, N, 3·C] and in the output [B, N, C].
pub(in crate::ops) struct Heads<'a, T> {
    qkv: &'a [T],
    n: usize,
    c: usize,
    d: usize,
    count: usize,
    scale: f32,
    precision: Precision,
    offsets: Offsets<'a>,
    rotary: Option<Turns<'a>>,
}

/// One head of one sample.
#[derive(Clone, Copy)]
struct Head {
    sample: usize,
    head: usize,
}

impl<'a, T: Element> Heads<'a, T> {
    pub(in crate::ops) fn new(
        qkv: &'a [T],
        n: usize,
        c: usize,
        count: usize,
        precision: Precision,
        offsets: Offsets<'a>,
    ) -> Self {
        let d = c / count;
        Self { qkv, n, c, d, count, scale: (d as f64).powf(-0.5) as f32, precision, offsets, rotary: None }
    }

    /// The same heads with queries and keys rotated by `rotary`, whose lists of tokens are those of the samples.
    pub(in crate::ops) fn rotated(self, rotary: Option<Turns<'a>>) -> Self {
        Self { rotary, ..self }
    }

    /// Writes the output of `b` samples to `out` [B, N, C].
    pub(in crate::ops) fn forward(&self, b: usize, out: &Fresh<T>) {
        self.each(b, |head, task| {
            let [q, k, v] = self.qkv(head);
            task.values_across.refill(&v.t(), &mut task.scratch);
            match self.turned(head, task) {
                None => self.head_output(task, head, [q, k], out),
                Some(turned) => {
                    self.head_output(task, head, self.matrices(&turned), out);
                    task.turned = turned;
                }
            }
        });
    }

    /// Writes the output of a head from its queries and keys; `task.values_across` holds the values.
    fn head_output<E: Element>(&self, task: &mut Task, head: Head, [q, k]: [Matrix<E>; 2], out: &Fresh<T>) {
        task.keys.refill(&k, &mut task.scratch);
        for (start, rows) in self.tiles() {
            self.probabilities(task, head, q, start, rows);
            self.output(task, head, out, start, rows);
        }
    }

    /// The rotated queries and keys of a head, [N, d] each, in memory taken from `task`; `None` without rotation.
    fn turned(&self, head: Head, task: &mut Task) -> Option<[Vec<f32>; 2]> {
        let turns = self.rotary?.of(head.sample, self.n, 0, self.n);
        let mut turned = std::mem::take(&mut task.turned);
        for (part, out) in turned.iter_mut().enumerate() {
            turns.forward(&self.qkv[self.input_start(head, part, 0)..], 3 * self.c, out);
        }
        Some(turned)
    }

    /// Contiguous queries and keys.
    fn matrices<'b>(&self, turned: &'b [Vec<f32>; 2]) -> [Matrix<'b, f32>; 2] {
        turned.each_ref().map(|values| Matrix::new(values, self.n, self.d, self.d))
    }

    /// Rotates gradients of rotated queries or keys from token `start` on back.
    fn turn_back(&self, head: Head, start: usize, gradient: &mut [f32]) {
        if let Some(turns) = self.rotary {
            turns.of(head.sample, self.n, start, gradient.len() / self.d).backward(gradient);
        }
    }

    /// Writes the output of queries from `start` on, whose probabilities are in `task.p`; `task.values_across` holds
    /// the values.
    fn output(&self, task: &mut Task, head: Head, out: &Fresh<T>, start: usize, rows: usize) {
        let p = Matrix::new(&task.p, rows, self.n, self.stride());
        task.o.resize(rows * self.d, 0.);
        let mut o = MatrixMut::new(&mut task.o, rows, self.d, self.d);
        task.values_across.multiply(&p, 0..rows, &mut o, Store::SET, &mut task.scratch);
        // SAFETY: every head writes its own columns.
        unsafe { out.write_rows(&task.o, self.d, self.output_start(head, start), self.c) };
    }

    /// Writes the gradient of `qkv` of `b` samples to `gradient` [B, N, 3·C], from that of the output, `grads` [B, N,
    /// C]. Returns the gradients of the parts of a bias if requested.
    pub(in crate::ops) fn backward(
        &self,
        b: usize,
        grads: &[T],
        gradient: &Fresh<T>,
        of_bias: bool,
    ) -> [Vec<f32>; 2] {
        let (n, count) = (self.n, self.count);
        let [first, second] = match self.offsets {
            _ if !of_bias => [0, 0],
            Offsets::None => [0, 0],
            Offsets::Table(_) => [n * n, 0],
            Offsets::Decomposed { grid: (h, w), .. } => [n * h, n * w],
            Offsets::Relative { area, .. } => [area.offsets(), 0],
        };
        let shared = self.offsets.shared() && of_bias;
        let parts = if shared { count } else { b * count };
        let mut sums = [vec![0f32; parts * first], vec![0f32; parts * second]];
        let [firsts, seconds] = &mut sums;
        let (firsts, seconds) = (Shared::new(firsts), Shared::new(seconds));
        let run = |head: Head, task: &mut Task| {
            let part = if shared { head.head } else { head.sample * count + head.head };
            // SAFETY: a part belongs to one head, or to the heads of one task, which come one after another.
            let (first, second) =
                unsafe { (firsts.part(part * first, first), seconds.part(part * second, second)) };
            let of_bias = of_bias.then_some((first, second));
            let [q, k, v] = self.qkv(head);
            task.values.refill(&v, &mut task.scratch);
            match self.turned(head, task) {
                None => self.head_gradient(task, head, [q, k], grads, gradient, of_bias),
                Some(turned) => {
                    self.head_gradient(task, head, self.matrices(&turned), grads, gradient, of_bias);
                    task.turned = turned;
                }
            }
        };
        if shared {
            // All samples add to one table, so each head processes them in order.
            (0..if n * self.d == 0 { 0 } else { count }).into_par_iter().for_each(|head| {
                Task::with(self.precision, |task| (0..b).for_each(|sample| run(Head { sample, head }, task)));
            });
        } else {
            self.each(b, run);
        }
        sums
    }

    /// Writes the gradients of a head from its queries and keys; `task.values` holds the values.
    fn head_gradient<E: Element>(
        &self,
        task: &mut Task,
        head: Head,
        [q, k]: [Matrix<E>; 2],
        grads: &[T],
        gradient: &Fresh<T>,
        mut of_bias: Option<(&mut [f32], &mut [f32])>,
    ) {
        let (n, d, stride) = (self.n, self.d, self.stride());
        task.keys.refill(&k, &mut task.scratch);
        task.keys_across.refill(&k.t(), &mut task.scratch);
        task.dk.resize(n * d, 0.);
        task.dv.resize(n * d, 0.);
        for (start, rows) in self.tiles() {
            let q_tile = q.rows(start, rows);
            let do_ = Matrix::new(&grads[self.output_start(head, start)..], rows, d, self.c);
            self.probabilities(task, head, q, start, rows);
            task.ds.resize(rows * stride, 0.);
            let mut dp = MatrixMut::new(&mut task.ds, rows, n, stride);
            task.values.multiply(&do_, 0..rows, &mut dp, Store::SET, &mut task.scratch);
            vectorized(SoftmaxGradient { p: &task.p, ds: &mut task.ds, n, stride });
            if let Some((first, second)) = &mut of_bias {
                self.offsets.collect(&task.ds, stride, n, start, first, second);
            }
            let (p, ds) = (Matrix::new(&task.p, rows, n, stride), Matrix::new(&task.ds, rows, n, stride));
            task.o.resize(rows * d, 0.);
            let mut dq = MatrixMut::new(&mut task.o, rows, d, d);
            task.keys_across.multiply(
                &ds,
                0..rows,
                &mut dq,
                Store::SET.scaled(self.scale),
                &mut task.scratch,
            );
            self.turn_back(head, start, &mut task.o);
            // SAFETY: every head writes its own columns.
            unsafe { gradient.write_rows(&task.o, d, self.input_start(head, 0, start), 3 * self.c) };
            let more = Store::adding(start > 0);
            task.rows_across.refill(&q_tile.t(), &mut task.scratch);
            let mut dk = MatrixMut::new(&mut task.dk, n, d, d);
            task.rows_across.multiply(&ds.t(), 0..n, &mut dk, more.scaled(self.scale), &mut task.scratch);
            task.rows_across.refill(&do_.t(), &mut task.scratch);
            let mut dv = MatrixMut::new(&mut task.dv, n, d, d);
            task.rows_across.multiply(&p.t(), 0..n, &mut dv, more, &mut task.scratch);
        }
        self.turn_back(head, 0, &mut task.dk);
        // SAFETY: every head writes its own columns of each part.
        unsafe {
            gradient.write_rows(&task.dk, d, self.input_start(head, 1, 0), 3 * self.c);
            gradient.write_rows(&task.dv, d, self.input_start(head, 2, 0), 3 * self.c);
        }
    }

    /// Fills `task.p` with softmax(q·kᵀ/√d + bias) [rows, N] of queries from `start` on; `task.keys` holds the keys.
    fn probabilities<E: Element>(
        &self,
        task: &mut Task,
        head: Head,
        q: Matrix<E>,
        start: usize,
        rows: usize,
    ) {
        let (n, stride) = (self.n, self.stride());
        task.p.resize(rows * stride, 0.);
        let mut scores = MatrixMut::new(&mut task.p, rows, n, stride);
        task.keys.multiply(
            &q,
            start..start + rows,
            &mut scores,
            Store::SET.scaled(self.scale),
            &mut task.scratch,
        );
        let bias_of = match self.offsets.shared() {
            true => head.head,
            false => head.sample * self.count + head.head,
        };
        self.offsets.add(&mut task.p, stride, n, bias_of, start);
        vectorized(Softmax { scores: &mut task.p, n, stride });
    }

    /// Runs `run` on every head of `b` samples, in parallel.
    fn each(&self, b: usize, run: impl Fn(Head, &mut Task) + Sync) {
        if self.n * self.d == 0 {
            return;
        }
        (0..b * self.count).into_par_iter().for_each(|i| {
            let head = Head { sample: i / self.count, head: i % self.count };
            Task::with(self.precision, |task| run(head, task));
        });
    }

    /// Start of `part` (0: q, 1: k, 2: v) of a head at a token.
    fn input_start(&self, head: Head, part: usize, token: usize) -> usize {
        (head.sample * self.n + token) * 3 * self.c + part * self.c + head.head * self.d
    }

    fn output_start(&self, head: Head, token: usize) -> usize {
        (head.sample * self.n + token) * self.c + head.head * self.d
    }

    /// Queries, keys and values of a head, each [N, d].
    fn qkv(&self, head: Head) -> [Matrix<'a, T>; 3] {
        let part =
            |part| Matrix::new(&self.qkv[self.input_start(head, part, 0)..], self.n, self.d, 3 * self.c);
        [part(0), part(1), part(2)]
    }

    /// (first query, queries) of each tile.
    fn tiles(&self) -> impl Iterator<Item = (usize, usize)> + use<T> {
        let (n, rows) = (self.n, (TILE / self.stride()).max(LANES));
        (0..n).step_by(rows).map(move |start| (start, rows.min(n - start)))
    }

    /// Values from one row of scores to the next: whole vectors.
    fn stride(&self) -> usize {
        self.n.next_multiple_of(LANES)
    }
}

thread_local! {
    /// The memory of the last task of this thread, for the next one.
    static TASK: Cell<Option<Box<Task>>> = const { Cell::new(None) };
}

/// Memory of a thread.
struct Task {
    precision: Precision,
    scratch: Scratch,
    keys: Panels,
    values: Panels,
    keys_across: Panels,
    values_across: Panels,
    rows_across: Panels,
    /// Rotated queries and keys.
    turned: [Vec<f32>; 2],
    p: Vec<f32>,
    ds: Vec<f32>,
    o: Vec<f32>,
    dk: Vec<f32>,
    dv: Vec<f32>,
}

impl Task {
    fn with(precision: Precision, run: impl FnOnce(&mut Self)) {
        let last = TASK.take().filter(|task| task.precision == precision);
        let mut task = last.unwrap_or_else(|| Box::new(Self::new(precision)));
        run(&mut task);
        TASK.set(Some(task));
    }

    fn new(precision: Precision) -> Self {
        let panels = || Panels::empty(Side::Right, precision);
        Self {
            precision,
            scratch: Scratch::default(),
            keys: panels(),
            values: panels(),
            keys_across: panels(),
            values_across: panels(),
            rows_across: panels(),
            turned: Default::default(),
            p: vec![],
            ds: vec![],
            o: vec![],
            dk: vec![],
            dv: vec![],
        }
    }
}

/// Runs `run` on the vectors of a row, of which there are few: a loop over values would be compiled for many.
#[inline(always)]
fn each_vector(row: &mut [f32], run: impl Fn(&mut [f32; LANES])) {
    row.as_chunks_mut().0.iter_mut().for_each(run);
}

/// Softmax of rows of `n` values in place.
struct Softmax<'a> {
    scores: &'a mut [f32],
    n: usize,
    stride: usize,
}

impl Kernel for Softmax<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for row in self.scores.chunks_exact_mut(self.stride) {
            // The rest of the last vector adds less than half a unit in the last place to the sum.
            row[self.n..].fill(f32::NEG_INFINITY);
            let largest = max(row);
            each_vector(row, |row| row.iter_mut().for_each(|x| *x = exp(*x - largest)));
            let scale = 1. / sum(row, |x| x);
            each_vector(row, |row| row.iter_mut().for_each(|x| *x *= scale));
        }
    }
}

/// p·(dp − Σ p·dp) by rows; `ds` holds dp before.
struct SoftmaxGradient<'a> {
    p: &'a [f32],
    ds: &'a mut [f32],
    n: usize,
    stride: usize,
}

impl Kernel for SoftmaxGradient<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for (ds, p) in self.ds.chunks_exact_mut(self.stride).zip(self.p.chunks_exact(self.stride)) {
            ds[self.n..].fill(0.);
            let average = sum2(p, ds, |p, dp| p * dp);
            for (ds, p) in ds.as_chunks_mut::<LANES>().0.iter_mut().zip(p.as_chunks::<LANES>().0) {
                ds.iter_mut().zip(p).for_each(|(ds, p)| *ds = p * (*ds - average));
            }
        }
    }
}
