//! `datasets/<name>/dataset.toml`: where the files of a data set are and in which format. A manifest says nothing about
//! tasks.
//!
//! [`Dataset::load`] reads a manifest, [`Dataset::root`] finds the data, [`Dataset::index`] reads one split of it.

use super::classes::{are, label, labels_of, list, names_in, without_images};
use super::formats::{Formats, SplitSource, unlabelled};
use super::{Annotation, Category, DataError, DenseMapFile, Entry, ImageRef, Index, Orientation, RecordId};
use crate::config::{ConfigError, Library, parse};
use crate::files;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

mod folds;
mod split;

pub use folds::Folds;
pub use split::{Sequences, Split};

/// A parsed `dataset.toml`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Dataset {
    /// The name of its folder in `datasets/`.
    pub name: String,
    /// Free text that distinguishes releases (`2012`, `fine`, `v1`).
    pub version: String,
    /// Address where the data set is published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub homepage: Option<String>,
    /// Its licence, in words.
    pub license: String,
    /// A file of class names, one per line, in label order; its path is relative to the manifest. When absent, labels follow
    /// the order that the format defines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classes: Option<PathBuf>,
    /// How to get the data; shown when they are missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub get: Option<String>,
    /// How file names tell the sequence of a video frame. Frames of one sequence are not independent, so the standard errors
    /// of scores come from resampling sequences. When absent, images are taken as independent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequences: Option<Sequences>,
    /// Whether images are turned as the EXIF data of their files say. When absent, they are turned for the format `coco_json`
    /// and not for others. A TIFF is always turned, as by Pillow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub orientation: Option<Orientation>,
    /// Its splits by name.
    #[serde(rename = "split")]
    pub splits: BTreeMap<String, Split>,
    /// Class names from the file `classes`.
    #[serde(skip)]
    class_names: Option<Vec<String>>,
    /// The origin of the manifest, for messages.
    #[serde(skip)]
    origin: String,
    /// The registered formats.
    #[serde(skip)]
    formats: Formats,
}

/// The description of a data set that tasks receive.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatasetInfo {
    /// The name of the data set.
    pub name: String,
    /// The release.
    pub version: String,
    /// Class names in label order.
    pub classes: Vec<String>,
    /// Category ids in label order, where the annotations have them; otherwise empty.
    pub categories: Vec<Category>,
    /// How ids tell the sequence of a video frame; `None` for single images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequences: Option<Sequences>,
}

/// The file of a manifest in its folder.
const MANIFEST: &str = "dataset.toml";

/// The path of the annotations of a split in a manifest.
fn annotations_key(split: &str) -> String {
    format!("split.{split}.annotations")
}

impl Dataset {
    /// Reads `datasets/<name>/dataset.toml` of the library or, if `name` is a path, that `dataset.toml` or the one in
    /// that folder. The format of each split, one of `formats`, checks its annotations.
    ///
    /// # Errors
    /// An unknown name, a manifest that does not parse, options that their format refuses, a missing list of classes or
    /// one with duplicates; two formats with the same name.
    pub fn load(library: &Library, name: &str, formats: &Formats) -> Result<Self, DataError> {
        formats.check()?;
        let home = format!("datasets/{name}");
        let is_path = name.contains(['/', '\\']) || name.ends_with(".toml");
        if !is_path && let Ok((text, origin)) = library.text(&format!("{home}/{MANIFEST}")) {
            let dataset = Self::read(&text, origin, formats, |file| library.text(&format!("{home}/{file}")))?;
            if dataset.name != name {
                let message = format!("name is `{}`, but the folder is `{name}`", dataset.name);
                return Err(ConfigError::new(dataset.origin, message).into());
            }
            return Ok(dataset);
        }
        let given = Path::new(name);
        let file = if given.is_dir() { given.join(MANIFEST) } else { given.into() };
        if !file.is_file() && !is_path {
            return Err(library.unknown("data set", name, "datasets").into());
        }
        let read = |file: &Path| {
            let bytes = files::read(file).map_err(|e| ConfigError::new(file.display(), e))?;
            let text = files::utf8(&bytes).map_err(|e| ConfigError::new(file.display(), e))?;
            Ok((text.into_owned(), file.display().to_string()))
        };
        let (text, origin) = read(&file)?;
        Self::read(&text, origin, formats, |beside| read(&file.with_file_name(beside)))
    }

