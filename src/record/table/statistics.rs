//! Means and errors of the cells of a table. `docs/statistics.md` explains the formulas and gives their sources.

use super::content::Estimate;
use crate::record::{EvaluationSample, InitRecord, RunRecord, SampleUnit, Score};
use std::collections::{BTreeMap, BTreeSet};

/// What the statistics of a cell need to know about a run.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Run {
    /// The pre-training behind its initial weights; `None` for random weights.
    pub pretraining: Option<String>,
    /// Seed of the transfer.
    pub seed: u64,
    /// The score.
    pub value: f64,
    /// Its standard error over the evaluation split.
    pub stderr: Option<f64>,
    /// What that error is based on.
    pub sample: Option<EvaluationSample>,
}

impl Run {
    pub fn new(run: &RunRecord, score: Score) -> Self {
        Self {
            pretraining: pretraining(&run.init),
            seed: run.seed,
            value: score.value,
            stderr: score.stderr,
            sample: score.sample,
        }
    }
}

/// What distinguishes pre-trainings: the seed or, where it is unknown, the weights.
fn pretraining(init: &InitRecord) -> Option<String> {
    let hash = init.hash.as_ref()?;
    Some(init.seed.map_or_else(|| hash.clone(), |seed| format!("seed {seed}")))
}

/// The values of a cell by pre-training; all of them under `None` if there is none.
fn by_pretraining(runs: &[Run]) -> BTreeMap<&Option<String>, Vec<f64>> {
    let mut groups: BTreeMap<_, Vec<f64>> = BTreeMap::new();
    for run in runs {
        groups.entry(&run.pretraining).or_default().push(run.value);
    }
    groups
}

fn trained(runs: &[Run]) -> bool {
    runs.iter().any(|run| run.pretraining.is_some())
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Standard deviation with n − 1; `None` for one value.
fn deviation(values: &[f64]) -> Option<f64> {
    let squares: f64 = values.iter().map(|value| (value - mean(values)).powi(2)).sum();
    (values.len() > 1).then(|| (squares / (values.len() - 1) as f64).sqrt())
}

/// Mean and standard deviation: over pre-trainings, each of which counts by the mean of its transfers, or over runs if
/// there is no pre-training. `None` without runs.
pub(super) fn estimate(runs: &[Run]) -> Option<Estimate> {
    let groups = by_pretraining(runs);
    let means: Vec<f64> = match trained(runs) {
        true => groups.values().map(|values| mean(values)).collect(),
        false => runs.iter().map(|run| run.value).collect(),
    };
    (!runs.is_empty()).then(|| Estimate {
        mean: mean(&means),
        spread: deviation(&means),
        evaluation: None,
        pretrainings: trained(runs).then_some(groups.len()),
        n: runs.len(),
    })
}

/// The difference of two cells, and what a reader should know about its errors.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Comparison {
    pub estimate: Estimate,
    pub notes: Vec<String>,
}

/// The mean difference of paired runs with its standard errors. Runs with random initial weights are paired with others
/// by seed; runs from two pre-trainings by both seeds. `None` if a side has no runs.
pub(super) fn difference(of: &[Run], minus: &[Run]) -> Option<Comparison> {
    if trained(minus) && !trained(of) {
        let mut turned = difference(minus, of)?;
        turned.estimate.mean = -turned.estimate.mean;
        return Some(turned);
    }
    let (a, b) = (estimate(of)?, estimate(minus)?);
    let evaluation = evaluation_error(of).zip(evaluation_error(minus)).map(|(a, b)| a.hypot(b));
    let mut notes = vec![];
    let pairs = pairs(of, minus);
    let pretrainings: BTreeSet<_> = pairs.iter().map(|(run, _)| &run.pretraining).collect();
    let seeds: BTreeSet<_> = pairs.iter().map(|(run, _)| run.seed).collect();
    let (mean, spread, n) = match pairs.is_empty() {
        true => {
            notes.push("not paired: the two rows have no seeds in common".into());
            let error = a.variance().zip(b.variance()).map(|(a, b)| (a + b).sqrt());
            (a.mean - b.mean, error, a.n.min(b.n))
        }
        false => {
            let alone = of.len() + minus.len() - pairs.len() - pairs_used(&pairs, minus);
            if alone > 0 {
                notes.push(format!("left out of the difference: {alone} without a partner of the same seed"));
            }
            let (mean, error) = paired(&pairs);
            (mean, error, pairs.len())
        }
    };
    if a.pretrainings == Some(1) || b.pretrainings == Some(1) {
        notes.push("one pre-training".into());
    } else if !pairs.is_empty() && seeds.len() == 1 {
        notes.push(if trained(of) { "one transfer seed" } else { "one seed" }.into());
    }
    notes.extend(evaluation.is_none().then(|| no_evaluation_error(of.iter().chain(minus))));
    let pretrainings = match pairs.is_empty() {
        true => a.pretrainings,
        false => trained(of).then_some(pretrainings.len()),
    };
    Some(Comparison { estimate: Estimate { mean, spread, evaluation, pretrainings, n }, notes })
}

