//! Pairs of images and masks, and manifests that cannot be.

use super::*;
use crate::data::{Annotations, Formats};
use std::path::Path;

fn touch(root: &Path, files: &[&str]) {
    for file in files {
        let path = root.join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, b"").unwrap();
    }
}

fn masks(text: &str) -> PngMasks {
    let text = format!("masks = \"gt\"\nsuffix = [\"_img.png\", \"_ids.png\"]\n{text}");
    PngMasks { names: ["road", "sky"].map(String::from).to_vec(), ..toml::from_str(&text).unwrap() }
}

fn read(root: &Path, format: &PngMasks) -> Result<Index, String> {
    let split = SplitSource { root, images: Path::new("im/val"), class_names: None };
    format.index(&split).map_err(|e| e.to_string())
}

impl PngMasks {
    /// The label encoding by the names of the split.
    fn encoded(&self) -> Result<(LabelEncoding, Vec<u32>), String> {
        self.label_encoding(&self.names)
    }
}

fn pairs(index: &Index) -> Vec<String> {
    let pair = |entry: &crate::data::Entry| match &entry.annotation {
        Annotation::Raster(mask) => {
            format!("{} {}", entry.id, mask.path.file_name().unwrap().to_str().unwrap())
        }
        other => panic!("{other:?}"),
    };
    index.entries.iter().map(pair).collect()
}

#[test]
fn images_meet_their_masks_in_a_tree_of_the_same_shape() {
    let root = tempfile::tempdir().unwrap();
    touch(root.path(), &["im/val/b/2_img.png", "im/val/a/1_img.png", "im/val/a/1_depth.png"]);
    touch(root.path(), &["gt/a/1_ids.png", "gt/b/2_ids.png", "gt/b/3_ids.png"]);
    let index = read(root.path(), &masks("")).unwrap();
    assert_eq!(pairs(&index), ["im/val/a/1_img.png 1_ids.png", "im/val/b/2_img.png 2_ids.png"]);
    assert_eq!(index.classes.unwrap(), ["road", "sky"]);
    std::fs::remove_file(root.path().join("gt/b/2_ids.png")).unwrap();
    let error = read(root.path(), &masks("")).unwrap_err();
    assert!(error.contains("gt/b/2_ids.png") && error.contains("no mask for image"), "{error}");
}

#[test]
fn a_list_chooses_images() {
    let root = tempfile::tempdir().unwrap();
    touch(root.path(), &["im/val/1_img.png", "im/val/2_img.png", "gt/2_ids.png"]);
    std::fs::write(root.path().join("val.txt"), "2\n\n").unwrap();
    let listed = masks("list = \"val.txt\"");
    assert_eq!(pairs(&read(root.path(), &listed).unwrap()), ["im/val/2_img.png 2_ids.png"]);
    std::fs::write(root.path().join("val.txt"), "2\n4\n").unwrap();
    let error = read(root.path(), &listed).unwrap_err();
    assert!(error.contains("val.txt") && error.contains("4_img.png"), "{error}");
    for (list, words) in [
        ("2\n./2\n", "names `./2` twice"),
        ("2_img.jpg\n", "there is `2_img.png`, with another ending"),
        (
            "im/val/2_img.png gt/2_ids.png\n",
            "a line of this list is the name of one image without its ending",
        ),
    ] {
        std::fs::write(root.path().join("val.txt"), list).unwrap();
        let error = read(root.path(), &listed).unwrap_err();
        assert!(error.contains(words), "{list}: {error}");
    }
    for list in ["2_img.png\n", "2\r"] {
        std::fs::write(root.path().join("val.txt"), list).unwrap();
        assert_eq!(pairs(&read(root.path(), &listed).unwrap()).len(), 1, "{list}");
    }
    assert!(read(root.path(), &masks("list = \"test.txt\"")).unwrap_err().contains("test.txt"));
}

#[test]
fn ids_of_labels_follow_the_manifest() {
    for (text, ids) in [
        ("", [0, 1]),
        ("reduce_zero_label = true", [1, 2]),
        ("ignore = [0, 255]\nclasses = { 7 = 1, 11 = 0, 12 = 1 }", [11, 7]),
    ] {
        assert_eq!(masks(text).encoded().unwrap().1, ids, "{text}");
    }
    let table = |pairs: &[(u32, u16)]| LabelEncoding::Ids(LabelTable::new(pairs.iter().copied()).unwrap());
    let ignoring = masks("reduce_zero_label = true\nignore = [255]").encoded().unwrap().0;
    assert_eq!(ignoring, table(&[(0, IGNORE), (1, 0), (2, 1), (255, IGNORE)]));
    let many_to_one = masks("ignore = [0]\nclasses = { 7 = 1, 11 = 0, 12 = 1 }").encoded().unwrap().0;
    assert_eq!(many_to_one, table(&[(0, IGNORE), (7, 1), (11, 0), (12, 1)]));
    let colours = "encoding = \"colours\"\ncolours = [[1, 2, 3], [4, 5, 6]]\nignore_colours = [[0, 0, 0]]";
    let expected = [([0, 0, 0], IGNORE), ([1, 2, 3], 0), ([4, 5, 6], 1)];
    assert_eq!(
        masks(colours).encoded().unwrap(),
        (LabelEncoding::Colours(BTreeMap::from(expected)), vec![0, 1])
    );
    let full = "encoding = \"ade20k\"\naliases = { street = \"road\" }";
    let expected = [("road", 0), ("sky", 1), ("street", 0)].map(|(name, label)| (name.to_string(), label));
    assert_eq!(masks(full).encoded().unwrap(), (LabelEncoding::Ade20k(BTreeMap::from(expected)), vec![1, 2]));
}

#[test]
fn manifests_that_cannot_be_are_refused() {
    for (text, words) in [
        ("classes = { x = 0, 1 = 1 }", "`x` is not an id"),
        ("classes = { 3 = 2, 4 = 0, 5 = 1 }", "id 3 has label 2, but there are 2 classes"),
        ("classes = { 3 = 1 }", "no id has label 0 (`road`)"),
        ("classes = { 3 = 0, 4 = 1 }\nreduce_zero_label = true", "not both"),
        ("ignore = [1]", "id 1 is both ignored and a class"),
        ("ignore = [65536]", "65536"),
        ("encoding = \"colours\"\ncolours = [[1, 2, 3]]", "1 colours for 2 classes"),
        ("encoding = \"colours\"\ncolours = [[1, 2, 3], [1, 2, 3]]", "twice"),
        ("encoding = \"ade20k\"\naliases = { a = \"b\" }", "`b`, which is not a class"),
        ("encoding = \"ade20k\"\nignore = [1]", "`ignore` does not belong to encoding Ade20k"),
        ("colours = [[1, 2, 3], [4, 5, 6]]", "`colours` does not belong to encoding Ids"),
    ] {
        let error = masks(text).encoded().unwrap_err();
        assert!(error.contains(words), "{text}: {error}");
    }
    let nameless = PngMasks { names: vec![], ..masks("") };
    assert!(nameless.encoded().unwrap_err().contains("class names"));
    let manifest =
        "format = \"png_masks\"\nmasks = \"gt\"\nsuffix = [\".jpg\", \".png\"]\nreduce_zero_labels = true";
    let annotations: Annotations = toml::from_str(manifest).unwrap();
    let key = "split.val.annotations";
    let error = Formats::builtin().parse(&annotations, "a/dataset.toml", key).err().unwrap().to_string();
    assert!(error.starts_with("a/dataset.toml: `split.val.annotations.reduce_zero_labels`"), "{error}");
}
