//! [`Components`]: everything that can be registered, but for the kinds of task: what a run is assembled from.

use crate::config::{AugmentOp, ConfigError, ObjectiveTable, Owners, Recipe};
use crate::pretrain::{Objectives, RecipeFacts};

/// The registered parts of runs.
pub struct Components {
    /// Objectives of pre-training.
    pub objectives: Objectives,
}

impl Components {
    /// Those of this crate.
    pub fn builtin() -> Self {
        Self { objectives: Objectives::builtin() }
    }

    /// None.
    pub fn empty() -> Self {
        Self { objectives: Objectives::empty() }
    }

    /// # Errors
    /// A name that is registered twice.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.objectives.check()
    }
}

impl Owners for Components {
    fn objective(&self, table: &ObjectiveTable, recipe: &Recipe) -> Result<ObjectiveTable, ConfigError> {
        let random_augmentation = recipe.augment.iter().any(AugmentOp::is_random);
        self.objectives.completed(table, &RecipeFacts { recipe, random_augmentation })
    }
}
