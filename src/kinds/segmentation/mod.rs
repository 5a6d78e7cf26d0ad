//! Kind `segmentation`: a class for every pixel, scored by the mean intersection over union.
//!
//! UperNet on a plain ViT as in the transfer of BEiT (arXiv:2106.08254 §3.2) and MAE (arXiv:2111.06377 §5, A.4), with the
//! conventions of mmsegmentation where the papers are silent. How images are read is the task's ([`SegmentationOptions`]), how the
//! head is built and trained the recipe's ([`SegmentationHeadConfig`]).

mod head;
mod inference;
mod loss;
mod output;
mod stitch;
mod target;
mod upernet;

pub use head::SegmentationHead;
pub use inference::SegmentationOptions;
pub use target::SegmentationTarget;

use crate::data::{Annotation, DatasetInfo, Entry, IGNORE, Image, Raster, SampleId};
use crate::metrics::confusion::{Confusion, SCORES};
use crate::metrics::{ClassScores, Metric, MetricError};
use crate::models::BackboneSpec;
use crate::nn::NormKind;
use crate::record::{ScoreSpec, Scores};
use crate::task::{DrawOptions, PredictionIo, PredictionWriter, Predictions, Task};
use anyhow::{Result, bail, ensure};
use candle_nn::VarBuilder;
use image::RgbImage;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// `[transfer.head]` of the recipe.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SegmentationHeadConfig {
    /// Channels of the decoder; the width of the backbone when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channels: Option<usize>,
    /// Four blocks of the backbone, from 0, the first for the finest level. When absent, those of BEiT for 12 and 24
    /// blocks, the ends of quarters for others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taps: Option<Vec<usize>>,
    /// Sides of the grids of pyramid pooling.
    #[serde(default = "pool_scales")]
    pub pool_scales: Vec<usize>,
    #[serde(default = "norm")]
    pub norm: NormKind,
    /// Share of channels dropped before a classifier.
    #[serde(default = "dropout")]
    pub dropout: f64,
    #[serde(default)]
    pub average: Average,
    /// Weights of classes in the losses, by name; others weigh 1.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub class_weight: BTreeMap<String, f64>,
    /// None when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auxiliary: Option<Auxiliary>,
}

/// What the sum of losses of pixels is divided by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Average {
    /// All pixels, ignored ones too: mmsegmentation with `avg_non_ignore=False`.
    #[default]
    All,
    /// Pixels with a label.
    Valid,
}

/// The FCN head beside the decoder, which only training uses.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Auxiliary {
    /// Of its loss.
    pub weight: f64,
    pub channels: usize,
}

fn pool_scales() -> Vec<usize> {
    vec![1, 2, 3, 6]
}
fn norm() -> NormKind {
    NormKind::Batch
}
fn dropout() -> f64 {
    0.1
}

impl Default for SegmentationHeadConfig {
    fn default() -> Self {
        Self {
            channels: None,
            taps: None,
            pool_scales: pool_scales(),
            norm: norm(),
            dropout: dropout(),
            average: Average::default(),
            class_weight: BTreeMap::new(),
            auxiliary: None,
        }
    }
}

impl SegmentationHeadConfig {
    /// Checks the table for a data set of `classes`.
    fn check(&self, classes: &[String]) -> Result<()> {
        ensure!(
            !self.pool_scales.is_empty() && !self.pool_scales.contains(&0),
            "pool_scales are {:?}, expected positive numbers",
            self.pool_scales
        );
        ensure!((0. ..1.).contains(&self.dropout), "dropout is {}, expected 0 ≤ dropout < 1", self.dropout);
        let taps = self.taps.as_ref().map_or(4, Vec::len);
        ensure!(taps == 4, "taps are {taps} blocks, expected 4");
        let channels = [self.channels, self.auxiliary.map(|auxiliary| auxiliary.channels)];
        ensure!(!channels.contains(&Some(0)), "channels is 0, expected at least 1");
        let weight = self.auxiliary.map_or(1., |auxiliary| auxiliary.weight);
        ensure!(weight > 0. && weight.is_finite(), "auxiliary.weight is {weight}, expected > 0");
        for (class, weight) in &self.class_weight {
            ensure!(
                *weight > 0. && weight.is_finite(),
                "class_weight of `{class}` is {weight}, expected > 0"
            );
            ensure!(
                classes.contains(class),
                "class_weight names `{class}`, which is none of the classes {}",
                classes.join(", ")
            );
        }
        Ok(())
    }
}

