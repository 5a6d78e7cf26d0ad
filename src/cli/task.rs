//! `bench task list|show|check|new`.

use super::flags::{Include, bench_data};
use super::own::{KindName, new_task};
use super::{CommandResult, print};
use crate::config::{Choice, Library, Stage};
use crate::data::{Dataset, DatasetInfo, Entry, Index, readable};
use crate::record::{Reference, Score};
use crate::registry::{AnyTask, Registry, manifest};
use crate::runs::DEFAULT_MODEL;
use crate::task::Manifest;
use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Subcommand};
use std::path::{Path, PathBuf};

#[derive(Args, Debug)]
pub(super) struct TaskArgs {
    #[command(subcommand)]
    command: TaskCommand,
}

#[derive(Subcommand, Debug)]
enum TaskCommand {
    /// List all tasks
    List(Include),
    /// Show the protocol, data and published numbers of a task
    Show {
        /// Name (`bench task list`) or path of the task
        task: String,
        #[command(flatten)]
        include: Include,
    },
    /// Check manifests, recipes, published numbers and, if the data is available, annotations
    Check {
        /// Name (`bench task list`) or path of the task to check
        #[arg(required_unless_present = "all")]
        task: Option<String>,
        /// Check all tasks, and all models, recipes, suites, tables and data sets
        #[arg(long, conflicts_with = "task")]
        all: bool,
        /// Root folder of the data set [default: $BENCH_DATA/<data set>]
        #[arg(long, value_name = "DIR", conflicts_with = "all")]
        data: Option<PathBuf>,
        #[command(flatten)]
        include: Include,
    },
    /// Write the two files of a task for a folder of labelled images: `tasks/NAME/task.toml`, `datasets/NAME/dataset.toml`, in the first --include or here
    New {
        /// Name of the task and of its data set
        name: String,
        /// Folder of the labelled images
        #[arg(long, value_name = "DIR")]
        data: PathBuf,
        /// How the images are labelled, where that can be understood in several ways
        #[arg(long)]
        kind: Option<KindName>,
        #[command(flatten)]
        include: Include,
    },
}

pub(super) fn task(registry: &Registry, args: TaskArgs) -> CommandResult {
    match args.command {
        TaskCommand::List(include) => list(registry, &include.library()?)?,
        TaskCommand::Show { task, include } => show(registry, &include.library()?, &task)?,
        TaskCommand::New { name, data, kind, include } => new_task(registry, &name, &data, kind, &include)?,
        TaskCommand::Check { task, data, include, .. } => {
            let library = include.library()?;
            let names = match task {
                Some(name) => vec![name],
                None => {
                    check_files(registry, &library)?;
                    library.list("tasks")
                }
            };
            for name in names {
                print(check(registry, &library, &name, data.as_deref())?)?;
            }
        }
    }
    Ok(())
}

fn list(registry: &Registry, library: &Library) -> Result<()> {
    for name in library.list("tasks") {
        let Manifest { kind, dataset, primary, recipe, .. } =
            match manifest(library, registry.components(), &name) {
                Ok(manifest) => manifest,
                Err(error) => {
                    eprintln!("warning: {error:#}");
                    continue;
                }
            };
        print(format_args!("{name:<24} {kind:<16} data {dataset:<18} primary {primary:<6} recipe {recipe}"))?;
    }
    Ok(())
}

fn show(registry: &Registry, library: &Library, name: &str) -> Result<()> {
    let found = manifest(library, registry.components(), name)?;
    print(toml::to_string(&found)?.trim_end())?;
    let references = Reference::all(library)?;
    let references: Vec<&Reference> = references.iter().filter(|r| r.task == found.name).collect();
    print(format_args!("\n# published numbers: {}", references.len()))?;
    for r in references {
        let variant = if r.variant.is_empty() { String::new() } else { format!(", {}", r.variant) };
        print(format_args!(
            "# {:<10} {:<18} {:<22} {} = {}{variant} ({}, {})",
            r.model, r.init, r.recipe, r.score, r.value, r.source, r.place
        ))?;
    }
    Ok(())
}

/// Channels to which images are decoded to see that they can be.
const CHANNELS: usize = 3;

