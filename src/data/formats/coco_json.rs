//! Format `coco_json`: objects with boxes and masks, in the JSON layout of COCO; also that of LVIS and similar files.
//!
//! `images` (id, width, height, and file_name or, in LVIS, coco_url), `annotations` (image_id, category_id, bbox, and
//! optionally id, segmentation, area, iscrowd) and `categories` (id, name). Labels follow the order of category ids;
//! other fields are ignored. Entries are in the order of `images`, including images without objects.
//!
//! All flaws of a file are collected. Everything is checked here except the size of the images, which is checked when they
//! are decoded ([`Objects::fits`]), and outlines, which only tasks with masks need.

mod annotation;
mod outline;

pub(crate) use annotation::to_box;
pub(crate) use outline::{Outline, ReadOutline};

use super::super::json::{NumberList, Object as Named, RecordId, Records, Scalar, parse};
use super::super::{Annotation, Category, DataError, Frequency, Index, Objects};
use super::format::{Format, SplitSource};
use annotation::{AnnotationRecord, Found};
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

#[derive(Deserialize)]
struct ImageRecord {
    #[serde(default)]
    id: Scalar,
    #[serde(default)]
    width: Scalar,
    #[serde(default)]
    height: Scalar,
    #[serde(default)]
    file_name: Scalar,
    #[serde(default)]
    coco_url: Scalar,
    #[serde(default)]
    neg_category_ids: NumberList,
    #[serde(default)]
    not_exhaustive_category_ids: NumberList,
}

#[derive(Deserialize)]
struct CategoryRecord {
    #[serde(default)]
    id: Scalar,
    #[serde(default)]
    name: Scalar,
    #[serde(default)]
    frequency: Scalar,
}

impl Format for CocoJson {
    const NAME: &'static str = "coco_json";

