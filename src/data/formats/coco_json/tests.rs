//! What is read, what is refused, and that no document panics.

use super::*;
use crate::data::{Frequency, RecordId, Segmentation};
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
    let rare = Category { id: 90.into(), frequency: Some(Frequency::Rare) };
    assert_eq!(index.categories, [Category { id: 7.into(), frequency: None }, rare]);
    let crowd = &objects(&index, 0).objects[0];
    assert!(crowd.crowd && crowd.area == 6., "{crowd:?}");
    let image = objects(&index, 1);
    assert_eq!((&image.image_id, image.size), (&RecordId::from(4), (4, 4)));
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
        ("/images/2/file_name", json!(null), "image 5: has neither `file_name` nor `coco_url`"),
        ("/images/2/width", json!(0), "image 5: `c.jpg` has no `width` and `height`, and cannot be measured"),
        ("/images/2/width", json!(-1), "image 5: `width` is -1, expected a whole number of at least 0"),
        (
            "/images/1/neg_category_ids",
            json!([8]),
            "image 4: `neg_category_ids` has category 8, which is not in `categories`",
        ),
        ("/categories/1/id", json!(90), "category 90 occurs twice"),
        ("/categories", json!([]), "`categories` is empty"),
        ("/annotations", json!([]), "`annotations` is empty"),
        (
            "/annotations/0/bbox",
            json!([1, 1, 0, 2]),
            "annotation 1 (image 4): bbox [1.0, 1.0, 0.0, 2.0] has no area; remove such annotations, or allow their number by \
             `allowed_degenerate`",
        ),
        (
            "/annotations/0/bbox",
            json!([1, 1, 1, -2]),
            "annotation 1 (image 4): bbox [1.0, 1.0, 1.0, -2.0] is not a box",
        ),
        (
            "/annotations/0/bbox",
            json!([1, 1, null, 2]),
            "annotation 1 (image 4): `bbox` contains null, expected numbers",
        ),
        ("/annotations/0/bbox", json!([1, 1, 2]), "annotation 1 (image 4): `bbox` has 3 numbers"),
        ("/annotations/0/area", json!(-1), "annotation 1 (image 4): `area` is -1"),
        (
            "/annotations/0/iscrowd",
            json!("maybe"),
            "annotation 1 (image 4): `iscrowd` is \"maybe\", expected 0 or 1",
        ),
        ("/annotations/0/area", json!("3"), "annotation 1 (image 4): `area` is \"3\", expected a number"),
        ("/annotations/0/image_id", json!("4"), "annotation 1 is of image \"4\", which is not in `images`"),
        ("/annotations/0/image_id", json!(null), "annotation 1: there is no `image_id`"),
        (
            "/annotations/0/id",
            json!([1]),
            "annotations[0]: `id` is a list, expected a whole number or a word",
        ),
        (
            "/images/0/id",
            json!("nine"),
            "ids must be all numbers or all words to be scored, and that of the first",
        ),
        ("/images/0/id", json!(null), "images[0]: there is no `id`"),
        (
            "/categories/0/id",
            json!("zebra"),
            "ids of categories must be all numbers or all words to be scored: 7, \"zebra\"",
        ),
        ("/categories/0/id", json!([1]), "categories[0]: `id` is a list, expected a whole number or a word"),
        ("/categories/0/frequency", json!("x"), "categories[0]: `frequency` is \"x\""),
        ("/annotations/0", json!([1, 4, 90]), "`annotations[0]` is a list, expected an object"),
        ("/images", json!(null), "there is no list `images`"),
        ("/images", json!(7), "`images` is 7, expected a list"),
    ] {
        let error = with(path, value);
        assert!(error.contains(words) && error.contains("a.json"), "{path}: {error}");
    }
    let mut without = document();
    without["annotations"][2].as_object_mut().unwrap().remove("bbox");
    assert!(read(&without).unwrap_err().contains("annotation 3 (image 4): has neither `bbox` nor"));
    let text = document().to_string();
    assert!(read_with(&text[..text.len() / 2], false, 0).unwrap_err().contains("is cut off"));
    assert!(
        read_with(&(text + "]"), false, 0).unwrap_err().contains("more text follows the end of the document")
    );
    assert!(read_with("", false, 0).unwrap_err().contains("the file is empty"));
    let nan = document().to_string().replace("3.5", "NaN");
    assert!(read_with(&nan, false, 0).unwrap_err().contains("annotation 1 (image 4): `area` is NaN"));
}

