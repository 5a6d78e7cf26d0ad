//! Pictures of what a masked autoencoder fills in.

use crate::config::{AugmentOp, Interpolation, Mae, ModelConfig, parse};
use crate::data::Entry;
use crate::data::augment::Pipeline;
use crate::data::loader::{Loader, LoaderConfig};
use crate::nn::Params;
use crate::ops::no_grad;
use crate::pretrain::{MaskedAutoencoder, mosaic};
use crate::weights::{WeightFile, load_exact};
use anyhow::{Context, Result, bail};
use candle_core::Device;
use image::RgbImage;
use std::path::Path;
use std::sync::Arc;

/// What builds the model of a file of pre-trained weights.
#[derive(Clone, Debug)]
pub struct Pretrained {
    pub model: ModelConfig,
    pub mae: Mae,
}

impl Pretrained {
    /// As a file that this program wrote says; `None` when it says nothing (a checkpoint of another program).
    ///
    /// # Errors
    /// Weights without a decoder, such as those of a transfer run.
    pub fn of(weights: &Path) -> Result<Option<Self>> {
        let file = WeightFile::open(weights)?;
        let notes = file.metadata();
        if !file.entries().iter().any(|e| e.name.starts_with("decoder_")) {
            let from = match notes.get("bench.run") {
                Some(run) => format!(" (they are those of run `{run}`)"),
                None => String::new(),
            };
            bail!(
                "`{}` has no decoder{from}: only the weights of a pre-training run have one (runs/<id>/model.safetensors), \
                 or files such as mae_visualize_vit_large.pth and mae_pretrain_vit_base_full.pth",
                weights.display()
            );
        }
        let (Some(model), Some(mae)) = (notes.get("bench.model"), notes.get("bench.mae")) else {
            return Ok(None);
        };
        let origin = weights.display();
        Ok(Some(Self { model: parse(model, origin)?, mae: parse(mae, weights.display())? }))
    }
}

/// The mosaic of the `entries`, a row each: original, masked, reconstruction, reconstruction and visible patches. Masks
/// are a function of the samples' ids.
pub fn reconstruct(
    weights: &Path,
    pretrained: &Pretrained,
    entries: Vec<Entry>,
    device: &Device,
) -> Result<RgbImage> {
    let Pretrained { model, mae } = pretrained;
    let params = Params::new(0, device);
    let autoencoder = MaskedAutoencoder::new(model, mae, params.builder())?;
    load_exact(&params, &WeightFile::open(weights)?.read(device)?)
        .with_context(|| format!("weights `{}`", weights.display()))?;
    let ops = [
        AugmentOp::ResizeShort {
            size: Some(model.image[0].max(model.image[1])),
            crop_ratio: None,
            margin_up_to: None,
            interpolation: Interpolation::Bicubic,
        },
        AugmentOp::CenterCrop { size: None },
    ];
    let pipeline = Pipeline::new(&ops, None, &model.normalize(), model.image, model.channels)
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
    let batch = loader.epoch(0, 0).next().context("there are no images")??.batch;
    let mask = autoencoder.sampler().fixed(&batch.ids)?;
    let reconstruction = no_grad(|| autoencoder.reconstruct(&batch.images, mask))?;
    Ok(mosaic(&batch.images, &reconstruction, model.patch, &model.normalize())?)
}
