//! [`Components`]: everything that can be registered, but for the kinds of task: what a run is assembled from.

use crate::config::{AugmentOp, ConfigError, ModelConfig, ObjectiveTable, Owners, Recipe};
use crate::models::Backbones;
use crate::pretrain::{Objectives, RecipeFacts};

/// The registered parts of runs.
pub struct Components {
    /// Objectives of pre-training.
    pub objectives: Objectives,
    /// Encoders.
    pub backbones: Backbones,
}

impl Components {
    /// Those of this crate.
    pub fn builtin() -> Self {
        Self { objectives: Objectives::builtin(), backbones: Backbones::builtin() }
    }

    /// None.
    pub fn empty() -> Self {
        Self { objectives: Objectives::empty(), backbones: Backbones::empty() }
    }

    /// # Errors
    /// A name that is registered twice.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.objectives.check()?;
        self.backbones.check()
    }
}

impl Owners for Components {
    fn objective(&self, table: &ObjectiveTable, recipe: &Recipe) -> Result<ObjectiveTable, ConfigError> {
        let random_augmentation = recipe.augment.iter().any(AugmentOp::is_random);
        self.objectives.completed(table, &RecipeFacts { recipe, random_augmentation })
    }

    fn model(&self, model: &ModelConfig) -> Result<ModelConfig, ConfigError> {
        self.backbones.check_model(model)?;
        self.backbones.completed(model)
    }
}
