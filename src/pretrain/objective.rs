//! The interface of objectives: what the training loop minimises ([`Objective`]), what pre-training adds ([`Pretraining`]), and
//! how one is registered ([`PretrainObjective`]).

use crate::config::{ModelConfig, Recipe, ReconstructionTarget};
use crate::data::Batch;
use crate::models::dvae::Tokenizer;
use crate::models::{Backbone, BackboneUsage, Backbones};
use crate::nn::{Losses, Params, Pass};
use crate::optim::Gradients;
use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use image::RgbImage;
use schemars::JsonSchema;
use serde::{Serialize, de::DeserializeOwned};
use std::sync::Arc;

/// A loss that the training loop minimises: MAE is one, and a backbone with a head is another.
pub trait Objective: Send + Sync {
    /// The target of one image.
    type Target;

    /// The losses of one micro-batch, by name; their sum is minimised.
    fn losses(&self, batch: &Batch<Self::Target>, pass: &mut Pass) -> Result<Losses>;

    /// Layer of a parameter for layer-wise learning rate decay, as [`crate::models::Backbone::layer_of`].
    fn layer_of(&self, parameter: &str) -> usize;

    /// Called between the backward pass and the optimiser, with the gradients of the whole batch: it may scale or drop
    /// some (DINO freezes its last layer in the first epoch).
    fn before_optimizer(&self, _gradients: &mut Gradients, _at: &Moment) -> Result<()> {
        Ok(())
    }

    /// Called after the optimiser has updated the parameters, for example to update a teacher
    /// ([`crate::nn::MomentumTeacher`]).
    fn after_optimizer(&self, _at: &Moment) -> Result<()> {
        Ok(())
    }
}

/// The position of a step in its run. Schedules of momentum, temperature and the like are functions of it, so that
/// their state need not be saved.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Moment {
    /// Optimiser steps done before this one.
    pub step: usize,
    /// Epochs done, as a fraction.
    pub epoch: f64,
    /// Completed share of the run, 0 to 1.
    pub progress: f64,
}

/// An objective on images alone, with its initialisation before the first step.
pub trait Pretraining: Objective<Target = ()> {
    /// Whether the optimiser updates `parameter`.
    fn learns(&self, _parameter: &str) -> bool {
        true
    }

    /// Replaces the initial weights that the layers have drawn, for objectives that need others. `images(n)` reads n
    /// training images [n, C, H, W], or all of them if there are fewer, for initial weights that depend on the data.
    fn initialize(&self, _params: &Params, _images: &dyn Fn(usize) -> Result<Tensor>) -> Result<()> {
        Ok(())
    }

    /// Whether [`Self::fit`] must run before the first step.
    fn needs_fit(&self) -> Result<bool> {
        Ok(false)
    }

    /// Fits everything that is not learnt by gradient descent to training `images` [n, C, H, W].
    fn fit(&self, _images: &Tensor) -> Result<()> {
        Ok(())
    }

    /// Draws the predictions for a batch, one row per image; `None` for an objective without drawings.
    fn draw(&self, _batch: &Batch<()>) -> Result<Option<RgbImage>> {
        Ok(None)
    }
}

