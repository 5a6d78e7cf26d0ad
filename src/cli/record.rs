//! `bench record add|list|show|verify`: the records that are committed beside their tasks.

use super::flags::{Include, PlaceFlags, catch_ctrl_c};
use super::output::duration;
use super::progress::{listed, scores};
use super::version::build;
use super::{CommandResult, Failure, print};
use crate::config::Library;
use crate::record::{Build, Fault, Processor, RunRecord, RunStore, Today, publish};
use crate::registry::Registry;
use crate::runs::verify::{Basis, Comparison, Pair, Verdict, Verifier, draw, in_order};
use anyhow::{Context, Result, anyhow, bail};
use clap::{Args, Subcommand};
use std::path::{Path, PathBuf};
use std::time::Instant;

#[derive(Args, Debug)]
pub(super) struct RecordArgs {
    #[command(subcommand)]
    command: RecordCommand,
}

#[derive(Subcommand, Debug)]
enum RecordCommand {
    /// Publish the record of a finished run in tasks/<task>/results, with those of the runs whose weights it starts from
    Add(AddArgs),
    /// List the committed records, what made them and what is known against them
    List(WhereFlags),
    /// Show a committed record
    Show(ShowArgs),
    /// Make runs again and compare with their records; exit code 1 if one differs, 3 if one cannot be made here
    Verify(VerifyArgs),
}

#[derive(Args, Debug)]
struct WhereFlags {
    /// Folder of the tasks with the committed records
    #[arg(long, value_name = "DIR", default_value = "tasks")]
    tasks: PathBuf,
    #[command(flatten)]
    include: Include,
}

#[derive(Args, Debug)]
struct AddArgs {
    /// Ids or folders of the runs
    #[arg(value_name = "RUN", required = true)]
    runs_to_add: Vec<String>,
    /// Task whose results a pre-training run belongs to
    #[arg(long)]
    task: Option<String>,
    /// Folder that contains all runs
    #[arg(long, value_name = "DIR", default_value = "runs")]
    runs: PathBuf,
    #[command(flatten)]
    place: WhereFlags,
}

#[derive(Args, Debug)]
struct ShowArgs {
    /// Id of the record, or the start of it
    id: String,
    /// Print the whole record as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: WhereFlags,
}

#[derive(Args, Debug)]
struct VerifyArgs {
    /// Ids of records, or the start of them
    #[arg(value_name = "ID", required_unless_present_any = ["all", "sample"])]
    ids: Vec<String>,
    /// Verify all committed records
    #[arg(long, conflicts_with_all = ["ids", "sample"])]
    all: bool,
    /// Verify N records, drawn by --seed
    #[arg(long, value_name = "N", conflicts_with = "ids")]
    sample: Option<usize>,
    /// Seed of the draw
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Folder for the repeated runs, which continue there after an interruption [default: a temporary folder]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Root folder of the data set [default: $BENCH_DATA/<data set>]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Folder of the tasks with the committed records
    #[arg(long, value_name = "DIR", default_value = "tasks")]
    tasks: PathBuf,
    #[command(flatten)]
    place: PlaceFlags,
}

pub(super) fn record(registry: &Registry, args: RecordArgs) -> CommandResult {
    match args.command {
        RecordCommand::Add(args) => Ok(add(registry, &args)?),
        RecordCommand::List(place) => Ok(list(registry, &place)?),
        RecordCommand::Show(args) => Ok(show(registry, &args)?),
        RecordCommand::Verify(args) => verify(registry, &args),
    }
}

/// Calls `with` with the files of a library and this program, for comparison with records.
pub(super) fn with_today<R>(registry: &Registry, library: &Library, with: impl FnOnce(&Today) -> R) -> R {
    let Build { sources, .. } = build();
    with(&Today { library, owners: registry.components(), sources: sources.as_deref() })
}

/// The committed records with their marks, and what is wrong with them.
pub(super) fn committed(
    registry: &Registry,
    library: &Library,
    tasks: &Path,
) -> Result<(Vec<RunRecord>, Vec<Fault>)> {
    let mut records = RunStore::read_committed(tasks)?;
    let faults = with_today(registry, library, |today| today.examine(&mut records, true));
    Ok((records, faults))
}

