//! Metrics: compute scores from predictions and targets, without tensors.

pub mod accuracy;
pub mod bootstrap;
pub mod classification;
pub mod coco;
pub mod confusion;

use crate::data::{Entry, SampleId};
use crate::record::Scores;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Per-class scores: class name -> score name -> value.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(transparent)]
pub struct ClassScores(pub BTreeMap<String, BTreeMap<String, f64>>);

impl ClassScores {
    /// Adds a score or replaces it.
    pub fn insert(&mut self, class: &str, score: &str, value: f64) {
        self.0.entry(class.into()).or_default().insert(score.into(), value);
    }
}

/// What a metric reports on the predictions of a split.
#[derive(Clone, Debug)]
pub struct Findings {
    /// The scores that the kind of task declares.
    pub scores: Scores,
    /// Scores of each class, if the kind has any.
    pub by_class: ClassScores,
    /// What explains the scores, if the kind reports it.
    pub report: Option<Arc<dyn Report>>,
}

/// What explains the scores of a split, such as a confusion matrix: a summary for the screen, values for programs, and files.
pub trait Report: Debug + Send + Sync {
    /// The most important findings, one per line, for the screen.
    fn summary(&self) -> Vec<String>;

    /// The findings for other programs, as part of `bench eval --json`.
    fn values(&self) -> serde_json::Value;

    /// Writes tables and pictures to `folder`, which exists, replaces older ones, and returns their paths. `entries` are those
    /// of the evaluated split.
    ///
    /// # Errors
    /// A file that cannot be written, and an image that cannot be read.
    fn write(&self, folder: &Path, entries: &[Entry]) -> anyhow::Result<Vec<PathBuf>>;
}

/// Why scores cannot be computed.
#[derive(Debug, thiserror::Error)]
pub enum MetricError {
    /// A prediction that cannot be scored.
    #[error("prediction of `{id}`: {message}")]
    Prediction {
        /// Id of the image.
        id: SampleId,
        /// The problem with the prediction.
        message: String,
    },
    /// The predictions together give no scores.
    #[error("{0}")]
    Scoring(String),
}

/// Accumulates predictions. Reading the scores consumes the metric, so that they cannot be read before the end.
pub trait Metric: Send {
    /// Same as the target of the task.
    type Target;
    /// Same as the prediction of the task.
    type Prediction;

    /// Adds the prediction for the image `id`.
    ///
    /// # Errors
    /// A prediction that cannot be scored, such as one that is not finite.
    fn update(
        &mut self,
        id: &SampleId,
        prediction: Self::Prediction,
        target: &Self::Target,
    ) -> Result<(), MetricError>;

    /// Computes the scores.
    ///
    /// # Errors
    /// Predictions that give no scores, for example because there are none.
    fn finish(self: Box<Self>) -> Result<Scores, MetricError>;

    /// Computes the scores, per-class scores and a report. By default there are only scores.
    ///
    /// # Errors
    /// The errors of [`Metric::finish`].
    fn finish_in_full(self: Box<Self>) -> Result<Findings, MetricError> {
        Ok(Findings { scores: self.finish()?, by_class: ClassScores::default(), report: None })
    }
}
