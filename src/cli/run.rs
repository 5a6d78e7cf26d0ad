//! `bench pretrain` and `bench transfer`.

use super::flags::{CliContext, RequestFlags, SiteFlags, catch_ctrl_c};
use super::progress::{describe, duration};
use super::{CommandResult, Failure};
use crate::config::Stage;
use crate::launch::{Request, Start, prepare};
use crate::record::{RunFolder, RunRecord, Status};
use crate::registry::Registry;
use anyhow::anyhow;
use clap::Args;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Args, Debug)]
pub struct PretrainArgs {
    /// Pre-train on the data set of this task
    #[arg(long, conflicts_with = "dataset")]
    task: Option<String>,
    /// Pre-train on this data set (`bench data list`) [default: imagenet; with --data alone, the images in that folder]
    #[arg(long)]
    dataset: Option<String>,
    #[command(flatten)]
    request: RequestFlags,
    #[command(flatten)]
    how: RunFlags,
    #[command(flatten)]
    site: SiteFlags,
}

#[derive(Args, Debug)]
pub struct TransferArgs {
    /// The task (`bench task list`)
    #[arg(long, required_unless_present = "config", conflicts_with = "config")]
    task: Option<String>,
    #[command(flatten)]
    request: RequestFlags,
    #[command(flatten)]
    how: RunFlags,
    #[command(flatten)]
    site: SiteFlags,
}

#[derive(Args, Debug)]
struct RunFlags {
    /// Folder of the run [default: a folder below --runs, named after the configuration]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Stop after so many steps; the schedule stays that of the whole recipe, and --resume goes on
    #[arg(long, value_name = "N")]
    max_steps: Option<usize>,
    /// Continue the run where it was left
    #[arg(long)]
    resume: bool,
}

pub fn pretrain(registry: &Registry, args: PretrainArgs) -> CommandResult {
    let request = args.request.request(args.task, args.dataset);
    run(registry, Stage::Pretrain, &request, &args.how, &args.site)
}

pub fn transfer(registry: &Registry, args: TransferArgs) -> CommandResult {
    let request = args.request.request(args.task, None);
    run(registry, Stage::Transfer, &request, &args.how, &args.site)
}

fn run(
    registry: &Registry,
    stage: Stage,
    request: &Request,
    how: &RunFlags,
    site: &SiteFlags,
) -> CommandResult {
    let context = site.context()?;
    let site = context.site(registry);
    let tell = |note: &str| context.screen().say(note);
    let prepared = match prepare(&site, stage, request, how.out.as_deref(), how.resume, &tell)? {
        Start::Done(record) => {
            tell("this run is finished already; nothing to do");
            show(&record);
            return Ok(());
        }
        Start::Ready(prepared) => prepared,
    };
    catch_ctrl_c()?;
    let folder = prepared.folder.path().to_path_buf();
    tell(&format!("run {} in {}", prepared.folder.id(), folder.display()));
    let result = prepared.run(&site, how.max_steps);
    context.screen().clear();
    let stopped = site.control.stopped();
    match result {
        Ok(record) if record.status == Status::Interrupted => Err(interrupted(&folder, stage, &context)),
        Ok(record) => {
            show(&record);
            Ok(())
        }
        Err(_) if stopped => Err(interrupted(&folder, stage, &context)),
        Err(error) => Err(Failure::Run(error)),
    }
}

/// Says how to go on.
fn interrupted(folder: &std::path::Path, stage: Stage, context: &CliContext) -> Failure {
    let in_store = folder.parent() == Some(context.store.root());
    let out = if in_store { String::new() } else { format!(" --out {}", folder.display()) };
    let runs = match context.store.root().to_str() {
        Some("runs") | None => String::new(),
        Some(_) if !in_store => String::new(),
        Some(other) => format!(" --runs {other}"),
    };
    let config = RunFolder::at(folder).config();
    Failure::Run(anyhow!(
        "stopped; the run is saved. Continue with:\n  bench {} --config {} --resume{out}{runs}",
        stage.as_str(),
        config.display()
    ))
}

/// The run in a few lines, on standard output.
pub fn show(record: &RunRecord) {
    println!("run     {}", record.id);
    println!("status  {:?}, {} of {} steps", record.status, record.steps_done, record.steps_planned);
    if !record.losses.is_empty() {
        let losses: Vec<String> =
            record.losses.iter().map(|(name, value)| format!("{name} {value:.4}")).collect();
        println!("losses  {}", losses.join(", "));
    }
    if !record.scores.is_empty() {
        println!("scores  {}", describe(&record.scores));
    }
    if record.skipped > 0 {
        println!("skipped {} unreadable images", record.skipped);
    }
    let time = duration(Duration::from_secs_f64(record.throughput.wall_seconds));
    println!("time    {time}, {:.0} img/s in training", record.throughput.images_per_second);
}
