//! Formats from outside, formats of one name, maps of numbers beside their images, and the schema.

use super::*;
use crate::config::{Library, parse, schema_with};
use crate::data::{Annotation, DataError, Dataset, ImageRef, Index};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// A layout of another crate: the label is the first character of a file's name.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct FirstCharacter {
    alphabet: String,
}

impl Format for FirstCharacter {
    const NAME: &'static str = "first_character";

    fn check(&self, class_names: Option<&[String]>) -> Result<(), String> {
        match class_names {
            Some(_) => Err("class names are the characters of `alphabet`".into()),
            None => Ok(()),
        }
    }

    fn index(&self, split: &SplitSource) -> Result<Index, DataError> {
        let (images, ignored) = image_files_below(&split.folder())?;
        let mut entries = vec![];
        for image in images {
            let name = image.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let Some(label) = self.alphabet.find(|c| name.starts_with(c)) else {
                return Err(DataError::file(&image, "begins with another character"));
            };
            entries.push(split.entry(image, Annotation::Label(label as u32)));
        }
        let classes = Some(self.alphabet.chars().map(String::from).collect());
        Ok(Index { entries, classes, ignored, images_listed: true, ..Index::default() })
    }
}

fn write(root: &Path, file: &str, bytes: &[u8]) {
    let path = root.join(file);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}

/// The data set whose split `train` has these `annotations`.
fn dataset(root: &Path, formats: &Formats, annotations: &str) -> Result<Dataset, DataError> {
    let text = format!(
        "name = \"mine\"\nversion = \"1\"\nlicense = \"none\"\n[split.train]\nimages = \"images\"\n\
         [split.train.annotations]\n{annotations}\n"
    );
    write(root, "manifest/dataset.toml", text.as_bytes());
    Dataset::load(&Library::default(), root.join("manifest").to_str().unwrap(), formats)
}

#[test]
fn a_format_from_outside_reads_a_split_like_a_built_in_one() {
    let root = tempfile::tempdir().unwrap();
    for file in ["images/b1.png", "images/a2.png", "images/notes.gif"] {
        write(root.path(), file, b"");
    }
    let formats = Formats::builtin().with::<FirstCharacter>();
    let annotations = "format = \"first_character\"\nalphabet = \"ab\"";
    let index = dataset(root.path(), &formats, annotations).unwrap().index(root.path(), "train").unwrap();
    let lines: Vec<_> = index.entries.iter().map(|e| format!("{} {:?}", e.id, e.annotation)).collect();
    assert_eq!(lines, ["images/a2.png Label(0)", "images/b1.png Label(1)"]);
    assert_eq!(index.ignored.to_string(), "1 other file ignored: 1 .gif");
    let error = dataset(root.path(), &Formats::builtin(), annotations).unwrap_err().to_string();
    assert!(
        error.contains("format `first_character`: unknown") && error.contains("image_folder, csv"),
        "{error}"
    );
    let error = dataset(root.path(), &formats, "format = \"first_character\"").unwrap_err().to_string();
    assert!(error.contains("missing field `alphabet`"), "{error}");
    let twice = formats.with::<FirstCharacter>();
    let error = dataset(root.path(), &twice, annotations).unwrap_err().to_string();
    assert!(error.starts_with("format `first_character`: is registered twice"), "{error}");
}

#[test]
fn the_schema_allows_the_registered_formats() {
    let formats = Formats::builtin().with::<FirstCharacter>();
    let schema = schema_with::<Dataset>(|generator| formats.define(generator));
    let tables = schema.pointer("/$defs/table_with_format/oneOf").and_then(|t| t.as_array()).unwrap();
    let names: Vec<&str> =
        tables.iter().filter_map(|table| table.pointer("/properties/format/const")?.as_str()).collect();
    assert!(formats.names().eq(names));
    let own = tables.last().unwrap();
    assert_eq!(own["required"], serde_json::json!(["format", "alphabet"]));
    assert_eq!(own["additionalProperties"], false);
    let masks = tables.iter().find(|table| table["properties"]["format"]["const"] == "png_masks").unwrap();
    let encoding = masks["properties"]["encoding"].to_string();
    assert!(encoding.contains("#/$defs/PixelEncoding"), "{encoding}");
    assert!(schema.pointer("/$defs/PixelEncoding").is_some());
}