/// An objective as it is registered: its name in recipes, its options, and how it is built.
pub trait PretrainObjective: Pretraining + Sized + 'static {
    /// The value of `objective` in the table `[pretrain]` of a recipe.
    const NAME: &'static str;
    /// All other keys of `[pretrain]`. Derive `Deserialize` with `deny_unknown_fields`.
    type Options: DeserializeOwned + Serialize + JsonSchema;

    /// Builds the objective; its layers draw their parameters from `inputs.builder()`.
    ///
    /// # Errors
    /// Invalid sizes, or a tokenizer that is missing or does not fit the images.
    fn new(options: &Self::Options, inputs: &ObjectiveInputs) -> Result<Self>;

    /// Checks the options together with their recipe, before any data are read.
    ///
    /// # Errors
    /// An invalid value; the message names its key: `pretrain.mask_ratio is 1.5, expected …`.
    fn check(_options: &Self::Options, _recipe: &RecipeFacts) -> std::result::Result<(), String> {
        Ok(())
    }

    /// Whether it needs a tokenizer, and which one the options name.
    fn tokenizer(_options: &Self::Options) -> TokenizerUse {
        TokenizerUse::None
    }

    /// The kind of target that it predicts, for tables that compare targets.
    fn target(_options: &Self::Options) -> Option<ReconstructionTarget> {
        None
    }

    /// Whether it trains a backbone, from which transfer runs can start; a tokenizer is none.
    fn backbone(_options: &Self::Options) -> bool {
        true
    }

    /// How many views of an image it reads: the one of `augment` and those of `[[views]]`.
    fn views(_options: &Self::Options) -> usize {
        1
    }

    /// Billions of multiply-accumulates of one forward pass of one image; `None` if it is unknown.
    fn gmacs(_options: &Self::Options, _model: &ModelConfig) -> Option<f64> {
        None
    }
}

/// The inputs from which an objective is built.
pub struct ObjectiveInputs<'a> {
    /// Sizes of the backbone that is pre-trained.
    pub model: &'a ModelConfig,
    /// Stochastic depth of the last block, as the recipe has it.
    pub drop_path: f64,
    /// The weights of the tokenizer that [`PretrainObjective::tokenizer`] asks for.
    pub tokenizer: Option<Arc<Tokenizer>>,
    /// The registered backbones.
    pub backbones: &'a Backbones,
    /// The store that creates and holds the parameters.
    pub params: &'a Params,
}

impl ObjectiveInputs<'_> {
    /// The builder of the parameters, at the root of the checkpoint.
    pub fn builder(&self) -> VarBuilder<'static> {
        self.params.builder()
    }

    /// The backbone that is pre-trained, with the drop path of the recipe. `final_norm` when the objective reads the
    /// class feature ([`Features::cls`](crate::models::Features::cls)), which the final norm computes. Otherwise leave
    /// it out: a norm on which no loss depends is an error.
    ///
    /// # Errors
    /// A model that its backbone refuses, or a backbone that cannot be trained.
    pub fn backbone(&self, final_norm: bool) -> Result<Box<dyn Backbone>> {
        self.backbone_in(self.builder(), final_norm)
    }

    /// A second backbone of the same sizes with its parameters from `vb`, for a teacher.
    ///
    /// # Errors
    /// The errors of [`ObjectiveInputs::backbone`].
    pub fn backbone_in(&self, vb: VarBuilder<'static>, final_norm: bool) -> Result<Box<dyn Backbone>> {
        let usage = BackboneUsage {
            drop_path: self.drop_path,
            final_norm,
            pretrains: true,
            ..BackboneUsage::default()
        };
        self.backbones.build(self.model, usage, vb, None)
    }
}

/// The part of a recipe that an objective may check.
#[derive(Clone, Copy, Debug)]
pub struct RecipeFacts<'a> {
    /// The recipe itself.
    pub recipe: &'a Recipe,
    /// Whether `augment` is random, so that an image differs from epoch to epoch.
    pub random_augmentation: bool,
}

/// Whether an objective needs a tokenizer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenizerUse {
    /// The objective predicts no tokens.
    None,
    /// The objective predicts the tokens of this run, file or `hub:owner/name`; `None` if the recipe does not name it.
    Needed(Option<String>),
}

/// Facts about an objective that are known without building it.
#[derive(Clone, Debug)]
pub struct ObjectiveFacts {
    /// See [`PretrainObjective::tokenizer`].
    pub tokenizer: TokenizerUse,
    /// See [`PretrainObjective::target`].
    pub target: Option<ReconstructionTarget>,
    /// See [`PretrainObjective::backbone`].
    pub backbone: bool,
    /// See [`PretrainObjective::gmacs`].
    pub gmacs: Option<f64>,
}
