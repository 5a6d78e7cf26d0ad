//! x + proj(attention(qkv(norm(x)))), of all tokens or within windows, with or without relative positions or rotations.

use super::windows::Windows;
use super::*;
use crate::ops::attention::{
    Area, AttentionBias, AttentionWindow, Heads, Offsets, Rotary, attention, rotary_attention,
};
use crate::ops::storage::argument;
use crate::ops::{merge_windows, partition_windows};
use candle_core::{CpuStorage, CustomOp2, Layout, Shape};

/// The parameters of [`attention_branch`], each a pair of weight and bias.
#[derive(Clone, Copy, Debug)]
pub struct AttentionWeights<'a> {
    /// Layer norm, `[C]` each.
    pub norm: (&'a Tensor, &'a Tensor),
    /// Projection to queries, keys and values: [3·C, C] and `[3·C]`.
    pub qkv: (&'a Tensor, &'a Tensor),
    /// Projection of the output: [C, C] and `[C]`.
    pub proj: (&'a Tensor, &'a Tensor),
}

impl<'a> AttentionWeights<'a> {
    fn list(&self) -> [&'a Tensor; 6] {
        let Self { norm, qkv, proj } = self;
        [norm.0, norm.1, qkv.0, qkv.1, proj.0, proj.1]
    }
}

/// The attention branch of a transformer block, x + scale·`proj`(attention(`qkv`(`norm`(x)))): `x` [B, N, C] ->
/// [B, N, C].
///
/// # Errors
/// When the weights do not fit, the channels do not split into the heads, or the number of scales is not B.
pub fn attention_branch(
    x: &Tensor,
    weights: &AttentionWeights,
    heads: usize,
    branch: &Branch,
) -> Result<Tensor> {
    let all_tokens = AttentionWindow { grid: (1, x.dim(1)?), ..AttentionWindow::default() };
    windowed_attention_branch(x, weights, heads, &all_tokens, branch)
}

/// [`attention_branch`] within windows, and with a table of relative position biases or with rotations. Windows are padded
/// after the norm, so that the keys of the padding are the bias of `qkv`, as in detectron2's ViTDet.
///
/// # Errors
/// The errors of [`attention_branch`]; tokens that do not fill the grid, or a table or rotations of another size.
pub fn windowed_attention_branch(
    x: &Tensor,
    weights: &AttentionWeights,
    heads: usize,
    window: &AttentionWindow,
    branch: &Branch,
) -> Result<Tensor> {
    let (_, n, c) = x.dims3()?;
    let area = window.area(n, heads)?;
    let list = weights.list();
    let shapes = [vec![c], vec![c], vec![3 * c, c], vec![3 * c], vec![c, c], vec![c]];
    branch.check("attention_branch", x, &list, &shapes)?;
    if heads == 0 || c % heads != 0 {
        bail!("attention_branch: {c} channels do not split into {heads} heads");
    }
    if let Some(rotary) = window.rotary {
        let (samples, tokens) = match window.side {
            Some(side) => (window.grid.0.div_ceil(side) * window.grid.1.div_ceil(side), side * side),
            None => (1, n),
        };
        rotary.check(samples, tokens, c / heads)?;
    }
    let table: Vec<&Tensor> = window.table.into_iter().collect();
    #[cfg(feature = "cuda")]
    if whole_on_cuda(x, &list)
        && whole_on_cuda(x, &table)
        && window.rotary.is_none()
        && x.elem_count() > 0
        && c / heads <= cuda::MOST_CHANNELS
    {
        let Area { size: grid, class } = area;
        let within = cuda::Attention { heads, grid: window.grid, side: window.side, area: (grid, class) };
        return cuda::attention_branch(x, list, window.table, within, branch);
    }
    let on_cpu = window.rotary.is_none_or(Rotary::on_cpu);
    if !whole(x, &list) || !whole(x, &table) || !on_cpu || x.elem_count() == 0 {
        let bias = |_: &Tensor| {
            let Area { size: grid, class } = area;
            Ok(window.table.map(|table| AttentionBias::Relative { table: table.clone(), grid, class }))
        };
        return composed_attention_branch(x, weights, heads, window, bias, branch);
    }
    match branch.precision {
        Precision::F32 => AttentionBranch::<f32>::apply(x, list, heads, window, area, branch),
        Precision::Bf16 => AttentionBranch::<half::bf16>::apply(x, list, heads, window, area, branch),
    }
}