    fn index(&self, split: &SplitSource) -> Result<Index, DataError> {
        let file = split.root.join(&self.file);
        let text = std::fs::read(&file).map_err(|e| DataError::file(&file, e))?;
        let Content { images, classes, categories, notes } =
            self.read(text).map_err(|flaws| DataError::flaws(&file, flaws))?;
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
    /// Reads the bytes of a file.
    ///
    /// # Errors
    /// Every flaw with its place.
    pub fn read(&self, text: Vec<u8>) -> Result<Content, Vec<String>> {
        let Named(document) = parse::<Named<Document>>(text).map_err(|flaw| vec![flaw])?;
        let mut flaws = vec![];
        let content = self.objects(document, &mut flaws);
        if flaws.is_empty() { Ok(content) } else { Err(flaws) }
    }

    fn objects(&self, document: Document, flaws: &mut Vec<String>) -> Content {
        let records = document.images.required("images", flaws);
        let annotations = document.annotations.required("annotations", flaws);
        let mut classes = Classes::read(&document.categories.required("categories", flaws), flaws);
        let mut images = Images::default();
        for (place, record) in records.iter().enumerate() {
            images.add(place, record, &classes, flaws);
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
            flaws.extend(counts.flawed.drain(..));
        }
        let mut notes = std::mem::take(&mut classes.notes);
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

/// Numbers of what was left out or is used in part.
#[derive(Debug, Default)]
struct Counts {
    /// Rings without area beside others, and the first annotation with one.
    rings: (usize, String),
    /// Annotations without area.
    degenerate: (usize, String),
    /// Outlines that cannot be drawn, and why.
    flawed: Vec<String>,
}

impl Counts {
    fn notes(self) -> impl Iterator<Item = String> {
        let Self { rings, degenerate, flawed } = self;
        let flawed = (flawed.len(), flawed.into_iter().next().unwrap_or_default());
        let lines = [
            (rings, "polygons of fewer than 3 points left out, their objects kept"),
            (
                degenerate,
                "annotations without area are not trained on and stay in scores (`allowed_degenerate`)",
            ),
            (flawed, "outlines cannot be drawn, which matters only to tasks with masks"),
        ];
        let line = |((count, first), what): ((usize, String), &str)| {
            (count > 0).then(|| format!("{count} {what}; the first: {first}"))
        };
        lines.into_iter().filter_map(line)
    }

    /// Counts, and keeps the first.
    fn count((count, first): &mut (usize, String), words: impl FnOnce() -> String) {
        *count += 1;
        if first.is_empty() {
            *first = words();
        }
    }
}

/// The images of a file.
#[derive(Default)]
struct Images {
    found: Vec<(String, Objects)>,
    place_of: HashMap<RecordId, usize>,
    names: HashSet<String>,
}

impl Images {
    /// Adds the record at `place` of `images`, or its flaw.
    fn add(&mut self, place: usize, record: &ImageRecord, classes: &Classes, flaws: &mut Vec<String>) {
        let id = match record.id.id() {
            Ok(Some(id)) => id,
            Ok(None) => return flaws.push(format!("images[{place}]: there is no `id`")),
            Err(flaw) => return flaws.push(format!("images[{place}]: `id` {flaw}")),
        };
        // An image with another flaw is an image all the same: its annotations are not of an unknown one.
        let twice = self.place_of.insert(id.clone(), self.found.len()).is_some();
        let mut read = || {
            if twice {
                return Err("occurs twice".to_string());
            }
            let first = self.found.first().map(|(_, objects)| &objects.image_id);
            if let Some(first) =
                first.filter(|first| std::mem::discriminant(*first) != std::mem::discriminant(&id))
            {
                return Err(format!(
                    "ids must be all numbers or all words to be scored, and that of the first image is {first}"
                ));
            }
            let name = record.name()?;
            // `a\\b` and `a/b` may be one file.
            if !self.names.insert(name.replace('\\', "/")) {
                return Err(format!("file `{name}` occurs twice"));
            }
            let side = |name: &str, value: &Scalar| match value.whole() {
                Ok(Some(side)) => Ok(side as usize),
                Ok(None) => Err(format!("there is no `{name}`")),
                Err(flaw) => Err(format!("`{name}` {flaw}")),
            };
            let size = (side("height", &record.height)?, side("width", &record.width)?);
            if size.0.checked_mul(size.1).is_none_or(|pixels| pixels == 0 || u32::try_from(pixels).is_err()) {
                return Err(format!("`{name}` has {}x{} pixels", size.0, size.1));
            }
            let absent = classes.labels("neg_category_ids", &record.neg_category_ids)?;
            let not_exhaustive =
                classes.labels("not_exhaustive_category_ids", &record.not_exhaustive_category_ids)?;
            Ok((name, Objects { image_id: id.clone(), size, objects: vec![], absent, not_exhaustive }))
        };
        let found = read().unwrap_or_else(|flaw| {
            flaws.push(format!("image {id}: {flaw}"));
            let (objects, absent, not_exhaustive) = (vec![], vec![], vec![]);
            (String::new(), Objects { image_id: id.clone(), size: (0, 0), objects, absent, not_exhaustive })
        });
        self.found.push(found);
    }
}

impl ImageRecord {
    /// Path of the image below the images of the split. LVIS gives the address of COCO's file instead: its last two
    /// parts.
    fn name(&self) -> Result<String, String> {
        let words = |name: &str, value: &Scalar| match value.word() {
            Ok(word) => Ok(word.map(String::from)),
            Err(flaw) => Err(format!("`{name}` {flaw}")),
        };
        if let Some(name) = words("file_name", &self.file_name)? {
            return Ok(name);
        }
        let url = words("coco_url", &self.coco_url)?.ok_or("has neither `file_name` nor `coco_url`")?;
        let parts: Vec<&str> = url.rsplit('/').take(2).collect();
        Ok(parts.into_iter().rev().collect::<Vec<_>>().join("/"))
    }
}

/// The categories of a file.
#[derive(Default)]
struct Classes {
    /// Labels by category id.
    label_of: HashMap<u64, u32>,
    /// Names in the order of labels, each once.
    names: Vec<String>,
    /// The rest in the order of labels.
    categories: Vec<Category>,
    notes: Vec<String>,
}

impl Classes {
    fn read(found: &[CategoryRecord], flaws: &mut Vec<String>) -> Self {
        let mut by_id: BTreeMap<u64, (String, Option<Frequency>)> = BTreeMap::new();
        for (place, record) in found.iter().enumerate() {
            match record.read() {
                Ok((id, class)) => {
                    if by_id.insert(id, class).is_some() {
                        flaws.push(format!("category {id} occurs twice"));
                    }
                }
                Err(flaw) => flaws.push(format!("categories[{place}]: {flaw}")),
            }
        }
        let mut count: BTreeMap<&str, usize> = BTreeMap::new();
        by_id.values().for_each(|(name, _)| *count.entry(name).or_default() += 1);
        let several = |name: &str| count.get(name).is_some_and(|count| *count > 1);
        let name = |(id, (name, _)): (&u64, &(String, _))| match several(name) {
            true => format!("{name} (id {id})"),
            false => name.clone(),
        };
        let names: Vec<String> = by_id.iter().map(name).collect();
        let note = |(name, count): (&&str, &usize)| {
            format!("{count} categories are named `{name}`: they are told apart as `{name} (id …)`")
        };
        let notes = count.iter().filter(|(name, _)| several(name)).map(note).collect();
        let category = |(id, (_, frequency)): (&u64, &(_, Option<Frequency>))| Category {
            id: *id,
            frequency: *frequency,
        };
        let (label_of, categories) =
            (by_id.keys().copied().zip(0..).collect(), by_id.iter().map(category).collect());
        Self { label_of, names, categories, notes }
    }

    /// The labels of a list of category ids in the field `name` of an image.
    fn labels(&self, name: &str, ids: &NumberList) -> Result<Vec<u32>, String> {
        let ids = ids.clone().numbers().map_err(|flaw| format!("`{name}` {flaw}"))?.unwrap_or_default();
        let label = |id: &f64| {
            let label = self.label_of.get(&(*id as u64)).filter(|_| id.fract() == 0. && *id >= 0.);
            label.copied().ok_or_else(|| format!("`{name}` has category {id}, which is not in `categories`"))
        };
        ids.iter().map(label).collect()
    }
}

impl CategoryRecord {
    /// Id, name and frequency.
    fn read(&self) -> Result<(u64, (String, Option<Frequency>)), String> {
        let id = self.id.whole().map_err(|flaw| format!("`id` {flaw}"))?.ok_or("there is no `id`")?;
        let name = match &self.name {
            Scalar::Whole(number) => number.to_string(),
            name => name.word().map_err(|flaw| format!("`name` {flaw}"))?.ok_or("there is no `name`")?.into(),
        };
        let frequency = match self.frequency.word().map_err(|flaw| format!("`frequency` {flaw}"))? {
            None => None,
            Some("r") => Some(Frequency::Rare),
            Some("c") => Some(Frequency::Common),
            Some("f") => Some(Frequency::Frequent),
            Some(other) => return Err(format!("`frequency` is \"{other}\", expected \"r\", \"c\" or \"f\"")),
        };
        Ok((id, (name, frequency)))
    }
}

#[cfg(test)]
mod tests;
