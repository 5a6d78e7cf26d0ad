//! Tests of manifests: names, places, class lists, few-label splits, fingerprints.

use super::*;
use crate::data::ImageRef;

const MANIFEST: &str = r#"
name = "pets"
version = "1"
license = "none"
classes = "classes.txt"
get = "ask the owner"
[split.train]
images = "train"
annotations = { format = "image_folder" }
[split.few]
images = "train"
per_class = 1
annotations = { format = "image_folder" }
[split.list]
images = "train"
annotations = { format = "csv", file = "list.csv", image = "image", label = "label" }
[split.all]
images = "train"
per_class = 2
"#;

/// A library with the data set `pets`, and its data.
fn pets(manifest: &str, classes: &str) -> (tempfile::TempDir, Result<Dataset, DataError>) {
    let folder = tempfile::tempdir().unwrap();
    let write = |file: &str, text: &str| {
        let path = folder.path().join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    write("datasets/pets/dataset.toml", manifest);
    write("datasets/pets/classes.txt", classes);
    for image in ["cat/1.png", "cat/2.png", "dog/3.png"] {
        write(&format!("pets/train/{image}"), "");
    }
    let library = Library::new(&[folder.path().to_path_buf()]).unwrap();
    let dataset = Dataset::load(&library, "pets", &Formats::builtin());
    (folder, dataset)
}

fn lines(index: &Index) -> Vec<String> {
    index.entries.iter().map(|e| format!("{} {:?}", e.id, e.annotation)).collect()
}

#[test]
fn an_unknown_name_gets_a_suggestion() {
    let (folder, _) = pets(MANIFEST, "cat\ndog\n");
    let library = Library::new(&[folder.path().to_path_buf()]).unwrap();
    let error = Dataset::load(&library, "pet", &Formats::builtin()).unwrap_err().to_string();
    assert!(error.contains("data set `pet`") && error.contains("did you mean `pets`?"), "{error}");
}

#[test]
fn sequences_are_read_from_file_names() {
    let one = Sequences { separator: "_".into(), fields: 1 };
    assert_eq!(one.of("0016E5_07959.jpg"), "0016E5");
    assert_eq!(one.of("val_x/0016E5_07959.jpg"), "val_x/0016E5", "folders count, and are not searched");
    let two = Sequences { fields: 2, ..one };
    assert_eq!(two.of("frankfurt/frankfurt_000000_000294_left.png"), "frankfurt/frankfurt_000000");
    assert_eq!(two.of("a_1.png"), "a_1.png", "a name without a third field is a sequence of its own");
    let manifest = |keys: &str| {
        let line = format!("get = \"ask the owner\"\nsequences = {{ {keys} }}");
        pets(&MANIFEST.replace("get = \"ask the owner\"", &line), "cat\ndog\n").1
    };
    assert_eq!(manifest("separator = \"_\", fields = 2").unwrap().sequences, Some(two));
    for keys in ["separator = \"\", fields = 1", "separator = \"_\", fields = 0"] {
        assert!(manifest(keys).unwrap_err().to_string().contains("`fields` of at least 1"), "{keys}");
    }
}

#[test]
fn keys_of_a_split_choose_its_entries() {
    let names = |keys: &str| {
        let sequences = "license = \"none\"\nsequences = { separator = \".\", fields = 1 }";
        let split = format!("[split.part]\nimages = \"train\"\n{keys}\n");
        let (folder, dataset) =
            pets(&(MANIFEST.replacen("license = \"none\"", sequences, 1) + &split), "cat\ndog\n");
        let index = dataset.unwrap().index(&folder.path().join("pets"), "part").map_err(|e| e.to_string())?;
        Ok::<_, String>(
            index.entries.iter().map(|e| e.id.as_str()["train/".len()..].to_string()).collect::<Vec<_>>(),
        )
    };
    let folders = "annotations = { format = \"image_folder\" }\n";
    let with_labels = |keys: &str| names(&format!("{folders}{keys}"));
    assert_eq!(names("entries = [0, 2]").unwrap(), ["cat/1.png", "cat/2.png"]);
    assert_eq!(names("entries = [1, 3]").unwrap(), ["cat/2.png", "dog/3.png"]);
    assert_eq!(names("entries = [2, 9]").unwrap(), ["dog/3.png"], "as a slice; `count` tells");
    assert_eq!(names("sequences = [\"3\", \"1\"]").unwrap(), ["cat/1.png", "dog/3.png"]);
    assert_eq!(with_labels("skip_per_class = 1").unwrap(), ["cat/2.png"]);
    assert_eq!(with_labels("per_class = 1").unwrap(), ["cat/1.png", "dog/3.png"]);
    assert_eq!(with_labels("skip_per_class = 1\nper_class = 1").unwrap(), ["cat/2.png"]);
    assert_eq!(
        with_labels("per_class = 1\nentries = [1, 2]").unwrap(),
        ["dog/3.png"],
        "entries after per_class"
    );
    for (keys, words) in [
        ("entries = [3, 9]", "`entries = [3, 9]` keeps none of its 3 entries"),
        ("entries = [2, 2]", "keeps none"),
        ("sequences = [\"4\"]", "no image of the sequence `4`; there are `1`, `2`, `3`"),
        ("skip_per_class = 1", "needs labels"),
    ] {
        let error = names(keys).unwrap_err();
        assert!(error.contains(words) && error.contains("part"), "{error}");
    }
    assert!(with_labels("skip_per_class = 2").unwrap_err().contains("its keys leave no images"));
    let (folder, dataset) = pets(
        &(MANIFEST.to_string() + "[split.part]\nimages = \"train\"\nsequences = [\"1\"]\n"),
        "cat\ndog\n",
    );
    let error = dataset.unwrap().index(&folder.path().join("pets"), "part").unwrap_err().to_string();
    assert!(error.contains("needs `sequences` of the manifest"), "{error}");
}

#[test]
fn manifests_are_parsed_strictly() {
    for (from, to, words) in [
        ("license", "licence", "licence"),
        ("per_class = 1", "per_clas = 1", "per_clas"),
        ("label = \"label\"", "lable = \"label\"", "lable"),
        ("format = \"csv\"", "format = \"cvs\"", "did you mean `csv`"),
        ("name = \"pets\"", "name = \"cats\"", "name is `cats`, but the folder is `pets`"),
        ("classes.txt", "labels.txt", "labels.txt"),
    ] {
        let (_folder, dataset) = pets(&MANIFEST.replacen(from, to, 1), "cat\ndog\n");
        let error = dataset.unwrap_err().to_string();
        assert!(error.contains(words) && error.contains("pets"), "{error}");
    }
    let (_folder, dataset) = pets(MANIFEST, "cat\ncat\n");
    assert!(dataset.unwrap_err().to_string().contains("`cat` occurs twice"));
}

#[test]
fn missing_data_says_where_it_was_looked_for_and_how_to_get_it() {
    let (folder, dataset) = pets(MANIFEST, "cat\ndog\n");
    let dataset = dataset.unwrap();
    let error = dataset.root(None, None).unwrap_err().to_string();
    for words in ["`pets` was not found", "BENCH_DATA is not set", "--data", "ask the owner", "`bench demo`"]
    {
        assert!(error.contains(words), "{error}");
    }
    let error = dataset.root(None, Some(Path::new("/nowhere"))).unwrap_err().to_string();
    assert!(error.contains("looked in `/nowhere/pets`") && error.contains("ask the owner"), "{error}");
    let here = folder.path();
    assert_eq!(dataset.root(None, Some(here)).unwrap(), here.join("pets"));
    assert_eq!(dataset.root(Some(here), Some(Path::new("/nowhere"))).unwrap(), here);
    let error = dataset.index(&here.join("pets"), "test").unwrap_err().to_string();
    assert!(error.contains("no split `test`; it has: all, few, list, train"), "{error}");
}

#[test]
fn labels_follow_the_class_list() {
    let (folder, dataset) = pets(MANIFEST, "dog\ncat\n");
    let (root, dataset) = (folder.path().join("pets"), dataset.unwrap());
    let index = dataset.index(&root, "train").unwrap();
    assert_eq!(
        lines(&index),
        ["train/cat/1.png Label(1)", "train/cat/2.png Label(1)", "train/dog/3.png Label(0)"]
    );
    assert_eq!(dataset.info(&index).classes, ["dog", "cat"]);
    let index = dataset.index(&root, "few").unwrap();
    assert_eq!(lines(&index), ["train/cat/1.png Label(1)", "train/dog/3.png Label(0)"]);

    for (table, labels) in [("cat/1.png,cat\ndog/3.png,dog", [1, 0]), ("cat/1.png,0\ndog/3.png,1", [0, 1])] {
        std::fs::write(root.join("list.csv"), format!("image,label\n{table}\n")).unwrap();
        let index = dataset.index(&root, "list").unwrap();
        assert_eq!(index.entries.iter().filter_map(label).collect::<Vec<_>>(), labels);
        assert_eq!(index.classes.unwrap(), ["dog", "cat"]);
    }
    std::fs::write(root.join("list.csv"), "image,label\ncat/1.png,2\n").unwrap();
    let error = dataset.index(&root, "list").unwrap_err().to_string();
    assert!(error.contains("split `list`") && error.contains("not among the 2 classes: `2`"), "{error}");

    let error = dataset.index(&root, "all").unwrap_err().to_string();
    assert!(error.contains("`train/cat/1.png` has none"), "{error}");
}

#[test]
fn class_folders_are_those_of_the_class_list() {
    let (folder, dataset) = pets(MANIFEST, "cat\n");
    let error = dataset.unwrap().index(&folder.path().join("pets"), "train").unwrap_err().to_string();
    assert!(error.contains("not among the 1 classes: `dog`"), "{error}");
    let (folder, dataset) = pets(MANIFEST, "cat\nbird\ndog\n");
    let index = dataset.unwrap().index(&folder.path().join("pets"), "train").unwrap();
    assert_eq!(index.notes, ["2 of 3 classes have images; without: `bird`"]);
    assert_eq!(index.entries.iter().filter_map(label).collect::<Vec<_>>(), [0, 0, 2]);
}

/// Splits `train` and `val` with folders of these classes, without a list of classes.
fn two_splits(train: &[&str], val: &[&str]) -> (tempfile::TempDir, Dataset) {
    let manifest = "name = \"pets\"\nversion = \"1\"\nlicense = \"none\"\n\
        [split.train]\nimages = \"a\"\nannotations = { format = \"image_folder\" }\n\
        [split.val]\nimages = \"b\"\nannotations = { format = \"image_folder\" }\n";
    let (folder, dataset) = pets(manifest, "");
    for (split, classes) in [("a", train), ("b", val)] {
        for class in classes {
            let file = folder.path().join(format!("pets/{split}/{class}"));
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            match class.contains('.') {
                true => std::fs::write(file, "").unwrap(),
                false => std::fs::create_dir(file).unwrap(),
            }
        }
    }
    (folder, dataset.unwrap())
}

#[test]
fn classes_of_splits_are_matched_by_name() {
    let animals = ["cat/1.png", "dog/2.png", "eel/3.png"];
    let scored = |val: &[&str]| {
        let (folder, dataset) = two_splits(&animals, val);
        let root = folder.path().join("pets");
        let classes = dataset.info(&dataset.index(&root, "train").unwrap()).classes;
        let found = dataset.index_scored(&root, "val", ("train", &classes)).map_err(|e| e.to_string());
        (found, dataset.check(&root, false))
    };
    for val in [&["dog/1.png", "eel/2.png"][..], &["cat", "dog/1.png", "eel/2.png"]] {
        let (index, report) = scored(val);
        let index = index.unwrap();
        assert_eq!(lines(&index), ["b/dog/1.png Label(1)", "b/eel/2.png Label(2)"]);
        assert_eq!(index.classes.as_ref().unwrap().len(), 3);
        assert!(index.notes.concat().contains("`cat`"), "{:?}", index.notes);
        assert!(report[1].problems.is_empty() && report[1].to_string().contains("note: "), "{}", report[1]);
        assert!(report[1].to_string().contains("`cat`"), "{}", report[1]);
    }
    let (index, report) = scored(&["dog/1.png", "fox/2.png"]);
    let words = "split `val`: `fox` is not among the classes of split `train`";
    assert!(index.unwrap_err().contains(words));
    assert!(report[1].problems[0].contains(words), "{}", report[1]);
    assert!(report[0].problems.is_empty(), "{}", report[0]);
}

#[test]
fn masks_and_objects_of_other_orders_get_the_labels_of_the_list() {
    let folder = tempfile::tempdir().unwrap();
    let write = |file: &str, text: &[u8]| {
        let path = folder.path().join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    let manifest = "name = \"pets\"\nversion = \"1\"\nlicense = \"none\"\nclasses = \"classes.txt\"\n\
        [split.train]\nimages = \"i\"\nannotations = { format = \"png_masks\", masks = \"m\", \
        suffix = [\".jpg\", \".png\"], names = [\"dog\", \"cat\"] }\n\
        [split.val]\nimages = \"i\"\nannotations = { format = \"coco_json\", file = \"val.json\" }\n";
    write("datasets/pets/dataset.toml", manifest.as_bytes());
    write("datasets/pets/classes.txt", b"cat\ndog\neel\n");
    write("pets/i/1.JPG", b"");
    let mask = crate::data::Raster::new(1, 2, vec![0, 1]).to_png(&[0, 1], &[]).unwrap();
    write("pets/m/1.png", &mask);
    write(
        "pets/val.json",
        br#"{"images": [{"id": 1, "width": 9, "height": 9, "file_name": "1.JPG"}], "annotations": [
        {"image_id": 1, "category_id": 3, "bbox": [1, 1, 2, 2]}], "categories": [{"id": 3, "name": "eel"}]}"#,
    );
    let library = Library::new(&[folder.path().to_path_buf()]).unwrap();
    let dataset = Dataset::load(&library, "pets", &Formats::builtin()).unwrap();
    let root = folder.path().join("pets");
    let index = dataset.index(&root, "train").unwrap();
    let Annotation::Raster(file) = &index.entries[0].annotation else { panic!("no mask") };
    assert_eq!(file.read().unwrap().labels, [1, 0], "dog and cat by the list");
    let index = dataset.index(&root, "val").unwrap();
    let Annotation::Objects(image) = &index.entries[0].annotation else { panic!("no objects") };
    assert_eq!(image.objects[0].label, 2);
    let ids: Vec<i128> = index.categories.iter().filter_map(|category| category.id.number()).collect();
    assert_eq!(ids, [4, 5, 3], "classes that the file lacks have ids that it does not use");
}

