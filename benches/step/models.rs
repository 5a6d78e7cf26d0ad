//! Whole steps of models of `configs/models` under recipes of `configs/`, on one batch of random images: the
//! step of `bench::engine`, without loader, log and checkpoints.

use super::{Case, Machine};
use anyhow::{Context, Result, ensure};
use bench::components::Components;
use bench::config::{Choice, Library, ModelConfig, Recipe, Stage, parse_table};
use bench::data::loader::Loaded;
use bench::data::{Batch, DatasetInfo, SampleId, SourceTransform};
use bench::engine::{Plan, TaskModel, Trainer, TrainerInputs};
use bench::kinds::classification::{
    ClassTarget, ClassificationHeadConfig, ClassificationOptions, ClassificationTask,
};
use bench::models::{BackboneSpec, BackboneUsage, Backbones};
use bench::nn::{Params, Pass};
use bench::ops::no_grad;
use bench::pretrain::{MaeOptions, MaskedAutoencoder, Objective, Pretraining};
use bench::rng::Rng;
use bench::task::{Head, Task};
use candle_core::Tensor;
use rand_distr::{Distribution, StandardNormal};
use std::sync::Arc;

pub(super) const SEED: u64 = 0;
/// Images of a training step and of a forward pass.
pub(super) const TRAIN: usize = 8;
const FORWARD: usize = 16;
const CLASSES: usize = 1000;
/// Steps of an epoch, for the schedule.
const EPOCH: usize = 1000;

/// A step of pre-training: mask ratio 0.75, normalised pixels.
pub fn mae(name: &str, on: &Machine) -> Result<Case> {
    pretraining(name, false, on)
}

/// The same with mask tokens in the encoder, which then works on all tokens (arXiv:2111.06377 Tables 1c and 2).
pub fn mae_on_all_tokens(name: &str, on: &Machine) -> Result<Case> {
    pretraining(name, true, on)
}

fn pretraining(name: &str, mask_tokens_in_encoder: bool, on: &Machine) -> Result<Case> {
    let (model, recipe) = configuration(Stage::Pretrain, "mae_800", name)?;
    let table = recipe.pretrain.as_ref().context("the recipe is not one of pre-training")?;
    let mae = &MaeOptions { mask_tokens_in_encoder, ..table.parse()? };
    let params = Params::new(SEED, &on.device).computing_in(on.precision);
    let objective = MaskedAutoencoder::new(&model, mae, None, params.builder())?;
    params.set_trainable(|name| objective.learns(name));
    training(&model, &recipe, &params, objective, batch(on.batch.unwrap_or(TRAIN), &model, on, |_| ())?)
}

/// A step of fine-tuning: layer decay, drop path, label smoothing, without mixup and cutmix.
pub fn finetune(name: &str, on: &Machine) -> Result<Case> {
    let (model, recipe) = configuration(Stage::Transfer, "finetune", name)?;
    let options = BackboneUsage { drop_path: recipe.drop_path, ..BackboneUsage::default() };
    let (params, objective) = classifier(&model, &recipe, options, on)?;
    training(&model, &recipe, &params, objective, labelled(on.batch.unwrap_or(TRAIN), &model, on)?)
}

/// The loss of a linear probe on frozen features, without the step of its one layer.
pub fn linear_probe_forward(name: &str, on: &Machine) -> Result<Case> {
    let (model, recipe) = configuration(Stage::Transfer, "linear", name)?;
    let options = BackboneUsage { final_norm: true, frozen: model.depth, ..BackboneUsage::default() };
    let (params, objective) = classifier(&model, &recipe, options, on)?;
    params.set_trainable(|name| name.starts_with("head."));
    let images = on.batch.unwrap_or(FORWARD);
    let batch = labelled(images, &model, on)?;
    let mut rng = Rng::new(SEED, "pass", &[]);
    forward(&params, images, move || {
        let loss = objective.losses(&batch, &mut Pass::train(&mut rng))?.total()?;
        ensure!(loss.to_scalar::<f32>()?.is_finite(), "the loss is not finite");
        Ok(())
    })
}

/// The predictions of a fine-tuned model.
pub fn eval(name: &str, on: &Machine) -> Result<Case> {
    let (model, recipe) = configuration(Stage::Transfer, "finetune", name)?;
    let (params, TaskModel { backbone, head, .. }) =
        classifier(&model, &recipe, BackboneUsage::default(), on)?;
    let images = on.batch.unwrap_or(FORWARD);
    let batch = labelled(images, &model, on)?;
    forward(&params, images, move || {
        let predictions = no_grad(|| {
            let features = backbone.forward(&batch.images, head.taps(), &mut Pass::Eval)?;
            head.predict(&features, &batch.source_transforms)
        })?;
        ensure!(predictions.iter().flatten().all(|score| score.is_finite()), "a score is not finite");
        Ok(())
    })
}

