//! `bench data list|check|make`.

use super::flags::{Include, bench_data};
use super::{CommandResult, print};
use crate::config::Library;
use crate::data::Dataset;
use crate::data::shapes::{ShapesSpec, make};
use crate::registry::Registry;
use anyhow::{Result, bail, ensure};
use clap::{Args, Subcommand};
use indicatif::ProgressBar;
use std::path::PathBuf;

#[derive(Args, Debug)]
pub(super) struct DataArgs {
    #[command(subcommand)]
    command: DataCommand,
}

#[derive(Subcommand, Debug)]
enum DataCommand {
    /// List all data sets and where they are
    List(Include),
    /// Check the layout and counts of a data set and, with --decode, every image
    Check {
        /// Name (`bench data list`) or path of the data set
        dataset: String,
        /// Root folder of the data set [default: $BENCH_DATA/<data set>]
        #[arg(long, value_name = "DIR")]
        data: Option<PathBuf>,
        /// Decode every image
        #[arg(long)]
        decode: bool,
        #[command(flatten)]
        include: Include,
    },
    /// Generate the synthetic data set `shapes`
    Make {
        /// The data set to generate
        #[arg(value_parser = ["shapes"])]
        dataset: String,
        /// Folder to write it to [default: $BENCH_DATA/shapes]
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
        /// Height and width of the images in pixels
        #[arg(long, default_value_t = ShapesSpec::default().size)]
        size: usize,
        /// Number of unlabelled images
        #[arg(long, default_value_t = ShapesSpec::default().pretrain)]
        pretrain: usize,
        /// Number of labelled training images, a multiple of 10
        #[arg(long, default_value_t = ShapesSpec::default().train)]
        train: usize,
        /// Number of labelled images for choosing hyper-parameters, a multiple of 10
        #[arg(long, default_value_t = ShapesSpec::default().select)]
        select: usize,
        /// Number of labelled validation images, a multiple of 10
        #[arg(long, default_value_t = ShapesSpec::default().val)]
        val: usize,
        /// Seed of all random numbers
        #[arg(long, default_value_t = 0)]
        seed: u64,
    },
}

pub(super) fn data(registry: &Registry, args: DataArgs) -> CommandResult {
    match args.command {
        DataCommand::List(include) => list(registry, &include.library()?)?,
        DataCommand::Check { dataset, data, decode, include } => {
            check(registry, &include.library()?, &dataset, data, decode)?
        }
        DataCommand::Make { dataset: _, out, size, pretrain, train, select, val, seed } => {
            let Some(root) = out.or_else(|| Some(bench_data()?.join("shapes"))) else {
                return Err(anyhow::anyhow!("no output folder: give --out, or set BENCH_DATA").into());
            };
            make_shapes(&ShapesSpec { size, pretrain, train, select, val, seed }, &root)?;
        }
    }
    Ok(())
}

/// Generates `shapes` in `root` with a progress bar, and reports the result.
pub(super) fn make_shapes(spec: &ShapesSpec, root: &std::path::Path) -> Result<()> {
    let bar = ProgressBar::new(spec.images() as u64);
    let made = make(spec, root, &mut |done, total| match done {
        0 => eprintln!("shapes: generating {total} images in `{}`", root.display()),
        _ => bar.set_position(done as u64),
    });
    bar.finish_and_clear();
    let made = made?;
    let what = if made.already_there { "already present" } else { "generated" };
    eprintln!("shapes: {what}, {} images in `{}`", made.images, made.root.display());
    Ok(())
}

fn list(registry: &Registry, library: &Library) -> Result<()> {
    for name in library.list("datasets") {
        let dataset = match Dataset::load(library, &name, &registry.components().formats) {
            Ok(dataset) => dataset,
            Err(error) => {
                eprintln!("warning: {error}");
                continue;
            }
        };
        let place = match dataset.root(None, bench_data().as_deref()) {
            Ok(root) => format!("in {}", root.display()),
            Err(_) => "not found".into(),
        };
        let splits: Vec<&str> = dataset.splits.keys().map(String::as_str).collect();
        print(format_args!("{name:<18} {:<10} splits {:<34} {place}", dataset.version, splits.join(", ")))?;
    }
    Ok(())
}

fn check(
    registry: &Registry,
    library: &Library,
    name: &str,
    data: Option<PathBuf>,
    decode: bool,
) -> Result<()> {
    let dataset = Dataset::load(library, name, &registry.components().formats)?;
    let root = dataset.root(data.as_deref(), bench_data().as_deref())?;
    let report = dataset.check(&root, decode);
    ensure!(!report.is_empty(), "data set `{name}` has no splits");
    let mut problems = 0;
    for split in &report {
        print(split)?;
        problems += split.problems.len();
    }
    if problems > 0 {
        let noun = if problems == 1 { "problem" } else { "problems" };
        bail!("data set `{name}` in `{}`: {problems} {noun}", root.display());
    }
    Ok(())
}
