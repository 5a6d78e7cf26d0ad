//! The two residual branches of a pre-norm transformer block (arXiv:2010.11929), each as one operator.
//!
//! A branch normalises, projects and adds in one loop over rows that stay in the cache, and keeps only its widest
//! intermediate result; the backward pass computes normalised rows, activations and probabilities again (activation
//! checkpointing at little cost) and frees what was kept as soon as it is used. In bf16 the intermediates are bf16,
//! too; the residual stream, the norm, the softmax and all gradients of weights are f32.

mod attention;
mod mlp;
mod windows;

pub use attention::{
    AttentionWeights, attention_branch, composed_attention_branch, windowed_attention_branch,
};
pub use mlp::{MlpWeights, mlp_branch};

use super::autograd::{deliver_kept, records};
use super::chain;
#[cfg(feature = "cuda")]
use super::cuda;
use super::fresh::{Fresh, product};
use super::gemm::{Element, Matrix, MatrixMut, Panels, Precision, Scratch, Shared, Side, Store};
use super::profile::Timed;
use super::simd::{Kernel, vectorized};
use super::storage::{fused, values};
use super::{layer_norm, linear};
use candle_core::{CustomOp2, Result, Tensor, bail};
use rayon::prelude::*;
use std::cell::Cell;
use std::ops::Range;
use std::sync::Mutex;

/// The arguments that both branches of a block share.
#[derive(Clone, Copy, Debug)]
pub struct Branch<'a> {
    /// ε of the norm.
    pub eps: f64,
    /// Precision of the matrix products.
    pub precision: Precision,
    /// Factor of the branch for each sample `[B]`, constant: stochastic depth (arXiv:1603.09382). 1 when absent.
    pub scale: Option<&'a [f32]>,
}

impl Branch<'_> {
    /// `x` + scale·`y`, both [B, N, C].
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn residual(&self, x: &Tensor, y: &Tensor) -> Result<Tensor> {
        let Some(scale) = self.scale else { return x + y };
        let scale = Tensor::from_slice(scale, (scale.len(), 1, 1), x.device())?.to_dtype(x.dtype())?;
        x + y.broadcast_mul(&scale)?
    }

    /// Errors when a weight or the scale does not belong to `x`; `expected` are shapes of weights.
    fn check(&self, op: &str, x: &Tensor, weights: &[&Tensor], expected: &[Vec<usize>]) -> Result<()> {
        if self.scale.is_some_and(|scale| Ok(scale.len()) != x.dim(0).map_err(|_| ())) {
            bail!("{op}: {} scales for x {:?}", self.scale.map_or(0, <[f32]>::len), x.shape());
        }
        match weights.iter().zip(expected).find(|(weight, shape)| weight.dims() != **shape) {
            Some((weight, shape)) => {
                bail!("{op}: x {:?} and a weight {:?}, expected {shape:?}", x.shape(), weight.shape())
            }
            None => Ok(()),
        }
    }
}

/// Whether a branch runs as one operator: on f32 on the CPU, with weights that are variables or constants.
fn whole(x: &Tensor, weights: &[&Tensor]) -> bool {
    given(weights) && fused(weights) && fused(&[x])
}

/// Whether a branch runs as one operator on a CUDA device.
#[cfg(feature = "cuda")]
fn whole_on_cuda(x: &Tensor, weights: &[&Tensor]) -> bool {
    cuda::fused(weights) && cuda::fused(&[x])
}

/// Whether an operator may keep these weights itself, because they are variables or constants.
fn given(weights: &[&Tensor]) -> bool {
    weights.iter().all(|weight| (weight.is_variable() || !weight.track_op()) && weight.is_contiguous())
}

/// Applies `op` to `x`; one of its weights stands for all of them in candle's graph.
fn apply(x: &Tensor, weights: &[&Tensor], op: impl CustomOp2 + Send + Sync + 'static) -> Result<Tensor> {
    let x = x.contiguous()?;
    let handle = weights.iter().find(|weight| weight.track_op()).unwrap_or(&weights[0]);
    match records(weights.iter().copied().chain([&x])) {
        true => chain::apply2(&x, handle, op),
        false => x.apply_op2_no_bwd(handle, &Timed(op)),
    }
}

/// Values that a forward pass keeps for the backward pass.
pub(super) struct Kept<K>(Mutex<Option<K>>);

impl<K> Kept<K> {
    pub(super) fn nothing() -> Self {
        Self(Mutex::new(None))
    }

    pub(super) fn set(&self, kept: K) {
        *self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(kept);
    }

    pub(super) fn take(&self, op: &str) -> Result<K> {
        match self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take() {
            Some(kept) => Ok(kept),
            None => bail!("{op}: a second backward pass through one forward pass"),
        }
    }
}

