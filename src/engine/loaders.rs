//! Builds every loader of a run; training, evaluation, prediction and reconstruction differ only in their
//! [`LoaderSpec`].

use super::RunInputs;
use crate::config::{Erase, ModelConfig, Operation, View};
use crate::data::augment::{Pipeline, PrepareSample, view_pipelines};
use crate::data::loader::{ANY_SKIPS, Loader, LoaderConfig, TargetFn};
use crate::data::{Entry, Geometric};
use anyhow::{Context, Result};
use std::sync::Arc;

/// Number of micro-batches that the loader prepares ahead of the model.
const PREFETCH: usize = 4;

/// The specification of a loader: the entries that it reads, and their order.
pub struct LoaderSpec<'a> {
    /// The entries that the loader reads.
    pub entries: Arc<Vec<Entry>>,
    /// The operations between decoding and the model.
    pub operations: &'a [Operation],
    /// Further views of every image.
    pub views: &'a [View],
    /// Random erasing after the operations.
    pub erase: Option<&'a Erase>,
    /// Images of a batch.
    pub batch: usize,
    /// Whether to shuffle in every epoch and to drop the last batch when it is not full, as training does.
    pub shuffle: bool,
    /// Number of unreadable images that an epoch may replace.
    pub allowed_skips: usize,
    /// Whether images may keep the size that the operations produce instead of the size of the model's input.
    pub any_size: bool,
}

impl<'a> LoaderSpec<'a> {
    /// The training split as the recipe augments it, in micro-batches.
    pub fn training(run: &RunInputs<'a>) -> Self {
        let recipe = &run.config.recipe;
        Self {
            entries: run.splits.train.clone(),
            operations: &recipe.augment,
            views: &recipe.views,
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
            views: &[],
            erase: None,
            batch: if any_size { 1 } else { run.config.recipe.micro_batch() },
            shuffle: false,
            allowed_skips: 0,
            any_size,
        }
    }

    /// Skips unreadable images instead of failing.
    #[must_use]
    pub fn skipping_unreadable(self) -> Self {
        Self { allowed_skips: ANY_SKIPS, ..self }
    }
}

impl RunInputs<'_> {
    /// The loader that `spec` describes, with targets made by `target`.
    ///
    /// # Errors
    /// Invalid operations; the error names the recipe or the protocol to which they belong.
    pub fn loader<T>(&self, spec: LoaderSpec, target: TargetFn<T>) -> Result<Loader<T>>
    where
        T: Geometric + Clone + Send + Sync + 'static,
    {
        let (pipeline, views) = self.pipelines(&spec)?;
        let pipeline = if spec.any_size { pipeline.of_any_size() } else { pipeline };
        let config = LoaderConfig {
            seed: self.config.run.seed,
            batch: spec.batch,
            workers: self.workers,
            prefetch: PREFETCH,
            shuffle: spec.shuffle,
            drop_last: spec.shuffle,
            allowed_skips: spec.allowed_skips,
            channels: self.config.model.channels,
        };
        let views = views.into_iter().map(|view| Arc::new(view) as Arc<dyn PrepareSample<()>>).collect();
        let prepare = Arc::new(pipeline);
        Ok(Loader::with_views(spec.entries, target, prepare, views, config, self.device.clone()))
    }

    /// The operations on the image of a sample, and those of its further views.
    fn pipelines(&self, spec: &LoaderSpec) -> Result<(Pipeline, Vec<Pipeline>)> {
        let model: &ModelConfig = &self.config.model;
        let (normalize, augmentations) = (model.normalize(), &self.components.augmentations);
        let (input, channels) = (model.image, model.channels);
        let place = || match spec.shuffle {
            true => format!("recipe `{}`", self.config.run.recipe),
            false => "evaluation protocol of the task".into(),
        };
        let pipeline = Pipeline::new(augmentations, spec.operations, spec.erase, &normalize, input, channels)
            .with_context(place)?;
        let views =
            view_pipelines(augmentations, spec.views, &normalize, input, channels).with_context(place)?;
        Ok((pipeline, views))
    }

    /// Checks the operations of the recipe and of the evaluation protocol, before the run has a folder.
    ///
    /// # Errors
    /// Invalid operations; the error names the recipe or the protocol to which they belong.
    pub fn check_operations(&self) -> Result<()> {
        self.pipelines(&LoaderSpec::training(self))?;
        self.pipelines(&LoaderSpec::evaluation(self, Arc::default(), false))?;
        Ok(())
    }

    /// Like [`Self::loader`], for images without targets.
    ///
    /// # Errors
    /// The errors of [`RunInputs::loader`].
    pub fn image_loader(&self, spec: LoaderSpec) -> Result<Loader<()>> {
        self.loader(spec, Arc::new(|_: &Entry| Ok(())))
    }
}
