//! Options of detection: `[options]` of the manifest and `[transfer.head]` of the recipe.

use crate::metrics::coco::Protocol;
use crate::nn::NormKind;
use anyhow::{Result, ensure};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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
