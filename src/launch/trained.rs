//! A transfer run that is finished, or a file of its weights, put to use again.

use super::{Site, find_weights};
use crate::config::{RunConfig, Stage, read};
use crate::data::{Dataset, DatasetInfo, Formats};
use crate::engine::TransferNotes;
use crate::registry::{AnyTask, manifest};
use crate::task::Manifest;
use anyhow::{Context, Result, bail, ensure};
use std::path::{Path, PathBuf};

/// Weights, and the task that they were trained for.
pub struct Trained {
    pub weights: PathBuf,
    pub config: RunConfig,
    pub manifest: Manifest,
    pub task: AnyTask,
}

/// Finds `weights` (a run or a file) and makes their task: `task` if given, else that of the run. Classes are those that
/// the weights name; where they name none, those of the data set below `data`.
///
/// # Errors
/// Weights that no transfer run has left; a data set that is needed and not there.
pub fn trained(site: &Site, weights: &str, task: Option<&str>, data: Option<&Path>) -> Result<Trained> {
    let path = find_weights(site, "--weights", weights)?;
    let notes = TransferNotes::of(&path)?;
    let beside = path.parent().map(|folder| folder.join("config.toml")).filter(|file| file.is_file());
    let (config, info) = match (notes, beside) {
        (Some(TransferNotes { config, dataset }), _) => (config, Some(dataset)),
        (None, Some(file)) => (read::<RunConfig>(&file)?, None),
        (None, None) => bail!(
            "`{}` does not say which model, head and classes it belongs to: only the weights of a transfer run do \
             (runs/<id>/model.safetensors)",
            path.display()
        ),
    };
    ensure!(
        config.run.stage == Stage::Transfer,
        "`{weights}` is a pre-training run: it has no head that predicts"
    );
    let name = task.or(config.run.task.as_deref()).context("which task? Give --task")?;
    let manifest = manifest(site.library, name)?;
    let info = match info {
        Some(info) => info,
        None => classes(site, &config, &manifest, data)?,
    };
    let training = config.recipe.transfer.as_ref().map(|transfer| transfer.head.clone()).unwrap_or_default();
    let task = site.registry.task(&manifest, &training, &info)?;
    Ok(Trained { weights: path, config, manifest, task })
}

/// The classes of the data that the run was trained on.
fn classes(site: &Site, config: &RunConfig, manifest: &Manifest, data: Option<&Path>) -> Result<DatasetInfo> {
    let dataset = Dataset::load(site.library, &manifest.dataset, &Formats::builtin())?;
    let root = dataset
        .root(data.or(config.run.data.as_deref()), site.bench_data.as_deref())
        .context("the weights do not name their classes, and the data set that does is needed")?;
    Ok(dataset.info(&dataset.index(&root, &manifest.splits.train)?))
}
