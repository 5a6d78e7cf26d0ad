//! Loads a finished transfer run, or a file of its weights, for evaluation and prediction.

use super::{RunContext, find_weights};
use crate::config::{RunConfig, Stage, read};
use crate::data::DatasetInfo;
use crate::engine::TransferMetadata;
use crate::registry::AnyTask;
use crate::task::Manifest;
use anyhow::{Context, Result, bail, ensure};
use std::path::{Path, PathBuf};

/// Weights, and the task for which they were trained.
pub struct TrainedModel {
    /// The file.
    pub weights: PathBuf,
    /// The configuration of the run that trained the weights.
    pub config: RunConfig,
    /// The manifest of the task.
    pub manifest: Manifest,
    /// The task itself.
    pub task: AnyTask,
}

/// Finds `weights` (a run or a file) and builds their task: `task` if given, otherwise the task of the run. The classes
/// come from the weights or, if the weights name none, from the data set below `data`.
///
/// # Errors
/// Weights that are not from a transfer run; a data set that is needed but missing.
pub fn trained(
    context: &RunContext,
    weights: &str,
    task: Option<&str>,
    data: Option<&Path>,
) -> Result<TrainedModel> {
    let path = find_weights(context, "--weights", weights)?;
    let notes = TransferMetadata::of(&path)?;
    let beside = path.parent().map(|folder| folder.join("config.toml")).filter(|file| file.is_file());
    let beside = beside.map(|file| read::<RunConfig>(&file)).transpose()?;
    let (config, info) = match (notes, beside) {
        // The weights name no paths of the machine where they were trained; the folder of their run does.
        (Some(TransferMetadata { config, dataset }), Some(run)) if run.hash()? == config.hash()? => {
            (run, Some(dataset))
        }
        (Some(TransferMetadata { config, dataset }), _) => (config, Some(dataset)),
        (None, Some(run)) => (run, None),
        (None, None) => bail!(
            "`{}` does not say to which model, head and classes it belongs; only the weights of a transfer run do (runs/<id>/model.safetensors)",
            path.display()
        ),
    };
    ensure!(
        config.run.stage == Stage::Transfer,
        "`{weights}` is a pre-training run: it has no head that predicts"
    );
    let name =
        task.map(String::from).or_else(|| config.run.task_source()).context("which task? Give --task")?;
    let manifest = context.manifest(&name)?;
    let info = match info {
        Some(info) => info,
        None => classes(context, &config, &manifest, data)?,
    };
    let origin = path.display().to_string();
    let task = context.registry.task(&manifest, (&config.recipe.head(), &origin), &info)?;
    Ok(TrainedModel { weights: path, config, manifest, task })
}

/// The classes of the data that the run was trained on.
fn classes(
    context: &RunContext,
    config: &RunConfig,
    manifest: &Manifest,
    data: Option<&Path>,
) -> Result<DatasetInfo> {
    let dataset = context.dataset(&manifest.dataset)?;
    let root = dataset
        .root(data.or(config.run.data.as_deref()), context.bench_data.as_deref())
        .context("the weights do not name their classes, so the data set is needed")?;
    Ok(dataset.info(&dataset.index(&root, &manifest.splits.train)?))
}
