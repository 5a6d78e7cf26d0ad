//! Mask R-CNN: a training step and predictions of a small ViT with the defaults of the heads made narrower, without norms and
//! windows, and a training step of the recipe `maskrcnn` at 1024 pixels. The other side builds the same from torchvision's
//! parts (`scripts/pytorch/detector.py`).

use super::models::{SEED, batch, configuration, forward, training, usage_of};
use super::{Case, Machine};
use anyhow::{Context, Result, ensure};
use bench::config::{ModelConfig, Recipe, Stage, parse_table};
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
const OBJECTS: usize = 6;

/// Sizes of a case.
#[derive(Clone, Copy)]
pub struct Setup {
    recipe: &'static str,
    /// Height and width of the images in pixels.
    side: usize,
    classes: usize,
    /// `[transfer.head]`; that of the recipe, with its windows, relative positions and drop path, if absent.
    head: Option<&'static str>,
}

/// Images of 128 pixels.
pub const SMALL: Setup = Setup { recipe: "maskrcnn_small", side: 128, classes: 20, head: Some(SMALL_HEAD) };
/// The recipe of Li et al. on COCO.
pub const LARGE: Setup = Setup { recipe: "maskrcnn", side: 1024, classes: 80, head: None };

const SMALL_HEAD: &str = "
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

fn build(
    name: &str,
    setup: Setup,
    on: &Machine,
) -> Result<(ModelConfig, Recipe, Params, TaskModel<DetectionTask>)> {
    let (model, recipe) = configuration(Stage::Transfer, setup.recipe, name)?;
    let model = ModelConfig { image: [setup.side; 2], ..model };
    let transfer = recipe.transfer.as_ref().context("the recipe is not one of a transfer")?;
    let classes = (0..setup.classes).map(|class| class.to_string()).collect();
    let data = DatasetInfo { name: "random".into(), classes, ..DatasetInfo::default() };
    let (head, options, usage) = match setup.head {
        // Whatever its weights, the model finds as many boxes as may be: every one has a mask.
        Some(head) => (
            head.parse().context("the head's options")?,
            DetectionOptions { score_threshold: Some(0.), ..DetectionOptions::default() },
            BackboneUsage::default(),
        ),
        None => (transfer.head.clone(), DetectionOptions::default(), usage_of(&recipe)),
    };
    let task = DetectionTask::new(options, parse_table(head, "[transfer.head]")?, &data)?;
    let params = Params::new(SEED, &on.device).computing_in(on.precision);
    let spec = BackboneSpec { width: model.width, depth: model.depth, patch: model.patch };
    let head = task.head(&spec, params.builder())?;
    let backbone = Backbones::builtin().build(&model, usage, params.builder(), None)?;
    Ok((model, recipe, params, TaskModel { task: Arc::new(task), backbone, head }))
}

/// Boxes that differ in position and size; the mask of an object is its box.
fn objects(image: usize, setup: Setup) -> Result<DetectionTarget> {
    let object = |i: usize| {
        let [w, h] = [20 + 13 * i, 16 + 11 * ((i + image) % OBJECTS)];
        let [x, y] = [7 * i + 3 * image % 30, 5 * i + image % 20];
        let [x, y, w, h] = [x, y, w, h].map(|value| (value * setup.side / 128) as f64);
        let ring = vec![x, y, x + w, y, x + w, y + h, x, y + h];
        let segmentation = Segmentation::Polygons(vec![ring]);
        let label = ((i + image) % setup.classes) as u32;
        Object { label, bbox: [x, y, w, h], segmentation, crowd: false, area: w * h }
    };
    let objects = (0..OBJECTS).map(object).collect();
    let image = Objects {
        image_id: (image as u64).into(),
        size: (setup.side, setup.side),
        objects,
        absent: vec![],
        not_exhaustive: vec![],
    };
    let entry = Entry {
        id: SampleId::new("random"),
        image: ImageRef::File("random".into()),
        annotation: Annotation::Objects(Arc::new(image)),
    };
    DetectionTarget::new(&entry, setup.classes)
}

fn images(count: usize, setup: Setup, model: &ModelConfig, on: &Machine) -> Result<Batch<DetectionTarget>> {
    let targets = (0..count).map(|image| objects(image, setup)).collect::<Result<Vec<_>>>()?;
    batch(count, model, on, |i| targets[i].clone())
}

/// A training step.
pub fn train(name: &str, setup: Setup, on: &Machine) -> Result<Case> {
    let (model, recipe, params, objective) = build(name, setup, on)?;
    let images = images(on.batch.unwrap_or(TRAIN), setup, &model, on)?;
    training(&model, &recipe, &params, objective, images)
}

/// Boxes and masks.
pub fn predict(name: &str, on: &Machine) -> Result<Case> {
    let (model, _, params, TaskModel { backbone, head, .. }) = build(name, SMALL, on)?;
    let count = on.batch.unwrap_or(FORWARD);
    let batch = images(count, SMALL, &model, on)?;
    forward(&params, count, move || {
        let found = no_grad(|| {
            let features = backbone.forward(&batch.images, head.taps(), &mut Pass::Eval)?;
            head.predict(&features, &batch.source_transforms)
        })?;
        ensure!(found.iter().all(|found| found.len() == 100), "an image has fewer than 100 detections");
        Ok(())
    })
}
