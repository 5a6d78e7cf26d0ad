//! Every mean and every error in the tables of README.md and docs/results.md, computed again from the committed records. The
//! statistics are in [`mean_and_variances`]; nothing is shared with the program but which records a column selects.

use bench::config::Library;
use bench::record::table::TableSpec;
use bench::record::{RunRecord, SampleUnit, Status, read_record};
use std::collections::BTreeMap;
use std::path::Path;

/// Pre-training, seed and value of a run, or of the difference of a pair of runs.
type Run = (Option<String>, u64, f64);

/// The mean, in which every pre-training counts the same, and its variances with the number of groups: clustered by
/// pre-training, by seed, and by both (docs/statistics.md).
fn mean_and_variances(runs: &[Run]) -> (f64, [(f64, f64); 3]) {
    let distinct = |same: fn(&Run, &Run) -> bool| {
        (0..runs.len()).filter(|i| !runs[..*i].iter().any(|run| same(run, &runs[*i]))).count() as f64
    };
    let pretraining: fn(&Run, &Run) -> bool = |a, b| a.0 == b.0;
    let seed: fn(&Run, &Run) -> bool = |a, b| a.1 == b.1;
    let both: fn(&Run, &Run) -> bool = |a, b| a.0 == b.0 && a.1 == b.1;
    let weight = |run: &Run| {
        1. / distinct(pretraining) / runs.iter().filter(|other| pretraining(run, other)).count() as f64
    };
    let mean: f64 = runs.iter().map(|run| weight(run) * run.2).sum();
    let part = |run: &Run| weight(run) * (run.2 - mean);
    let variance = |same: fn(&Run, &Run) -> bool| {
        let pairs = runs.iter().flat_map(|a| runs.iter().map(move |b| (a, b))).filter(|(a, b)| same(a, b));
        let (sum, groups) = (pairs.map(|(a, b)| part(a) * part(b)).sum::<f64>(), distinct(same));
        (groups / (groups - 1.) * sum, groups)
    };
    (mean, [pretraining, seed, both].map(variance))
}

/// What a cell must show: mean, ±, and in brackets the number of runs and the error by the size of the evaluation split.
struct Expected {
    mean: f64,
    error: Option<f64>,
    runs: Option<String>,
    evaluation: Option<f64>,
    one_pretraining: bool,
}

/// Random initial weights have no pre-training; others are told apart by seed or, in older records, by hash.
fn runs(records: &[&RunRecord], score: &str) -> Vec<Run> {
    let pretraining = |run: &RunRecord| {
        let seed = run.init.seed.map(|seed| format!("seed {seed}"));
        run.init.hash.as_ref().map(|hash| seed.unwrap_or_else(|| hash.clone()))
    };
    records.iter().map(|run| (pretraining(run), run.seed, run.scores.0[score].value)).collect()
}

/// The mean of the runs' errors by the size of the evaluation split; none if an error takes `frames` of videos as independent.
fn evaluation_error(records: &[&RunRecord], score: &str, frames: bool) -> Option<f64> {
    let independent = |run: &&RunRecord| {
        let score = run.scores.0[score];
        let sequence = score.sample.is_some_and(|sample| sample.unit == SampleUnit::Sequence);
        score.stderr.filter(|_| sequence || !frames)
    };
    let errors: Option<Vec<f64>> = records.iter().map(independent).collect();
    errors.map(|errors| errors.iter().sum::<f64>() / errors.len() as f64)
}

fn expected_mean(records: &[&RunRecord], score: &str, frames: bool) -> Expected {
    let runs = runs(records, score);
    let (mean, [pretraining, seed, both]) = mean_and_variances(&runs);
    let trained = runs[0].0.is_some();
    let (variance, groups) = if trained { pretraining } else { seed };
    let counts = match trained {
        true => Some(format!("{groups}×{}", both.1 / groups)),
        false => (groups > 1.).then(|| format!("n={groups}")),
    };
    let error = (groups > 1.).then(|| (variance * groups).sqrt());
    let evaluation = if records.len() == 1 { evaluation_error(records, score, frames) } else { None };
    Expected { mean, error, runs: counts, evaluation, one_pretraining: trained && groups == 1. }
}

