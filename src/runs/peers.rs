//! The runs with which a new run is compared: the newest pre-training, and the model of a run from random weights.

use super::RunContext;
use crate::config::{RunConfig, Stage, read};
use crate::record::{RunFolder, RunRecord};
use anyhow::Result;

/// The newest finished run that pre-trained a backbone; a run that trained a tokenizer is none.
///
/// # Errors
/// A record or a configuration that cannot be read.
pub fn newest_pretraining(context: &RunContext) -> Result<Option<RunRecord>> {
    let objectives = &context.registry.components().objectives;
    let config = |run: &RunRecord| read::<RunConfig>(&RunFolder::at(context.store.path(&run.id)).config());
    Ok(context.store.newest_finished(Stage::Pretrain.as_str(), |run| {
        let Ok(config) = config(run) else { return true }; // reading it again will say what is wrong
        let facts =
            config.recipe.pretrain.as_ref().and_then(|table| objectives.facts(table, &config.model).ok());
        facts.is_none_or(|facts| facts.backbone)
    })?)
}

/// A model, and why it was chosen.
pub(super) struct PeerModel {
    /// Name of the model, or the path of its file.
    pub name: String,
    /// The run that has it: `the model of run …`.
    pub reason: String,
}

/// The model of the newest finished transfer run of `task` or, without any, that of the newest pre-training, from which a transfer
/// without `--init` would start. `None` if there are no such runs.
///
/// # Errors
/// A record or a configuration that cannot be read.
pub(super) fn peer_model(context: &RunContext, task: &str) -> Result<Option<PeerModel>> {
    let of_task = |run: &RunRecord| run.task.as_deref() == Some(task);
    let (record, what) = match context.store.newest_finished(Stage::Transfer.as_str(), of_task)? {
        Some(record) => (record, "the newest run of this task"),
        None => match newest_pretraining(context)? {
            Some(record) => (record, "the newest pre-training"),
            None => return Ok(None),
        },
    };
    let config: RunConfig = read(&RunFolder::at(context.store.path(&record.id)).config())?;
    let path = config.run.model_path.filter(|path| path.is_file());
    let name = path.map_or(config.run.model, |path| path.display().to_string());
    let reason = format!("the model of `{}`, {what}, so that the two can be compared", record.id);
    Ok(Some(PeerModel { name, reason }))
}
