//! [`Registry`]: the word `kind` of a manifest to a type in Rust. The only place that erases types.

use crate::config::{Library, complete_operations};
use crate::data::augment::Augmentations;
use crate::data::{DatasetInfo, Entry};
use crate::engine::{self, Control, Evaluated, Job, Outcome, Pictures, Predicted, Speed};
use crate::kinds;
use crate::record::{RunFolder, ScoreSpec, Scores};
use crate::task::{Manifest, Task};
use anyhow::{Context, Result, bail, ensure};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The kinds that a program knows.
pub struct Registry {
    kinds: Vec<(&'static str, Box<dyn AnyKind>)>,
}

impl Registry {
    /// The kinds of this crate.
    pub fn builtin() -> Self {
        Self::empty()
            .with::<kinds::ClassificationTask>()
            .with::<kinds::DetectionTask>()
            .with::<kinds::SegmentationTask>()
    }

    pub fn empty() -> Self {
        Self { kinds: vec![] }
    }

    /// Adds a kind.
    ///
    /// # Panics
    /// When a kind of this name is there already.
    pub fn with<T: Task>(mut self) -> Self {
        assert!(self.names().all(|kind| kind != T::KIND), "kind `{}` is registered twice", T::KIND);
        self.kinds.push((T::KIND, Box::new(Kind::<T>(std::marker::PhantomData))));
        self
    }

    /// Names of the kinds, in order of registration.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.kinds.iter().map(|(name, _)| *name)
    }

    /// The task that `manifest` describes, trained as `training` (`[transfer.head]` of a recipe) says.
    ///
    /// # Errors
    /// An unknown kind, an option that the kind does not know, a primary score that it does not have.
    pub fn task(
        &self,
        manifest: &Manifest,
        training: &toml::Table,
        dataset: &DatasetInfo,
    ) -> Result<AnyTask> {
        let Some((_, kind)) = self.kinds.iter().find(|(name, _)| *name == manifest.kind) else {
            let known: Vec<String> = self.names().map(String::from).collect();
            bail!(
                "task `{}`: kind `{}`: {}",
                manifest.name,
                manifest.kind,
                crate::config::unknown(&manifest.kind, &known)
            );
        };
        let task = kind
            .task(manifest, training, dataset)
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

/// Reads the manifest of the task `name`.
pub fn manifest(library: &Library, name: &str) -> Result<Manifest> {
    let path = format!("tasks/{name}/task.toml");
    let Ok((text, origin)) = library.text(&path) else {
        return Err(library.unknown("task", name, "tasks").into());
    };
    let mut manifest: Manifest = crate::config::parse(&text, &origin)?;
    ensure!(manifest.name == name, "{origin}: name is `{}`, the folder `{name}`", manifest.name);
    complete_operations(&Augmentations::builtin(), &mut manifest.eval, &origin, "eval")?;
    manifest.home = Path::new(&origin).parent().unwrap_or(Path::new(".")).into();
    Ok(manifest)
}

/// One task, whatever its kind.
pub struct AnyTask {
    task: Box<dyn ErasedTask>,
    primary: ScoreSpec,
}

impl AnyTask {
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

    pub fn transfer(&self, job: &Job, folder: &RunFolder) -> Result<Outcome> {
        self.task.transfer(self.primary, job, folder)
    }

    /// Scores of weights that a run has left.
    pub fn rescore(&self, job: &Job, weights: &Path) -> Result<Evaluated> {
        self.task.rescore(job, weights)
    }

    /// Scores of the predictions for `entries` that files hold.
    pub fn score_files(&self, files: &[PathBuf], entries: &[Entry], control: &Control) -> Result<Evaluated> {
        self.task.score_files(files, entries, control)
    }

    /// Predicts images with weights that a run has left, and draws and writes what it finds.
    pub fn predict(&self, job: &Job, weights: &Path, pictures: &Pictures) -> Result<Predicted> {
        self.task.predict(job, weights, pictures)
    }

    /// Every file that [`AnyTask::predict`] would write.
    pub fn files(&self, pictures: &Pictures) -> Vec<PathBuf> {
        self.task.files(pictures)
    }

    pub fn speed(&self, job: &Job, seconds: f64) -> Result<Speed> {
        self.task.speed(job, seconds)
    }

    /// Scores of the perfect predictions for `entries`: what evaluation can reach.
    ///
    /// # Errors
    /// An annotation that the kind cannot read, or scores other than the declared ones.
    pub fn perfect(&self, entries: &[Entry]) -> Result<Scores> {
        self.task.perfect(entries)
    }
}

trait AnyKind: Send + Sync {
    fn task(
        &self,
        manifest: &Manifest,
        training: &toml::Table,
        dataset: &DatasetInfo,
    ) -> Result<Box<dyn ErasedTask>>;
}

struct Kind<T>(std::marker::PhantomData<fn() -> T>);

impl<T: Task> AnyKind for Kind<T> {
    fn task(
        &self,
        manifest: &Manifest,
        training: &toml::Table,
        dataset: &DatasetInfo,
    ) -> Result<Box<dyn ErasedTask>> {
        let origin = format!("tasks/{}/task.toml, [options]", manifest.name);
        let options: T::Options = crate::config::parse_table(manifest.options.clone(), origin)?;
        let training: T::HeadConfig =
            crate::config::parse_table(training.clone(), "recipe, [transfer.head]")?;
        let task = Arc::new(T::new(options, training, dataset)?);
        Ok(Box::new(Erased { task, name: manifest.name.clone(), info: dataset.clone() }))
    }
}

trait ErasedTask: Send + Sync {
    fn scores(&self) -> Vec<ScoreSpec>;
    fn check(&self, split: &str, entries: &[Entry]) -> Result<()>;
    fn transfer(&self, primary: ScoreSpec, job: &Job, folder: &RunFolder) -> Result<Outcome>;
    fn rescore(&self, job: &Job, weights: &Path) -> Result<Evaluated>;
    fn score_files(&self, files: &[PathBuf], entries: &[Entry], control: &Control) -> Result<Evaluated>;
    fn predict(&self, job: &Job, weights: &Path, pictures: &Pictures) -> Result<Predicted>;
    fn files(&self, pictures: &Pictures) -> Vec<PathBuf>;
    fn speed(&self, job: &Job, seconds: f64) -> Result<Speed>;
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

    fn transfer(&self, primary: ScoreSpec, job: &Job, folder: &RunFolder) -> Result<Outcome> {
        engine::transfer(&self.task, &self.info, primary, job, folder)
    }

    fn rescore(&self, job: &Job, weights: &Path) -> Result<Evaluated> {
        engine::rescore(&self.task, job, weights)
    }

    fn score_files(&self, files: &[PathBuf], entries: &[Entry], control: &Control) -> Result<Evaluated> {
        engine::score_files(self.task.as_ref(), files, entries, control)
    }

    fn predict(&self, job: &Job, weights: &Path, pictures: &Pictures) -> Result<Predicted> {
        engine::predict(&self.task, job, weights, pictures)
    }

    fn files(&self, pictures: &Pictures) -> Vec<PathBuf> {
        pictures.files(self.task.writer(pictures.folder).as_deref())
    }

    fn speed(&self, job: &Job, seconds: f64) -> Result<Speed> {
        engine::speed_transfer(&self.task, job, seconds)
    }

    fn perfect(&self, entries: &[Entry]) -> Result<Scores> {
        engine::perfect(self.task.as_ref(), entries)
    }
}
