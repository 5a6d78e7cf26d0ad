//! Options of detection: `[options]` of the manifest and `[transfer.head]` of the recipe.

use crate::metrics::coco::Protocol;
use crate::nn::NormKind;
use anyhow::{Result, ensure};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `[options]` of the manifest of a detection task.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DetectionOptions {
    /// The benchmark whose rules apply.
    pub protocol: Protocol,
    /// Whether masks are predicted and scored in addition to boxes.
    pub masks: bool,
    /// Detections with this score or less are dropped. Default: 0.05, or 0.02 for LVIS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score_threshold: Option<f32>,
    /// Maximum number of detections per image. Default: 100, or 300 for LVIS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detections: Option<usize>,
}

impl Default for DetectionOptions {
    fn default() -> Self {
        Self { protocol: Protocol::Coco, masks: true, score_threshold: None, detections: None }
    }
}

/// Type of the feature pyramid.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PyramidKind {
    /// Maps of four blocks, followed by an FPN (Li et al.).
    #[default]
    Taps,
    /// The simple pyramid of ViTDet: all levels from the last map.
    Simple,
}

/// `[transfer.head]` of the recipe for detection. Defaults are those of Li et al. and detectron2.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DetectionHeadConfig {
    /// Type of the feature pyramid.
    pub pyramid: PyramidKind,
    /// Norm between the two transposed convolutions of the finest level, with `pyramid = "taps"`.
    pub pyramid_norm: NormKind,
    /// Norm after the convolutions of the FPN or of the simple pyramid.
    pub fpn_norm: NormKind,
    /// Norm after the convolutions of the box head and the mask head.
    pub head_norm: NormKind,
    /// Number of channels of every level and of every convolution of the heads.
    pub channels: usize,
    /// The four blocks of `pyramid = "taps"`, from 0; the last block of each quarter if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub taps: Option<Vec<usize>>,
    /// Square root of the area of the anchors of each of the five levels, in pixels; eight times the stride if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub anchor_sizes: Option<Vec<f32>>,
    /// Aspect ratios of the anchors: height / width.
    pub anchor_ratios: Vec<f32>,
    /// Number of 3×3 convolutions in the region proposal network.
    pub rpn_convs: usize,
    /// Number of anchors per image that are sampled for the loss, at most half of them positive.
    pub anchors: usize,
    /// Number of proposals per level before NMS, in training.
    pub proposals_before_nms: usize,
    /// Number of proposals per level before NMS, in evaluation.
    pub proposals_before_nms_test: usize,
    /// Number of proposals per image after NMS.
    pub proposals: usize,
    /// Number of regions per image that are sampled for the loss.
    pub regions: usize,
    /// Maximum fraction of positive regions among them.
    pub regions_positive: f64,
    /// Number of convolutions in the box head.
    pub box_convs: usize,
    /// Width of the fully connected layer after the convolutions of the box head.
    pub box_width: usize,
    /// Number of convolutions in the mask head.
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
    /// Checks ranges; the error names the key.
    pub(super) fn check(&self) -> Result<()> {
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
