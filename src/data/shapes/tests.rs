//! The set on disk, read back as a user would: bytes, COCO files through hotcoco, id maps, class folders.

use super::*;
use crate::data::Image;
use hotcoco::{COCO, mask};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The specification of `datasets/shapes/fixture`.
const FIXTURE: ShapesSpec = ShapesSpec { size: 24, pretrain: 5, train: 10, select: 10, val: 10, seed: 0 };

const SMALL: ShapesSpec = ShapesSpec { size: 32, pretrain: 12, train: 20, select: 10, val: 10, seed: 5 };

fn made(spec: &ShapesSpec) -> (tempfile::TempDir, Summary) {
    let folder = tempfile::tempdir().unwrap();
    let summary = make(spec, folder.path(), &mut |_, _| ()).unwrap();
    (folder, summary)
}

/// Every file below `root` by its relative path.
fn files(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let entries = walkdir::WalkDir::new(root).into_iter().map(|entry| entry.unwrap());
    let content = |path: &Path| (path.strip_prefix(root).unwrap().into(), std::fs::read(path).unwrap());
    entries.filter(|e| e.file_type().is_file()).map(|e| content(e.path())).collect()
}

/// Fails with the name of a file rather than with its bytes.
fn assert_same(a: &Path, b: &Path) {
    let (a, b) = (files(a), files(b));
    assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>());
    for (path, bytes) in &a {
        assert!(bytes == &b[path], "{} differs", path.display());
    }
}

#[test]
fn bytes_depend_on_the_specification_alone() {
    let (base, summary) = made(&SMALL);
    for threads in [1, 3] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let (other, same) = pool.install(|| made(&SMALL));
        assert_same(base.path(), other.path());
        assert_eq!(summary.content, same.content);
    }
    let (other, different) = made(&ShapesSpec { seed: 6, ..SMALL });
    assert_ne!(summary.content, different.content);
    let (a, b) = (files(base.path()), files(other.path()));
    let images = |path: &&PathBuf| path.parent().unwrap().ends_with("images");
    assert_eq!(a.keys().filter(images).count(), summary.images);
    assert!(a.keys().filter(images).all(|path| a[path] != b[path]));
}

#[test]
fn a_split_does_not_depend_on_the_size_of_another() {
    let (small, _) = made(&SMALL);
    let (large, _) = made(&ShapesSpec { pretrain: 15, val: 20, ..SMALL });
    let (small, large) = (files(small.path()), files(large.path()));
    let train = small.keys().filter(|path| path.starts_with("train") || path.starts_with("semantic/train"));
    assert_eq!(train.clone().count(), 2 * SMALL.train_images());
    assert!(train.into_iter().all(|path| small[path] == large[path]));
}

#[test]
fn progress_counts_every_image_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut calls = Vec::new();
    let summary = make(&SMALL, folder.path(), &mut |done, total| calls.push((done, total))).unwrap();
    assert_eq!(summary.images, 12 + 21 + 11 + 11);
    assert_eq!(calls, [(0, 55), (12, 55), (33, 55), (44, 55), (55, 55)]);
}

#[test]
fn annotations_id_maps_and_class_folders_agree() {
    let spec = ShapesSpec { size: 40, pretrain: 1, train: 200, select: 50, val: 50, seed: 2 };
    let (folder, _) = made(&spec);
    let mut ids = BTreeSet::new();
    for (split, count, crowds) in [("train", 200, 4), ("val", 50, 1)] {
        let coco = COCO::new(&folder.path().join(format!("annotations/instances_{split}.json"))).unwrap();
        assert_eq!(coco.load_warnings(), [] as [String; 0]);
        let categories = coco.dataset.categories.iter().map(|c| (c.name.as_str(), c.id as u32));
        assert_eq!(categories.collect::<Vec<_>>(), CLASSES.into_iter().zip(CATEGORY_IDS).collect::<Vec<_>>());

        let folders = class_folders(folder.path(), split);
        let mut per_class = BTreeMap::new();
        folders.values().for_each(|class| *per_class.entry(class.clone()).or_insert(0) += 1);
        assert_eq!(per_class, CLASSES.map(|class| (class.to_owned(), count / 10)).into());

        let (mut empty, mut polygons, mut holes) = (0, 0, 0);
        for image in &coco.dataset.images {
            assert!(ids.insert(image.id), "image id {} twice", image.id);
            let pixels = Image::open(&folder.path().join(split).join("images").join(&image.file_name), 3);
            assert_eq!(pixels.unwrap().size(), (40, 40));
            let found = check_image(&coco, image, folder.path(), split);
            assert_eq!(found.class, folders.get(&image.file_name).cloned(), "{}", image.file_name);
            empty += usize::from(found.class.is_none());
            polygons += found.polygons;
            holes += found.holes;
        }
        assert_eq!(coco.dataset.images.len(), count + empty);
        assert_eq!(empty, count / 50);
        assert_eq!(coco.dataset.annotations.iter().filter(|a| a.iscrowd).count(), crowds);
        assert!(polygons > 2 * count && holes > count / 10, "{polygons} polygons, {holes} with holes");
    }
}

