//! Draws what pre-trained weights predict for images: the patches that a masked autoencoder fills in, or the
//! reconstruction of a tokenizer.

use super::{LoaderSpec, RunInputs, Session};
use crate::config::{ModelConfig, ObjectiveTable, Recipe, Run, RunConfig, SCRATCH, Stage, parse};
use crate::data::Entry;
use crate::pretrain::{Objectives, figure_of_pairs};
use crate::weights::{Contents, WeightFile, load_tokenizer, metadata as keys};
use anyhow::{Context, Result, bail};
use candle_core::Tensor;
use image::RgbImage;
use std::path::Path;
use std::sync::Arc;

/// Everything needed to build the model of a file of pre-trained weights.
#[derive(Clone, Debug)]
pub struct Pretrained {
    /// Model and objective of the run; the settings of training are placeholders.
    pub config: RunConfig,
}

impl Pretrained {
    /// A model with the objective that pre-trained it; without one, a tokenizer for images of the size of
    /// `model`.
    ///
    /// # Errors
    /// None that a caller can cause.
    pub fn new(model: ModelConfig, objective: Option<ObjectiveTable>) -> Result<Self> {
        /// Placeholder settings of the training loop, for a model that is not trained.
        const UNTRAINED: &str = "epochs = 1\nbatch = 1\n[optim]\nname = \"sgd\"\nbase_lr = 0.0\nweight_decay = 0.0\n\
                                 [schedule]\nname = \"constant\"\n";
        let recipe = Recipe { pretrain: objective, ..parse(UNTRAINED, "a model that is read")? };
        let run = Run {
            stage: Stage::Pretrain,
            task: None,
            dataset: String::new(),
            split: String::new(),
            report: Default::default(),
            model: String::new(),
            recipe: String::new(),
            init: SCRATCH.into(),
            init_hash: None,
            tokenizer_hash: None,
            init_label: SCRATCH.into(),
            seed: 0,
            dtype: Default::default(),
            overrides: vec![],
            task_path: None,
            dataset_path: None,
            model_path: None,
            recipe_path: None,
            data: None,
            include: vec![],
        };
        Ok(Self { config: RunConfig { run, model, recipe } })
    }

    /// Reads the metadata of a file that this program wrote; `None` for a checkpoint of another program.
    ///
    /// # Errors
    /// Weights without a decoder, such as those of a transfer run.
    pub fn of(weights: &Path, objectives: &Objectives) -> Result<Option<Self>> {
        let file = WeightFile::open(weights)?;
        let metadata = file.metadata();
        let model = file.model()?;
        if Contents::of(file.entries()) == Contents::Tokenizer {
            return model.map(|model| Self::new(model, None)).transpose();
        }
        let options = |name| Some((name, metadata.get(&keys::objective_key(name))?));
        if let (Some(model), Some((name, options))) = (model, objectives.names().find_map(options)) {
            let options: toml::Table = parse(options, weights.display())?;
            return Ok(Some(Self::new(model, Some(ObjectiveTable::new(name, &options)?))?));
        }
        if !file.entries().iter().any(|e| e.name.starts_with("decoder_")) {
            let from = match metadata.get(keys::RUN) {
                Some(run) => format!(" (they are those of run `{run}`)"),
                None => String::new(),
            };
            bail!(
                "`{}` has no decoder{from}: only the weights of a pre-training run have one (runs/<id>/model.safetensors), \
                 or files such as mae_visualize_vit_large.pth and mae_pretrain_vit_base_full.pth",
                weights.display()
            );
        }
        Ok(None)
    }
}

/// Draws one row for each of `entries`. For a masked autoencoder a row shows the original, the masked image,
/// the reconstruction, and the reconstruction with the visible patches; for a tokenizer, the original and the
/// reconstruction. `None` for an objective that draws nothing. `run` has the configuration of a [`Pretrained`].
///
/// # Errors
/// Weights that do not fit, images that cannot be read.
pub fn reconstruct(run: &RunInputs, weights: &Path, entries: Vec<Entry>) -> Result<Option<RgbImage>> {
    let model = &run.config.model;
    let side = format!("op = \"resize_short\"\nsize = {}", model.image[0].max(model.image[1]));
    let protocol = [parse(&side, "reconstruction")?, parse("op = \"center_crop\"", "reconstruction")?];
    let run = RunInputs { protocol: &protocol, workers: 1, ..*run };
    if run.config.recipe.pretrain.is_some() {
        return Session::pretraining(&run)?.reconstruct(weights, entries);
    }
    let rows = LoaderSpec { batch: entries.len(), ..LoaderSpec::evaluation(&run, Arc::new(entries), false) };
    let images = run.image_loader(rows)?.epoch(0, 0).next().context("there are no images")??.batch;
    let (images, names) = (images.images, images.ids);
    let (tokenizer, normalize) = (load_tokenizer(weights, run.device)?, model.normalize());
    let (side, [height, width]) = (tokenizer.sizes.stride(), model.image);
    let grid = (height / side, width / side);
    let tokens = Tensor::new(tokenizer.tokens(&images, &normalize, grid)?, run.device)?;
    let drawn = tokenizer.draw(&tokens, grid, (height, width), &normalize)?;
    Ok(Some(figure_of_pairs((&images, &names), &drawn, &normalize)?))
}
