//! One line of a dataset's index, and the trait of what produces it.

use super::{DataError, Image, Split};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Names a sample for error messages, logs and results: its path below the data root with `/`
/// separators, or `file#index` for container files. Ordered by bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SampleId(Arc<str>);

impl SampleId {
    pub fn new(id: impl AsRef<str>) -> Self {
        Self(id.as_ref().into())
    }
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for SampleId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where the pixels of an entry are.
#[derive(Clone, Debug)]
pub enum ImageRef {
    /// An encoded image file.
    File(PathBuf),
    /// Already decoded (container formats such as idx).
    Memory(Arc<Image>),
}

/// One object of a detection annotation, in source-image pixels.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    /// Contiguous class index, from 0.
    pub label: u32,
    /// x, y, width, height.
    pub bbox: [f32; 4],
    pub segmentation: Segmentation,
    /// A region of many objects, ignored by evaluation (COCO `iscrowd`).
    pub crowd: bool,
    /// Area in pixels as annotated.
    pub area: f32,
}

/// The outline of an object, as COCO stores it.
#[derive(Clone, Debug, PartialEq)]
pub enum Segmentation {
    None,
    /// Flat x, y lists, one per ring.
    Polygons(Vec<Vec<f32>>),
    /// Uncompressed column-major run lengths, starting with background.
    Rle {
        height: u32,
        width: u32,
        counts: Vec<u32>,
    },
}

/// What a dataset says about an image, before a task makes a target of it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Annotation {
    None,
    /// Class index, from 0.
    Label(u32),
    Objects(Vec<Object>),
    /// An id map of the same size as the image.
    Raster(PathBuf),
    Json(serde_json::Value),
}

/// One line of a dataset's index.
#[derive(Clone, Debug)]
pub struct Entry {
    pub id: SampleId,
    pub image: ImageRef,
    pub annotation: Annotation,
}

/// What a format found in one split.
#[derive(Clone, Debug, Default)]
pub struct Index {
    /// Sorted by id (by bytes), or in file order where the file defines one.
    pub entries: Vec<Entry>,
    /// Class names in label order, where the layout itself defines them (class folders, categories of a COCO json).
    pub classes: Option<Vec<String>>,
}

/// Reads one layout of files. `root` is the folder of the dataset; `split` the manifest's description of the split.
pub trait Format: Send + Sync {
    fn index(&self, root: &Path, split: &Split) -> Result<Index, DataError>;
}
