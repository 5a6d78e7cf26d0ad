//! Detection's data against pycocotools (`scripts/golden/coco.py`): the numbers of an evaluation, and masks on the grids
//! of boxes by the rules of detectron2.

use super::results::perfect_detections;
use super::{CocoMetric, DetectionTarget, Protocol, files};
use crate::data::formats::CocoJson;
use crate::data::{DatasetInfo, Entry, Format, SplitSource};
use crate::metrics::coco::{CocoScorer, Detection};
use crate::metrics::{ClassScores, Findings, Metric};
use crate::record::Scores;
use serde::Deserialize;
use std::path::{Path, PathBuf};

#[derive(Deserialize)]
struct Expected {
    #[serde(rename = "box")]
    boxes: Table,
    mask: Table,
    lvis: Lvis,
    crops: Vec<Crop>,
}

/// In the order of lvis-api.
#[derive(Deserialize)]
struct Lvis {
    #[serde(rename = "box")]
    boxes: Vec<f64>,
    mask: Vec<f64>,
}

#[derive(Deserialize)]
struct Table {
    stats: Vec<f64>,
    by_class: std::collections::BTreeMap<String, f64>,
}

#[derive(Deserialize)]
struct Crop {
    /// Place in the file.
    annotation: usize,
    #[serde(rename = "box")]
    bbox: [f32; 4],
    side: usize,
    grid: Vec<String>,
}

const ORDER: [&str; 12] = [
    "ap",
    "ap50",
    "ap75",
    "ap_small",
    "ap_medium",
    "ap_large",
    "ar_1",
    "ar_10",
    "ar_100",
    "ar_small",
    "ar_medium",
    "ar_large",
];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/coco")
}

fn expected() -> Expected {
    serde_json::from_slice(&std::fs::read(folder().join("expected.json")).unwrap()).unwrap()
}

fn index(file: &str) -> (Vec<Entry>, DatasetInfo) {
    let root = folder();
    let split = SplitSource { root: &root, images: Path::new("."), class_names: None };
    let format = CocoJson { file: file.into(), drop_empty: false, allowed_degenerate: 0 };
    let index = format.index(&split).unwrap();
    let classes = index.classes.unwrap();
    (index.entries, DatasetInfo { classes, categories: index.categories, ..DatasetInfo::default() })
}

fn score(
    entries: &[Entry],
    info: &DatasetInfo,
    predictions: impl Iterator<Item = Vec<Detection>>,
) -> (Scores, ClassScores) {
    score_as(Protocol::Coco, entries, info, predictions)
}

fn score_as(
    protocol: Protocol,
    entries: &[Entry],
    info: &DatasetInfo,
    predictions: impl Iterator<Item = Vec<Detection>>,
) -> (Scores, ClassScores) {
    let mut metric = Box::new(CocoMetric::new(info, protocol, true));
    for (entry, prediction) in entries.iter().zip(predictions) {
        let target = DetectionTarget::new(entry, info.classes.len()).unwrap();
        metric.update(&entry.id, prediction, &target).unwrap();
    }
    let Findings { scores, by_class, .. } = metric.finish_in_full().unwrap();
    (scores, by_class)
}

fn value(scores: &Scores, name: &str) -> f64 {
    scores.get(name).unwrap().value
}

#[test]
fn scores_are_those_of_pycocotools() {
    let (entries, info) = index("instances.json");
    let predictions = files::read(&[folder().join("results.json")], &entries, &info, true).unwrap();
    let (scores, by_class) = score(&entries, &info, predictions.each.map(Result::unwrap));
    let expected = expected();
    for (kind, table) in [("box", &expected.boxes), ("mask", &expected.mask)] {
        for (name, expected) in ORDER.iter().zip(&table.stats) {
            let found = value(&scores, &format!("{kind}_{name}"));
            assert!((found - 100. * expected).abs() < 1e-9, "{kind}_{name}: {found}, {expected}");
        }
        for (class, expected) in &table.by_class {
            let found = by_class.0[class][&format!("{kind}_ap")];
            assert!((found - 100. * expected).abs() < 1e-9, "{kind} of {class}: {found}, {expected}");
        }
    }
    // Images that have no detections count: without them boxes would score better.
    let predictions = files::read(&[folder().join("results.json")], &entries, &info, true).unwrap();
    let pairs = entries.iter().cloned().zip(predictions.each.map(Result::unwrap));
    let (some, found): (Vec<_>, Vec<_>) = pairs.filter(|(_, found)| !found.is_empty()).unzip();
    assert!(some.len() < entries.len());
    let (without, _) = score(&some, &info, found.into_iter());
    assert!(value(&without, "box_ap") > value(&scores, "box_ap") + 0.1);
}

