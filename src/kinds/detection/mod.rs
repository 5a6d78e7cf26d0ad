//! Kind `detection`: the objects of an image, each with a label, a box and (if masks are annotated) a mask, scored by the
//! average precision of COCO.
//!
//! The model is Mask R-CNN (arXiv:1703.06870) with FPN on a plain ViT: by default that of Li et al. (arXiv:2111.11429),
//! which the MAE paper's Tables 4 and 7 use; ViTDet (arXiv:2203.16527) by other choices in the recipe. BatchNorm is over
//! the images of a forward pass ([`crate::nn::NormKind`]).

mod anchors;
mod box_head;
mod boxes;
#[cfg(test)]
mod coco_golden;
mod config;
mod draw;
mod files;
#[cfg(test)]
mod golden;
mod head;
#[cfg(test)]
mod lenient;
mod mask;
mod mask_head;
mod matcher;
mod paste;
mod results;
mod roi;
mod rpn;
mod sampler;
mod target;
mod tower;
mod visible;

pub use crate::metrics::coco::{Detection, Protocol, WrittenDetection};
pub use config::{DetectionHeadConfig, DetectionOptions, PyramidKind};
pub use head::DetectionHead;
pub use target::{DetectionTarget, Instance};

pub use crate::data::Rle;

use crate::data::{Annotation, DatasetInfo, Entry, Image, Object, Segmentation};
use crate::draw::Drawing;
use crate::metrics::Metric;
use crate::metrics::coco::score_specs;
use crate::models::BackboneSpec;
use crate::record::ScoreSpec;
use crate::task::{DrawOptions, PredictionIo, PredictionWriter, Predictions, Task};
use anyhow::{Result, bail, ensure};
use box_head::Postprocess;
use candle_nn::VarBuilder;
use results::{CocoMetric, perfect_detections};
use std::path::{Path, PathBuf};

/// A detection task.
#[derive(Clone, Debug)]
pub struct DetectionTask {
    options: DetectionOptions,
    config: DetectionHeadConfig,
    info: DatasetInfo,
}

impl DetectionTask {
    fn postprocess(&self) -> Postprocess {
        let (score_threshold, max_detections) = match self.options.protocol {
            Protocol::Coco => (0.05, 100),
            Protocol::Lvis => (0.02, 300),
        };
        Postprocess {
            score_threshold: self.options.score_threshold.unwrap_or(score_threshold),
            nms_iou: 0.5,
            max_detections: self.options.detections.unwrap_or(max_detections),
        }
    }
}

impl Task for DetectionTask {
    const KIND: &'static str = "detection";
    type Options = DetectionOptions;
    type HeadConfig = DetectionHeadConfig;
    type Target = DetectionTarget;
    type Prediction = Vec<Detection>;
    type Head = DetectionHead;

    fn new(options: DetectionOptions, config: DetectionHeadConfig, dataset: &DatasetInfo) -> Result<Self> {
        ensure!(!dataset.classes.is_empty(), "data set `{}` has no classes", dataset.name);
        config.check()?;
        let least = options.score_threshold.unwrap_or(0.);
        ensure!((0. ..1.).contains(&least), "score_threshold is {least}, expected 0 ≤ score_threshold < 1");
        Ok(Self { options, config, info: dataset.clone() })
    }

    fn scores(&self) -> &[ScoreSpec] {
        score_specs(self.options.protocol, self.options.masks)
    }

    fn target(&self, entry: &Entry) -> Result<DetectionTarget> {
        DetectionTarget::new(entry, self.info.classes.len())
    }

    /// Checks that there is an object to learn and to score, and that every object has a mask if masks are scored.
    fn check(&self, entries: &[Entry]) -> Result<()> {
        let objects = || {
            entries.iter().flat_map(|entry| match &entry.annotation {
                Annotation::Objects(image) => image.objects.iter().map(|object| (entry, object)).collect(),
                _ => vec![],
            })
        };
        let counts = |object: &Object| !object.crowd && object.bbox[2] > 0. && object.bbox[3] > 0.;
        let all = objects().count();
        ensure!(
            objects().any(|(_, object)| counts(object)),
            "there is nothing to learn and nothing to score: {}",
            match all {
                0 => "the split has no object".into(),
                _ => format!("all {all} objects are crowds (`iscrowd`) or have no area"),
            }
        );
        let without = || objects().filter(|(_, object)| self.options.masks && !object.has_mask());
        let Some((Entry { id, .. }, object)) = without().next() else { return Ok(()) };
        let why = match &object.segmentation {
            Segmentation::Flawed(flaw) => format!(": its outline cannot be drawn: {flaw}"),
            _ => String::new(),
        };
        bail!(
            "image `{id}` has an object without a mask{why} ({} of {all} objects have none); to score only boxes, set \
             `masks = false` in `[options]`",
            without().count()
        )
    }

    fn head(&self, backbone: &BackboneSpec, params: VarBuilder) -> candle_core::Result<DetectionHead> {
        let classes = (self.info.classes.len(), self.options.masks);
        DetectionHead::new(backbone, &self.config, classes, self.postprocess(), params)
    }

    fn metric(&self) -> Box<dyn Metric<Target = DetectionTarget, Prediction = Vec<Detection>>> {
        Box::new(CocoMetric::new(&self.info, self.options.protocol, self.options.masks))
    }

    fn needs_whole_images(&self) -> bool {
        true
    }

    fn usual_protocol(&self) -> &'static str {
        "eval = [{ op = \"resize_longest\" }, { op = \"pad\" }]"
    }

    fn prediction_io(&self) -> Option<&dyn PredictionIo<Prediction = Vec<Detection>>> {
        Some(self)
    }

    fn perfect(&self, target: &DetectionTarget) -> Vec<Detection> {
        perfect_detections(target)
    }
}

impl PredictionIo for DetectionTask {
    type Prediction = Vec<Detection>;

    fn draw(
        &self,
        image: &Image,
        detections: &Vec<Detection>,
        options: &DrawOptions,
    ) -> Result<Option<Drawing>> {
        draw::draw(image, detections, &self.info.classes, options).map(Some)
    }

    fn writer(&self, folder: &Path) -> Option<Box<dyn PredictionWriter<Prediction = Vec<Detection>>>> {
        Some(Box::new(files::ResultWriter::new(folder, &self.info)))
    }

    fn read<'a>(
        &'a self,
        files: &[PathBuf],
        entries: &'a [Entry],
    ) -> Result<Option<Predictions<'a, Vec<Detection>>>> {
        files::read(files, entries, &self.info, self.options.masks).map(Some)
    }
}

#[cfg(test)]
mod tests;
