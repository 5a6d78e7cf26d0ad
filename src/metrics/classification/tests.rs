//! Classification reports by hand and against scikit-learn.

use super::*;
use serde::Deserialize;

fn names(count: usize) -> Vec<String> {
    (0..count).map(|class| format!("class {class}")).collect()
}

fn report(scores: ScoreKind, rows: &[(&[f32], usize)]) -> ClassificationReport {
    let mut report = ClassificationReport::new(&names(rows[0].0.len()), scores);
    for (k, (scores, label)) in rows.iter().enumerate() {
        report.add(&SampleId::new(k.to_string()), scores, *label);
    }
    report
}

/// `tests/golden/classification.json`, made by `scripts/golden/classification.py`.
#[derive(Deserialize)]
struct Golden {
    labels: Vec<usize>,
    logits: Vec<Vec<f32>>,
    matrix: Vec<Vec<usize>>,
    precision: Vec<Option<f64>>,
    recall: Vec<Option<f64>>,
    f1: Vec<Option<f64>>,
    images: Vec<usize>,
    balanced_accuracy: f64,
    log_loss: f64,
    calibration_error: f64,
}

#[test]
fn numbers_are_those_of_scikit_learn() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/classification.json");
    let golden: Golden = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let rows: Vec<(&[f32], usize)> =
        golden.logits.iter().map(Vec::as_slice).zip(golden.labels.iter().copied()).collect();
    let found = report(ScoreKind::Logits, &rows);
    assert_eq!(found.matrix(), golden.matrix);
    let by_class = found.by_class();
    for (class, name) in names(golden.matrix.len()).iter().enumerate() {
        let scores = &by_class.0[name];
        assert_eq!(scores["images"], golden.images[class] as f64, "{name}");
        for (score, expected) in
            [("precision", &golden.precision), ("accuracy", &golden.recall), ("f1", &golden.f1)]
        {
            let (found, expected) = (scores.get(score).copied(), expected[class].map(|value| 100. * value));
            let same = match (found, expected) {
                (Some(found), Some(expected)) => (found - expected).abs() < 1e-9,
                (found, expected) => found == expected,
            };
            assert!(same, "{score} of {name}: {found:?}, expected {expected:?}");
        }
    }
    for (found, expected) in [
        (found.mean_class_accuracy(), 100. * golden.balanced_accuracy),
        (found.log_loss(), golden.log_loss),
        (found.calibration_error(), 100. * golden.calibration_error),
    ] {
        assert!((found - expected).abs() < 1e-6, "{found}, expected {expected}");
    }
}

#[test]
fn confusions_and_errors_by_hand() {
    let (sure, unsure) = (&[9f32, 0., 0.][..], &[0.1f32, 0., 0.][..]);
    let found = report(
        ScoreKind::Logits,
        &[(unsure, 1), (sure, 1), (sure, 0), (&[0., 0., 5.], 1), (&[0., 4., 0.], 2), (unsure, 1)],
    );
    assert_eq!(found.matrix(), [[1, 0, 0], [3, 0, 1], [0, 1, 0]]);
    let pair = |label, predicted, images| ConfusedPair { label, predicted, images };
    assert_eq!(found.most_confused(2), [pair(1, 0, 3), pair(1, 2, 1)]);
    assert_eq!(found.most_confused(9).len(), 3, "a pair without images is no confusion");
    assert_eq!(found.surest_errors(3), [1, 3, 4]);
    assert_eq!(found.surest_errors(9).len(), 5, "what is right is no error");
    assert_eq!(found.images_of(1), 4);
}

#[test]
fn votes_are_shared_and_an_image_without_votes_is_an_error() {
    let none = f32::NEG_INFINITY;
    let found = report(ScoreKind::Votes, &[(&[3., 1., none], 0), (&[none; 3], 0), (&[1., none, none], 2)]);
    let [first, second, third] = found.images() else { panic!("three images") };
    assert_eq!((first.predicted, first.is_right()), (Some(0), true));
    assert!((first.confidence - 0.75).abs() < 1e-12 && (first.probability - 0.75).abs() < 1e-12);
    assert_eq!((second.predicted, second.confidence, second.is_right()), (None, 0., false));
    assert_eq!((third.predicted, third.confidence, third.probability), (Some(0), 1., 0.));
    assert_eq!(found.matrix()[0], [1, 0, 0], "an image without a prediction is in no column");
    assert_eq!(found.by_class().0["class 0"]["accuracy"], 50., "but counts among the images of its class");
    assert_eq!(found.log_loss(), f64::INFINITY);
    assert!((found.calibration_error() - 100. * (0.25 + 0. + 1.) / 3.).abs() < 1e-9);
}

#[test]
fn edges_of_bins_belong_to_the_bin_below() {
    // Votes of 1 to 14 give a confidence of 14/15, an edge.
    let found = report(ScoreKind::Votes, &[(&[14., 1.], 0), (&[1., f32::NEG_INFINITY], 0)]);
    let bins = found.calibration();
    assert_eq!(bins.iter().map(|bin| bin.images).sum::<usize>(), 2);
    assert_eq!((bins[13].images, bins[14].images), (1, 1));
    assert_eq!((bins[14].confidence, bins[14].accuracy), (1., 1.));
}

#[test]
fn large_logits_do_not_overflow_and_nan_has_no_probability() {
    let logs = ScoreKind::Logits.log_probabilities(&[1000., 0., f32::NAN]);
    assert_eq!(logs, [0., -1000., f64::NEG_INFINITY]);
    let found = report(ScoreKind::Logits, &[(&[1000., 0.], 1)]);
    assert_eq!(found.log_loss(), 1000.);
}
