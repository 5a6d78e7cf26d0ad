//! Standard errors by the bootstrap (Efron 1979): the standard deviation of a score over samples that are drawn from the
//! evaluation split with replacement and are as large as the split.
//!
//! What is drawn are [`Units`]: images or, if the data set says how to read them from file names, whole sequences of video
//! frames, because neighbouring frames are not independent. A sample is described by how often it contains each image
//! ([`Units::weights`]), so that nothing has to be predicted or matched again.

use crate::data::{SampleId, Sequences};
use crate::record::{ErrorMethod, EvaluationSample, SampleUnit};
use crate::rng::Rng;
use rand::Rng as _;
use rayon::prelude::*;
use std::collections::BTreeMap;

/// Number of samples. The standard error has a relative error of 1/√(2·1000) = 2 %.
pub const RESAMPLES: u64 = 1000;

/// The independent units of an evaluation split, image by image.
#[derive(Clone, Debug, Default)]
pub struct Units {
    sequences: Option<Sequences>,
    /// The index of each sequence.
    known: BTreeMap<String, usize>,
    /// The unit of each image.
    of: Vec<usize>,
}

impl Units {
    /// No images yet. `sequences` says how to read sequences from the ids of images; without it, each image is a unit.
    pub fn new(sequences: Option<Sequences>) -> Self {
        Self { sequences, ..Self::default() }
    }

    /// Adds the next image.
    pub fn add(&mut self, id: &SampleId) {
        let unit = match &self.sequences {
            None => self.of.len(),
            Some(sequences) => {
                let next = self.known.len();
                *self.known.entry(sequences.of(id.as_str()).to_string()).or_insert(next)
            }
        };
        self.of.push(unit);
    }

    /// Number of units.
    pub fn count(&self) -> usize {
        if self.sequences.is_some() { self.known.len() } else { self.of.len() }
    }

    /// How the errors of [`standard_errors`](Self::standard_errors) are described in records.
    pub fn sample(&self) -> EvaluationSample {
        let unit = if self.sequences.is_some() { SampleUnit::Sequence } else { SampleUnit::Image };
        EvaluationSample { method: ErrorMethod::Bootstrap, unit, units: self.count() as u64 }
    }

    /// How often each image is in sample number `draw`; the same for every split with as many units.
    pub fn weights(&self, draw: u64) -> Vec<u32> {
        let count = self.count();
        let mut rng = Rng::new(0, "bootstrap", &[draw]);
        let mut drawn = vec![0; count];
        for _ in 0..count {
            drawn[rng.random_range(0..count)] += 1;
        }
        self.of.iter().map(|unit| drawn[*unit]).collect()
    }

    /// The standard deviation of each of the `scores` over the samples: `statistic` computes them from the weights of the
    /// images. A sample in which a score is not defined does not count for it. `None` for all scores if there are fewer than
    /// two units, and for a score that fewer than two samples define.
    pub fn standard_errors(
        &self,
        scores: usize,
        statistic: impl Fn(&[u32]) -> Vec<Option<f64>> + Sync,
    ) -> Vec<Option<f64>> {
        if self.count() < 2 {
            return vec![None; scores];
        }
        let draws: Vec<Vec<Option<f64>>> =
            (0..RESAMPLES).into_par_iter().map(|draw| statistic(&self.weights(draw))).collect();
        let of_score =
            |k: usize| deviation(draws.iter().filter_map(|values| values.get(k).copied().flatten()));
        (0..scores).map(of_score).collect()
    }
}

/// Standard deviation with n − 1; `None` for fewer than two values.
fn deviation(values: impl Iterator<Item = f64> + Clone) -> Option<f64> {
    let n = values.clone().count();
    let mean = values.clone().sum::<f64>() / n as f64;
    let squares: f64 = values.map(|value| (value - mean).powi(2)).sum();
    (n > 1).then(|| (squares / (n - 1) as f64).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn units(sequences: Option<Sequences>, ids: &[&str]) -> Units {
        let mut units = Units::new(sequences);
        ids.iter().for_each(|id| units.add(&SampleId::new(id)));
        units
    }

    #[test]
    fn the_error_of_a_mean_is_its_standard_deviation_by_the_root_of_n() {
        let ids: Vec<String> = (0..40).map(|k| k.to_string()).collect();
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        let values: Vec<f64> = (0..40).map(|k| f64::from(k * k % 17)).collect();
        let mean = |weights: &[u32]| {
            let sum: f64 = weights.iter().zip(&values).map(|(w, v)| f64::from(*w) * v).sum();
            vec![Some(sum / 40.), None]
        };
        let found = units(None, &ids).standard_errors(2, mean);
        let average = values.iter().sum::<f64>() / 40.;
        let expected = (values.iter().map(|v| (v - average).powi(2)).sum::<f64>() / 40. / 40.).sqrt();
        assert!((found[0].unwrap() / expected - 1.).abs() < 0.1, "{found:?}, expected {expected}");
        assert_eq!(found[1], None, "a score that no sample defines has no error");
    }

    #[test]
    fn a_score_that_one_sample_defines_has_no_error() {
        let ids: Vec<String> = (0..40).map(|k| k.to_string()).collect();
        let found = units(None, &ids.iter().map(String::as_str).collect::<Vec<_>>());
        let [one, other] = [0, RESAMPLES - 1].map(|draw| found.weights(draw));
        let defined = |weights: &[u32]| {
            let value = if weights == one { 1. } else { 3. };
            vec![(weights == one).then_some(value), (weights == one || weights == other).then_some(value)]
        };
        assert_eq!(found.standard_errors(2, defined), [None, Some(2f64.sqrt())]);
    }

    #[test]
    fn frames_of_a_sequence_are_drawn_together() {
        let by_name = Sequences { separator: "_".into(), fields: 1 };
        let ids = ["a_0.png", "b_0.png", "a_1.png", "a_2.png", "b_1.png"];
        let found = units(Some(by_name.clone()), &ids);
        assert_eq!(found.count(), 2);
        assert_eq!(found.sample().units, 2);
        for draw in 0..20 {
            let weights = found.weights(draw);
            assert_eq!(weights.len(), 5);
            assert!(weights[0] == weights[2] && weights[2] == weights[3] && weights[1] == weights[4]);
            assert_eq!(weights[0] + weights[1], 2, "two sequences are drawn");
        }
        let one = units(Some(by_name), &["a_0.png", "a_1.png"]);
        assert_eq!(one.standard_errors(1, |_| vec![Some(1.)]), [None], "one sequence tells nothing");
    }

    /// Errors in records come from these samples.
    #[test]
    fn the_samples_are_always_the_same() {
        let found = units(None, &["a", "b", "c", "d", "e", "f", "g", "h"]);
        assert_eq!(found.weights(0), [2, 1, 0, 0, 1, 2, 1, 1]);
    }
}
