//! [`Registry`]: kinds of task, objectives, formats, operations and backbones by name. The built-in ones are registered
//! by the same calls as those of a plugin. This is the only module that erases the types of kinds.

mod erased;

use crate::components::Components;
use crate::config::{ConfigError, Library, ModelConfig, Named, Operation, Recipe, complete_operations};
use crate::data::augment::Augmentation;
use crate::data::{DatasetInfo, Entry, Format};
use crate::draw::Drawing;
use crate::engine::{
    Control, Evaluated, Outcome, Pictures, Plan, PlanError, Predicted, Rehearsal, RunInputs, Speed,
    SpeedOptions, TrainOptions,
};
use crate::kinds;
use crate::models::BackboneKind;
use crate::pretrain::PretrainObjective;
use crate::record::{ScoreSpec, Scores};
use crate::task::{DrawOptions, Manifest, Task};
use crate::weights::metadata::is_reserved;
use anyhow::{Context, Result, bail, ensure};
use erased::{AnyKind, ErasedTask, Kind};
use schemars::Schema;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a program knows.
pub struct Registry {
    kinds: Named<Box<dyn AnyKind>>,
    components: Components,
}

impl Registry {
    /// The built-in parts of this crate.
    pub fn builtin() -> Self {
        Self { components: Components::builtin(), ..Self::empty() }
            .with::<kinds::ClassificationTask>()
            .with::<kinds::DetectionTask>()
            .with::<kinds::SegmentationTask>()
    }

    /// A registry without any parts.
    pub fn empty() -> Self {
        Self { kinds: Named::new("kind"), components: Components::empty() }
    }

    /// Adds a kind of task.
    #[must_use]
    pub fn with<T: Task>(self) -> Self {
        let kind = Box::new(Kind::<T>::new());
        Self { kinds: self.kinds.with(T::KIND, kind), ..self }
    }

    /// Adds an objective of pre-training.
    #[must_use]
    pub fn with_objective<O: PretrainObjective>(mut self) -> Self {
        self.components.objectives = self.components.objectives.with::<O>();
        self
    }

    /// Adds a backbone.
    #[must_use]
    pub fn with_backbone<B: BackboneKind>(mut self) -> Self {
        self.components.backbones = self.components.backbones.with::<B>();
        self
    }

    /// Adds a layout of files on disk.
    #[must_use]
    pub fn with_format<F: Format>(mut self) -> Self {
        self.components.formats = self.components.formats.with::<F>();
        self
    }

    /// Adds an operation of augmentation and of evaluation protocols.
    #[must_use]
    pub fn with_augmentation<A: Augmentation>(mut self) -> Self {
        self.components.augmentations = self.components.augmentations.with::<A>();
        self
    }

    /// # Errors
    /// A name that is registered twice, or that is reserved. `bench::cli::run` refuses such a registry with exit code
    /// 2.
    pub fn check(&self) -> std::result::Result<(), ConfigError> {
        self.kinds.check()?;
        self.components.check()?;
        let reserved = self.components.objectives.names().find(|name| is_reserved(name));
        match reserved {
            Some(name) => Err(ConfigError::new(
                format!("objective `{name}`"),
                "is reserved for files of weights; choose another name",
            )),
            None => Ok(()),
        }
    }

