//! Options of classification: `[options]` of the manifest and `[transfer.head]` of the recipe.

use crate::config::Pool;
use crate::data::augment::Mix;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `[options]` of the manifest of a classification task.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClassificationOptions {
    /// Which tokens the classifier reads; the recipe can override it.
    #[serde(default)]
    pub pool: Pool,
}

/// The classifier on the features of the backbone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Classifier {
    /// A linear layer, preceded by the layer norm `fc_norm` if tokens are averaged.
    #[default]
    Linear,
    /// BatchNorm without affine, then a linear layer: MAE's linear probe.
    Probe,
    /// Weighted vote of the nearest training images by cosine similarity; nothing is trained.
    Knn,
}

/// `[transfer.head]` of the recipe for classification.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClassificationHeadConfig {
    /// Type of the classifier.
    #[serde(default)]
    pub classifier: Classifier,
    /// Which tokens the classifier reads; overrides the task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<Pool>,
    /// Standard deviation of the initial weights of the linear layer.
    #[serde(default = "init_std")]
    pub init_std: f64,
    /// Label smoothing: 0 ≤ value < 1.
    #[serde(default)]
    pub label_smoothing: f64,
    /// Mixup and cutmix; off if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mix: Option<Mix>,
    /// k-NN: number of neighbors that vote.
    #[serde(default = "neighbours")]
    pub neighbours: usize,
    /// k-NN: the vote of a neighbor has weight exp(similarity / temperature).
    #[serde(default = "temperature")]
    pub temperature: f64,
}

fn init_std() -> f64 {
    2e-5
}
fn neighbours() -> usize {
    20
}
fn temperature() -> f64 {
    0.07
}
