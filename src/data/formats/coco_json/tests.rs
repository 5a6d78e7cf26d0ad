//! What is read, what is refused, and that no document panics.

use super::*;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::path::Path;

fn read_with(text: &str, drop_empty: bool, allowed_degenerate: usize) -> Result<Index, String> {
    let root = tempfile::tempdir().unwrap();
    std::fs::write(root.path().join("a.json"), text).unwrap();
    let split = SplitSource { root: root.path(), images: Path::new("images"), class_names: None };
    let format = CocoJson { file: "a.json".into(), drop_empty, allowed_degenerate };
    format.index(&split).map_err(|e| e.to_string())
}

fn read(document: &Value) -> Result<Index, String> {
    read_with(&document.to_string(), false, 0)
}

/// Three images, the last without objects; category ids with gaps, out of order.
fn document() -> Value {
    json!({
        "info": {"year": 2017},
        "images": [
            {"id": 9, "file_name": "b.jpg", "width": 8, "height": 6, "license": 3},
            {"id": 4, "coco_url": "http://x/val2017/a.jpg", "width": 4, "height": 4,
             "neg_category_ids": [90], "not_exhaustive_category_ids": [7]},
            {"id": 5, "file_name": "c.jpg", "width": 4, "height": 4}
        ],
        "annotations": [
            {"id": 1, "image_id": 4, "category_id": 90, "bbox": [1, 1, 2, 2], "area": 3.5, "iscrowd": 0,
             "segmentation": [[1, 1, 3, 1, 3, 3], [0, 0, 1, 0, 1, 1, 0, 1]]},
            {"id": 2, "image_id": 9, "category_id": 7, "bbox": [0, 0, 1, 6], "iscrowd": 1,
             "segmentation": {"size": [6, 8], "counts": [0, 6, 42]}},
            {"id": 3, "image_id": 4, "category_id": 7, "bbox": [0.5, 0, 1, 2.5]},
            {"id": 8, "image_id": 4, "category_id": 7,
             "segmentation": {"size": [4, 4], "counts": hotcoco_string(&[4, 8, 4])}}
        ],
        "categories": [{"id": 90, "name": "zebra", "frequency": "r"}, {"id": 7, "name": "ant", "supercategory": "x"}]
    })
}

fn hotcoco_string(counts: &[u32]) -> String {
    crate::data::Rle { height: 4, width: 4, counts: counts.to_vec() }.to_coco()
}

fn objects(index: &Index, k: usize) -> &Objects {
    match &index.entries[k].annotation {
        Annotation::Objects(objects) => objects,
        other => panic!("{other:?}"),
    }
}

#[test]
fn everything_is_read() {
    let index = read(&document()).unwrap();
    let ids: Vec<&str> = index.entries.iter().map(|e| e.id.as_str()).collect();
    assert_eq!(ids, ["images/b.jpg", "images/val2017/a.jpg", "images/c.jpg"]);
    assert_eq!(index.classes.as_deref().unwrap(), ["ant", "zebra"]);
    let rare = Category { id: 90, frequency: Some(Frequency::Rare) };
    assert_eq!(index.categories, [Category { id: 7, frequency: None }, rare]);
    let crowd = &objects(&index, 0).objects[0];
    assert!(crowd.crowd && crowd.area == 6., "{crowd:?}");
    let image = objects(&index, 1);
    assert_eq!((image.image_id, image.size), (4, (4, 4)));
    assert_eq!((&image.absent[..], &image.not_exhaustive[..]), (&[1][..], &[0][..]));
    let labels: Vec<_> = image.objects.iter().map(|o| (o.label, o.area, o.bbox)).collect();
    assert_eq!(labels, [(1, 3.5, [1., 1., 2., 2.]), (0, 2.5, [0.5, 0., 1., 2.5]), (0, 8., [1., 0., 2., 4.])]);
    assert!(matches!(&image.objects[0].segmentation, Segmentation::Polygons(rings) if rings.len() == 2));
    assert!(objects(&index, 2).objects.is_empty());
    // Neither crowds nor nothing are left.
    let kept = read_with(&document().to_string(), true, 0).unwrap();
    assert_eq!(kept.entries.len(), 1);
}

