//! `bench data list|check|make`.

use super::flags::{Include, bench_data};
use super::{CommandResult, print};
use crate::config::Library;
use crate::data::shapes::{ShapesSpec, make};
use crate::data::{Dataset, Formats};
use anyhow::{Result, bail, ensure};
use clap::{Args, Subcommand};
use indicatif::ProgressBar;
use std::path::PathBuf;

#[derive(Args, Debug)]
pub struct DataArgs {
    #[command(subcommand)]
    command: DataCommand,
}

#[derive(Subcommand, Debug)]
enum DataCommand {
    /// All data sets, and whether they are there
    List(Include),
    /// Check layout, counts and (with --decode) every image of a data set
    Check {
        dataset: String,
        /// Root of the data set [default: $BENCH_DATA/<data set>]
        #[arg(long, value_name = "DIR")]
        data: Option<PathBuf>,
        /// Decode every image
        #[arg(long)]
        decode: bool,
        #[command(flatten)]
        include: Include,
    },
    /// Make the synthetic data set `shapes`
    Make {
        #[arg(value_parser = ["shapes"])]
        dataset: String,
        /// Folder to make it in [default: $BENCH_DATA/shapes]
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
        /// Height and width of the images in pixels
        #[arg(long, default_value_t = ShapesSpec::default().size)]
        size: usize,
        /// Unlabelled images
        #[arg(long, default_value_t = ShapesSpec::default().pretrain)]
        pretrain: usize,
        /// Labelled images for training, a multiple of 10
        #[arg(long, default_value_t = ShapesSpec::default().train)]
        train: usize,
        /// Labelled images for validation, a multiple of 10
        #[arg(long, default_value_t = ShapesSpec::default().val)]
        val: usize,
        #[arg(long, default_value_t = 0)]
        seed: u64,
    },
}

pub fn data(args: DataArgs) -> CommandResult {
    match args.command {
        DataCommand::List(include) => list(&include.library()?)?,
        DataCommand::Check { dataset, data, decode, include } => {
            check(&include.library()?, &dataset, data, decode)?
        }
        DataCommand::Make { dataset: _, out, size, pretrain, train, val, seed } => {
            let Some(root) = out.or_else(|| Some(bench_data()?.join("shapes"))) else {
                return Err(anyhow::anyhow!("where to? Give --out, or set BENCH_DATA").into());
            };
            make_shapes(&ShapesSpec { size, pretrain, train, val, seed }, &root)?;
        }
    }
    Ok(())
}

/// Makes `shapes` in `root` behind a progress bar, and says what is there.
pub fn make_shapes(spec: &ShapesSpec, root: &std::path::Path) -> Result<()> {
    let bar = ProgressBar::new((spec.pretrain + spec.train_images() + spec.val_images()) as u64);
    let made = make(spec, root, &mut |done, total| match done {
        0 => eprintln!("shapes: making {total} images in `{}`", root.display()),
        _ => bar.set_position(done as u64),
    });
    bar.finish_and_clear();
    let made = made?;
    let what = if made.already_there { "is there already" } else { "made" };
    eprintln!("shapes: {what}, {} images in `{}`", made.images, made.root.display());
    Ok(())
}

fn list(library: &Library) -> Result<()> {
    for name in library.list("datasets") {
        let dataset = match Dataset::load(library, &name, &Formats::builtin()) {
            Ok(dataset) => dataset,
            Err(error) => {
                eprintln!("warning: {error}");
                continue;
            }
        };
        let place = match dataset.root(None, bench_data().as_deref()) {
            Ok(root) => format!("in {}", root.display()),
            Err(_) => "not there".into(),
        };
        let splits: Vec<&str> = dataset.splits.keys().map(String::as_str).collect();
        print(format_args!("{name:<18} {:<10} splits {:<34} {place}", dataset.version, splits.join(", ")))?;
    }
    Ok(())
}

fn check(library: &Library, name: &str, data: Option<PathBuf>, decode: bool) -> Result<()> {
    let dataset = Dataset::load(library, name, &Formats::builtin())?;
    let root = dataset.root(data.as_deref(), bench_data().as_deref())?;
    let report = dataset.check(&root, decode);
    ensure!(!report.is_empty(), "data set `{name}` has no splits");
    let mut problems = 0;
    for split in &report {
        print(split)?;
        problems += split.problems.len();
    }
    if problems > 0 {
        bail!("data set `{name}` in `{}`: {problems} problems", root.display());
    }
    Ok(())
}
