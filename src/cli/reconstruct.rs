//! `bench reconstruct`: draws the reconstructions of a masked autoencoder or of a tokenizer.

use super::flags::PlaceFlags;
use super::{CommandResult, print};
use crate::config::{RunConfig, Stage, read};
use crate::data::{Annotation, Dataset, Entry, ImageRef, SampleId};
use crate::engine::{IndexedSplits, Pretrained, RunInputs, reconstruct as draw};
use crate::pretrain::TokenizerUse;
use crate::record::write_atomic;
use crate::registry::Registry;
use crate::runs::{RunContext, find_weights};
use crate::weights::{Contents, WeightFile};
use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use std::io::Cursor;
use std::path::{Path, PathBuf};

#[derive(Args, Debug)]
pub(super) struct ReconstructArgs {
    /// Id or folder of a pre-training run, or a weights file with a decoder
    weights: String,
    /// Images to reconstruct [default: images from the split that the run was trained on]
    images: Vec<PathBuf>,
    /// Picture to write; an existing file is not overwritten
    #[arg(long, value_name = "PNG", default_value = "reconstruction.png")]
    out: PathBuf,
    /// Number of images to take from the data set if none are named
    #[arg(long, default_value_t = 8)]
    count: usize,
    /// Name or path of the model, if the checkpoint does not name its own
    #[arg(long)]
    model: Option<String>,
    /// Name or path of the pre-training recipe, if the checkpoint does not name its own
    #[arg(long)]
    recipe: Option<String>,
    /// Root folder of the run's data set [default: that of the run, or $BENCH_DATA/<data set>]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    #[command(flatten)]
    place: PlaceFlags,
}

pub(super) fn reconstruct(registry: &Registry, args: ReconstructArgs) -> CommandResult {
    let context = args.place.with_includes_of(&args.weights).context()?;
    let runs = context.run_context(registry);
    if args.out.extension().is_none_or(|end| !end.eq_ignore_ascii_case("png")) {
        return Err(
            anyhow::anyhow!("--out {}: expected a file name that ends in .png", args.out.display()).into()
        );
    }
    if args.out.exists() {
        return Err(anyhow::anyhow!("`{}` exists; choose another --out", args.out.display()).into());
    }
    let weights = find_weights(&runs, "weights", &args.weights)?;
    let pretrained = match Pretrained::of(&weights, &runs.registry.components().objectives)? {
        Some(pretrained) => pretrained,
        None => named(&runs, &args, &weights)?,
    };
    let entries = match args.images.is_empty() {
        false => args.images.iter().map(|path| entry(path)).collect(),
        true => trained_on(&runs, &weights, args.data.as_deref(), args.count)?,
    };
    let panels = write(&weights, &pretrained, entries, &runs, &args.out)?;
    let objective = || pretrained.config.recipe.pretrain.as_ref().map_or("", |table| table.name.as_str());
    let panels = panels.with_context(|| format!("the objective `{}` draws no pictures", objective()))?;
    print(format_args!("{}: {panels}", args.out.display()))?;
    Ok(())
}

/// Draws and writes the picture, and returns what it shows; `None` for an objective that draws nothing.
pub(super) fn write(
    weights: &Path,
    pretrained: &Pretrained,
    entries: Vec<Entry>,
    runs: &RunContext,
    out: &Path,
) -> Result<Option<&'static str>> {
    let config = &pretrained.config;
    let objectives = &runs.registry.components().objectives;
    let tokenizer = match &config.recipe.pretrain {
        Some(table) => match objectives.facts(table, &config.model)?.tokenizer {
            TokenizerUse::Needed(name) => name,
            TokenizerUse::None => None,
        },
        None => None,
    };
    let tokenizer = tokenizer.map(|name| find_weights(runs, "tokenizer", &name)).transpose()?;
    let splits = IndexedSplits::default();
    let inputs = RunInputs { tokenizer: tokenizer.as_deref(), ..runs.inputs(config, &splits, &[]) };
    let Some(picture) = draw(&inputs, weights, entries)? else { return Ok(None) };
    let mut png = Cursor::new(vec![]);
    picture.write_to(&mut png, image::ImageFormat::Png)?;
    write_atomic(out, png.get_ref()).with_context(|| format!("cannot write `{}`", out.display()))?;
    Ok(Some(match config.recipe.pretrain.as_ref().map(|table| table.name.as_str()) {
        Some("mae") => "original, masked, reconstruction, reconstruction and visible patches",
        Some(_) => "predictions of the objective for the images",
        None => "original, reconstruction from its tokens",
    }))
}

fn entry(path: &Path) -> Entry {
    Entry {
        id: SampleId::new(path.to_string_lossy()),
        image: ImageRef::File(path.into()),
        annotation: Annotation::None,
    }
}

/// Model and objective as named on the command line, for checkpoints of other programs.
fn named(runs: &RunContext, args: &ReconstructArgs, weights: &Path) -> Result<Pretrained> {
    let choice = runs.choice(&[]);
    if let (Some(model), None) = (&args.model, &args.recipe) {
        let discrete = Contents::of(WeightFile::open(weights)?.entries()) == Contents::Tokenizer;
        if discrete {
            return Pretrained::new(choice.model(model, None)?, None);
        }
    }
    let (Some(model), Some(recipe)) = (&args.model, &args.recipe) else {
        bail!(
            "`{}` does not state its model and target: give --model and --recipe (for example --model vit_b16 \
             --recipe mae_800)",
            weights.display()
        )
    };
    let recipe = choice.recipe(Stage::Pretrain, recipe, (model, ""))?;
    Pretrained::new(choice.model(model, None)?, recipe.pretrain)
}

/// `count` entries, spread evenly over the split that the run beside `weights` was trained on.
pub(super) fn trained_on(
    runs: &RunContext,
    weights: &Path,
    data: Option<&Path>,
    count: usize,
) -> Result<Vec<Entry>> {
    let config = weights.parent().map(|folder| folder.join("config.toml")).filter(|file| file.is_file());
    let Some(config) = config else {
        bail!("name images to reconstruct: `{}` is not in the folder of a run", weights.display())
    };
    let RunConfig { run, .. } = read(&config)?;
    let data = data.or(run.data.as_deref());
    let dataset = match (run.dataset.as_str(), data) {
        ("folder", Some(path)) => Dataset::from_folder(path)?,
        _ => runs.dataset(&run.dataset_source())?,
    };
    let root = dataset.root(data, runs.bench_data.as_deref())?;
    let mut entries = dataset.index(&root, &run.split)?.entries;
    ensure!(count > 0, "--count 0: at least 1 is required");
    // The first entries of a split often belong to one class.
    let step = (entries.len() / count).max(1);
    entries = entries.into_iter().step_by(step).take(count).collect();
    Ok(entries)
}
