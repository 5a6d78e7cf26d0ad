//! x + fc2(gelu(fc1(norm(x)))).

use super::*;
use crate::ops::gelu::{gelu, normal};
use crate::ops::storage::argument;
use candle_core::{CpuStorage, CustomOp2, Layout, Shape};

/// The parameters of [`mlp_branch`], each a pair of weight and bias.
#[derive(Clone, Copy, Debug)]
pub struct MlpWeights<'a> {
    /// Layer norm, `[C]` each.
    pub norm: (&'a Tensor, &'a Tensor),
    /// To the hidden width H: [H, C] and `[H]`.
    pub fc1: (&'a Tensor, &'a Tensor),
    /// Back to C channels: [C, H] and `[C]`.
    pub fc2: (&'a Tensor, &'a Tensor),
}

impl<'a> MlpWeights<'a> {
    fn list(&self) -> [&'a Tensor; 6] {
        let Self { norm, fc1, fc2 } = self;
        [norm.0, norm.1, fc1.0, fc1.1, fc2.0, fc2.1]
    }
}

/// The MLP branch of a transformer block, x + scale·`fc2`(gelu(`fc1`(`norm`(x)))): `x` [B, N, C] -> [B, N, C].
///
/// # Errors
/// When the weights do not fit, or the number of scales is not B.
pub fn mlp_branch(x: &Tensor, weights: &MlpWeights, branch: &Branch) -> Result<Tensor> {
    let (.., c) = x.dims3()?;
    let (list, hidden) = (weights.list(), weights.fc1.1.elem_count());
    let shapes = [vec![c], vec![c], vec![hidden, c], vec![hidden], vec![c, hidden], vec![c]];
    branch.check("mlp_branch", x, &list, &shapes)?;
    #[cfg(feature = "cuda")]
    if whole_on_cuda(x, &list) && c > 0 && hidden > 0 {
        return cuda::mlp_branch(x, list, branch);
    }
    if !whole(x, &list) || c == 0 || hidden == 0 {
        let y = layer_norm::layer_norm(x, weights.norm.0, weights.norm.1, branch.eps)?;
        let y = gelu(&linear::linear(&y, weights.fc1.0, Some(weights.fc1.1), branch.precision)?)?;
        return branch
            .residual(x, &linear::linear(&y, weights.fc2.0, Some(weights.fc2.1), branch.precision)?);
    }
    match branch.precision {
        Precision::F32 => apply(x, &list, MlpBranch::<f32>::new(list, branch, x)),
        Precision::Bf16 => apply(x, &list, MlpBranch::<half::bf16>::new(list, branch, x)),
    }
}

struct MlpBranch<T> {
    weights: [Tensor; 6],
    eps: f32,
    scale: Option<Vec<f32>>,
    records: bool,
    /// fc1(norm(x)). [rows, H]
    hidden: Kept<Vec<T>>,
}

impl<T: Element> MlpBranch<T> {
    fn new(weights: [&Tensor; 6], branch: &Branch, x: &Tensor) -> Self {
        let scale = branch.scale.map(<[f32]>::to_vec);
        let records = records(weights.into_iter().chain([x]));
        let weights = weights.map(Tensor::clone);
        Self { weights, eps: branch.eps as f32, scale, records, hidden: Kept::nothing() }
    }

    fn rows<'a>(&'a self, x: &'a [f32], shape: &Shape, norm: (&'a [f32], &'a [f32])) -> Result<Rows<'a>> {
        let (_, tokens, width) = shape.dims3()?;
        Ok(Rows { x, width, tokens, scale: self.scale.as_deref(), norm, eps: self.eps })
    }
}

impl<T: Element> CustomOp2 for MlpBranch<T> {
    fn name(&self) -> &'static str {
        "mlp_branch"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        layout: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let guards = self.weights.each_ref().map(Tensor::storage_and_layout);
        let [g, b, w1, b1, w2, b2] = guards.each_ref().map(|(guard, layout)| values(guard, layout));
        let (b1, b2) = (b1?, b2?);
        let rows = self.rows(argument(x, layout)?, layout.shape(), (g?, b?))?;
        let (c, h) = (rows.width, b1.len());
        let (first, second) = (forward_panels::<T>(w1?, h), forward_panels::<T>(w2?, c));
        let out = Fresh::<f32>::new(rows.x.len()); // [rows, C]
        let hidden = Fresh::<T>::new(if self.records { rows.count() * h } else { 0 }); // [rows, H]
        rows.each(&first, |_, range, task| {
            rows.normalize(&range, task);
            multiply(&task.normed, range.len(), &first, &mut task.wide, &mut task.scratch);
            // SAFETY: every task has its own rows.
            let (out, kept) = unsafe {
                let kept = if self.records { range.len() * h } else { 0 };
                let start = if self.records { range.start * h } else { 0 };
                (out.part(range.start * c, range.len() * c), hidden.part(start, kept))
            };
            vectorized(Activate { values: &mut task.wide, bias: b1, kept });
            multiply(&task.wide, range.len(), &second, &mut task.narrow, &mut task.scratch);
            rows.add(&range, &task.narrow, b2, out);
        });
        let (out, hidden) = (out.finish(), hidden.finish());
        if self.records {
            self.hidden.set(hidden);
        }
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        _: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let hidden = self.hidden.take("mlp_branch")?;
        let grad = grad.contiguous()?;
        let (x_guard, x_layout) = x.storage_and_layout();
        let (grad_guard, grad_layout) = grad.storage_and_layout();
        let guards = self.weights.each_ref().map(Tensor::storage_and_layout);
        let [g, b, w1, _, w2, _] = guards.each_ref().map(|(guard, layout)| values(guard, layout));
        let rows = self.rows(values(&x_guard, x_layout)?, x.shape(), (g?, b?))?;
        let grads = values(&grad_guard, grad_layout)?;
        let (c, count) = (rows.width, rows.count());
        let h = self.weights[3].elem_count();
        let (second, first) = (backward_panels::<T>(w2?, c), backward_panels::<T>(w1?, h));

