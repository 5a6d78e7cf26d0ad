//! Kinds and tasks without their types, behind the names of the registry.

use crate::components::Components;
use crate::config::{ConfigError, ModelConfig, Operation};
use crate::data::{DatasetInfo, Entry};
use crate::draw::Drawing;
use crate::engine::{
    self, Control, Evaluated, Outcome, Pictures, Predicted, Rehearsal, RunInputs, Session, Speed,
    SpeedOptions, TrainOptions,
};
use crate::record::{ScoreSpec, Scores};
use crate::task::{DrawOptions, Manifest, Task};
use anyhow::{Context, Result};
use schemars::{Schema, schema_for};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A kind of task without its type.
pub(super) trait AnyKind: Send + Sync {
    /// JSON schemas of the options of manifests and of the head's options in recipes.
    fn schemas(&self) -> [Schema; 2];
    /// Whether `head` is a `[transfer.head]` of this kind.
    fn accepts(&self, head: &toml::Table) -> bool;
    /// Parses both tables of options.
    fn check(&self, manifest: &Manifest, training: (&toml::Table, &str)) -> Result<()>;
    fn task(
        &self,
        manifest: &Manifest,
        training: (&toml::Table, &str),
        dataset: &DatasetInfo,
    ) -> Result<Box<dyn ErasedTask>>;
}

/// [`AnyKind`] of `T`.
pub(super) struct Kind<T>(std::marker::PhantomData<fn() -> T>);

impl<T: Task> Kind<T> {
    pub(super) fn new() -> Self {
        Self(std::marker::PhantomData)
    }

    fn options(
        manifest: &Manifest,
        (training, recipe): (&toml::Table, &str),
    ) -> Result<(T::Options, T::HeadConfig), ConfigError> {
        let origin = format!("{}, [options]", manifest.origin);
        let options = crate::config::parse_table(manifest.options.clone(), origin)?;
        let training = crate::config::parse_table(training.clone(), format!("{recipe}, [transfer.head]"))?;
        Ok((options, training))
    }
}

impl<T: Task> AnyKind for Kind<T> {
    fn schemas(&self) -> [Schema; 2] {
        [schema_for!(T::Options), schema_for!(T::HeadConfig)]
    }

    fn accepts(&self, head: &toml::Table) -> bool {
        crate::config::parse_table::<T::HeadConfig>(head.clone(), "").is_ok()
    }

    fn check(&self, manifest: &Manifest, training: (&toml::Table, &str)) -> Result<()> {
        Self::options(manifest, training)?;
        Ok(())
    }

    fn task(
        &self,
        manifest: &Manifest,
        training: (&toml::Table, &str),
        dataset: &DatasetInfo,
    ) -> Result<Box<dyn ErasedTask>> {
        let (options, training) = Self::options(manifest, training)?;
        let task = Arc::new(T::new(options, training, dataset)?);
        Ok(Box::new(Erased { task, name: manifest.name.clone(), info: dataset.clone() }))
    }
}

/// A task without its type.
pub(super) trait ErasedTask: Send + Sync {
    fn scores(&self) -> Vec<ScoreSpec>;
    fn check(&self, split: &str, entries: &[Entry]) -> Result<()>;
    fn check_protocol(
        &self,
        protocol: &[Operation],
        components: &Components,
        model: &ModelConfig,
        entries: &[Entry],
    ) -> Result<()>;
    fn fits(&self) -> bool;
    fn least_batch(&self) -> usize;
    fn train(&self, primary: ScoreSpec, run: &RunInputs, options: TrainOptions) -> Result<Outcome>;
    fn evaluate(&self, run: &RunInputs, weights: &Path) -> Result<Evaluated>;
    fn score_files(&self, files: &[PathBuf], entries: &[Entry], control: &Control) -> Result<Evaluated>;
    fn predict(&self, run: &RunInputs, weights: &Path, pictures: &Pictures) -> Result<Predicted>;
    fn draw(
        &self,
        run: &RunInputs,
        weights: &Path,
        entries: &Arc<Vec<Entry>>,
        how: &DrawOptions,
    ) -> Result<Vec<Drawing>>;
    fn draw_annotations(&self, entries: &[Entry]) -> Result<Vec<Drawing>>;
    fn files(&self, pictures: &Pictures) -> Vec<PathBuf>;
    fn speed(&self, run: &RunInputs, options: SpeedOptions) -> Result<Speed>;
    fn rehearse(&self, run: &RunInputs, options: SpeedOptions) -> Result<Rehearsal>;
    fn perfect(&self, entries: &[Entry]) -> Result<Scores>;
}

struct Erased<T> {
    task: Arc<T>,
    name: String,
    info: DatasetInfo,
}

impl<T: Task> ErasedTask for Erased<T> {
    fn scores(&self) -> Vec<ScoreSpec> {
        self.task.scores().to_vec()
    }

    fn check(&self, split: &str, entries: &[Entry]) -> Result<()> {
        let (task, dataset) = (&self.name, &self.info.name);
        let place = || format!("tasks/{task}/task.toml, data set `{dataset}`, split `{split}`");
        self.task.check(entries).with_context(place)
    }

    fn check_protocol(
        &self,
        protocol: &[Operation],
        components: &Components,
        model: &ModelConfig,
        entries: &[Entry],
    ) -> Result<()> {
        engine::check_protocol(self.task.as_ref(), protocol, components, model, entries)
            .with_context(|| format!("tasks/{}/task.toml", self.name))
    }

    fn fits(&self) -> bool {
        self.task.fits()
    }

    fn least_batch(&self) -> usize {
        self.task.least_batch()
    }

    fn train(&self, primary: ScoreSpec, run: &RunInputs, options: TrainOptions) -> Result<Outcome> {
        Session::transfer(&self.task, run)?.train(&self.info, primary, options)
    }

    fn evaluate(&self, run: &RunInputs, weights: &Path) -> Result<Evaluated> {
        Session::trained(&self.task, run, weights)?.evaluate()
    }

    fn score_files(&self, files: &[PathBuf], entries: &[Entry], control: &Control) -> Result<Evaluated> {
        engine::score_files(self.task.as_ref(), files, entries, control)
    }

    fn predict(&self, run: &RunInputs, weights: &Path, pictures: &Pictures) -> Result<Predicted> {
        Session::trained(&self.task, run, weights)?.predict(pictures)
    }

    fn draw(
        &self,
        run: &RunInputs,
        weights: &Path,
        entries: &Arc<Vec<Entry>>,
        how: &DrawOptions,
    ) -> Result<Vec<Drawing>> {
        Session::trained(&self.task, run, weights)?.draw(entries, how)
    }

    fn draw_annotations(&self, entries: &[Entry]) -> Result<Vec<Drawing>> {
        engine::draw_annotations(self.task.as_ref(), entries)
    }

    fn files(&self, pictures: &Pictures) -> Vec<PathBuf> {
        let writer = self.task.prediction_io().and_then(|io| io.writer(pictures.folder));
        pictures.files(writer.as_deref())
    }

    fn speed(&self, run: &RunInputs, options: SpeedOptions) -> Result<Speed> {
        Session::transfer(&self.task, run)?.speed(options)
    }

    fn rehearse(&self, run: &RunInputs, options: SpeedOptions) -> Result<Rehearsal> {
        Session::transfer(&self.task, run)?.rehearse(options)
    }

    fn perfect(&self, entries: &[Entry]) -> Result<Scores> {
        engine::perfect(self.task.as_ref(), entries)
    }
}
