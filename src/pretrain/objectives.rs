//! [`Objectives`]: the objectives of pre-training by the names that recipes give them.
//!
//! To add one: a file with a type that implements [`Objective`](super::Objective), [`Pretraining`] and [`PretrainObjective`], and a line in
//! [`Objectives::builtin`], or [`Objectives::with`] in a program of its own.

use super::beit::Beit;
use super::dvae::DiscreteAutoencoder;
use super::mae::MaskedAutoencoder;
use super::objective::{ObjectiveFacts, ObjectiveInputs, PretrainObjective, Pretraining, RecipeFacts};
use crate::config::{ConfigError, ModelConfig, Named, ObjectiveTable};
use candle_core::Result;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use std::marker::PhantomData;

/// Objectives by name.
pub struct Objectives(Named<Box<dyn AnyObjective>>);

impl Objectives {
    /// The built-in objectives.
    pub fn builtin() -> Self {
        Self::empty().with::<MaskedAutoencoder>().with::<Beit>().with::<DiscreteAutoencoder>()
    }

    /// No objectives.
    pub fn empty() -> Self {
        Self(Named::new("objective"))
    }

    /// Registers an objective. [`Objectives::check`] reports a second objective with the same name.
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
    /// An unknown objective, an unknown or missing key, or invalid values.
    pub fn completed(
        &self,
        table: &ObjectiveTable,
        facts: &RecipeFacts,
    ) -> std::result::Result<ObjectiveTable, ConfigError> {
        self.0.get(&table.name)?.completed(table, facts)
    }

    /// # Errors
    /// The errors of [`Objectives::completed`].
    pub fn facts(
        &self,
        table: &ObjectiveTable,
        model: &ModelConfig,
    ) -> std::result::Result<ObjectiveFacts, ConfigError> {
        self.0.get(&table.name)?.facts(table, model)
    }

    /// Builds the objective that `table` selects.
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
            let views = if needed == 1 { "view" } else { "views" };
            let message = format!("reads {needed} {views} of an image, but the recipe has {found}");
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
            backbone: O::backbone(&options),
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