#[test]
fn listed_names_may_have_backslashes() {
    let folder = tempfile::tempdir().unwrap();
    let source = SplitSource { root: folder.path(), images: Path::new("images"), class_names: None };
    let below = |name: &str| {
        let path = source.listed_image(name);
        path.strip_prefix(folder.path()).unwrap().display().to_string()
    };
    std::fs::create_dir_all(folder.path().join("images/sub")).unwrap();
    for file in ["0.jpg", "sub/1.jpg"] {
        std::fs::write(folder.path().join("images").join(file), "").unwrap();
    }
    for (listed, expected) in [
        ("0.jpg", "images/0.jpg"),
        ("/0.jpg", "images/0.jpg"),
        (".\\0.jpg", "images/0.jpg"),
        ("sub\\1.jpg", "images/sub/1.jpg"),
        ("images\\sub\\1.jpg", "images/sub/1.jpg"),
        ("images/0.jpg", "images/0.jpg"),
        ("no\\9.jpg", "images/no\\9.jpg"),
    ] {
        assert_eq!(below(listed), expected, "{listed}");
    }
    if cfg!(unix) {
        std::fs::write(folder.path().join("images").join("sub\\1.jpg"), "").unwrap();
        assert_eq!(below("sub\\1.jpg"), "images/sub\\1.jpg", "the file of that very name comes first");
    }
}

