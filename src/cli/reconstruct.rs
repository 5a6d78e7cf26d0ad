//! `bench reconstruct`: the mosaic of a masked autoencoder, or the pairs of a tokenizer.

use super::flags::{RequestFlags, SiteFlags};
use super::{CommandResult, print};
use crate::config::{Choice, Pretrain, RunConfig, Stage, read};
use crate::data::augment::Augmentations;
use crate::data::{Annotation, Dataset, Entry, Formats, ImageRef, SampleId};
use crate::engine::{Pretrained, reconstruct as draw};
use crate::launch::{Site, find_weights};
use crate::record::write_atomic;
use crate::registry::Registry;
use crate::weights::{Contents, WeightFile};
use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use std::io::Cursor;
use std::path::{Path, PathBuf};

#[derive(Args, Debug)]
pub struct ReconstructArgs {
    /// A pre-training run, or a weights file with a decoder
    weights: String,
    /// Images to fill in [default: the first ones that the run was trained on]
    images: Vec<PathBuf>,
    /// The picture to write (never overwritten)
    #[arg(long, value_name = "PNG", default_value = "reconstruction.png")]
    out: PathBuf,
    /// Rows, when no images are named
    #[arg(long, default_value_t = 8)]
    count: usize,
    /// Model of a checkpoint that does not name its own
    #[arg(long)]
    model: Option<String>,
    /// Pre-training recipe of a checkpoint that does not name its own
    #[arg(long)]
    recipe: Option<String>,
    /// Root of the data set of the run [default: that of the run, or $BENCH_DATA/<data set>]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    #[command(flatten)]
    site: SiteFlags,
}

pub fn reconstruct(registry: &Registry, args: ReconstructArgs) -> CommandResult {
    let context = args.site.context()?;
    let site = context.site(registry);
    if args.out.extension().is_none_or(|end| !end.eq_ignore_ascii_case("png")) {
        return Err(anyhow::anyhow!("--out {}: expected a name that ends in .png", args.out.display()).into());
    }
    if args.out.exists() {
        return Err(anyhow::anyhow!("`{}` exists; choose another --out", args.out.display()).into());
    }
    let weights = find_weights(&site, "weights", &args.weights)?;
    let pretrained = match Pretrained::of(&weights)? {
        Some(pretrained) => pretrained,
        None => named(&site, &args, &weights)?,
    };
    let entries = match args.images.is_empty() {
        false => args.images.iter().map(|path| entry(path)).collect(),
        true => trained_on(&site, &weights, args.data.as_deref(), args.count)?,
    };
    write(&weights, &pretrained, entries, &site, &args.out)?;
    Ok(())
}

/// Draws and writes the picture; says where.
pub fn write(
    weights: &Path,
    pretrained: &Pretrained,
    entries: Vec<Entry>,
    site: &Site,
    out: &Path,
) -> Result<()> {
    let tokenizer = pretrained.tokenizer().map(|name| find_weights(site, "tokenizer", name)).transpose()?;
    let picture = draw(weights, pretrained, tokenizer.as_deref(), entries, &site.device)?;
    let mut png = Cursor::new(vec![]);
    picture.write_to(&mut png, image::ImageFormat::Png)?;
    write_atomic(out, png.get_ref()).with_context(|| format!("cannot write `{}`", out.display()))?;
    let panels = match pretrained {
        Pretrained::Autoencoder { .. } => {
            "original, masked, reconstruction, reconstruction and visible patches"
        }
        Pretrained::Tokenizer { .. } => "original, and what its tokens keep of it",
    };
    print(format_args!("{}: {panels}", out.display()))?;
    Ok(())
}

fn entry(path: &Path) -> Entry {
    Entry {
        id: SampleId::new(path.to_string_lossy()),
        image: ImageRef::File(path.into()),
        annotation: Annotation::None,
    }
}

/// Model and objective by name, for checkpoints of other programs.
fn named(site: &Site, args: &ReconstructArgs, weights: &Path) -> Result<Pretrained> {
    let choice = Choice {
        library: site.library,
        overrides: &RequestFlags::default().set,
        owner: &Augmentations::builtin(),
    };
    if let (Some(model), None) = (&args.model, &args.recipe) {
        let discrete = Contents::of(WeightFile::open(weights)?.entries()) == Contents::Tokenizer;
        if discrete {
            return Ok(Pretrained::Tokenizer { model: Box::new(choice.model(model, None)?) });
        }
    }
    let (Some(model), Some(recipe)) = (&args.model, &args.recipe) else {
        bail!(
            "`{}` does not say which model and target it belongs to: give --model and --recipe (for example \
             --model vit_b16 --recipe mae_800)",
            weights.display()
        )
    };
    let recipe = choice.recipe(Stage::Pretrain, recipe, (model, ""))?;
    let Some(Pretrain::Mae(mae)) = recipe.pretrain else { bail!("the recipe has no MAE objective") };
    let model = Box::new(choice.model(model, None)?);
    Ok(Pretrained::Autoencoder { model, mae: Box::new(mae) })
}

/// The first `count` entries of the split that the run beside `weights` was trained on.
pub fn trained_on(site: &Site, weights: &Path, data: Option<&Path>, count: usize) -> Result<Vec<Entry>> {
    let config = weights.parent().map(|folder| folder.join("config.toml")).filter(|file| file.is_file());
    let Some(config) = config else {
        bail!("which images? Name some, `{}` is not in a run", weights.display())
    };
    let RunConfig { run, .. } = read(&config)?;
    let data = data.or(run.data.as_deref());
    let dataset = match (run.dataset.as_str(), data) {
        ("folder", Some(path)) => Dataset::from_folder(path)?,
        (name, _) => Dataset::load(site.library, name, &Formats::builtin())?,
    };
    let root = dataset.root(data, site.bench_data.as_deref())?;
    let mut entries = dataset.index(&root, &run.split)?.entries;
    ensure!(count > 0, "--count 0: at least 1 is needed");
    // Spread over the split: the first ones are often of one class.
    let step = (entries.len() / count).max(1);
    entries = entries.into_iter().step_by(step).take(count).collect();
    Ok(entries)
}
