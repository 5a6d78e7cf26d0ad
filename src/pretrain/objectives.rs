//! [`Objectives`]: the objectives of pre-training by the names that recipes give them.
//!
//! To add one: a file with a type that implements [`Objective`], [`Pretraining`] and [`PretrainObjective`], and a line in
//! [`Objectives::builtin`], or [`Objectives::with`] in a program of its own.

use super::{Beit, DiscreteAutoencoder, MaskedAutoencoder, Pretraining};
use crate::config::{ConfigError, ModelConfig, Named, ObjectiveTable, Recipe, ReconstructionTarget};
use crate::models::dvae::Tokenizer;
use crate::models::{Backbone, BackboneUsage, Backbones};
use crate::nn::Params;
use candle_core::Result;
use candle_nn::VarBuilder;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Serialize, de::DeserializeOwned};
use std::marker::PhantomData;
use std::sync::Arc;

/// An objective as it is registered: its name in recipes, its options, and how it is built.
pub trait PretrainObjective: Pretraining + Sized + 'static {
    /// The value of `objective` in the table `[pretrain]` of a recipe.
    const NAME: &'static str;
    /// All other keys of `[pretrain]`. Derive `Deserialize` with `deny_unknown_fields`.
    type Options: DeserializeOwned + Serialize + JsonSchema;

    /// Builds the objective; its layers draw their parameters from `inputs.builder()`.
    ///
    /// # Errors
    /// Sizes that cannot work, a tokenizer that is missing or made for other images.
    fn new(options: &Self::Options, inputs: &ObjectiveInputs) -> Result<Self>;

    /// Checks options together with the recipe that they stand in, before any data is read.
    ///
    /// # Errors
    /// What cannot work, by key: `pretrain.mask_ratio is 1.5, expected …`.
    fn check(_options: &Self::Options, _recipe: &RecipeFacts) -> std::result::Result<(), String> {
        Ok(())
    }

    /// Whether it needs a tokenizer, and which one the options name.
    fn tokenizer(_options: &Self::Options) -> TokenizerUse {
        TokenizerUse::None
    }

    /// What of an image it predicts, for tables that compare targets.
    fn target(_options: &Self::Options) -> Option<ReconstructionTarget> {
        None
    }

    /// How many views of an image it reads: the one of `augment` and those of `[[views]]`.
    fn views(_options: &Self::Options) -> usize {
        1
    }

    /// Billions of multiply-accumulates of one forward pass of one image; `None` where nobody has counted them.
    fn gmacs(_options: &Self::Options, _model: &ModelConfig) -> Option<f64> {
        None
    }
}

/// What an objective is built from.
pub struct ObjectiveInputs<'a> {
    /// Sizes of the backbone that is pre-trained.
    pub model: &'a ModelConfig,
    /// Stochastic depth of the last block, as the recipe has it.
    pub drop_path: f64,
    /// The tokenizer that [`PretrainObjective::tokenizer`] asks for.
    pub tokenizer: Option<Arc<Tokenizer>>,
    /// The registered backbones.
    pub backbones: &'a Backbones,
    /// Where parameters are made and found.
    pub params: &'a Params,
}

impl ObjectiveInputs<'_> {
    /// The builder of the parameters, at the root of the checkpoint.
    pub fn builder(&self) -> VarBuilder<'static> {
        self.params.builder()
    }

    /// The backbone that is pre-trained, with the drop path of the recipe and its final norm.
    ///
    /// # Errors
    /// A model that its backbone refuses, one that cannot be trained.
    pub fn backbone(&self) -> Result<Box<dyn Backbone>> {
        let usage = BackboneUsage {
            drop_path: self.drop_path,
            final_norm: true,
            pretrains: true,
            ..BackboneUsage::default()
        };
        self.backbones.build(self.model, usage, self.builder(), None)
    }
}

/// The recipe that an objective's options stand in.
#[derive(Clone, Copy, Debug)]
pub struct RecipeFacts<'a> {
    /// The recipe itself.
    pub recipe: &'a Recipe,
    /// Whether `augment` draws at random, so that an image looks different in every epoch.
    pub random_augmentation: bool,
}

/// Whether an objective needs a tokenizer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenizerUse {
    /// It predicts no tokens.
    None,
    /// It predicts the tokens of this run, file or `hub:owner/name`; the recipe may have left the name open.
    Needed(Option<String>),
}

/// What is known of an objective without building it.
#[derive(Clone, Debug)]
pub struct ObjectiveFacts {
    /// See [`PretrainObjective::tokenizer`].
    pub tokenizer: TokenizerUse,
    /// See [`PretrainObjective::target`].
    pub target: Option<ReconstructionTarget>,
    /// See [`PretrainObjective::gmacs`].
    pub gmacs: Option<f64>,
}

