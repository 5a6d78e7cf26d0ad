//! Folders of every layout, made here, and folders of none.

use super::*;
use crate::data::{Dataset, Formats, Image};
use std::path::PathBuf;
use tempfile::TempDir;

/// A folder with these files; those with contents have them, images are empty.
fn folder(files: &[&str]) -> TempDir {
    let root = tempfile::tempdir().unwrap();
    files.iter().for_each(|file| write(&root, file, b""));
    root
}

fn write(root: &TempDir, file: &str, bytes: &[u8]) {
    let path = root.path().join(file);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}

/// A PNG of grey values or colours, one row.
fn png(root: &TempDir, file: &str, color: ::png::ColorType, bytes: &[u8]) {
    let channels = if color == ::png::ColorType::Rgb { 3 } else { 1 };
    let mut encoded = vec![];
    let mut encoder = ::png::Encoder::new(&mut encoded, (bytes.len() / channels) as u32, 1);
    encoder.set_color(color);
    encoder.set_depth(::png::BitDepth::Eight);
    let mut writer = encoder.write_header().unwrap();
    writer.write_image_data(bytes).unwrap();
    writer.finish().unwrap();
    write(root, file, &encoded);
    assert!(Image::size_of(&root.path().join(file)).is_ok());
}

fn grey(root: &TempDir, file: &str, bytes: &[u8]) {
    png(root, file, ::png::ColorType::Grayscale, bytes);
}

fn coco(root: &TempDir, file: &str, images: &[&str], shape: &str) {
    let entry = |(id, name): (usize, &&str)| {
        format!("{{\"id\": {id}, \"file_name\": \"{name}\", \"width\": 8, \"height\": 8}}")
    };
    let listed: Vec<String> = images.iter().enumerate().map(entry).collect();
    let annotation = |id| format!("{{\"id\": {id}, \"image_id\": {id}, \"category_id\": 1{shape}}}");
    let annotations: Vec<String> = (0..images.len()).map(annotation).collect();
    let text = format!(
        "{{\"images\": [{}], \"annotations\": [{}], \"categories\": [{{\"id\": 1, \"name\": \"cat\"}}]}}",
        listed.join(","),
        annotations.join(",")
    );
    write(root, file, text.as_bytes());
}

const BOX: &str = ", \"bbox\": [1, 1, 2, 2]";

/// Layout, images of every part with their purpose, and annotations in one string.
fn found(root: &TempDir) -> (&'static str, Vec<(Option<Purpose>, String)>, String) {
    let fit = recognise(root.path(), None).unwrap();
    let annotations: Vec<String> = fit
        .parts
        .iter()
        .flat_map(|part| part.annotations.iter().map(|(key, value)| format!("{key}={value}")))
        .collect();
    let parts = fit.parts.iter().map(|part| (part.purpose, part.images.clone())).collect();
    (fit.layout, parts, annotations.join(" "))
}

fn fails(root: &TempDir, wanted: Option<Labelling>) -> String {
    recognise(root.path(), wanted).unwrap_err().to_string()
}

/// Images of every split, as the loader of manifests lists them.
fn listed(root: &TempDir) -> Vec<(String, Vec<String>)> {
    let fit = recognise(root.path(), None).unwrap();
    let dataset = |splits: &[SplitPart]| {
        let text = dataset_text("made", &fit, splits, &[], "here");
        Dataset::of_text(&text, "test", &Formats::builtin()).unwrap_or_else(|e| panic!("{e}\n{text}"))
    };
    let whole = splits_of(&fit);
    let images = dataset(&whole).index(root.path(), "train").unwrap().entries.len();
    let splits = hold_out(whole, vec![images]);
    let dataset = dataset(&splits);
    let images = |split: &SplitPart| {
        let name = split.purpose.as_str();
        let index = dataset.index(root.path(), name).unwrap();
        (name.to_string(), index.entries.iter().map(|entry| entry.id.to_string()).collect())
    };
    splits.iter().map(images).collect()
}

fn purposes(found: &[(Option<Purpose>, String)]) -> Vec<(&str, &str)> {
    found.iter().map(|(purpose, images)| (purpose.map_or("all", Purpose::as_str), images.as_str())).collect()
}

