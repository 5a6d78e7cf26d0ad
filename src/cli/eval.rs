//! `bench eval`: the weights of a transfer run, evaluated once more, or predictions that some program has left in files.

use super::flags::{SiteFlags, catch_ctrl_c};
use super::progress::{listed, scores};
use super::{CommandResult, Failure, print};
use crate::config::{Choice, RunConfig, Stage, read};
use crate::data::augment::Augmentations;
use crate::data::{Dataset, Formats};
use crate::engine::{Evaluated, Event, Job};
use crate::launch::{Request, Site, find_weights, index, resolve};
use crate::record::ScoreSpec;
use crate::registry::{Registry, manifest};
use anyhow::{Context, anyhow};
use clap::Args;
use serde_json::json;
use std::path::{Path, PathBuf};

#[derive(Args, Debug)]
pub struct EvalArgs {
    /// Id or folder of a transfer run
    #[arg(required_unless_present = "predictions")]
    run: Option<String>,
    /// Other weights than the run's last ones, such as its best.safetensors
    #[arg(long, value_name = "FILE")]
    weights: Option<PathBuf>,
    /// Score these files instead of weights (detection: results in COCO's format, boxes or masks or both; segmentation: a
    /// folder of PNGs of ids, named as the images)
    #[arg(long, value_name = "FILE", num_args = 1.., requires = "task", conflicts_with_all = ["run", "weights"])]
    predictions: Vec<PathBuf>,
    /// The task of --predictions
    #[arg(long, requires = "predictions", conflicts_with = "run")]
    task: Option<String>,
    /// The split to evaluate, or that --predictions are for [default: the task's evaluation split]
    #[arg(long)]
    split: Option<String>,
    /// Root of the data set [default: that of the run, or $BENCH_DATA/<data set>]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Show scores of single classes too
    #[arg(long)]
    by_class: bool,
    /// Print JSON, with all digits
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    site: SiteFlags,
}

pub fn eval(registry: &Registry, args: EvalArgs) -> CommandResult {
    let context = args.site.context()?;
    let site = context.site(registry);
    let (primary, found) = match (&args.run, &args.task) {
        (Some(run), _) => weights(&site, run, &args)?,
        (None, Some(task)) => files(&site, task, &args)?,
        (None, None) => return Err(anyhow!("which run? Give one, or --predictions and --task").into()),
    };
    context.screen().clear();
    let Evaluated { scores: found, by_class, images, predicting, scoring } = &found;
    if args.json {
        let text = json!({
            "images": images,
            "scores": found,
            "by_class": by_class,
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
            eprintln!("tasks of this kind have no scores of single classes");
        }
        for (class, scores) in &by_class.0 {
            let scores: Vec<String> =
                scores.iter().map(|(name, value)| format!("{name} {value:.2}")).collect();
            print(format_args!("{class:<24} {}", scores.join(", ")))?;
        }
    }
    Ok(())
}

/// Scores of a run's weights.
fn weights(site: &Site, run: &str, args: &EvalArgs) -> Result<(ScoreSpec, Evaluated), Failure> {
    let weights = find_weights(site, "run", run)?;
    let folder = weights.parent().context("weights lie in a folder")?;
    let config_file = folder.join("config.toml");
    let config: RunConfig = read(&config_file)?;
    if config.run.stage != Stage::Transfer {
        return Err(anyhow!("`{run}` is a pre-training run: there is nothing to score").into());
    }
    // The initial weights have no part in evaluation and need not exist any more.
    let request = Request {
        task: config.run.task.clone(),
        init: Some(crate::config::SCRATCH.into()),
        data: args.data.clone().or(config.run.data.clone()),
        model: Some(config.run.model.clone()),
        recipe: Some(config.run.recipe.clone()),
        ..Request::default()
    };
    let mut resolved = resolve(site, Stage::Transfer, &request)?;
    resolved.config = RunConfig { run: resolved.config.run, ..config };
    if let (Some(manifest), Some(split)) = (&mut resolved.manifest, &args.split) {
        manifest.splits.eval.clone_from(split);
    }
    let data = index(site, &resolved)?;
    let task = data.task.context("a transfer has a task")?;
    let manifest = resolved.manifest.as_ref().context("a transfer has a task")?;
    let weights = args.weights.as_deref().unwrap_or(&weights);
    let root = resolved.dataset.root(resolved.config.run.data.as_deref(), site.bench_data.as_deref())?;
    announce(site, (&manifest.name, &manifest.splits.eval, &root), &format!("weights {}", weights.display()));
    catch_ctrl_c()?;
    let job = Job {
        config: &resolved.config,
        train: data.train,
        eval: data.eval,
        eval_ops: &manifest.eval,
        init: None,
        tokenizer: None,
        device: &site.device,
        workers: site.workers,
        resume: false,
        max_steps: None,
        control: &site.control,
    };
    Ok((task.primary(), task.rescore(&job, weights).map_err(Failure::Run)?))
}

/// Scores of files of predictions.
fn files(site: &Site, task: &str, args: &EvalArgs) -> Result<(ScoreSpec, Evaluated), Failure> {
    let manifest = manifest(site.library, task)?;
    if let Some(missing) = args.predictions.iter().find(|file| !file.exists()) {
        return Err(anyhow!("--predictions {}: there is no such file", missing.display()).into());
    }
    let dataset = Dataset::load(site.library, &manifest.dataset, &Formats::builtin())?;
    let root = dataset.root(args.data.as_deref(), site.bench_data.as_deref())?;
    let split = args.split.as_ref().unwrap_or(&manifest.splits.eval);
    let index = dataset.index(&root, split)?;
    // How the head would be trained has no part in scores, but belongs to a task.
    let choice = Choice { library: site.library, overrides: &[], owner: &Augmentations::builtin() };
    let recipe = choice.recipe(Stage::Transfer, &manifest.recipe, ("", &manifest.name))?;
    let training = recipe.transfer.map(|transfer| transfer.head).unwrap_or_default();
    let task = site.registry.task(&manifest, &training, &dataset.info(&index))?;
    task.check(split, &index.entries)?;
    let count = args.predictions.len();
    let from = format!("predictions in {count} {}", if count == 1 { "file or folder" } else { "files" });
    announce(site, (&manifest.name, split, &root), &from);
    catch_ctrl_c()?;
    Ok((task.primary(), task.score_files(&args.predictions, &index.entries, &site.control)?))
}

/// Says what is scored on what.
fn announce(site: &Site, (task, split, root): (&str, &str, &Path), from: &str) {
    let line = format!("task {task}, split {split} in {}, {from}", root.display());
    site.control.tell(Event::Note(&line));
}
