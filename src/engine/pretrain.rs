//! A pre-training run: builds the objective, the initial weights and the loader, and draws reconstructions.

use super::observer::Event;
use super::session::{Session, StageParts};
use super::train::{Evaluation, Outcome, TrainOptions};
use super::{LoaderSpec, RunInputs, Speed, SpeedOptions};
use crate::data::Entry;
use crate::data::loader::Loader;
use crate::nn::Pass;
use crate::ops::no_grad;
use crate::pretrain::{ObjectiveInputs, Pretraining};
use crate::record::{Better, ScoreSpec, Scores, Unit};
use crate::rng::Rng;
use crate::weights::{WeightFile, load_exact, load_tokenizer, metadata as keys};
use anyhow::{Context, Result, ensure};
use candle_core::{DType, Tensor};
use image::RgbImage;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// The score of a pre-training with held-out images.
pub const HELD_OUT_LOSS: ScoreSpec =
    ScoreSpec { name: "held_out_loss", unit: Unit::Plain, better: Better::Lower };
/// Number of images to which a target is fitted.
const FIT_IMAGES: usize = 2048;

impl<'a> Session<'a, Box<dyn Pretraining>> {
    /// The objective that the recipe names, with the initial values that its layers draw.
    ///
    /// # Errors
    /// A recipe of another stage, an objective that does not fit the model, a tokenizer that cannot be read.
    pub fn pretraining(run: &'a RunInputs<'a>) -> Result<Self> {
        let config = run.config;
        let table = config.recipe.pretrain.as_ref();
        let table = table.with_context(|| format!("recipe `{}` has no `[pretrain]`", config.run.recipe))?;
        let tokenizer = run.tokenizer.map(|path| load_tokenizer(path, run.device)).transpose()?.map(Arc::new);
        let params = run.params();
        let inputs = ObjectiveInputs {
            model: &config.model,
            drop_path: config.recipe.drop_path,
            tokenizer,
            backbones: &run.components.backbones,
            params: &params,
        };
        let model = run.components.objectives.build(table, &inputs)?;
        params.set_trainable(|name| model.learns(name));
        Ok(Self { run, params, model })
    }

    /// Pre-trains, and writes all trained parameters to `model.safetensors` in the folder of the run.
    ///
    /// # Errors
    /// Initial weights that do not fit, and errors of the training loop.
    pub fn train(&self, options: TrainOptions) -> Result<Outcome> {
        let loader = self.run.image_loader(LoaderSpec::training(self.run))?;
        let held_out = || self.held_out_loss();
        let evaluation = (!self.run.splits.eval.is_empty()).then_some(Evaluation {
            run: &held_out,
            select: None,
            primary: HELD_OUT_LOSS,
        });
        let parts = StageParts {
            source: &loader,
            objective: self.model.as_ref(),
            mix: &|_, _| Ok(()),
            initialize: &|| self.initialize(&loader),
            evaluation,
            metadata: &metadata(self.run)?,
        };
        self.run_loop(parts, options)
    }

    /// The mean loss of the images that the recipe holds out: as in training, but with the crops and masks of one fixed draw, with the
    /// schedules of the last step, and without gradients. Batches count by their images.
    fn held_out_loss(&self) -> Result<Scores> {
        let run = self.run;
        let entries = run.splits.eval.clone();
        let total = entries.len();
        let spec = LoaderSpec { entries, shuffle: false, ..LoaderSpec::training(run) };
        let loader = run.image_loader(spec.skipping_unreadable())?;
        let (mut sum, mut count) = (0., 0);
        for (number, loaded) in loader.epoch(0, 0).enumerate() {
            let batch = loaded?.batch;
            if batch.ids.is_empty() {
                continue;
            }
            let mut rng = Rng::new(run.config.run.seed, "held_out", &[number as u64]);
            let mut pass =
                Pass::Train { rng: &mut rng, progress: 1., epoch: run.config.recipe.epochs as f64 };
            let loss = no_grad(|| self.model.losses(&batch, &mut pass)?.total())?;
            sum += f64::from(loss.to_dtype(DType::F32)?.to_scalar::<f32>()?) * batch.ids.len() as f64;
            count += batch.ids.len();
            run.control.tell(Event::Evaluating { done: count, total });
        }
        ensure!(count > 0, "none of the {total} held-out images can be read");
        let mut scores = Scores::default();
        scores.insert(HELD_OUT_LOSS.name, sum / count as f64, None);
        Ok(scores)
    }

    /// Measures training.
    ///
    /// # Errors
    /// The errors of [`Session::train`].
    pub fn speed(&self, options: SpeedOptions) -> Result<Speed> {
        let loader = self.run.image_loader(LoaderSpec::training(self.run))?;
        self.measure(self.model.as_ref(), &|_, _| Ok(()), &loader, options)
    }

    /// Draws what the objective with the weights at `path` predicts for `entries`, one row per image, after the
    /// operations of the run's evaluation protocol. `None` for an objective that draws nothing.
    ///
    /// # Errors
    /// Weights that do not fit, images that cannot be read.
    pub fn reconstruct(&self, path: &Path, entries: Vec<Entry>) -> Result<Option<RgbImage>> {
        load_exact(&self.params, &WeightFile::open(path)?.read(self.run.device)?)
            .with_context(|| format!("weights `{}`", path.display()))?;
        let rows =
            LoaderSpec { batch: entries.len(), ..LoaderSpec::evaluation(self.run, Arc::new(entries), false) };
        let loader = self.run.image_loader(rows)?;
        let batch = loader.epoch(0, 0).next().context("there are no images")??.batch;
        Ok(no_grad(|| self.model.draw(&batch))?)
    }

    /// Loads or draws the initial weights, and fits the target to training images if it needs that.
    fn initialize(&self, loader: &Loader<()>) -> Result<()> {
        match self.run.init {
            Some(path) => {
                let file = WeightFile::open(path)?;
                load_exact(&self.params, &file.read(self.run.device)?).with_context(|| {
                    format!("pre-training cannot start from the weights `{}`", path.display())
                })?;
            }
            None => self.model.initialize(&self.params, &|count| {
                first_images(loader, count).map_err(|error| candle_core::Error::msg(format!("{error:#}")))
            })?,
        }
        if self.model.needs_fit()? {
            self.model.fit(&first_images(loader, FIT_IMAGES)?)?;
        }
        Ok(())
    }
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

/// Metadata of the weights: enough to build the model without the run's folder.
pub(super) fn metadata(run: &RunInputs) -> Result<BTreeMap<String, String>> {
    let config = run.config;
    let mut metadata = BTreeMap::from([
        (keys::RUN.to_string(), config.id()?),
        (keys::STAGE.into(), config.run.stage.as_str().into()),
        (keys::MODEL_NAME.into(), config.run.model.clone()),
        (keys::RECIPE_NAME.into(), config.run.recipe.clone()),
        (keys::MODEL.into(), toml::to_string(&config.model)?),
    ]);
    if let Some(table) = &config.recipe.pretrain {
        metadata.insert(keys::objective_key(&table.name), toml::to_string(&table.options)?);
    }
    Ok(metadata)
}
