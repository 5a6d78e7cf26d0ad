//! What is written comes back; what is wrong is named.

use super::*;
use crate::data::{ImageRef, SampleId};
use serde_json::{Value, json};
use std::sync::Arc;

fn info() -> DatasetInfo {
    let category = |id| Category { id, frequency: None };
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
        ("category_id", json!(6), "category 6 is not in the data set"),
        (
            "image_id",
            json!("3"),
            "row 0 (image \"3\"): image \"3\" is not in the split, whose ids are like 3",
        ),
        ("image_id", json!(3.5), "row 0: `image_id` is 3.5"),
        ("image_id", json!(null), "row 0: there is no `image_id`"),
        ("category_id", json!("5"), "row 0 (image 3): `category_id` is \"5\""),
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
    assert!(read_back(&[json!({"annotations": []})]).unwrap_err().contains("not a list of results"));
    let positional = read_back(&[json!([[3, 5, [0, 0, 2, 2], 0.5]])]).unwrap_err();
    assert!(positional.contains("[0]: invalid type: sequence, expected an object"), "{positional}");
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
        (format!("{row}\n{row}"), "expected a list"),
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
