//! Layer normalisation over the last dimension.

use candle_core::{D, Result, Tensor};

/// (x − mean) / sqrt(var + eps) · weight + bias over the last dimension; `x` [.., C], `weight`, `bias` [C].
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let std = (centred.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?;
    centred.broadcast_div(&std)?.broadcast_mul(weight)?.broadcast_add(bias)
}
