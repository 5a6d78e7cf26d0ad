//! A training step of UperNet: backbone, pyramid, decoder and auxiliary head, both losses at the resolution of the labels. The
//! small model has no relative positions on both sides; the large one is the recipe `upernet`.

use super::models::{SEED, TRAIN, batch, configuration, training, usage_of};
use super::{Case, Machine};
use anyhow::{Context, Result};
use bench::config::{ModelConfig, Recipe, Stage, parse_table};
use bench::data::{DatasetInfo, Raster};
use bench::engine::TaskModel;
use bench::kinds::SegmentationTask;
use bench::kinds::segmentation::{SegmentationOptions, SegmentationTarget};
use bench::models::{BackboneSpec, BackboneUsage, Backbones};
use bench::nn::Params;
use bench::task::Task;
use std::sync::Arc;

/// The recipe `upernet_small` on `name` at the model's own input size, 11 classes.
pub fn small(name: &str, on: &Machine) -> Result<Case> {
    let (model, recipe) = configuration(Stage::Transfer, "upernet_small", name)?;
    let usage = BackboneUsage { attention: None, ..usage_of(&recipe) };
    upernet(&model, &recipe, usage, (11, TRAIN), on)
}

/// The recipe `upernet` on `name` at 512 pixels, 150 classes.
pub fn large(name: &str, on: &Machine) -> Result<Case> {
    let (model, recipe) = configuration(Stage::Transfer, "upernet", name)?;
    upernet(&ModelConfig { image: [512; 2], ..model }, &recipe, usage_of(&recipe), (150, TRAIN / 2), on)
}

fn upernet(
    model: &ModelConfig,
    recipe: &Recipe,
    usage: BackboneUsage,
    (classes, images): (usize, usize),
    on: &Machine,
) -> Result<Case> {
    let settings = recipe.transfer.as_ref().context("the recipe is not one of a transfer")?;
    let head = parse_table(settings.head.clone(), "[transfer.head]")?;
    let names = (0..classes).map(|class| class.to_string()).collect();
    let data =
        DatasetInfo { name: "random".into(), version: "1".into(), classes: names, ..DatasetInfo::default() };
    let task = SegmentationTask::new(SegmentationOptions::default(), head, &data)?;
    let params = Params::new(SEED, &on.device).computing_in(on.precision);
    let spec = BackboneSpec { width: model.width, depth: model.depth, patch: model.patch };
    let head = task.head(&spec, params.builder())?;
    let backbone = Backbones::builtin().build(model, usage, params.builder(), None)?;
    let objective = TaskModel { task: Arc::new(task), backbone, head };
    let [height, width] = model.image;
    let labels = |i: usize| {
        let label = |at: usize| ((at / 7 + at / width / 5 + i) % classes) as u16;
        SegmentationTarget::new(Raster::new(height, width, (0..height * width).map(label).collect()), None)
    };
    let batch = batch(on.batch.unwrap_or(images), model, on, labels)?;
    training(model, recipe, &params, objective, batch)
}