#[test]
fn a_report_collects_problems() {
    let manifest = MANIFEST.replace("[split.few]", "count = 4\n[split.few]");
    let (folder, dataset) = pets(&manifest, "cat\ndog\n");
    let root = folder.path().join("pets");
    std::fs::write(root.join("list.csv"), "image,label\ncat/9.png,cat\n").unwrap();
    let dataset = dataset.unwrap();
    let report = dataset.check(&root, false);
    let of = |split: &str| report.iter().find(|r| r.split == split).unwrap();
    assert_eq!((of("train").images, of("train").classes), (3, 2));
    assert!(of("train").problems[0].contains("3 images, the manifest says 4"));
    assert!(of("list").to_string().contains("note: 1 of 2 classes have images; without: `dog`"));
    assert!(of("list").problems[0].contains("cat/9.png` is not there"));
    assert!(of("few").problems.is_empty());
    assert_eq!(of("all").images, 0);
    assert_eq!(of("train").problems.len(), 1);
    assert_eq!(dataset.check(&root, true).iter().find(|r| r.split == "train").unwrap().problems.len(), 4);
}

#[test]
fn any_folder_is_a_data_set() {
    let (folder, _) = pets(MANIFEST, "cat\ndog\n");
    let path = folder.path().join("pets");
    let dataset = Dataset::from_folder(&path).unwrap();
    assert_eq!(dataset.name, "pets");
    let index = dataset.index(&path, "train").unwrap();
    assert_eq!(lines(&index)[2], "train/dog/3.png None");
    assert!(Dataset::from_folder(Path::new("/nowhere")).unwrap_err().to_string().contains("/nowhere"));
}