/// The rows of a branch: [B·N, C].
#[derive(Clone, Copy)]
struct Rows<'a> {
    x: &'a [f32],
    width: usize,
    /// Rows of a sample.
    tokens: usize,
    scale: Option<&'a [f32]>,
    /// Weight and bias of the norm.
    norm: (&'a [f32], &'a [f32]),
    eps: f32,
}

thread_local! {
    /// The memory of the last task of this thread, for the next one.
    static TASK: Cell<Option<Box<Task>>> = const { Cell::new(None) };
}

/// Memory of a thread.
#[derive(Default)]
struct Task {
    scratch: Scratch,
    normed: Vec<f32>,
    wide: Vec<f32>,
    narrow: Vec<f32>,
}

impl<'a> Rows<'a> {
    fn count(&self) -> usize {
        self.x.len() / self.width
    }

    /// Runs `run` on all rows, in tasks whose size suits the widest of `panels`.
    fn each(&self, panels: &Panels, run: impl Fn(usize, Range<usize>, &mut Task) + Sync) {
        panels.tasks(self.count()).into_par_iter().enumerate().for_each(|(i, rows)| {
            let mut task = TASK.take().unwrap_or_default();
            run(i, rows, &mut task);
            TASK.set(Some(task));
        });
    }

    fn of(&self, rows: &Range<usize>) -> &'a [f32] {
        &self.x[rows.start * self.width..rows.end * self.width]
    }

    /// `task.normed` = norm of some rows.
    fn normalize(&self, rows: &Range<usize>, task: &mut Task) {
        task.normed.resize(rows.len() * self.width, 0.);
        let (weight, bias) = self.norm;
        let (x, y) = (self.of(rows), &mut task.normed[..]);
        vectorized(layer_norm::Forward { x, weight, bias, eps: self.eps, y });
    }

    /// The scale of the branch in a row.
    fn scale(&self, row: usize) -> f32 {
        self.scale.map_or(1., |scale| scale[row / self.tokens])
    }

    /// out = x + scale·(y + bias) in some rows.
    fn add(&self, rows: &Range<usize>, y: &[f32], bias: &[f32], out: &mut [f32]) {
        let lines = out.chunks_exact_mut(self.width).zip(y.chunks_exact(self.width));
        for (row, ((out, y), x)) in rows.clone().zip(lines.zip(self.of(rows).chunks_exact(self.width))) {
            vectorized(Residual { x, y, bias, scale: self.scale(row), out });
        }
    }

    /// scaled = scale·grad in some rows, and its sums over rows.
    fn scaled<T: Element>(&self, rows: &Range<usize>, grad: &[f32], scaled: &mut [T], sums: &mut [f32]) {
        let lines = scaled.chunks_exact_mut(self.width).zip(grad.chunks_exact(self.width));
        for (row, (scaled, grad)) in rows.clone().zip(lines) {
            vectorized(Scale { scale: self.scale(row), grad, scaled, sums: &mut *sums });
        }
    }

    /// The end of a backward pass in some rows: dx = grad + the gradient through the norm from `task.narrow`, the
    /// gradient of the normed rows; sums of the gradients of weight and bias of the norm; the normed rows once more.
    fn norm_gradient<T: Element>(
        &self,
        rows: &Range<usize>,
        grad: &[f32],
        task: &Task,
        normed: &mut [T],
        dx: &mut [f32],
        sums: &mut [f32],
    ) {
        let (of_weight, of_bias) = sums.split_at_mut(self.width);
        vectorized(NormGradient {
            norm: layer_norm::InputGradient {
                x: self.of(rows),
                weight: self.norm.0,
                grad: &task.narrow,
                eps: self.eps,
                dx,
            },
            bias: self.norm.1,
            more: grad,
            normed,
            of_weight,
            of_bias,
        });
    }
}

/// See [`Rows::norm_gradient`].
struct NormGradient<'a, T> {
    norm: layer_norm::InputGradient<'a>,
    bias: &'a [f32],
    /// Added to dx.
    more: &'a [f32],
    normed: &'a mut [T],
    of_weight: &'a mut [f32],
    of_bias: &'a mut [f32],
}

impl<T: Element> Kernel for NormGradient<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { norm: layer_norm::InputGradient { x, weight, grad, eps, dx }, bias, .. } = self;
        let width = weight.len();
        let read = x.chunks_exact(width).zip(grad.chunks_exact(width)).zip(self.more.chunks_exact(width));
        let written = dx.chunks_exact_mut(width).zip(self.normed.chunks_exact_mut(width));
        for (((x, grad), more), (dx, normed)) in read.zip(written) {
            let (mean, scale) = layer_norm::statistics(x, eps);
            layer_norm::input_gradient(x, weight, grad, (mean, scale), dx);
            dx.iter_mut().zip(more).for_each(|(dx, &more)| *dx += more);
            for ((normed, &x), (&w, &b)) in normed.iter_mut().zip(x).zip(weight.iter().zip(bias)) {
                *normed = T::of((x - mean) * scale * w + b);
            }
            let sums = self.of_weight.iter_mut().zip(self.of_bias.iter_mut());
            for ((dw, db), (&x, &g)) in sums.zip(x.iter().zip(grad)) {
                *dw += g * (x - mean) * scale;
                *db += g;
            }
        }
    }
}

