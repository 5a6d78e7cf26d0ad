//! `bench table`: makes tables from records, and keeps the generated tables of documents up to date.

use super::flags::Include;
use super::record::with_today;
use super::{CommandResult, print, record};
use crate::config::{Library, Stage};
use crate::record::render::{TableFormat, findings, readme, render};
use crate::record::table::{Key, TableSpec, build_table};
use crate::record::{Reference, RunFolder, RunRecord, RunStore, SpeedRecord, render_speed, write_atomic};
use crate::registry::Registry;
use anyhow::{Context, Error, Result, ensure};
use clap::Args;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

#[derive(Args, Debug)]
pub(super) struct TableArgs {
    /// Name (`bench table --list`) or path of the table
    #[arg(default_value = "main")]
    table: String,
    /// List all tables
    #[arg(long)]
    list: bool,
    /// Output format: terminal, markdown, csv or latex
    #[arg(long, default_value = "terminal")]
    format: TableFormat,
    /// Folder that contains all runs
    #[arg(long, value_name = "DIR", default_value = "runs")]
    runs: PathBuf,
    /// Use the records committed in tasks/ instead of those in --runs
    #[arg(long)]
    committed: bool,
    /// Print the measurements of scripts/compare_pytorch in this file or folder instead of runs
    #[arg(long, value_name = "RECORD")]
    speed: Option<PathBuf>,
    /// Fail if a generated table in this document is out of date
    #[arg(long, value_name = "README", conflicts_with = "update")]
    check: Option<PathBuf>,
    /// Rewrite the generated tables in this document
    #[arg(long, value_name = "README")]
    update: Option<PathBuf>,
    #[command(flatten)]
    include: Include,
}

/// Folder of the committed records.
const TASKS: &str = "tasks";
const SPEED: &str = "benches/results";
/// Name of the generated block that shows the records of [`SPEED`].
const SPEED_BLOCK: &str = "speed";

pub(super) fn table(registry: &Registry, args: TableArgs) -> CommandResult {
    let mut include = args.include.clone();
    if !args.committed && args.check.is_none() && args.update.is_none() {
        let store = RunStore::new(&args.runs);
        store.ids()?.iter().for_each(|id| include.remember(&RunFolder::at(store.path(id)).config()));
    }
    let library = include.library()?;
    if args.list {
        return list(&library);
    }
    // Generated blocks are made from committed records, so that anyone can check them.
    let block = |records: &[RunRecord], name: &str| match name {
        SPEED_BLOCK => {
            let records = SpeedRecord::read_all(Path::new(SPEED))?;
            Ok(render_speed(&records, SpeedRecord::summaries, TableFormat::Markdown))
        }
        name => rendered(&library, name, records, TableFormat::Markdown),
    };
    if let Some(path) = &args.check {
        let records = committed(registry, &library)?;
        readme::check_readme(&read(path)?, |name| block(&records, name))?;
        return Ok(());
    }
    if let Some(path) = &args.update {
        let records = committed(registry, &library)?;
        let text = readme::update_readme(&read(path)?, |name| block(&records, name))?;
        write_atomic(path, text.as_bytes())?;
        return Ok(());
    }
    if let Some(path) = &args.speed {
        let text = render_speed(&SpeedRecord::read_all(path)?, SpeedRecord::tables, args.format);
        return Ok(print(text.trim_end())?);
    }
    let records = match args.committed {
        true => committed(registry, &library)?,
        false => {
            let (mut records, broken) = RunStore::new(&args.runs).readable_records()?;
            let faults = with_today(registry, &library, |today| today.examine(&mut records, false));
            records.retain(|record| faults.iter().all(|fault| fault.id != record.id));
            for error in broken.into_iter().map(Error::from).chain(faults.into_iter().map(Error::from)) {
                eprintln!("warning: a run is left out of the table: {error:#}");
            }
            records
        }
    };
    let spec = TableSpec::load(&library, &args.table)?;
    print(render(&build_table(&records, &Reference::all(&library)?, &spec)?, args.format).trim_end())?;
    hidden(&spec, &records).iter().for_each(|line| eprintln!("{line}"));
    if !args.committed && !records.iter().any(|run| run.stage == Stage::Transfer.as_str()) {
        let pretrained = records.len();
        let runs = if pretrained == 1 { "run" } else { "runs" };
        let others = match pretrained {
            0 => "; `bench transfer` makes them".to_string(),
            _ => format!(" ({pretrained} pre-training {runs}, which `bench runs` lists)"),
        };
        eprintln!("there are no transfer runs in `{}`{others}", args.runs.display());
    }
    Ok(())
}

/// The committed records, which must agree with themselves, with each other and with the files of today.
fn committed(registry: &Registry, library: &Library) -> Result<Vec<RunRecord>> {
    let (records, faults) = record::committed(registry, library, Path::new(TASKS))?;
    let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
    ensure!(faults.is_empty(), "no table is made from records that cannot be true:\n{}", faults.join("\n"));
    Ok(records)
}

/// Messages about runs of the table's tasks that it does not show.
fn hidden(spec: &TableSpec, records: &[RunRecord]) -> Vec<String> {
    let mut tasks: BTreeMap<&str, (usize, BTreeSet<String>)> = BTreeMap::new();
    for (run, task) in records.iter().filter_map(|run| Some((run, run.task.as_deref()?))) {
        let keys = spec.hides(run);
        if keys.is_empty() || keys.contains(&Key::Task) {
            continue;
        }
        let (count, values) = tasks.entry(task).or_default();
        *count += 1;
        values.extend(keys.iter().map(|key| format!("{} {}", key.name(), key.of_run(run))));
    }
    let line = |(task, (count, values)): (&str, (usize, BTreeSet<String>))| {
        let (runs, are) = if count == 1 { ("run", "is") } else { ("runs", "are") };
        let values = values.into_iter().collect::<Vec<_>>().join(", ");
        format!("{count} {runs} of {task} {are} not in this table ({values}); `bench table` shows all runs")
    };
    tasks.into_iter().map(line).collect()
}

fn list(library: &Library) -> CommandResult {
    for name in library.list("configs/tables") {
        match TableSpec::load(library, &name) {
            Ok(spec) => print(format_args!("{name:<18} {}", spec.title))?,
            Err(error) => eprintln!("warning: {error}"),
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read `{}`", path.display()))
}

/// The table `name` of runs of a suite and what its differences show in words, for the terminal and in Markdown. Runs of an
/// earlier program are marked.
pub(super) fn of_suite(
    registry: &Registry,
    library: &Library,
    name: &str,
    records: &[RunRecord],
) -> Result<(String, String)> {
    let mut records = records.to_vec();
    let faults = with_today(registry, library, |today| today.examine(&mut records, false));
    faults.into_iter().next().map_or(Ok(()), Err)?;
    let spec = TableSpec::load(library, name)?;
    let table = build_table(&records, &Reference::all(library)?, &spec)?;
    let findings = findings(&table, &spec);
    let text = |format: TableFormat, before: &str| {
        let sentences: String = findings.iter().map(|sentence| format!("{before}{sentence}\n")).collect();
        let gap = if findings.is_empty() { "" } else { "\n" };
        format!("{}{gap}{sentences}", render(&table, format))
    };
    Ok((text(TableFormat::Terminal, " "), text(TableFormat::Markdown, "")))
}

fn rendered(library: &Library, name: &str, records: &[RunRecord], format: TableFormat) -> Result<String> {
    let spec = TableSpec::load(library, name)?;
    Ok(render(&build_table(records, &Reference::all(library)?, &spec)?, format))
}