#[test]
fn class_folders_with_and_without_splits() {
    let flat = folder(&["daisy/1.jpg", "daisy/2.jpg", "rose/deep/er/3.PNG", ".git/4.jpg", "notes.txt"]);
    let (layout, parts, annotations) = found(&flat);
    assert_eq!((layout, purposes(&parts)), (CLASS_FOLDERS, vec![("all", ".")]));
    assert_eq!(annotations, "format=\"image_folder\"");
    let split = folder(&["Training/a/1.jpg", "Training/b/2.jpg", "valid/a/3.jpg", "test/b/4.jpg"]);
    let (layout, parts, _) = found(&split);
    assert_eq!(layout, CLASS_FOLDERS);
    assert_eq!(purposes(&parts), [("train", "Training"), ("test", "test"), ("val", "valid")]);
    // A split without class folders is left out, and this is said.
    let other = folder(&["train/a/1.jpg", "train/b/2.jpg", "val/3.jpg"]);
    let fit = recognise(other.path(), None).unwrap();
    assert_eq!(fit.parts.len(), 1);
    assert!(fit.notes[0].contains("`val` is left out: `val` has no folders with images"), "{:?}", fit.notes);
    // One that occurs twice, or none to train on.
    let twice = folder(&["train/a/1.jpg", "train/b/2.jpg", "val/a/3.jpg", "validation/a/4.jpg"]);
    assert!(fails(&twice, None).contains("`val` and `validation` are both val"));
    assert!(fails(&folder(&["val/a/1.jpg", "val/b/1.jpg"]), None).contains("nothing to train on"));
    assert!(
        fails(&folder(&["train/a/1.jpg"]), None).contains("`train` has 1 folder with images, at least two")
    );
}

#[test]
fn without_a_validation_split_every_fifth_image_of_a_class_is_held_out() {
    let mut files: Vec<String> = (0..6).map(|k| format!("a/{k}.jpg")).collect();
    files.extend((0..5).map(|k| format!("b/{k}.jpg")));
    let files: Vec<&str> = files.iter().map(String::as_str).collect();
    let splits = listed(&folder(&files));
    let names: Vec<(&str, usize)> =
        splits.iter().map(|(name, images)| (name.as_str(), images.len())).collect();
    assert_eq!(names, [("train", 9), ("val", 2)]);
    assert_eq!(splits[1].1, ["a/4.jpg", "b/4.jpg"]);
    assert!(!splits[0].1.iter().any(|image| splits[1].1.contains(image)));
    // A test split is not used in its place: a part of the training split is held out.
    let with_test: Vec<String> = files.iter().map(|file| format!("train/{file}")).collect();
    let mut with_test: Vec<&str> = with_test.iter().map(String::as_str).collect();
    with_test.push("test/a/9.jpg");
    let splits = listed(&folder(&with_test));
    assert_eq!(splits[1], ("val".into(), vec!["train/a/4.jpg".into(), "train/b/4.jpg".into()]));
    assert_eq!(splits[2], ("test".into(), vec!["test/a/9.jpg".into()]));
}

#[test]
fn of_small_classes_a_larger_part_is_held_out() {
    let fit = recognise(folder(&["a/1.jpg", "b/1.jpg"]).path(), None).unwrap();
    let of = |sizes: &[usize]| {
        let splits = hold_out(splits_of(&fit), sizes.to_vec());
        assert_eq!(splits[0].folds.as_ref().unwrap().of, splits[1].folds.as_ref().unwrap().of);
        let kept = splits.iter().map(|split| split.folds.as_ref().unwrap().keep.len()).collect::<Vec<_>>();
        let of = splits[0].folds.as_ref().unwrap().of;
        assert_eq!(kept, [of - 1, 1]);
        of
    };
    assert_eq!(of(&[100, 3, 40]), 5, "the median counts, not a rare class");
    assert_eq!((of(&[3, 3, 100]), of(&[2]), of(&[1, 1]), of(&[4, 4])), (3, 2, 2, 4));
    let split = recognise(folder(&["train/a/1.jpg", "train/b/1.jpg", "val/a/1.jpg"]).path(), None).unwrap();
    assert!(hold_out(splits_of(&split), vec![1]).iter().all(|split| split.folds.is_none()));
}