    /// Parses and checks the manifest `text`, which came from `origin`; `beside` reads a file in the same folder.
    fn read(
        text: &str,
        origin: String,
        formats: &Formats,
        beside: impl Fn(&str) -> Result<(String, String), ConfigError>,
    ) -> Result<Self, DataError> {
        let mut dataset: Self = parse(text, &origin)?;
        if dataset.splits.is_empty() {
            return Err(ConfigError::new(origin, "has no [split.<name>]").into());
        }
        if let Some(file) = &dataset.classes {
            let (text, origin) = beside(&file.to_string_lossy())?;
            let names = names_in(&text, '\t').map_err(|e| ConfigError::new(origin, e))?;
            dataset.class_names = Some(names);
        }
        if let Some(Sequences { separator, fields }) = &dataset.sequences
            && (separator.is_empty() || *fields == 0)
        {
            let message = "`sequences` needs a `separator` that is not empty and `fields` of at least 1";
            return Err(ConfigError::new(origin, message).into());
        }
        (dataset.origin, dataset.formats) = (origin, formats.clone());
        for (name, split) in &dataset.splits {
            let folds = split.folds.as_ref().map_or(Ok(()), Folds::check);
            folds.map_err(|e| ConfigError::new(&dataset.origin, format!("`split.{name}`: {e}")))?;
            let Some(annotations) = &split.annotations else { continue };
            let key = annotations_key(name);
            let format = formats.parse(annotations, &dataset.origin, &key)?;
            let wrong = |e| ConfigError::new(&dataset.origin, format!("`{key}`: {e}"));
            format.check(dataset.class_names()).map_err(wrong)?;
        }
        Ok(dataset)
    }

    /// The data set of a manifest that is not in a file yet: `text`, which `origin` names in messages. It has no file of classes.
    ///
    /// # Errors
    /// Those of [`Dataset::load`].
    pub fn of_text(text: &str, origin: &str, formats: &Formats) -> Result<Self, DataError> {
        let beside = |file: &str| Err(ConfigError::new(file, "there is no such file"));
        Self::read(text, origin.into(), formats, beside)
    }

    /// The images below `path`, without labels: a data set of one split, `train`.
    ///
    /// # Errors
    /// A folder that does not exist.
    pub fn from_folder(path: &Path) -> Result<Self, DataError> {
        let name = path.canonicalize().map_err(|e| DataError::file(path, e))?;
        let name = name.file_name().map_or("images".into(), |n| n.to_string_lossy().to_string());
        let split = Split::of_images(".");
        Ok(Self {
            name,
            version: "folder".into(),
            homepage: None,
            license: "unknown".into(),
            classes: None,
            get: None,
            sequences: None,
            orientation: None,
            splits: BTreeMap::from([("train".into(), split)]),
            class_names: None,
            origin: path.display().to_string(),
            formats: Formats::empty(),
        })
    }

    /// Path of the data: `data` (`--data`) if given, else `<bench_data>/<name>` (`$BENCH_DATA`).
    ///
    /// # Errors
    /// A missing folder; the error lists the places that were searched and says how to get the data.
    pub fn root(&self, data: Option<&Path>, bench_data: Option<&Path>) -> Result<PathBuf, DataError> {
        let missing = |looked| DataError::Missing { name: self.name.clone(), looked, get: self.get.clone() };
        let root = match (data, bench_data) {
            (Some(root), _) => root.to_path_buf(),
            (None, Some(root)) => root.join(&self.name),
            (None, None) => {
                let looked =
                    "BENCH_DATA is not set; set it to the folder that holds data sets, or pass --data DIR";
                return Err(missing(looked.into()));
            }
        };
        if root.is_file() {
            return Err(DataError::file(&root, "is a file, but the root of a data set must be a folder"));
        }
        if root.is_dir() { Ok(root) } else { Err(missing(format!("looked in `{}`", root.display()))) }
    }

    /// Class names of the manifest's file, in label order.
    pub(super) fn class_names(&self) -> Option<&[String]> {
        self.class_names.as_deref()
    }

    /// The entries of a split, with labels by the class names of the manifest if it has any.
    ///
    /// # Errors
    /// An unknown or empty split, or one that its format cannot read; classes that the manifest does not list; labels out of
    /// range.
    pub fn index(&self, root: &Path, name: &str) -> Result<Index, DataError> {
        let Some(split) = self.splits.get(name) else {
            let known = self.splits.keys().cloned().collect::<Vec<_>>().join(", ");
            return Err(DataError::Split { dataset: self.name.clone(), split: name.into(), known });
        };
        let source = SplitSource { root, images: &split.images, class_names: self.class_names() };
        let (mut index, usual) = match &split.annotations {
            None => (unlabelled(&source)?, Orientation::Ignore),
            Some(annotations) => {
                let format = self.formats.parse(annotations, &self.origin, &annotations_key(name))?;
                (format.index(&source)?, format.orientation())
            }
        };
        let orientation = self.orientation.unwrap_or(usual);
        index.entries.iter_mut().for_each(|entry| entry.image.orient(orientation));
        if index.entries.is_empty() {
            return Err(DataError::file(&source.folder(), "there are no images"));
        }
        let fail = |message| DataError::Classes { dataset: self.name.clone(), split: name.into(), message };
        self.match_classes(&mut index).map_err(fail)?;
        split.keep(self.sequences.as_ref(), &mut index.entries).map_err(fail)?;
        if let Some(names) = self.class_names.as_ref().or(index.classes.as_ref()) {
            index.notes.extend(without_images(&index.entries, names));
        }
        Ok(index)
    }

