//! Two runs side by side: their scores, and the error of the difference.

use super::RunRecord;

/// A score of two runs.
#[derive(Clone, Debug, PartialEq)]
pub struct ScorePair {
    /// Name of the score.
    pub name: String,
    /// Its values.
    pub values: [f64; 2],
    /// Standard error of the difference that follows from the size of the evaluation split, if both runs were scored on the same images
    /// and their errors are known. It takes the two errors as independent, so it is too large for runs whose errors are alike.
    pub stderr: Option<f64>,
}

/// The difference of a score over pairs of runs with the same seed.
#[derive(Clone, Debug, PartialEq)]
pub struct SeedPairs {
    /// The seeds, in order.
    pub seeds: Vec<u64>,
    /// Mean of the second minus the first.
    pub mean: f64,
    /// Standard error of that mean; `None` for one pair.
    pub stderr: Option<f64>,
}

/// The scores that both runs have, the primary one first.
pub fn score_pairs(a: &RunRecord, b: &RunRecord) -> Vec<ScorePair> {
    let same_images = a.dataset_fingerprint == b.dataset_fingerprint
        && a.evaluation.as_ref().map(|e| &e.split) == b.evaluation.as_ref().map(|e| &e.split);
    let primary = |name: &str| a.primary.as_deref() == Some(name);
    let mut pairs: Vec<ScorePair> = vec![];
    for (name, first) in &a.scores.0 {
        let Some(second) = b.scores.get(name) else { continue };
        let errors = first.stderr.zip(second.stderr).filter(|_| same_images);
        pairs.push(ScorePair {
            name: name.clone(),
            values: [first.value, second.value],
            stderr: errors.map(|(a, b)| a.hypot(b)),
        });
    }
    pairs.sort_by_key(|pair| !primary(&pair.name));
    pairs
}

/// The runs of `records` that repeat `run` with other seeds, `run` among them: everything that distinguishes rows of tables is the same.
/// Their initial weights may come from pre-trainings with other seeds.
pub fn repetitions<'a>(run: &RunRecord, records: &'a [RunRecord]) -> Vec<&'a RunRecord> {
    let key = |run: &RunRecord| {
        let trained = run.init.trained.as_ref().map(ToString::to_string);
        let names = [&run.stage, &run.dataset_fingerprint, &run.model, &run.recipe, &run.init.label]
            .map(String::clone);
        (names, run.task.clone(), run.task_version, run.variant(), trained, run.files_hash.clone())
    };
    let split = |run: &RunRecord| run.evaluation.as_ref().map(|evaluation| evaluation.split.clone());
    let wanted = (key(run), split(run));
    records
        .iter()
        .filter(|other| (key(other), split(other)) == wanted && other.status == run.status)
        .collect()
}

/// The difference of the score `name` between the repetitions of two runs, paired by seed. `None` without a common seed. Of several runs
/// with one seed, the first counts.
pub fn seed_pairs(a: &[&RunRecord], b: &[&RunRecord], name: &str) -> Option<SeedPairs> {
    let (mut seeds, mut differences) = (vec![], vec![]);
    for first in a {
        let second = b.iter().find(|second| second.seed == first.seed);
        let values =
            second.and_then(|second| Some((first.scores.get(name)?.value, second.scores.get(name)?.value)));
        if let Some((x, y)) = values.filter(|_| !seeds.contains(&first.seed)) {
            seeds.push(first.seed);
            differences.push(y - x);
        }
    }
    let n = differences.len() as f64;
    let mean = differences.iter().sum::<f64>() / n;
    let squares: f64 = differences.iter().map(|difference| (difference - mean).powi(2)).sum();
    let stderr = (differences.len() > 1).then(|| (squares / (n - 1.) / n).sqrt());
    (!seeds.is_empty()).then_some(SeedPairs { seeds, mean, stderr })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::run::sample;

    fn run(id: &str, init: &str, seed: u64, top1: f64) -> RunRecord {
        let mut record = RunRecord { seed, ..sample(id) };
        record.init.label = init.into();
        record.scores.insert("top1", top1, Some(3.));
        record
    }

    #[test]
    fn scores_of_the_same_images_have_an_error_of_their_difference() {
        let (a, mut b) = (run("a", "mae", 0, 50.), run("b", "scratch", 0, 46.));
        b.scores.0.get_mut("top1").unwrap().stderr = Some(4.);
        let pairs = score_pairs(&a, &b);
        assert_eq!(pairs, [ScorePair { name: "top1".into(), values: [50., 46.], stderr: Some(5.) }]);
        b.dataset_fingerprint = "other".into();
        assert_eq!(score_pairs(&a, &b)[0].stderr, None);
    }

    #[test]
    fn repetitions_are_paired_by_seed() {
        let records = [
            run("a0", "mae", 0, 50.),
            run("a1", "mae", 1, 53.),
            run("a2", "mae", 2, 90.),
            run("b1", "scratch", 1, 43.),
            run("b0", "scratch", 0, 44.),
        ];
        let (a, b) = (repetitions(&records[0], &records), repetitions(&records[4], &records));
        assert_eq!((a.len(), b.len()), (3, 2));
        let pairs = seed_pairs(&a, &b, "top1").unwrap();
        // Differences −6 and −10: mean −8, standard deviation 2.83, standard error 2.
        assert_eq!((pairs.seeds, pairs.mean), (vec![0, 1], -8.));
        assert!((pairs.stderr.unwrap() - 2.).abs() < 1e-12);
        assert_eq!(seed_pairs(&a[2..], &b, "top1"), None);
        let other = RunRecord { overrides: vec!["epochs=3".into()], ..run("a3", "mae", 3, 1.) };
        assert_eq!(repetitions(&other, &records).len(), 0);
    }
}