/// Values are written in many ways, and mean the same.
#[test]
fn what_is_written_in_another_way_is_read_the_same() {
    let digest = |index: &Index| (0..3).map(|k| objects(index, k).digest()).collect::<Vec<_>>();
    let plain = digest(&read(&document()).unwrap());
    let changed = |change: &dyn Fn(&mut Value)| {
        let mut document = document();
        change(&mut document);
        digest(&read(&document).unwrap())
    };
    for flag in [json!(null), json!("0"), json!(0.0), json!(false), json!("false")] {
        assert_eq!(changed(&|d| d["annotations"][0]["iscrowd"] = flag.clone()), plain, "{flag}");
    }
    for flag in [json!(true), json!("1"), json!(1.0)] {
        assert_eq!(changed(&|d| d["annotations"][1]["iscrowd"] = flag.clone()), plain, "{flag}");
    }
    for outline in [json!(null), json!([]), json!([[]]), json!({}), json!([[], []]), json!("")] {
        assert_eq!(changed(&|d| d["annotations"][2]["segmentation"] = outline.clone()), plain, "{outline}");
    }
    assert_eq!(changed(&|d| d["annotations"][3]["bbox"] = json!([])), plain, "an empty box is absent");
    for id in [json!("7c1d-11"), json!(1.0), json!(null), json!(-1)] {
        assert_eq!(changed(&|d| d["annotations"][0]["id"] = id.clone()), plain, "{id}");
    }
    let floats = |d: &mut Value| {
        d["images"][1]["id"] = json!(4.0);
        d["images"][1]["width"] = json!(4.0);
        d["annotations"][0]["category_id"] = json!(90.0);
        d["categories"][0]["id"] = json!(90.0);
    };
    assert_eq!(changed(&floats), plain);
    let text = document().to_string();
    let marked = format!("\u{feff}{}", text.replace("\"license\":3", "\"license\":NaN"));
    assert_ne!(marked, text);
    assert_eq!(digest(&read_with(&marked, false, 0).unwrap()), plain);
    let ring = json!([1, 1, 3, 1, 3, 3]);
    let flat = changed(&|d| d["annotations"][0]["segmentation"] = ring.clone());
    assert_eq!(
        flat,
        changed(&|d| d["annotations"][0]["segmentation"] = json!([ring])),
        "a flat ring is a ring"
    );
}

#[test]
fn ids_of_categories_may_be_words_or_negative() {
    for ids in [[json!("n01"), json!("a02")], [json!(-1), json!(-5)]] {
        let mut document = document();
        for (k, id) in ids.iter().enumerate() {
            document["categories"][k]["id"] = id.clone();
        }
        document["images"][1].as_object_mut().unwrap().retain(|key, _| !key.contains("category_ids"));
        for (k, category) in [(0, 0), (1, 1), (2, 1), (3, 1)] {
            document["annotations"][k]["category_id"] = ids[category].clone();
        }
        let index = read(&document).unwrap();
        assert_eq!(index.classes.as_deref().unwrap(), ["ant", "zebra"], "{ids:?}");
        assert_eq!(serde_json::to_value(&index.categories[0].id).unwrap(), ids[1]);
        let labels: Vec<u32> = objects(&index, 1).objects.iter().map(|object| object.label).collect();
        assert_eq!(labels, [1, 0, 0]);
    }
}

#[test]
fn what_is_listed_twice_is_read_once() {
    let mut document = document();
    for list in ["images", "categories"] {
        let first = document[list][0].clone();
        document[list].as_array_mut().unwrap().push(first);
    }
    document["categories"][1].as_object_mut().unwrap().remove("name");
    let index = read(&document).unwrap();
    assert_eq!((index.entries.len(), index.classes.unwrap()), (3, vec!["7".into(), "zebra".into()]));
    assert_eq!(
        index.notes,
        [
            "categories that are listed twice are read once: 1",
            "categories without a name are named by their ids: 1; the first: 7",
            "images that are listed twice with the same values are read once: 1"
        ]
    );
    document["categories"][2]["name"] = json!("horse");
    document["images"][3]["width"] = json!(9);
    let error = read(&document).unwrap_err();
    assert!(error.contains("category 90 occurs twice, with different names"), "{error}");
    assert!(error.contains("image 9 occurs twice, with different values"), "{error}");
}

