//! What is written comes back; what is wrong is named.

use super::*;
use crate::data::{Annotation, Entry, ImageRef, Objects, Rle, SampleId};
use crate::metrics::coco::WrittenDetection;
use serde_json::{Value, json};
use std::sync::Arc;

fn info() -> DatasetInfo {
    let category = |id: u64| Category { id: id.into(), frequency: None };
    DatasetInfo {
        classes: vec!["a".into(), "b".into()],
        categories: vec![category(5), category(90)],
        ..DatasetInfo::default()
    }
}

fn entry(image_id: u64) -> Entry {
    let objects = Objects {
        image_id: image_id.into(),
        size: (4, 6),
        objects: vec![],
        absent: vec![],
        not_exhaustive: vec![],
    };
    Entry {
        id: SampleId::new(format!("{image_id}.jpg")),
        image: ImageRef::File("x".into()),
        annotation: Annotation::Objects(Arc::new(objects)),
    }
}

fn read_back(files: &[Value]) -> Result<Vec<Vec<Detection>>, String> {
    let folder = tempfile::tempdir().unwrap();
    let paths: Vec<PathBuf> =
        (0..files.len()).map(|k| folder.path().join(format!("results{k}.json"))).collect();
    for (path, file) in paths.iter().zip(files) {
        std::fs::write(path, file.to_string()).unwrap();
    }
    let entries = [entry(3), entry(11)];
    let predictions = read(&paths, &entries, &info(), true).map_err(|e| format!("{e:#}"))?;
    predictions.each.collect::<Result<_>>().map_err(|e| e.to_string())
}

#[test]
fn what_is_written_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let mask = Rle::new(4, 6, vec![5, 2, 17]).unwrap();
    let detections = vec![
        Detection { label: 1, score: 0.1, bbox: [0.1, 0.2, 1.7, 3.3], mask: Some(mask), written: None },
        Detection {
            label: 0,
            score: 0.987_654_3,
            bbox: [1., 1., 2., 2.],
            mask: Some(Rle::new(4, 6, vec![24]).unwrap()),
            written: None,
        },
    ];
    let write = |names: [&str; 2]| {
        let mut writer = Box::new(ResultWriter::new(folder.path(), &info()));
        for (k, name) in names.into_iter().enumerate() {
            let path = Path::new(name);
            let image = PredictedImage { path, name: "n", number: k + 1, size: (4, 6) };
            let found = if k == 0 { vec![] } else { detections.clone() };
            writer.write(&image, &found).unwrap();
        }
        assert_eq!(writer.files(&[]), [Path::new("detections.json")]);
        writer.finish().unwrap();
        serde_json::from_slice::<Value>(&std::fs::read(folder.path().join(FILE)).unwrap()).unwrap()
    };
    let rows = write(["x/000000000003.jpg", "y/11.png"]);
    assert_eq!((&rows[0]["image_id"], &rows[0]["category_id"]), (&json!(11), &json!(90)));
    let mut back = read_back(&[rows]).unwrap();
    assert_eq!(back[1][0].written.unwrap().bbox.unwrap()[2], f64::from(1.7f32) - f64::from(0.1f32));
    back[1].iter_mut().for_each(|detection| detection.written = None);
    assert_eq!(back, [vec![], detections.clone()]);
    let rows = write(["x/a.jpg", "y/11.png"]);
    assert_eq!((&rows[0]["image_id"], &rows[0]["file_name"]), (&json!(2), &json!("11.png")));
}

#[test]
fn boxes_and_masks_may_come_in_one_file_or_in_two() {
    let mask = json!({"size": [4, 6], "counts": Rle::new(4, 6, vec![5, 2, 17]).unwrap().to_coco()});
    let boxes = json!([{"image_id": 3, "category_id": 5, "bbox": [0, 0, 2, 2], "score": 0.5}]);
    let masks = json!([{"image_id": 3, "category_id": 5, "segmentation": mask.clone(), "score": 0.25}]);
    let both = read_back(&[boxes, masks.clone()]).unwrap();
    assert_eq!((both[0][0].bbox, &both[0][0].mask), ([0., 0., 2., 2.], &None));
    assert_eq!(both[0][1].written, Some(WrittenDetection { score: 0.25, bbox: None }));
    for key in ["bbox", "segmentation"] {
        let row = json!({"image_id": 3, "category_id": 5, "bbox": [0, 0, 2, 2], "score": 0.5, "segmentation": mask});
        let mut other = row.clone();
        other.as_object_mut().unwrap().remove(key);
        let error = read_back(&[json!([row, other])]).unwrap_err();
        assert!(error.contains(&format!("row 1 has no `{key}`, and row 0 has one")), "{error}");
    }
    let alone = read_back(&[masks]).unwrap();
    assert_eq!(alone[0][0].bbox, [1., 1., 2., 3.]);
    assert_eq!(alone[0][0].written.unwrap().bbox, Some([1., 1., 1., 2.]));
}