#[test]
fn coco_files_find_their_images() {
    // As COCO: a folder of annotations, and years.
    let usual = folder(&["train2017/1.jpg", "val2017/1.jpg"]);
    coco(&usual, "annotations/instances_train2017.json", &["1.jpg"], BOX);
    coco(&usual, "annotations/instances_val2017.json", &["1.jpg"], BOX);
    coco(&usual, "annotations/person_keypoints_val2017.json", &["1.jpg"], BOX);
    write(
        &usual,
        "annotations/captions_val2017.json",
        b"{\"images\": [{\"id\": 1}], \"annotations\": [{\"id\": 1}]}",
    );
    let (layout, parts, annotations) = found(&usual);
    assert_eq!((layout, purposes(&parts)), (COCO_FILES, vec![("train", "train2017"), ("val", "val2017")]));
    assert!(annotations.contains("file=\"annotations/instances_val2017.json\""), "{annotations}");
    let notes = recognise(usual.path(), None).unwrap().notes.join("\n");
    assert!(notes.contains("person_keypoints_val2017") && notes.contains("captions_val2017"), "{notes}");
    // As Roboflow: a file beside the images of every split.
    let roboflow = folder(&["train/1.jpg", "valid/2.jpg", "test/3.jpg"]);
    for (split, image) in [("train", "1.jpg"), ("valid", "2.jpg"), ("test", "3.jpg")] {
        coco(&roboflow, &format!("{split}/_annotations.coco.json"), &[image], BOX);
    }
    let (_, parts, _) = found(&roboflow);
    assert_eq!(purposes(&parts), [("test", "test"), ("train", "train"), ("val", "valid")]);
    // One file, names with folders, and with backslashes of Windows.
    let single = folder(&["pictures/a/1.jpg", "pictures/b/2.jpg"]);
    coco(&single, "result.json", &["a/1.jpg", "b\\\\2.jpg"], BOX);
    let (layout, parts, _) = found(&single);
    assert_eq!((layout, purposes(&parts)), (COCO_FILES, vec![("all", "pictures")]));
    assert_eq!(listed(&folder_of_five()).iter().map(|(_, images)| images.len()).collect::<Vec<_>>(), [4, 1]);
    // `images/train` and `images/val`, whose files have the same names.
    let images = folder(&["images/train/1.jpg", "images/val/1.jpg"]);
    coco(&images, "annotations/train.json", &["1.jpg"], BOX);
    coco(&images, "annotations/val.json", &["1.jpg"], BOX);
    let (_, parts, _) = found(&images);
    assert_eq!(purposes(&parts), [("train", "images/train"), ("val", "images/val")]);
}

fn folder_of_five() -> TempDir {
    let names = ["1.jpg", "2.jpg", "3.jpg", "4.jpg", "5.jpg"];
    let root = folder(&names);
    coco(&root, "annotations.json", &names, BOX);
    root
}

#[test]
fn coco_files_without_boxes_label_images() {
    let root = folder(&["images/1.jpg", "images/2.jpg"]);
    coco(&root, "labels.json", &["1.jpg", "2.jpg"], "");
    let fit = recognise(root.path(), None).unwrap();
    assert_eq!((fit.layout, fit.labelling), (COCO_FILES, Labelling::Classes));
    assert_eq!(fit.parts[0].annotations[0].1, "\"coco_labels\"");
}

#[test]
fn coco_files_that_do_not_fit_are_named() {
    let root = folder(&["1.jpg"]);
    coco(&root, "train.json", &["elsewhere.jpg"], BOX);
    assert!(
        fails(&root, None)
            .contains("none of the images that `train.json` lists was found, the first is `elsewhere.jpg`")
    );
    write(&root, "train.json", b"{\"images\": [");
    assert!(fails(&root, None).contains("`train.json` is damaged: line 1, column 12: the file ends"));
    write(&root, "train.json", b"[1, 2]");
    assert!(fails(&root, None).contains("`train.json` is not in COCO's layout"));
    write(&root, "train.json", b"{\"images\": [{\"id\": 1}]}");
    assert!(fails(&root, None).contains("`train.json` has no `annotations`, no `categories`"));
}

/// Masks of `values` for images of these names.
fn masks(pairs: &[(&str, &str)], values: &[u8]) -> TempDir {
    let root = tempfile::tempdir().unwrap();
    for (image, mask) in pairs {
        write(&root, image, b"");
        grey(&root, mask, values);
    }
    root
}

