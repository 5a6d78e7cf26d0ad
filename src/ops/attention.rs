//! Multi-head self-attention between the two projections.
//!
//! One task per head, each over tiles of queries, so that memory is bounded at 4096 tokens and small
//! heads run side by side. Queries, keys and values are packed directly from the projection. The
//! backward pass computes the probabilities again instead of keeping them, as in FlashAttention (arXiv:2205.14135).

pub(in crate::ops) mod bias;
mod heads;
mod relative;
mod rotary;

pub use bias::AttentionBias;
pub(super) use bias::Offsets;
pub(super) use heads::Heads;
pub(super) use relative::Area;
pub use relative::{AttentionWindow, relative_offsets};
pub use rotary::Rotary;

use super::autograd::ApplyOp;
#[cfg(feature = "cuda")]
use super::cuda;
use super::fresh::Fresh;
use super::gemm::Precision;
use super::storage::{argument, fused, values};
use candle_core::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, D, Layout, Result, Shape, Tensor, bail};

/// Multi-head attention, softmax(q·kᵀ/√d + bias)·v per head, with the products in `precision`. `qkv` [B, N, 3·C], laid
/// out as (3, heads, C/heads) -> [B, N, C].
///
/// # Errors
/// The channels do not divide into the heads, or the bias does not match heads or tokens.
pub fn attention(
    qkv: &Tensor,
    heads: usize,
    bias: Option<&AttentionBias>,
    precision: Precision,
) -> Result<Tensor> {
    let (b, n, c3) = qkv.dims3()?;
    if heads == 0 || c3 % (3 * heads) != 0 {
        bail!("attention: {c3} channels do not split into q, k and v of {heads} heads");
    }
    if let Some(bias) = bias {
        bias.check(b, heads, n)?;
    }
    #[cfg(feature = "cuda")]
    if on_device(qkv, bias) && c3 / 3 / heads <= cuda::MOST_CHANNELS {
        return cuda::attention(qkv, heads, bias, precision);
    }
    let of_bias = bias.map(AttentionBias::tensors).into_iter();
    let inputs: Vec<&Tensor> = of_bias.flat_map(|(first, second)| [Some(first), second]).flatten().collect();
    if fused(&[qkv]) && fused(&inputs) {
        let (qkv, op) = (qkv.contiguous()?, AttentionOp { heads, precision, rotary: None });
        return match bias {
            None => qkv.apply1(op),
            Some(AttentionBias::Decomposed { rows, columns }) => {
                qkv.apply3(&rows.contiguous()?, &columns.contiguous()?, op)
            }
            Some(table) => qkv.apply2(&table.whole()?.contiguous()?, op),
        };
    }
    let (c, d) = (c3 / 3, c3 / 3 / heads);
    let part = |i: usize| -> Result<Tensor> {
        qkv.narrow(D::Minus1, i * c, c)?.reshape((b, n, heads, d))?.transpose(1, 2)?.contiguous()
    };
    let (q, k, v) = (part(0)?, part(1)?, part(2)?); // [B, h, N, d]
    let mut scores = (q.matmul(&k.t()?.contiguous()?)? * (d as f64).powf(-0.5))?;
    if let Some(bias) = bias {
        scores = scores.broadcast_add(&bias.whole()?)?;
    }
    let p = candle_nn::ops::softmax(&scores, D::Minus1)?;
    p.matmul(&v)?.transpose(1, 2)?.reshape((b, n, c))
}

/// [`attention`] without a bias, with queries and keys rotated by `rotary`. Where this is no single operator, it is a rotation
/// before [`attention`].
///
/// # Errors
/// The channels do not divide into the heads, or the rotations are those of other tokens.
pub fn rotary_attention(qkv: &Tensor, heads: usize, rotary: &Rotary, precision: Precision) -> Result<Tensor> {
    let (b, n, c3) = qkv.dims3()?;
    if heads == 0 || c3 % (3 * heads) != 0 {
        bail!("attention: {c3} channels do not split into q, k and v of {heads} heads");
    }
    rotary.check(b, n, c3 / 3 / heads)?;
    if fused(&[qkv]) && rotary.on_cpu() {
        return qkv.contiguous()?.apply1(AttentionOp { heads, precision, rotary: Some(rotary.clone()) });
    }
    attention(&rotary.composed(qkv, heads)?, heads, None, precision)
}

#[cfg(feature = "cuda")]
fn on_device(qkv: &Tensor, bias: Option<&AttentionBias>) -> bool {
    let of_bias = bias.map(AttentionBias::tensors);
    let tensors = of_bias.into_iter().flat_map(|(first, second)| [Some(first), second]).flatten();
    tensors.chain([qkv]).all(|t| cuda::fused(&[t]))
}

struct AttentionOp {
    heads: usize,
    precision: Precision,
    rotary: Option<Rotary>,
}