#[test]
fn images_without_a_size_are_measured() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("images/c.jpg");
    std::fs::create_dir(root.path().join("images")).unwrap();
    image::RgbImage::new(7, 5).save_with_format(&file, image::ImageFormat::Png).unwrap();
    let split = SplitSource { root: root.path(), images: Path::new("images"), class_names: None };
    let format = CocoJson { file: "a.json".into(), drop_empty: false, allowed_degenerate: 0 };
    for width in [json!(null), json!(0)] {
        let mut document = document();
        document["images"][2]["width"] = width;
        std::fs::write(root.path().join("a.json"), document.to_string()).unwrap();
        let index = format.index(&split).unwrap();
        assert_eq!(objects(&index, 2).size, (5, 7));
        assert_eq!(index.notes, ["images without `width` and `height` are measured: 1"]);
    }
}

#[test]
fn outlines_are_written_in_several_ways() {
    let of = |outline: Value| {
        let mut document = document();
        document["annotations"][0]["segmentation"] = outline;
        let index = read(&document).unwrap();
        objects(&index, 1).objects[0].mask((4, 4)).unwrap().unwrap()
    };
    let ring = of(json!([[1, 1, 3, 1, 3, 3]]));
    assert_eq!(of(json!([[1, 1], [3, 1], [3, 3]])), ring, "a list of points");
    let counts = hotcoco_string(&[4, 8, 4]);
    let rle = of(json!({"size": [4, 4], "counts": counts}));
    let (first, rest) = counts.split_at(1);
    for other in [
        format!("b'{counts}'"),
        format!("b'{counts}\\n'"),
        format!("b\"{counts}\""),
        format!("{counts}\n"),
        format!("{first}\n  {rest}"),
    ] {
        assert_eq!(of(json!({"size": [4, 4], "counts": other})), rle, "{other:?}");
    }
}

#[test]
fn ids_of_images_may_be_words() {
    let mut document = document();
    for (k, id) in [(0, "nine"), (1, "four"), (2, "4")] {
        document["images"][k]["id"] = json!(id);
    }
    for (k, id) in [(0, "four"), (1, "nine"), (2, "four"), (3, "four")] {
        document["annotations"][k]["image_id"] = json!(id);
    }
    let index = read(&document).unwrap();
    assert_eq!(objects(&index, 1).image_id, RecordId::Word("four".into()));
    assert_eq!(objects(&index, 1).objects.len(), 3);
    assert!(objects(&index, 2).objects.is_empty(), "the word \"4\" is another id");
}

#[test]
fn categories_of_one_name_are_told_apart_by_their_ids() {
    let mut document = document();
    document["categories"][1]["name"] = json!("zebra");
    let index = read(&document).unwrap();
    assert_eq!(index.classes.unwrap(), ["zebra (id 7)", "zebra (id 90)"]);
    assert_eq!(index.notes, ["2 categories are named `zebra`: they are told apart as `zebra (id …)`"]);
}

