//! Format `coco_json`: objects with boxes and masks, in the JSON layout of COCO; also that of LVIS and similar files.
//!
//! `images` (id, width, height, and file_name or, in LVIS, coco_url), `annotations` (id, image_id, category_id, bbox,
//! and optionally segmentation, area, iscrowd) and `categories` (id, name). Labels follow the order of category ids;
//! other fields are ignored. Entries are in the order of `images`, including images without objects.
//!
//! Everything is checked here except the size of the images, which is checked when they are decoded ([`Objects::fits`]).

mod outline;

pub(crate) use outline::Outline;

use super::super::{
    Annotation, Category, DataError, Frequency, Index, Object, Objects, Orientation, Segmentation,
};
use super::format::{Format, SplitSource};
use outline::OutlineError;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap, HashSet};
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
    /// Number of annotations without area (a box of no width or height, a polygon of two points) that the file is known
    /// to have and that are left out. More are an error.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub allowed_degenerate: usize,
}

fn is_zero(number: &usize) -> bool {
    *number == 0
}

#[derive(Deserialize)]
struct Document {
    images: Vec<ImageRecord>,
    annotations: Vec<AnnotationRecord>,
    categories: Vec<CategoryRecord>,
}

#[derive(Deserialize)]
struct ImageRecord {
    id: u64,
    width: usize,
    height: usize,
    file_name: Option<String>,
    coco_url: Option<String>,
    #[serde(default)]
    neg_category_ids: Vec<u64>,
    #[serde(default)]
    not_exhaustive_category_ids: Vec<u64>,
}

#[derive(Deserialize)]
struct AnnotationRecord {
    id: u64,
    image_id: u64,
    category_id: u64,
    bbox: Option<[f64; 4]>,
    #[serde(default)]
    segmentation: Outline,
    area: Option<f64>,
    #[serde(default)]
    iscrowd: Flag,
}

/// 0 and 1 in COCO's files, true and false in some.
#[derive(Deserialize)]
#[serde(untagged)]
enum Flag {
    Word(bool),
    Number(u8),
}

impl Default for Flag {
    fn default() -> Self {
        Self::Word(false)
    }
}

impl From<Flag> for bool {
    fn from(flag: Flag) -> Self {
        match flag {
            Flag::Word(set) => set,
            Flag::Number(number) => number != 0,
        }
    }
}

#[derive(Deserialize)]
struct CategoryRecord {
    id: u64,
    name: String,
    frequency: Option<Frequency>,
}

impl Format for CocoJson {
    const NAME: &'static str = "coco_json";

    /// Applied: annotation tools show, and annotate, turned images.
    fn orientation(&self) -> Orientation {
        Orientation::Apply
    }

    fn index(&self, split: &SplitSource) -> Result<Index, DataError> {
        let file = split.root.join(&self.file);
        let text = std::fs::read(&file).map_err(|e| DataError::file(&file, e))?;
        let (images, classes, categories) = self.read(text).map_err(|e| DataError::file(&file, e))?;
        let entry = |(name, objects): (String, Objects)| {
            split.entry(split.listed_image(&name), Annotation::Objects(Arc::new(objects)))
        };
        let entries = images.into_iter().map(entry).collect();
        Ok(Index { entries, classes: Some(classes), categories, ..Index::default() })
    }
}

/// Parses the document; the error gives the position in it.
fn parse(text: &[u8]) -> Result<Document, String> {
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let document = serde_path_to_error::deserialize(&mut deserializer).map_err(|e| {
        let (path, inner) = (e.path().to_string(), e.into_inner());
        if path == "." { inner.to_string() } else { format!("{path}: {inner}") }
    })?;
    deserializer.end().map_err(|e| e.to_string())?;
    Ok(document)
}

/// File names with their objects, class names in label order, and ids and frequencies of the classes.
pub type Content = (Vec<(String, Objects)>, Vec<String>, Vec<Category>);

impl CocoJson {
    /// Reads the bytes of a file.
    ///
    /// # Errors
    /// A message that gives the problem and its position.
    pub fn read(&self, text: Vec<u8>) -> Result<Content, String> {
        let document = parse(&text)?;
        drop(text); // hundreds of megabytes
        self.objects(document)
    }

