//! The length of a run in images, batches, steps and epochs.

use crate::config::Recipe;
use crate::pretrain::Moment;

/// Steps of a run. Length of a run. An epoch drops the images that do not fill a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Number of images in the training split.
    pub images: usize,
    /// Images per optimiser step.
    pub batch: usize,
    /// Images per forward pass.
    pub micro_batch: usize,
    /// Number of passes over the training split.
    pub epochs: usize,
    /// Optimiser steps per epoch.
    pub steps_per_epoch: usize,
    /// Optimiser steps of the whole run.
    pub steps: usize,
}

/// Batches that do not suit the training split or the head.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The training split has fewer images than a batch.
    #[error(
        "the training split has {images} images, fewer than the batch of {batch}; try --set batch={smaller}{micro}"
    )]
    FewImages {
        /// Images in the training split.
        images: usize,
        /// Images per step.
        batch: usize,
        /// A batch that the split fills.
        smaller: usize,
        /// Names the key of the batch of a forward pass, if the recipe has it.
        micro: &'static str,
    },
    /// A batch norm cannot normalise the values of so few images.
    #[error(
        "a forward pass has {found} image (batch {batch}, micro_batch {found}), but the batch norm of the head needs at \
         least {least}, because it sees one value of each channel per image; try --set batch={least} --set \
         micro_batch={least}, or a norm that does not depend on the batch where the head has the choice (--set \
         transfer.head.norm=group)"
    )]
    SmallBatch {
        /// Images per forward pass.
        found: usize,
        /// Images per step.
        batch: usize,
        /// Images that are needed.
        least: usize,
    },
}

impl Plan {
    /// The plan of `recipe` for a training split of `images` images.
    ///
    /// # Errors
    /// Fewer images than a batch.
    pub fn new(recipe: &Recipe, images: usize) -> Result<Self, PlanError> {
        let (batch, epochs) = (recipe.batch, recipe.epochs);
        let steps_per_epoch = images / batch;
        if steps_per_epoch == 0 {
            let micro = if recipe.micro_batch.is_some() { " (and micro_batch)" } else { "" };
            return Err(PlanError::FewImages { images, batch, smaller: 1 << images.max(1).ilog2(), micro });
        }
        let (micro_batch, steps) = (recipe.micro_batch(), steps_per_epoch * epochs);
        Ok(Self { images, batch, micro_batch, epochs, steps_per_epoch, steps })
    }

    /// Checks the batches of `recipe` for a training split of `images` images and a head that needs at least `least` images
    /// in a forward pass.
    ///
    /// # Errors
    /// Fewer images than a batch, or than the head needs.
    pub fn check(recipe: &Recipe, images: usize, least: usize) -> Result<(), PlanError> {
        let Self { micro_batch, batch, .. } = Self::new(recipe, images)?;
        match micro_batch < least {
            true => Err(PlanError::SmallBatch { found: micro_batch, batch, least }),
            false => Ok(()),
        }
    }

    /// Forward passes per step.
    pub fn micro_steps(&self) -> usize {
        self.batch / self.micro_batch
    }

    /// Epoch of a step (from 0), and the micro-batch of that epoch at which it starts.
    pub fn position(&self, step: usize) -> (usize, usize) {
        (step / self.steps_per_epoch, step % self.steps_per_epoch * self.micro_steps())
    }

    /// Position of step `step` (from 0) in the run.
    pub fn moment(&self, step: usize) -> Moment {
        let (epoch, progress) = (step as f64 / self.steps_per_epoch as f64, step as f64 / self.steps as f64);
        Moment { step, epoch, progress }
    }

    /// Whether `step` steps end an epoch that is a multiple of `every`.
    pub fn ends_epoch(&self, steps_done: usize, every: usize) -> bool {
        every > 0 && steps_done.is_multiple_of(self.steps_per_epoch * every)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    #[test]
    fn steps_by_hand() {
        let recipe: Recipe = parse(
            "epochs = 3\nbatch = 8\nmicro_batch = 4\n[optim]\nname = \"sgd\"\nbase_lr = 0.1\nweight_decay = 0.0\n\
             [schedule]\nname = \"constant\"",
            "test",
        )
        .unwrap();
        let plan = Plan::new(&recipe, 43).unwrap();
        assert_eq!((plan.steps_per_epoch, plan.steps, plan.micro_steps()), (5, 15, 2));
        assert_eq!(plan.position(7), (1, 4));
        assert!(plan.ends_epoch(10, 2) && !plan.ends_epoch(5, 2) && !plan.ends_epoch(10, 0));
        let error = Plan::new(&recipe, 7).unwrap_err().to_string();
        assert!(error.contains("--set batch=4"), "{error}");
        assert!(Plan::check(&recipe, 43, 4).is_ok());
        let error = Plan::check(&recipe, 43, 5).unwrap_err().to_string();
        assert!(error.contains("needs at least 5") && error.contains("micro_batch=5"), "{error}");
    }
}
