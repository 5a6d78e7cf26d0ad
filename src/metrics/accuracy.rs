//! Top-1 and top-k accuracy with standard errors.
//!
//! A class outranks the true class if its score is higher, or if it is equal and the index is lower. A score of NaN or −∞
//! has no rank: that class is not among the best, however few they are. The standard error is that of a proportion, √(p(1 − p) / n).

use super::{Metric, MetricError};
use crate::data::SampleId;
use crate::record::{Better, ErrorMethod, EvaluationSample, SampleUnit, Score, ScoreSpec, Scores, Unit};

/// Rank of `label` among `scores`; 0 is the best, and a class without a rank has the number of classes.
pub fn rank(scores: &[f32], label: usize) -> usize {
    let ranked = |score: &&f32| !score.is_nan() && **score != f32::NEG_INFINITY;
    let Some(own) = scores.get(label).filter(ranked) else { return scores.len() };
    scores.iter().enumerate().filter(|(i, s)| *s > own || (*s == own && *i < label)).count()
}

/// Top-1 and top-5 accuracy.
#[derive(Clone, Debug)]
pub struct Accuracy {
    specs: &'static [ScoreSpec],
    right: Vec<u64>,
    total: u64,
}

const TOP: [ScoreSpec; 2] = [
    ScoreSpec { name: "top1", unit: Unit::Percent, better: Better::Higher },
    ScoreSpec { name: "top5", unit: Unit::Percent, better: Better::Higher },
];
const K: [usize; 2] = [1, 5];

impl Accuracy {
    /// The scores for this number of classes: `top1`, and `top5` if there are more than five classes.
    pub fn specs(classes: usize) -> &'static [ScoreSpec] {
        if classes > K[1] { &TOP } else { &TOP[..1] }
    }

    /// A metric for this number of classes.
    pub fn new(classes: usize) -> Self {
        let specs = Self::specs(classes);
        Self { specs, right: vec![0; specs.len()], total: 0 }
    }
}

impl Metric for Accuracy {
    /// Class index.
    type Target = u32;
    /// One score per class.
    type Prediction = Vec<f32>;

    fn update(&mut self, _: &SampleId, prediction: Vec<f32>, target: &u32) -> Result<(), MetricError> {
        let rank = rank(&prediction, *target as usize);
        self.total += 1;
        for (right, k) in self.right.iter_mut().zip(K) {
            *right += u64::from(rank < k);
        }
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Scores, MetricError> {
        let mut scores = Scores::default();
        let n = self.total as f64;
        for (spec, right) in self.specs.iter().zip(&self.right) {
            let p = *right as f64 / n;
            let stderr = Some(100. * (p * (1. - p) / n).sqrt());
            let sample = EvaluationSample {
                method: ErrorMethod::Binomial,
                unit: SampleUnit::Image,
                units: self.total,
            };
            scores.insert_score(spec.name, Score { value: 100. * p, stderr, sample: Some(sample) });
        }
        Ok(scores)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_break_ties_by_index_and_nan_loses() {
        assert_eq!(rank(&[0.1, 0.5, 0.5], 1), 0);
        assert_eq!(rank(&[0.1, 0.5, 0.5], 2), 1);
        assert_eq!(rank(&[f32::NAN, 0.5, 0.2], 2), 1);
        assert_eq!(rank(&[f32::NAN, 0.5], 0), 2);
        assert_eq!(rank(&[0.5], 3), 1);
    }

    #[test]
    fn a_class_without_a_score_is_not_among_the_best() {
        let none = f32::NEG_INFINITY;
        let mut metric = Box::new(Accuracy::new(6));
        for (label, votes) in [(0, [none, 1., none, none, none, none]), (1, [none, 0., 1., none, none, none])]
        {
            metric.update(&SampleId::new("a"), votes.to_vec(), &label).unwrap();
        }
        let scores = metric.finish().unwrap();
        assert_eq!(scores.get("top1").unwrap().value, 0.);
        assert_eq!(scores.get("top5").unwrap().value, 50., "of the second image alone");
    }

    #[test]
    fn counts_by_hand() {
        let mut metric = Box::new(Accuracy::new(6));
        let id = SampleId::new("a");
        metric.update(&id, vec![6., 5., 4., 3., 2., 1.], &0).unwrap();
        metric.update(&id, vec![6., 5., 4., 3., 2., 1.], &4).unwrap();
        metric.update(&id, vec![6., 5., 4., 3., 2., 1.], &5).unwrap();
        metric.update(&id, vec![1., 0., 0., 0., 0., 0.], &0).unwrap();
        let scores = metric.finish().unwrap();
        assert_eq!(scores.get("top1").unwrap().value, 50.);
        assert_eq!(scores.get("top1").unwrap().stderr, Some(25.));
        assert_eq!(scores.get("top5").unwrap().value, 75.);
        assert_eq!(Accuracy::specs(5).len(), 1);
    }
}
