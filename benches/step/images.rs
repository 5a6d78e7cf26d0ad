//! The loader on one thread: from JPEG files to a normalised batch of pre-training at 224.

use super::Case;
use anyhow::{Context, Result, ensure};
use bench::config::{Choice, Library, Stage};
use bench::data::augment::{Augmentations, Pipeline};
use bench::data::loader::{Loader, LoaderConfig};
use bench::data::{Annotation, Entry, ImageRef, SampleId};
use candle_core::Device;
use std::path::Path;
use std::sync::Arc;

/// One step reads every file of `folder` once.
pub fn loader(folder: &Path) -> Result<Case> {
    let (library, model) = (Library::default(), "vit_b16");
    let choice = Choice { library: &library, overrides: &[], owner: &Augmentations::builtin() };
    let (model, recipe) =
        (choice.model(model, None)?, choice.recipe(Stage::Pretrain, "mae_800", (model, ""))?);
    let pipeline = Pipeline::new(
        &Augmentations::builtin(),
        &recipe.augment,
        None,
        &model.normalize(),
        model.image,
        model.channels,
    )
    .map_err(anyhow::Error::msg)?;
    let entries = entries(folder)?;
    let images = entries.len();
    ensure!(images > 0, "no files in `{}`", folder.display());
    let config = LoaderConfig {
        seed: 0,
        batch: images,
        workers: 0,
        prefetch: 0,
        shuffle: true,
        drop_last: true,
        allowed_skips: 0,
        channels: model.channels,
    };
    let loader =
        Loader::new(Arc::new(entries), Arc::new(|_: &Entry| Ok(())), Arc::new(pipeline), config, Device::Cpu);
    let mut epoch = 0;
    let step = move || {
        epoch += 1;
        loader.epoch(epoch, 0).next().context("the loader is empty")??;
        Ok(())
    };
    Ok(Case { images, parameters: 0, trainable: 0, step: Box::new(step) })
}

/// The files of a folder, in order.
fn entries(folder: &Path) -> Result<Vec<Entry>> {
    let files = std::fs::read_dir(folder).with_context(|| format!("cannot list `{}`", folder.display()))?;
    let mut paths = files.map(|file| Ok(file?.path())).collect::<std::io::Result<Vec<_>>>()?;
    paths.sort();
    let entry = |path: std::path::PathBuf| Entry {
        id: SampleId::new(path.display().to_string()),
        image: ImageRef::File(path),
        annotation: Annotation::None,
    };
    Ok(paths.into_iter().map(entry).collect())
}
