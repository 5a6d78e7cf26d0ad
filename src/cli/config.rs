//! `bench config show|schema`.

use super::flags::{PlaceFlags, RequestFlags};
use super::runs::StageName;
use super::schema_page;
use super::schemas::{SchemaName, file_schema};
use super::{CommandResult, print};
use crate::config::{RunConfig, Stage};
use crate::data::DatasetInfo;
use crate::engine::Plan;
use crate::registry::Registry;
use crate::runs::{Resolved, index_if_there, newest_pretraining, resolve};
use anyhow::anyhow;
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
    /// List the keys of a kind of file, which --set changes in recipes and, after `model.`, in models
    Keys {
        /// Show only keys whose path or meaning contains this text
        pattern: Option<String>,
        /// Kind of file [default: recipes and models]
        #[arg(long)]
        file: Option<SchemaName>,
    },
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
            let place = request.config.as_ref().map_or(place.clone(), |file| place.with_includes_in(file));
            let context = place.context()?;
            let runs = context.run_context(registry);
            let stage = Stage::from(stage);
            let mut request = request.request(task, dataset)?;
            if stage == Stage::Transfer && request.init.is_none() && request.config.is_none() {
                // Showing a configuration needs no weights. The default is the newest pre-training run, if there is one.
                let newest = newest_pretraining(&runs)?;
                request.init = Some(newest.map_or(crate::config::SCRATCH.into(), |record| record.id));
            }
            let resolved = resolve(&runs, stage, &request)?;
            let data = index_if_there(&runs, &resolved)?.ok();
            let images = data.as_ref().map(|data| data.splits.train.len());
            let fits = match data.and_then(|data| data.task) {
                Some(task) => task.fits(),
                None => fits_without_data(registry, &resolved),
            };
            print(resolved.config.to_toml()?.trim_end())?;
            print(format_args!("\n{}", arithmetic(&resolved, images, fits)))?;
        }
        ConfigCommand::Keys { pattern, file } => keys(registry, pattern.as_deref(), file)?,
        ConfigCommand::Schema { file } => {
            print(serde_json::to_string_pretty(&file_schema(registry, file))?)?;
        }
    }
    Ok(())
}

/// Prints the keys of `file` that contain `pattern`: path, type, default and meaning.
fn keys(registry: &Registry, pattern: Option<&str>, file: Option<SchemaName>) -> CommandResult {
    let files = match file {
        Some(file) => vec![(file, "")],
        None => vec![(SchemaName::Recipe, ""), (SchemaName::Model, "model.")],
    };
    let pattern = pattern.unwrap_or_default().to_lowercase();
    let mut shown = 0;
    for (file, prefix) in files {
        for key in schema_page::keys(&file_schema(registry, file).to_value()) {
            let path = format!("{prefix}{}", key.path);
            let fits = |text: &str| text.to_lowercase().contains(&pattern);
            if !fits(&path) && !fits(&key.meaning) {
                continue;
            }
            shown += 1;
            let default = match key.default.as_str() {
                "required" => "required".to_string(),
                "–" => "no default".into(),
                value => format!("default {value}"),
            };
            print(format_args!("{path}  ({}; {default})", schema_page::without_links(&key.kind)))?;
            if !key.meaning.is_empty() {
                print(format_args!("    {}", key.meaning))?;
            }
        }
    }
    if shown == 0 {
        return Err(anyhow!("no key contains `{pattern}`; `bench config keys` lists all").into());
    }
    Ok(())
}

/// Whether the head of a task whose data are not there is fitted in one pass. Two made-up classes stand for those of its data.
fn fits_without_data(registry: &Registry, resolved: &Resolved) -> bool {
    let Some(manifest) = &resolved.manifest else { return false };
    let classes = vec!["a".to_string(), "b".into()];
    let info = DatasetInfo { name: resolved.dataset.name.clone(), classes, ..DatasetInfo::default() };
    let training = resolved.config.recipe.head();
    let task = registry.task(manifest, (&training, &resolved.recipe_origin), &info);
    task.is_ok_and(|task| task.fits())
}

/// Derived values and how they are computed, as TOML comments; `fits` says that there are no steps.
fn arithmetic(resolved: &Resolved, images: Option<usize>, fits: bool) -> String {
    let RunConfig { model, recipe, run } = &resolved.config;
    let mut lines = vec!["# derived".to_string()];
    let (h, w) = model.grid();
    let patches = format!("# patches = {h} * {w} = {}", h * w);
    let id = resolved.config.id().map(|id| format!("# run id = {id}"));
    let declared = resolved.dataset.splits.get(&run.split).and_then(|split| split.count);
    let images = images.or(declared);
    if fits {
        let all = images.map_or("all".to_string(), |images| images.to_string());
        lines.push(format!(
            "# the head is fitted in one pass over {all} images of split `{}`, without steps",
            run.split
        ));
        lines.push(patches);
        lines.extend(id.ok());
        return lines.join("\n");
    }
    let (base, batch) = (recipe.optim.base_lr, recipe.batch);
    lines.push(match recipe.optim.lr {
        Some(lr) => format!("# lr = {lr:e} at its peak (optim.lr), whatever base_lr and batch"),
        None => format!("# lr = base_lr * batch / 256 = {base:e} * {batch} / 256 = {:e}", recipe.lr()),
    });
    let micro = recipe.micro_batch();
    lines.push(format!(
        "# forward passes per step = batch / micro_batch = {batch} / {micro} = {}",
        batch / micro
    ));
    lines.push(patches);
    match images {
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
    lines.extend(id.ok());
    lines.join("\n")
}
