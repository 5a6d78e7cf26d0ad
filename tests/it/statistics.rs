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

/// What a cell must show: mean, ±, and what stands in brackets.
struct Expected {
    mean: f64,
    error: Option<f64>,
    behind: Option<String>,
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

fn expected_mean(records: &[&RunRecord], score: &str) -> Expected {
    let runs = runs(records, score);
    let (mean, [pretraining, seed, both]) = mean_and_variances(&runs);
    let trained = runs[0].0.is_some();
    let (variance, groups) = if trained { pretraining } else { seed };
    let behind = match trained {
        true => Some(format!("{groups}×{}", both.1 / groups)),
        false => (groups > 1.).then(|| format!("n={groups}")),
    };
    let error = (groups > 1.).then(|| (variance * groups).sqrt());
    Expected { mean, error, behind, one_pretraining: trained && groups == 1. }
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
    let evaluation = |records: &[&RunRecord]| {
        let independent = |run: &&RunRecord| {
            let score = run.scores.0[score];
            let sequence = score.sample.is_some_and(|sample| sample.unit == SampleUnit::Sequence);
            score.stderr.filter(|_| sequence || !frames)
        };
        let errors: Option<Vec<f64>> = records.iter().map(independent).collect();
        errors.map(|errors| errors.iter().sum::<f64>() / errors.len() as f64)
    };
    let evaluation = evaluation(of).zip(evaluation(minus)).map(|(a, b)| a.hypot(b));
    Expected {
        mean,
        error: variance.map(f64::sqrt),
        behind: evaluation.map(|error| format!("eval {error}")),
        one_pretraining: trained && pretraining.1 == 1.,
    }
}

/// `+10.8 ± 0.6 (eval 2.0) <sup>1</sup>` as its parts: mean, ±, brackets, numbers of footnotes.
fn parts(cell: &str) -> (f64, Option<f64>, Option<String>, Vec<usize>) {
    let number = |text: &str| text.trim().replace('−', "-").parse::<f64>().unwrap();
    let (cell, marks) = match cell.split_once("<sup>") {
        Some((cell, marks)) => (cell, marks.split_once("</sup>").unwrap().0),
        None => (cell, ""),
    };
    let (numbers, behind) = match cell.split_once('(') {
        Some((numbers, behind)) => (numbers, Some(behind.trim().trim_end_matches(')').to_string())),
        None => (cell, None),
    };
    let (mean, error) = match numbers.split_once('±') {
        Some((mean, error)) => (mean, Some(number(error))),
        None => (numbers, None),
    };
    let marks = marks.split(',').filter(|mark| !mark.is_empty()).map(|mark| mark.parse().unwrap());
    (number(mean), error, behind, marks.collect())
}

/// What is wrong with a cell.
fn compare(
    cell: &str,
    expected: &Expected,
    difference: bool,
    footnotes: &[String],
    half: f64,
) -> Vec<String> {
    let (mean, error, behind, marks) = parts(cell);
    let close = |a: f64, b: f64| (a - b).abs() <= half + 1e-9;
    let mut faults = vec![];
    if !close(mean, expected.mean) {
        faults.push(format!("the mean is {}", expected.mean));
    }
    match (error, expected.error) {
        (Some(found), Some(right)) if close(found, right) => {}
        (None, None) => {}
        (_, right) => faults.push(format!("± is {right:?}")),
    }
    let eval = |text: &Option<String>| text.as_ref()?.strip_prefix("eval ")?.parse::<f64>().ok();
    match (eval(&behind), eval(&expected.behind)) {
        (Some(found), Some(right)) if close(found, right) => {}
        _ if behind == expected.behind => {}
        _ => faults.push(format!("behind it stands {:?}", expected.behind)),
    }
    let says = |mark: &usize| footnotes.get(mark - 1).is_some_and(|note| note == "one pre-training");
    if difference && expected.one_pretraining != marks.iter().any(says) {
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
                let expected = match request {
                    None => expected_mean(&of(None), score),
                    Some(difference) => {
                        let (a, b) = (of(Some(&difference.of)), of(Some(&difference.minus)));
                        let (text, _) =
                            library.text(&format!("datasets/{}/dataset.toml", a[0].dataset)).unwrap();
                        expected_difference(&a, &b, score, text.contains("\nsequences = "))
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
        Expected { mean: 4.26, error: None, behind: Some("eval 1.04".into()), one_pretraining: true };
    let notes = ["one pre-training".to_string()];
    let faults = |cell: &str| compare(cell, &expected, true, &notes, 0.05).len();
    assert_eq!(faults("+4.3 (eval 1.0) <sup>1</sup>"), 0);
    assert_eq!(faults("+4.4 (eval 1.0) <sup>1</sup>"), 1);
    assert_eq!(faults("+4.3 (eval 1.2) <sup>1</sup>"), 1);
    assert_eq!(faults("+4.3 ± 0.2 (eval 1.0) <sup>1</sup>"), 1, "one pre-training has no ±");
    assert_eq!(faults("+4.3 (eval 1.0)"), 1, "it does not say so");
    assert_eq!(faults("−4.3"), 3);
}
