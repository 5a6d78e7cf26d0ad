//! [`Components`]: the registered objectives, formats, operations and backbones from which a run is assembled.

use crate::config::{ConfigError, ModelConfig, ObjectiveTable, Operation, Owners, Recipe};
use crate::data::Formats;
use crate::data::augment::Augmentations;
use crate::models::Backbones;
use crate::pretrain::{Objectives, RecipeFacts};

/// The registered parts of runs, except the kinds of task.
pub struct Components {
    /// Objectives of pre-training.
    pub objectives: Objectives,
    /// Encoders.
    pub backbones: Backbones,
    /// Layouts of files on disk.
    pub formats: Formats,
    /// Operations of augmentation and of evaluation protocols.
    pub augmentations: Augmentations,
}

impl Components {
    /// The built-in parts.
    pub fn builtin() -> Self {
        Self {
            objectives: Objectives::builtin(),
            backbones: Backbones::builtin(),
            formats: Formats::builtin(),
            augmentations: Augmentations::builtin(),
        }
    }

    /// No parts.
    pub fn empty() -> Self {
        Self {
            objectives: Objectives::empty(),
            backbones: Backbones::empty(),
            formats: Formats::empty(),
            augmentations: Augmentations::empty(),
        }
    }

    /// # Errors
    /// A name is registered twice.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.objectives.check()?;
        self.backbones.check()?;
        self.formats.check()?;
        self.augmentations.check()
    }
}

impl Owners for Components {
    fn objective(&self, table: &ObjectiveTable, recipe: &Recipe) -> Result<ObjectiveTable, ConfigError> {
        let random_augmentation =
            recipe.augment.iter().any(|operation| self.augmentations.is_random(operation));
        self.objectives.completed(table, &RecipeFacts { recipe, random_augmentation })
    }

    fn model(&self, model: &ModelConfig) -> Result<ModelConfig, ConfigError> {
        self.backbones.check_model(model)?;
        self.backbones.completed(model)
    }

    fn operation(&self, operation: &Operation) -> Result<Operation, ConfigError> {
        self.augmentations.completed(operation)
    }
}