    /// Names of the kinds, in order of registration.
    pub fn kinds(&self) -> impl Iterator<Item = &'static str> {
        self.kinds.names()
    }

    /// JSON schemas of `[options]` of manifests and of `[transfer.head]` of recipes, by kind.
    pub fn kind_schemas(&self) -> impl Iterator<Item = (&'static str, [Schema; 2])> {
        self.kinds.iter().map(|(name, kind)| (name, kind.schemas()))
    }

    /// The kinds that accept `head`, the `[transfer.head]` of a recipe.
    pub fn kinds_of_head(&self, head: &toml::Table) -> Vec<&'static str> {
        self.kinds.iter().filter(|(_, kind)| kind.accepts(head)).map(|(name, _)| name).collect()
    }

    /// The registered parts other than the kinds of task.
    pub fn components(&self) -> &Components {
        &self.components
    }

    /// Checks the options of `manifest` and of `[transfer.head]` of a recipe as far as that needs no data.
    ///
    /// # Errors
    /// An unknown kind, and unknown, missing or wrong keys.
    pub fn check_options(&self, manifest: &Manifest, training: (&toml::Table, &str)) -> Result<()> {
        let context = || format!("task `{}` of kind `{}`", manifest.name, manifest.kind);
        let kind = self.kinds.get(&manifest.kind).with_context(|| format!("task `{}`", manifest.name))?;
        kind.check(manifest, training).with_context(context)
    }

    /// Builds the task that `manifest` describes, with the training options `training` (`[transfer.head]` of a recipe).
    /// Errors in the latter name the file `recipe`.
    ///
    /// # Errors
    /// An unknown kind, an option or a primary score that the kind does not have.
    pub fn task(
        &self,
        manifest: &Manifest,
        (training, recipe): (&toml::Table, &str),
        dataset: &DatasetInfo,
    ) -> Result<AnyTask> {
        let kind = self.kinds.get(&manifest.kind).with_context(|| format!("task `{}`", manifest.name))?;
        let task = kind
            .task(manifest, (training, recipe), dataset)
            .with_context(|| format!("task `{}` of kind `{}`", manifest.name, manifest.kind))?;
        let scores = task.scores();
        let primary = scores.iter().find(|spec| spec.name == manifest.primary).copied();
        let Some(primary) = primary else {
            let known: Vec<&str> = scores.iter().map(|spec| spec.name).collect();
            bail!(
                "task `{}`: primary score `{}` does not exist; kind `{}` has: {}",
                manifest.name,
                manifest.primary,
                manifest.kind,
                known.join(", ")
            );
        };
        Ok(AnyTask { primary, task })
    }
}

/// Reads the manifest of the task `name`, which may also be the path of a `task.toml` or of its folder. `owners` checks
/// the options of the protocol's operations and writes out their defaults.
///
/// # Errors
/// An unknown task, a file that cannot be read or has unknown keys, a name that is not the one asked for. The name of a
/// file that is given by its path may be any.
pub fn manifest(library: &Library, owners: &Components, name: &str) -> Result<Manifest> {
    let file = library.file_in_folder("task", name, "tasks", "task.toml")?;
    let mut manifest: Manifest = crate::config::parse(&file.text, &file.origin)?;
    let origin = file.origin;
    ensure!(
        file.by_path || manifest.name == file.name,
        "{origin}: name is `{}`, but the folder is `{}`; give both the same name",
        manifest.name,
        file.name
    );
    complete_operations(owners, &mut manifest.eval, &origin, "eval")?;
    if manifest.dataset.contains('/') || manifest.dataset.ends_with(".toml") {
        let home = Path::new(&origin).parent().unwrap_or(Path::new("."));
        manifest.dataset = home.join(&manifest.dataset).display().to_string();
    }
    Ok(Manifest { origin, ..manifest })
}

/// One task, whatever its kind.
pub struct AnyTask {
    task: Box<dyn ErasedTask>,
    primary: ScoreSpec,
}

impl AnyTask {
    /// Every score that evaluation returns.
    pub fn scores(&self) -> Vec<ScoreSpec> {
        self.task.scores()
    }

    /// The score that ranks runs.
    pub fn primary(&self) -> ScoreSpec {
        self.primary
    }

    /// Checks the entries of `split` before anything is trained or scored on them.
    ///
    /// # Errors
    /// Entries that cannot be scored as the options of the manifest say.
    pub fn check(&self, split: &str, entries: &[Entry]) -> Result<()> {
        self.task.check(split, entries)
    }

