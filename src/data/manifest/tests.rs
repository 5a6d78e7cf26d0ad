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
    let (folder, dataset) = pets(MANIFEST, "cat\ndog\nbird\n");
    let error = dataset.unwrap().index(&folder.path().join("pets"), "train").unwrap_err().to_string();
    assert!(error.contains("`train` has no class folders `bird`"), "{error}");
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
    assert!(of("list").to_string().contains("1 of 2 classes have images; without: `dog`"));
    assert!(of("list").problems[1].contains("cat/9.png` is not there"));
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