impl AttentionOp {
    fn forward(&self, qkv: &CpuStorage, layout: &Layout, offsets: Offsets) -> Result<(CpuStorage, Shape)> {
        let (b, n, c3) = layout.shape().dims3()?;
        let heads = Heads::new(argument(qkv, layout)?, n, c3 / 3, self.heads, self.precision, offsets);
        let out = Fresh::new(b * n * c3 / 3); // [B, N, C]
        Rotary::with_turns_of(self.rotary.as_ref(), |turns| heads.rotated(turns).forward(b, &out))?;
        Ok((CpuStorage::F32(out.finish()), (b, n, c3 / 3).into()))
    }

    /// Gradients of `qkv` and, if requested, of the bias.
    fn backward(
        &self,
        qkv: &Tensor,
        grad: &Tensor,
        offsets: Offsets,
        of_bias: bool,
    ) -> Result<(Tensor, [Vec<f32>; 2])> {
        let (b, n, c3) = qkv.dims3()?;
        let grad = grad.contiguous()?;
        let (qkv_guard, qkv_layout) = qkv.storage_and_layout();
        let (grad_guard, grad_layout) = grad.storage_and_layout();
        let (qkv_values, grads) = (values(&qkv_guard, qkv_layout)?, values(&grad_guard, grad_layout)?);
        let heads = Heads::new(qkv_values, n, c3 / 3, self.heads, self.precision, offsets);
        let gradient = Fresh::new(b * n * c3); // [B, N, 3·C]
        let bias_gradient = Rotary::with_turns_of(self.rotary.as_ref(), |turns| {
            heads.rotated(turns).backward(b, grads, &gradient, of_bias)
        })?;
        let gradient = gradient.finish();
        Ok((Tensor::from_vec(gradient, qkv.shape(), qkv.device())?, bias_gradient))
    }
}

impl CustomOp1 for AttentionOp {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(&self, qkv: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        self.forward(qkv, layout, Offsets::None)
    }

    fn bwd(&self, qkv: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(self.backward(qkv, grad, Offsets::None, false)?.0))
    }
}

/// Attention with a bias for every pair of tokens.
impl CustomOp2 for AttentionOp {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(
        &self,
        qkv: &CpuStorage,
        qkv_layout: &Layout,
        table: &CpuStorage,
        table_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.forward(qkv, qkv_layout, Offsets::Table(argument(table, table_layout)?))
    }

    fn bwd(
        &self,
        qkv: &Tensor,
        table: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (guard, layout) = table.storage_and_layout();
        let offsets = Offsets::Table(values(&guard, layout)?);
        let (gradient, [of_table, _]) = self.backward(qkv, grad, offsets, table.track_op())?;
        let like = |values| Tensor::from_vec(values, table.shape(), table.device());
        Ok((Some(gradient), table.track_op().then(|| like(of_table)).transpose()?))
    }
}

/// Attention with a bias of rows and one of columns.
impl CustomOp3 for AttentionOp {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(
        &self,
        qkv: &CpuStorage,
        qkv_layout: &Layout,
        rows: &CpuStorage,
        rows_layout: &Layout,
        columns: &CpuStorage,
        columns_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (rows, columns) = (argument(rows, rows_layout)?, argument(columns, columns_layout)?);
        self.forward(
            qkv,
            qkv_layout,
            Offsets::Decomposed { rows, columns, grid: grid(rows_layout, columns_layout)? },
        )
    }

    fn bwd(
        &self,
        qkv: &Tensor,
        rows: &Tensor,
        columns: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (rows_guard, rows_layout) = rows.storage_and_layout();
        let (columns_guard, columns_layout) = columns.storage_and_layout();
        let offsets = Offsets::Decomposed {
            rows: values(&rows_guard, rows_layout)?,
            columns: values(&columns_guard, columns_layout)?,
            grid: grid(rows_layout, columns_layout)?,
        };
        let wanted = rows.track_op() || columns.track_op();
        let (gradient, [of_rows, of_columns]) = self.backward(qkv, grad, offsets, wanted)?;
        let like = |tensor: &Tensor, values| {
            tensor.track_op().then(|| Tensor::from_vec(values, tensor.shape(), tensor.device())).transpose()
        };
        Ok((Some(gradient), like(rows, of_rows)?, like(columns, of_columns)?))
    }
}