/// x + scale·(y + bias) of one row.
struct Residual<'a> {
    x: &'a [f32],
    y: &'a [f32],
    bias: &'a [f32],
    scale: f32,
    out: &'a mut [f32],
}

impl Kernel for Residual<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for ((out, &x), (&y, &b)) in self.out.iter_mut().zip(self.x).zip(self.y.iter().zip(self.bias)) {
            *out = x + self.scale * (y + b);
        }
    }
}

/// scale·grad of one row, added to sums over rows.
struct Scale<'a, T> {
    scale: f32,
    grad: &'a [f32],
    scaled: &'a mut [T],
    sums: &'a mut [f32],
}

impl<T: Element> Kernel for Scale<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for ((scaled, sum), &g) in self.scaled.iter_mut().zip(self.sums).zip(self.grad) {
            let g = self.scale * g;
            *scaled = T::of(g);
            *sum += g;
        }
    }
}

/// `values` rounded to `T`.
struct Narrow<'a, T> {
    values: &'a [f32],
    narrow: &'a mut [T],
}

impl<T: Element> Kernel for Narrow<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        self.narrow.iter_mut().zip(self.values).for_each(|(to, &x)| *to = T::of(x));
    }
}

/// y = values + bias of some rows, rounded to `T`.
struct AddBias<'a, T> {
    values: &'a [f32],
    bias: &'a [f32],
    y: &'a mut [T],
}

impl<T: Element> Kernel for AddBias<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let width = self.bias.len();
        for (y, values) in self.y.chunks_exact_mut(width).zip(self.values.chunks_exact(width)) {
            for (y, (&x, &b)) in y.iter_mut().zip(values.iter().zip(self.bias)) {
                *y = T::of(x + b);
            }
        }
    }
}

/// The rows of a linear map, [out, in], to multiply by on the right: x·Wᵀ.
fn forward_panels<T: Element>(weight: &[f32], out: usize) -> Panels {
    let width = weight.len() / out;
    Panels::new(Side::Right, T::PRECISION, &Matrix::new(weight, out, width, width))
}

/// The panels for the backward pass: g·W.
fn backward_panels<T: Element>(weight: &[f32], out: usize) -> Panels {
    let width = weight.len() / out;
    Panels::new(Side::Right, T::PRECISION, &Matrix::new(weight, out, width, width).t())
}

/// into = rows·panels, where `rows` has `count` rows.
fn multiply<T: Element>(
    rows: &[T],
    count: usize,
    panels: &Panels,
    into: &mut Vec<f32>,
    scratch: &mut Scratch,
) {
    let (width, lanes) = (rows.len() / count.max(1), panels.lanes());
    into.resize(count * lanes, 0.);
    let mut into = MatrixMut::new(into, count, lanes, lanes);
    panels.multiply(&Matrix::new(rows, count, width, width), 0..count, &mut into, Store::SET, scratch);
}

/// The gradient of the weight [out, in] of a linear map: gradᵀ·x, of `grad` [rows, out] and `x` [rows, in].
fn weight_gradient<T: Element>(weight: &Tensor, grad: &[T], x: &[T]) -> Result<()> {
    if !weight.track_op() {
        return Ok(());
    }
    let (out, width) = weight.dims2()?;
    let rows = grad.len() / out;
    let (left, right) = (Matrix::new(grad, rows, out, out).t(), Matrix::new(x, rows, width, width).t());
    let gradient = product(T::PRECISION, &left, &right);
    deliver_kept(weight, Tensor::from_vec(gradient, (out, width), weight.device())?)
}

/// Sums over rows, one list per task; the lists are added in order.
struct Sums {
    lists: Vec<f32>,
    width: usize,
}

impl Sums {
    fn new(panels: &Panels, rows: usize, width: usize) -> Self {
        Self { lists: vec![0.; panels.tasks(rows).len() * width], width }
    }

    /// Delivers the gradients of `weights`, whose sums lie one after another.
    fn deliver(self, weights: &[&Tensor]) -> Result<()> {
        let mut total = vec![0f32; self.width];
        for list in self.lists.chunks_exact(self.width) {
            total.iter_mut().zip(list).for_each(|(total, &sum)| *total += sum);
        }
        let mut rest = &total[..];
        for weight in weights {
            let (own, later) = rest.split_at(weight.elem_count());
            deliver_kept(weight, Tensor::from_slice(own, weight.shape(), weight.device())?)?;
            rest = later;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
