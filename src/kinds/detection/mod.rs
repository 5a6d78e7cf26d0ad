//! Kind `detection`: the objects of an image, each with a label, a box and (where they are annotated) a mask, scored by
//! COCO's average precision.
//!
//! The model is Mask R-CNN (arXiv:1703.06870) with FPN on a plain ViT: by default that of Li et al. (arXiv:2111.11429),
//! which the MAE paper's Tables 4 and 7 use; ViTDet (arXiv:2203.16527) by other choices in the recipe. BatchNorm is over
//! the images of a forward pass ([`crate::nn::NormKind`]).

mod anchors;
mod box_head;
mod boxes;
#[cfg(test)]
mod coco_golden;
mod draw;
mod files;
#[cfg(test)]
mod golden;
mod head;
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

pub use head::DetectionHead;
pub use results::{CocoMetric, Protocol, perfect_detections, score_specs};
pub use target::{DetectionTarget, Instance};

pub use crate::data::Rle;
pub use crate::metrics::coco::{Detection, Written};

use crate::data::{Annotation, DatasetInfo, Entry, Image, Object};
use crate::metrics::Metric;
use crate::models::BackboneSpec;
use crate::nn::NormKind;
use crate::record::ScoreSpec;
use crate::task::{DrawOptions, PredictionIo, PredictionWriter, Predictions, Task};
use anyhow::{Result, bail, ensure};
use box_head::Postprocess;
use candle_nn::VarBuilder;
use image::RgbImage;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// `[options]` of the manifest.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DetectionOptions {
    pub protocol: Protocol,
    /// Boxes alone are predicted and scored where this is false.
    pub masks: bool,
    /// Boxes of this probability or less are dropped: 0.05, for LVIS 0.02.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score_threshold: Option<f32>,
    /// Detections per image, at most: 100, for LVIS 300.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detections: Option<usize>,
}

impl Default for DetectionOptions {
    fn default() -> Self {
        Self { protocol: Protocol::Coco, masks: true, score_threshold: None, detections: None }
    }
}

/// What the pyramid is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PyramidKind {
    /// Four taps, then an FPN (Li et al.).
    #[default]
    Taps,
    /// The last map (ViTDet).
    Simple,
}

/// `[transfer.head]` of the recipe. What is left out is as in Li et al. and detectron2.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DetectionHeadConfig {
    pub pyramid: PyramidKind,
    /// Between the two transposed convolutions of the finest level, with `pyramid = "taps"`.
    pub pyramid_norm: NormKind,
    /// Behind the convolutions of the FPN, or of the simple pyramid.
    pub fpn_norm: NormKind,
    /// Behind the convolutions of the box head and the mask head.
    pub head_norm: NormKind,
    /// Of every level and every convolution of the heads.
    pub channels: usize,
    /// The four blocks of `pyramid = "taps"`; the last of every quarter when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub taps: Option<Vec<usize>>,
    /// Square root of the area of the anchors of the five levels, in pixels; eight strides when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub anchor_sizes: Option<Vec<f32>>,
    /// Height over width.
    pub anchor_ratios: Vec<f32>,
    /// 3×3 convolutions of the proposal network.
    pub rpn_convs: usize,
    /// Anchors per image that learn, at most half of them positive.
    pub anchors: usize,
    /// Proposals per level that go into NMS, in training.
    pub proposals_before_nms: usize,
    /// The same in evaluation.
    pub proposals_before_nms_test: usize,
    /// Proposals per image that are left after NMS.
    pub proposals: usize,
    /// Regions per image that learn.
    pub regions: usize,
    /// Share of them that are positive, at most.
    pub regions_positive: f64,
    pub box_convs: usize,
    /// Of the layer behind the convolutions of the box head.
    pub box_width: usize,
    pub mask_convs: usize,
}

impl Default for DetectionHeadConfig {
    fn default() -> Self {
        Self {
            pyramid: PyramidKind::Taps,
            pyramid_norm: NormKind::Group,
            fpn_norm: NormKind::Batch,
            head_norm: NormKind::Batch,
            channels: 256,
            taps: None,
            anchor_sizes: None,
            anchor_ratios: vec![0.5, 1., 2.],
            rpn_convs: 2,
            anchors: 256,
            proposals_before_nms: 2000,
            proposals_before_nms_test: 1000,
            proposals: 1000,
            regions: 512,
            regions_positive: 0.25,
            box_convs: 4,
            box_width: 1024,
            mask_convs: 4,
        }
    }
}

impl DetectionHeadConfig {
    /// What cannot work, by key.
    fn check(&self) -> Result<()> {
        let positive = [
            ("channels", self.channels),
            ("anchors", self.anchors),
            ("proposals_before_nms", self.proposals_before_nms),
            ("proposals_before_nms_test", self.proposals_before_nms_test),
            ("proposals", self.proposals),
            ("regions", self.regions),
            ("box_width", self.box_width),
            ("anchor_ratios", self.anchor_ratios.len()),
        ];
        for (key, value) in positive {
            ensure!(value > 0, "transfer.head.{key} is empty or 0, expected at least 1");
        }
        let share = self.regions_positive;
        ensure!((0. ..=1.).contains(&share), "transfer.head.regions_positive is {share}, expected 0 to 1");
        let sizes = self.anchor_sizes.as_deref().unwrap_or(&[1.; 5]);
        ensure!(sizes.len() == 5, "transfer.head.anchor_sizes has {} values, expected 5", sizes.len());
        let lengths = sizes.iter().chain(&self.anchor_ratios);
        ensure!(
            lengths.clone().all(|v| v.is_finite() && *v > 0.),
            "transfer.head.anchor_sizes and anchor_ratios must be positive numbers"
        );
        Ok(())
    }
}

/// One detection task.
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

    /// With `masks`, every object needs one.
    fn check(&self, entries: &[Entry]) -> Result<()> {
        let has_masks = |entry: &Entry| match &entry.annotation {
            Annotation::Objects(image) => image.objects.iter().all(Object::has_mask),
            _ => true,
        };
        match entries.iter().find(|entry| self.options.masks && !has_masks(entry)) {
            Some(Entry { id, .. }) => bail!(
                "image `{id}` has an object without a mask; for boxes alone set `masks = false` in `[options]`"
            ),
            None => Ok(()),
        }
    }

    fn head(&self, backbone: &BackboneSpec, params: VarBuilder) -> candle_core::Result<DetectionHead> {
        let classes = (self.info.classes.len(), self.options.masks);
        DetectionHead::new(backbone, &self.config, classes, self.postprocess(), params)
    }

    fn metric(&self) -> Box<dyn Metric<Target = DetectionTarget, Prediction = Vec<Detection>>> {
        Box::new(CocoMetric::new(&self.info, self.options.protocol, self.options.masks))
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
    ) -> Result<Option<RgbImage>> {
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
        files::read(files, entries, &self.info).map(Some)
    }
}

#[cfg(test)]
mod tests;