        let [scaled, normed] = [(); 2].map(|()| Fresh::<T>::new(count * c)); // [rows, C]
        // gelu(hidden) and the gradient of hidden, [rows, H]
        let (mut active, slope) = (hidden, Fresh::<T>::new(count * h));
        let dx = Fresh::<f32>::new(count * c);
        let mut sums = Sums::new(&second, count, 3 * c + h);
        {
            let (active, lists, width) = (Shared::new(&mut active), Shared::new(&mut sums.lists), sums.width);
            rows.each(&second, |i, range, task| {
                let (start, len) = (range.start, range.len());
                // SAFETY: every task has its own rows and its own list of sums.
                let (scaled, normed, active, slope, dx, sums) = unsafe {
                    (
                        scaled.part(start * c, len * c),
                        normed.part(start * c, len * c),
                        active.part(start * h, len * h),
                        slope.part(start * h, len * h),
                        dx.part(start * c, len * c),
                        lists.part(i * width, width),
                    )
                };
                let grad = &grads[start * c..range.end * c];
                let (of_norm, sums) = sums.split_at_mut(2 * c);
                let (of_fc1, of_fc2) = sums.split_at_mut(h);
                rows.scaled(&range, grad, scaled, of_fc2);
                multiply(scaled, len, &second, &mut task.wide, &mut task.scratch);
                vectorized(Slope { grad: &task.wide, hidden: active, slope, sums: of_fc1 });
                multiply(slope, len, &first, &mut task.narrow, &mut task.scratch);
                rows.norm_gradient(&range, grad, task, normed, dx, of_norm);
            });
        }
        let (scaled, normed, slope, dx) = (scaled.finish(), normed.finish(), slope.finish(), dx.finish());
        let [gamma, beta, w1, b1, w2, b2] = self.weights.each_ref();
        weight_gradient(w2, &scaled, &active)?;
        drop((scaled, active));
        weight_gradient(w1, &slope, &normed)?;
        sums.deliver(&[gamma, beta, b1, b2])?;
        Ok((x.track_op().then(|| Tensor::from_vec(dx, x.shape(), x.device())).transpose()?, None))
    }
}

/// values = gelu(values + bias), with the input of the activation.
struct Activate<'a, T> {
    values: &'a mut [f32],
    bias: &'a [f32],
    /// Empty when there is no backward pass.
    kept: &'a mut [T],
}

impl<T: Element> Kernel for Activate<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let width = self.bias.len();
        if self.kept.is_empty() {
            for values in self.values.chunks_exact_mut(width) {
                for (x, &b) in values.iter_mut().zip(self.bias) {
                    let hidden = T::of(*x + b).wide();
                    *x = hidden * normal(hidden).0;
                }
            }
            return;
        }
        let lines = self.values.chunks_exact_mut(width).zip(self.kept.chunks_exact_mut(width));
        for (values, kept) in lines {
            for ((x, kept), &b) in values.iter_mut().zip(kept).zip(self.bias) {
                *kept = T::of(*x + b);
                let hidden = kept.wide();
                *x = hidden * normal(hidden).0;
            }
        }
    }
}

/// hidden becomes gelu(hidden); slope = grad·gelu'(hidden), also added to sums over rows.
struct Slope<'a, T> {
    grad: &'a [f32],
    hidden: &'a mut [T],
    slope: &'a mut [T],
    sums: &'a mut [f32],
}

impl<T: Element> Kernel for Slope<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let width = self.sums.len();
        let lines = self.hidden.chunks_exact_mut(width).zip(self.slope.chunks_exact_mut(width));
        for (grad, (hidden, slope)) in self.grad.chunks_exact(width).zip(lines) {
            let places = hidden.iter_mut().zip(slope).zip(self.sums.iter_mut());
            for (((hidden, slope), sum), &g) in places.zip(grad) {
                let x = hidden.wide();
                let (cumulative, density) = normal(x);
                let g = g * (cumulative + x * density);
                *hidden = T::of(x * cumulative);
                *slope = T::of(g);
                *sum += g;
            }
        }
    }
}
