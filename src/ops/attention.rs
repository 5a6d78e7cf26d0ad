//! Multi-head self-attention between the two projections.

use candle_core::{D, Result, Tensor};

/// softmax(q·kᵀ/√d)·v per head. `qkv` [B, N, 3·C], laid out as (3, heads, C/heads) -> [B, N, C].
pub fn attention(qkv: &Tensor, heads: usize) -> Result<Tensor> {
    let (b, n, c3) = qkv.dims3()?;
    let (c, d) = (c3 / 3, c3 / 3 / heads);
    let part = |i: usize| -> Result<Tensor> {
        qkv.narrow(D::Minus1, i * c, c)?.reshape((b, n, heads, d))?.transpose(1, 2)?.contiguous()
    };
    let (q, k, v) = (part(0)?, part(1)?, part(2)?); // [B, h, N, d]
    let scores = (q.matmul(&k.t()?.contiguous()?)? * (d as f64).powf(-0.5))?;
    let p = candle_nn::ops::softmax(&scores, D::Minus1)?;
    p.matmul(&v)?.transpose(1, 2)?.reshape((b, n, c))
}
