//! `[transfer.head]` of the recipe: how the decoder of segmentation is built and trained.

use crate::nn::NormKind;
use anyhow::{Result, ensure};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// `[transfer.head]` of the recipe for segmentation.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SegmentationHeadConfig {
    /// Number of channels of the decoder; the width of the backbone if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channels: Option<usize>,
    /// Four blocks of the backbone, from 0; the first is used for the finest level. If absent, those of BEiT for 12 and 24
    /// blocks, and the last block of each quarter for other depths.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taps: Option<Vec<usize>>,
    /// Grid sizes of pyramid pooling.
    #[serde(default = "pool_scales")]
    pub pool_scales: Vec<usize>,
    /// Norm after the convolutions.
    #[serde(default = "norm")]
    pub norm: NormKind,
    /// Fraction of channels that are dropped before a classifier.
    #[serde(default = "dropout")]
    pub dropout: f64,
    /// Divisor of the sum of pixel losses.
    #[serde(default)]
    pub average: Average,
    /// Weights of classes in the losses, by name; 1 for classes that are not listed.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub class_weight: BTreeMap<String, f64>,
    /// Auxiliary head; none if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auxiliary: Option<Auxiliary>,
}

/// Divisor of the sum of pixel losses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Average {
    /// The number of all pixels, including ignored ones: mmsegmentation with `avg_non_ignore=False`.
    #[default]
    All,
    /// The number of pixels with a label.
    Valid,
}

/// The auxiliary FCN head, which is used only in training.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Auxiliary {
    /// Weight of its loss.
    pub weight: f64,
    /// Number of channels.
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
    pub(super) fn check(&self, classes: &[String]) -> Result<()> {
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
                "class_weight lists `{class}`, which is not one of the classes {}",
                classes.join(", ")
            );
        }
        Ok(())
    }
}
