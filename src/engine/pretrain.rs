//! A pre-training run: objective, loader and initial weights, handed to the loop.

use super::train::{Outcome, Training};
use super::{Job, PREFETCH, Plan};
use crate::config::{Mae, Pretrain};
use crate::data::Entry;
use crate::data::augment::Pipeline;
use crate::data::loader::{Loader, LoaderConfig};
use crate::nn::Params;
use crate::pretrain::MaskedAutoencoder;
use crate::record::RunFolder;
use crate::weights::{WeightFile, load_exact};
use anyhow::{Context, Result};
use candle_core::Tensor;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Images whose patches fit a PCA target.
const FIT_IMAGES: usize = 2048;

/// Pre-trains, and leaves `model.safetensors` with encoder and decoder in `folder`.
pub fn pretrain(job: &Job, folder: &RunFolder) -> Result<Outcome> {
    let (mae, plan, params, objective) = build(job)?;
    let loader = loader(job, plan.micro_batch)?;
    let initialize = || -> Result<()> {
        if let Some(path) = job.init {
            let file = WeightFile::open(path)?;
            load_exact(&params, &file.read(job.device)?)
                .with_context(|| format!("weights `{}` cannot start pre-training", path.display()))?;
        }
        if objective.needs_fit()? {
            objective.fit_target(&first_images(&loader)?)?;
        }
        Ok(())
    };
    let hash = job.config.hash()?;
    let metadata = metadata(job, Some(&mae))?;
    let training = Training {
        recipe: &job.config.recipe,
        plan,
        seed: job.config.run.seed,
        config: &hash,
        objective: &objective,
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

pub(super) fn build(job: &Job) -> Result<(Mae, Plan, Params, MaskedAutoencoder)> {
    let Some(Pretrain::Mae(mae)) = &job.config.recipe.pretrain else {
        anyhow::bail!("recipe `{}` has no `[pretrain]`", job.config.run.recipe)
    };
    let plan = Plan::new(&job.config.recipe, job.train.len())?;
    let params = job.params();
    let objective = MaskedAutoencoder::new(&job.config.model, mae, params.builder())?;
    params.set_trainable(MaskedAutoencoder::learns);
    Ok((mae.clone(), plan, params, objective))
}

/// The loader of the training split without targets.
pub(super) fn loader(job: &Job, batch: usize) -> Result<Loader<()>> {
    let (model, recipe) = (&job.config.model, &job.config.recipe);
    let pipeline = Pipeline::new(
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

/// The first images of the first epoch. [n, C, H, W]
fn first_images(loader: &Loader<()>) -> Result<Tensor> {
    let (mut images, mut count) = (Vec::new(), 0);
    for loaded in loader.epoch(0, 0) {
        let batch = loaded?.batch;
        count += batch.len();
        images.push(batch.images);
        if count >= FIT_IMAGES {
            break;
        }
    }
    Ok(Tensor::cat(&images, 0)?)
}

/// What a file of weights says about itself: enough to build its model without the run's folder.
pub(super) fn metadata(job: &Job, mae: Option<&Mae>) -> Result<BTreeMap<String, String>> {
    let run = &job.config.run;
    let mut notes = BTreeMap::from([
        ("bench.run".to_string(), job.config.id()?),
        ("bench.stage".into(), run.stage.as_str().into()),
        ("bench.model_name".into(), run.model.clone()),
        ("bench.recipe_name".into(), run.recipe.clone()),
        ("bench.model".into(), toml::to_string(&job.config.model)?),
    ]);
    if let Some(mae) = mae {
        notes.insert("bench.mae".into(), toml::to_string(mae)?);
    }
    Ok(notes)
}
