//! Resolves requests, among them those that repeat an earlier run from its configuration.

use super::initial::{INIT, InitialWeights, find};
use super::resolve::{choose, chosen_dtype, finish, includes, tokenizer};
use super::{Request, Resolved, RunContext, command};
use crate::config::{FOLDER, Run, RunConfig, SCRATCH, Stage, read};
use crate::data::Dataset;
use anyhow::{Result, ensure};
use std::path::{Path, PathBuf};

/// Fills in everything that the request leaves open. Reads no data.
///
/// # Errors
/// Any error in the request, and weights that do not exist.
pub fn resolve(context: &RunContext, stage: Stage, request: &Request) -> Result<Resolved> {
    match &request.config {
        Some(path) => repeat(context, stage, request, path),
        None => choose(context, stage, request, None),
    }
}

/// Resolves a finished run from its `config`, which was read from `path`, for evaluating its weights. Model and recipe
/// come from the configuration, and the initial weights need no longer exist.
///
/// # Errors
/// A task or data set that no longer exists.
pub fn resolve_finished(context: &RunContext, config: RunConfig, path: &Path) -> Result<Resolved> {
    let manifest = config.run.task_source().map(|name| context.manifest(&name)).transpose()?;
    let dataset = dataset_of(context, &config.run)?;
    let (init, recipe_origin) = (InitialWeights::scratch(), path.display().to_string());
    let (tokenizer, command, notes) = (None, vec![], vec![]);
    Ok(Resolved { config, recipe_origin, manifest, dataset, init, tokenizer, command, notes })
}

/// The data set of a run.
fn dataset_of(context: &RunContext, run: &Run) -> Result<Dataset> {
    Ok(match (run.dataset.as_str(), &run.data) {
        (FOLDER, Some(path)) => Dataset::from_folder(path)?,
        _ => context.dataset(&run.dataset_source())?,
    })
}

/// Repeats the run of a resolved configuration.
fn repeat(context: &RunContext, stage: Stage, request: &Request, path: &Path) -> Result<Resolved> {
    let mut config: RunConfig = read::<RunConfig>(path)?.with(&request.set, context.registry.components())?;
    config.run.seed = request.seed.unwrap_or(config.run.seed);
    config.run.report = request.report.unwrap_or(config.run.report);
    chosen_dtype(context, Some(config.run.dtype))?;
    ensure!(
        config.run.stage == stage,
        "`{}` is a configuration of `bench {}`",
        path.display(),
        config.run.stage.as_str()
    );
    if request.data.is_some() {
        config.run.data = request.data.clone();
    }
    config.run.include = includes(context);
    let mut init = InitialWeights::scratch();
    if config.run.init != SCRATCH {
        init = find(context, INIT, &config.run.init)?;
        ensure!(
            init.hash()? == config.run.init_hash,
            "`{}` has changed since `{}` was written: other initial weights",
            config.run.init,
            path.display()
        );
    }
    let tokenizer = tokenizer(context, &config.recipe, &config.model)?;
    ensure!(
        tokenizer.as_ref().map(InitialWeights::hash).transpose()?.flatten() == config.run.tokenizer_hash,
        "the tokenizer has changed since `{}` was written",
        path.display()
    );
    let command = match by_names(context, &config) {
        Some(request) => {
            command::arguments(context, (request.task.as_deref(), request.model.is_some()), &config)
        }
        None => command::repetition(context, path, &config.run),
    };
    resolve_config(context, config, (init, tokenizer), (path.display().to_string(), command))
}

/// Completes a resolved configuration, which came from `origin`, with its task, its data set and the given weights. `command` makes the
/// run.
///
/// # Errors
/// A task, a data set or a registered part that no longer exists; values that it no longer accepts; weights that do not fit the model.
pub fn resolve_config(
    context: &RunContext,
    config: RunConfig,
    weights: (InitialWeights, Option<InitialWeights>),
    (origin, command): (String, Vec<String>),
) -> Result<Resolved> {
    let manifest = config.run.task_source().map(|name| context.manifest(&name)).transpose()?;
    let dataset = dataset_of(context, &config.run)?;
    finish(context, config, (manifest, dataset), weights, (origin, command, vec![]))
}

/// The request that names the parts of a configuration, if it resolves to this configuration.
fn by_names(context: &RunContext, config: &RunConfig) -> Option<Request> {
    let run = &config.run;
    let name =
        |path: &Option<PathBuf>, name: &str| path.as_ref().map_or(name.into(), |p| p.display().to_string());
    let request = |model: Option<String>| Request {
        config: None,
        task: run.task_source(),
        dataset: (run.task.is_none() && run.dataset != FOLDER).then(|| run.dataset_source()),
        model,
        recipe: Some(name(&run.recipe_path, &run.recipe)),
        init: Some(run.init.clone()),
        data: run.data.clone(),
        seed: Some(run.seed),
        dtype: Some(run.dtype),
        report: Some(run.report),
        set: run.overrides.clone(),
        like_other_runs: false,
    };
    let models = [Some(name(&run.model_path, &run.model)), None];
    models.into_iter().map(request).find(|request| {
        let resolved = choose(context, run.stage, request, None);
        resolved.is_ok_and(|resolved| resolved.config.hash().ok() == config.hash().ok())
    })
}
