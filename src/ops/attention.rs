//! Multi-head self-attention between the two projections.
//!
//! One task a head, each over tiles of queries, so that memory is bounded at 4096 tokens and small
//! heads run side by side. Queries, keys and values are read from the packed projection where they
//! lie. The backward pass computes the probabilities again instead of keeping them, as in
//! FlashAttention (arXiv:2205.14135).

use super::gemm::{Matrix, MatrixMut, Shared, product};
use super::simd::{Kernel, LANES, exp, max, sum, sum2, vectorized};
use super::storage::{argument, fused, values};
use candle_core::{CpuStorage, CustomOp1, D, Layout, Result, Shape, Tensor, bail};
use gemm::Parallelism;
use rayon::prelude::*;

/// Scores a tile holds at most: half of a usual level-2 cache.
const TILE: usize = 1 << 17;

/// softmax(q·kᵀ/√d)·v per head. `qkv` [B, N, 3·C], laid out as (3, heads, C/heads) -> [B, N, C].
pub fn attention(qkv: &Tensor, heads: usize) -> Result<Tensor> {
    let (b, n, c3) = qkv.dims3()?;
    if heads == 0 || c3 % (3 * heads) != 0 {
        bail!("attention: {c3} channels do not split into q, k and v of {heads} heads");
    }
    if fused(&[qkv]) {
        return qkv.contiguous()?.apply_op1(Attention { heads });
    }
    let (c, d) = (c3 / 3, c3 / 3 / heads);
    let part = |i: usize| -> Result<Tensor> {
        qkv.narrow(D::Minus1, i * c, c)?.reshape((b, n, heads, d))?.transpose(1, 2)?.contiguous()
    };
    let (q, k, v) = (part(0)?, part(1)?, part(2)?); // [B, h, N, d]
    let scores = (q.matmul(&k.t()?.contiguous()?)? * (d as f64).powf(-0.5))?;
    let p = candle_nn::ops::softmax(&scores, D::Minus1)?;
    p.matmul(&v)?.transpose(1, 2)?.reshape((b, n, c))
}

struct Attention {
    heads: usize,
}

impl CustomOp1 for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(&self, qkv: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (b, n, c3) = layout.shape().dims3()?;
        let heads = Heads::new(argument(qkv, layout)?, n, c3 / 3, self.heads);
        let mut out = vec![0f32; b * n * heads.c]; // [B, N, C]
        let shared = Shared::new(&mut out);
        heads.each(b, |head, tiles| {
            let (q, k, v) = heads.qkv(head);
            for (start, rows) in heads.tiles() {
                let p = tiles.probabilities(&heads, q.rows(start, rows), k);
                // SAFETY: every head writes its own columns.
                let mut o = unsafe { heads.output(&shared, head, start, rows) };
                product(&mut o, false, 1., p, v, Parallelism::None);
            }
        });
        Ok((CpuStorage::F32(out), (b, n, heads.c).into()))
    }

    fn bwd(&self, qkv: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let (b, n, c3) = qkv.dims3()?;
        let grad = grad.contiguous()?;
        let (qkv_guard, qkv_layout) = qkv.storage_and_layout();
        let (grad_guard, grad_layout) = grad.storage_and_layout();
        let heads = Heads::new(values(&qkv_guard, qkv_layout)?, n, c3 / 3, self.heads);
        let grads = values(&grad_guard, grad_layout)?;
        let mut gradient = vec![0f32; b * n * c3]; // [B, N, 3·C]
        let shared = Shared::new(&mut gradient);
        heads.each(b, |head, tiles| {
            let (q, k, v) = heads.qkv(head);
            for (start, rows) in heads.tiles() {
                let q = q.rows(start, rows);
                let do_ = Matrix::new(&grads[heads.output_start(head, start)..], rows, heads.d, heads.c);
                let (p, ds) = tiles.score_gradients(&heads, q, k, v, do_);
                let (accumulate, scale, serial) = (start > 0, heads.scale, Parallelism::None);
                // SAFETY: every head writes its own columns of each of the three parts, one after another.
                unsafe {
                    product(&mut heads.input(&shared, head, 0, start, rows), false, scale, ds, k, serial);
                    product(&mut heads.input(&shared, head, 1, 0, n), accumulate, scale, ds.t(), q, serial);
                    product(&mut heads.input(&shared, head, 2, 0, n), accumulate, 1., p.t(), do_, serial);
                }
            }
        });
        Tensor::from_vec(gradient, qkv.shape(), qkv.device()).map(Some)
    }
}

/// Where the heads lie in `qkv` [B, N, 3·C] and in the output [B, N, C].
struct Heads<'a> {
    qkv: &'a [f32],
    n: usize,
    c: usize,
    d: usize,
    count: usize,
    scale: f32,
}

/// One head of one sample.
#[derive(Clone, Copy)]
struct Head {
    sample: usize,
    head: usize,
}

impl<'a> Heads<'a> {
    fn new(qkv: &'a [f32], n: usize, c: usize, count: usize) -> Self {
        let d = c / count;
        Self { qkv, n, c, d, count, scale: (d as f64).powf(-0.5) as f32 }
    }