/// A resampled split in the golden file: how often it contains each image, and pycocotools' numbers.
#[derive(Deserialize)]
struct Draw {
    weights: Vec<u32>,
    #[serde(rename = "box")]
    boxes: Vec<f64>,
    mask: Vec<f64>,
}

/// A scorer with the results of the golden file, all with distinct confidences.
fn scorer(protocol: Protocol, file: &str) -> CocoScorer {
    let (entries, info) = index(file);
    let text = std::fs::read_to_string(folder().join("results.json")).unwrap();
    let mut rows: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
    for (place, row) in rows.iter_mut().enumerate() {
        let score = row["score"].as_f64().unwrap() + place as f64 / f64::from(1 << 20);
        row["score"] = score.into();
    }
    let written = tempfile::tempdir().unwrap();
    let path = written.path().join("results.json");
    std::fs::write(&path, serde_json::to_string(&rows).unwrap()).unwrap();
    let mut scorer = CocoScorer::new(&info, protocol, true);
    for (entry, found) in entries.iter().zip(files::read(&[path], &entries, &info, true).unwrap().each) {
        let target = DetectionTarget::new(entry, info.classes.len()).unwrap();
        scorer.update(&entry.id, &found.unwrap(), target.image()).unwrap();
    }
    scorer
}

#[test]
fn scores_of_resampled_images_are_those_of_pycocotools() {
    let text = std::fs::read(folder().join("../statistics.json")).unwrap();
    let golden: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let draws: Vec<Draw> = serde_json::from_value(golden["coco"].clone()).unwrap();
    assert!(draws.len() > 5);
    for Draw { weights, boxes, mask } in draws {
        let scores = scorer(Protocol::Coco, "instances.json").resampled(&weights).unwrap();
        for (kind, expected) in [("box", &boxes), ("mask", &mask)] {
            for (name, expected) in ORDER.iter().zip(expected) {
                let found = value(&scores, &format!("{kind}_{name}"));
                let expected = if *expected < 0. { *expected } else { 100. * expected };
                assert!((found - expected).abs() < 1e-9, "{kind}_{name}: {found}, {expected}");
            }
        }
    }
}

#[test]
fn each_image_once_gives_the_scores_of_the_split() {
    for (protocol, file) in [(Protocol::Coco, "instances.json"), (Protocol::Lvis, "lvis.json")] {
        let images = index(file).0.len();
        let once = scorer(protocol, file).resampled(&vec![1; images]).unwrap();
        let (whole, _) = scorer(protocol, file).finish().unwrap();
        assert_eq!(once.0.len(), whole.0.len());
        for (name, score) in &whole.0 {
            assert!((value(&once, name) - score.value).abs() < 1e-9, "{protocol:?} {name}");
            assert_eq!(score.stderr.is_some(), score.value >= 0., "{name}");
        }
    }
}

#[test]
fn scores_by_the_rules_of_lvis_are_those_of_lvis_api() {
    const ORDER: [&str; 13] = [
        "ap",
        "ap50",
        "ap75",
        "ap_small",
        "ap_medium",
        "ap_large",
        "ap_rare",
        "ap_common",
        "ap_frequent",
        "ar_300",
        "ar_small",
        "ar_medium",
        "ar_large",
    ];
    let (entries, info) = index("lvis.json");
    let predictions = files::read(&[folder().join("results.json")], &entries, &info, true).unwrap();
    let (scores, _) = score_as(Protocol::Lvis, &entries, &info, predictions.each.map(Result::unwrap));
    let Lvis { boxes, mask } = expected().lvis;
    for (kind, values) in [("box", boxes), ("mask", mask)] {
        for (name, expected) in ORDER.iter().zip(values) {
            let found = value(&scores, &format!("{kind}_{name}"));
            assert!((found - 100. * expected).abs() < 1e-9, "{kind}_{name}: {found}, {expected}");
        }
    }
    assert_eq!(scores.0.len(), 26);
}

