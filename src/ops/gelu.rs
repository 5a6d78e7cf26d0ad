//! GELU, the exact (erf) form.

use candle_core::{Result, Tensor};

/// x·Φ(x), elementwise (arXiv:1606.08415; PyTorch's default form).
pub fn gelu(x: &Tensor) -> Result<Tensor> {
    x.gelu_erf()
}
