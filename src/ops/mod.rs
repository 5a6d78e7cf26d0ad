//! Differentiable operators, tensor in, tensor out. Each has values and gradients tested.
//!
//! candle's fused `layer_norm`, `softmax_last_dim` and others cut the gradient graph in silence;
//! models use these operators instead. Those on f32 on the CPU are fused kernels with a backward
//! pass of their own; others are compositions of candle's operators. Results have the same bits for
//! any number of threads.

mod attention;
mod branch;
#[cfg(test)]
mod check;
mod conv;
mod gelu;
mod gemm;
mod layer_norm;
mod linear;
mod mse;
pub(crate) mod simd;
mod softmax_ce;
mod storage;
mod tape;
mod window;

pub use attention::{AttentionBias, attention};
pub use branch::{AttentionWeights, Branch, MlpWeights, attention_branch, mlp_branch};
pub use conv::{conv_transpose2d, conv2d};
pub use gelu::gelu;
pub use gemm::Precision;
pub use layer_norm::layer_norm;
pub use linear::linear;
pub use mse::patch_mse;
pub use softmax_ce::softmax_cross_entropy;
pub use tape::{backward, no_grad};
pub use window::{merge_windows, partition_windows};
