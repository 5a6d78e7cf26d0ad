//! `bench eval`: evaluates the weights of a transfer run again, or scores predictions in files of any program.

use super::flags::{PlaceFlags, catch_ctrl_c};
use super::progress::{listed, scores};
use super::{CommandResult, Failure, print};
use crate::config::{Reported, RunConfig, Stage, read};
use crate::data::Entry;
use crate::engine::{Evaluated, Event};
use crate::metrics::{Findings, Report};
use crate::record::ScoreSpec;
use crate::registry::Registry;
use crate::runs::{RunContext, find_weights, index, resolve_finished};
use anyhow::{Context, Result, anyhow, ensure};
use clap::Args;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[derive(Args, Debug)]
pub(super) struct EvalArgs {
    /// Id or folder of a transfer run
    #[arg(required_unless_present = "predictions")]
    run: Option<String>,
    /// Evaluate these weights instead of the run's final ones
    #[arg(long, value_name = "FILE")]
    weights: Option<PathBuf>,
    /// Evaluate the best weights of the run (`best.safetensors`) instead of the last ones
    #[arg(long, conflicts_with_all = ["weights", "predictions"])]
    best: bool,
    /// Score these files instead of weights (detection: COCO results files with boxes, masks or both; segmentation: a
    /// folder of PNGs of class ids, named like the images)
    #[arg(long, value_name = "FILE", num_args = 1.., requires = "task", conflicts_with_all = ["run", "weights"])]
    predictions: Vec<PathBuf>,
    /// Name or path of the task that --predictions belong to
    #[arg(long, requires = "predictions", conflicts_with = "run")]
    task: Option<String>,
    /// Split to evaluate [default: the task's evaluation split]
    #[arg(long)]
    split: Option<String>,
    /// Root folder of the data set [default: that of the run, or $BENCH_DATA/<data set>]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Also print the scores of each class
    #[arg(long)]
    by_class: bool,
    /// Write tables and pictures that explain the scores to this folder (classification: confusion matrix, scores of
    /// classes, calibration, every prediction, the surest errors)
    #[arg(long, value_name = "DIR")]
    report: Option<PathBuf>,
    /// Print JSON with all digits
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: PlaceFlags,
}

pub(super) fn eval(registry: &Registry, args: EvalArgs) -> CommandResult {
    let place = args.run.as_ref().map_or(args.place.clone(), |run| args.place.with_includes_of(run));
    let context = place.context()?;
    let runs = context.run_context(registry);
    if let Some(folder) = &args.report {
        unused(folder)?;
    }
    let (primary, entries, found) = match (&args.run, &args.task) {
        (Some(run), _) => weights(&runs, run, &args)?,
        (None, Some(task)) => files(&runs, task, &args)?,
        (None, None) => return Err(anyhow!("name a run, or give --predictions and --task").into()),
    };
    context.screen().clear();
    let Evaluated { findings, images, predicting, scoring } = &found;
    let Findings { scores: found, by_class, report } = findings;
    let written = write_report(&args, report.as_deref(), &entries)?;
    if args.json {
        let text = json!({
            "images": images,
            "scores": found,
            "by_class": by_class,
            "report": report.as_ref().map(|report| report.values()),
            "predicting_seconds": predicting.as_secs_f64(),
            "scoring_seconds": scoring.as_secs_f64(),
        });
        print(format_args!("{text:#}"))?;
        return Ok(());
    }
    eprintln!(
        "{images} images in {:.2} s, scored in {:.2} s",
        predicting.as_secs_f64(),
        scoring.as_secs_f64()
    );
    print(listed(&scores(found, Some(primary.name)), 0))?;
    if args.by_class {
        if by_class.0.is_empty() {
            eprintln!("tasks of this kind have no scores per class");
        }
        for (class, scores) in &by_class.0 {
            let scores: Vec<String> =
                scores.iter().map(|(name, value)| format!("{name} {value:.2}")).collect();
            print(format_args!("{class:<24} {}", scores.join(", ")))?;
        }
    }
    if let Some(report) = report {
        report.summary().into_iter().try_for_each(print)?;
    }
    if let Some(folder) = written {
        print(format_args!("report in {}", folder.display()))?;
    }
    Ok(())
}

/// Refuses a folder that already holds something.
fn unused(folder: &Path) -> Result<()> {
    let empty = !folder.exists() || std::fs::read_dir(folder).is_ok_and(|mut files| files.next().is_none());
    ensure!(empty, "--report {}: the folder is not empty; name another one", folder.display());
    Ok(())
}

