//! `datasets/<name>/dataset.toml`: where bytes lie and in which format; no word about tasks.

use super::{Annotation, Entry, Image, ImageRef, Index, formats};
use crate::config::{ConfigError, Library, parse};
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
    /// Class names as the file `classes` has them.
    #[serde(skip)]
    class_names: Option<Vec<String>>,
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
    /// A table of images and labels.
    Csv(Csv),
    /// MNIST's container format (optionally gzip-compressed); `images` is the idx3 file.
    Idx { labels: PathBuf },
    /// A COCO-like json with one category an image (iNaturalist).
    CocoLabels { file: PathBuf },
}

/// `format = "csv"`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Csv {
    /// Relative to the data root.
    pub file: PathBuf,
    /// Column of the file name, relative to `images`.
    pub image: String,
    /// Column of the class name or number.
    pub label: String,
    #[serde(default = "comma")]
    pub delimiter: char,
    /// Names of the columns of a file without header line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub columns: Option<Vec<String>>,
    /// Labels are names of the folders below this one, in their order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class_folders: Option<PathBuf>,
}

fn comma() -> char {
    ','
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
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("{}: {message}", path.display())]
    File { path: PathBuf, message: String },
    #[error(
        "data set `{name}` is not there: {looked}{}\n`bench demo` needs no data",
        get.as_deref().map(|get| format!("\nhow to get it: {get}")).unwrap_or_default()
    )]
    Missing { name: String, looked: String, get: Option<String> },
    #[error("data set `{dataset}` has no split `{split}`; it has: {known}")]
    Split { dataset: String, split: String, known: String },
    #[error("data set `{dataset}`, split `{split}`: {message}")]
    Classes { dataset: String, split: String, message: String },
}

impl DataError {
    pub fn file(path: &Path, message: impl std::fmt::Display) -> Self {
        Self::File { path: path.into(), message: message.to_string() }
    }
}

impl Dataset {
    /// Reads `datasets/<name>/dataset.toml`.
    pub fn load(library: &Library, name: &str) -> Result<Self, DataError> {
        let home = format!("datasets/{name}");
        let Ok((text, origin)) = library.text(&format!("{home}/dataset.toml")) else {
            return Err(library.unknown("data set", name, "datasets").into());
        };
        let mut dataset: Self = parse(&text, &origin)?;
        if dataset.name != name {
            let message = format!("name is `{}`, the folder `{name}`", dataset.name);
            return Err(ConfigError::new(origin, message).into());
        }
        if let Some(file) = &dataset.classes {
            let (text, _) = library.text(&format!("{home}/{}", file.display()))?;
            let names = text.lines().map(str::trim).filter(|line| !line.is_empty());
            dataset.class_names = Some(names.map(String::from).collect());
        }
        Ok(dataset)
    }

    /// The images below `path`, without labels: a data set of one split, `train`.
    pub fn from_folder(path: &Path) -> Result<Self, DataError> {
        let name = path.canonicalize().map_err(|e| DataError::file(path, e))?;
        let name = name.file_name().map_or("images".into(), |n| n.to_string_lossy().to_string());
        let split = Split { images: ".".into(), count: None, per_class: None, annotations: None };
        Ok(Self {
            name,
            version: "folder".into(),
            homepage: None,
            license: "unknown".into(),
            classes: None,
            get: None,
            splits: BTreeMap::from([("train".into(), split)]),
            class_names: None,
        })
    }

    /// Where the data lies: `data` (`--data`) if given, else `<bench_data>/<name>` (`$BENCH_DATA`).
    pub fn root(&self, data: Option<&Path>, bench_data: Option<&Path>) -> Result<PathBuf, DataError> {
        let missing = |looked| DataError::Missing { name: self.name.clone(), looked, get: self.get.clone() };
        let root = match (data, bench_data) {
            (Some(root), _) => root.to_path_buf(),
            (None, Some(root)) => root.join(&self.name),
            (None, None) => {
                let looked =
                    "BENCH_DATA is not set; set it to the folder that holds data sets, or give --data DIR";
                return Err(missing(looked.into()));
            }
        };
        if root.is_dir() { Ok(root) } else { Err(missing(format!("looked in `{}`", root.display()))) }
    }

    /// The entries of a split, checked against the class names of the manifest.
    ///
    /// # Errors
    /// An unknown split, an empty one, labels or class folders that the manifest does not have. That a class of the
    /// manifest has no images is no error here; [`Dataset::check`] says so.
    pub fn index(&self, root: &Path, name: &str) -> Result<Index, DataError> {
        let Some(split) = self.splits.get(name) else {
            let known = self.splits.keys().cloned().collect::<Vec<_>>().join(", ");
            return Err(DataError::Split { dataset: self.name.clone(), split: name.into(), known });
        };
        let mut index = formats::of(split, self.class_names.as_deref()).index(root, split)?;
        if index.entries.is_empty() {
            return Err(DataError::file(&root.join(&split.images), "there are no images"));
        }
        self.match_classes(name, &mut index)?;
        if let Some(most) = split.per_class {
            keep_per_class(&mut index.entries, most);
        }
        Ok(index)
    }