#[test]
fn a_fingerprint_depends_on_ids_and_annotations_and_not_on_the_place() {
    let entry = |id: &str, path: &str, label| Entry {
        id: crate::data::SampleId::new(id),
        image: ImageRef::File(path.into()),
        annotation: Annotation::Label(label),
    };
    let base = Dataset::fingerprint(&[entry("a", "/x/a", 1)]);
    assert_eq!(base, Dataset::fingerprint(&[entry("a", "/y/a", 1)]));
    assert_ne!(base, Dataset::fingerprint(&[entry("a", "/x/a", 2)]));
    assert_ne!(base, Dataset::fingerprint(&[entry("b", "/x/a", 1)]));
    assert_ne!(base, Dataset::fingerprint(&[entry("a", "/x/a", 1), entry("a", "/x/a", 1)]));
}

#[test]
fn annotations_are_refused_by_file_and_path_before_there_is_data() {
    for (from, to, words) in [
        (
            "label = \"label\"",
            "lable = \"label\"",
            "`split.list.annotations.lable`: format = \"csv\": unknown field",
        ),
        (", label = \"label\"", "", "`split.list.annotations`: format = \"csv\": missing field `label`"),
        ("file = \"list.csv\"", "file = 3", "`split.list.annotations.file`"),
        ("format = \"csv\"", "format = \"cvs\"", "`split.list.annotations.format`: format `cvs`: unknown"),
        ("format = \"csv\", ", "", "missing field `format`"),
        (
            "label = \"label\"",
            "label = \"label\", delimiter = \"é\"",
            "`split.list.annotations`: delimiter `é`",
        ),
    ] {
        let (_folder, dataset) = pets(&MANIFEST.replacen(from, to, 1), "cat\ndog\n");
        let error = dataset.unwrap_err().to_string();
        assert!(error.contains(words) && error.contains("datasets/pets/dataset.toml"), "{error}");
    }
}