/// Mean and standard error of pairs of runs, and the error that the evaluation split implies.
fn expected_difference(of: &[&RunRecord], minus: &[&RunRecord], score: &str, frames: bool) -> Expected {
    let partners = runs(minus, score);
    let partner = |run: &Run| {
        let suits = |other: &&Run| other.1 == run.1 && (other.0.is_none() || other.0 == run.0);
        partners.iter().find(suits).map(|other| (run.0.clone(), run.1, run.2 - other.2))
    };
    let pairs: Vec<Run> = runs(of, score).iter().filter_map(partner).collect();
    let (mean, [pretraining, seed, both]) = mean_and_variances(&pairs);
    let trained = pairs[0].0.is_some();
    let variance = match (trained, pretraining.1 > 1., seed.1 > 1.) {
        (false, _, true) => Some(seed.0),
        (true, true, false) => Some(pretraining.0),
        (true, true, true) => Some((pretraining.0 + seed.0 - both.0).max(pretraining.0).max(seed.0)),
        _ => None,
    };
    let evaluation = evaluation_error(of, score, frames).zip(evaluation_error(minus, score, frames));
    Expected {
        mean,
        error: variance.map(f64::sqrt),
        runs: None,
        evaluation: evaluation.map(|(a, b)| a.hypot(b)),
        one_pretraining: trained && pretraining.1 == 1.,
    }
}

/// The parts of a cell such as `10.8 ± 0.6 (2×1, eval 2.0) <sup>1</sup>`.
struct Parts {
    mean: f64,
    error: Option<f64>,
    runs: Option<String>,
    evaluation: Option<f64>,
    footnotes: Vec<usize>,
}

fn parts(cell: &str) -> Parts {
    let number = |text: &str| text.trim().replace('−', "-").parse::<f64>().unwrap();
    let (cell, marks) = match cell.split_once("<sup>") {
        Some((cell, marks)) => (cell, marks.split_once("</sup>").unwrap().0),
        None => (cell, ""),
    };
    let (numbers, brackets) = cell.split_once('(').unwrap_or((cell, ""));
    let brackets = brackets.trim().trim_end_matches(')');
    let (mut runs, mut evaluation) = (None, None);
    for part in brackets.split(", ").filter(|part| !part.is_empty()) {
        match part.strip_prefix("eval ") {
            Some(error) => evaluation = Some(number(error)),
            None => runs = Some(part.to_string()),
        }
    }
    let (mean, error) = match numbers.split_once('±') {
        Some((mean, error)) => (mean, Some(number(error))),
        None => (numbers, None),
    };
    let marks = marks.split(',').filter(|mark| !mark.is_empty()).map(|mark| mark.parse().unwrap());
    Parts { mean: number(mean), error, runs, evaluation, footnotes: marks.collect() }
}

/// What is wrong with a cell.
fn compare(
    cell: &str,
    expected: &Expected,
    difference: bool,
    footnotes: &[String],
    half: f64,
) -> Vec<String> {
    let found = parts(cell);
    let close = |a: f64, b: f64| (a - b).abs() <= half + 1e-9;
    let same = |a: Option<f64>, b: Option<f64>| match (a, b) {
        (Some(a), Some(b)) => close(a, b),
        (a, b) => a == b,
    };
    let mut faults = vec![];
    if !close(found.mean, expected.mean) {
        faults.push(format!("the mean is {}", expected.mean));
    }
    if !same(found.error, expected.error) {
        faults.push(format!("± is {:?}", expected.error));
    }
    if found.runs != expected.runs {
        faults.push(format!("the runs are {:?}", expected.runs));
    }
    if !same(found.evaluation, expected.evaluation) {
        faults.push(format!("the error by the evaluation split is {:?}", expected.evaluation));
    }
    let says = |mark: &usize| footnotes.get(mark - 1).is_some_and(|note| note == "one pre-training");
    if difference && expected.one_pretraining != found.footnotes.iter().any(says) {
        faults.push(format!("says that there is one pre-training: {}", !expected.one_pretraining));
    }
    faults
}

