//! x + proj(attention(qkv(norm(x)))).

use super::*;
use crate::ops::attention::{Heads, Offsets, attention};
use crate::ops::storage::argument;
use candle_core::{CpuStorage, CustomOp2, Layout, Shape};

/// The weights of [`attention_branch`]: norm `[C]`, qkv [3·C, C] and `[3·C]`, proj [C, C] and `[C]`; weight and bias
/// each.
#[derive(Clone, Copy, Debug)]
pub struct AttentionWeights<'a> {
    pub norm: (&'a Tensor, &'a Tensor),
    pub qkv: (&'a Tensor, &'a Tensor),
    pub proj: (&'a Tensor, &'a Tensor),
}

impl<'a> AttentionWeights<'a> {
    fn list(&self) -> [&'a Tensor; 6] {
        let Self { norm, qkv, proj } = self;
        [norm.0, norm.1, qkv.0, qkv.1, proj.0, proj.1]
    }
}

/// x + scale·`proj`(attention(`qkv`(`norm`(x)))), `x` [B, N, C] -> [B, N, C].
///
/// # Errors
/// Weights of other sizes, channels that do not split into the heads, a number of scales other than B.
pub fn attention_branch(
    x: &Tensor,
    weights: &AttentionWeights,
    heads: usize,
    branch: &Branch,
) -> Result<Tensor> {
    let (.., c) = x.dims3()?;
    let list = weights.list();
    let shapes = [vec![c], vec![c], vec![3 * c, c], vec![3 * c], vec![c, c], vec![c]];
    branch.check("attention_branch", x, &list, &shapes)?;
    if heads == 0 || c % heads != 0 {
        bail!("attention_branch: {c} channels do not split into {heads} heads");
    }
    #[cfg(feature = "cuda")]
    if whole_on_cuda(x, &list) && x.elem_count() > 0 && c / heads <= cuda::MOST_CHANNELS {
        return match branch.precision {
            Precision::F32 => apply(x, &list, cuda::AttentionBranch::<f32>::new(list, heads, branch, x)),
            Precision::Bf16 => {
                apply(x, &list, cuda::AttentionBranch::<half::bf16>::new(list, heads, branch, x))
            }
        };
    }
    if !whole(x, &list) || x.elem_count() == 0 {
        let y = layer_norm::layer_norm(x, weights.norm.0, weights.norm.1, branch.eps)?;
        let y = linear::linear(&y, weights.qkv.0, Some(weights.qkv.1), branch.precision)?;
        let y = attention(&y, heads, None, branch.precision)?;
        return branch
            .residual(x, &linear::linear(&y, weights.proj.0, Some(weights.proj.1), branch.precision)?);
    }
    match branch.precision {
        Precision::F32 => apply(x, &list, AttentionBranch::<f32>::new(list, heads, branch, x)),
        Precision::Bf16 => apply(x, &list, AttentionBranch::<half::bf16>::new(list, heads, branch, x)),
    }
}

struct AttentionBranch<T> {
    weights: [Tensor; 6],
    heads: usize,
    eps: f32,
    scale: Option<Vec<f32>>,
    records: bool,
    /// qkv(norm(x)). [rows, 3·C]
    kept: Kept<Vec<T>>,
}

impl<T: Element> AttentionBranch<T> {
    fn new(weights: [&Tensor; 6], heads: usize, branch: &Branch, x: &Tensor) -> Self {
        let scale = branch.scale.map(<[f32]>::to_vec);
        let records = records(weights.into_iter().chain([x]));
        let weights = weights.map(Tensor::clone);
        Self { weights, heads, eps: branch.eps as f32, scale, records, kept: Kept::nothing() }
    }

    fn rows<'a>(&'a self, x: &'a [f32], shape: &Shape, norm: (&'a [f32], &'a [f32])) -> Result<Rows<'a>> {
        let (_, tokens, width) = shape.dims3()?;
        Ok(Rows { x, width, tokens, scale: self.scale.as_deref(), norm, eps: self.eps })
    }

    fn heads<'a>(&self, qkv: &'a [T], rows: &Rows) -> Heads<'a, T> {
        Heads::new(qkv, rows.tokens, rows.width, self.heads, T::PRECISION, Offsets::None)
    }
}

