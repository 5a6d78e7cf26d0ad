//! Differentiable operators on tensors. Values and gradients of each operator are tested.
//!
//! candle's fused `layer_norm`, `softmax_last_dim` and others silently cut the gradient graph; models use these
//! operators instead. For f32 tensors on the CPU they are fused kernels with a backward pass of their own; for other
//! tensors they are compositions of candle's operators. Results have the same bits for any number of threads.

mod attention;
mod autograd;
mod batch_norm;
mod branch;
mod chain;
mod conv;
mod cross_entropy;
#[cfg(feature = "cuda")]
pub mod cuda;
mod delivery;
mod elementwise;
mod fresh;
mod gelu;
mod gemm;
#[cfg(test)]
mod golden;
#[cfg(test)]
mod gradient_check;
mod group_norm;
mod index_select;
mod layer_norm;
mod layer_norm2d;
mod linear;
mod max_pool;
mod mse;
mod nms;
mod norm_statistics;
mod patches;
mod place_tokens;
mod pointwise_loss;
mod pool;
pub mod profile;
mod relu;
mod resample;
mod resize;
mod roi_align;
mod row_places;
pub(crate) mod simd;
mod softmax_ce;
mod standardize;
mod storage;
mod swiglu;
mod tokens_to_map;
mod window;

pub use attention::{AttentionBias, AttentionWindow, Rotary, attention, relative_offsets, rotary_attention};
pub use autograd::{backward, no_grad};
pub use batch_norm::{Moments, batch_norm, batch_norm_with};
pub use branch::{
    AttentionWeights, Branch, MlpWeights, attention_branch, composed_attention_branch, mlp_branch,
    windowed_attention_branch,
};
pub use chain::chain;
pub use conv::{conv_transpose2d, conv2d};
pub use cross_entropy::{cross_entropy, weighted_cross_entropy};
pub use gelu::gelu;
pub use gemm::{Precision, ProductKernel};
pub use group_norm::group_norm;
pub use index_select::index_select;
pub use layer_norm::layer_norm;
pub use layer_norm2d::layer_norm2d;
pub use linear::linear;
pub use max_pool::max_pool2d;
pub use mse::patch_mse;
pub use nms::{area, batched_nms, iou, nms};
pub use patches::patchify;
pub use place_tokens::{SHARED_TOKEN, place_tokens};
pub use pointwise_loss::{binary_cross_entropy_with_logits, smooth_l1};
pub use pool::{adaptive_avg_pool2d, avg_pool2d, subsample};
pub use relu::relu;
pub use resize::{Bicubic, resize_bicubic, resize_bicubic_by, resize_bilinear, resize_nearest};
pub use roi_align::roi_align;
pub use softmax_ce::softmax_cross_entropy;
pub use standardize::{mean_and_deviation, standardize};
pub use swiglu::swiglu;
pub use tokens_to_map::tokens_to_map;
pub use window::{merge_windows, partition_windows};