    /// Runs `task` on every head of `b` samples, in parallel.
    fn each(&self, b: usize, task: impl Fn(Head, &mut Tiles) + Sync) {
        if self.n * self.d == 0 {
            return;
        }
        (0..b * self.count).into_par_iter().for_each_init(Tiles::default, |tiles, i| {
            task(Head { sample: i / self.count, head: i % self.count }, tiles);
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
    fn qkv(&self, head: Head) -> (Matrix<'a>, Matrix<'a>, Matrix<'a>) {
        let part =
            |part| Matrix::new(&self.qkv[self.input_start(head, part, 0)..], self.n, self.d, 3 * self.c);
        (part(0), part(1), part(2))
    }

    /// Tokens `start..start + rows` of one part of a head, in values laid out as `qkv`.
    ///
    /// # Safety
    /// As [`Shared::matrix`].
    unsafe fn input<'s>(
        &self,
        shared: &'s Shared,
        head: Head,
        part: usize,
        start: usize,
        rows: usize,
    ) -> MatrixMut<'s> {
        // SAFETY: passed on to the caller.
        unsafe { shared.matrix(self.input_start(head, part, start), rows, self.d, 3 * self.c) }
    }

    /// Tokens `start..start + rows` of a head, in values laid out as the output.
    ///
    /// # Safety
    /// As [`Shared::matrix`].
    unsafe fn output<'s>(&self, shared: &'s Shared, head: Head, start: usize, rows: usize) -> MatrixMut<'s> {
        // SAFETY: passed on to the caller.
        unsafe { shared.matrix(self.output_start(head, start), rows, self.d, self.c) }
    }

    /// (first query, queries) of each tile.
    fn tiles(&self) -> impl Iterator<Item = (usize, usize)> {
        let (n, rows) = (self.n, (TILE / self.stride()).max(LANES));
        (0..n).step_by(rows).map(move |start| (start, rows.min(n - start)))
    }

    /// Values from one row of scores to the next: whole vectors.
    fn stride(&self) -> usize {
        self.n.next_multiple_of(LANES)
    }
}

/// Scratch memory of one task.
#[derive(Default)]
struct Tiles {
    p: Vec<f32>,
    ds: Vec<f32>,
}

impl Tiles {
    /// softmax(q·kᵀ/√d): `q` [rows, d], `k` [N, d] -> [rows, N].
    fn probabilities(&mut self, heads: &Heads, q: Matrix, k: Matrix) -> Matrix<'_> {
        let (n, stride, rows) = (heads.n, heads.stride(), q.row_count());
        self.p.resize(rows * stride, 0.);
        let mut scores = MatrixMut::new(&mut self.p, rows, n, stride);
        product(&mut scores, false, heads.scale, q, k.t(), Parallelism::None);
        vectorized(Softmax { scores: &mut self.p, n, stride });
        Matrix::new(&self.p, rows, n, stride)
    }

    /// The probabilities p [rows, N] and √d times the gradient of the scores [rows, N], from `do_`
    /// [rows, d], the gradient of the output.
    fn score_gradients(
        &mut self,
        heads: &Heads,
        q: Matrix,
        k: Matrix,
        v: Matrix,
        do_: Matrix,
    ) -> (Matrix<'_>, Matrix<'_>) {
        let (n, stride, rows) = (heads.n, heads.stride(), q.row_count());
        self.probabilities(heads, q, k);
        self.ds.resize(rows * stride, 0.);
        let mut dp = MatrixMut::new(&mut self.ds, rows, n, stride);
        product(&mut dp, false, 1., do_, v.t(), Parallelism::None);
        vectorized(SoftmaxGradient { p: &self.p, ds: &mut self.ds, n, stride });
        (Matrix::new(&self.p, rows, n, stride), Matrix::new(&self.ds, rows, n, stride))
    }
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
            for x in row.iter_mut() {
                *x = exp(*x - largest);
            }
            let scale = 1. / sum(row, |x| x);
            for x in row.iter_mut() {
                *x *= scale;
            }
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
            for (ds, &p) in ds.iter_mut().zip(p) {
                *ds = p * (*ds - average);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check;

    #[test]
    fn values_and_gradients() {
        for (b, n, heads, d) in [(1, 1, 1, 4), (2, 5, 2, 3), (1, 16, 2, 8), (2, 21, 3, 5)] {
            let qkv = check::random(&[b, n, 3 * heads * d], n as u64);
            check::operator(&[qkv], |t| attention(&t[0], heads), 2e-6);
        }
        let narrowed = check::random(&[2, 7, 14], 1);
        check::operator(&[narrowed], |t| attention(&t[0].narrow(2, 1, 12)?, 2), 2e-6);
    }

    #[test]
    fn several_tiles_are_one_softmax() {
        // 1000 tokens take eight tiles; finite differences would take hours, so compare with candle's.
        let qkv = check::random(&[1, 1000, 12], 3);
        check::composition(&[qkv], |t| attention(&t[0], 2), 5e-6);
    }

    #[test]
    fn the_bits_do_not_depend_on_the_number_of_threads() {
        check::threads(&[check::random(&[3, 50, 3 * 64], 0)], |t| attention(&t[0], 4));
    }

    #[test]
    fn large_scores_stay_finite() {
        let qkv = (check::single(&check::random(&[1, 9, 12], 0)) * 300.).unwrap();
        let out = attention(&qkv, 2).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert!(out.iter().all(|x| x.is_finite()));
    }

    #[test]
    fn channels_that_do_not_split_are_refused() {
        let qkv = check::random(&[1, 2, 12], 0);
        assert!(attention(&qkv, 3).unwrap_err().to_string().contains("12 channels"));
    }
}