/// File name -> class of everything below `classification/<split>`.
fn class_folders(root: &Path, split: &str) -> BTreeMap<String, String> {
    let names = |path: &Path| path.iter().map(|part| part.to_str().unwrap().to_owned()).collect::<Vec<_>>();
    let below = root.join("classification").join(split);
    let parts = files(&below).into_keys().map(|path| names(&path));
    parts.map(|parts| (parts[1].clone(), parts[0].clone())).collect()
}

struct Found {
    /// Class of the object with the most visible pixels.
    class: Option<String>,
    polygons: usize,
    holes: usize,
}

/// Compares the annotations of one image with each other and with its id map.
fn check_image(coco: &COCO, image: &hotcoco::Image, root: &Path, split: &str) -> Found {
    let size = image.width as usize;
    let mut painted = vec![0u8; size * size];
    let mut largest: Option<(u64, String)> = None;
    let (mut polygons, mut holes) = (0, 0);
    for id in coco.get_ann_ids_for_img(image.id) {
        let annotation = coco.get_ann(*id).unwrap();
        let rle = coco.ann_to_rle(annotation).unwrap();
        let area = mask::area(&rle);
        assert!(area > 0, "annotation {id} is empty");
        assert_eq!(annotation.area, Some(area as f64), "area of annotation {id}");
        assert_eq!(annotation.bbox, Some(mask::to_bbox(&rle)), "box of annotation {id}");
        let class = coco.cat_name(annotation.category_id);
        let label = CLASSES.iter().position(|c| *c == class).unwrap() as u8;
        for (k, inside) in mask::decode(&rle).into_iter().enumerate() {
            if inside == 1 {
                let at = k % size * size + k / size; // run lengths are column-major
                assert_eq!(painted[at], 0, "annotation {id} overlaps another");
                painted[at] = label + 1;
            }
        }
        match &annotation.segmentation {
            Some(hotcoco::Segmentation::Polygon(_)) => polygons += 1,
            _ if annotation.iscrowd => continue,
            _ => holes += 1,
        }
        if largest.as_ref().is_none_or(|(most, _)| area > *most) {
            largest = Some((area, class));
        }
    }
    let ids = Image::open(&root.join("semantic").join(split).join(&image.file_name), 1).unwrap();
    assert!(ids.data == painted, "id map of {} differs from its annotations", image.file_name);
    Found { class: largest.map(|(_, class)| class), polygons, holes }
}

#[test]
fn colour_does_not_tell_the_class() {
    let spec = ShapesSpec { pretrain: 0, train: 500, select: 0, val: 500, ..ShapesSpec::default() };
    let (folder, _) = made(&spec);
    let (train, val) = (mean_colours(folder.path(), "train"), mean_colours(folder.path(), "val"));
    // 10 % is chance, and 1.3 % the standard deviation of the accuracy on 500 images.
    let accuracy = nearest_centroid(&train, &val);
    assert!(accuracy < 0.15, "mean colour predicts {accuracy} of the classes");
    // The same classifier finds a tint of 10 % of the range times the label.
    let tinted = |set: &[(usize, [f64; 3])]| -> Vec<_> {
        set.iter().map(|(label, [r, g, b])| (*label, [r + 25.5 * *label as f64, *g, *b])).collect()
    };
    let accuracy = nearest_centroid(&tinted(&train), &tinted(&val));
    assert!(accuracy > 0.2, "a tint is found for {accuracy} of the classes");
}

/// Label and mean red, green, blue of the main object of every image of a split.
fn mean_colours(root: &Path, split: &str) -> Vec<(usize, [f64; 3])> {
    let coco = COCO::new(&root.join(format!("annotations/instances_{split}.json"))).unwrap();
    let mut colours = Vec::new();
    for image in &coco.dataset.images {
        let annotations = coco.get_ann_ids_for_img(image.id).iter().map(|id| coco.get_ann(*id).unwrap());
        let ordinary = annotations.filter(|annotation| !annotation.iscrowd);
        let Some(main) = ordinary.max_by(|a, b| a.area.partial_cmp(&b.area).unwrap()) else { continue };
        let pixels = Image::open(&root.join(split).join("images").join(&image.file_name), 3).unwrap();
        let (size, mut sums) = (pixels.width, [0.0; 3]);
        for (k, inside) in coco.ann_to_mask(main).unwrap().into_iter().enumerate() {
            let at = k % size * size + k / size;
            (0..3).for_each(|c| sums[c] += f64::from(inside) * f64::from(pixels.data[at * 3 + c]));
        }
        let label = CATEGORY_IDS.iter().position(|id| u64::from(*id) == main.category_id).unwrap();
        colours.push((label, sums.map(|sum| sum / main.area.unwrap())));
    }
    colours
}

