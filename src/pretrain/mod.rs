//! Pre-training objectives. An objective turns a batch into losses; the one training loop does the rest.

pub mod mae;
pub mod masks;
pub mod mosaic;
mod pca;
pub mod targets;

pub use mae::{MaskedAutoencoder, Reconstruction};
pub use masks::{Mask, MaskSampler};
pub use mosaic::mosaic;
pub use targets::PatchTarget;

use crate::data::Batch;
use crate::nn::{Losses, Pass};
use candle_core::Result;

/// What the training loop minimises: MAE is one, a backbone with a head is another.
pub trait Objective: Send + Sync {
    type Target;
    fn losses(&self, batch: &Batch<Self::Target>, pass: &mut Pass) -> Result<Losses>;
    /// Layer of a parameter for layer-wise lr decay, as [`crate::models::Backbone::layer_of`].
    fn layer_of(&self, parameter: &str) -> usize;
}
