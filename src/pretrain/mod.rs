//! Pre-training objectives. An objective turns a batch into losses; the one training loop does the rest.

pub mod beit;
pub mod dvae;
pub mod figure;
pub mod mae;
pub mod masks;
mod objectives;
mod pca;
pub mod targets;
mod tokens;

pub use beit::{Beit, BeitOptions};
pub use dvae::DiscreteAutoencoder;
pub use figure::{figure_of_pairs, figure_of_reconstructions};
pub use mae::{LossPatches, MaeOptions, MaskedAutoencoder, Reconstruction};
pub use masks::{MaskKind, MaskSampler, PatchMask};
pub use objectives::{
    ObjectiveFacts, ObjectiveInputs, Objectives, PretrainObjective, RecipeFacts, TokenizerUse,
};
pub use targets::PatchTarget;
pub use tokens::TokenTarget;

use crate::data::Batch;
use crate::nn::{Losses, Params, Pass};
use crate::optim::Gradients;
use candle_core::{Result, Tensor};
use image::RgbImage;

/// What the training loop minimises: MAE is one, a backbone with a head is another.
pub trait Objective: Send + Sync {
    /// What is to be predicted of one image.
    type Target;

    /// The losses of one micro-batch, by name; their sum is minimised.
    fn losses(&self, batch: &Batch<Self::Target>, pass: &mut Pass) -> Result<Losses>;

    /// Layer of a parameter for layer-wise learning rate decay, as [`crate::models::Backbone::layer_of`].
    fn layer_of(&self, parameter: &str) -> usize;

    /// Called between the backward pass and the optimiser, with the gradients of the whole batch: may scale or drop
    /// some (DINO holds its last layer still in the first epoch).
    fn before_optimizer(&self, _gradients: &mut Gradients, _at: &Moment) -> Result<()> {
        Ok(())
    }

    /// Called after the optimiser has changed the parameters: the place for a teacher that follows them
    /// ([`crate::nn::Teacher`]).
    fn after_optimizer(&self, _at: &Moment) -> Result<()> {
        Ok(())
    }
}

/// Where in a run a step is. Schedules of momentum, temperature and the like are functions of it, so that nothing of them
/// needs to be saved.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Moment {
    /// Optimiser steps done before this one.
    pub step: usize,
    /// Epochs done, with their fraction.
    pub epoch: f64,
    /// Share of the run that is over, 0 to 1.
    pub progress: f64,
}

/// An objective on images alone, with what happens before its first step.
pub trait Pretraining: Objective<Target = ()> {
    /// Whether the optimiser updates `parameter`.
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

    /// A picture of what it makes of a batch, a row for each image; `None` for an objective that draws nothing.
    fn draw(&self, _batch: &Batch<()>) -> Result<Option<RgbImage>> {
        Ok(None)
    }
}