#[test]
fn images_and_masks_in_the_usual_places() {
    type Names = &'static [(&'static str, &'static str)];
    let cases: [(Names, Names, &str); 7] = [
        (
            &[("images/1.jpg", "masks/1.png")],
            &[("all", "images")],
            "masks=\"masks\" suffix=[\".jpg\", \".png\"]",
        ),
        (
            &[
                ("images/train/1.jpg", "annotations/train/1.png"),
                ("images/val/2.jpg", "annotations/val/2.png"),
            ],
            &[("train", "images/train"), ("val", "images/val")],
            "masks=\"annotations/val\"",
        ),
        (
            &[("train/img/1.JPG", "train/label/1.png")],
            &[("train", "train/img")],
            "suffix=[\".JPG\", \".png\"]",
        ),
        (
            &[("train/1.jpg", "train_masks/1_mask.png")],
            &[("train", "train")],
            "suffix=[\".jpg\", \"_mask.png\"]",
        ),
        (&[("train/1.png", "trainannot/1.png")], &[("train", "train")], "masks=\"trainannot\""),
        (&[("1.jpg", "1_mask.png")], &[("all", ".")], "masks=\".\" suffix=[\".jpg\", \"_mask.png\"]"),
        (
            &[("leftImg8bit/train/ulm/u_0_leftImg8bit.png", "gtFine/train/ulm/u_0_gtFine_labelIds.png")],
            &[("train", "leftImg8bit/train")],
            "suffix=[\"_leftImg8bit.png\", \"_gtFine_labelIds.png\"]",
        ),
    ];
    for (pairs, expected, annotations) in cases {
        let root = masks(pairs, &[0, 1, 2]);
        let (layout, parts, text) = found(&root);
        assert_eq!((layout, purposes(&parts)), (MASK_FOLDERS, expected.to_vec()));
        assert!(text.contains(annotations), "{text}");
    }
    // Several masks of an image: those of class ids in Cityscapes, otherwise the user must choose.
    let root = masks(
        &[("gtFine/train/ulm/u_0_gtFine_color.png", "gtFine/train/ulm/u_0_gtFine_labelIds.png")],
        &[0, 1],
    );
    write(&root, "leftImg8bit/train/ulm/u_0_leftImg8bit.png", b"");
    assert!(found(&root).2.contains("_gtFine_labelIds.png"));
    let root = masks(&[("images/1.jpg", "masks/1_a.png"), ("images/1.jpg", "masks/1_b.png")], &[0, 1]);
    assert!(fails(&root, None).contains("several masks, with names that end in `_a.png`, `_b.png`"));
    // Images without a mask, and masks that are no PNG.
    let root = masks(&[("images/1.jpg", "masks/1.png")], &[0, 1]);
    write(&root, "images/2.jpg", b"");
    assert!(fails(&root, None).contains("1 of 2 images have a mask"));
    let root = folder(&["images/train/1.jpg", "labels/train/1.txt"]);
    assert!(
        fails(&root, None)
            .contains("no masks in `labels/train`, but text files; boxes in the layout of YOLO")
    );
    let root = folder(&["JPEGImages/1.jpg", "Annotations/1.xml"]);
    assert!(
        fails(&root, None)
            .contains("no masks in `Annotations`, but XML files; boxes in the layout of Pascal VOC")
    );
    let root = folder(&["images/1.jpg", "masks/1.jpg"]);
    assert!(fails(&root, None).contains("the masks in `masks` are .jpg files, but only a PNG"));
}

