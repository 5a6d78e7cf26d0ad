//! Metrics: plain data in, scores out. No tensors.

pub mod accuracy;
pub mod coco;
pub mod confusion;

use crate::data::SampleId;
use crate::record::Scores;
use serde::Serialize;
use std::collections::BTreeMap;

/// Scores of single classes: class name -> name of the score -> value.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(transparent)]
pub struct ClassScores(pub BTreeMap<String, BTreeMap<String, f64>>);

impl ClassScores {
    pub fn insert(&mut self, class: &str, score: &str, value: f64) {
        self.0.entry(class.into()).or_default().insert(score.into(), value);
    }
}

/// Why there is no score.
#[derive(Debug, thiserror::Error)]
pub enum MetricError {
    #[error("prediction of `{id}`: {message}")]
    Prediction { id: SampleId, message: String },
    #[error("{0}")]
    Scoring(String),
}

/// Accumulates predictions; consumed to read the scores, so nothing is read before the end.
pub trait Metric: Send {
    type Target;
    type Prediction;
    /// # Errors
    /// A prediction that cannot be scored, such as one that is not finite.
    fn update(
        &mut self,
        id: &SampleId,
        prediction: Self::Prediction,
        target: &Self::Target,
    ) -> Result<(), MetricError>;
    /// # Errors
    /// When what was taken in gives no score.
    fn finish(self: Box<Self>) -> Result<Scores, MetricError>;
    /// The same, with scores of single classes for those who read about one run; without them by default.
    fn finish_by_class(self: Box<Self>) -> Result<(Scores, ClassScores), MetricError> {
        Ok((self.finish()?, ClassScores::default()))
    }
}
