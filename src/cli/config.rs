//! `bench config show|schema`.

use super::flags::{PlaceFlags, RequestFlags};
use super::runs::StageName;
use super::schemas::{SchemaName, file_schema};
use super::{CommandResult, print};
use crate::config::{RunConfig, Stage};
use crate::engine::Plan;
use crate::registry::Registry;
use crate::runs::{Resolved, index_if_there, newest_pretraining, resolve};
use clap::{Args, Subcommand};

#[derive(Args, Debug)]
pub(super) struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Subcommand, Debug)]
enum ConfigCommand {
    /// Show the configuration that a command line resolves to, and how derived values are computed
    Show(Box<ShowArgs>),
    /// Print the JSON schema of a kind of file
    Schema {
        /// Kind of file
        file: SchemaName,
    },
}

#[derive(Args, Debug)]
struct ShowArgs {
    /// Stage of the run
    stage: StageName,
    /// Name (`bench task list`) or path of the task
    #[arg(long)]
    task: Option<String>,
    /// Name (`bench data list`) or path of the data set
    #[arg(long, conflicts_with = "task")]
    dataset: Option<String>,
    #[command(flatten)]
    request: RequestFlags,
    #[command(flatten)]
    place: PlaceFlags,
}

pub(super) fn config(registry: &Registry, args: ConfigArgs) -> CommandResult {
    match args.command {
        ConfigCommand::Show(args) => {
            let ShowArgs { stage, task, dataset, request, place } = *args;
            let context = place.context()?;
            let runs = context.run_context(registry);
            let stage = Stage::from(stage);
            let mut request = request.request(task, dataset);
            if stage == Stage::Transfer && request.init.is_none() && request.config.is_none() {
                // Showing a configuration needs no weights. The default is the newest pre-training run, if there is one.
                let newest = newest_pretraining(&runs)?;
                request.init = Some(newest.map_or(crate::config::SCRATCH.into(), |record| record.id));
            }
            let resolved = resolve(&runs, stage, &request)?;
            let images = index_if_there(&runs, &resolved)?.ok().map(|data| data.splits.train.len());
            print(resolved.config.to_toml()?.trim_end())?;
            print(format_args!("\n{}", arithmetic(&resolved, images)))?;
        }
        ConfigCommand::Schema { file } => {
            print(serde_json::to_string_pretty(&file_schema(registry, file))?)?;
        }
    }
    Ok(())
}

/// Derived values and how they are computed, as TOML comments.
fn arithmetic(resolved: &Resolved, images: Option<usize>) -> String {
    let RunConfig { model, recipe, run } = &resolved.config;
    let mut lines = vec!["# derived".to_string()];
    let (base, batch) = (recipe.optim.base_lr, recipe.batch);
    lines.push(format!("# lr = base_lr * batch / 256 = {base:e} * {batch} / 256 = {:e}", recipe.lr()));
    let micro = recipe.micro_batch();
    lines.push(format!(
        "# forward passes per step = batch / micro_batch = {batch} / {micro} = {}",
        batch / micro
    ));
    let (h, w) = model.grid();
    lines.push(format!("# patches = {h} * {w} = {}", h * w));
    let declared = resolved.dataset.splits.get(&run.split).and_then(|split| split.count);
    match images.or(declared) {
        None => lines
            .push("# steps: unknown, because the data was not found and its manifest states no count".into()),
        Some(images) => match Plan::new(recipe, images) {
            Err(error) => lines.push(format!("# {error}")),
            Ok(plan) => {
                let Plan { steps_per_epoch, epochs, steps, .. } = plan;
                lines.push(format!("# steps per epoch = floor(images / batch) = floor({images} / {batch}) = {steps_per_epoch}"));
                lines.push(format!("# steps = {steps_per_epoch} * {epochs} epochs = {steps}"));
                lines.push(format!("# images seen = {steps} * {batch} = {}", steps * batch));
                let warmup = recipe.schedule.warmup_epochs * steps_per_epoch as f64;
                lines.push(format!(
                    "# warm-up steps = {} epochs * {steps_per_epoch} = {warmup}",
                    recipe.schedule.warmup_epochs
                ));
            }
        },
    }
    if let Ok(id) = resolved.config.id() {
        lines.push(format!("# run id = {id}"));
    }
    lines.join("\n")
}
