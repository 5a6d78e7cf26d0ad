//! Reading leniently never changes a score: whatever is wrong in an annotation or result file is refused, or makes no
//! difference to any of the 24 numbers.

use super::{
    CocoMetric, DetectionHeadConfig, DetectionOptions, DetectionTarget, DetectionTask, Protocol, files,
};
use crate::data::formats::CocoJson;
use crate::data::{DatasetInfo, Format, SplitSource};
use crate::metrics::Metric;
use crate::task::Task;
use serde_json::{Value, json};
use std::path::Path;

/// Four objects with outlines in three images of 48×64 pixels, each with the area of its mask, one of them a crowd.
fn truths() -> Value {
    let ring = |x: u32, y: u32, w: u32, h: u32| json!([[x, y, x + w, y, x + w, y + h, x, y + h]]);
    let object = |id: u32, image: u32, category: u32, [x, y, w, h]: [u32; 4], crowd: u32| {
        json!({"id": id, "image_id": image, "category_id": category, "bbox": [x, y, w, h], "area": w * h,
               "iscrowd": crowd, "segmentation": ring(x, y, w, h)})
    };
    let image = |id: u32| json!({"id": id, "file_name": format!("{id}.jpg"), "width": 64, "height": 48, "neg_category_ids": []});
    json!({
        "images": [image(3), image(7), image(12)],
        "annotations": [
            object(11, 3, 2, [10, 10, 30, 20], 0), object(12, 3, 5, [2, 4, 9, 9], 0),
            object(13, 7, 5, [20, 8, 40, 40], 0), object(14, 12, 2, [30, 5, 20, 30], 1)
        ],
        "categories": [{"id": 2, "name": "cat"}, {"id": 5, "name": "dog"}]
    })
}

/// Detections with boxes and masks: right, shifted, of another class, in the crowd.
fn results() -> Value {
    let row = |image: u32, category: u32, [x, y, w, h]: [u32; 4], score: f64| {
        let mut inside = vec![0; 48 * 64];
        for at in (y..y + h).flat_map(|row| (x..x + w).map(move |column| row * 64 + column)) {
            inside[at as usize] = 1;
        }
        let counts = crate::data::Rle::encode(&inside, (48, 64)).to_coco();
        json!({"image_id": image, "category_id": category, "bbox": [x, y, w, h], "score": score,
               "segmentation": {"size": [48, 64], "counts": counts}})
    };
    json!([
        row(3, 2, [10, 10, 30, 20], 0.75),
        row(3, 5, [3, 5, 9, 8], 0.5),
        row(7, 2, [20, 8, 40, 40], 0.9),
        row(7, 5, [22, 10, 38, 36], 0.25),
        row(12, 2, [31, 6, 15, 15], 0.6)
    ])
}

/// The scores of boxes and masks, or the reason why there are none.
fn scores(truths: &str, results: &str) -> Result<String, String> {
    let root = tempfile::tempdir().unwrap();
    let (truth_file, result_file) = (root.path().join("truths.json"), root.path().join("results.json"));
    std::fs::write(truth_file, truths).unwrap();
    std::fs::write(&result_file, results).unwrap();
    let split = SplitSource { root: root.path(), images: Path::new("images"), class_names: None };
    let format = CocoJson { file: "truths.json".into(), drop_empty: false, allowed_degenerate: 0 };
    let index = format.index(&split).map_err(|e| e.to_string())?;
    let (classes, categories) = (index.classes.unwrap_or_default(), index.categories);
    let info = DatasetInfo { classes, categories, ..DatasetInfo::default() };
    let options = DetectionOptions { masks: true, ..DetectionOptions::default() };
    let task =
        DetectionTask::new(options, DetectionHeadConfig::default(), &info).map_err(|e| e.to_string())?;
    task.check(&index.entries).map_err(|e| e.to_string())?;
    let found = files::read(&[result_file], &index.entries, &info, true).map_err(|e| format!("{e:#}"))?;
    let mut metric = Box::new(CocoMetric::new(&info, Protocol::Coco, true));
    for (entry, found) in index.entries.iter().zip(found.each) {
        let target = DetectionTarget::new(entry, info.classes.len()).map_err(|e| e.to_string())?;
        metric.update(&entry.id, found.unwrap(), &target).map_err(|e| e.to_string())?;
    }
    metric.finish().map(|scores| format!("{scores:?}")).map_err(|e| e.to_string())
}