/// Each run of `of` with its partner and their difference.
fn pairs<'a>(of: &'a [Run], minus: &'a [Run]) -> Vec<(&'a Run, f64)> {
    let single = by_pretraining(of).len() == 1 && by_pretraining(minus).len() == 1;
    let suits = |run: &Run, other: &Run| {
        let same = other.pretraining.is_none() || single || other.pretraining == run.pretraining;
        same && other.seed == run.seed
    };
    let partner = |run: &'a Run| {
        let other = minus.iter().find(|other| suits(run, other))?;
        Some((run, run.value - other.value))
    };
    of.iter().filter_map(partner).collect()
}

/// Number of runs of `minus` that have a partner.
fn pairs_used(pairs: &[(&Run, f64)], minus: &[Run]) -> usize {
    let single = by_pretraining(minus).len() == 1;
    let used = |other: &&Run| {
        pairs
            .iter()
            .any(|(run, _)| run.seed == other.seed && (single || run.pretraining == other.pretraining))
    };
    minus.iter().filter(used).count()
}

/// Mean of the differences, in which every pre-training counts the same, and its standard error: the variance is
/// clustered by pre-training and by seed (Cameron, Gelbach & Miller 2011).
fn paired(pairs: &[(&Run, f64)]) -> (f64, Option<f64>) {
    let mut counts: BTreeMap<&Option<String>, usize> = BTreeMap::new();
    for (run, _) in pairs {
        *counts.entry(&run.pretraining).or_default() += 1;
    }
    let weight = |run: &Run| 1. / (counts.len() * counts[&run.pretraining]) as f64;
    let mean: f64 = pairs.iter().map(|(run, difference)| weight(run) * difference).sum();
    let weighted: Vec<(&Run, f64)> =
        pairs.iter().map(|(run, difference)| (*run, weight(run) * (difference - mean))).collect();
    let by_seed = clustered(&weighted, |run| (None, run.seed));
    if pairs.iter().all(|(run, _)| run.pretraining.is_none()) {
        return (mean, by_seed.map(f64::sqrt));
    }
    let by_both = clustered(&weighted, |run| (run.pretraining.as_deref(), run.seed));
    let variance = clustered(&weighted, |run| (run.pretraining.as_deref(), 0)).map(|by_pretraining| {
        match by_seed.zip(by_both) {
            Some((by_seed, by_both)) => (by_pretraining + by_seed - by_both).max(by_pretraining).max(by_seed),
            None => by_pretraining,
        }
    });
    (mean, variance.map(f64::sqrt))
}

