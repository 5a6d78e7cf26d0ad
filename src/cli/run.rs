//! `bench pretrain` and `bench transfer`.

use super::flags::{PlaceFlags, RequestFlags, catch_ctrl_c};
use super::output::duration;
use super::own::{OwnFlags, with_own_task};
use super::progress::{listed, scores};
use super::{CommandResult, Failure, OutputError, print};
use crate::config::{Reported, Stage};
use crate::record::{RunFolder, RunRecord, Status};
use crate::registry::Registry;
use crate::runs::{MemoryEstimate, Request, RunEstimate, Start, command_line, dry_run, prepare};
use anyhow::{Result, anyhow, bail, ensure};
use clap::Args;
use std::path::{Path, PathBuf};
use std::time::Duration;

#[derive(Args, Debug)]
pub(super) struct PretrainArgs {
    /// Pre-train on the data set of this task (name or path)
    #[arg(long, conflicts_with = "dataset")]
    task: Option<String>,
    /// Pre-train on this data set (name, as in `bench data list`, or path) [default: imagenet; with --data alone, the images in that folder]
    #[arg(long)]
    dataset: Option<String>,
    #[command(flatten)]
    request: RequestFlags,
    #[command(flatten)]
    how: RunFlags,
    #[command(flatten)]
    place: PlaceFlags,
}

#[derive(Args, Debug)]
pub(super) struct TransferArgs {
    /// Name (`bench task list`) or path of the task [default: with --data alone, a task made of that folder of labelled images]
    #[arg(long, required_unless_present_any = ["config", "resume", "data"], conflicts_with = "config")]
    task: Option<String>,
    /// Split to score: `eval`, or `select` to choose hyper-parameters without a look at `eval` [default: eval, or that of --config]
    #[arg(long, value_name = "SPLIT")]
    report: Option<Reported>,
    #[command(flatten)]
    own: OwnFlags,
    #[command(flatten)]
    request: RequestFlags,
    #[command(flatten)]
    how: RunFlags,
    #[command(flatten)]
    place: PlaceFlags,
}

#[derive(Args, Debug)]
struct RunFlags {
    /// Folder of this run [default: a folder in --runs, named after the configuration]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Stop after N steps; the schedule remains that of the whole recipe, and --resume continues it
    #[arg(long, value_name = "N")]
    max_steps: Option<usize>,
    /// Make all checks of the run, estimate its time and memory from a few steps, and stop; nothing is written
    #[arg(long, conflicts_with_all = ["max_steps", "resume"])]
    dry_run: bool,
    /// Continue an interrupted run; with --out alone, the run in that folder
    #[arg(long)]
    resume: bool,
}

impl RunFlags {
    /// A request that only names the folder of a run to resume, and perhaps values to change, takes its configuration from
    /// there.
    ///
    /// # Errors
    /// A folder without a run, and nothing else that says what to run.
    fn complete(&self, request: Request) -> Result<Request> {
        let Request { config, task, dataset, model, recipe, init, .. } = &request;
        let named = [task, dataset, model, recipe, init].into_iter().any(Option::is_some) || config.is_some();
        if !self.resume || named {
            return Ok(request);
        }
        let Some(out) = &self.out else {
            bail!("--resume: which run? Give its folder with --out, or what the run was started with")
        };
        let config = RunFolder::at(out).config();
        ensure!(config.is_file(), "--resume: there is no run in `{}`", out.display());
        Ok(Request { config: Some(config), ..request })
    }
}

pub(super) fn pretrain(registry: &Registry, args: PretrainArgs) -> CommandResult {
    let request = args.how.complete(args.request.request(args.task, args.dataset)?)?;
    run(registry, Stage::Pretrain, &request, &args.how, &args.place)
}

pub(super) fn transfer(registry: &Registry, args: TransferArgs) -> CommandResult {
    let request = Request { report: args.report, ..args.request.request(args.task, None)? };
    let mut place = args.place;
    let request = with_own_task(registry, &args.own, args.how.complete(request)?, &mut place)?;
    run(registry, Stage::Transfer, &request, &args.how, &place)
}

fn run(
    registry: &Registry,
    stage: Stage,
    request: &Request,
    how: &RunFlags,
    flags: &PlaceFlags,
) -> CommandResult {
    let flags = &request.config.as_ref().map_or(flags.clone(), |file| flags.with_includes_in(file));
    let context = flags.context()?;
    let runs = context.run_context(registry);
    let tell = |note: &str| context.screen().say(note);
    if how.dry_run {
        catch_ctrl_c()?;
        let estimate = dry_run(&runs, stage, request, &tell)?;
        context.screen().clear();
        return Ok(show_estimate(&estimate)?);
    }
    let prepared = match prepare(&runs, stage, request, how.out.as_deref(), how.resume, &tell)? {
        Start::Done(record) => {
            tell("this run is already finished; nothing to do");
            return Ok(show(&record)?);
        }
        Start::Ready(prepared) => prepared,
    };
    catch_ctrl_c()?;
    let folder = prepared.folder.path().to_path_buf();
    tell(&format!("run {} in {}", prepared.folder.id(), folder.display()));
    let result = prepared.run(&runs, how.max_steps);
    context.screen().clear();
    let stopped = runs.control.stopped();
    match result {
        Ok(record) if record.status != Status::Interrupted => {
            show(&record)?;
            if record.status == Status::Truncated {
                tell(&format!("continue with:\n  {}", resume(&folder, stage, None, flags)));
            }
            Ok(())
        }
        Err(error) if !stopped => Err(Failure::Run(error)),
        _ => {
            let command = resume(&folder, stage, how.max_steps, flags);
            Err(Failure::Run(anyhow!("stopped; the run is saved. Continue with:\n  {command}")))
        }
    }
}

