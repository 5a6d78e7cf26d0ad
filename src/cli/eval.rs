//! `bench eval`: the weights of a transfer run, evaluated once more.

use super::flags::{SiteFlags, catch_ctrl_c};
use super::progress::describe;
use super::{Failure, Outcome};
use crate::config::{RunConfig, Stage, read};
use crate::engine::Job;
use crate::launch::{Request, find_weights, index, resolve};
use crate::registry::Registry;
use anyhow::{Context, anyhow};
use clap::Args;
use std::path::PathBuf;

#[derive(Args, Debug)]
pub struct EvalArgs {
    /// Id or folder of a transfer run
    run: String,
    /// Other weights than the run's last ones, such as its best.safetensors
    #[arg(long, value_name = "FILE")]
    weights: Option<PathBuf>,
    /// Root of the data set [default: that of the run, or $BENCH_DATA/<data set>]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    #[command(flatten)]
    site: SiteFlags,
}

pub fn eval(registry: &Registry, args: EvalArgs) -> Outcome {
    let ground = args.site.ground()?;
    let site = ground.site(registry);
    let weights = find_weights(&site, &args.run)?;
    let folder = weights.parent().context("weights lie in a folder")?;
    let config_file = folder.join("config.toml");
    let config: RunConfig = read(&config_file)?;
    if config.run.stage != Stage::Transfer {
        return Err(anyhow!("`{}` is a pre-training run: there is nothing to score", args.run).into());
    }
    // The initial weights have no part in evaluation and need not exist any more.
    let request = Request {
        task: config.run.task.clone(),
        init: Some(crate::config::SCRATCH.into()),
        data: args.data.or(config.run.data.clone()),
        model: Some(config.run.model.clone()),
        recipe: Some(config.run.recipe.clone()),
        ..Request::default()
    };
    let mut resolved = resolve(&site, Stage::Transfer, &request)?;
    resolved.config = RunConfig { run: resolved.config.run, ..config };
    let data = index(&site, &resolved)?;
    let task = data.task.context("a transfer has a task")?;
    catch_ctrl_c()?;
    let job = Job {
        config: &resolved.config,
        train: data.train,
        eval: data.eval,
        eval_ops: resolved.manifest.as_ref().map_or(&[], |manifest| manifest.eval.as_slice()),
        init: None,
        tokenizer: None,
        device: &site.device,
        workers: site.workers,
        resume: false,
        max_steps: None,
        control: &site.control,
    };
    let scores = task.rescore(&job, args.weights.as_deref().unwrap_or(&weights)).map_err(Failure::Run)?;
    ground.screen().clear();
    println!("{}", describe(&scores));
    Ok(())
}