#[test]
fn wrong_rows_are_named() {
    let row = |key: &str, value: Value| {
        let mut row = json!({"image_id": 3, "category_id": 5, "bbox": [0, 0, 2, 2], "score": 0.5});
        row[key] = value;
        read_back(&[json!([row])]).unwrap_err()
    };
    for (key, value, words) in [
        ("image_id", json!(4), "row 0 (image 4): image 4 is not in the split"),
        (
            "category_id",
            json!(6),
            "no result is of a category of the data set: `category_id` is 6, and the data set has 5 (a), 90 (b)",
        ),
        (
            "image_id",
            json!("x"),
            "row 0 (image \"x\"): image \"x\" is not in the split, whose ids are like 3",
        ),
        ("image_id", json!(3.5), "row 0: `image_id` is 3.5"),
        ("image_id", json!(null), "row 0: there is no `image_id`"),
        (
            "category_id",
            json!("5"),
            "row 0 (image 3): `category_id` is \"5\", and the data set has ids like 5",
        ),
        ("score", json!(null), "row 0 (image 3): there is no `score`"),
        ("score", json!("0.9"), "row 0 (image 3): `score` is \"0.9\", expected a number"),
        ("score", json!(1e39), "is not a finite number"),
        ("bbox", json!([0, 0, -1, 1]), "is not a box (x, y, width, height)"),
        ("bbox", json!([0, 0, 1]), "row 0 (image 3): `bbox` has 3 numbers"),
        ("bbox", json!([0, 0, "1", 1]), "`bbox` contains \"1\", expected numbers"),
        ("bbox", json!(null), "neither `bbox` nor `segmentation`"),
        ("bbox", json!([]), "neither `bbox` nor `segmentation`"),
        ("segmentation", json!([[0, 0, 1, 1]]), "no polygon of at least 3 points"),
        ("segmentation", json!({"size": [4, 6], "counts": ""}), "a mask is broken"),
        ("segmentation", json!({"size": [6, 4], "counts": "0"}), "a mask has 6x4 pixels, its image 4x6"),
    ] {
        let error = row(key, value);
        assert!(error.contains(words) && error.contains("results0.json"), "{key}: {error}");
    }
    for (file, words) in [
        (json!({"images": []}), "an object without a list of results"),
        (json!({"annotations": [], "results": []}), "two lists of results, `annotations` and `results`"),
        (json!(7), "the document is 7, expected a list of results"),
    ] {
        let error = read_back(&[file]).unwrap_err();
        assert!(error.contains("not a list of results") && error.contains(words), "{error}");
    }
    let positional = read_back(&[json!([[3, 5, [0, 0, 2, 2], 0.5]])]).unwrap_err();
    assert!(positional.contains("`[0]` is a list, expected an object"), "{positional}");
    let row = |image: u64, score: Value| json!({"image_id": image, "category_id": 5, "bbox": [0, 0, 2, 2], "score": score});
    let error = read_back(&[json!([row(4, json!(1)), row(3, json!(1)), row(3, json!(null))])]).unwrap_err();
    assert!(error.contains("2 flaws") && error.contains("row 0") && error.contains("row 2"), "{error}");
}

fn read_text(text: &str, masks: bool) -> Result<usize, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("results.json");
    std::fs::write(&path, text).unwrap();
    let found = read(&[path], &[entry(3), entry(11)], &info(), masks).map_err(|e| format!("{e:#}"))?;
    Ok(found.each.map(|image| image.unwrap().len()).sum())
}

