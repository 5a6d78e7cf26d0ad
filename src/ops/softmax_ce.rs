//! Softmax cross-entropy against soft targets.

use candle_core::{D, Result, Tensor};

/// −Σ target·log softmax(logits), mean over rows. `logits`, `targets` [B, K]; targets are constants.
pub fn softmax_cross_entropy(logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
    let log_p = candle_nn::ops::log_softmax(logits, D::Minus1)?;
    (log_p * targets)?.sum(D::Minus1)?.mean_all()?.neg()
}
