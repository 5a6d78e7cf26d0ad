//! y = x·Wᵀ + b.

use candle_core::{Result, Tensor};

/// `x` [.., in], `weight` [out, in], `bias` [out] -> [.., out].
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let dims = x.dims();
    let (rows, out) = (dims[..dims.len() - 1].iter().product::<usize>(), weight.dim(0)?);
    let mut shape = dims[..dims.len() - 1].to_vec();
    shape.push(out);
    let y = x.reshape((rows, ()))?.matmul(&weight.t()?)?;
    let y = match bias {
        Some(bias) => y.broadcast_add(bias)?,
        None => y,
    };
    y.reshape(shape)
}