/// What is wrong with the tables of a document, and the number of cells that were computed again.
fn examine(document: &str, records: &[RunRecord]) -> (Vec<String>, usize) {
    let library = Library::default();
    let (mut faults, mut count) = (vec![], 0);
    for block in document.split("<!-- table: ").skip(1) {
        let (name, text) = block.split_once(" -->").unwrap();
        if name == "speed" {
            continue;
        }
        let text = text.split_once("<!-- /table -->").unwrap().0;
        let spec = TableSpec::load(&library, name).unwrap();
        let footnotes: Vec<String> = text
            .lines()
            .filter_map(|line| Some(line.strip_prefix("- <sup>")?.split_once("</sup> ")?.1.to_string()))
            .collect();
        let table: Vec<Vec<&str>> = text
            .lines()
            .filter_map(|line| line.strip_prefix('|')?.strip_suffix('|'))
            .map(|line| line.split('|').map(str::trim).collect())
            .collect();
        let titles: Vec<&str> = spec.columns.iter().map(|column| column.title.as_str()).collect();
        let keys: Vec<&str> = spec.rows.iter().map(|key| key.name()).collect();
        assert_eq!(table[0], [keys, titles].concat(), "{name}: this test does not know other columns");
        for row in &table[2..] {
            let (keys, cells) = row.split_at(spec.rows.len());
            let request =
                spec.differences.iter().find(|difference| keys.contains(&difference.title.as_str()));
            for (cell, column) in cells.iter().zip(&spec.columns).filter(|(cell, _)| !cell.starts_with('–'))
            {
                let of = |value: Option<&str>| {
                    let wanted = |run: &&RunRecord| {
                        let texts = spec.rows.iter().zip(keys);
                        let mut same = texts.map(|(key, text)| match request {
                            Some(difference) if difference.key == *key => {
                                Some(key.of_run(run).as_str()) == value
                            }
                            _ => key.of_run(run) == *text,
                        });
                        run.stage == "transfer"
                            && run.status == Status::Finished
                            && spec.filter.allows_run(run)
                            && column.selection.allows_run(run)
                            && same.all(|same| same)
                    };
                    records.iter().filter(wanted).collect::<Vec<&RunRecord>>()
                };
                let score = column.score.as_deref().unwrap();
                let frames = |run: &RunRecord| {
                    let manifest = library.text(&format!("datasets/{}/dataset.toml", run.dataset));
                    manifest.unwrap().0.contains("\nsequences = ")
                };
                let expected = match request {
                    None => {
                        let runs = of(None);
                        expected_mean(&runs, score, frames(runs[0]))
                    }
                    Some(difference) => {
                        let (a, b) = (of(Some(&difference.of)), of(Some(&difference.minus)));
                        expected_difference(&a, &b, score, frames(a[0]))
                    }
                };
                let half = 0.5 * 0.1f64.powi(spec.decimals as i32);
                let found = compare(cell, &expected, request.is_some(), &footnotes, half);
                let place = format!("{name}, {}, {}: `{cell}`", keys.join(" "), column.title);
                faults.extend(found.into_iter().map(|fault| format!("{place}: {fault}")));
                count += 1;
            }
        }
    }
    (faults, count)
}

/// All committed records, each once.
pub fn committed() -> Vec<RunRecord> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut records = BTreeMap::new();
    for task in std::fs::read_dir(root.join("tasks")).unwrap() {
        let Ok(results) = std::fs::read_dir(task.unwrap().path().join("results")) else { continue };
        for file in results {
            let record = read_record(&file.unwrap().path()).unwrap();
            records.insert(record.id.clone(), record);
        }
    }
    records.into_values().collect()
}

pub fn document(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

#[test]
fn every_error_in_the_documents_follows_from_the_records() {
    let records = committed();
    for name in ["README.md", "docs/results.md"] {
        let (faults, count) = examine(&document(name), &records);
        assert_eq!(faults, Vec::<String>::new(), "{name}");
        assert!(count >= 18, "{name}: {count} cells");
    }
}

#[test]
fn a_wrong_digit_and_a_silent_pretraining_are_found() {
    let of = |pretraining: Option<&str>, seed| (pretraining.map(String::from), seed);
    let runs: Vec<Run> = [(of(Some("a"), 0), 50.), (of(Some("a"), 1), 52.), (of(Some("b"), 2), 57.)]
        .map(|((pretraining, seed), value)| (pretraining, seed, value))
        .to_vec();
    let (mean, [(by_pretraining, pretrainings), ..]) = mean_and_variances(&runs);
    assert_eq!((mean, pretrainings), (54., 2.));
    assert!((by_pretraining - 9.).abs() < 1e-12, "of 51 and 57: (6/√2)² / 2");
    let expected =
        Expected { mean: 4.26, error: None, runs: None, evaluation: Some(1.04), one_pretraining: true };
    let notes = ["one pre-training".to_string()];
    let faults = |cell: &str| compare(cell, &expected, true, &notes, 0.05).len();
    assert_eq!(faults("+4.3 (eval 1.0) <sup>1</sup>"), 0);
    assert_eq!(faults("+4.4 (eval 1.0) <sup>1</sup>"), 1);
    assert_eq!(faults("+4.3 (eval 1.2) <sup>1</sup>"), 1);
    assert_eq!(faults("+4.3 ± 0.2 (eval 1.0) <sup>1</sup>"), 1, "one pre-training has no ±");
    assert_eq!(faults("+4.3 (eval 1.0)"), 1, "it does not say so");
    assert_eq!(faults("−4.3"), 3);
    let single = Expected { runs: Some("1×1".into()), ..expected };
    let faults = |cell: &str| compare(cell, &single, false, &notes, 0.05).len();
    assert_eq!(faults("4.3 (1×1, eval 1.0)"), 0);
    assert_eq!(faults("4.3 (2×1, eval 1.0)"), 1);
    assert_eq!(faults("4.3 (1×1)"), 1, "it hides the error");
}