#[test]
fn scores_of_the_best_the_worst_and_nothing() {
    let (entries, info) = index("instances.json");
    let targets: Vec<_> =
        entries.iter().map(|entry| DetectionTarget::new(entry, info.classes.len()).unwrap()).collect();
    let (scores, _) = score(&entries, &info, targets.iter().map(perfect_detections));
    for name in ["box_ap", "box_ap75", "box_ap_small", "mask_ap", "mask_ar_100"] {
        assert_eq!(value(&scores, name), 100., "{name}");
    }
    let (scores, _) = score(&entries, &info, targets.iter().map(|_| vec![]));
    assert_eq!((value(&scores, "box_ap"), value(&scores, "mask_ar_1")), (0., 0.));
    // Boxes without masks: nothing was predicted about masks.
    let boxes_of = |target: &DetectionTarget| {
        perfect_detections(target).into_iter().map(|found| Detection { mask: None, ..found }).collect()
    };
    let (scores, _) = score(&entries, &info, targets.iter().map(boxes_of));
    assert_eq!((value(&scores, "box_ap"), value(&scores, "mask_ap")), (100., -1.));

    let fails = |change: fn(&mut Detection)| {
        let place = targets.iter().position(|target| !perfect_detections(target).is_empty()).unwrap();
        let mut found = perfect_detections(&targets[place]);
        change(&mut found[0]);
        let mut metric = CocoMetric::new(&info, Protocol::Coco, true);
        metric.update(&entries[place].id, found, &targets[place]).unwrap_err().to_string()
    };
    let error = fails(|found| found.score = f32::NAN);
    assert!(error.contains("score NaN") && error.contains(".jpg"), "{error}");
    assert!(fails(|found| found.bbox[2] = f32::NAN).contains("must be finite numbers"));
    assert!(fails(|found| found.bbox[2] = -5.).contains("ends before it begins"));
    assert!(fails(|found| found.label = 4).contains("label 4 is out of range for 4 classes"));
    assert!(fails(|found| found.mask = Some(crate::data::Rle::encode(&[1], (1, 1)))).contains("1x1 pixels"));
}

#[test]
fn masks_on_grids_are_those_of_detectron2() {
    let (entries, info) = index("instances.json");
    let text = std::fs::read(folder().join("instances.json")).unwrap();
    let document: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let (mut different, mut cells, mut bitmaps) = (0, 0, 0);
    for Crop { annotation, bbox, side, grid } in expected().crops {
        // The place of the annotation among those of its image.
        let annotations = document["annotations"].as_array().unwrap();
        let image = &annotations[annotation]["image_id"];
        let place = annotations[..annotation].iter().filter(|other| other["image_id"] == *image).count();
        let images = document["images"].as_array().unwrap();
        let entry = &entries[images.iter().position(|other| other["id"] == *image).unwrap()];
        let target = DetectionTarget::new(entry, info.classes.len()).unwrap();
        assert_eq!(target.instances().len(), target.source().len(), "nothing has disappeared");
        let mask = target.mask_in(place, bbox, side).unwrap();
        let expected: Vec<f32> = grid.concat().bytes().map(|b| f32::from(b - b'0')).collect();
        let wrong = mask.iter().zip(&expected).filter(|(a, b)| a != b).count();
        let bitmap = annotations[annotation]["segmentation"].is_object();
        assert!(bitmap || wrong == 0, "annotation {annotation}: {wrong} cells");
        bitmaps += usize::from(bitmap);
        different += wrong;
        cells += expected.len();
    }
    // A mean of a half exactly falls on either side by its last bit.
    assert!(bitmaps > 2 && different * 1000 < cells, "{different} of {cells} cells, {bitmaps} bitmaps");
}
