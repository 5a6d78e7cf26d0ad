//! [`Augmentations`]: the operations that recipes and evaluation protocols can ask for, by name.
//!
//! To add one: a type in a file of its own that implements [`Augmentation`], and a line in [`Augmentations::builtin`], or
//! [`Augmentations::with`] in a program outside of this crate.

use super::color::ColorJitter;
use super::crop::{Flip, RandomCrop, RandomResizedCrop};
use super::error::AugmentError;
use super::input::ModelInput;
use super::photometric::Photometric;
use super::rand_augment::RandAugment;
use super::resize::{CenterCrop, Resize, ResizeShort};
use super::scale::{FixedSizeCrop, Pad, ResizeLongest, ResizeScale};
use super::scene::{ResizeWithin, SceneCrop};
use super::transform::{Augmentation, Transform};
use crate::config::{ConfigError, Named, Operation};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use std::sync::Arc;

/// Operations by name, in order of registration.
#[derive(Clone)]
pub struct Augmentations(Named<Registered>);

/// Checks the options of an operation and makes the transform.
type Build = fn(&Operation, &ModelInput) -> Result<Arc<dyn Transform>, AugmentError>;

/// A registered operation with its type erased.
#[derive(Clone)]
struct Registered {
    random: bool,
    completed: fn(&Operation) -> Result<Operation, ConfigError>,
    build: Build,
    schema: fn(&mut SchemaGenerator) -> Schema,
}

impl Augmentations {
    /// A registry without operations.
    pub fn empty() -> Self {
        Self(Named::new("operation"))
    }

    /// The operations that come with this crate.
    pub fn builtin() -> Self {
        Self::empty()
            .with::<RandomResizedCrop>()
            .with::<RandomCrop>()
            .with::<Flip>()
            .with::<Resize>()
            .with::<ResizeShort>()
            .with::<CenterCrop>()
            .with::<ResizeScale>()
            .with::<FixedSizeCrop>()
            .with::<ResizeLongest>()
            .with::<Pad>()
            .with::<ColorJitter>()
            .with::<ResizeWithin>()
            .with::<SceneCrop>()
            .with::<Photometric>()
            .with::<RandAugment>()
    }

    /// Registers `A` under its name. A name that is registered twice is an error of [`Augmentations::check`].
    #[must_use]
    pub fn with<A: Augmentation>(self) -> Self {
        let registered = Registered {
            random: A::RANDOM,
            completed: |operation| operation.completed::<A::Options>(),
            build: |operation, input| Ok(Arc::new(A::new(operation.parse()?, input)?)),
            schema: A::Options::json_schema,
        };
        Self(self.0.with(A::OP, registered))
    }

    /// Checks that no two operations share a name.
    ///
    /// # Errors
    /// Two operations with the same name.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.0.check()
    }

    /// Names of the operations, in order of registration.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.0.names()
    }

    /// The operation with every default of its options written out.
    ///
    /// # Errors
    /// An unknown operation; an option that is unknown, missing or of the wrong type.
    pub fn completed(&self, operation: &Operation) -> Result<Operation, ConfigError> {
        (self.0.get(&operation.name)?.completed)(operation)
    }

    /// Whether the operation draws random numbers. `false` for an unknown operation.
    pub fn is_random(&self, operation: &Operation) -> bool {
        self.0.get(&operation.name).is_ok_and(|registered| registered.random)
    }

    /// The operation, ready to be applied to images for a model that takes `input`.
    ///
    /// # Errors
    /// The errors of [`Augmentations::completed`], and invalid options.
    pub fn transform(
        &self,
        operation: &Operation,
        input: &ModelInput,
    ) -> Result<Arc<dyn Transform>, AugmentError> {
        (self.0.get(&operation.name)?.build)(operation, input)
    }

    /// Makes `generator` define an [`Operation`] as one of the registered ones, for
    /// [`schema_with`](crate::config::schema_with).
    pub fn define(&self, generator: &mut SchemaGenerator) {
        Operation::define(generator, &self.0, |registered, generator| (registered.schema)(generator));
    }
}
