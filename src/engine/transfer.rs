//! A transfer run: a head on a backbone, what of it learns, and evaluation. Generic over the kind of task.

use super::evaluate::{Evaluated, evaluate};
use super::features::{CachedFeatures, OnFeatures};
use super::notes::TransferNotes;
use super::observer::Event;
use super::train::{Evaluation, Outcome, Source, Training};
use super::{Job, PREFETCH, Plan};
use crate::config::{Erase, Operation, Transfer, Tune};
use crate::data::augment::{Augmentations, Pipeline};
use crate::data::loader::{Loader, LoaderConfig};
use crate::data::{Batch, DatasetInfo, Entry};
use crate::models::{self, Backbone, VitOptions};
use crate::nn::{Losses, Params, Pass};
use crate::ops::no_grad;
use crate::pretrain::Objective;
use crate::record::{RunFolder, ScoreSpec, Scores, write_atomic};
use crate::task::{Head, Task};
use crate::weights::{self, WeightFile, load_backbone, load_exact, load_model, refuse_not_finite};
use anyhow::{Context, Result, ensure};
use std::path::Path;
use std::sync::Arc;

/// A head on a backbone.
pub(super) struct BackboneWithHead<H> {
    pub backbone: Box<dyn Backbone>,
    pub head: H,
}

impl<H: Head> Objective for BackboneWithHead<H> {
    type Target = H::Target;

    fn losses(&self, batch: &Batch<H::Target>, pass: &mut Pass) -> candle_core::Result<Losses> {
        let features = self.backbone.forward(&batch.images, self.head.taps(), pass)?;
        self.head.loss(&features, batch, pass)
    }

    fn layer_of(&self, parameter: &str) -> usize {
        self.backbone.layer_of(parameter)
    }
}

/// Trains (or fits) and evaluates, and leaves `model.safetensors` with backbone and head in `folder`.
pub fn transfer<T: Task>(
    task: &Arc<T>,
    info: &DatasetInfo,
    primary: ScoreSpec,
    job: &Job,
    folder: &RunFolder,
) -> Result<Outcome> {
    let (params, mut model) = build(task.as_ref(), job, job.init)?;
    let label = job
        .config
        .model
        .foreign
        .map(|kind| format!("{kind:?} of candle-transformers: frozen, not trainable here"));
    let metadata = TransferNotes { config: job.config.clone(), dataset: info.clone() }.add(job)?;
    let evaluation = eval_loader(task, job, job.eval.clone())?;
    if model.head.fits() {
        initialize(&params, job)?;
        fit(task, &mut model, job)?;
        let found = score(task.as_ref(), &model, &evaluation, job)?;
        weights::save(&folder.weights(), &params, &metadata)?;
        let mut outcome = Outcome::fitted(kept(found, folder)?);
        outcome.notes.extend(label);
        return Ok(outcome);
    }
    let recipe = &job.config.recipe;
    let plan = Plan::new(recipe, job.train.len())?;
    let hash = job.config.hash()?;
    let run_evaluation = || kept(score(task.as_ref(), &model, &evaluation, job)?, folder);
    let train = |source: &dyn Source<T::Target>,
                 objective: &dyn Objective<Target = T::Target>,
                 initialize: &dyn Fn() -> Result<()>| {
        let training = Training {
            recipe,
            plan,
            seed: job.config.run.seed,
            config: &hash,
            objective,
            params: &params,
            layers: job.config.model.depth + 1,
            source,
            mix: &|batch, rng| task.mix(batch, rng),
            evaluation: Some(Evaluation { run: &run_evaluation, primary }),
            folder,
            metadata: &metadata,
            max_steps: job.max_steps,
            control: job.control,
        };
        training.run(job.resume, initialize)
    };
    if !settings(job)?.cached_features {
        let loader = train_loader(task, job, plan.micro_batch)?;
        let note = accumulated_norms(&params, &plan);
        note.iter().for_each(|note| job.control.tell(Event::Note(note)));
        let mut outcome = train(&loader, &model, &|| initialize(&params, job))?;
        outcome.notes.extend(note.into_iter().chain(label));
        return Ok(outcome);
    }
    ensure!(
        !task.any_size(),
        "cached_features needs images of one size, and evaluation images of this task keep theirs"
    );
    initialize(&params, job)?; // the features need the weights, also when the head is resumed
    let unaugmented = eval_loader(task, job, job.train.clone())?;
    let cached = CachedFeatures::compute(&model, &unaugmented, plan.micro_batch, job)?;
    let on_features = OnFeatures { head: &model.head, layout: cached.layout() };
    let mut outcome = train(&cached, &on_features, &|| Ok(()))?;
    outcome.notes.extend(label);
    outcome.notes.push("cached features: computed once, without augmentation".into());
    Ok(outcome)
}