/// [`windowed_attention_branch`] as a composition of operators, for biases that depend on the queries. `bias` makes the
/// bias of qkv [samples, N, 3·C], where the samples are windows if there are any; the table of `window` is not read. With
/// rotations there is no bias.
///
/// # Errors
/// When the tokens do not fill the grid, or the bias does not fit.
pub fn composed_attention_branch(
    x: &Tensor,
    weights: &AttentionWeights,
    heads: usize,
    window: &AttentionWindow,
    bias: impl FnOnce(&Tensor) -> Result<Option<AttentionBias>>,
    branch: &Branch,
) -> Result<Tensor> {
    let ((b, n, c), (h, w)) = (x.dims3()?, window.grid);
    let mut y = layer_norm::layer_norm(x, weights.norm.0, weights.norm.1, branch.eps)?;
    if let Some(side) = window.side {
        y = partition_windows(&y.reshape((b, h, w, c))?, side)?;
    }
    let qkv = linear::linear(&y, weights.qkv.0, Some(weights.qkv.1), branch.precision)?;
    y = match window.rotary {
        Some(rotary) => rotary_attention(&qkv, heads, rotary, branch.precision)?,
        None => attention(&qkv, heads, bias(&qkv)?.as_ref(), branch.precision)?,
    };
    if let Some(side) = window.side {
        y = merge_windows(&y, side, window.grid)?.reshape((b, n, c))?;
    }
    branch.residual(x, &linear::linear(&y, weights.proj.0, Some(weights.proj.1), branch.precision)?)
}

struct AttentionBranch<T> {
    weights: [Tensor; 6],
    heads: usize,
    /// Tokens of a softmax.
    area: Area,
    windows: Option<Windows>,
    /// [T, heads]
    table: Option<Tensor>,
    rotary: Option<Rotary>,
    eps: f32,
    scale: Option<Vec<f32>>,
    records: bool,
    /// qkv(norm(x)) [rows, 3·C], in the order of the windows, and attention of it [rows, C], in the order of the tokens.
    kept: Kept<(Vec<T>, Vec<T>)>,
}

impl<T: Element> AttentionBranch<T> {
    fn apply(
        x: &Tensor,
        weights: [&Tensor; 6],
        heads: usize,
        window: &AttentionWindow,
        area: Area,
        branch: &Branch,
    ) -> Result<Tensor> {
        let list: Vec<&Tensor> = weights.into_iter().chain(window.table).collect();
        let op = Self {
            weights: weights.map(Tensor::clone),
            heads,
            area,
            windows: window.side.map(|side| Windows::new(window.grid, side)),
            table: window.table.cloned(),
            rotary: window.rotary.cloned(),
            eps: branch.eps as f32,
            scale: branch.scale.map(<[f32]>::to_vec),
            records: records(list.iter().copied().chain([x])),
            kept: Kept::nothing(),
        };
        apply(x, &list, op)
    }

    fn rows<'a>(&'a self, x: &'a [f32], shape: &Shape, norm: (&'a [f32], &'a [f32])) -> Result<Rows<'a>> {
        let (_, tokens, width) = shape.dims3()?;
        Ok(Rows { x, width, tokens, scale: self.scale.as_deref(), norm, eps: self.eps })
    }

    /// The table for the kernels. [heads, T]
    fn lists(&self) -> Result<Option<Vec<f32>>> {
        let Some(table) = &self.table else { return Ok(None) };
        let (guard, layout) = table.storage_and_layout();
        Ok(Some(self.area.lists(values(&guard, layout)?, self.heads)))
    }