#[test]
fn values_of_masks_tell_classes() {
    let keys = |values: &[u8]| {
        let root = masks(&[("images/1.jpg", "masks/1.png")], values);
        let text = found(&root).2;
        text.split_once("suffix=[\".jpg\", \".png\"] ").unwrap().1.to_string()
    };
    assert_eq!(keys(&[0, 2, 1]), "names=[\"class_0\", \"class_1\", \"class_2\"]");
    assert_eq!(keys(&[0, 1, 255]), "ignore=[255] names=[\"background\", \"foreground\"]");
    assert_eq!(keys(&[0, 255]), "classes={ 0 = 0, 255 = 1 } names=[\"background\", \"foreground\"]");
    let levels = "classes={ 0 = 0, 100 = 1, 200 = 2 } names=[\"level_0\", \"level_100\", \"level_200\"]";
    assert_eq!(keys(&[0, 100, 200]), levels);
    // Names of a file, if there are enough.
    let root = masks(&[("images/1.jpg", "masks/1.png")], &[0, 1, 2]);
    write(&root, "classes.txt", b"sky\nroad\ncar\nbird\n");
    assert!(found(&root).2.ends_with("names=[\"sky\", \"road\", \"car\", \"bird\"]"));
    write(&root, "classes.txt", b"1.jpg 0\n2.jpg 1\n3.jpg 2\n");
    assert!(found(&root).2.ends_with("names=[\"class_0\", \"class_1\", \"class_2\"]"), "a list of images");
    write(&root, "classes.txt", b"sky\nroad\n");
    assert!(found(&root).2.ends_with("names=[\"class_0\", \"class_1\", \"class_2\"]"));
    let notes = recognise(root.path(), None).unwrap().notes.join("\n");
    assert!(
        notes.contains("`classes.txt` is not used: it has 2 names, and the masks have 3 classes"),
        "{notes}"
    );
}

#[test]
fn colours_of_masks_are_classes() {
    let root = folder(&["images/1.jpg"]);
    png(&root, "masks/1.png", ::png::ColorType::Rgb, &[0, 0, 0, 255, 0, 0]);
    let expected =
        "encoding=\"colours\" colours=[[0, 0, 0], [255, 0, 0]] names=[\"colour_0_0_0\", \"colour_255_0_0\"]";
    assert!(found(&root).2.ends_with(expected), "{}", found(&root).2);
    write(&root, "class_dict.csv", b"name,r,g,b\nroad,255,0,0\nvoid,0,0,0\nsky,0,0,255\n");
    let expected = "colours=[[255, 0, 0], [0, 0, 0], [0, 0, 255]] names=[\"road\", \"void\", \"sky\"]";
    assert!(found(&root).2.ends_with(expected), "{}", found(&root).2);
    let many: Vec<u8> = (0..300u32).flat_map(|k| [(k % 256) as u8, (k / 256) as u8, 7]).collect();
    png(&root, "masks/1.png", ::png::ColorType::Rgb, &many);
    assert!(fails(&root, None).contains("more than 256 colours; they are pictures"));
}

#[test]
fn tables_of_labels() {
    let images = ["1.jpg", "2.jpg", "3.jpg"];
    let table = |text: &str| {
        let root = folder(&images);
        write(&root, "labels.csv", text.as_bytes());
        root
    };
    let root = table("id,file,label\n7,1.jpg,cat\n8,2.jpg,dog\n9,3.jpg,cat\n");
    let (layout, parts, annotations) = found(&root);
    assert_eq!((layout, purposes(&parts)), (TABLE, vec![("all", ".")]));
    assert_eq!(annotations, "format=\"csv\" file=\"labels.csv\" image=\"file\" label=\"label\"");
    let bare = table("1.jpg\tcat\n2.jpg\tdog\n3.jpg\tcat\n");
    assert!(
        found(&bare).2.ends_with("columns=[\"image\", \"label\"] delimiter=\"\\t\""),
        "{}",
        found(&bare).2
    );
    let german = table("datei;klasse\n1.jpg;Katze\n2.jpg;Hund\n3.jpg;Hund\n");
    assert!(found(&german).2.contains("label=\"klasse\" delimiter=\";\""), "{}", found(&german).2);
    for (text, words) in [
        ("file,a,b\n1.jpg,x,y\n2.jpg,x,z\n", "has no column called `label`; there are `a`, `b`"),
        ("file,label\n1.jpg,x\n2.jpg,x\n", "one label alone in column `label`"),
        ("file,label\n1.jpg,0.1\n2.jpg,0.2\n3.jpg,0.3\n", "another value in each row"),
        ("file,label\n1.jpg,x\nno.jpg,y\n", "1 of 2 that were looked for do not exist"),
        ("id,label\n1,x\n2,y\n", "without the ending of their files in column `id`"),
        (
            "file,label,split\n1.jpg,x,train\n2.jpg,y,val\n",
            "has the column `split`: write a table for each split",
        ),
        ("a,b\nx,y\n", "names no file of this folder; the first row has `x`, `y`"),
        (
            "file,label\n/home/me/1.jpg,y\n",
            "names no file of this folder; the first row has `/home/me/1.jpg`, `y`",
        ),
        ("file,label\n", "a header and no rows"),
        ("", "is empty"),
    ] {
        let error = fails(&table(text), None);
        assert!(error.contains(words), "{text}: {error}");
    }
    let split = folder(&["images/1.jpg", "images/2.jpg", "images/3.jpg"]);
    write(&split, "train.csv", b"image,label\n1.jpg,a\n2.jpg,b\n");
    write(&split, "test.csv", b"image,label\n3.jpg,a\n1.jpg,b\n");
    write(&split, "sample_submission.csv", b"id,label\n9,a\n");
    let (layout, parts, _) = found(&split);
    assert_eq!((layout, purposes(&parts)), (TABLE, vec![("test", "images"), ("train", "images")]));
}