    /// The entries of a split that is scored, with labels by the names of `classes`, those of the split `trained` on. Classes
    /// of which the split has nothing are noted.
    ///
    /// # Errors
    /// As [`Dataset::index`]; a class that is not among `classes`.
    pub fn index_scored(
        &self,
        root: &Path,
        name: &str,
        (trained, classes): (&str, &[String]),
    ) -> Result<Index, DataError> {
        let mut index = self.index(root, name)?;
        let found = self.info(&index).classes;
        if found != classes {
            let extra: Vec<&str> =
                found.iter().filter(|class| !classes.contains(class)).map(String::as_str).collect();
            if !extra.is_empty() {
                let absent = classes.iter().filter(|class| !found.contains(class)).map(String::as_str);
                let absent: Vec<&str> = absent.collect();
                let only = if absent.is_empty() {
                    String::new()
                } else {
                    format!("; only in `{trained}`: {}", list(absent.into_iter()))
                };
                let message = format!("{} not among the classes of split `{trained}`{only}", are(&extra));
                let dataset = self.name.clone();
                return Err(DataError::Classes { dataset, split: name.into(), message });
            }
            let labels = labels_of(found.iter().map(String::as_str), classes).unwrap_or_default();
            index.relabel(&labels);
            // Ids of categories are those of the file, in the order of its own labels.
            index.categories = vec![];
            index.classes = Some(classes.to_vec());
        }
        let absent: Vec<&str> =
            classes.iter().filter(|class| !found.contains(class)).map(String::as_str).collect();
        if !absent.is_empty() {
            let classes = if absent.len() == 1 { "class" } else { "classes" };
            index.notes.push(format!("there is nothing of the {classes} {}", list(absent.into_iter())));
        }
        Ok(index)
    }

    /// Maps labels to the order of the manifest's class names, and checks their range.
    fn match_classes(&self, index: &mut Index) -> Result<(), String> {
        if let (Some(names), Some(found)) = (&self.class_names, &index.classes) {
            let labels = labels_of(found.iter().map(String::as_str), names)?;
            index.relabel(&labels);
            if !index.categories.is_empty() {
                // A class that the file lacks gets an id that the file does not use.
                let largest = index.categories.iter().filter_map(|category| category.id.number()).max();
                let unused = largest.map_or(0, |id| id + 1);
                let mut categories: Vec<Category> = (0..names.len() as i128)
                    .map(|label| Category { id: RecordId::Number(unused + label), frequency: None })
                    .collect();
                for (label, category) in labels.iter().zip(std::mem::take(&mut index.categories)) {
                    categories[*label as usize] = category;
                }
                index.categories = categories;
            }
            index.classes = Some(names.clone());
        }
        let Some(names) = self.class_names.as_ref().or(index.classes.as_ref()) else { return Ok(()) };
        let outside = |entry: &&Entry| label(entry).is_some_and(|label| label as usize >= names.len());
        if let Some(entry) = index.entries.iter().find(outside) {
            return Err(format!(
                "`{}` has label {}, expected less than {}, the number of classes",
                entry.id,
                label(entry).unwrap_or_default(),
                names.len()
            ));
        }
        Ok(())
    }

    /// The description of the data set for tasks, from the index of a split.
    pub fn info(&self, index: &Index) -> DatasetInfo {
        let classes = self.class_names.clone().or_else(|| index.classes.clone()).unwrap_or_default();
        let categories = index.categories.clone();
        DatasetInfo {
            name: self.name.clone(),
            version: self.version.clone(),
            classes,
            categories,
            sequences: self.sequences.clone(),
        }
    }

    /// A blake3 hash, in hexadecimal, over ids, annotations and whether EXIF orientation is applied, which distinguishes data sets of the same name. It does
    /// not cover pixels, nor the content of masks and maps.
    pub fn fingerprint<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> String {
        let mut hasher = blake3::Hasher::new();
        for entry in entries {
            let annotation = match &entry.annotation {
                Annotation::None => String::new(),
                Annotation::Label(label) => format!("label {label}"),
                Annotation::Objects(objects) => format!("objects {}", objects.digest()),
                // The path of the data must not matter.
                Annotation::Raster(mask) => format!("raster {:?} {:?}", mask.path.file_name(), mask.encoding),
                Annotation::DenseMap(DenseMapFile { path, scale, offset, invalid }) => {
                    format!("dense map {:?} {scale} {offset} {invalid:?}", path.file_name())
                }
            };
            let upright = if matches!(entry.image, ImageRef::Upright(_)) { "\tupright" } else { "" };
            hasher.update(format!("{}\t{annotation}{upright}\n", entry.id).as_bytes());
        }
        hasher.finalize().to_hex().to_string()
    }
}

#[cfg(test)]
mod tests;
