//! `datasets/<name>/dataset.toml`: where bytes lie and in which format; no word about tasks.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A parsed `dataset.toml`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dataset {
    pub name: String,
    /// Free text that tells releases apart (`2012`, `fine`, `v1`).
    pub version: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub homepage: Option<String>,
    pub license: String,
    /// Class names, one a line, in label order; relative to the manifest. The layout's own order otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classes: Option<PathBuf>,
    /// How to get it, shown when the data is not there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub get: Option<String>,
    #[serde(rename = "split")]
    pub splits: BTreeMap<String, Split>,
    /// The folder the manifest was read from.
    #[serde(skip)]
    pub home: PathBuf,
}

/// One split of a data set.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Split {
    /// Folder, or container file, of the images, relative to the data root.
    pub images: PathBuf,
    /// Number of images, verified by `bench data check`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<usize>,
    /// At most this many entries per class, the first by id (few-label splits).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_class: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<Annotations>,
}

/// How a split is annotated, by format.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "format", rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Annotations {
    /// Class folders below `images`.
    ImageFolder {},
    /// A table with a header line; `image` and `label` name its columns.
    Csv { file: PathBuf, image: String, label: String },
    /// MNIST's container format (optionally gzip-compressed); `images` is the idx3 file.
    Idx { labels: PathBuf },
}

/// What a task may know of its data set.
#[derive(Clone, Debug, Default)]
pub struct DatasetInfo {
    pub name: String,
    pub version: String,
    /// Class names in label order.
    pub classes: Vec<String>,
}

/// Errors of manifests and indices: each names its file.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    #[error("{}: {message}", path.display())]
    File { path: PathBuf, message: String },
    #[error("data set `{name}` is not there: looked in {}{}", looked.display(), get.as_deref().map(|g| format!("\nhow to get it: {g}")).unwrap_or_default())]
    Missing { name: String, looked: PathBuf, get: Option<String> },
    #[error("data set `{dataset}` has no split `{split}`; it has: {known}")]
    Split { dataset: String, split: String, known: String },
}

impl DataError {
    pub fn file(path: &Path, message: impl std::fmt::Display) -> Self {
        Self::File { path: path.into(), message: message.to_string() }
    }
}