/// Accuracy on `val` of the nearest mean of a class of `train`.
fn nearest_centroid(train: &[(usize, [f64; 3])], val: &[(usize, [f64; 3])]) -> f64 {
    let centroid = |label| {
        let members: Vec<_> = train.iter().filter(|(l, _)| *l == label).collect();
        [0, 1, 2].map(|c| members.iter().map(|(_, colour)| colour[c]).sum::<f64>() / members.len() as f64)
    };
    let centroids: Vec<[f64; 3]> = (0..CLASSES.len()).map(centroid).collect();
    let nearest = |colour: &[f64; 3]| {
        let distance = |label: usize| (0..3).map(|c| (centroids[label][c] - colour[c]).powi(2)).sum::<f64>();
        (0..CLASSES.len()).min_by(|a, b| distance(*a).total_cmp(&distance(*b))).unwrap()
    };
    val.iter().filter(|(label, colour)| nearest(colour) == *label).count() as f64 / val.len() as f64
}

#[test]
fn a_finished_set_is_found_and_never_touched() {
    let (folder, first) = made(&SMALL);
    let before = files(folder.path());
    let again = make(&SMALL, folder.path(), &mut |_, _| panic!("nothing is to be made")).unwrap();
    assert_eq!(again, Summary { already_there: true, ..first });

    let error = make(&ShapesSpec { seed: 6, ..SMALL }, folder.path(), &mut |_, _| ()).unwrap_err();
    assert!(matches!(error, ShapesError::Other { .. }), "{error}");
    let message = error.to_string();
    assert!(message.contains("seed: 5") && message.contains("wanted: generator 1"), "{message}");
    assert!(before == files(folder.path()));
}

#[test]
fn an_interrupted_set_is_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    let left = folder.path().join(".unfinished/train/images");
    std::fs::create_dir_all(&left).unwrap();
    std::fs::write(left.join("00000001.png"), "half").unwrap();
    make(&SMALL, folder.path(), &mut |_, _| ()).unwrap();
    assert!(files(folder.path()) == files(made(&SMALL).0.path()));
    assert!(!folder.path().join(".unfinished").exists());
}

#[test]
fn a_folder_of_something_else_is_an_error() {
    let (folder, _) = made(&SMALL);
    std::fs::remove_file(folder.path().join("shapes.json")).unwrap();
    let before = files(folder.path());
    let error = make(&SMALL, folder.path(), &mut |_, _| ()).unwrap_err();
    assert!(matches!(error, ShapesError::Unfinished(_)), "{error}");
    let message = error.to_string();
    assert!(message.contains("not a finished") && message.contains("Delete the folder"), "{message}");
    assert!(message.contains(folder.path().to_str().unwrap()), "{message}");
    assert!(before == files(folder.path()));
}

#[test]
fn impossible_specifications_and_places_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |spec: &ShapesSpec, root: &Path| make(spec, root, &mut |_, _| ()).unwrap_err().to_string();
    for (spec, part) in [
        (ShapesSpec { size: 8, ..SMALL }, "`size` is 8, expected 24 to 1024"),
        (ShapesSpec { train: 15, ..SMALL }, "`train` is 15, expected a positive multiple of 10"),
        (ShapesSpec { val: 0, ..SMALL }, "`val` is 0"),
        (ShapesSpec { select: 15, ..SMALL }, "`select` is 15, expected a multiple of 10"),
        (ShapesSpec { pretrain: 10_000_001, ..SMALL }, "more than 10000000 images"),
    ] {
        let message = refused(&spec, &folder.path().join("set"));
        assert!(message.contains(part), "{message}");
    }
    assert!(files(folder.path()).is_empty());
    let file = folder.path().join("file");
    std::fs::write(&file, "text").unwrap();
    assert!(refused(&SMALL, &file).contains(file.to_str().unwrap()));
    std::fs::write(folder.path().join("shapes.json"), "{").unwrap();
    assert!(refused(&SMALL, folder.path()).contains("shapes.json"));
}

#[test]
fn the_fixture_is_what_make_gives() {
    let fixture = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../datasets/shapes/fixture"));
    let (folder, _) = made(&FIXTURE);
    assert_same(fixture, folder.path());
    let bytes: usize = files(fixture).values().map(Vec::len).sum();
    assert!(bytes < 150_000, "the fixture holds {bytes} bytes");
}