/// Writes the report to the folder of `--report`, and returns that folder.
fn write_report<'a>(
    args: &'a EvalArgs,
    report: Option<&dyn Report>,
    entries: &[Entry],
) -> Result<Option<&'a Path>, Failure> {
    let Some(folder) = args.report.as_deref() else { return Ok(None) };
    let Some(report) = report else {
        eprintln!("tasks of this kind have no report");
        return Ok(None);
    };
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make `{}`", folder.display()))?;
    report.write(folder, entries).map_err(Failure::Run)?;
    Ok(Some(folder))
}

/// The primary score, the entries that were evaluated, and what was found.
type Scored = (ScoreSpec, Arc<Vec<Entry>>, Evaluated);

/// Evaluates the weights of a run.
fn weights(runs: &RunContext, run: &str, args: &EvalArgs) -> Result<Scored, Failure> {
    let weights = find_weights(runs, "run", run)?;
    let folder = weights.parent().context("the weights file has no folder")?;
    let config_file = folder.join("config.toml");
    let mut config: RunConfig = read(&config_file)?;
    if config.run.stage != Stage::Transfer {
        return Err(anyhow!("`{run}` is a pre-training run; it has no task to evaluate").into());
    }
    config.run.data = args.data.clone().or(config.run.data);
    let mut resolved = resolve_finished(runs, config, &config_file)?;
    resolved.config.run.report = Reported::Eval;
    if let Some(manifest) = &mut resolved.manifest {
        manifest.splits.select = None; // nothing is chosen here
        args.split.iter().for_each(|split| manifest.splits.eval.clone_from(split));
    }
    let data = index(runs, &resolved)?;
    let task = data.task.context("the transfer run has no task")?;
    let manifest = resolved.manifest.as_ref().context("the transfer run has no task")?;
    let best = folder.join("best.safetensors");
    if args.best && !best.is_file() {
        return Err(anyhow!(
            "run `{run}` kept no best weights (`{}`): they are chosen if the recipe evaluates during training (--set eval_epochs=N)",
            best.display()
        )
        .into());
    }
    let weights = if args.best { &best } else { args.weights.as_deref().unwrap_or(&weights) };
    let root = resolved.dataset.root(resolved.config.run.data.as_deref(), runs.bench_data.as_deref())?;
    announce(runs, (&manifest.name, &manifest.splits.eval, &root), &format!("weights {}", weights.display()));
    data.notes.iter().for_each(|note| runs.control.tell(Event::Note(note)));
    catch_ctrl_c()?;
    let inputs = runs.inputs(&resolved.config, &data.splits, &manifest.eval);
    let found = task.evaluate(&inputs, weights).map_err(Failure::Run)?;
    Ok((task.primary(), data.splits.eval.clone(), found))
}

/// Scores predictions in files.
fn files(runs: &RunContext, task: &str, args: &EvalArgs) -> Result<Scored, Failure> {
    let manifest = runs.manifest(task)?;
    if let Some(missing) = args.predictions.iter().find(|file| !file.exists()) {
        return Err(anyhow!("--predictions {}: there is no such file or folder", missing.display()).into());
    }
    let dataset = runs.dataset(&manifest.dataset)?;
    let root = dataset.root(args.data.as_deref(), runs.bench_data.as_deref())?;
    let split = args.split.as_ref().unwrap_or(&manifest.splits.eval);
    let index = dataset.index(&root, split)?;
    // Scoring does not depend on how the head is trained, but a task cannot be built without it.
    let recipe = runs.choice(&[]).recipe(Stage::Transfer, &manifest.recipe, ("", &manifest.name))?;
    let recipe_name = format!("recipe `{}`", manifest.recipe);
    let task = runs.registry.task(&manifest, (&recipe.head(), &recipe_name), &dataset.info(&index))?;
    task.check(split, &index.entries)?;
    let count = args.predictions.len();
    let from = format!("predictions in {count} {}", if count == 1 { "file or folder" } else { "files" });
    announce(runs, (&manifest.name, split, &root), &from);
    for note in &index.notes {
        runs.control.tell(Event::Note(&format!("split `{split}`: {note}")));
    }
    catch_ctrl_c()?;
    let found = task.score_files(&args.predictions, &index.entries, &runs.control)?;
    Ok((task.primary(), index.entries.into(), found))
}

/// Reports what is evaluated, and on which data.
fn announce(runs: &RunContext, (task, split, root): (&str, &str, &Path), from: &str) {
    let line = format!("task {task}, split {split} in {}, {from}", root.display());
    runs.control.tell(Event::Note(&line));
}
