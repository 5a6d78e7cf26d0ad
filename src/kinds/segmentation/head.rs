//! [`SegmentationHead`]: [`UperNet`] on a backbone, with its losses and predictions.

use super::config::SegmentationHeadConfig;
use super::inference::{self, SegmentationOptions};
use super::loss::PixelLoss;
use super::target::SegmentationTarget;
use super::upernet::UperNet;
use crate::config::quarters;
use crate::data::{Batch, Raster, Size, SourceTransform};
use crate::models::{BackboneSpec, Features};
use crate::nn::{Losses, Pass};
use crate::task::{Forward, Head};
use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;

/// Predicts one class per pixel from the features of a backbone.
pub struct SegmentationHead {
    taps: Vec<usize>,
    classes: usize,
    options: SegmentationOptions,
    loss: PixelLoss,
    /// Weight of the auxiliary loss.
    auxiliary: Option<f64>,
    patch: usize,
    net: UperNet,
}

impl SegmentationHead {
    pub(super) fn new(
        backbone: &BackboneSpec,
        options: &SegmentationOptions,
        config: &SegmentationHeadConfig,
        classes: &[String],
        vb: VarBuilder,
    ) -> Result<Self> {
        let taps = config.taps.clone().unwrap_or_else(|| default_taps(backbone.depth));
        if taps.len() != 4 || taps.iter().any(|tap| *tap >= backbone.depth) {
            candle_core::bail!(
                "segmentation: taps are {taps:?}, expected four blocks of 0..{}",
                backbone.depth
            );
        }
        Ok(Self {
            taps,
            classes: classes.len(),
            options: options.clone(),
            loss: PixelLoss::new(classes, config),
            auxiliary: config.auxiliary.map(|auxiliary| auxiliary.weight),
            patch: backbone.patch,
            net: UperNet::new(backbone.width, classes.len(), config, vb)?,
        })
    }

    fn maps(&self, features: &Features) -> Result<Vec<Tensor>> {
        (0..self.taps.len()).map(|tap| features.map(tap)).collect()
    }

    /// Logits in evaluation mode. `[B, K, 4h, 4w]`
    pub fn logits(&self, features: &Features) -> Result<Tensor> {
        Ok(self.net.forward(&self.maps(features)?, false, &mut Pass::Eval)?.0)
    }
}

/// The blocks that BEiT and MAE use for segmentation if there are 12 or 24, otherwise the last block of each quarter.
pub(super) fn default_taps(depth: usize) -> Vec<usize> {
    match depth {
        12 => vec![3, 5, 7, 11],
        24 => vec![7, 11, 15, 23],
        _ => quarters(depth),
    }
}

impl Head for SegmentationHead {
    type Target = SegmentationTarget;
    type Prediction = Raster;

    fn taps(&self) -> &[usize] {
        &self.taps
    }

    fn loss(
        &self,
        features: &Features,
        batch: &Batch<SegmentationTarget>,
        pass: &mut Pass,
    ) -> Result<Losses> {
        let (b, _, height, width) = batch.images.dims4()?;
        let mut labels = Vec::with_capacity(b * height * width);
        for target in &batch.targets {
            labels.extend(target.labels().into_iter().map(u32::from));
        }
        let labels = self.loss.labels(labels, (b, height, width))?;
        let (logits, beside) = self.net.forward(&self.maps(features)?, self.auxiliary.is_some(), pass)?;
        let mut losses = Losses::of("cross_entropy", self.loss.of(&logits, &labels)?);
        if let (Some(weight), Some(beside)) = (self.auxiliary, beside) {
            losses = losses.with("auxiliary", (self.loss.of(&beside, &labels)? * weight)?);
        }
        Ok(losses)
    }

    fn predict(&self, features: &Features, source_transforms: &[SourceTransform]) -> Result<Vec<Raster>> {
        let input: Size = (features.grid.0 * self.patch, features.grid.1 * self.patch);
        inference::whole(&self.logits(features)?, source_transforms, input)
    }

    fn infer(
        &self,
        images: &Tensor,
        source_transforms: &[SourceTransform],
        forward: &Forward,
    ) -> Result<Vec<Raster>> {
        if self.options.stride.is_none() {
            return self.predict(&forward.run(images)?, source_transforms);
        }
        let logits = |windows: &Tensor| self.logits(&forward.run(windows)?);
        let label = |(i, source_transform): (usize, &SourceTransform)| {
            let image = images.narrow(0, i, 1)?;
            self.options.slide(&image, source_transform, forward.input(), self.classes, &logits)
        };
        source_transforms.iter().enumerate().map(label).collect()
    }
}
