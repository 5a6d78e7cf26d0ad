//! Operators on NVIDIA devices: kernels of the `.cu` files beside this one and cuBLAS.
//!
//! `build.rs` compiles the files to PTX of compute capability 8.0, which the driver translates for every later device.
//! Operators here are those of the parent module for f32 tensors on a device, with the same results within rounding;
//! operators without a kernel of their own are compositions of candle's operators there. All work is queued on the one
//! stream of the device, so that memory may be freed while kernels that use it are still queued.

mod attention;
mod blas;
mod branch;
mod cast;
mod conv;
mod count;
mod device;
mod elementwise;
mod gather;
mod host_to_device;
mod launch;
mod linear;
mod loss;
mod norm;
mod norm_statistics;
pub(crate) mod optimizer;
mod resample;
mod value;
mod vision;
mod window;

pub use blas::product_rate;
pub use count::{Calls, calls};
pub use device::{Description, describe, driver_version, libraries, name, open, peak_memory, tf32};

pub(crate) use host_to_device::{HostToDevice, StagedCopy};

pub(super) use attention::{MOST as MOST_CHANNELS, attention};
pub(super) use branch::{Attention, attention_branch, mlp_branch};
pub(super) use conv::convolution;
pub(super) use elementwise::elementwise;
pub(super) use gather::index_select;
pub(crate) use gather::patchify;
pub(super) use linear::linear;
pub(super) use loss::{cross_entropy, patch_mse, pointwise_loss, softmax_cross_entropy};
pub(super) use norm::layer_norm;
pub(super) use norm_statistics::{Sets, moments, normalize};
pub(super) use resample::resample;
pub(super) use vision::{layer_norm2d, max_pool2d, roi_align};
pub(super) use window::{Windows, merge_windows, partition_windows};

use candle_core::{DType, Tensor};

/// Whether the kernels of this module support these tensors.
pub(crate) fn fused(tensors: &[&Tensor]) -> bool {
    tensors.iter().all(|t| t.device().is_cuda() && t.dtype() == DType::F32)
}
