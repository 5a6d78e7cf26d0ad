//! A training step of UperNet on a small ViT: backbone, pyramid, decoder and auxiliary head, both losses at the
//! resolution of the labels. Relative positions are left out on both sides.

use super::models::{SEED, TRAIN, batch, configuration, training};
use super::{Case, Machine};
use anyhow::{Context, Result};
use bench::config::{Stage, parse_table};
use bench::data::{DatasetInfo, Raster};
use bench::engine::TaskModel;
use bench::kinds::SegmentationTask;
use bench::kinds::segmentation::{SegmentationOptions, SegmentationTarget};
use bench::models::{BackboneSpec, BackboneUsage, Backbones};
use bench::nn::Params;
use bench::task::Task;
use std::sync::Arc;

const CLASSES: usize = 11;

/// The recipe `upernet_small` on `name`.
pub fn upernet(name: &str, on: &Machine) -> Result<Case> {
    let (model, recipe) = configuration(Stage::Transfer, "upernet_small", name)?; // at the model's own input size
    let settings = recipe.transfer.as_ref().context("the recipe is not one of a transfer")?;
    let head = parse_table(settings.head.clone(), "[transfer.head]")?;
    let classes = (0..CLASSES).map(|class| class.to_string()).collect();
    let data = DatasetInfo { name: "random".into(), version: "1".into(), classes, ..DatasetInfo::default() };
    let task = SegmentationTask::new(SegmentationOptions::default(), head, &data)?;
    let params = Params::new(SEED, &on.device).computing_in(on.precision);
    let spec = BackboneSpec { width: model.width, depth: model.depth, patch: model.patch };
    let head = task.head(&spec, params.builder())?;
    let options = BackboneUsage { drop_path: recipe.drop_path, ..BackboneUsage::default() };
    let backbone = Backbones::builtin().build(&model, options, params.builder(), None)?;
    let objective = TaskModel { task: Arc::new(task), backbone, head };
    let [height, width] = model.image;
    let labels = |i: usize| {
        let label = |at: usize| ((at / 7 + at / width / 5 + i) % CLASSES) as u16;
        SegmentationTarget::new(Raster::new(height, width, (0..height * width).map(label).collect()), None)
    };
    let batch = batch(on.batch.unwrap_or(TRAIN), &model, on, labels)?;
    training(&model, &recipe, &params, objective, batch)
}
