//! The loader on one thread: from JPEG files to a normalised batch of pre-training at 224.

use super::Case;
use super::models::configuration;
use anyhow::{Context, Result, ensure};
use bench::components::Components;
use bench::config::{RunConfig, Stage};
use bench::data::{Annotation, Entry, ImageRef, SampleId};
use bench::engine::{Control, IndexedSplits, LoaderSpec, Pretrained, RunInputs, Silent};
use candle_core::Device;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// One step reads every file of `folder` once.
pub fn loader(folder: &Path) -> Result<Case> {
    let (model, recipe) = configuration(Stage::Pretrain, "mae_800", "vit_b16")?;
    let entries = entries(folder)?;
    let images = entries.len();
    ensure!(images > 0, "no files in `{}`", folder.display());
    let config = RunConfig { recipe, ..Pretrained::new(model, None)?.config };
    let (splits, components) =
        (IndexedSplits { train: Arc::new(entries), ..IndexedSplits::default() }, Components::builtin());
    let run = RunInputs {
        config: &config,
        splits: &splits,
        protocol: &[],
        init: None,
        tokenizer: None,
        components: &components,
        device: &Device::Cpu,
        workers: 0,
        control: &Control { stop: &AtomicBool::new(false), observer: &Silent },
    };
    let loader = run.image_loader(LoaderSpec { batch: images, ..LoaderSpec::training(&run) })?;
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