/// Variance of a weighted mean whose deviations are independent between clusters; `None` for one cluster.
fn clustered<'a>(
    weighted: &[(&'a Run, f64)],
    cluster: impl Fn(&'a Run) -> (Option<&'a str>, u64),
) -> Option<f64> {
    let mut sums: BTreeMap<_, f64> = BTreeMap::new();
    for (run, deviation) in weighted {
        *sums.entry(cluster(run)).or_default() += deviation;
    }
    let n = sums.len() as f64;
    (n > 1.).then(|| n / (n - 1.) * sums.values().map(|sum| sum * sum).sum::<f64>())
}

/// The mean of the runs' standard errors over the evaluation split: all of them saw the same images, so that more runs do
/// not make it smaller. `None` if a run has none.
fn evaluation_error(runs: &[Run]) -> Option<f64> {
    let errors: Option<Vec<f64>> = runs.iter().map(|run| run.stderr).collect();
    errors.map(|errors| mean(&errors))
}

/// Why a difference has no evaluation error.
fn no_evaluation_error<'a>(mut runs: impl Iterator<Item = &'a Run>) -> String {
    let one = |sample: EvaluationSample| sample.unit == SampleUnit::Sequence && sample.units == 1;
    match runs.any(|run| run.sample.is_some_and(one)) {
        true => "no evaluation error: the split is one sequence of video frames".into(),
        false => "no evaluation error in its records".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(pretraining: Option<u64>, seed: u64, value: f64) -> Run {
        let pretraining = pretraining.map(|seed| format!("seed {seed}"));
        Run { pretraining, seed, value, stderr: Some(2.), sample: None }
    }

    /// `scripts/golden/statistics.py` computes them with NumPy.
    #[test]
    fn differences_are_those_of_the_golden_file() {
        #[derive(serde::Deserialize)]
        struct Case {
            of: Vec<(Option<u64>, u64, f64)>,
            minus: Vec<(Option<u64>, u64, f64)>,
            mean: f64,
            error: Option<f64>,
        }
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/statistics.json");
        let golden: serde_json::Value =
            serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let cases: Vec<Case> = serde_json::from_value(golden["differences"].clone()).unwrap();
        assert!(cases.iter().any(|case| case.error.is_none()) && cases.len() > 5);
        for Case { of, minus, mean, error } in cases {
            let runs = |rows: &[(Option<u64>, u64, f64)]| -> Vec<Run> {
                rows.iter().map(|(pretraining, seed, value)| run(*pretraining, *seed, *value)).collect()
            };
            let (of, minus) = (runs(&of), runs(&minus));
            let found = difference(&of, &minus).unwrap().estimate;
            assert!((found.mean - mean).abs() < 1e-9, "{found:?}, expected {mean}");
            match (found.spread, error) {
                (Some(found), Some(error)) => assert!((found - error).abs() < 1e-9, "{found}, {error}"),
                (found, error) => assert_eq!(found, error),
            }
            let turned = difference(&minus, &of).unwrap().estimate;
            assert!((turned.mean + mean).abs() < 1e-9 && turned.spread.is_some() == error.is_some());
        }
    }

    #[test]
    fn every_pretraining_counts_the_same() {
        let runs = [run(Some(0), 0, 10.), run(Some(0), 1, 12.), run(Some(1), 0, 14.)];
        let found = estimate(&runs).unwrap();
        assert_eq!((found.mean, found.pretrainings, found.n), (12.5, Some(2), 3));
        assert!((found.spread.unwrap() - 1.5 * 2f64.sqrt()).abs() < 1e-12, "of 11 and 14");
        assert_eq!(estimate(&[]), None);
    }

    #[test]
    fn transfers_of_one_pretraining_have_no_error() {
        let of = [run(Some(0), 0, 46.), run(Some(0), 1, 48.)];
        assert_eq!(estimate(&of).unwrap().spread, None);
        let found = difference(&of, &[run(None, 0, 40.), run(None, 1, 41.)]).unwrap();
        assert_eq!((found.estimate.mean, found.estimate.spread), (6.5, None));
        assert_eq!(found.notes, ["one pre-training"]);
        let evaluation = found.estimate.evaluation.unwrap();
        assert!((evaluation - 8f64.sqrt()).abs() < 1e-12, "that of two runs, not of four");
    }

    #[test]
    fn runs_without_a_partner_are_left_out_and_said() {
        let of = [run(None, 0, 5.), run(None, 1, 7.), run(None, 2, 30.)];
        let minus = [run(None, 0, 1.), run(None, 1, 2.), run(None, 7, 3.), run(None, 8, 3.)];
        let found = difference(&of, &minus).unwrap();
        assert_eq!((found.estimate.mean, found.estimate.spread, found.estimate.n), (4.5, Some(0.5), 2));
        assert_eq!(found.notes, ["left out of the difference: 3 without a partner of the same seed"]);
        let apart = difference(&of[..2], &minus[2..]).unwrap();
        let error = apart.estimate.spread.unwrap();
        assert!(apart.estimate.mean == 3. && (error - 1.).abs() < 1e-12, "√(1² + 0²): {error}");
        assert_eq!(apart.notes, ["not paired: the two rows have no seeds in common"]);
        let one = difference(&of[..1], &minus[..1]).unwrap();
        assert_eq!((one.estimate.spread, one.notes), (None, vec!["one seed".to_string()]));
    }

    #[test]
    fn different_pretrainings_are_partners_only_where_each_row_has_one() {
        let [one, two] = [run(Some(1), 0, 1.), run(Some(2), 0, 2.)];
        let of = [run(Some(0), 0, 5.)];
        let paired = |of: &[Run], minus: &[Run]| {
            let notes = difference(of, minus).unwrap().notes;
            !notes.iter().any(|note| note.starts_with("not paired"))
        };
        assert!(paired(&of, std::slice::from_ref(&one)));
        assert!(!paired(&of, &[one.clone(), two.clone()]) && !paired(&[one.clone(), two.clone()], &of));
        assert!(paired(&[one.clone(), two.clone()], &[two, one]));
    }

    #[test]
    fn a_missing_evaluation_error_is_explained() {
        let sample = EvaluationSample {
            method: crate::record::ErrorMethod::Bootstrap,
            unit: SampleUnit::Sequence,
            units: 1,
        };
        let frames = Run { stderr: None, sample: Some(sample), ..run(None, 0, 3.) };
        let unknown = Run { stderr: None, ..run(None, 0, 3.) };
        let notes = |run: &Run| {
            let runs = std::slice::from_ref(run);
            difference(runs, runs).unwrap().notes.join("; ")
        };
        assert_eq!(
            notes(&frames),
            "one seed; no evaluation error: the split is one sequence of video frames"
        );
        assert_eq!(notes(&unknown), "one seed; no evaluation error in its records");
        let [of, minus] = [&frames, &unknown].map(std::slice::from_ref);
        let note = "no evaluation error: the split is one sequence of video frames";
        assert!(difference(of, minus).unwrap().notes.contains(&note.to_string()));
        for (unit, units) in [(SampleUnit::Sequence, 2), (SampleUnit::Image, 1)] {
            let other = Run { sample: Some(EvaluationSample { unit, units, ..sample }), ..frames.clone() };
            assert_eq!(notes(&other), "one seed; no evaluation error in its records");
        }
    }
}
