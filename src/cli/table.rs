//! `bench table`: records to a table, and the generated blocks of a README.

use super::CommandResult;
use super::flags::Include;
use crate::config::Library;
use crate::record::render::{Format, readme, render};
use crate::record::table::{TableSpec, table as make};
use crate::record::{Reference, RunRecord, SpeedRecord, Store, render_speed, write_atomic};
use anyhow::{Context, Result};
use clap::Args;
use std::path::{Path, PathBuf};

#[derive(Args, Debug)]
pub struct TableArgs {
    /// File of configs/tables, without .toml
    #[arg(default_value = "main")]
    table: String,
    /// terminal, markdown, csv or latex
    #[arg(long, default_value = "terminal")]
    format: Format,
    /// Folder of all runs
    #[arg(long, value_name = "DIR", default_value = "runs")]
    runs: PathBuf,
    /// Take the records committed below tasks/ instead of those in --runs
    #[arg(long)]
    committed: bool,
    /// A record of scripts/compare_pytorch, or a folder of them, instead of runs
    #[arg(long, value_name = "RECORD")]
    speed: Option<PathBuf>,
    /// Fail when a generated block of this file differs from its table
    #[arg(long, value_name = "README", conflicts_with = "update")]
    check: Option<PathBuf>,
    /// Write the generated blocks of this file anew
    #[arg(long, value_name = "README")]
    update: Option<PathBuf>,
    #[command(flatten)]
    include: Include,
}

/// Where records are committed.
const TASKS: &str = "tasks";
const SPEED: &str = "benches/results";
/// The block of a README that shows the records of [`SPEED`].
const SPEED_BLOCK: &str = "speed";

pub fn table(args: TableArgs) -> CommandResult {
    let library = args.include.library()?;
    // Blocks of a README hold what everybody can see: committed records.
    let block = |records: &[RunRecord], name: &str| match name {
        SPEED_BLOCK => {
            let records = SpeedRecord::read_all(Path::new(SPEED))?;
            Ok(render_speed(&records, SpeedRecord::summary, Format::Markdown))
        }
        name => markdown(&library, name, records),
    };
    if let Some(path) = &args.check {
        let records = Store::read_committed(Path::new(TASKS))?;
        readme::check(&read(path)?, |name| block(&records, name))?;
        return Ok(());
    }
    if let Some(path) = &args.update {
        let records = Store::read_committed(Path::new(TASKS))?;
        let text = readme::update(&read(path)?, |name| block(&records, name))?;
        write_atomic(path, text.as_bytes())?;
        return Ok(());
    }
    if let Some(path) = &args.speed {
        print!("{}", render_speed(&SpeedRecord::read_all(path)?, SpeedRecord::table, args.format));
        return Ok(());
    }
    let records = match args.committed {
        true => Store::read_committed(Path::new(TASKS))?,
        false => Store::new(&args.runs).records()?,
    };
    print!("{}", rendered(&library, &args.table, &records, args.format)?);
    Ok(())
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read `{}`", path.display()))
}

/// The table `name` of these records, for the terminal.
pub fn show(library: &Library, name: &str, records: &[RunRecord]) -> Result<String> {
    rendered(library, name, records, Format::Terminal)
}

/// The table `name` of these records in Markdown.
pub fn markdown(library: &Library, name: &str, records: &[RunRecord]) -> Result<String> {
    rendered(library, name, records, Format::Markdown)
}

fn rendered(library: &Library, name: &str, records: &[RunRecord], format: Format) -> Result<String> {
    let spec = TableSpec::load(library, name)?;
    Ok(render(&make(records, &Reference::all(library)?, &spec)?, format))
}