/// One segmentation task.
#[derive(Clone, Debug)]
pub struct SegmentationTask {
    options: SegmentationOptions,
    config: SegmentationHeadConfig,
    classes: Vec<String>,
    /// The id of each class in the masks of the data set.
    ids: Vec<u32>,
}

impl Task for SegmentationTask {
    const KIND: &'static str = "segmentation";
    type Options = SegmentationOptions;
    type HeadConfig = SegmentationHeadConfig;
    type Target = SegmentationTarget;
    type Prediction = Raster;
    type Head = SegmentationHead;

    fn new(
        options: SegmentationOptions,
        config: SegmentationHeadConfig,
        dataset: &DatasetInfo,
    ) -> Result<Self> {
        let classes = dataset.classes.clone();
        ensure!(
            classes.len() > 1,
            "data set `{}` has {} classes, at least 2 are needed",
            dataset.name,
            classes.len()
        );
        options.check().map_err(anyhow::Error::msg)?;
        config.check(&classes)?;
        let listed: Vec<u32> =
            dataset.categories.iter().filter_map(|category| u32::try_from(category.id).ok()).collect();
        let ids = if listed.len() == classes.len() { listed } else { (0..classes.len() as u32).collect() };
        Ok(Self { options, config, classes, ids })
    }

    fn scores(&self) -> &[ScoreSpec] {
        &SCORES
    }

    fn target(&self, entry: &Entry) -> Result<SegmentationTarget> {
        match &entry.annotation {
            Annotation::Raster(mask) => Ok(SegmentationTarget::new(mask.read()?, Some(mask.clone()))),
            _ => bail!("`{}` has no mask, which segmentation needs", entry.id),
        }
    }

    fn head(&self, backbone: &BackboneSpec, params: VarBuilder) -> candle_core::Result<SegmentationHead> {
        SegmentationHead::new(backbone, &self.options, &self.config, &self.classes, params)
    }

    fn metric(&self) -> Box<dyn Metric<Target = SegmentationTarget, Prediction = Raster>> {
        Box::new(SourceConfusion {
            counts: Confusion::new(self.classes.len()),
            classes: self.classes.clone(),
        })
    }

    fn prediction_io(&self) -> Option<&dyn PredictionIo<Prediction = Raster>> {
        Some(self)
    }

    fn any_size(&self) -> bool {
        self.options.stride.is_some()
    }

    /// The annotation; the first class where pixels are ignored.
    fn perfect(&self, target: &SegmentationTarget) -> Raster {
        let source = target.source();
        let label = |label: &u16| if *label == IGNORE { 0 } else { *label };
        Raster::new(source.height, source.width, source.labels.iter().map(label).collect())
    }
}

impl PredictionIo for SegmentationTask {
    type Prediction = Raster;

    fn draw(&self, image: &Image, prediction: &Raster, _: &DrawOptions) -> Result<Option<RgbImage>> {
        output::draw(image, prediction, &self.classes).map(Some)
    }

    fn writer(&self, folder: &Path) -> Option<Box<dyn PredictionWriter<Prediction = Raster>>> {
        Some(Box::new(output::LabelWriter::new(folder, &self.ids)))
    }

    fn read<'a>(
        &'a self,
        files: &[PathBuf],
        entries: &'a [Entry],
    ) -> Result<Option<Predictions<'a, Raster>>> {
        output::read(files, entries, &self.ids).map(Some)
    }
}

/// [`Confusion`] in the pixels of source images.
struct SourceConfusion {
    counts: Confusion,
    classes: Vec<String>,
}

impl Metric for SourceConfusion {
    type Target = SegmentationTarget;
    type Prediction = Raster;

    fn update(
        &mut self,
        id: &SampleId,
        prediction: Raster,
        target: &SegmentationTarget,
    ) -> Result<(), MetricError> {
        self.counts.update(id, prediction, target.source())
    }

    fn finish(self: Box<Self>) -> Result<Scores, MetricError> {
        Box::new(self.counts).finish()
    }

    fn finish_by_class(self: Box<Self>) -> Result<(Scores, ClassScores), MetricError> {
        let mut scores = ClassScores::default();
        for (class, counts) in self.classes.iter().zip(self.counts.total()) {
            for (score, value) in [("iou", counts.iou()), ("acc", counts.accuracy())] {
                if let Some(value) = value {
                    scores.insert(class, score, 100. * value);
                }
            }
        }
        Ok((Box::new(self.counts).finish()?, scores))
    }
}

#[cfg(test)]
mod golden;
#[cfg(test)]
mod tests;