    fn objects(&self, document: Document) -> Result<Content, String> {
        let (label_of, classes, categories) = classes(document.categories)?;
        let labels = |ids: &[u64], image: u64| -> Result<Vec<u32>, String> {
            let label = |id: &u64| {
                let unknown = || format!("image {image} names category {id}, which is not in `categories`");
                label_of.get(id).copied().ok_or_else(unknown)
            };
            ids.iter().map(label).collect()
        };
        let mut images: Vec<(String, Objects)> = Vec::with_capacity(document.images.len());
        let (mut place_of, mut names) = (HashMap::new(), HashSet::new());
        for record in &document.images {
            let id = record.id;
            let name = record.name()?;
            if place_of.insert(id, images.len()).is_some() {
                return Err(format!("image {id} occurs twice"));
            }
            if !names.insert(name.clone()) {
                return Err(format!("image {id}: file `{name}` occurs twice"));
            }
            let size = (record.height, record.width);
            if size.0.checked_mul(size.1).is_none_or(|pixels| pixels == 0 || u32::try_from(pixels).is_err()) {
                return Err(format!("image {id} (`{name}`) has {}x{} pixels", size.0, size.1));
            }
            let absent = labels(&record.neg_category_ids, id)?;
            let not_exhaustive = labels(&record.not_exhaustive_category_ids, id)?;
            images.push((name, Objects { image_id: id, size, objects: vec![], absent, not_exhaustive }));
        }
        if document.annotations.is_empty() {
            return Err("`annotations` is empty".into());
        }
        let (mut ids, mut degenerate) = (HashSet::with_capacity(document.annotations.len()), 0);
        for record in document.annotations {
            let (id, image, category) = (record.id, record.image_id, record.category_id);
            if !ids.insert(id) {
                return Err(format!("annotation {id} occurs twice"));
            }
            let Some(place) = place_of.get(&image) else {
                return Err(format!("annotation {id} is of image {image}, which is not in `images`"));
            };
            let Some(label) = label_of.get(&category) else {
                return Err(format!(
                    "annotation {id} is of category {category}, which is not in `categories`"
                ));
            };
            let objects = &mut images[*place].1;
            match record.object(*label, objects.size) {
                Ok(object) => objects.objects.push(object),
                Err(OutlineError::Degenerate(_)) if degenerate < self.allowed_degenerate => degenerate += 1,
                Err(error) => return Err(format!("annotation {id} (image {image}): {error}")),
            }
        }
        if self.drop_empty {
            images.retain(|(_, image)| image.objects.iter().any(|object| !object.crowd));
        }
        Ok((images, classes, categories))
    }
}

impl ImageRecord {
    /// Path of the image below the images of the split. LVIS gives the address of COCO's file instead: its last two
    /// parts.
    fn name(&self) -> Result<String, String> {
        match (&self.file_name, &self.coco_url) {
            (Some(name), _) if !name.is_empty() => Ok(name.clone()),
            (_, Some(url)) if !url.is_empty() => {
                let parts: Vec<&str> = url.rsplit('/').take(2).collect();
                Ok(parts.into_iter().rev().collect::<Vec<_>>().join("/"))
            }
            _ => Err(format!("image {} has neither `file_name` nor `coco_url`", self.id)),
        }
    }
}

impl AnnotationRecord {
    fn object(self, label: u32, size: (usize, usize)) -> Result<Object, OutlineError> {
        let segmentation = self.segmentation.segmentation(size)?;
        let bbox = match (self.bbox, &segmentation) {
            (Some(bbox), _) => bbox,
            (None, Segmentation::None) => {
                return Err(OutlineError::Wrong("has neither `bbox` nor `segmentation`".into()));
            }
            (None, Segmentation::Polygons(rings)) => around(rings),
            (None, Segmentation::Rle(rle)) => rle.bbox(),
        };
        let [_, _, w, h] = bbox;
        if bbox.iter().any(|v| !v.is_finite()) || w < 0. || h < 0. {
            let message = format!("bbox {bbox:?} is not a box (x, y, width, height)");
            return Err(OutlineError::Wrong(message));
        }
        if w == 0. || h == 0. {
            return Err(OutlineError::Degenerate(format!("bbox {bbox:?} has no area")));
        }
        let mut object = Object { label, bbox, segmentation, crowd: self.iscrowd.into(), area: w * h };
        object.area = match self.area {
            Some(area) if area.is_finite() && area >= 0. => area,
            Some(area) => return Err(OutlineError::Wrong(format!("area is {area}"))),
            None => {
                let mask = object.mask(size).map_err(OutlineError::Wrong)?;
                mask.map_or(w * h, |mask| mask.area() as f64)
            }
        };
        Ok(object)
    }
}

/// The box around all rings: x, y, width, height.
fn around(rings: &[Vec<f64>]) -> [f64; 4] {
    let along = |axis: usize| {
        let values = rings.iter().flat_map(|ring| ring.iter().skip(axis).step_by(2));
        values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(*v), high.max(*v)))
    };
    let ((x1, x2), (y1, y2)) = (along(0), along(1));
    [x1, y1, x2 - x1, y2 - y1]
}

/// Labels by category id; names and the rest in the order of labels.
type Classes = (HashMap<u64, u32>, Vec<String>, Vec<Category>);

fn classes(found: Vec<CategoryRecord>) -> Result<Classes, String> {
    let (mut by_id, mut names) = (BTreeMap::new(), HashSet::new());
    for class in found {
        if !names.insert(class.name.clone()) {
            return Err(format!("category name `{}` occurs twice", class.name));
        }
        let id = class.id;
        if by_id.insert(id, class).is_some() {
            return Err(format!("category {id} occurs twice"));
        }
    }
    if by_id.is_empty() {
        return Err("`categories` is empty".into());
    }
    let label_of = by_id.keys().copied().zip(0..).collect();
    let categories = by_id.values().map(|class| Category { id: class.id, frequency: class.frequency });
    let categories = categories.collect();
    Ok((label_of, by_id.into_values().map(|class| class.name).collect(), categories))
}

#[cfg(test)]
mod tests;
