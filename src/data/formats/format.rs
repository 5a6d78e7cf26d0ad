//! [`Format`]: the interface of file layouts.

use super::super::{Annotation, DataError, Entry, ImageRef, Index, Orientation, SampleId};
use crate::config::{Tag, Tagged};
use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};

/// The key `format` of the tables of [`Annotations`].
#[derive(Debug)]
pub struct FormatKey;

impl Tag for FormatKey {
    const KEY: &'static str = "format";
}

/// How a split is annotated: the name of a format and its options. [`Formats`](super::Formats) has the formats by name.
pub type Annotations = Tagged<FormatKey>;

/// A layout of files. The type contains the options of one split: the keys next to `format` in the
/// table `annotations` of a manifest. Derive `Deserialize` with `deny_unknown_fields`, so that a misspelt key is an
/// error.
pub trait Format: DeserializeOwned + Serialize + JsonSchema + 'static {
    /// The value of `format` in a manifest.
    const NAME: &'static str;

    /// Checks the options before any data are read. `class_names` are those of the manifest, in label order.
    ///
    /// # Errors
    /// Invalid options.
    fn check(&self, _class_names: Option<&[String]>) -> Result<(), String> {
        Ok(())
    }

    /// Whether images are turned as their EXIF data say, where the manifest does not say it.
    fn orientation(&self) -> Orientation {
        Orientation::Ignore
    }

    /// Lists the images of a split with their annotations, without decoding images.
    ///
    /// # Errors
    /// Files that do not exist or do not have this layout; the error names the file.
    fn index(&self, split: &SplitSource) -> Result<Index, DataError>;
}

/// The input of a [`Format`]: one split of a data set on disk.
#[derive(Clone, Copy, Debug)]
pub struct SplitSource<'a> {
    /// The folder of the data set. Paths of a manifest are relative to it.
    pub root: &'a Path,
    /// The manifest's `images` of the split: a folder, or a container file, relative to `root`.
    pub images: &'a Path,
    /// Class names of the manifest, in label order; `None` if it has none.
    pub class_names: Option<&'a [String]>,
}

impl SplitSource<'_> {
    /// [`SplitSource::images`] below the root, without `.` in it.
    pub fn folder(&self) -> PathBuf {
        self.path(self.images)
    }

    /// A path of the manifest below the root, without `.` in it.
    pub fn path(&self, relative: &Path) -> PathBuf {
        self.root.join(relative).components().collect()
    }

    /// The path of an image that a file lists as `listed`: below the images of the split, also when it begins with a slash.
    ///
    /// A path of the machine into that folder is that path. Where there is no such file, `\` separates folders as on Windows, and a name may also repeat the folder of the images.
    pub fn listed_image(&self, listed: &str) -> PathBuf {
        let below = |folder: &Path, name: &str| -> PathBuf {
            folder.join(name.trim_start_matches('/')).components().collect()
        };
        let (folder, slashed) = (self.folder(), listed.replace('\\', "/"));
        if Path::new(listed).starts_with(&folder) && Path::new(listed).is_absolute() {
            return listed.into();
        }
        let raw = below(&folder, listed);
        let from_root = below(self.root, &slashed);
        let repeats = folder != below(self.root, "") && from_root.starts_with(&folder);
        if (slashed == listed && !repeats) || raw.exists() {
            return raw;
        }
        let others = [below(&folder, &slashed)].into_iter().chain(repeats.then_some(from_root));
        others.into_iter().find(|path| path.exists()).unwrap_or(raw)
    }

    /// An entry whose id is the path of its image below the root.
    pub fn entry(&self, image: PathBuf, annotation: Annotation) -> Entry {
        let below = image.strip_prefix(self.root).unwrap_or(&image);
        let id = below.to_string_lossy().replace('\\', "/");
        Entry { id: SampleId::new(id), image: ImageRef::File(image), annotation }
    }
}
