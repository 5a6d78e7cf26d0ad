//! [`Images`]: the entries of `images`, to which annotations refer.

use super::super::super::json::{NumberList, RecordId, Scalar};
use super::super::super::{Objects, Size};
use super::classes::Classes;
use serde::Deserialize;
use std::collections::{HashMap, HashSet};

/// An entry of `images` as it is written.
#[derive(Debug, PartialEq, Deserialize)]
pub(super) struct ImageRecord {
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

/// The images of a file.
#[derive(Default)]
pub(super) struct Images {
    /// File names with their objects.
    pub found: Vec<(String, Objects)>,
    /// Places in `found` by id.
    pub place_of: HashMap<RecordId, usize>,
    /// Number of records that repeat an earlier one.
    pub repeated: usize,
    /// Number of images without a stated size, which were measured.
    pub measured: usize,
    /// Places of their records by id.
    record_of: HashMap<RecordId, usize>,
    names: HashSet<String>,
}

/// (height, width) of an image by its file name, as it is shown; an error says why it cannot be measured.
pub(super) type Measure<'a> = &'a dyn Fn(&str) -> Result<Size, String>;

impl Images {
    /// Adds the record at `place` of `records`, or its flaw. `measure` is asked for sizes that the record does not state.
    pub(super) fn add(
        &mut self,
        place: usize,
        records: &[ImageRecord],
        classes: &Classes,
        measure: Measure,
        flaws: &mut Vec<String>,
    ) {
        let record = &records[place];
        let id = match record.id.id() {
            Ok(Some(id)) => id,
            Ok(None) => return flaws.push(format!("images[{place}]: there is no `id`")),
            Err(flaw) => return flaws.push(format!("images[{place}]: `id` {flaw}")),
        };
        // An image with another flaw is an image all the same: its annotations are not of an unknown one.
        if self.place_of.contains_key(&id) {
            if self.record_of.get(&id).is_some_and(|first| records[*first] == *record) {
                self.repeated += 1;
                return;
            }
            return flaws.push(format!("image {id} occurs twice, with different values"));
        }
        self.place_of.insert(id.clone(), self.found.len());
        self.record_of.insert(id.clone(), place);
        let mut read = || {
            let first = self.found.first().map(|(_, objects)| &objects.image_id);
            if let Some(first) = first.filter(|first| !first.is_like(&id)) {
                return Err(format!(
                    "ids must be all numbers or all words to be scored, and that of the first image is {first}"
                ));
            }
            let name = record.name()?;
            // Names with backslashes and with slashes may be one file.
            if !self.names.insert(name.replace('\\', "/")) {
                return Err(format!("file `{name}` occurs twice"));
            }
            let side = |name: &str, value: &Scalar| match value.whole() {
                Ok(side) => Ok(side.filter(|side| *side > 0).map(|side| side as usize)),
                Err(flaw) => Err(format!("`{name}` {flaw}")),
            };
            let size = match (side("height", &record.height)?, side("width", &record.width)?) {
                (Some(height), Some(width)) => (height, width),
                _ => {
                    self.measured += 1;
                    measure(&name).map_err(|why| {
                        format!("`{name}` has no `width` and `height`, and cannot be measured: {why}")
                    })?
                }
            };
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

impl Images {
    /// What was left out or measured, with counts.
    pub(super) fn notes(&self) -> Vec<String> {
        [
            (self.repeated, "images that are listed twice with the same values are read once"),
            (self.measured, "images without `width` and `height` are measured"),
        ]
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{what}: {count}"))
        .collect()
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
