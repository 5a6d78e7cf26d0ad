//! Mask R-CNN on a small ViT with the defaults of the heads made narrower, without norms and windows: a training step and
//! predictions. The other side builds the same from torchvision's parts (`scripts/pytorch/detector.py`).

use super::models::{SEED, batch, configuration, forward, training};
use super::{Case, Machine};
use anyhow::{Context, Result, ensure};
use bench::config::{ModelConfig, Stage, parse_table};
use bench::data::{Annotation, Batch, DatasetInfo, Entry, ImageRef, Object, Objects, SampleId, Segmentation};
use bench::engine::TaskModel;
use bench::kinds::DetectionTask;
use bench::kinds::detection::{DetectionOptions, DetectionTarget};
use bench::models::{BackboneSpec, BackboneUsage, Backbones};
use bench::nn::{Params, Pass};
use bench::ops::no_grad;
use bench::task::{Head, Task};
use std::sync::Arc;

/// Images of a training step and of predictions.
const TRAIN: usize = 2;
const FORWARD: usize = 4;
const SIDE: usize = 128;
const CLASSES: usize = 20;
const OBJECTS: usize = 6;
/// `[transfer.head]`
const HEAD: &str = "
pyramid_norm = 'none'
fpn_norm = 'none'
head_norm = 'none'
channels = 128
anchor_sizes = [16, 32, 64, 96, 128]
proposals_before_nms = 500
proposals_before_nms_test = 250
proposals = 250
regions = 128
box_convs = 2
box_width = 512
mask_convs = 2
";

fn build(name: &str, on: &Machine) -> Result<(ModelConfig, Params, TaskModel<DetectionTask>)> {
    let (model, _) = configuration(Stage::Transfer, "maskrcnn_small", name)?;
    let model = ModelConfig { image: [SIDE, SIDE], ..model };
    let classes = (0..CLASSES).map(|class| class.to_string()).collect();
    let data = DatasetInfo { name: "random".into(), classes, ..DatasetInfo::default() };
    let head = parse_table(HEAD.parse().context("the head's options")?, "[transfer.head]")?;
    // Whatever its weights, the model finds as many boxes as may be: every one has a mask.
    let options = DetectionOptions { score_threshold: Some(0.), ..DetectionOptions::default() };
    let task = DetectionTask::new(options, head, &data)?;
    let params = Params::new(SEED, &on.device).computing_in(on.precision);
    let spec = BackboneSpec { width: model.width, depth: model.depth, patch: model.patch };
    let head = task.head(&spec, params.builder())?;
    let backbone = Backbones::builtin().build(&model, BackboneUsage::default(), params.builder(), None)?;
    Ok((model, params, TaskModel { task: Arc::new(task), backbone, head }))
}

/// Boxes that differ in position and size; the mask of an object is its box.
fn objects(image: usize) -> Result<DetectionTarget> {
    let object = |i: usize| {
        let (w, h) = ((20 + 13 * i) as f64, (16 + 11 * ((i + image) % OBJECTS)) as f64);
        let (x, y) = ((7 * i + 3 * image % 30) as f64, (5 * i + image % 20) as f64);
        let ring = vec![x, y, x + w, y, x + w, y + h, x, y + h];
        let segmentation = Segmentation::Polygons(vec![ring]);
        let label = ((i + image) % CLASSES) as u32;
        Object { label, bbox: [x, y, w, h], segmentation, crowd: false, area: w * h }
    };
    let objects = (0..OBJECTS).map(object).collect();
    let image = Objects {
        image_id: image as u64,
        size: (SIDE, SIDE),
        objects,
        absent: vec![],
        not_exhaustive: vec![],
    };
    let entry = Entry {
        id: SampleId::new("random"),
        image: ImageRef::File("random".into()),
        annotation: Annotation::Objects(Arc::new(image)),
    };
    DetectionTarget::new(&entry, CLASSES)
}

fn images(count: usize, model: &ModelConfig, on: &Machine) -> Result<Batch<DetectionTarget>> {
    let targets = (0..count).map(objects).collect::<Result<Vec<_>>>()?;
    batch(count, model, on, |i| targets[i].clone())
}

/// A training step.
pub fn train(name: &str, on: &Machine) -> Result<Case> {
    let (model, params, objective) = build(name, on)?;
    let (_, recipe) = configuration(Stage::Transfer, "maskrcnn_small", name)?;
    let images = images(on.batch.unwrap_or(TRAIN), &model, on)?;
    training(&model, &recipe, &params, objective, images)
}

/// Boxes and masks.
pub fn predict(name: &str, on: &Machine) -> Result<Case> {
    let (model, params, TaskModel { backbone, head, .. }) = build(name, on)?;
    let count = on.batch.unwrap_or(FORWARD);
    let batch = images(count, &model, on)?;
    forward(&params, count, move || {
        let found = no_grad(|| {
            let features = backbone.forward(&batch.images, head.taps(), &mut Pass::Eval)?;
            head.predict(&features, &batch.source_transforms)
        })?;
        ensure!(found.iter().all(|found| found.len() == 100), "an image has fewer than 100 detections");
        Ok(())
    })
}
