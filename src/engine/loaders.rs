//! The loaders of a run, all built here: training, evaluation, prediction and reconstruction differ in what they ask for.

use super::RunInputs;
use crate::config::{AugmentOp, Erase, ModelConfig};
use crate::data::augment::Pipeline;
use crate::data::loader::{ANY_SKIPS, Loader, LoaderConfig, TargetFn};
use crate::data::{Entry, Geometric};
use anyhow::{Context, Result};
use std::sync::Arc;

/// Micro-batches that may wait for the model.
const PREFETCH: usize = 4;

/// What a loader reads, and in which order.
pub struct LoaderSpec<'a> {
    /// What it reads.
    pub entries: Arc<Vec<Entry>>,
    /// What happens to an image between decoding and the model.
    pub operations: &'a [AugmentOp],
    /// Random erasing after the operations.
    pub erase: Option<&'a Erase>,
    /// Images of a batch.
    pub batch: usize,
    /// Whether the order is drawn anew in every epoch, and the last batch left out when it is not full: training.
    pub shuffle: bool,
    /// Unreadable images that an epoch may replace.
    pub allowed_skips: usize,
    /// Whether images keep the size that the operations leave them, rather than having the model's.
    pub any_size: bool,
}

impl<'a> LoaderSpec<'a> {
    /// The training split as the recipe augments it, in micro-batches.
    pub fn training(run: &RunInputs<'a>) -> Self {
        let recipe = &run.config.recipe;
        Self {
            entries: run.splits.train.clone(),
            operations: &recipe.augment,
            erase: recipe.erase.as_ref(),
            batch: recipe.micro_batch(),
            shuffle: true,
            allowed_skips: recipe.allowed_skips,
            any_size: false,
        }
    }

    /// `entries` in order, by the task's protocol of evaluation; one at a time where they may have `any_size`.
    pub fn evaluation(run: &RunInputs<'a>, entries: Arc<Vec<Entry>>, any_size: bool) -> Self {
        Self {
            entries,
            operations: run.protocol,
            erase: None,
            batch: if any_size { 1 } else { run.config.recipe.micro_batch() },
            shuffle: false,
            allowed_skips: 0,
            any_size,
        }
    }

    /// The same for images of which some may be unreadable: those are left out.
    #[must_use]
    pub fn skipping_unreadable(self) -> Self {
        Self { allowed_skips: ANY_SKIPS, ..self }
    }
}

impl RunInputs<'_> {
    /// The loader that `spec` describes, with targets made by `target`.
    ///
    /// # Errors
    /// Operations that cannot work; the error names the recipe or the protocol they belong to.
    pub fn loader<T>(&self, spec: LoaderSpec, target: TargetFn<T>) -> Result<Loader<T>>
    where
        T: Geometric + Clone + Send + Sync + 'static,
    {
        let model: &ModelConfig = &self.config.model;
        let pipeline =
            Pipeline::new(spec.operations, spec.erase, &model.normalize(), model.image, model.channels);
        let pipeline = pipeline.map_err(anyhow::Error::msg).with_context(|| match spec.shuffle {
            true => format!("recipe `{}`", self.config.run.recipe),
            false => "evaluation protocol of the task".into(),
        })?;
        let pipeline = if spec.any_size { pipeline.of_any_size() } else { pipeline };
        let config = LoaderConfig {
            seed: self.config.run.seed,
            batch: spec.batch,
            workers: self.workers,
            prefetch: PREFETCH,
            shuffle: spec.shuffle,
            drop_last: spec.shuffle,
            allowed_skips: spec.allowed_skips,
            channels: model.channels,
        };
        Ok(Loader::new(spec.entries, target, Arc::new(pipeline), config, self.device.clone()))
    }

    /// The same for images alone.
    ///
    /// # Errors
    /// As [`RunInputs::loader`].
    pub fn image_loader(&self, spec: LoaderSpec) -> Result<Loader<()>> {
        self.loader(spec, Arc::new(|_: &Entry| Ok(())))
    }
}
