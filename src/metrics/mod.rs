//! Metrics: compute scores from predictions and targets, without tensors.

pub mod accuracy;
pub mod bootstrap;
pub mod coco;
pub mod confusion;

use crate::data::SampleId;
use crate::record::Scores;
use serde::Serialize;
use std::collections::BTreeMap;

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

    /// Computes the scores and per-class scores, which are written to the run folder. By default there are no per-class
    /// scores.
    ///
    /// # Errors
    /// The errors of [`Metric::finish`].
    fn finish_by_class(self: Box<Self>) -> Result<(Scores, ClassScores), MetricError> {
        Ok((self.finish()?, ClassScores::default()))
    }
}