/// Evaluates the weights at `path`, which a run of this configuration has left.
pub fn rescore<T: Task>(task: &Arc<T>, job: &Job, path: &Path) -> Result<Evaluated> {
    let model = trained(task, job, path)?;
    score(task.as_ref(), &model, &eval_loader(task, job, job.eval.clone())?, job)
}

/// The model of a run of this configuration, with the weights at `path`.
pub(super) fn trained<T: Task>(task: &Arc<T>, job: &Job, path: &Path) -> Result<BackboneWithHead<T::Head>> {
    let (params, mut model) = build(task.as_ref(), job, Some(path))?;
    let file = WeightFile::open(path)?;
    let tensors = file.read(job.device)?;
    let loaded = match file.translated_from() {
        None => load_exact(&params, &tensors),
        Some(_) => load_model(&params, &tensors, &job.config.model),
    };
    loaded.with_context(|| {
        format!("weights `{}` do not fit run `{}`", path.display(), job.config.run.recipe)
    })?;
    if model.head.fits() {
        fit(task, &mut model, job)?;
    }
    Ok(model)
}

/// Leaves the scores of single classes in the folder of the run, where there are some; returns the others.
fn kept(found: Evaluated, folder: &RunFolder) -> Result<Scores> {
    if !found.by_class.0.is_empty() {
        let text = serde_json::to_string_pretty(&found.by_class)? + "\n";
        let path = folder.by_class();
        write_atomic(&path, text.as_bytes()).with_context(|| format!("cannot write `{}`", path.display()))?;
    }
    Ok(found.scores)
}

fn settings<'a>(job: &'a Job) -> Result<&'a Transfer> {
    let settings = job.config.recipe.transfer.as_ref();
    settings.with_context(|| format!("recipe `{}` has no `[transfer]`", job.config.run.recipe))
}

/// The model and its parameters; what learns is decided by `transfer.tune`. The head is built first: a head with
/// the name of a backbone's parameter is an error. `weights` are those that a backbone of candle-transformers is made of.
pub(super) fn build<T: Task>(
    task: &T,
    job: &Job,
    weights: Option<&Path>,
) -> Result<(Params, BackboneWithHead<T::Head>)> {
    let (config, tune) = (&job.config.model, settings(job)?.tune);
    let depth = config.depth;
    if let Tune::Blocks(k) = tune {
        ensure!(
            k <= depth as f64,
            "transfer.tune: {k} blocks, but model `{}` has {depth}",
            job.config.run.model
        );
    }
    let params = job.params();
    // The specification does not depend on parameters: it is known before the backbone is built.
    let spec = models::BackboneSpec { width: config.width, depth, patch: config.patch };
    let head = task.head(&spec, params.builder())?;
    let of_head: Vec<String> = params.all().into_iter().map(|p| p.name).collect();
    let frozen = match tune {
        Tune::All => 0,
        Tune::Head => depth,
        Tune::Blocks(k) => depth - k.ceil() as usize,
    };
    let options = VitOptions {
        drop_path: job.config.recipe.drop_path,
        final_norm: head.reads_cls(),
        frozen,
        attention: settings(job)?.attention.clone(),
        pretrains: false,
    };
    let backbone = match config.foreign {
        None => models::build(config, options, params.builder())?,
        Some(kind) => {
            ensure!(head.taps().len() <= 1, "{kind:?} gives one vector an image, and this head reads maps");
            let path = weights
                .with_context(|| format!("{kind:?} is not trainable here: give its weights to --init"))?;
            let tensors = WeightFile::open(path)?.read(job.device)?;
            let unfit = || format!("weights `{}` do not fit {kind:?}", path.display());
            refuse_not_finite(&tensors).with_context(unfit)?;
            models::foreign(config, &tensors, &params).with_context(unfit)?
        }
    };
    params.set_trainable(|name| {
        of_head.iter().any(|head| head == name) || tuned(tune, name, backbone.layer_of(name), depth)
    });
    Ok((params, BackboneWithHead { backbone, head }))
}

/// What to know about batch norms of a model whose batch is accumulated: they see the images of one pass.
fn accumulated_norms(params: &Params, plan: &Plan) -> Option<String> {
    let batch_norm = params.all().iter().any(|p| p.name.ends_with("running_mean"));
    (batch_norm && plan.micro_batch < plan.batch).then(|| {
        format!(
            "batch norm: statistics of {} images, not of the batch of {}; a norm of layers or groups does not depend \
             on it",
            plan.micro_batch, plan.batch
        )
    })
}

/// Whether `tune` lets a parameter of the backbone learn. Layers are those of [`Backbone::layer_of`]. Half a block is
/// the MLP of the last one (arXiv:2111.06377 §4.3); that its `norm2` belongs to it is our reading.
fn tuned(tune: Tune, name: &str, layer: usize, depth: usize) -> bool {
    match tune {
        Tune::All => true,
        Tune::Head => false,
        Tune::Blocks(0.) => false,
        Tune::Blocks(k) if k < 1. => {
            layer > depth || (layer == depth && (name.contains(".mlp.") || name.contains(".norm2.")))
        }
        Tune::Blocks(k) => layer + k as usize > depth,
    }
}