/// The reason why an outline cannot be drawn, in a document that is read all the same.
fn flaw(outline: Value) -> String {
    let mut document = document();
    document["annotations"][0]["segmentation"] = outline;
    let index = read(&document).unwrap();
    let object = &objects(&index, 1).objects[0];
    assert!(!object.has_mask() && object.bbox == [1., 1., 2., 2.], "{object:?}");
    assert!(
        index.notes[0].starts_with("outlines cannot be drawn")
            && index.notes[0].contains("annotation 1 (image 4)")
    );
    match &object.segmentation {
        Segmentation::Flawed(flaw) => flaw.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn outlines_that_cannot_be_drawn_leave_the_box_and_say_why() {
    let runs = |size: Value, counts: Value| json!({"size": size, "counts": counts});
    for (outline, words) in [
        (json!([[1, 1, 2, 2]]), "no polygon of at least 3 points: the shortest has 4 numbers"),
        (json!([1, 1, 2, 2]), "no polygon of at least 3 points"),
        (json!([[1, 2, 3], [1, 1]]), "no polygon of at least 3 points: the shortest has 2 numbers"),
        (json!([[1, 1, 2, 2, 3, 3, 4]]), "a polygon has 7 numbers, expected pairs of x and y"),
        (json!([[1, 1, 1e9, 2, 3, 3]]), "a polygon has a point at 1000000000, far outside of its image"),
        (json!([[1, 1, null, 2, 3, 3]]), "a polygon contains null, expected numbers"),
        (json!([[1, 1, "2", 2, 3, 3]]), "a polygon contains a word, expected numbers"),
        (json!([[[1, 1], [2, 2], [3, 1]]]), "a polygon contains a list, expected numbers"),
        (json!([1, [1, 1, 2, 2, 3, 3]]), "mixes numbers and lists of numbers"),
        (json!("x"), "is \"x\", expected a list of polygons, or a mask"),
        (json!(3), "is 3, expected a list of polygons"),
        (runs(json!([6, 8]), json!([0, 48])), "a mask has 6x8 pixels, its image 4x4"),
        (runs(json!([4, 4]), json!([0, 6])), "a mask is broken: its runs cover 6 pixels, expected 4x4 = 16"),
        (runs(json!([4, 4]), json!([0.5, 15.5])), "a mask is broken: 0.5 is not the length of a run"),
        (runs(json!([4, 4]), json!("ÿ")), "a mask is broken"),
        (runs(json!([4, 4]), json!("")), "a mask is broken"),
        (runs(json!([4]), json!([16])), "the `size` of a mask has 1 numbers"),
        (json!({"size": [4, 4]}), "`counts` of a mask is absent, expected runs"),
        (json!({"counts": [16]}), "`size` of a mask is absent"),
        (json!({"points": [1, 2]}), "`counts` of a mask is absent"),
    ] {
        let found = flaw(outline.clone());
        assert!(found.contains(words), "{outline}: {found}");
    }
}

#[test]
fn flawed_polygons_are_left_out_and_their_objects_stay() {
    let mut document = document();
    let good = json!([1, 1, 3, 1, 3, 3]);
    document["annotations"][0]["segmentation"] = json!([[2, 2], good, [1, 1, 2, 2], [1, 2, 3]]);
    let index = read(&document).unwrap();
    let ring = vec![vec![1., 1., 3., 1., 3., 3.]];
    assert_eq!(objects(&index, 1).objects[0].segmentation, Segmentation::Polygons(ring));
    let note =
        "polygons of fewer than 3 points left out, their objects kept: 3; the first: annotation 1 (image 4)";
    assert_eq!(index.notes, [note]);
}

#[test]
fn every_flaw_of_a_file_is_told() {
    let mut document = document();
    document["annotations"][0]["bbox"] = json!([1, 1, 0, 2]);
    document["annotations"][1]["category_id"] = json!(9);
    document["annotations"][2]["segmentation"] = json!([[1, 2, 3]]);
    document["images"][2]["height"] = json!(null);
    let error = read(&document).unwrap_err();
    for words in [
        "a.json: 4 flaws",
        "image 5: `c.jpg` has no `width` and `height`, and cannot be measured: `",
        "bbox [1.0, 1.0, 0.0, 2.0] has no area",
        "annotation 2 is of category 9",
        "annotation 3 (image 4): has no polygon of at least 3 points",
    ] {
        assert!(error.contains(words), "{words}: {error}");
    }
}

#[test]
fn annotations_without_area_stay_where_the_manifest_knows_of_them() {
    let mut document = document();
    document["annotations"][0]["bbox"] = json!([1, 1, 2, 0]);
    document["annotations"][2]["segmentation"] = json!([[1, 1, 2, 2]]);
    document["annotations"][3]["bbox"] = json!([1, 1, 0, 2]);
    assert!(read_with(&document.to_string(), false, 1).unwrap_err().contains("annotation 8"));
    let index = read_with(&document.to_string(), false, 3).unwrap();
    let found = &objects(&index, 1).objects;
    assert_eq!(found.len(), 3);
    assert!(found[0].has_mask() && found[0].area == 3.5, "the outline of a flat box stays");
    assert_eq!(found[1].segmentation, Segmentation::Degenerate);
    assert_eq!(found[1].mask((4, 4)).unwrap().unwrap().area(), 0);
    assert!(index.notes[0].starts_with(
        "annotations without area are not trained on and stay in scores (`allowed_degenerate`): 3"
    ));
}

#[test]
fn images_that_are_left_out_are_counted() {
    let index = read_with(&document().to_string(), true, 0).unwrap();
    assert_eq!(index.notes, ["`drop_empty` leaves out 2 of 3 images"]);
    let mut crowds = document();
    for k in 0..4 {
        crowds["annotations"][k]["iscrowd"] = json!(1);
    }
    let error = read_with(&crowds.to_string(), true, 0).unwrap_err();
    assert!(error.contains("there is no image that has an object other than crowds"), "{error}");
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
                        prop_assert!(object.label < 2 && object.bbox[2] >= 0. && object.bbox[3] >= 0.);
                        prop_assert!(object.mask(image.size).is_ok());
                    }
                }
            }
        }
    }
}