pub(super) fn configuration(stage: Stage, recipe: &str, model: &str) -> Result<(ModelConfig, Recipe)> {
    let (library, owners) = (Library::default(), Components::builtin());
    let choice = Choice { library: &library, owners: &owners, overrides: &[] };
    Ok((choice.model(model, None)?, choice.recipe(stage, recipe, (model, ""))?))
}

/// The drop path, windows and relative positions of a recipe.
pub(super) fn usage_of(recipe: &Recipe) -> BackboneUsage {
    let attention = recipe.transfer.as_ref().and_then(|transfer| transfer.attention.clone());
    BackboneUsage { drop_path: recipe.drop_path, attention, ..BackboneUsage::default() }
}

/// A backbone with a head for [`CLASSES`] classes.
fn classifier(
    model: &ModelConfig,
    recipe: &Recipe,
    options: BackboneUsage,
    on: &Machine,
) -> Result<(Params, TaskModel<ClassificationTask>)> {
    let settings = recipe.transfer.as_ref().context("the recipe is not one of a transfer")?;
    let training: ClassificationHeadConfig = parse_table(settings.head.clone(), "[transfer.head]")?;
    let classes = (0..CLASSES).map(|class| class.to_string()).collect();
    let data = DatasetInfo { name: "random".into(), version: "1".into(), classes, ..DatasetInfo::default() };
    let task = ClassificationTask::new(ClassificationOptions::default(), training, &data)?;
    let params = Params::new(SEED, &on.device).computing_in(on.precision);
    let spec = BackboneSpec { width: model.width, depth: model.depth, patch: model.patch };
    let head = task.head(&spec, params.builder())?;
    let backbone = Backbones::builtin().build(model, options, params.builder(), None)?;
    Ok((params, TaskModel { task: Arc::new(task), backbone, head }))
}

/// One batch of Gaussian images, as normalised images are.
pub(super) fn batch<T>(
    count: usize,
    model: &ModelConfig,
    on: &Machine,
    target: impl Fn(usize) -> T,
) -> Result<Batch<T>> {
    let [height, width] = model.image;
    let shape = (count, model.channels, height, width);
    let pixels = count * model.channels * height * width;
    let mut rng = Rng::new(SEED, "images", &[]);
    let pixels: Vec<f32> = (0..pixels).map(|_| StandardNormal.sample(&mut rng)).collect();
    Ok(Batch {
        ids: (0..count).map(|i| SampleId::new(i.to_string())).collect(),
        images: Tensor::from_vec(pixels, shape, &on.device)?,
        views: vec![],
        source_transforms: vec![SourceTransform::new((height, width)); count],
        targets: (0..count).map(target).collect(),
    })
}

fn labelled(count: usize, model: &ModelConfig, on: &Machine) -> Result<Batch<ClassTarget>> {
    batch(count, model, on, |i| ClassTarget::Label((i * 61 % CLASSES) as u32))
}

/// The training step of a run ([`Trainer::step`]) on one batch, without mixing.
pub(super) fn training<O: Objective + 'static>(
    model: &ModelConfig,
    recipe: &Recipe,
    params: &Params,
    objective: O,
    batch: Batch<O::Target>,
) -> Result<Case>
where
    O::Target: Clone + 'static,
{
    let images = batch.len();
    let recipe = Recipe { batch: images, micro_batch: None, ..recipe.clone() };
    // A case lives as long as the process.
    let (recipe, params, objective): (&'static Recipe, &'static Params, &'static O) =
        (Box::leak(Box::new(recipe)), Box::leak(Box::new(params.clone())), Box::leak(Box::new(objective)));
    let mut trainer = Trainer::new(TrainerInputs {
        recipe,
        plan: Plan::new(recipe, EPOCH * images)?,
        seed: SEED,
        objective,
        params,
        layers: model.depth + 1,
        mix: &|_, _| Ok(()),
    })?;
    let (parameters, trainable, mut steps) = (params.count(), trainer.trainable(), 0);
    let step = move || {
        let loaded = Loaded { batch: batch.clone(), skipped: vec![] };
        trainer.step(steps % trainer.plan().steps, &mut std::iter::once(Ok(loaded)), &mut |_| Ok(()))?;
        steps += 1;
        Ok(())
    };
    Ok(Case { images, parameters, trainable, step: Box::new(step) })
}

pub(super) fn forward(
    params: &Params,
    images: usize,
    step: impl FnMut() -> Result<()> + 'static,
) -> Result<Case> {
    let trainable = params.trainable().iter().map(|parameter| parameter.var.elem_count()).sum();
    Ok(Case { images, parameters: params.count(), trainable, step: Box::new(step) })
}
