//! Pre-training objectives. An objective turns a batch into losses; the one training loop does the rest.

pub mod beit;
pub mod dvae;
pub mod mae;
pub mod masks;
pub mod mosaic;
mod pca;
pub mod targets;
mod tokens;

pub use beit::Beit;
pub use dvae::DiscreteAutoencoder;
pub use mae::{MaskedAutoencoder, Reconstruction};
pub use masks::{Mask, MaskSampler};
pub use mosaic::{mosaic, pairs};
pub use targets::PatchTarget;
pub use tokens::TokenTarget;

use crate::data::Batch;
use crate::nn::{Losses, Params, Pass};
use candle_core::{Result, Tensor};

/// What the training loop minimises: MAE is one, a backbone with a head is another.
pub trait Objective: Send + Sync {
    type Target;
    fn losses(&self, batch: &Batch<Self::Target>, pass: &mut Pass) -> Result<Losses>;
    /// Layer of a parameter for layer-wise lr decay, as [`crate::models::Backbone::layer_of`].
    fn layer_of(&self, parameter: &str) -> usize;
}

/// An objective on images alone, with what happens before its first step.
pub trait Pretraining: Objective<Target = ()> {
    /// Whether `parameter` is updated.
    fn learns(&self, _parameter: &str) -> bool {
        true
    }
    /// Draws initial weights where those of the layers are not the right ones. `images` reads so many training images
    /// [n, C, H, W], or all there are, for weights that depend on data.
    fn initialize(&self, _params: &Params, _images: &dyn Fn(usize) -> Result<Tensor>) -> Result<()> {
        Ok(())
    }
    /// Whether [`Self::fit`] must run before the first step.
    fn needs_fit(&self) -> Result<bool> {
        Ok(false)
    }
    /// Fits what is not learnt to training `images` [n, C, H, W].
    fn fit(&self, _images: &Tensor) -> Result<()> {
        Ok(())
    }
}