    /// The heads over all samples, or all windows, and how many those are.
    fn heads<'a>(&self, qkv: &'a [T], rows: &Rows, lists: Option<&'a [f32]>) -> (Heads<'a, T>, usize) {
        let tokens = self.windows.as_ref().map_or(rows.tokens, |windows| windows.size);
        let offsets = lists.map_or(Offsets::None, |lists| Offsets::Relative { lists, area: self.area });
        let heads = Heads::new(qkv, tokens, rows.width, self.heads, T::PRECISION, offsets);
        (heads, qkv.len() / (3 * rows.width * tokens))
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
        let qkv = Fresh::<T>::new(count * 3 * c); // [rows, 3·C]
        rows.each(&first, |_, range, task| {
            rows.normalize(&range, task);
            multiply(&task.normed, range.len(), &first, &mut task.wide, &mut task.scratch);
            // SAFETY: every task has its own rows.
            let y = unsafe { qkv.part(range.start * 3 * c, range.len() * 3 * c) };
            vectorized(AddBias { values: &task.wide, bias: b1, y });
        });
        let mut qkv = qkv.finish();
        if let Some(windows) = &self.windows {
            let padding: Vec<T> = b1.iter().map(|&x| T::of(x)).collect();
            qkv = windows.partition(&qkv, &padding);
        }
        let attended = Fresh::<T>::new(qkv.len() / 3); // [rows, C]
        let lists = self.lists()?;
        let (heads, samples) = self.heads(&qkv, &rows, lists.as_deref());
        Rotary::with_turns_of(self.rotary.as_ref(), |turns| {
            heads.rotated(turns).forward(samples, &attended)
        })?;
        let mut attended = attended.finish();
        if let Some(windows) = &self.windows {
            attended = windows.merge(&attended, c);
        }
        let out = Fresh::<f32>::new(count * c); // [rows, C]
        rows.each(&second, |_, range, task| {
            let part = &attended[range.start * c..range.end * c];
            multiply(part, range.len(), &second, &mut task.narrow, &mut task.scratch);
            // SAFETY: every task has its own rows.
            let out = unsafe { out.part(range.start * c, range.len() * c) };
            rows.add(&range, &task.narrow, b2, out);
        });
        if self.records {
            self.kept.set((qkv, attended));
        }
        Ok((CpuStorage::F32(out.finish()), layout.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        _: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (qkv, attended) = self.kept.take("attention_branch")?;
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

        let [scaled, of_attended] = [(); 2].map(|()| Fresh::<T>::new(count * c)); // [rows, C]
        let mut sums = Sums::new(&second, count, c);
        {
            let lists = Shared::new(&mut sums.lists);
            rows.each(&second, |i, range, task| {
                let (start, len) = (range.start * c, range.len() * c);
                // SAFETY: every task has its own rows and its own list of sums.
                let (scaled, of_attended, sums) =
                    unsafe { (scaled.part(start, len), of_attended.part(start, len), lists.part(i * c, c)) };
                rows.scaled(&range, &grads[start..start + len], scaled, sums);
                multiply(scaled, range.len(), &second, &mut task.narrow, &mut task.scratch);
                vectorized(Narrow { values: &task.narrow, narrow: of_attended });
            });
        }
        let (scaled, mut of_attended) = (scaled.finish(), of_attended.finish());
        sums.deliver(&[b2])?;
        weight_gradient(w2, &scaled, &attended)?;
        drop((scaled, attended));

        if let Some(windows) = &self.windows {
            of_attended = windows.partition(&of_attended, &vec![T::default(); c]);
        }
        let of_qkv = Fresh::<T>::new(qkv.len()); // [rows, 3·C]
        let lists = self.lists()?;
        let (heads, samples) = self.heads(&qkv, &rows, lists.as_deref());
        let of_table = self.table.as_ref().filter(|table| table.track_op());
        let [of_lists, _] = Rotary::with_turns_of(self.rotary.as_ref(), |turns| {
            heads.rotated(turns).backward(samples, &of_attended, &of_qkv, of_table.is_some())
        })?;
        let mut of_qkv = of_qkv.finish();
        if let Some(table) = of_table {
            let gradient = self.area.table(&of_lists, self.heads);
            deliver_kept(table, Tensor::from_vec(gradient, table.shape(), table.device())?)?;
        }
        drop((qkv, of_attended));
        let mut of_padding = vec![0f32; 3 * c];
        if let Some(windows) = &self.windows {
            windows.add_padding(&of_qkv, &mut of_padding);
            of_qkv = windows.merge(&of_qkv, 3 * c);
        }

        let (normed, dx) = (Fresh::<T>::new(count * c), Fresh::<f32>::new(count * c)); // [rows, C]
        let mut sums = Sums::new(&first, count, 5 * c);
        {
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
        let (normed, dx) = (normed.finish(), dx.finish());
        weight_gradient(w1, &of_qkv, &normed)?;
        // The keys and values of the padding are the bias.
        sums.lists[2 * c..5 * c].iter_mut().zip(of_padding).for_each(|(sum, more)| *sum += more);
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
