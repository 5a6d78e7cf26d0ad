//! A pre-training run: objective, loader and initial weights, handed to the loop.

use super::train::{Outcome, Training};
use super::{Job, PREFETCH, Plan};
use crate::config::{ModelConfig, Pretrain, RunConfig};
use crate::data::Entry;
use crate::data::augment::{Augmentations, Pipeline};
use crate::data::loader::{Loader, LoaderConfig};
use crate::models::dvae::Tokenizer;
use crate::nn::Params;
use crate::pretrain::{Beit, DiscreteAutoencoder, MaskedAutoencoder, Pretraining};
use crate::record::RunFolder;
use crate::weights::{WeightFile, load_exact, load_tokenizer, notes};
use anyhow::{Context, Result};
use candle_core::Tensor;
use candle_nn::VarBuilder;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Images that a PCA target is fitted to.
const FIT_IMAGES: usize = 2048;

/// Pre-trains, and leaves `model.safetensors` with encoder and decoder in `folder`.
pub fn pretrain(job: &Job, folder: &RunFolder) -> Result<Outcome> {
    let Built { plan, params, objective } = build(job)?;
    let loader = loader(job, plan.micro_batch)?;
    let initialize = || -> Result<()> {
        match job.init {
            Some(path) => {
                let file = WeightFile::open(path)?;
                load_exact(&params, &file.read(job.device)?)
                    .with_context(|| format!("weights `{}` cannot start pre-training", path.display()))?;
            }
            None => objective.initialize(&params, &|count| {
                first_images(&loader, count).map_err(|error| candle_core::Error::msg(format!("{error:#}")))
            })?,
        }
        if objective.needs_fit()? {
            objective.fit(&first_images(&loader, FIT_IMAGES)?)?;
        }
        Ok(())
    };
    let hash = job.config.hash()?;
    let metadata = metadata(job)?;
    let training = Training {
        recipe: &job.config.recipe,
        plan,
        seed: job.config.run.seed,
        config: &hash,
        objective: objective.as_ref(),
        params: &params,
        layers: job.config.model.depth + 1,
        source: &loader,
        mix: &|_, _| Ok(()),
        evaluation: None,
        folder,
        metadata: &metadata,
        max_steps: job.max_steps,
        control: job.control,
    };
    training.run(job.resume, &initialize)
}

/// What is trained, and for how long.
pub(super) struct Built {
    pub plan: Plan,
    pub params: Params,
    pub objective: Box<dyn Pretraining>,
}

pub(super) fn build(job: &Job) -> Result<Built> {
    let RunConfig { recipe, model, run } = job.config;
    let pretrain = recipe.pretrain.as_ref();
    let pretrain = pretrain.with_context(|| format!("recipe `{}` has no `[pretrain]`", run.recipe))?;
    let plan = Plan::new(recipe, job.train.len())?;
    let tokenizer = job.tokenizer.map(|path| load_tokenizer(path, job.device)).transpose()?.map(Arc::new);
    let params = job.params();
    let objective = objective(pretrain, model, recipe.drop_path, tokenizer, params.builder())?;
    params.set_trainable(|name| objective.learns(name));
    Ok(Built { plan, params, objective })
}

/// The objective that a recipe names.
fn objective(
    pretrain: &Pretrain,
    model: &ModelConfig,
    drop_path: f64,
    tokenizer: Option<Arc<Tokenizer>>,
    vb: VarBuilder,
) -> Result<Box<dyn Pretraining>> {
    Ok(match pretrain {
        Pretrain::Mae(mae) => Box::new(MaskedAutoencoder::new(model, mae, tokenizer, vb)?),
        Pretrain::Beit(beit) => {
            let tokenizer = tokenizer.context("BEiT predicts tokens, but there is no tokenizer")?;
            Box::new(Beit::new(model, beit, drop_path, tokenizer, vb)?)
        }
        Pretrain::Dvae(training) => {
            let image = (model.channels, model.image[0], model.image[1]);
            Box::new(DiscreteAutoencoder::new(training, model.normalize(), image, vb)?)
        }
    })
}

/// The loader of the training split without targets.
pub(super) fn loader(job: &Job, batch: usize) -> Result<Loader<()>> {
    let (model, recipe) = (&job.config.model, &job.config.recipe);
    let pipeline = Pipeline::new(
        &Augmentations::builtin(),
        &recipe.augment,
        recipe.erase.as_ref(),
        &model.normalize(),
        model.image,
        model.channels,
    )
    .map_err(|e| anyhow::anyhow!("recipe `{}`: {e}", job.config.run.recipe))?;
    let config = LoaderConfig {
        seed: job.config.run.seed,
        batch,
        workers: job.workers,
        prefetch: PREFETCH,
        shuffle: true,
        drop_last: true,
        allowed_skips: recipe.allowed_skips,
        channels: model.channels,
    };
    let target = Arc::new(|_: &Entry| Ok(()));
    Ok(Loader::new(job.train.clone(), target, Arc::new(pipeline), config, job.device.clone()))
}

/// The first `count` images of the first epoch, or all. [n, C, H, W]
fn first_images(loader: &Loader<()>, count: usize) -> Result<Tensor> {
    let (mut images, mut found) = (Vec::new(), 0);
    for loaded in loader.epoch(0, 0) {
        let batch = loaded?.batch;
        found += batch.len();
        images.push(batch.images);
        if found >= count {
            break;
        }
    }
    Ok(Tensor::cat(&images, 0)?.narrow(0, 0, found.min(count))?)
}

/// What a file of weights says about itself: enough to build its model without the run's folder.
pub(super) fn metadata(job: &Job) -> Result<BTreeMap<String, String>> {
    let run = &job.config.run;
    let mut metadata = BTreeMap::from([
        (notes::RUN.to_string(), job.config.id()?),
        (notes::STAGE.into(), run.stage.as_str().into()),
        (notes::MODEL_NAME.into(), run.model.clone()),
        (notes::RECIPE_NAME.into(), run.recipe.clone()),
        (notes::MODEL.into(), toml::to_string(&job.config.model)?),
    ]);
    match &job.config.recipe.pretrain {
        Some(Pretrain::Mae(mae)) => drop(metadata.insert(notes::MAE.into(), toml::to_string(mae)?)),
        Some(Pretrain::Beit(beit)) => drop(metadata.insert(notes::BEIT.into(), toml::to_string(beit)?)),
        Some(Pretrain::Dvae(dvae)) => drop(metadata.insert(notes::DVAE.into(), toml::to_string(dvae)?)),
        None => {}
    }
    Ok(metadata)
}
