//! `bench config show|schema`.

use super::flags::{RequestFlags, SiteFlags};
use super::{CommandResult, print};
use crate::config::{ModelConfig, Recipe, RunConfig, Stage, schema_with};
use crate::data::augment::Augmentations;
use crate::data::{Dataset, Formats};
use crate::engine::Plan;
use crate::launch::{Resolved, index, resolve};
use crate::record::table::TableSpec;
use crate::registry::Registry;
use crate::suite::Suite;
use crate::task::Manifest;
use clap::{Args, Subcommand, ValueEnum};

#[derive(Args, Debug)]
pub struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Subcommand, Debug)]
enum ConfigCommand {
    /// The configuration that a command line resolves to, with its arithmetic
    Show(Box<ShowArgs>),
    /// JSON schema of a kind of file
    Schema { file: SchemaName },
}

#[derive(Args, Debug)]
struct ShowArgs {
    /// The stage
    stage: StageName,
    #[arg(long)]
    task: Option<String>,
    #[arg(long, conflicts_with = "task")]
    dataset: Option<String>,
    #[command(flatten)]
    request: RequestFlags,
    #[command(flatten)]
    site: SiteFlags,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum StageName {
    Pretrain,
    Transfer,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum SchemaName {
    Model,
    Recipe,
    Task,
    Dataset,
    Suite,
    Table,
    Run,
}

pub fn config(registry: &Registry, args: ConfigArgs) -> CommandResult {
    match args.command {
        ConfigCommand::Show(args) => {
            let ShowArgs { stage, task, dataset, request, site } = *args;
            let context = site.context()?;
            let site = context.site(registry);
            let stage = match stage {
                StageName::Pretrain => Stage::Pretrain,
                StageName::Transfer => Stage::Transfer,
            };
            let mut request = request.request(task, dataset);
            if stage == Stage::Transfer && request.init.is_none() && request.config.is_none() {
                // Showing needs no weights; which ones would be taken depends on the runs there are.
                let newest = site.store.newest_finished(Stage::Pretrain.as_str(), |_| true)?;
                request.init = Some(newest.map_or(crate::config::SCRATCH.into(), |record| record.id));
            }
            let resolved = resolve(&site, stage, &request)?;
            print(resolved.config.to_toml()?.trim_end())?;
            let images = index(&site, &resolved).ok().map(|data| data.train.len());
            print(format_args!("\n{}", arithmetic(&resolved, images)))?;
        }
        ConfigCommand::Schema { file } => {
            let operations = |to: &mut schemars::SchemaGenerator| Augmentations::builtin().define(to);
            let schema = match file {
                SchemaName::Model => schemars::schema_for!(ModelConfig),
                SchemaName::Recipe => schema_with::<Recipe>(operations),
                SchemaName::Task => schema_with::<Manifest>(operations),
                SchemaName::Dataset => schema_with::<Dataset>(|to| Formats::builtin().define(to)),
                SchemaName::Suite => schemars::schema_for!(Suite),
                SchemaName::Table => schemars::schema_for!(TableSpec),
                SchemaName::Run => schema_with::<RunConfig>(operations),
            };
            print(serde_json::to_string_pretty(&schema)?)?;
        }
    }
    Ok(())
}

/// Derived values beside how they come about, as comments.
fn arithmetic(resolved: &Resolved, images: Option<usize>) -> String {
    let RunConfig { model, recipe, run } = &resolved.config;
    let mut lines = vec!["# derived".to_string()];
    let (base, batch) = (recipe.optim.base_lr, recipe.batch);
    lines.push(format!("# lr = base_lr * batch / 256 = {base:e} * {batch} / 256 = {:e}", recipe.lr()));
    let micro = recipe.micro_batch();
    lines.push(format!(
        "# forward passes a step = batch / micro_batch = {batch} / {micro} = {}",
        batch / micro
    ));
    let (h, w) = model.grid();
    lines.push(format!("# patches = {h} * {w} = {}", h * w));
    let declared = resolved.dataset.splits.get(&run.split).and_then(|split| split.count);
    match images.or(declared) {
        None => lines.push("# steps: unknown, the data is not there and its manifest has no count".into()),
        Some(images) => {
            match Plan::new(recipe, images) {
                Err(error) => lines.push(format!("# {error}")),
                Ok(plan) => {
                    let Plan { steps_per_epoch, epochs, steps, .. } = plan;
                    lines.push(format!("# steps an epoch = floor(images / batch) = floor({images} / {batch}) = {steps_per_epoch}"));
                    lines.push(format!("# steps = {steps_per_epoch} * {epochs} epochs = {steps}"));
                    lines.push(format!("# images seen = {steps} * {batch} = {}", steps * batch));
                    let warmup = recipe.schedule.warmup_epochs * steps_per_epoch as f64;
                    lines.push(format!(
                        "# warm-up steps = {} epochs * {steps_per_epoch} = {warmup}",
                        recipe.schedule.warmup_epochs
                    ));
                }
            }
        }
    }
    if let Ok(id) = resolved.config.id() {
        lines.push(format!("# run id = {id}"));
    }
    lines.join("\n")
}