impl<T: Element> CustomOp2 for AttentionBranch<T> {
    fn name(&self) -> &'static str {
        "attention_branch"
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
        let (c, count) = (rows.width, rows.count());
        let (first, second) = (forward_panels::<T>(w1?, 3 * c), forward_panels::<T>(w2?, c));
        let mut qkv = vec![T::default(); count * 3 * c]; // [rows, 3·C]
        let shared = Shared::new(&mut qkv);
        rows.each(&first, |_, range, task| {
            rows.normalize(&range, task);
            multiply(&task.normed, range.len(), &first, &mut task.wide, &mut task.scratch);
            // SAFETY: every task has its own rows.
            let y = unsafe { shared.part(range.start * 3 * c, range.len() * 3 * c) };
            vectorized(AddBias { values: &task.wide, bias: b1, y });
        });
        let mut attended = vec![T::default(); count * c]; // [rows, C]
        self.heads(&qkv, &rows).forward(count / rows.tokens, &Shared::new(&mut attended));
        let mut out = vec![0f32; count * c]; // [rows, C]
        let shared = Shared::new(&mut out);
        rows.each(&second, |_, range, task| {
            let part = &attended[range.start * c..range.end * c];
            multiply(part, range.len(), &second, &mut task.narrow, &mut task.scratch);
            // SAFETY: every task has its own rows.
            let out = unsafe { shared.part(range.start * c, range.len() * c) };
            rows.add(&range, &task.narrow, b2, out);
        });
        if self.records {
            self.kept.set(qkv);
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
        let qkv = self.kept.take("attention_branch")?;
        let grad = grad.contiguous()?;
        let (x_guard, x_layout) = x.storage_and_layout();
        let (grad_guard, grad_layout) = grad.storage_and_layout();
        let guards = self.weights.each_ref().map(Tensor::storage_and_layout);
        let [g, b, w1, _, w2, _] = guards.each_ref().map(|(guard, layout)| values(guard, layout));
        let rows = self.rows(values(&x_guard, x_layout)?, x.shape(), (g?, b?))?;
        let grads = values(&grad_guard, grad_layout)?;
        let (c, count) = (rows.width, rows.count());
        let (second, first) = (backward_panels::<T>(w2?, c), backward_panels::<T>(w1?, 3 * c));
        let [gamma, beta, w1, b1, w2, b2] = self.weights.each_ref();

        let [mut scaled, mut of_attended] = [(); 2].map(|()| vec![T::default(); count * c]); // [rows, C]
        let mut sums = Sums::new(&second, count, c);
        {
            let [scaled, of_attended] = [Shared::new(&mut scaled), Shared::new(&mut of_attended)];
            let lists = Shared::new(&mut sums.lists);
            rows.each(&second, |i, range, task| {
                let (start, len) = (range.start * c, range.len() * c);
                // SAFETY: every task has its own rows and its own list of sums.
                let (scaled, of_attended, sums) =
                    unsafe { (scaled.part(start, len), of_attended.part(start, len), lists.part(i * c, c)) };
                rows.scaled(&range, &grads[start..start + len], scaled, sums);
                multiply(scaled, range.len(), &second, &mut task.narrow, &mut task.scratch);
                of_attended.iter_mut().zip(&task.narrow).for_each(|(to, &x)| *to = T::of(x));
            });
        }
        sums.deliver(&[b2])?;

        let mut of_qkv = vec![T::default(); count * 3 * c]; // [rows, 3·C]
        let mut attended = vec![T::default(); count * c]; // [rows, C]
        let (heads, out) = (self.heads(&qkv, &rows), Shared::new(&mut attended));
        heads.backward(count / rows.tokens, &of_attended, &Shared::new(&mut of_qkv), Some(&out), false);
        drop((qkv, of_attended));
        weight_gradient(w2, &scaled, &attended)?;
        drop((scaled, attended));

        let (mut normed, mut dx) = (vec![T::default(); count * c], vec![0f32; count * c]); // [rows, C]
        let mut sums = Sums::new(&first, count, 5 * c);
        {
            let (normed, dx) = (Shared::new(&mut normed), Shared::new(&mut dx));
            let lists = Shared::new(&mut sums.lists);
            rows.each(&first, |i, range, task| {
                let (start, len) = (range.start * c, range.len() * c);
                // SAFETY: every task has its own rows and its own list of sums.
                let (normed, dx, sums) =
                    unsafe { (normed.part(start, len), dx.part(start, len), lists.part(i * 5 * c, 5 * c)) };
                let (of_norm, of_bias) = sums.split_at_mut(2 * c);
                let of_qkv = &of_qkv[3 * start..3 * (start + len)];
                vectorized(AddRows { rows: of_qkv, sums: of_bias });
                multiply(of_qkv, range.len(), &first, &mut task.narrow, &mut task.scratch);
                rows.norm_gradient(&range, &grads[start..start + len], task, normed, dx, of_norm);
            });
        }
        weight_gradient(w1, &of_qkv, &normed)?;
        sums.deliver(&[gamma, beta, b1])?;
        Ok((x.track_op().then(|| Tensor::from_vec(dx, x.shape(), x.device())).transpose()?, None))
    }
}

/// Sums over rows.
struct AddRows<'a, T> {
    rows: &'a [T],
    sums: &'a mut [f32],
}

impl<T: Element> Kernel for AddRows<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for row in self.rows.chunks_exact(self.sums.len()) {
            self.sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += x.wide());
        }
    }
}
