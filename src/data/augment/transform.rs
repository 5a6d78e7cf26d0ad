//! [`Transform`] is one step of a pipeline; [`Augmentation`] makes one from the options in a recipe; [`SampleMut`] is
//! the sample that it changes.

use super::super::{Geometric, Geometry, Image, Sample, SampleId, SourceTransform};
use super::error::AugmentError;
use super::input::ModelInput;
use crate::rng::Rng;
use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// One step of a pipeline: changes the image and moves the target with it.
pub trait Transform: Send + Sync {
    /// Changes `sample`. `rng` belongs to this image in this epoch: draw from nothing else. An implementation that moves
    /// pixels calls [`SampleMut::moved`]; one that only changes colours writes to [`SampleMut::image`].
    ///
    /// # Errors
    /// The problem with the image or the step; the caller adds the id of the image.
    fn apply(&self, sample: &mut SampleMut, rng: &mut Rng) -> Result<(), String>;
}

/// An operation that can be registered: its name, its options, and the function that makes a [`Transform`] from them.
pub trait Augmentation: Transform + Sized + 'static {
    /// The value of `op` in a recipe.
    const OP: &'static str;
    /// Whether it draws random numbers, so that an image is not the same in every epoch.
    const RANDOM: bool;
    /// The other keys of its table. Derive `Deserialize` with `deny_unknown_fields`, so that a misspelt key is an error.
    type Options: DeserializeOwned + Serialize + JsonSchema;

    /// Checks the options and makes the step; options that are left out follow the input of the model.
    ///
    /// # Errors
    /// Invalid options; the error names them.
    fn new(options: Self::Options, input: &ModelInput) -> Result<Self, AugmentError>;
}

/// A sample in a pipeline, with its target of any type: everything that a [`Transform`] may read or change.
pub struct SampleMut<'a> {
    /// Id of the image, for messages.
    pub id: &'a SampleId,
    /// The pixels. After a change of their positions the target must follow: [`SampleMut::moved`].
    pub image: &'a mut Image,
    target: &'a mut dyn Geometric,
    source_transform: &'a mut SourceTransform,
}

impl<'a> SampleMut<'a> {
    /// `sample` with the type of its target erased.
    pub fn of<T: Geometric>(sample: &'a mut Sample<T>) -> Self {
        let Sample { id, image, target, source_transform } = sample;
        Self { id, image, target, source_transform }
    }

    /// The target of the image.
    pub fn target(&self) -> &dyn Geometric {
        self.target
    }

    /// Replaces the image by `image`, which is the old one mapped by `geometry`, and moves the target with it.
    pub fn moved(&mut self, image: Image, geometry: &Geometry) {
        *self.image = image;
        self.target.apply(geometry);
        self.source_transform.geometry = self.source_transform.geometry.then(geometry);
    }
}