    /// Checks that the evaluation protocol of the manifest prepares images for `model` as the task needs them, on the sizes of
    /// `entries` or, if there are none, on usual ones.
    ///
    /// # Errors
    /// Everything that is wrong with the protocol, and an example of one that works.
    pub fn check_protocol(
        &self,
        protocol: &[Operation],
        components: &Components,
        model: &ModelConfig,
        entries: &[Entry],
    ) -> Result<()> {
        self.task.check_protocol(protocol, components, model, entries)
    }

    /// Whether the head is fitted in one pass, without steps.
    pub fn fits(&self) -> bool {
        self.task.fits()
    }

    /// Smallest number of images in a forward pass of training.
    pub fn least_batch(&self) -> usize {
        self.task.least_batch()
    }

    /// Checks the batches of `recipe` for a training split of `images` images. A head that is fitted has no batches to fill.
    ///
    /// # Errors
    /// Fewer images than a batch, or fewer in a forward pass than the head needs.
    pub fn check_batches(&self, recipe: &Recipe, images: usize) -> std::result::Result<(), PlanError> {
        if self.fits() { Ok(()) } else { Plan::check(recipe, images, self.task.least_batch()) }
    }

    /// Trains or fits the head, and evaluates.
    ///
    /// # Errors
    /// See [`Session`](crate::engine::Session).
    pub fn train(&self, run: &RunInputs, options: TrainOptions) -> Result<Outcome> {
        self.task.train(self.primary, run, options)
    }

    /// Scores of the weights of a finished run.
    ///
    /// # Errors
    /// See [`Session`](crate::engine::Session).
    pub fn evaluate(&self, run: &RunInputs, weights: &Path) -> Result<Evaluated> {
        self.task.evaluate(run, weights)
    }

    /// Scores of predictions for `entries` that are read from files.
    pub fn score_files(&self, files: &[PathBuf], entries: &[Entry], control: &Control) -> Result<Evaluated> {
        self.task.score_files(files, entries, control)
    }

    /// Predicts images with the weights of a finished run, and draws and writes the predictions.
    pub fn predict(&self, run: &RunInputs, weights: &Path, pictures: &Pictures) -> Result<Predicted> {
        self.task.predict(run, weights, pictures)
    }

    /// Draws the predictions for `entries` with the weights of a finished run, in their order; none if the kind draws nothing.
    ///
    /// # Errors
    /// See [`Session`](crate::engine::Session).
    pub fn draw(
        &self,
        run: &RunInputs,
        weights: &Path,
        entries: &Arc<Vec<Entry>>,
        how: &DrawOptions,
    ) -> Result<Vec<Drawing>> {
        self.task.draw(run, weights, entries, how)
    }

    /// Draws the annotations of `entries`, in their order; none if the kind draws nothing.
    ///
    /// # Errors
    /// Images and annotations that cannot be read, or that do not fit each other.
    pub fn draw_annotations(&self, entries: &[Entry]) -> Result<Vec<Drawing>> {
        self.task.draw_annotations(entries)
    }

    /// Every file that [`AnyTask::predict`] would write.
    pub fn files(&self, pictures: &Pictures) -> Vec<PathBuf> {
        self.task.files(pictures)
    }

    /// Rehearses a run: a few steps, and the evaluation of a few images.
    ///
    /// # Errors
    /// See [`Session`](crate::engine::Session).
    pub fn rehearse(&self, run: &RunInputs, options: SpeedOptions) -> Result<Rehearsal> {
        self.task.rehearse(run, options)
    }

    /// Measures training.
    ///
    /// # Errors
    /// See [`Session`](crate::engine::Session).
    pub fn speed(&self, run: &RunInputs, options: SpeedOptions) -> Result<Speed> {
        self.task.speed(run, options)
    }

    /// Scores of perfect predictions for `entries`, the best that evaluation can give.
    ///
    /// # Errors
    /// An annotation that the kind cannot read, or scores other than the declared ones.
    pub fn perfect(&self, entries: &[Entry]) -> Result<Scores> {
        self.task.perfect(entries)
    }
}