/// Pointers to every value in `document`.
fn places(document: &Value, place: &str, found: &mut Vec<String>) {
    let children: Vec<(String, &Value)> = match document {
        Value::Object(map) => map.iter().map(|(key, value)| (key.clone(), value)).collect(),
        Value::Array(list) => list.iter().enumerate().map(|(k, value)| (k.to_string(), value)).collect(),
        _ => vec![],
    };
    for (key, value) in children {
        let place = format!("{place}/{key}");
        places(value, &place, found);
        found.push(place);
    }
}

/// Values that are wrong wherever they stand, but for those that mean what a field holds when it is absent.
fn wrong() -> Vec<Value> {
    let mut values: Vec<Value> = ["", "x", "7", "NaN", "0.5"].map(|word| json!(word)).to_vec();
    values.extend([
        json!(null),
        json!([]),
        json!([[]]),
        json!([null]),
        json!({}),
        json!({"a": 1}),
        json!(["x"]),
    ]);
    values.extend([json!([[[1, 2], [3, 4]]]), json!(false), json!({"size": [], "counts": {}})]);
    values
}

/// Numbers of another kind than ids, sizes and flags have.
fn odd_numbers() -> [Value; 4] {
    [json!(1.5), json!(-3), json!(1e300), json!(u64::MAX)]
}

/// Whether any finite number is a right value at a place.
fn takes_numbers(place: &str) -> bool {
    ["/bbox/", "/segmentation/0/", "/area", "/score", "/name"].iter().any(|part| place.contains(part))
}

/// The documents with one value replaced, or removed, with the place.
fn changed(document: &Value) -> Vec<(String, String)> {
    let (mut all, mut texts) = (vec![], vec![]);
    places(document, "", &mut all);
    // A crowd without its flag is an object, whoever writes it.
    for place in all.into_iter().filter(|place| place != "/annotations/3/iscrowd") {
        let numbers: &[Value] = if takes_numbers(&place) { &[] } else { &odd_numbers() };
        for value in wrong().iter().chain(numbers) {
            let mut other = document.clone();
            *other.pointer_mut(&place).unwrap() = value.clone();
            texts.push((format!("{place} = {value}"), other.to_string()));
        }
        for word in ["NaN", "-Infinity"] {
            let mut other = document.clone();
            *other.pointer_mut(&place).unwrap() = json!("@");
            texts.push((format!("{place} = {word}"), other.to_string().replace("\"@\"", word)));
        }
        let (parent, key) = place.rsplit_once('/').unwrap();
        let mut other = document.clone();
        if let Some(Value::Object(map)) = other.pointer_mut(parent) {
            map.remove(key);
            texts.push((format!("{place} removed"), other.to_string()));
        }
    }
    texts
}

/// Reads every changed document; what is accepted must have the scores of the document as it was.
fn unchanged_or_refused(document: &Value, scores: impl Fn(&str) -> Result<String, String>) {
    let right = scores(&document.to_string()).unwrap();
    let (mut accepted, mut refused) = (0, 0);
    for (change, text) in changed(document) {
        match scores(&text) {
            Ok(found) => {
                assert_eq!(found, right, "{change}");
                accepted += 1;
            }
            Err(_) => refused += 1,
        }
    }
    assert!(accepted > 30 && refused > 500, "{accepted} accepted, {refused} refused");
}

#[test]
fn wrong_annotations_are_refused_or_make_no_difference() {
    let results = results().to_string();
    unchanged_or_refused(&truths(), |truths| scores(truths, &results));
}

#[test]
fn wrong_results_are_refused_or_make_no_difference() {
    let (truths, text) = (truths().to_string(), results().to_string());
    let right = scores(&truths, &text).unwrap();
    for (change, text) in changed(&results()) {
        let Ok(found) = scores(&truths, &text) else { continue };
        // A result of a category that the data set does not have is left out, as in pycocotools.
        let expected = match change.split_once("/category_id = ") {
            Some((row, category)) if !["2", "5"].contains(&category) => {
                let mut others = results();
                others.as_array_mut().unwrap().remove(row.trim_start_matches('/').parse().unwrap());
                scores(&truths, &others.to_string()).unwrap()
            }
            _ => right.clone(),
        };
        assert_eq!(found, expected, "{change}");
    }
    // A file that is cut anywhere, or continues, is not a shorter file.
    for cut in 1..text.len() {
        assert!(scores(&truths, &text[..cut]).is_err(), "{}", &text[..cut]);
    }
    for more in ["]", "[]", "null", &text, ",", "x", "\u{0}"] {
        assert!(scores(&truths, &(text.clone() + more)).is_err(), "{more}");
    }
    assert_eq!(scores(&truths, &format!("\u{feff}{text}\r\n ")).unwrap(), right);
}