/// The command that continues the run in `folder`.
fn resume(folder: &Path, stage: Stage, max_steps: Option<usize>, flags: &PlaceFlags) -> String {
    let out = folder.display().to_string();
    let mut arguments = vec![stage.as_str().to_string(), "--out".into(), out, "--resume".into()];
    arguments.extend(max_steps.into_iter().flat_map(|most| ["--max-steps".into(), most.to_string()]));
    arguments.extend(flags.arguments());
    command_line(arguments)
}

/// Prints what a run will take to standard output.
fn show_estimate(estimate: &RunEstimate) -> Result<(), OutputError> {
    let size = |bytes: u64| match bytes {
        0..1_000_000_000 => format!("{:.0} MB", bytes as f64 / 1e6),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    };
    print(format_args!("all checks passed; nothing was written"))?;
    match &estimate.plan {
        Some(plan) => print(format_args!(
            "steps   {} of {} images (micro-batches of {}), {:.3} s each: {} of training",
            plan.steps,
            plan.batch,
            plan.micro_batch,
            estimate.step.as_secs_f64(),
            duration(estimate.training)
        ))?,
        None => print(format_args!("steps   none: the head is fitted in one pass over the images"))?,
    }
    if estimate.evaluations > 0 {
        let each = match estimate.evaluation {
            Some(each) => format!("{} each", duration(each)),
            None => "not measured".into(),
        };
        print(format_args!("scores  evaluated {} times, {each}", estimate.evaluations))?;
    }
    print(format_args!("time    {}", duration(estimate.total())))?;
    match estimate.memory {
        None => print(format_args!("memory  not estimated on this device"))?,
        Some(MemoryEstimate { peak, machine, fitting: None }) => {
            print(format_args!("memory  {} at its peak, of {}", size(peak), size(machine)))?;
        }
        Some(MemoryEstimate { peak, machine, fitting: Some(0) }) => print(format_args!(
            "memory  {} at its peak, more than the {} here; no micro_batch fits: take a smaller model or image",
            size(peak),
            size(machine)
        ))?,
        Some(MemoryEstimate { peak, machine, fitting: Some(images) }) => print(format_args!(
            "memory  {} at its peak, more than the {} here; it fits with --set micro_batch={images}, for which the time \
             is estimated",
            size(peak),
            size(machine)
        ))?,
    }
    let [weights, state] = estimate.disk;
    print(format_args!(
        "disk    {} for the weights, {} more until the run is finished",
        size(weights),
        size(state)
    ))
}

/// Prints a summary of the run to standard output.
fn show(record: &RunRecord) -> Result<(), OutputError> {
    print(format_args!("run     {}", record.id))?;
    let steps = match record.steps_planned {
        0 => String::new(), // The head is fitted in one pass, without steps.
        planned => format!(", {} of {planned} steps", record.steps_done),
    };
    let status = match record.status {
        Status::Truncated => "stopped at --max-steps".to_string(),
        status => format!("{status:?}").to_lowercase(),
    };
    print(format_args!("status  {status}{steps}"))?;
    if !record.losses.is_empty() {
        let losses: Vec<String> =
            record.losses.iter().map(|(name, value)| format!("{name} {value:.4}")).collect();
        print(format_args!("losses  {}", losses.join(", ")))?;
    }
    if !record.scores.is_empty() {
        let shown = scores(&record.scores, record.primary.as_deref());
        print(format_args!("scores  {}", listed(&shown, 8)))?;
    }
    let evaluation = record.evaluation.as_ref();
    if let Some((best, split)) =
        evaluation.and_then(|evaluation| evaluation.best.zip(evaluation.best_on.as_ref()))
    {
        let caution = match evaluation.is_some_and(|evaluation| evaluation.split == *split) {
            true => ", the split that is reported, so it flatters",
            false => "",
        };
        print(format_args!(
            "best    {:.2} after step {} on `{split}`{caution}; best.safetensors, `bench eval {} --best`",
            best.value, best.step, record.id
        ))?;
    }
    if record.skipped > 0 {
        let images = if record.skipped == 1 { "image" } else { "images" };
        print(format_args!("skipped {} unreadable {images}", record.skipped))?;
    }
    let rate = match record.throughput.images_per_second {
        0. => String::new(),
        rate => format!(", {rate:.0} img/s in training"),
    };
    let time = duration(Duration::from_secs_f64(record.throughput.wall_seconds));
    print(format_args!("time    {time}{rate}"))
}
