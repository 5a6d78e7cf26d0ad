//! Differentiable operators, tensor in, tensor out. Each has values and gradients tested.
//!
//! candle's fused `layer_norm`, `softmax_last_dim` and others cut the gradient graph in silence;
//! models use these operators instead.

mod attention;
mod gelu;
mod layer_norm;
mod linear;
mod mse;
mod softmax_ce;

pub use attention::attention;
pub use gelu::gelu;
pub use layer_norm::layer_norm;
pub use linear::linear;
pub use mse::patch_mse;
pub use softmax_ce::softmax_cross_entropy;