#[test]
fn what_is_wrong_is_named() {
    let with = |path: &str, value: Value| {
        let mut document = document();
        *document.pointer_mut(path).unwrap() = value;
        read(&document).unwrap_err()
    };
    for (path, value, words) in [
        ("/annotations/0/image_id", json!(77), "annotation 1 is of image 77, which is not in `images`"),
        (
            "/annotations/0/category_id",
            json!(8),
            "annotation 1 is of category 8, which is not in `categories`",
        ),
        ("/annotations/1/id", json!(1), "annotation 1 occurs twice"),
        ("/images/1/id", json!(9), "image 9 occurs twice"),
        ("/images/2/file_name", json!("b.jpg"), "image 5: file `b.jpg` occurs twice"),
        ("/images/2/file_name", json!(null), "image 5 has neither `file_name` nor `coco_url`"),
        ("/images/2/width", json!(0), "image 5 (`c.jpg`) has 4x0 pixels"),
        ("/images/2/width", json!(-1), "images[2].width: invalid value: integer `-1`"),
        ("/images/1/neg_category_ids", json!([8]), "image 4 names category 8"),
        ("/categories/1/id", json!(90), "category 90 occurs twice"),
        ("/categories/1/name", json!("zebra"), "category name `zebra` occurs twice"),
        ("/categories", json!([]), "`categories` is empty"),
        ("/annotations", json!([]), "`annotations` is empty"),
        (
            "/annotations/0/bbox",
            json!([1, 1, 0, 2]),
            "annotation 1 (image 4): bbox [1.0, 1.0, 0.0, 2.0] has no area",
        ),
        (
            "/annotations/0/bbox",
            json!([1, 1, 1, -2]),
            "annotation 1 (image 4): bbox [1.0, 1.0, 1.0, -2.0] is not a box",
        ),
        ("/annotations/0/bbox", json!([1, 1, null, 2]), "annotations[0].bbox[2]: invalid type: null"),
        ("/annotations/0/bbox", json!([1, 1, 2]), "annotations[0].bbox: invalid length 3"),
        ("/annotations/0/area", json!(-1), "annotation 1 (image 4): area is -1"),
        (
            "/annotations/0/segmentation",
            json!([[1, 1, 2, 2]]),
            "annotation 1 (image 4): a polygon has 2 points",
        ),
        ("/annotations/0/segmentation", json!([[1, 1, 2, 2, 3, 3, 4]]), "a polygon has 7 numbers"),
        (
            "/annotations/0/segmentation",
            json!([[1, 1, 1e9, 2, 3, 3]]),
            "a polygon has a point at 1000000000, far outside of its image",
        ),
        ("/annotations/0/segmentation", json!([1, 1, 2, 2]), "annotations[0].segmentation[0]: invalid type"),
        ("/annotations/0/segmentation", json!("x"), "expected a list of polygons, or a mask"),
        (
            "/annotations/1/segmentation/size",
            json!([8, 6]),
            "annotation 2 (image 9): a mask has 8x6 pixels, its image 6x8",
        ),
        ("/annotations/1/segmentation/counts", json!([0, 6]), "runs cover 6 pixels, expected 6x8 = 48"),
        ("/annotations/1/segmentation/counts", json!("ÿ"), "annotation 2 (image 9): a mask is broken"),
        ("/annotations/1/segmentation", json!({"size": [6, 8]}), "missing field `counts`"),
        ("/images", json!(null), "images: invalid type: null"),
    ] {
        let error = with(path, value);
        assert!(error.contains(words) && error.contains("a.json"), "{path}: {error}");
    }
    let mut without = document();
    without["annotations"][2].as_object_mut().unwrap().remove("bbox");
    assert!(read(&without).unwrap_err().contains("annotation 3 (image 4): has neither `bbox` nor"));
    let text = document().to_string();
    assert!(read_with(&text[..text.len() / 2], false, 0).unwrap_err().contains("EOF while parsing"));
    assert!(read_with(&(text + "]"), false, 0).unwrap_err().contains("trailing characters"));
    assert!(read_with("", false, 0).unwrap_err().contains("EOF"));
    let nan = document().to_string().replace("3.5", "NaN");
    assert!(read_with(&nan, false, 0).unwrap_err().contains("annotations[0].area: expected value"));
}

#[test]
fn annotations_without_area_are_left_out_where_the_manifest_knows_of_them() {
    let mut document = document();
    document["annotations"][0]["bbox"] = json!([1, 1, 2, 0]);
    document["annotations"][2]["segmentation"] = json!([[1, 1, 2, 2]]);
    assert!(read_with(&document.to_string(), false, 1).unwrap_err().contains("annotation 3"));
    let index = read_with(&document.to_string(), false, 2).unwrap();
    assert_eq!(objects(&index, 1).objects.len(), 1);
}

/// A number that is sometimes wrong.
fn odd() -> impl Strategy<Value = Value> {
    prop_oneof![
        6 => (-2i64..9).prop_map(Value::from),
        1 => any::<f64>().prop_map(Value::from),
        1 => Just(Value::Null),
        1 => Just(json!("7")),
        1 => Just(json!(u64::MAX)),
        1 => proptest::collection::vec(-1f64..9., 0..5).prop_map(|v| json!(v)),
    ]
}

fn record() -> impl Strategy<Value = Value> {
    let outline = prop_oneof![
        odd(),
        proptest::collection::vec(proptest::collection::vec(odd(), 0..9), 0..3).prop_map(|v| json!(v)),
        (odd(), odd(), proptest::collection::vec(odd(), 0..6))
            .prop_map(|(h, w, counts)| json!({"size": [h, w], "counts": counts})),
        ("[0-9:-o]{0,12}").prop_map(|counts| json!({"size": [4, 4], "counts": counts})),
    ];
    let bbox = prop_oneof![odd(), proptest::collection::vec(odd(), 3..5).prop_map(|v| json!(v))];
    (odd(), odd(), odd(), bbox, outline, odd()).prop_map(|(id, image, category, bbox, segmentation, area)| {
        json!({"id": id, "image_id": image, "category_id": category, "bbox": bbox, "segmentation": segmentation,
               "area": area, "iscrowd": id})
    })
}

proptest! {
    #[test]
    fn any_document_is_read_or_refused(
        records in proptest::collection::vec(record(), 0..4), width in odd(), height in odd(), cut in 0usize..4000,
    ) {
        let document = json!({
            "images": [{"id": 1, "file_name": "a", "width": width, "height": height},
                       {"id": 2, "file_name": "b", "width": 4, "height": 4}],
            "annotations": records,
            "categories": [{"id": 1, "name": "a"}, {"id": 3, "name": "b"}]
        });
        let text = document.to_string();
        for text in [&text[..], &text[..cut.min(text.len())]] {
            if let Ok(index) = read_with(text, cut % 2 == 0, cut % 3) {
                for entry in &index.entries {
                    let Annotation::Objects(image) = &entry.annotation else { panic!("no objects") };
                    for object in &image.objects {
                        prop_assert!(object.label < 2 && object.bbox[2] > 0. && object.bbox[3] > 0.);
                        prop_assert!(object.mask(image.size).is_ok());
                    }
                }
            }
        }
    }
}
