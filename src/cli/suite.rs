//! `bench suite list|run|plan`.

use super::flags::{CliContext, Include, PlaceFlags, catch_ctrl_c};
use super::overall::{Overall, time_left};
use super::progress::{listed, scores};
use super::{CommandResult, Failure, pictures, print};
use crate::config::Library;
use crate::record::{RunRecord, Status};
use crate::registry::Registry;
use crate::runs::RunContext;
use crate::suite::{Current, Forecast, PlannedItem, Standing, Suite, SuiteEvent, Work};
use anyhow::{Context, anyhow};
use clap::{Args, Subcommand};
use std::path::PathBuf;

#[derive(Args, Debug)]
pub(super) struct SuiteArgs {
    #[command(subcommand)]
    command: SuiteCommand,
}

#[derive(Subcommand, Debug)]
enum SuiteCommand {
    /// List all suites
    List(Include),
    /// Run the unfinished runs of a suite, then print its table
    Run(RunArgs),
    /// Show the runs of a suite and how many images remain to be trained on
    Plan(NameArgs),
}

#[derive(Args, Debug)]
struct NameArgs {
    /// Name (`bench suite list`) or path of the suite
    suite: String,
    #[command(flatten)]
    place: PlaceFlags,
}

#[derive(Args, Debug)]
struct RunArgs {
    #[command(flatten)]
    name: NameArgs,
    /// Folder for pictures: reconstructions, and detections and segmentations beside their annotations
    #[arg(long, value_name = "DIR")]
    pictures: Option<PathBuf>,
}

pub(super) fn suite(registry: &Registry, args: SuiteArgs) -> CommandResult {
    match args.command {
        SuiteCommand::List(include) => list(&include.library()?),
        SuiteCommand::Run(RunArgs { name, pictures }) => {
            let context = name.place.context()?;
            let suite = Suite::load(&context.library, &name.suite)?;
            catch_ctrl_c()?;
            let runs = context.run_context(registry);
            let records = run(&suite, &context, &runs)?;
            print(super::table::of_suite(registry, &context.library, &suite.table, &records)?.0)?;
            if let Some(folder) = pictures {
                std::fs::create_dir_all(&folder)
                    .with_context(|| format!("cannot create `{}`", folder.display()))?;
                for picture in pictures::write(&runs, &records, &folder).map_err(Failure::Run)? {
                    print(format_args!("{}: {}", picture.file.display(), picture.shows))?;
                }
            }
            Ok(())
        }
        SuiteCommand::Plan(args) => {
            let context = args.place.context()?;
            let suite = Suite::load(&context.library, &args.suite)?;
            plan(&suite, &context.run_context(registry))
        }
    }
}

fn list(library: &Library) -> CommandResult {
    for name in library.list("configs/suites") {
        match Suite::load(library, &name) {
            Ok(suite) => {
                let (runs, table) = (suite.items().len(), &suite.table);
                print(format_args!("{name:<18} {runs:>3} runs, table {table:<18} {}", suite.title))?;
            }
            Err(error) => eprintln!("warning: {error:#}"),
        }
    }
    Ok(())
}

/// Checks a whole suite, then runs it and reports each run.
pub(super) fn run(suite: &Suite, context: &CliContext, runs: &RunContext) -> Result<Vec<RunRecord>, Failure> {
    let planned = suite.check(runs)?;
    let total = planned.len();
    let (known, _) = context.store.readable_records()?;
    context.screen().several(Overall::new(&planned, Forecast::of(&known, &runs.device_name)));
    let tell = |event: SuiteEvent| match event {
        SuiteEvent::Begins { index, item, done } => context.screen().begin(index, &item.title(), done),
        SuiteEvent::Ended { record } => context.screen().end(record),
    };
    let records = suite.run(runs, &tell);
    context.screen().clear();
    match records {
        Ok(records) if records.len() == total && records.iter().all(|r| r.status == Status::Finished) => {
            let scored: Vec<String> = records
                .iter()
                .filter(|record| !record.scores.is_empty())
                .map(|record| {
                    format!(
                        "{}: {}",
                        record.id,
                        listed(&scores(&record.scores, record.primary.as_deref()), 4)
                    )
                })
                .collect();
            scored.iter().for_each(|line| context.screen().say(line));
            Ok(records)
        }
        Ok(records) => {
            let done = records.iter().filter(|r| r.status == Status::Finished).count();
            Err(Failure::Run(anyhow!("stopped after {done} of {total} runs; the same command continues")))
        }
        Err(_) if runs.control.stopped() => Err(Failure::Run(anyhow!("stopped; the same command continues"))),
        Err(error) => Err(Failure::Run(error)),
    }
}

/// The number, from 1, of `reason` among `reasons`, to which it is added if it is new.
fn number_of<'a>(reasons: &mut Vec<&'a str>, reason: &'a str) -> usize {
    let known = reasons.iter().position(|known| *known == reason);
    known.unwrap_or_else(|| {
        reasons.push(reason);
        reasons.len() - 1
    }) + 1
}

fn plan(suite: &Suite, runs: &RunContext) -> CommandResult {
    let planned = suite.plan(runs)?;
    print(format_args!("{}: {} runs", suite.title, planned.len()))?;
    let (mut left, mut unknown, mut missing) = (0, false, vec![]);
    for PlannedItem { item, standing, images, .. } in &planned {
        let shown = match standing {
            Standing::Done { .. } => "done",
            Standing::Interrupted { .. } => "continues",
            Standing::Todo => "to do",
            Standing::Waits { .. } => "waits",
        };
        if !matches!(standing, Standing::Done { .. }) {
            left += images.unwrap_or(0);
            unknown |= images.is_none();
        }
        let images = images.map_or("size unknown".into(), |n| format!("{n} images"));
        print(format_args!("{shown:>9}  {:<80} {images}", item.title()))?;
        if let Standing::Waits { runs, weights, data } = standing {
            let runs = runs.iter().map(|run| format!("run {} of this suite", run + 1));
            let numbers =
                weights.iter().chain(data).map(|reason| format!("[{}]", number_of(&mut missing, reason)));
            let reasons: Vec<String> = runs.chain(numbers).collect();
            print(format_args!("{:>9}  waits for {}", "", reasons.join(", ")))?;
        }
    }
    for (number, reason) in (1..).zip(&missing) {
        print(format_args!("[{number}] {reason}"))?;
    }
    let (records, _) = runs.store.readable_records()?;
    let forecast = Forecast::of(&records, &runs.device_name);
    let todo = planned.iter().filter(|item| !matches!(item.standing, Standing::Done { .. }));
    let todo: Vec<Work> = todo.map(|item| item.work.clone()).collect();
    let start = Current { elapsed: 0., before: 0., done: 0. };
    let time = todo.split_first().and_then(|(first, later)| forecast.left((first, start), later));
    let time = time
        .map_or(String::new(), |time| format!("; {}, by the time that finished runs took", time_left(time)));
    let more = if unknown { ", not counting runs whose size is unknown" } else { "" };
    Ok(print(format_args!("left: {left} images of training{more}{time}"))?)
}