fn add(registry: &Registry, args: &AddArgs) -> Result<()> {
    let library = args.place.include.library()?;
    let store = RunStore::new(&args.runs);
    let place = (args.place.tasks.as_path(), args.task.as_deref());
    for run in &args.runs_to_add {
        for record in with_today(registry, &library, |today| publish(&store, run, place, today))? {
            let earlier = if record.earlier { " (there already)" } else { "" };
            print(format_args!("{}{earlier}", record.path.display()))?;
        }
    }
    eprintln!("`bench table --update FILE` writes the tables of a document again");
    Ok(())
}

fn list(registry: &Registry, place: &WhereFlags) -> Result<()> {
    let (records, faults) = committed(registry, &place.include.library()?, &place.tasks)?;
    for record in &records {
        let primary = record.primary.as_ref().and_then(|name| Some((name, record.scores.get(name)?)));
        let score = primary.map_or(String::new(), |(name, score)| format!("{name} {:.2}", score.value));
        print(format_args!("{:<74} {score:<16} {}", record.id, record.environment.made_by()))?;
        for fault in faults.iter().filter(|fault| fault.id == record.id) {
            print(format_args!("    wrong: {}", fault.reason))?;
        }
        record.marks.iter().try_for_each(|mark| print(format_args!("    {mark}")))?;
    }
    Ok(())
}

/// The record whose id is `id` or, alone, begins with it.
fn find<'a>(records: &'a [RunRecord], id: &str) -> Result<&'a RunRecord> {
    let exact = records.iter().find(|record| record.id == id);
    let matches: Vec<_> = records.iter().filter(|record| record.id.starts_with(id)).collect();
    match (exact, matches.as_slice()) {
        (Some(record), _) => Ok(record),
        (None, [record]) => Ok(record),
        (None, []) => bail!("there is no committed record `{id}`; `bench record list` lists them"),
        (None, several) => {
            let ids: Vec<_> = several.iter().map(|record| record.id.as_str()).collect();
            bail!("several records begin with `{id}`: {}", ids.join(", "))
        }
    }
}

fn show(registry: &Registry, args: &ShowArgs) -> Result<()> {
    let (records, faults) = committed(registry, &args.place.include.library()?, &args.place.tasks)?;
    let record = find(&records, &args.id)?;
    if args.json {
        return Ok(print(format_args!("{:#}", serde_json::to_value(record)?))?);
    }
    let environment = &record.environment;
    let mut lines = vec![("record", record.id.clone()), ("command", record.command.clone())];
    lines.push(("made by", format!("{}{}", environment.made_by(), age(environment.commit.as_deref()))));
    let versions = environment.versions.iter().map(|(name, version)| format!("{name} {version}"));
    lines.push(("versions", versions.collect::<Vec<_>>().join(", ")));
    let processor = environment.processor.as_ref();
    lines.push(("processor", processor.map_or(String::new(), described)));
    let (device, dtype, threads) = (&environment.device, &environment.dtype, environment.threads);
    lines.push(("device", format!("{device}, matrix products in {dtype}, {threads} threads")));
    lines.push(("data", record.dataset.clone()));
    if let Some(data) = &record.data {
        let covers = serde_json::to_value(data.covers)?;
        lines.push((
            "",
            format!("{} files, blake3 of their {} {}", data.files, covers.as_str().unwrap_or(""), data.hash),
        ));
    }
    let start = record.init.hash.as_ref().map_or(String::new(), |hash| format!(", blake3 {hash}"));
    lines.push(("starts from", format!("{}{start}", record.init.source)));
    lines.push((
        "weights",
        record.weights_hash.as_ref().map_or(String::new(), |hash| format!("blake3 {hash}")),
    ));
    lines.extend(record.evaluation.as_ref().map(|evaluation| {
        let best = evaluation.best_on.as_ref().map(|split| format!("; best weights chosen on `{split}`"));
        let times = if evaluation.times == 1 { "once".into() } else { format!("{} times", evaluation.times) };
        ("evaluated", format!("{times} on `{}`{}", evaluation.split, best.unwrap_or_default()))
    }));
    lines.push(("scores", listed(&scores(&record.scores, record.primary.as_deref()), 13)));
    lines.extend(faults.iter().filter(|f| f.id == record.id).map(|fault| ("wrong", fault.reason.clone())));
    let data = record.data_notes.iter();
    lines.extend(record.marks.iter().chain(&record.notes).chain(data).map(|note| ("note", note.clone())));
    for (name, value) in lines.iter().filter(|(_, value)| !value.is_empty()) {
        print(format_args!("{name:<12} {value}"))?;
    }
    Ok(())
}

fn described(processor: &Processor) -> String {
    let Processor { name, family, features } = processor;
    format!("{name} ({family}; {})", features.join(" "))
}