#[test]
fn a_manifest_is_found_by_its_path_too() {
    let (folder, _) = pets(MANIFEST, "dog\ncat\n");
    let home = folder.path().join("datasets/pets");
    let load = |path: &Path| Dataset::load(&Library::default(), path.to_str().unwrap(), &Formats::builtin());
    for path in [home.clone(), home.join("dataset.toml")] {
        let dataset = load(&path).unwrap();
        assert_eq!(dataset.name, "pets");
        let index = dataset.index(&folder.path().join("pets"), "train").unwrap();
        assert_eq!(dataset.info(&index).classes, ["dog", "cat"], "classes lie beside the manifest");
    }
    let renamed = home.with_file_name("elsewhere");
    std::fs::rename(&home, &renamed).unwrap();
    assert_eq!(load(&renamed).unwrap().name, "pets", "the folder may have another name");
    let error = load(&home.join("dataset.toml")).unwrap_err().to_string();
    assert!(error.contains("datasets/pets/dataset.toml") && error.contains("No such file"), "{error}");
}

#[test]
fn conversion_of_maps_enters_the_fingerprint() {
    let entry = |scale, offset, invalid| Entry {
        id: crate::data::SampleId::new("a"),
        image: ImageRef::File("/x/a".into()),
        annotation: Annotation::DenseMap(DenseMapFile { path: "/x/a.npy".into(), scale, offset, invalid }),
    };
    let base = Dataset::fingerprint(&[entry(1., 0., None)]);
    for other in [entry(2., 0., None), entry(1., 1., None), entry(1., 0., Some(0.))] {
        assert_ne!(base, Dataset::fingerprint(&[other]));
    }
}