/// Rows and columns of the tokens, from the layouts of their biases.
fn grid(rows: &Layout, columns: &Layout) -> Result<(usize, usize)> {
    Ok((rows.shape().dims4()?.3, columns.shape().dims4()?.3))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::gradient_check;

    const F32: Precision = Precision::F32;

    #[test]
    fn values_and_gradients() {
        for (b, n, heads, d) in [(1, 1, 1, 4), (2, 5, 2, 3), (1, 16, 2, 8), (2, 21, 3, 5), (0, 4, 2, 3)] {
            let qkv = gradient_check::random(&[b, n, 3 * heads * d], n as u64);
            if b > 0 {
                gradient_check::operator(
                    std::slice::from_ref(&qkv),
                    |t| attention(&t[0], heads, None, F32),
                    2e-6,
                );
                gradient_check::bf16(&[qkv], 4, |t, precision| attention(&t[0], heads, None, precision));
            } else {
                assert_eq!(
                    attention(&gradient_check::single(&qkv), heads, None, F32).unwrap().dims(),
                    [0, n, heads * d]
                );
            }
        }
        let narrowed = gradient_check::random(&[2, 7, 14], 1);
        gradient_check::operator(&[narrowed], |t| attention(&t[0].narrow(2, 1, 12)?, 2, None, F32), 2e-6);
    }

    #[test]
    fn a_table_of_offsets_is_gathered() {
        for (grid, class) in [((2, 3), false), ((3, 2), true)] {
            let n = grid.0 * grid.1 + usize::from(class);
            let inputs = [
                gradient_check::random(&[2, n, 24], 0),
                gradient_check::random(&[relative_offsets(grid, class), 2], 1),
            ];
            let relative = |t: &[Tensor]| {
                attention(&t[0], 2, Some(&AttentionBias::Relative { table: t[1].clone(), grid, class }), F32)
            };
            gradient_check::operator(&inputs, relative, 2e-6);
            let wrong =
                AttentionBias::Relative { table: gradient_check::single(&inputs[1]), grid: (4, 4), class };
            assert!(attention(&gradient_check::single(&inputs[0]), 2, Some(&wrong), F32).is_err());
        }
    }

    #[test]
    fn values_and_gradients_with_a_bias() {
        let (b, heads, d, h, w) = (2, 3, 4, 2, 5);
        let qkv = gradient_check::random(&[b, h * w, 3 * heads * d], 0);
        let inputs = [qkv.clone(), gradient_check::random(&[heads, h * w, h * w], 1)];
        let table = |t: &[Tensor], precision| {
            attention(&t[0], heads, Some(&AttentionBias::Table(t[1].clone())), precision)
        };
        gradient_check::operator(&inputs, |t| table(t, F32), 3e-6);
        gradient_check::bf16(&inputs, 4, table);
        gradient_check::threads(&inputs, |t| table(t, F32));
        let inputs = [
            qkv,
            gradient_check::random(&[b, heads, h * w, h], 1),
            gradient_check::random(&[b, heads, h * w, w], 2),
        ];
        let decomposed = |t: &[Tensor], precision| {
            let bias = AttentionBias::Decomposed { rows: t[1].clone(), columns: t[2].clone() };
            attention(&t[0], heads, Some(&bias), precision)
        };
        gradient_check::operator(&inputs, |t| decomposed(t, F32), 3e-6);
        gradient_check::bf16(&inputs, 4, decomposed);
        gradient_check::threads(&inputs, |t| decomposed(t, F32));
    }

    #[test]
    fn several_tiles_are_one_softmax() {
        // 1000 tokens take eight tiles; finite differences would take hours, so compare with candle's.
        let qkv = gradient_check::random(&[1, 1000, 12], 3);
        gradient_check::composition(std::slice::from_ref(&qkv), |t| attention(&t[0], 2, None, F32), 5e-6);
        let inputs =
            [qkv, gradient_check::random(&[1, 2, 1000, 25], 1), gradient_check::random(&[1, 2, 1000, 40], 2)];
        let decomposed = |t: &[Tensor]| {
            let bias = AttentionBias::Decomposed { rows: t[1].clone(), columns: t[2].clone() };
            attention(&t[0], 2, Some(&bias), F32)
        };
        gradient_check::composition(&inputs, decomposed, 5e-6);
    }

    #[test]
    fn the_bits_do_not_depend_on_the_number_of_threads() {
        for precision in [F32, Precision::Bf16] {
            gradient_check::threads(&[gradient_check::random(&[3, 50, 3 * 64], 0)], |t| {
                attention(&t[0], 4, None, precision)
            });
        }
    }

    #[test]
    fn large_scores_stay_finite() {
        let qkv = (gradient_check::single(&gradient_check::random(&[1, 9, 12], 0)) * 300.).unwrap();
        let out = attention(&qkv, 2, None, F32).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert!(out.iter().all(|x| x.is_finite()));
    }

    #[test]
    fn inputs_that_do_not_fit_are_refused() {
        let qkv = gradient_check::random(&[1, 2, 12], 0);
        let error = attention(&qkv, 3, None, F32).unwrap_err().to_string();
        assert!(error.contains("12 channels"), "{error}");
        let table = AttentionBias::Table(gradient_check::random(&[2, 3, 3], 0));
        let error = attention(&qkv, 2, Some(&table), F32).unwrap_err().to_string();
        assert!(error.contains("[2, 3, 3]") && error.contains("[2, 2, 2]"), "{error}");
    }
}
