//! Pictures of what a masked autoencoder fills in, and of what a tokenizer keeps.

use crate::config::{Mae, ModelConfig, parse};
use crate::data::augment::{Augmentations, Pipeline};
use crate::data::loader::{Loader, LoaderConfig};
use crate::data::{Batch, Entry};
use crate::nn::Params;
use crate::ops::no_grad;
use crate::pretrain::{MaskedAutoencoder, mosaic, pairs};
use crate::weights::{Contents, WeightFile, load_exact, load_tokenizer, notes};
use anyhow::{Context, Result, bail};
use candle_core::{Device, Tensor};
use image::RgbImage;
use std::path::Path;
use std::sync::Arc;

/// What builds the model of a file of pre-trained weights.
#[derive(Clone, Debug)]
pub enum Pretrained {
    Autoencoder {
        model: Box<ModelConfig>,
        mae: Box<Mae>,
    },
    /// A discrete autoencoder, for images of the size of `model`.
    Tokenizer {
        model: Box<ModelConfig>,
    },
}

impl Pretrained {
    /// As a file that this program wrote says; `None` when it says nothing (a checkpoint of another program).
    ///
    /// # Errors
    /// Weights without a decoder, such as those of a transfer run.
    pub fn of(weights: &Path) -> Result<Option<Self>> {
        let file = WeightFile::open(weights)?;
        let notes = file.metadata();
        let discrete = Contents::of(file.entries()) == Contents::Tokenizer;
        if !discrete && !file.entries().iter().any(|e| e.name.starts_with("decoder_")) {
            let from = match notes.get(notes::RUN) {
                Some(run) => format!(" (they are those of run `{run}`)"),
                None => String::new(),
            };
            bail!(
                "`{}` has no decoder{from}: only the weights of a pre-training run have one (runs/<id>/model.safetensors), \
                 or files such as mae_visualize_vit_large.pth and mae_pretrain_vit_base_full.pth",
                weights.display()
            );
        }
        let Some(model) = file.model()?.map(Box::new) else { return Ok(None) };
        if discrete {
            return Ok(Some(Self::Tokenizer { model }));
        }
        let Some(mae) = notes.get(notes::MAE) else { return Ok(None) };
        Ok(Some(Self::Autoencoder { model, mae: Box::new(parse(mae, weights.display())?) }))
    }

    /// The tokenizer that the model predicts tokens of.
    pub fn tokenizer(&self) -> Option<&str> {
        match self {
            Self::Autoencoder { mae, .. } => mae.tokenizer.as_deref(),
            Self::Tokenizer { .. } => None,
        }
    }

    fn model(&self) -> &ModelConfig {
        match self {
            Self::Autoencoder { model, .. } | Self::Tokenizer { model } => model,
        }
    }
}

/// A picture of the `entries`, a row each: original, masked, reconstruction, reconstruction and visible patches; of a
/// tokenizer, original and reconstruction. Masks are a function of the samples' ids. `tokenizer` is the file of
/// [`Pretrained::tokenizer`].
pub fn reconstruct(
    weights: &Path,
    pretrained: &Pretrained,
    tokenizer: Option<&Path>,
    entries: Vec<Entry>,
    device: &Device,
) -> Result<RgbImage> {
    let model = pretrained.model();
    let batch = images(model, entries, device)?;
    match pretrained {
        Pretrained::Autoencoder { mae, .. } => {
            let params = Params::new(0, device);
            let tokenizer = tokenizer.map(|path| load_tokenizer(path, device)).transpose()?.map(Arc::new);
            let autoencoder = MaskedAutoencoder::new(model, mae, tokenizer, params.builder())?;
            load_exact(&params, &WeightFile::open(weights)?.read(device)?)
                .with_context(|| format!("weights `{}`", weights.display()))?;
            let mask = autoencoder.sampler().fixed(&batch.ids)?;
            let reconstruction = no_grad(|| autoencoder.reconstruct(&batch.images, mask))?;
            Ok(mosaic(&batch.images, &reconstruction, model.patch, &model.normalize())?)
        }
        Pretrained::Tokenizer { .. } => {
            let (tokenizer, normalize) = (load_tokenizer(weights, device)?, model.normalize());
            let (side, [height, width]) = (tokenizer.sizes.stride(), model.image);
            let grid = (height / side, width / side);
            let tokens = tokenizer.tokens(&batch.images, &normalize, grid)?;
            let tokens = Tensor::new(tokens, device)?;
            let drawn = tokenizer.draw(&tokens, grid, (height, width), &normalize)?;
            Ok(pairs(&batch.images, &drawn, &normalize)?)
        }
    }
}

/// The images of `entries` as evaluation sees them: the middle, at the size of the model.
fn images(model: &ModelConfig, entries: Vec<Entry>, device: &Device) -> Result<Batch<()>> {
    let side = format!("op = \"resize_short\"\nsize = {}", model.image[0].max(model.image[1]));
    let ops = [parse(&side, "reconstruction")?, parse("op = \"center_crop\"", "reconstruction")?];
    let pipeline =
        Pipeline::new(&Augmentations::builtin(), &ops, None, &model.normalize(), model.image, model.channels)
            .map_err(anyhow::Error::msg)?;
    let config = LoaderConfig {
        seed: 0,
        batch: entries.len(),
        workers: 1,
        prefetch: 1,
        shuffle: false,
        drop_last: false,
        allowed_skips: 0,
        channels: model.channels,
    };
    let target = Arc::new(|_: &Entry| Ok(()));
    let loader: Loader<()> =
        Loader::new(Arc::new(entries), target, Arc::new(pipeline), config, device.clone());
    Ok(loader.epoch(0, 0).next().context("there are no images")??.batch)
}
