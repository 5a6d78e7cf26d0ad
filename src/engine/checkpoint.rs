//! `state.safetensors`: everything needed to continue a run exactly, in one file.
//!
//! Tensors are `model.<name>`, `optim.<name>` and `ema.<name>`; the metadata key `progress` holds [`Progress`].
//! There is no generator state: every random number is a function of seed and step ([`crate::rng`]).

use super::meter::Meter;
use super::step::Trainer;
use crate::nn::Params;
use crate::weights::{WeightFile, load_exact, save_tensors};
use anyhow::{Context, Result, ensure};
use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Where a run stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Progress {
    /// Hash of the configuration that the state belongs to.
    pub config: String,
    /// Optimiser steps done, from which the position in the data follows.
    pub steps: usize,
    /// Length of the log at this point.
    pub log_bytes: u64,
    /// Number of unreadable images skipped so far.
    pub skipped: u64,
    /// Ids of the images that were skipped; each counts once.
    #[serde(default)]
    pub skipped_images: BTreeSet<String>,
    /// Best primary score so far.
    pub best: Option<f64>,
    /// The step after which it was reached.
    #[serde(default)]
    pub best_step: u64,
    /// Evaluations since then on the split on which it was chosen.
    #[serde(default)]
    pub not_better: usize,
    /// Evaluations on the reported split so far.
    #[serde(default)]
    pub evaluations: u64,
    /// Losses since the last line of the log.
    pub meter: Meter,
    /// Losses of the last line of the log.
    pub losses: BTreeMap<String, f64>,
}

const KEY: &str = "progress";

/// Writes everything needed to continue the run of `trainer` exactly.
///
/// # Errors
/// A file that cannot be written.
pub(super) fn save<T>(path: &Path, params: &Params, trainer: &Trainer<T>, progress: &Progress) -> Result<()> {
    let mut tensors = Vec::new();
    let mut add = |prefix: &str, list: Vec<(String, Tensor)>| {
        tensors.extend(list.into_iter().map(|(name, tensor)| (format!("{prefix}.{name}"), tensor)));
    };
    let model = params.all().into_iter().map(|p| (p.name, p.var.as_detached_tensor())).collect();
    add("model", model);
    add("optim", trainer.optimizer.state());
    if let Some(ema) = &trainer.ema {
        add("ema", ema.state());
    }
    let metadata = BTreeMap::from([(KEY.to_string(), serde_json::to_string(progress)?)]);
    Ok(save_tensors(path, &tensors, &metadata)?)
}

/// Loads the state at `path`, parameters included, and returns the progress of the run. It must belong to the
/// configuration of `expected`.
///
/// # Errors
/// A file that is not the state of a run, belongs to another configuration, or lacks tensors.
pub(super) fn load<T>(
    path: &Path,
    params: &Params,
    trainer: &mut Trainer<T>,
    expected: &Progress,
) -> Result<Progress> {
    let file = WeightFile::open_as_is(path)?;
    let text = file.metadata().get(KEY);
    let text = text.with_context(|| format!("`{}` is not the state of a run", path.display()))?;
    let progress: Progress = serde_json::from_str(text).with_context(|| format!("`{}`", path.display()))?;
    let short = |hash: &str| hash.chars().take(8).collect::<String>();
    ensure!(
        progress.config == expected.config,
        "`{}` belongs to another configuration ({}…, this one is {}…)",
        path.display(),
        short(&progress.config),
        short(&expected.config)
    );
    let tensors = file.read(params.device())?;
    let part = |prefix: &str| -> BTreeMap<String, Tensor> {
        let strip = |(name, t): &(String, Tensor)| {
            Some((name.strip_prefix(prefix)?.strip_prefix('.')?.to_string(), t.clone()))
        };
        tensors.iter().filter_map(strip).collect()
    };
    let context = || format!("cannot continue from `{}`", path.display());
    let model: Vec<(String, Tensor)> = part("model").into_iter().collect();
    load_exact(params, &model).with_context(context)?;
    let optim = part("optim");
    trainer.optimizer.load_state(&|name| optim.get(name).cloned()).with_context(context)?;
    if let Some(ema) = &mut trainer.ema {
        let saved = part("ema");
        ema.load_state(&|name| saved.get(name).cloned()).with_context(context)?;
    }
    Ok(progress)
}