/// Objectives by name.
pub struct Objectives(Named<Box<dyn AnyObjective>>);

impl Objectives {
    /// Those of this crate.
    pub fn builtin() -> Self {
        Self::empty().with::<MaskedAutoencoder>().with::<Beit>().with::<DiscreteAutoencoder>()
    }

    /// None.
    pub fn empty() -> Self {
        Self(Named::new("objective"))
    }

    /// Registers an objective. A second one of a name is found by [`Objectives::check`].
    #[must_use]
    pub fn with<O: PretrainObjective>(self) -> Self {
        Self(self.0.with(O::NAME, Box::new(Kind::<O>(PhantomData))))
    }

    /// # Errors
    /// A name that is registered twice.
    pub fn check(&self) -> std::result::Result<(), ConfigError> {
        self.0.check()
    }

    /// Names in order of registration.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.0.names()
    }

    /// `table` with every default written out, checked together with its recipe.
    ///
    /// # Errors
    /// An unknown objective, an unknown or missing key, values that cannot work.
    pub fn completed(
        &self,
        table: &ObjectiveTable,
        facts: &RecipeFacts,
    ) -> std::result::Result<ObjectiveTable, ConfigError> {
        self.0.get(&table.name)?.completed(table, facts)
    }

    /// # Errors
    /// As [`Objectives::completed`].
    pub fn facts(
        &self,
        table: &ObjectiveTable,
        model: &ModelConfig,
    ) -> std::result::Result<ObjectiveFacts, ConfigError> {
        self.0.get(&table.name)?.facts(table, model)
    }

    /// Builds the objective that `table` asks for.
    ///
    /// # Errors
    /// As [`Objectives::completed`] and [`PretrainObjective::new`].
    pub fn build(&self, table: &ObjectiveTable, inputs: &ObjectiveInputs) -> Result<Box<dyn Pretraining>> {
        self.0.get(&table.name).map_err(candle_core::Error::wrap)?.build(table, inputs)
    }

    /// Makes `generator` define an [`ObjectiveTable`] as one of the registered objectives, for
    /// [`schema_with`](crate::config::schema_with).
    pub fn define(&self, generator: &mut SchemaGenerator) {
        ObjectiveTable::define(generator, &self.0, |objective, generator| objective.schema(generator));
    }
}

/// A [`PretrainObjective`] without its type.
trait AnyObjective: Send + Sync {
    fn completed(
        &self,
        table: &ObjectiveTable,
        facts: &RecipeFacts,
    ) -> std::result::Result<ObjectiveTable, ConfigError>;
    fn facts(
        &self,
        table: &ObjectiveTable,
        model: &ModelConfig,
    ) -> std::result::Result<ObjectiveFacts, ConfigError>;
    fn build(&self, table: &ObjectiveTable, inputs: &ObjectiveInputs) -> Result<Box<dyn Pretraining>>;
    fn schema(&self, generator: &mut SchemaGenerator) -> Schema;
}

struct Kind<O>(PhantomData<fn() -> O>);

impl<O: PretrainObjective> AnyObjective for Kind<O> {
    fn completed(
        &self,
        table: &ObjectiveTable,
        facts: &RecipeFacts,
    ) -> std::result::Result<ObjectiveTable, ConfigError> {
        let options: O::Options = table.parse()?;
        let fail = |message| ConfigError::new(format!("objective `{}`", O::NAME), message);
        O::check(&options, facts).map_err(fail)?;
        let (needed, found) = (O::views(&options), facts.recipe.view_count());
        if needed != found {
            let message = format!("reads {needed} views of an image, and the recipe has {found}");
            return Err(fail(message));
        }
        ObjectiveTable::new(O::NAME, &options)
    }

    fn facts(
        &self,
        table: &ObjectiveTable,
        model: &ModelConfig,
    ) -> std::result::Result<ObjectiveFacts, ConfigError> {
        let options: O::Options = table.parse()?;
        Ok(ObjectiveFacts {
            tokenizer: O::tokenizer(&options),
            target: O::target(&options),
            gmacs: O::gmacs(&options, model),
        })
    }

    fn build(&self, table: &ObjectiveTable, inputs: &ObjectiveInputs) -> Result<Box<dyn Pretraining>> {
        let options: O::Options = table.parse().map_err(candle_core::Error::wrap)?;
        Ok(Box::new(O::new(&options, inputs)?))
    }

    fn schema(&self, generator: &mut SchemaGenerator) -> Schema {
        O::Options::json_schema(generator)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_registered_once() {
        assert!(Objectives::builtin().check().is_ok());
        let error = Objectives::builtin().with::<Beit>().check().unwrap_err().to_string();
        assert!(error.contains("objective `beit`") && error.contains("twice"), "{error}");
    }
}