/// Checks one task; returns a line that describes the result.
fn check(registry: &Registry, library: &Library, name: &str, data: Option<&Path>) -> Result<String> {
    let task_manifest = manifest(library, registry.components(), name)?;
    let name = &task_manifest.name;
    let context = || format!("task `{name}`");
    let dataset = Dataset::load(library, &task_manifest.dataset, &registry.components().formats)
        .with_context(context)?;
    for split in [
        Some(&task_manifest.splits.train),
        task_manifest.splits.select.as_ref(),
        task_manifest.splits.tune.as_ref(),
        Some(&task_manifest.splits.eval),
        task_manifest.splits.pretrain.as_ref(),
    ] {
        let Some(split) = split else { continue };
        let known: Vec<String> = dataset.splits.keys().cloned().collect();
        ensure!(
            known.contains(split),
            "task `{name}`: data set `{}` has no split `{split}`; it has: {}",
            dataset.name,
            known.join(", ")
        );
    }
    let choice = Choice { library, owners: registry.components(), overrides: &[] };
    let root = dataset.root(data, bench_data().as_deref());
    // The recipe's part for this task may name classes, which are known only if the data is available.
    let part = if root.is_ok() { name } else { "" };
    let recipe = choice.recipe(Stage::Transfer, &task_manifest.recipe, ("", part)).with_context(context)?;
    let training = recipe.head();
    let model = recipe.default_model.as_deref().unwrap_or(DEFAULT_MODEL);
    let model = choice.model(model, None).with_context(context)?;
    let protocol = |task: &AnyTask, entries: &[Entry]| {
        task.check_protocol(&task_manifest.eval, registry.components(), &model, entries)
    };
    let Ok(root) = root else {
        protocol(&without_data(registry, library, &task_manifest)?, &[])?;
        return Ok(format!(
            "{name}: manifest, recipe and options are valid (data not found, annotations not checked)"
        ));
    };
    let splits = &task_manifest.splits;
    let train = dataset.index(&root, &splits.train).with_context(context)?;
    let origin = format!("recipe `{}`", task_manifest.recipe);
    let info = dataset.info(&train);
    let task = registry.task(&task_manifest, (&training, &origin), &info)?;
    let mut lines = remarks(&splits.train, &train);
    task.check(&splits.train, &train.entries)?;
    // What a run with this recipe does with the splits that it scores.
    let chooses = recipe.eval_epochs > 0 && splits.tune.is_none();
    let scored = [Some(&splits.eval), splits.select.as_ref().filter(|_| chooses)];
    let mut evaluated = None;
    for split in scored.into_iter().flatten() {
        let index =
            dataset.index_scored(&root, split, (&splits.train, &info.classes)).with_context(context)?;
        task.check(split, &index.entries)?;
        lines.extend(remarks(split, &index));
        readable(&index.entries, CHANNELS).map_err(anyhow::Error::msg).with_context(context)?;
        evaluated = evaluated.or(Some(index));
    }
    let index = evaluated.with_context(context)?;
    protocol(&task, &index.entries)?;
    let scores = task.perfect(&index.entries).with_context(context)?;
    let best: Option<Score> = scores.get(&task_manifest.primary);
    let Some(best) = best else { bail!("task `{name}`: no primary score") };
    ensure!(
        best.value >= 0.,
        "task `{name}`, split `{}`: even a perfect prediction has no score ({} = {}): there is nothing to score",
        splits.eval,
        task_manifest.primary,
        best.value
    );
    lines.push(format!(
        "{name}: valid; a perfect prediction of {} images scores {} = {}",
        index.entries.len(),
        task_manifest.primary,
        best.value
    ));
    Ok(lines.join("\n"))
}

/// What was left out of a split.
fn remarks(split: &str, index: &Index) -> Vec<String> {
    index.notes.iter().map(|note| format!("note: split `{split}`: {note}")).collect()
}

/// A task whose data need not exist: two made-up classes stand for those of its data set, and the recipe's part for this
/// task, which may name its classes, is left out.
pub(super) fn without_data(registry: &Registry, library: &Library, manifest: &Manifest) -> Result<AnyTask> {
    let dataset = Dataset::load(library, &manifest.dataset, &registry.components().formats)?;
    let choice = Choice { library, owners: registry.components(), overrides: &[] };
    let recipe = choice.recipe(Stage::Transfer, &manifest.recipe, ("", ""))?;
    let training = recipe.head();
    let classes = vec!["a".to_string(), "b".into()];
    let info =
        DatasetInfo { name: dataset.name, version: dataset.version, classes, ..DatasetInfo::default() };
    registry.task(manifest, (&training, &format!("recipe `{}`", manifest.recipe)), &info)
}

/// Parses every file of the library.
fn check_files(registry: &Registry, library: &Library) -> Result<()> {
    let choice = Choice { library, owners: registry.components(), overrides: &[] };
    let mut count = 0;
    for model in library.list("configs/models") {
        choice.model(&model, None)?;
        count += 1;
    }
    for stage in [Stage::Pretrain, Stage::Transfer] {
        for recipe in library.list(&format!("configs/{}", stage.as_str())) {
            let recipe = choice.recipe(stage, &recipe, ("", ""))?;
            if let Some(model) = &recipe.default_model {
                choice.model(model, None)?;
            }
            count += 1;
        }
    }
    for suite in library.list("configs/suites") {
        crate::suite::Suite::load(library, &suite)?;
        count += 1;
    }
    for table in library.list("configs/tables") {
        crate::record::table::TableSpec::load(library, &table)?;
        count += 1;
    }
    for dataset in library.list("datasets") {
        Dataset::load(library, &dataset, &registry.components().formats)?;
        count += 1;
    }
    count += Reference::all(library)?.len();
    print(format_args!(
        "models, recipes, suites, tables, data sets, published numbers: all {count} are valid"
    ))?;
    Ok(())
}
