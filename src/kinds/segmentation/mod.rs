//! Kind `segmentation`: a class for every pixel, scored by the mean intersection over union.
//!
//! UperNet on a plain ViT as in the transfer of BEiT (arXiv:2106.08254 §3.2) and MAE (arXiv:2111.06377 §5, A.4), with the
//! conventions of mmsegmentation where the papers are silent. The task determines how images are evaluated
//! ([`SegmentationOptions`]); the recipe, how the head is built and trained ([`SegmentationHeadConfig`]).

mod config;
mod head;
mod inference;
mod loss;
mod output;
mod stitch;
mod target;
mod upernet;

pub use config::{Auxiliary, Average, SegmentationHeadConfig};
pub use head::SegmentationHead;
pub use inference::SegmentationOptions;
pub use target::SegmentationTarget;

use crate::data::{Annotation, DatasetInfo, Entry, IGNORE, Image, Raster, SampleId, Sequences};
use crate::draw::Drawing;
use crate::metrics::confusion::{Confusion, SCORES};
use crate::metrics::{ClassScores, Findings, Metric, MetricError};
use crate::models::BackboneSpec;
use crate::nn::NormKind;
use crate::record::{ScoreSpec, Scores};
use crate::task::{DrawOptions, PredictionIo, PredictionWriter, Predictions, Task};
use anyhow::{Result, bail, ensure};
use candle_nn::VarBuilder;
use std::path::{Path, PathBuf};

/// A segmentation task.
#[derive(Clone, Debug)]
pub struct SegmentationTask {
    options: SegmentationOptions,
    config: SegmentationHeadConfig,
    classes: Vec<String>,
    sequences: Option<Sequences>,
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
            "data set `{}` has {}, but at least 2 classes are needed",
            dataset.name,
            match classes.len() {
                0 => "no classes",
                _ => "1 class",
            }
        );
        options.check().map_err(anyhow::Error::msg)?;
        config.check(&classes)?;
        let listed: Vec<u32> = dataset
            .categories
            .iter()
            .filter_map(|category| category.id.number())
            .filter_map(|id| u32::try_from(id).ok())
            .collect();
        let ids = if listed.len() == classes.len() { listed } else { (0..classes.len() as u32).collect() };
        Ok(Self { options, config, classes, sequences: dataset.sequences.clone(), ids })
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
            counts: Confusion::new(self.classes.len(), self.sequences.clone()),
            classes: self.classes.clone(),
        })
    }

    fn prediction_io(&self) -> Option<&dyn PredictionIo<Prediction = Raster>> {
        Some(self)
    }

    /// Pyramid pooling to a single cell leaves one value of each channel per image.
    fn least_batch(&self) -> usize {
        let single = self.config.norm == NormKind::Batch && self.config.pool_scales.contains(&1);
        if single { 2 } else { 1 }
    }

    fn any_size(&self) -> bool {
        self.options.stride.is_some()
    }

    fn needs_whole_images(&self) -> bool {
        true
    }

    fn usual_protocol(&self) -> &'static str {
        "eval = [{ op = \"resize\", interpolation = \"bilinear\" }], which scales whole images to the input of the model, or \
         `stride = 0.6667` in `[options]` for sliding windows over images of any size, with `eval = []` or \
         `eval = [{ op = \"resize_within\" }]`"
    }

    /// The annotation, with the first class at ignored pixels.
    fn perfect(&self, target: &SegmentationTarget) -> Raster {
        let source = target.source();
        let label = |label: &u16| if *label == IGNORE { 0 } else { *label };
        Raster::new(source.height, source.width, source.labels.iter().map(label).collect())
    }

    /// The annotation as it is, with its ignored pixels.
    fn annotation(&self, target: &SegmentationTarget) -> Raster {
        target.source().clone()
    }
}

impl PredictionIo for SegmentationTask {
    type Prediction = Raster;

    fn draw(&self, image: &Image, prediction: &Raster, options: &DrawOptions) -> Result<Option<Drawing>> {
        output::draw(image, prediction, &self.classes, options).map(Some)
    }

    fn writer(&self, folder: &Path) -> Option<Box<dyn PredictionWriter<Prediction = Raster>>> {
        Some(Box::new(output::LabelWriter::new(folder, &self.ids, &self.classes)))
    }

    fn read<'a>(
        &'a self,
        files: &[PathBuf],
        entries: &'a [Entry],
    ) -> Result<Option<Predictions<'a, Raster>>> {
        output::read(files, entries, &self.ids).map(Some)
    }
}

/// [`Confusion`] at the resolution of the source images.
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

    fn finish_in_full(self: Box<Self>) -> Result<Findings, MetricError> {
        let mut by_class = ClassScores::default();
        for (class, counts) in self.classes.iter().zip(self.counts.total()) {
            for (score, value) in [("iou", counts.iou()), ("acc", counts.accuracy())] {
                if let Some(value) = value {
                    by_class.insert(class, score, 100. * value);
                }
            }
        }
        Ok(Findings { scores: Box::new(self.counts).finish()?, by_class, report: None })
    }
}

#[cfg(test)]
mod golden;
#[cfg(test)]
mod tests;
