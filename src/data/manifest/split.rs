//! [`Split`]: where the images of a split are, how they are annotated, and which of them it keeps.

use super::folds::Folds;
use crate::data::Entry;
use crate::data::classes::{keep_per_class, list};
use crate::data::formats::Annotations;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::path::PathBuf;

/// One split of a data set.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Split {
    /// Folder, or container file, of the images, relative to the data root.
    pub images: PathBuf,
    /// Number of images, verified by `bench data check`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<usize>,
    /// Keeps only the images of these sequences, as `sequences` of the manifest tells them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequences: Option<Vec<String>>,
    /// Keeps only some of several equal parts, for data without a validation split: `{ of = 5, keep = [0, 1, 2, 3] }` for
    /// training, `{ of = 5, keep = [4] }` for validation. The two splits need the same other keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub folds: Option<Folds>,
    /// Leaves out this many entries per class, the first ones of the index: those that another split keeps by `per_class`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skip_per_class: Option<usize>,
    /// Keeps only this many entries per class, the first ones of the index (few-label splits) after those of
    /// `skip_per_class`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_class: Option<usize>,
    /// Keeps the entries from the first number to before the second, counted from 0 in the order of the index (by name, or as
    /// in the annotation file), as `train[0:300]` does in TensorFlow Datasets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entries: Option<[usize; 2]>,
    /// How the images are annotated; `None` for images without labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<Annotations>,
}

impl Split {
    /// All images below the folder `images`, without annotations.
    pub fn of_images(images: impl Into<PathBuf>) -> Self {
        Self {
            images: images.into(),
            count: None,
            sequences: None,
            folds: None,
            skip_per_class: None,
            per_class: None,
            entries: None,
            annotations: None,
        }
    }

    /// Keeps the entries that the keys of this split ask for; `sequences` is that of the manifest.
    ///
    /// # Errors
    /// Keys that the entries do not fit.
    pub(super) fn keep(&self, sequences: Option<&Sequences>, entries: &mut Vec<Entry>) -> Result<(), String> {
        if let Some(kept) = &self.sequences {
            let Some(sequences) = sequences else {
                return Err("`sequences` of a split needs `sequences` of the manifest".into());
            };
            let of = |entry: &Entry| {
                let name = sequences.of(entry.id.as_str());
                name.rsplit('/').next().unwrap_or(name).to_string()
            };
            let found: BTreeSet<String> = entries.iter().map(of).collect();
            if let Some(missing) = kept.iter().find(|name| !found.contains(*name)) {
                let found = list(found.iter().map(String::as_str));
                return Err(format!("has no image of the sequence `{missing}`; there are {found}"));
            }
            entries.retain(|entry| kept.contains(&of(entry)));
        }
        if let Some(folds) = &self.folds {
            folds.keep(entries);
        }
        if self.per_class.is_some() || self.skip_per_class.is_some() {
            let first = self.skip_per_class.unwrap_or(0);
            keep_per_class(entries, first, self.per_class.unwrap_or(usize::MAX))?;
        }
        if let Some([first, end]) = self.entries {
            let there = entries.len();
            if first >= end.min(there) {
                return Err(format!("`entries = [{first}, {end}]` keeps none of its {there} entries"));
            }
            *entries = entries.drain(first..end.min(there)).collect();
        }
        if entries.is_empty() {
            return Err("its keys leave no images".into());
        }
        Ok(())
    }
}

/// How the name of an image tells the sequence of video frames that it belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Sequences {
    /// What separates the fields of a file name: `_` in `0016E5_07959.jpg`.
    pub separator: String,
    /// Number of fields at the start of the file name that name the sequence; at least 1.
    pub fields: usize,
}

impl Sequences {
    /// The sequence of the image `id`: its folders and the first fields of its name, or all of it if it has no more fields.
    pub fn of<'a>(&self, id: &'a str) -> &'a str {
        let name = id.rfind('/').map_or(0, |slash| slash + 1);
        let ends = id[name..].match_indices(&self.separator);
        let end = ends.map(|(place, _)| name + place).nth(self.fields.saturating_sub(1));
        &id[..end.unwrap_or(id.len())]
    }
}