#[test]
fn of_folders_and_a_table_one_is_used() {
    let files = ["a/1.jpg", "b/2.jpg", "b/3.jpg"];
    let root = folder(&files);
    write(&root, "list.csv", b"file,label\na/1.jpg,a\nb/2.jpg,b\nb/3.jpg,b\n");
    let fit = recognise(root.path(), None).unwrap();
    assert_eq!(fit.layout, CLASS_FOLDERS, "they agree");
    assert!(fit.notes[0].contains("not used: table of labels"), "{:?}", fit.notes);
    write(&root, "list.csv", b"file,label\na/1.jpg,cat\nb/2.jpg,cat\nb/3.jpg,dog\n");
    assert_eq!(recognise(root.path(), None).unwrap().layout, TABLE, "folders that are no classes");
    let root = folder(&["train/a/1.jpg", "train/b/2.jpg", "val/a/3.jpg"]);
    write(&root, "list.csv", b"file,label\ntrain/a/1.jpg,x\ntrain/b/2.jpg,y\nval/a/3.jpg,x\n");
    assert_eq!(recognise(root.path(), None).unwrap().layout, CLASS_FOLDERS, "folders of splits");
}

#[test]
fn two_kinds_of_labels_must_be_told_apart() {
    let root = masks(&[("images/1.jpg", "masks/1.png"), ("images/2.jpg", "masks/2.png")], &[0, 1]);
    coco(&root, "annotations/all.json", &["1.jpg", "2.jpg"], BOX);
    let error = fails(&root, None);
    for words in [
        "in more than one way",
        "COCO files: `annotations/all.json` has 2 images",
        "images and masks: 2 images",
        "--kind",
    ] {
        assert!(error.contains(words), "{error}");
    }
    assert_eq!(recognise(root.path(), Some(Labelling::Objects)).unwrap().layout, COCO_FILES);
    assert_eq!(recognise(root.path(), Some(Labelling::Pixels)).unwrap().layout, MASK_FOLDERS);
    let error = fails(&root, Some(Labelling::Classes));
    assert!(error.contains("found, but not asked for"), "{error}");
}

#[test]
fn folders_of_no_layout_say_what_they_hold_and_what_is_known() {
    let error = fails(&folder(&[]), None);
    assert!(error.contains("the folder is empty"), "{error}");
    let images = fails(&folder(&["1.jpg", "2.jpg", "3.jpg", "4.jpg", "notes.txt"]), None);
    for words in [
        "4 images (1.jpg, 2.jpg, 3.jpg and 1 more), 1 other file (notes.txt)",
        "class folders (classification): the folder has no folders with images",
        "table of labels (classification): no .csv or .tsv file",
        "COCO files (detection): no .json file in the folder, in `annotations`",
        "images and masks (segmentation): no folders such as `images` and `masks`",
        "looks like <class>/*.jpg",
        "`bench pretrain --data` needs no labels",
    ] {
        assert!(images.contains(words), "{images}");
    }
    let nested = folder(&["flowers/a/1.jpg", "flowers/b/2.jpg"]);
    let error = fails(&nested, None);
    assert!(error.contains("flowers` has the layout class folders: give that folder"), "{error}");
    let root = folder(&["a.txt"]);
    let file: PathBuf = root.path().join("a.txt");
    assert!(recognise(&file, None).unwrap_err().to_string().contains("is a file"));
    assert!(recognise(&root.path().join("b"), None).unwrap_err().to_string().contains("no such folder"));
}
