//! What every folder of `datasets/` keeps to, by its fixture: each split has its images and classes, all images decode,
//! and tasks name splits that exist.

use crate::program::{fixture, repository};
use bench::config::Library;
use bench::data::{Annotation, Dataset, Entry, Formats, IGNORE, Image, ImageRef, Split};
use std::collections::BTreeSet;
use std::path::Path;

/// Data set, split, images, classes that have images, first and last id, first and last label.
type Row = (&'static str, &'static str, usize, usize, [&'static str; 2], [Option<u32>; 2]);

#[rustfmt::skip] // a table
const FIXTURES: [Row; 50] = [
    ("ade20k", "full_train", 2, 3, ["ADE20K_2021_17_01/images/ADE/training/urban/street/ADE_train_00000001.jpg", "ADE20K_2021_17_01/images/ADE/training/urban/street/ADE_train_00000002.jpg"], [None, None]),
    ("ade20k", "full_val", 2, 4, ["ADE20K_2021_17_01/images/ADE/validation/urban/street/ADE_val_00000001.jpg", "ADE20K_2021_17_01/images/ADE/validation/urban/street/ADE_val_00000002.jpg"], [None, None]),
    ("ade20k", "train", 4, 5, ["images/training/ADE_train_00000001.jpg", "images/training/ADE_train_00000004.jpg"], [None, None]),
    ("ade20k", "val", 4, 5, ["images/validation/ADE_val_00000001.jpg", "images/validation/ADE_val_00000004.jpg"], [None, None]),
    ("camvid", "select", 2, 5, ["images/train/0006R0_f00930.jpg", "images/train/0006R0_f00960.jpg"], [None, None]),
    ("camvid", "train", 6, 5, ["images/train/0001TP_006690.jpg", "images/train/0016E5_00420.jpg"], [None, None]),
    ("camvid", "tune", 4, 4, ["images/train/0001TP_006690.jpg", "images/train/0016E5_00420.jpg"], [None, None]),
    ("camvid", "val", 4, 5, ["images/val/0016E5_07959.jpg", "images/val/0016E5_07965.jpg"], [None, None]),
    ("cityscapes", "train", 4, 5, ["leftImg8bit/train/ulm/ulm_000000_000019_leftImg8bit.png", "leftImg8bit/train/ulm/ulm_000003_000019_leftImg8bit.png"], [None, None]),
    ("cityscapes", "val", 4, 5, ["leftImg8bit/val/bonn/bonn_000000_000019_leftImg8bit.png", "leftImg8bit/val/bonn/bonn_000003_000019_leftImg8bit.png"], [None, None]),
    ("coco", "train", 5, 4, ["train2017/000000000001.jpg", "train2017/000000000005.jpg"], [None, None]),
    ("coco", "val", 6, 4, ["val2017/000000000011.jpg", "val2017/000000000016.jpg"], [None, None]),
    ("coco_person", "train", 6, 1, ["train/000000000001.jpg", "train/000000000006.jpg"], [None, None]),
    ("coco_person", "tune", 6, 1, ["train/000000000001.jpg", "train/000000000006.jpg"], [None, None]),
    ("coco_person", "val", 6, 1, ["val/000000000011.jpg", "val/000000000016.jpg"], [None, None]),
    ("fashion_mnist", "test", 20, 10, ["t10k-images-idx3-ubyte.gz#0", "t10k-images-idx3-ubyte.gz#19"], [Some(0), Some(9)]),
    ("fashion_mnist", "train", 20, 10, ["train-images-idx3-ubyte.gz#0", "train-images-idx3-ubyte.gz#19"], [Some(0), Some(9)]),
    ("imagenet", "train", 12, 3, ["train/n01440764/n01440764_0.JPEG", "train/n01484850/n01484850_3.JPEG"], [Some(0), Some(2)]),
    ("imagenet", "val", 12, 3, ["val/n01440764/ILSVRC2012_val_00000000.JPEG", "val/n01484850/ILSVRC2012_val_00000003.JPEG"], [Some(0), Some(2)]),
    ("inat2017", "train", 12, 3, ["train_val_images/Plantae/0/train00.jpg", "train_val_images/Plantae/2/train03.jpg"], [Some(0), Some(2)]),
    ("inat2017", "val", 12, 3, ["train_val_images/Plantae/0/val00.jpg", "train_val_images/Plantae/2/val03.jpg"], [Some(0), Some(2)]),
    ("inat2018", "train", 12, 3, ["train_val2018/Plantae/0/train00.jpg", "train_val2018/Plantae/2/train03.jpg"], [Some(0), Some(2)]),
    ("inat2018", "val", 12, 3, ["train_val2018/Plantae/0/val00.jpg", "train_val2018/Plantae/2/val03.jpg"], [Some(0), Some(2)]),
    ("inat2019", "train", 12, 3, ["train_val2019/Plantae/0/train00.jpg", "train_val2019/Plantae/2/train03.jpg"], [Some(0), Some(2)]),
    ("inat2019", "val", 12, 3, ["train_val2019/Plantae/0/val00.jpg", "train_val2019/Plantae/2/val03.jpg"], [Some(0), Some(2)]),
    ("lvis", "train", 5, 4, ["train2017/000000000001.jpg", "train2017/000000000005.jpg"], [None, None]),
    ("lvis", "val", 6, 4, ["val2017/000000000011.jpg", "val2017/000000000016.jpg"], [None, None]),
    ("places205", "train", 12, 3, ["data/vision/torralba/deeplearning/images256/a/abbey/train_00000001.jpg", "data/vision/torralba/deeplearning/images256/a/alley/train_00000004.jpg"], [Some(0), Some(2)]),
    ("places205", "val", 12, 3, ["data/vision/torralba/deeplearning/images256/a/abbey/val_00000001.jpg", "data/vision/torralba/deeplearning/images256/a/alley/val_00000004.jpg"], [Some(0), Some(2)]),
    ("places365", "train", 12, 3, ["data_256/a/airfield/00000001.jpg", "data_256/a/airport_terminal/00000004.jpg"], [Some(0), Some(2)]),
    ("places365", "val", 12, 3, ["val_256/Places365_val_00000001.jpg", "val_256/Places365_val_00000012.jpg"], [Some(0), Some(2)]),
    ("shapes", "pretrain", 5, 0, ["pretrain/images/00000001.png", "pretrain/images/00000005.png"], [None, None]),
    ("shapes", "select", 10, 10, ["classification/select/arrow/30000001.png", "classification/select/triangle/30000010.png"], [Some(0), Some(9)]),
    ("shapes", "select_instances", 11, 10, ["select/images/30000001.png", "select/images/30000011.png"], [None, None]),
    ("shapes", "semantic_select", 11, 11, ["select/images/30000001.png", "select/images/30000011.png"], [None, None]),
    ("shapes", "semantic_train", 11, 11, ["train/images/10000001.png", "train/images/10000011.png"], [None, None]),
    ("shapes", "semantic_val", 11, 11, ["val/images/20000001.png", "val/images/20000011.png"], [None, None]),
    ("shapes", "train", 10, 10, ["classification/train/arrow/10000001.png", "classification/train/triangle/10000010.png"], [Some(0), Some(9)]),
    ("shapes", "train_100", 10, 10, ["train/images/10000001.png", "train/images/10000010.png"], [None, None]),
    ("shapes", "train_300", 10, 10, ["train/images/10000001.png", "train/images/10000010.png"], [None, None]),
    ("shapes", "train_instances", 10, 10, ["train/images/10000001.png", "train/images/10000010.png"], [None, None]),
    ("shapes", "val", 10, 10, ["classification/val/arrow/20000001.png", "classification/val/triangle/20000010.png"], [Some(0), Some(9)]),
    ("shapes", "val_instances", 11, 10, ["val/images/20000001.png", "val/images/20000011.png"], [None, None]),
    ("tiny_imagenet", "train", 12, 3, ["train/n01443537/images/n01443537_0.JPEG", "train/n01641577/images/n01641577_3.JPEG"], [Some(0), Some(2)]),
    ("tiny_imagenet", "val", 12, 3, ["val/images/val_0.JPEG", "val/images/val_11.JPEG"], [Some(0), Some(2)]),
    ("tiny_imagenet_20", "train", 12, 3, ["train/n01443537/n01443537_0.JPEG", "train/n02085620/n02085620_3.JPEG"], [Some(0), Some(2)]),
    ("tiny_imagenet_20", "train_50", 12, 3, ["train/n01443537/n01443537_0.JPEG", "train/n02085620/n02085620_3.JPEG"], [Some(0), Some(2)]),
    ("tiny_imagenet_20", "val", 12, 3, ["val/n01443537/val_0.JPEG", "val/n02085620/val_3.JPEG"], [Some(0), Some(2)]),
    ("voc2012", "train", 4, 4, ["JPEGImages/2007_000032.jpg", "JPEGImages/2007_000035.jpg"], [None, None]),
    ("voc2012", "val", 4, 4, ["JPEGImages/2007_001032.jpg", "JPEGImages/2007_001035.jpg"], [None, None]),
];

fn library() -> Library {
    Library::new(&[]).unwrap()
}

fn label(annotation: &Annotation) -> Option<u32> {
    match annotation {
        Annotation::Label(label) => Some(*label),
        _ => None,
    }
}

/// The label of an image, or those of its objects.
fn labels_of(annotation: &Annotation) -> Vec<u32> {
    match annotation {
        Annotation::Objects(image) => image.objects.iter().map(|object| object.label).collect(),
        Annotation::Raster(mask) => {
            let labels: BTreeSet<u16> = mask.read().unwrap().labels.into_iter().collect();
            labels.into_iter().filter(|label| *label != IGNORE).map(u32::from).collect()
        }
        _ => label(annotation).into_iter().collect(),
    }
}

/// Whether the split leaves out more images at its beginning than a fixture has.
fn begins_late(split: &Split) -> bool {
    split.skip_per_class.is_some() || split.entries.is_some_and(|[first, _]| first > 0)
}

#[test]
fn every_split_of_a_fixture_is_indexed_and_decodes() {
    let mut listed = FIXTURES.iter();
    for name in library().list("datasets") {
        let dataset = Dataset::load(&library(), &name, &Formats::builtin()).unwrap();
        let root = fixture(&name);
        let root = Path::new(&root);
        for (split, keys) in &dataset.splits {
            let place = format!("{name}, {split}");
            if begins_late(keys) {
                let error = dataset.index(root, split).unwrap_err().to_string();
                let none = ["its keys leave no images", "keeps none of its"]; // of so few images
                assert!(none.iter().any(|words| error.contains(words)), "{place}: {error}");
                continue;
            }
            let (a, b, images, classes, ids, labels) = *listed.next().expect(&place);
            assert_eq!((name.as_str(), split.as_str()), (a, b), "the table of this test");
            let index = dataset.index(root, split).unwrap();
            let entries = &index.entries;
            assert_eq!(entries.len(), images, "{place}");
            let (first, last) = (entries.first().unwrap(), entries.last().unwrap());
            assert_eq!([first.id.as_str(), last.id.as_str()], ids, "{place}");
            assert_eq!([label(&first.annotation), label(&last.annotation)], labels, "{place}");
            let unique: BTreeSet<_> = entries.iter().map(|entry| &entry.id).collect();
            assert_eq!(unique.len(), images, "{place}: ids are there twice");
            let found: BTreeSet<u32> =
                entries.iter().flat_map(|entry| labels_of(&entry.annotation)).collect();
            assert_eq!(found.len(), classes, "{place}");
            // Objects and regions of every class are too many for a fixture.
            let all = dataset.info(&index).classes.len();
            assert!(if index.categories.is_empty() { all == classes } else { all >= classes }, "{place}");
            let fitting = |entry: &Entry, size| match &entry.annotation {
                Annotation::Objects(image) => image.fits(size),
                _ => Ok(()),
            };
            for entry in entries {
                let image = match &entry.image {
                    ImageRef::File(path) => {
                        assert_eq!(*path, root.join(entry.id.as_str()));
                        Image::open(path, 3).unwrap()
                    }
                    ImageRef::Upright(path) => panic!("{} is turned", path.display()),
                    ImageRef::Memory(image) => image.with_channels(3).unwrap(),
                };
                assert_eq!(fitting(entry, image.size()), Ok(()), "{place}: {}", entry.id);
                assert!(image.height >= 24 && image.width >= 24, "{place}: {:?}", image.size());
                assert_ne!(image.data.iter().min(), image.data.iter().max(), "{}: one colour", entry.id);
            }
        }
    }
    assert!(listed.next().is_none(), "the table of this test has more rows than there are splits");
}

#[test]
fn manifests_say_where_data_comes_from_and_counts() {
    for name in library().list("datasets") {
        let dataset = Dataset::load(&library(), &name, &Formats::builtin()).unwrap();
        let missing = dataset.root(None, Some(Path::new("/nowhere"))).unwrap_err().to_string();
        let get = dataset.get.as_deref().unwrap_or_else(|| panic!("{name} has no `get`"));
        assert!(missing.contains(&format!("/nowhere/{name}")) && missing.contains(get), "{missing}");
        // The fixture is the layout without its size: nothing but counts is wrong with it.
        for report in dataset.check(Path::new(&fixture(&name)), true) {
            let split = &dataset.splits[&report.split];
            let count = split.count;
            if begins_late(split) {
                continue;
            }
            let size_varies = name == "shapes"; // its size is that of the request to make it
            assert_eq!(count.is_none(), size_varies, "{name}, {}", report.split);
            let expected: Vec<String> = count
                .map(|count| format!("{} images, the manifest says {count}", report.images))
                .into_iter()
                .collect();
            assert_eq!(report.problems, expected, "{name}, {}", report.split);
        }
    }
}

#[test]
fn splits_of_tasks_exist() {
    let mut tasks = 0;
    for name in library().list("tasks") {
        let path = repository().join("tasks").join(&name).join("task.toml");
        let task: toml::Table = toml::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let dataset =
            Dataset::load(&library(), task["dataset"].as_str().unwrap(), &Formats::builtin()).unwrap();
        for (role, split) in task["splits"].as_table().unwrap() {
            let split = split.as_str().unwrap();
            assert!(dataset.splits.contains_key(split), "{name}: {role} = {split}");
        }
        tasks += 1;
    }
    assert!(tasks >= 10, "{tasks} tasks");
}