/// `, 212 commits ago` if git is installed and the working directory holds the history back to `commit`.
fn age(commit: Option<&str>) -> String {
    let count = |commit: &str| {
        let range = format!("{commit}..HEAD");
        let output = std::process::Command::new("git").args(["rev-list", "--count", &range]).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| format!(", {} commits ago", text.trim()))
    };
    commit.and_then(count).unwrap_or_default()
}

fn verify(registry: &Registry, args: &VerifyArgs) -> CommandResult {
    let context = args.place.context()?;
    let (records, faults) = committed(registry, &context.library, &args.tasks)?;
    let chosen = match args.sample {
        Some(count) => draw(records, count, args.seed),
        None if args.all => records,
        None => {
            let found = args.ids.iter().map(|id| find(&records, id).cloned());
            found.collect::<Result<Vec<_>>>()?
        }
    };
    let temporary = tempfile::tempdir().context("cannot create a temporary folder")?;
    let out = args.out.clone().unwrap_or_else(|| temporary.path().into());
    let runs = context.run_context(registry);
    catch_ctrl_c()?;
    let mut verifier = Verifier::new(&runs, RunStore::new(out), args.data.clone());
    let (mut failed, mut impossible, total) = (0, 0, chosen.len());
    for record in in_order(chosen) {
        let began = Instant::now();
        let fault = faults.iter().find(|fault| fault.id == record.id);
        let verdict = match fault {
            Some(fault) => Verdict::Failed(fault.reason.clone()),
            None => verifier.verify(&record).map_err(Failure::Run)?,
        };
        context.screen().clear();
        let (word, text) = match &verdict {
            Verdict::Verified(comparison) => ("verified", verified(comparison)),
            Verdict::Differs(comparison) => ("FAILED", differs(comparison)),
            Verdict::Failed(reason) => ("FAILED", reason.clone()),
            Verdict::NotVerifiable(reason) => ("not verifiable", reason.clone()),
        };
        failed += usize::from(word == "FAILED");
        impossible += usize::from(matches!(verdict, Verdict::NotVerifiable(_)));
        print(format_args!("{word}: {} ({})\n    {text}", record.id, duration(began.elapsed())))?;
    }
    print(format_args!(
        "{} of {total} verified, {failed} failed, {impossible} not verifiable",
        total - failed - impossible
    ))?;
    match (failed, impossible) {
        (0, 0) => Ok(()),
        (0, _) => {
            Err(Failure::NotVerifiable(anyhow!("{impossible} of {total} records could not be verified here")))
        }
        _ => Err(Failure::Run(anyhow!("{failed} of {total} records do not hold"))),
    }
}

/// What was found equal.
fn verified(comparison: &Comparison) -> String {
    let Comparison { basis, because, same_weights, same_scores, pairs } = comparison;
    let numbers = if *same_scores { "and the same scores" } else { "; scores within tolerance" };
    match (basis, *same_weights && *same_scores) {
        (Basis::Bytes, _) => {
            format!("the same bytes of weights {numbers}, as required of the same build and processor family")
        }
        (Basis::Scores, true) => {
            format!("the same bytes of weights {numbers}, although not required: {}", because.join("; "))
        }
        (Basis::Scores, false) => format!(
            "within tolerance; the same bytes are not required: {}\n    {}",
            because.join("; "),
            numbers_of(pairs).join(", ")
        ),
    }
}

/// What was found different.
fn differs(comparison: &Comparison) -> String {
    let Comparison { basis, because, same_weights, pairs, .. } = comparison;
    let why = match basis {
        Basis::Bytes if *same_weights => "the weights are the same, but not the scores".into(),
        Basis::Bytes => "the weights differ, although build and processor family are the same".to_string(),
        Basis::Scores => {
            format!("outside the tolerance; the same bytes were not required: {}", because.join("; "))
        }
    };
    format!("{why}\n    {}", numbers_of(pairs).join(", "))
}

/// `top1 25.50 → 25.70 (tolerance 5.85)`.
fn numbers_of(pairs: &[Pair]) -> Vec<String> {
    let value = |value: Option<f64>| value.map_or("nothing".into(), |value| format!("{value:.4}"));
    let text = |pair: &Pair| {
        let Pair { name, recorded, made, tolerance } = pair;
        let outside = if pair.agrees() { "" } else { ", outside" };
        format!("{name} {} → {} (tolerance {tolerance:.2}{outside})", value(*recorded), value(*made))
    };
    pairs.iter().map(text).collect()
}
