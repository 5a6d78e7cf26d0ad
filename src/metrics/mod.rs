//! Metrics: plain data in, scores out. No tensors.

pub mod accuracy;

use crate::data::SampleId;
use crate::record::Scores;

/// Accumulates predictions; consumed to read the scores, so nothing is read before the end.
pub trait Metric: Send {
    type Target;
    type Prediction;
    fn update(&mut self, id: &SampleId, prediction: Self::Prediction, target: &Self::Target);
    fn finish(self: Box<Self>) -> Scores;
}
