//! `bench` with one more data format, `yolo`: boxes in the text files of YOLO.
//!
//! Each image has a text file of the same name in another folder, with one object per line: the label and the
//! centre, width and height of its box as fractions of the image. An image without a file, or with an empty one, has no
//! object. Class names are those of the manifest.

use bench::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

fn main() -> ExitCode {
    bench::cli::main(Registry::builtin().with_format::<Yolo>())
}

/// The keys of `annotations` of a split beside `format = "yolo"`.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Yolo {
    /// Folder of the text files, relative to the data root.
    labels: PathBuf,
    /// Whether to leave out images without objects, as is usual in the training of detectors.
    #[serde(default)]
    drop_empty: bool,
}

/// Endings of the names of images, in lower case.
const IMAGES: [&str; 6] = ["bmp", "jpeg", "jpg", "png", "tiff", "webp"];

impl Format for Yolo {
    const NAME: &'static str = "yolo";

    fn check(&self, class_names: Option<&[String]>) -> Result<(), String> {
        match class_names {
            Some(_) => Ok(()),
            None => Err("format `yolo` needs the class names of the manifest: set `classes`".into()),
        }
    }

    fn index(&self, split: &SplitSource) -> Result<Index, DataError> {
        let (folder, labels) = (split.folder(), split.path(&self.labels));
        if !labels.is_dir() {
            return Err(DataError::file(&labels, "there is no such folder"));
        }
        let classes = split.class_names.map_or(0, <[String]>::len);
        let mut entries = vec![];
        for (number, image) in images_in(&folder)?.into_iter().enumerate() {
            let size = Image::size_of(&image).map_err(|e| DataError::file(&image, e.reason))?;
            let file = labels.join(image.file_name().unwrap_or_default()).with_extension("txt");
            let objects = objects_in(&file, size, classes)?;
            if self.drop_empty && objects.is_empty() {
                continue;
            }
            let (absent, not_exhaustive) = (vec![], vec![]);
            // Results refer to an image by its place in the sorted folder, from 1.
            let objects =
                Objects { image_id: (number as u64 + 1).into(), size, objects, absent, not_exhaustive };
            entries.push(split.entry(image, Annotation::Objects(Arc::new(objects))));
        }
        Ok(Index { entries, images_listed: true, ..Index::default() })
    }
}

/// The images of a folder, sorted by name.
fn images_in(folder: &Path) -> Result<Vec<PathBuf>, DataError> {
    let fail = |error: std::io::Error| DataError::file(folder, error);
    let files = std::fs::read_dir(folder).map_err(fail)?.map(|file| Ok(file?.path()));
    let mut images = files.collect::<Result<Vec<_>, _>>().map_err(fail)?;
    let ending = |path: &PathBuf| Some(path.extension()?.to_str()?.to_lowercase());
    images.retain(|path| ending(path).is_some_and(|ending| IMAGES.contains(&ending.as_str())));
    images.sort();
    Ok(images)
}

/// The objects that `file` lists for an image of (height, width) `size`; none where there is no file.
fn objects_in(file: &Path, size: Size, classes: usize) -> Result<Vec<Object>, DataError> {
    if !file.exists() {
        return Ok(vec![]);
    }
    let text = std::fs::read_to_string(file).map_err(|e| DataError::file(file, e))?;
    let lines = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty());
    let object = |(number, line)| {
        let fail = |message| DataError::file(file, format!("line {number}: {message}"));
        object_of(line, size, classes).map_err(fail)
    };
    lines.map(object).collect()
}

/// The object in a line `label x_center y_center width height`.
fn object_of(line: &str, (height, width): Size, classes: usize) -> Result<Object, String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [label, numbers @ ..] = &words[..] else { return Err("is empty".into()) };
    if numbers.len() != 4 {
        return Err(format!("has {} fields, expected 5: label x_center y_center width height", words.len()));
    }
    let label: u32 = label.parse().map_err(|_| format!("label `{label}` is not a whole number"))?;
    if label as usize >= classes {
        return Err(format!("label {label} is not below {classes}, the number of classes"));
    }
    let mut fractions = [0.; 4];
    for (fraction, word) in fractions.iter_mut().zip(numbers) {
        *fraction = word.parse().map_err(|_| format!("`{word}` is not a number"))?;
        if !(0. ..=1.).contains(fraction) {
            return Err(format!("{word} is not a fraction of the image, 0 to 1"));
        }
    }
    let [x, y, w, h] = fractions;
    if w == 0. || h == 0. {
        return Err("the box has no area".into());
    }
    let (width, height) = (width as f64, height as f64);
    let bbox = [(x - w / 2.) * width, (y - h / 2.) * height, w * width, h * height];
    Ok(Object { label, bbox, segmentation: Segmentation::None, crowd: false, area: bbox[2] * bbox[3] })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fractions_become_pixels() {
        let object = object_of("1 0.5 0.25 0.5 0.5", (40, 80), 2).unwrap();
        assert_eq!((object.label, object.bbox, object.area), (1, [20., 0., 40., 20.], 800.));
        assert!(object_of("1 0.5 0.25 0.5", (40, 80), 2).is_err());
    }
}
