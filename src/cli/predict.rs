//! `bench predict`: applies trained weights to images, draws the predictions and writes them to files.

use super::flags::{PlaceFlags, catch_ctrl_c};
use super::output::duration;
use super::{CommandResult, Failure, print};
use crate::data::Orientation;
use crate::data::formats::images_below;
use crate::engine::{IndexedSplits, Pictures};
use crate::registry::Registry;
use crate::runs::{TrainedModel, trained};
use crate::task::DrawOptions;
use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::Args;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

#[derive(Args, Debug)]
pub(super) struct PredictArgs {
    /// Images and folders of images
    #[arg(required = true, value_name = "IMAGE|FOLDER")]
    images: Vec<PathBuf>,
    /// Id or folder of a transfer run, or a weights file of one
    #[arg(long, value_name = "RUN|FILE")]
    weights: String,
    /// Folder to write pictures and predictions to
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Name or path of the task whose evaluation protocol prepares the images [default: that of the run]
    #[arg(long)]
    task: Option<String>,
    /// Draw only predictions with at least this score, for kinds whose predictions have scores
    #[arg(long, default_value_t = 0.5)]
    threshold: f32,
    /// Images per forward pass [default: the run's micro-batch]
    #[arg(long, value_name = "N")]
    batch: Option<usize>,
    /// Use the stored pixels, instead of turning images as their EXIF data say
    #[arg(long)]
    ignore_orientation: bool,
    /// Overwrite existing files
    #[arg(long)]
    force: bool,
    /// Root folder of the run's data set; needed only if the weights do not name their classes
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    #[command(flatten)]
    place: PlaceFlags,
}

pub(super) fn predict(registry: &Registry, args: PredictArgs) -> CommandResult {
    let context = args.place.with_includes_of(&args.weights).context()?;
    let runs = context.run_context(registry);
    if !(0. ..=1.).contains(&args.threshold) {
        return Err(anyhow!("--threshold {}: expected a number from 0 to 1", args.threshold).into());
    }
    let images = named(&args.images)?;
    let TrainedModel { weights, mut config, manifest, task } =
        trained(&runs, &args.weights, args.task.as_deref(), args.data.as_deref())?;
    match args.batch {
        Some(0) => return Err(anyhow!("--batch 0: at least 1 is required").into()),
        Some(batch) => config.recipe.micro_batch = Some(batch),
        None => {}
    }
    let how = DrawOptions { threshold: args.threshold, truth: false };
    let orientation = if args.ignore_orientation { Orientation::Ignore } else { Orientation::Apply };
    let pictures = Pictures { images: &images, folder: &args.out, how, orientation };
    free(&task.files(&pictures), args.force)?;
    std::fs::create_dir_all(&args.out).with_context(|| format!("cannot make `{}`", args.out.display()))?;
    catch_ctrl_c()?;
    let splits = IndexedSplits::default();
    let inputs = runs.inputs(&config, &splits, &manifest.eval);
    let predicted = task.predict(&inputs, &weights, &pictures).map_err(Failure::Run)?;
    context.screen().clear();
    for (file, reason) in &predicted.unreadable {
        eprintln!("cannot read `{}`: {reason}", file.display());
    }
    print(format_args!(
        "{} image{} predicted in {}, {} drawn; everything is in {}",
        predicted.images,
        if predicted.images == 1 { "" } else { "s" },
        duration(predicted.elapsed),
        predicted.drawn,
        args.out.display()
    ))?;
    match predicted.unreadable.len() {
        _ if runs.control.stopped() => {
            let left = images.len() - predicted.images - predicted.unreadable.len();
            Err(Failure::Run(anyhow!("stopped; {left} of {} images have not been predicted", images.len())))
        }
        0 => Ok(()),
        n => Err(Failure::Run(anyhow!("{n} of {} images cannot be read", images.len()))),
    }
}

/// All images, each once, with the name of its output: the path below the named folder (or the file name), without the
/// extension if it is unique without it.
fn named(arguments: &[PathBuf]) -> Result<Vec<(PathBuf, String)>> {
    let mut found: Vec<(PathBuf, PathBuf)> = vec![];
    for argument in arguments {
        if argument.is_dir() {
            for path in images_below(argument)? {
                let below = path.strip_prefix(argument).unwrap_or(&path).to_path_buf();
                found.push((path, below));
            }
        } else {
            ensure!(argument.is_file(), "`{}` is neither an image nor a folder", argument.display());
            found.push((argument.clone(), argument.file_name().unwrap_or_default().into()));
        }
    }
    let mut seen = BTreeSet::new();
    found.retain(|(path, _)| seen.insert(path.canonicalize().unwrap_or_else(|_| path.clone())));
    let mut shared: BTreeMap<PathBuf, usize> = BTreeMap::new();
    for (_, below) in &found {
        *shared.entry(below.with_extension("")).or_default() += 1;
    }
    let name = |(path, below): (PathBuf, PathBuf)| {
        let stem = below.with_extension("");
        let name = if shared[&stem] > 1 { &below } else { &stem };
        (path, name.to_string_lossy().replace('\\', "/"))
    };
    let images: Vec<(PathBuf, String)> = found.into_iter().map(name).collect();
    let mut by_name = BTreeMap::new();
    for (path, name) in &images {
        if let Some(other) = by_name.insert(name, path) {
            bail!(
                "`{}` and `{}` would both be drawn as `{name}.png`; predict them into different folders",
                other.display(),
                path.display()
            );
        }
    }
    Ok(images)
}

/// Refuses to overwrite existing files, unless `force` is set.
fn free(files: &[PathBuf], force: bool) -> Result<()> {
    let existing: Vec<&PathBuf> = files.iter().filter(|file| file.exists()).collect();
    let Some(first) = existing.first().filter(|_| !force) else { return Ok(()) };
    let more = match existing.len() {
        1 => String::new(),
        n => format!(" and {} more files", n - 1),
    };
    bail!("`{}`{more} would be overwritten; choose another --out, or use --force", first.display())
}

#[cfg(test)]
mod tests {
    use super::named;

    #[test]
    fn images_are_there_once_and_have_names_of_their_own() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name);
        for name in ["gray.jpg", "gray.png", "other.png", "street/other.png"] {
            std::fs::create_dir_all(file(name).parent().unwrap()).unwrap();
            std::fs::write(file(name), "").unwrap();
        }
        let found = named(&[folder.path().into(), file("other.png")]).unwrap();
        let names: Vec<&str> = found.iter().map(|(_, name)| name.as_str()).collect();
        assert_eq!(names, ["gray.jpg", "gray.png", "other", "street/other"]);
        let error = named(&[file("other.png"), file("street/other.png")]).unwrap_err().to_string();
        assert!(error.contains("would both be drawn as `other.png.png`"), "{error}");
    }
}