/// Fills the backbone from the initial weights, if there are any.
fn initialize(params: &Params, job: &Job) -> Result<()> {
    let Some(path) = job.init.filter(|_| job.config.model.foreign.is_none()) else { return Ok(()) };
    let file = WeightFile::open(path)?;
    // Weights of our own say of what model they are.
    let (model, grid) = (&job.config.model, file.model()?.map(|model| model.grid()));
    let report = load_backbone(params, &file.read(job.device)?, model, grid).with_context(|| {
        format!("weights `{}` do not fit model `{}`", path.display(), job.config.run.model)
    })?;
    let mut note = format!("{} tensors taken, {} left out", report.loaded, report.left_out.len());
    if report.new > 0 {
        note += &format!(", {} of relative positions are new", report.new);
    }
    if let Some((from, to)) = report.resized {
        note += &format!(", positions resized from {}×{} to {}×{}", from.0, from.1, to.0, to.1);
    }
    if let Some((from, to)) = report.patches {
        note += &format!(", patches resized from {from} to {to} pixels");
    }
    job.control.tell(Event::Note(&note));
    Ok(())
}

pub(super) fn train_loader<T: Task>(task: &Arc<T>, job: &Job, batch: usize) -> Result<Loader<T::Target>> {
    let recipe = &job.config.recipe;
    let allowed_skips = recipe.allowed_skips;
    let shuffled = Order { batch, shuffle: true, allowed_skips, any_size: false };
    loader(task, job, job.train.clone(), (&recipe.augment, recipe.erase.as_ref()), shuffled)
        .with_context(|| format!("recipe `{}`", job.config.run.recipe))
}

fn eval_loader<T: Task>(task: &Arc<T>, job: &Job, entries: Arc<Vec<Entry>>) -> Result<Loader<T::Target>> {
    let any_size = task.any_size();
    let batch = if any_size { 1 } else { job.config.recipe.micro_batch() };
    let in_order = Order { batch, shuffle: false, allowed_skips: 0, any_size };
    loader(task, job, entries, (job.eval_ops, None), in_order).context("evaluation protocol of the task")
}

struct Order {
    batch: usize,
    shuffle: bool,
    allowed_skips: usize,
    /// Images keep the size that the operations leave them.
    any_size: bool,
}

fn loader<T: Task>(
    task: &Arc<T>,
    job: &Job,
    entries: Arc<Vec<Entry>>,
    (ops, erase): (&[Operation], Option<&Erase>),
    order: Order,
) -> Result<Loader<T::Target>> {
    let model = &job.config.model;
    let pipeline =
        Pipeline::new(&Augmentations::builtin(), ops, erase, &model.normalize(), model.image, model.channels)
            .map_err(anyhow::Error::msg)?;
    let pipeline = if order.any_size { pipeline.of_any_size() } else { pipeline };
    let config = LoaderConfig {
        seed: job.config.run.seed,
        batch: order.batch,
        workers: job.workers,
        prefetch: PREFETCH,
        shuffle: order.shuffle,
        drop_last: order.shuffle,
        allowed_skips: order.allowed_skips,
        channels: model.channels,
    };
    let task = task.clone();
    let target = Arc::new(move |entry: &Entry| task.target(entry).map_err(|e| format!("{e:#}")));
    Ok(Loader::new(entries, target, Arc::new(pipeline), config, job.device.clone()))
}

fn score<T: Task>(
    task: &T,
    model: &BackboneWithHead<T::Head>,
    loader: &Loader<T::Target>,
    job: &Job,
) -> Result<Evaluated> {
    let [height, width] = job.config.model.image;
    let backbone = model.backbone.as_ref();
    evaluate(task, backbone, &model.head, (height, width), loader, job.eval.len(), job.control)
}

/// One pass over the training split, without augmentation, for a head that is fitted.
fn fit<T: Task>(task: &Arc<T>, model: &mut BackboneWithHead<T::Head>, job: &Job) -> Result<()> {
    let loader = eval_loader(task, job, job.train.clone())?;
    let (mut done, total) = (0, job.train.len());
    for loaded in loader.epoch(0, 0) {
        let batch = loaded?.batch;
        let forward = || model.backbone.forward(&batch.images, model.head.taps(), &mut Pass::Eval);
        let features = no_grad(forward)?;
        model.head.fit(&features, &batch)?;
        done += batch.len();
        job.control.tell(Event::Evaluating { done, total });
        ensure!(!job.control.stopped(), "stopped after {done} of {total} images");
    }
    Ok(())
}
