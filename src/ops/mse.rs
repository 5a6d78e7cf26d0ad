//! Mean squared error inside patches, weighted over patches.

use candle_core::{D, Result, Tensor};

/// Σ weights·mean((prediction − target)²) / Σ weights. `prediction`, `target` [B, L, P]; `weights` [B, L], constants.
pub fn patch_mse(prediction: &Tensor, target: &Tensor, weights: &Tensor) -> Result<Tensor> {
    let per_patch = (prediction - target)?.sqr()?.mean(D::Minus1)?; // [B, L]
    (per_patch * weights)?.sum_all()? / weights.sum_all()?.to_scalar::<f32>()? as f64
}
