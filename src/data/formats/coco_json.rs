//! Format `coco_json`: objects with boxes and masks, in the JSON layout of COCO; also that of LVIS and similar files.
//!
//! `images` (id, width, height, and file_name or, in LVIS, coco_url), `annotations` (image_id, category_id, bbox, and
//! optionally id, segmentation, area, iscrowd) and `categories` (id, name). Labels follow the order of category ids;
//! other fields are ignored. Entries are in the order of `images`, including images without objects.
//!
//! All flaws of a file are collected. Everything is checked here except the size of the images, which is checked when they
//! are decoded ([`Objects::fits`]), and outlines, which only tasks with masks need.

mod annotation;
mod classes;
mod counts;
mod images;
mod outline;

pub(crate) use annotation::to_box;
pub(crate) use outline::{Outline, ReadOutline};

use super::super::json::{NamedFields, Records, parse};
use super::super::{Annotation, Category, DataError, ImageRef, Index, Objects, Orientation};
use super::format::{Format, SplitSource};
use crate::files;
use annotation::{AnnotationRecord, Found};
use classes::{CategoryRecord, Classes};
use counts::Counts;
use images::{ImageRecord, Images, Measure};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

/// `format = "coco_json"` of a manifest: COCO's JSON layout with boxes, masks and crowds (COCO, LVIS). File names lie below
/// `images`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CocoJson {
    /// The JSON file, relative to the data root.
    pub file: PathBuf,
    /// Leave out images that have no objects or only crowds, as detectron2 does in training.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub drop_empty: bool,
    /// Number of annotations without area (a box of no width or height, polygons of two points) that the file is known to
    /// have. They are not trained on, and count as objects that nobody finds in scores, as in pycocotools. More are an error.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub allowed_degenerate: usize,
}

fn is_zero(number: &usize) -> bool {
    *number == 0
}

#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    images: Records<ImageRecord>,
    #[serde(default)]
    annotations: Records<AnnotationRecord>,
    #[serde(default)]
    categories: Records<CategoryRecord>,
}

impl Format for CocoJson {
    const NAME: &'static str = "coco_json";

    /// Applied: annotation tools show, and annotate, turned images.
    fn orientation(&self) -> Orientation {
        Orientation::Apply
    }

    fn index(&self, split: &SplitSource) -> Result<Index, DataError> {
        let file = split.root.join(&self.file);
        let text = files::read(&file).map_err(|e| DataError::file(&file, e))?;
        let measure = |name: &str| {
            let path = split.listed_image(name);
            if !path.exists() {
                return Err(format!("`{}` is not there", path.display()));
            }
            ImageRef::Upright(path).size()
        };
        let Content { images, classes, categories, notes } =
            self.read_measuring(text, &measure).map_err(|flaws| DataError::flaws(&file, flaws))?;
        if images.is_empty() {
            let why = if self.drop_empty { " that has an object other than crowds" } else { "" };
            return Err(DataError::file(&file, format!("there is no image{why}")));
        }
        let entry = |(name, objects): (String, Objects)| {
            split.entry(split.listed_image(&name), Annotation::Objects(Arc::new(objects)))
        };
        let entries = images.into_iter().map(entry).collect();
        Ok(Index { entries, classes: Some(classes), categories, notes, ..Index::default() })
    }
}

/// What a file holds.
#[derive(Debug)]
pub struct Content {
    /// File names with their objects.
    pub images: Vec<(String, Objects)>,
    /// Class names in label order.
    pub classes: Vec<String>,
    /// Ids and frequencies of the classes.
    pub categories: Vec<Category>,
    /// What was left out, with counts.
    pub notes: Vec<String>,
}

impl CocoJson {
    /// Reads the bytes of a file, which must state the sizes of its images.
    ///
    /// # Errors
    /// Every flaw with its place.
    pub fn read(&self, text: Vec<u8>) -> Result<Content, Vec<String>> {
        self.read_measuring(text, &|_| Err("the images are not at hand".into()))
    }

    /// Reads the bytes of a file; `measure` is asked for the sizes of images for which it states none.
    fn read_measuring(&self, text: Vec<u8>, measure: Measure) -> Result<Content, Vec<String>> {
        let NamedFields(document) = parse::<NamedFields<Document>>(text).map_err(|flaw| vec![flaw])?;
        let mut flaws = vec![];
        let content = self.objects(document, measure, &mut flaws);
        if flaws.is_empty() { Ok(content) } else { Err(flaws) }
    }

    fn objects(&self, document: Document, measure: Measure, flaws: &mut Vec<String>) -> Content {
        let records = document.images.required("images", flaws);
        let annotations = document.annotations.required("annotations", flaws);
        let mut classes = Classes::read(&document.categories.required("categories", flaws), flaws);
        let mut images = Images::default();
        for place in 0..records.len() {
            images.add(place, &records, &classes, measure, flaws);
        }
        let mut counts = Counts::default();
        let mut ids = HashSet::with_capacity(annotations.len());
        for (place, record) in annotations.into_iter().enumerate() {
            let found = record.object(place, &images, &classes, &mut counts, self.allowed_degenerate);
            match found {
                Ok(Found { id: Some(id), .. }) if !ids.insert(id.clone()) => {
                    flaws.push(format!("annotation {id} occurs twice"));
                }
                Ok(Found { image, object, .. }) => images.found[image].1.objects.push(object),
                Err(flaw) => flaws.push(flaw),
            }
        }
        if !flaws.is_empty() {
            flaws.append(&mut counts.flawed);
        }
        let mut notes = std::mem::take(&mut classes.notes);
        notes.extend(images.notes());
        notes.extend(counts.notes());
        let mut images = images.found;
        if self.drop_empty {
            let all = images.len();
            images.retain(|(_, image)| image.objects.iter().any(|object| !object.crowd));
            let dropped = all - images.len();
            notes.extend((dropped > 0).then(|| format!("`drop_empty` leaves out {dropped} of {all} images")));
        }
        Content { images, classes: classes.names, categories: classes.categories, notes }
    }
}

#[cfg(test)]
mod tests;