    /// What a task may know, from the index of a split.
    pub fn info(&self, index: &Index) -> DatasetInfo {
        let classes = self.class_names.clone().or_else(|| index.classes.clone()).unwrap_or_default();
        DatasetInfo { name: self.name.clone(), version: self.version.clone(), classes }
    }

    fn match_classes(&self, split: &str, index: &mut Index) -> Result<(), DataError> {
        let fail = |message| DataError::Classes { dataset: self.name.clone(), split: split.into(), message };
        let Some(names) = &self.class_names else { return Ok(()) };
        if let Some(found) = &index.classes {
            if let Some(extra) = found.iter().find(|name| !names.contains(name)) {
                return Err(fail(format!(
                    "class `{extra}` is not in the manifest's {} classes",
                    names.len()
                )));
            }
            // Labels follow the manifest, whatever the order of folders.
            let order: Vec<u32> =
                found.iter().filter_map(|f| names.iter().position(|n| n == f)).map(|i| i as u32).collect();
            for entry in &mut index.entries {
                if let Annotation::Label(label) = &mut entry.annotation {
                    *label = order[*label as usize];
                }
            }
            index.classes = Some(names.clone());
        }
        for entry in &index.entries {
            if let Annotation::Label(label) = entry.annotation
                && label as usize >= names.len()
            {
                return Err(fail(format!(
                    "label {label} of `{}`, there are {} classes",
                    entry.id,
                    names.len()
                )));
            }
        }
        Ok(())
    }

    /// blake3 over ids and annotations: tells data apart that bears the same name.
    pub fn fingerprint(entries: &[Entry]) -> String {
        let mut hasher = blake3::Hasher::new();
        for entry in entries {
            let line = match &entry.annotation {
                // Where the data lies must not matter.
                Annotation::Raster(path) => format!("{:?}", path.file_name()),
                other => format!("{other:?}"),
            };
            hasher.update(format!("{}\t{line}\n", entry.id).as_bytes());
        }
        hasher.finalize().to_hex().to_string()
    }

    /// Reads every split, and with `decode` every image.
    pub fn check(&self, root: &Path, decode: bool) -> Vec<SplitReport> {
        self.splits.iter().map(|(name, split)| self.check_split(root, name, split, decode)).collect()
    }

    fn check_split(&self, root: &Path, name: &str, split: &Split, decode: bool) -> SplitReport {
        let mut report = SplitReport { split: name.into(), images: 0, classes: 0, problems: vec![] };
        let index = match self.index(root, name) {
            Ok(index) => index,
            Err(error) => {
                report.problems.push(error.to_string());
                return report;
            }
        };
        report.images = index.entries.len();
        let mut labels: Vec<u32> = index.entries.iter().filter_map(label).collect();
        labels.sort_unstable();
        labels.dedup();
        report.classes = labels.len();
        if let Some(names) =
            self.class_names.as_ref().filter(|names| !labels.is_empty() && names.len() > labels.len())
        {
            report.problems.push(format!("{} of {} classes have images", labels.len(), names.len()));
        }
        if let Some(count) = split.count.filter(|count| *count != report.images) {
            report.problems.push(format!("{} images, the manifest says {count}", report.images));
        }
        for entry in index.entries.iter().filter(|_| decode) {
            if let ImageRef::File(path) = &entry.image
                && let Err(error) = Image::open(path, 3)
            {
                report.problems.push(error.to_string());
            }
        }
        report
    }
}

fn label(entry: &Entry) -> Option<u32> {
    match entry.annotation {
        Annotation::Label(label) => Some(label),
        _ => None,
    }
}

/// Keeps the first `most` entries of every class, in order.
fn keep_per_class(entries: &mut Vec<Entry>, most: usize) {
    let mut counts: BTreeMap<u32, usize> = BTreeMap::new();
    entries.retain(|entry| match entry.annotation {
        Annotation::Label(label) => {
            let count = counts.entry(label).or_default();
            *count += 1;
            *count <= most
        }
        _ => true,
    });
}

/// What [`Dataset::check`] found in a split.
#[derive(Clone, Debug)]
pub struct SplitReport {
    pub split: String,
    pub images: usize,
    pub classes: usize,
    pub problems: Vec<String>,
}

impl std::fmt::Display for SplitReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:<10} {} images", self.split, self.images)?;
        if self.classes > 0 {
            write!(f, ", {} classes", self.classes)?;
        }
        self.problems.iter().try_for_each(|problem| write!(f, "\n  problem: {problem}"))
    }
}