#[test]
fn the_whole_file_is_read_or_refused() {
    let row = r#"{"image_id": 3, "category_id": 5, "bbox": [0, 0, 2, 2], "score": 0.5}"#;
    for (text, words) in [
        (format!("[{row}][{row}]"), "more text follows the end of the document: `[{"),
        (format!("[{row}]\nNone"), "line 2, column 1: more text follows"),
        (format!("{row}\n{row}"), "an object without a list of results"),
        (format!("[{row}, {{\"image_id\": 3, "), "is cut off"),
        (String::new(), "the file is empty"),
        ("null".into(), "there is no list of results"),
        (format!("[{row}, {}]", row.replace("0.5", "NaN")), "row 1 (image 3): `score` is NaN"),
    ] {
        let error = read_text(&text, false).unwrap_err();
        assert!(error.contains(words) && error.contains("results.json"), "{text}: {error}");
    }
    assert_eq!(read_text(&format!("\u{feff}[{row}, {row}]\n"), false).unwrap(), 2);
    let unread = row.replace("}", ", \"loss\": NaN, \"segmentation\": null}");
    assert_eq!(read_text(&format!("[{unread}]"), true).unwrap(), 1);
    let floats = row.replace("3,", "3.0,").replace("5,", "5.0,");
    assert_eq!(read_text(&format!("[{floats}]"), false).unwrap(), 1);
    // Boxes are scored without a look at outlines.
    let outlined = row.replace("}", ", \"segmentation\": {\"size\": [4, 6], \"counts\": \"\"}}");
    assert_eq!(read_text(&format!("[{outlined}]"), false).unwrap(), 1);
    assert!(read_text(&format!("[{outlined}]"), true).unwrap_err().contains("a mask is broken"));
}

/// Number of detections of each image, and what is said of a file.
fn notes(file: &Value) -> (Vec<usize>, Vec<String>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("r.json");
    std::fs::write(&path, file.to_string()).unwrap();
    let found = read(&[path], &[entry(3), entry(11)], &info(), false).unwrap();
    let counts = found.each.map(|image| image.unwrap().len()).collect();
    let words = |note: &String| note.split_once(": ").unwrap().1.to_string();
    (counts, found.notes.iter().map(words).collect())
}

#[test]
fn what_may_surprise_is_said() {
    let row = |image: Value, category: u64, bbox: [f64; 4]| json!({"image_id": image, "category_id": category, "bbox": bbox, "score": 0.5});
    let (inside, pixels) = ([0.25, 0.25, 0.5, 0.75], [1., 1., 2., 2.]);
    let said = |file: Value| {
        let (counts, notes) = notes(&file);
        (counts, notes.into_iter().next().unwrap_or_default())
    };
    assert_eq!(said(json!([row(json!(3), 5, pixels)])), (vec![1, 0], String::new()));
    assert_eq!(said(json!([])), (vec![0, 0], "the file has no results, so nothing is detected".into()));
    let (counts, note) = said(json!([row(json!(3), 5, inside), row(json!(11), 5, inside)]));
    assert!(counts == [1, 1] && note.starts_with("all boxes lie within 0 to 1"), "{note}");
    assert_eq!(said(json!([row(json!(3), 5, inside), row(json!(3), 5, pixels)])).1, "");
    let (counts, note) =
        said(json!([row(json!(3), 5, pixels), row(json!(3), 6, pixels), row(json!(3), 7, pixels)]));
    assert_eq!(counts, [1, 0]);
    assert_eq!(
        note,
        "2 of 3 results are left out: the data set does not have their 2 categories; the first: 6"
    );
    let (counts, note) = said(json!({"info": {}, "annotations": [row(json!(3), 5, pixels)]}));
    assert!(counts == [1, 0] && note == "the results are those under `annotations`", "{note}");
    let (counts, note) = said(json!([row(json!("3"), 5, pixels), row(json!("11"), 5, pixels)]));
    assert!(counts == [1, 1] && note.starts_with("ids of images are numbers here and words"), "{note}");
}

#[test]
fn one_id_of_another_spelling_is_a_mistake() {
    let row = |image: Value| json!({"image_id": image, "category_id": 5, "bbox": [0, 0, 2, 2], "score": 0.5});
    let error = read_back(&[json!([row(json!(3)), row(json!("11"))])]).unwrap_err();
    assert!(error.contains("row 1 (image \"11\"): image \"11\" is not in the split"), "{error}");
}