/// A grey PNG of 16 bits.
fn png(width: u32, height: u32, values: &[u16]) -> Vec<u8> {
    let mut bytes = vec![];
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.set_depth(png::BitDepth::Sixteen);
    let mut writer = encoder.write_header().unwrap();
    let data: Vec<u8> = values.iter().flat_map(|value| value.to_be_bytes()).collect();
    writer.write_image_data(&data).unwrap();
    writer.finish().unwrap();
    bytes
}

#[test]
fn maps_of_numbers_lie_beside_their_images() {
    let root = tempfile::tempdir().unwrap();
    let annotations = "format = \"dense_maps\"\nmaps = \"depth\"\nsuffix = [\"_rgb.png\", \"_depth.png\"]\n\
                       scale = 0.001\ninvalid = 0";
    for name in ["b/1", "a/2"] {
        write(root.path(), &format!("images/{name}_rgb.png"), &png(2, 1, &[0, 9]));
        write(root.path(), &format!("depth/{name}_depth.png"), &png(2, 1, &[1500, 0]));
    }
    let load = |more: &str| dataset(root.path(), &Formats::builtin(), &format!("{annotations}\n{more}"));
    let index = load("").unwrap().index(root.path(), "train").unwrap();
    let ids: Vec<_> = index.entries.iter().map(|entry| entry.id.as_str()).collect();
    assert_eq!(ids, ["images/a/2_rgb.png", "images/b/1_rgb.png"]);
    let Annotation::DenseMap(file) = &index.entries[0].annotation else { panic!("no map") };
    let map = file.read().unwrap();
    assert_eq!((map.size(), map.values[0]), ((1, 2), 1.5));
    assert!(map.values[1].is_nan());
    assert!(matches!(&index.entries[0].image, ImageRef::File(path) if path.ends_with("2_rgb.png")));

    write(root.path(), "train.txt", b"b/1\n");
    let index = load("list = \"train.txt\"").unwrap().index(root.path(), "train").unwrap();
    assert_eq!(index.entries.len(), 1);

    let report = &load("").unwrap().check(root.path(), true)[0];
    assert!(report.problems.is_empty(), "{report}");
    write(root.path(), "depth/a/2_depth.png", &png(1, 2, &[1500, 0]));
    let report = &load("").unwrap().check(root.path(), true)[0];
    assert!(report.problems[0].contains("has 2x1 pixels, but the image has 1x2"), "{report}");
    std::fs::remove_file(root.path().join("depth/a/2_depth.png")).unwrap();
    let error = load("").unwrap().index(root.path(), "train").unwrap_err().to_string();
    assert!(error.contains("2_depth.png") && error.contains("there is no map for image"), "{error}");
    for (more, words) in [
        ("offset = inf", "`split.train.annotations`: `offset` is inf"),
        ("list = 3", "`split.train.annotations.list`"),
        ("ofset = 1", "`split.train.annotations.ofset`"),
    ] {
        let error = load(more).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
    let zero = annotations.replace("0.001", "0");
    let error = dataset(root.path(), &Formats::builtin(), &zero).unwrap_err().to_string();
    assert!(error.contains("`scale` is 0, expected a number other than 0"), "{error}");
}

#[test]
fn options_are_written_as_they_are_read() {
    let annotations: Annotations =
        parse("format = \"dense_maps\"\nmaps = \"d\"\nsuffix = [\"a\", \"b\"]", "test").unwrap();
    let completed = annotations.completed::<DenseMaps>().unwrap();
    let text = "format = \"dense_maps\"\nmaps = \"d\"\nsuffix = [\"a\", \"b\"]\nscale = 1.0\n";
    assert_eq!(toml::to_string(&completed).unwrap(), text);
}

#[test]
fn a_listed_path_of_the_machine_into_the_folder_is_that_path() {
    let root = tempfile::tempdir().unwrap();
    let split = SplitSource { root: root.path(), images: Path::new("train"), class_names: None };
    let file = root.path().join("train/b/a.jpg");
    for listed in [file.to_str().unwrap(), "b/a.jpg", "/b/a.jpg", "./b/a.jpg"] {
        assert_eq!(split.listed_image(listed), file, "{listed}");
    }
}
