//! [`Index`]: the images and annotations of a split as read by a format, with one [`Entry`] for each image.

use super::orientation::{Orientation, Turn};
use super::{DecodeError, DenseMapFile, Image, LabelEncoding, RasterFile, RecordId, Rle, Size, Xywh};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The name of a sample in error messages, logs and results: its path below the data root with `/`
/// separators, or `file#index` for container files. Ordered by bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SampleId(Arc<str>);

impl SampleId {
    /// The name `id`.
    pub fn new(id: impl AsRef<str>) -> Self {
        Self(id.as_ref().into())
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for SampleId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// The source of the pixels of an entry.
#[derive(Clone, Debug)]
pub enum ImageRef {
    /// An encoded image file, of which the stored pixels are used.
    File(PathBuf),
    /// An encoded image file that is turned as its EXIF data say.
    Upright(PathBuf),
    /// Already decoded (container formats such as idx).
    Memory(Arc<Image>),
}

impl ImageRef {
    /// The pixels, in `channels` (1 or 3) channels.
    ///
    /// # Errors
    /// A file that cannot be read, or another number of channels.
    pub fn decode(&self, channels: usize) -> Result<Image, String> {
        match self {
            Self::File(path) => Image::open(path, channels).map_err(|error| error.to_string()),
            Self::Upright(path) => Image::open_upright(path, channels).map_err(|error| error.to_string()),
            Self::Memory(image) => image.with_channels(channels),
        }
    }

    /// The file of the image; `None` if it has none of its own.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::File(path) | Self::Upright(path) => Some(path),
            Self::Memory(_) => None,
        }
    }

    /// Applies the EXIF orientation of the file, or ignores it.
    pub(super) fn orient(&mut self, orientation: Orientation) {
        match (&mut *self, orientation) {
            (Self::File(path), Orientation::Apply) => *self = Self::Upright(std::mem::take(path)),
            (Self::Upright(path), Orientation::Ignore) => *self = Self::File(std::mem::take(path)),
            _ => {}
        }
    }

    /// (height, width) by the header of the file, and the turn that its EXIF data ask for, whether it is applied or not;
    /// `None` for an image without a file.
    pub(super) fn header(&self) -> Option<Result<(Size, Turn), DecodeError>> {
        let header = Image::header_of(self.path()?);
        Some(header.map(|(size, turn)| match self {
            Self::Upright(_) => (turn.size(size), turn),
            _ => (size, turn),
        }))
    }

    /// (height, width) as it is decoded, by the header of its file.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn size(&self) -> Result<Size, String> {
        match self.header() {
            Some(header) => header.map(|(size, _)| size).map_err(|e| e.to_string()),
            None => self.decode(1).map(|image| image.size()),
        }
    }

    /// Why an image of another size than its annotation may be one that EXIF data turn, and what to do; empty if they
    /// do not exchange its sides.
    pub(super) fn remark_on_size(&self) -> String {
        let Some(Ok((_, turn))) = self.header() else { return String::new() };
        if !turn.swaps_sides() {
            return String::new();
        }
        match self {
            Self::Upright(_) => format!(
                "; the file is stored otherwise and was {turn}, as its EXIF orientation says: `orientation = \"ignore\"` in \
                 dataset.toml keeps the stored pixels"
            ),
            _ => format!(
                "; viewers show the file {turn}, as its EXIF orientation says: `orientation = \"apply\"` in dataset.toml \
                 turns it too"
            ),
        }
    }
}

/// The annotation of one image in a COCO-style file.
#[derive(Clone, Debug, PartialEq)]
pub struct Objects {
    /// Id of the image in the file, which result files use.
    pub image_id: RecordId,
    /// (height, width) as annotated.
    pub size: Size,
    /// The objects, in the order of the file.
    pub objects: Vec<Object>,
    /// Labels known to have no object here (LVIS `neg_category_ids`).
    pub absent: Vec<u32>,
    /// Labels of which not every object is annotated (LVIS `not_exhaustive_category_ids`).
    pub not_exhaustive: Vec<u32>,
}

impl Objects {
    /// Replaces every label `l` by `labels[l]`.
    pub(super) fn relabel(&mut self, labels: &[u32]) {
        let objects = self.objects.iter_mut().map(|object| &mut object.label);
        for label in objects.chain(&mut self.absent).chain(&mut self.not_exhaustive) {
            *label = labels[*label as usize];
        }
    }

    /// A blake3 hash over everything.
    pub(super) fn digest(&self) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.image_id.bytes());
        let integers = [self.size.0 as u64, self.size.1 as u64, self.objects.len() as u64];
        integers.iter().for_each(|n| {
            hasher.update(&n.to_le_bytes());
        });
        for labels in [&self.absent, &self.not_exhaustive] {
            hasher.update(&(labels.len() as u64).to_le_bytes());
            labels.iter().for_each(|label| {
                hasher.update(&label.to_le_bytes());
            });
        }
        for Object { label, bbox, segmentation, crowd, area } in &self.objects {
            hasher.update(&label.to_le_bytes()).update(&[u8::from(*crowd)]).update(&area.to_le_bytes());
            let mut numbers = |numbers: &[f64]| {
                hasher.update(&(numbers.len() as u64).to_le_bytes());
                numbers.iter().for_each(|v| {
                    hasher.update(&v.to_le_bytes());
                });
            };
            numbers(bbox);
            match segmentation {
                Segmentation::None => numbers(&[]),
                Segmentation::Degenerate => numbers(&[0.]),
                Segmentation::Flawed(flaw) => {
                    hasher.update(flaw.as_bytes());
                }
                Segmentation::Polygons(rings) => rings.iter().for_each(|ring| numbers(ring)),
                Segmentation::Rle(rle) => {
                    numbers(&rle.counts.iter().map(|count| f64::from(*count)).collect::<Vec<_>>())
                }
            }
        }
        hasher.finalize()
    }

    /// Whether the image was decoded to the (height, width) that its annotation is for.
    ///
    /// # Errors
    /// Another size; the error gives both.
    pub fn fits(&self, decoded: Size) -> Result<(), String> {
        let ((h, w), (height, width)) = (decoded, self.size);
        match decoded == self.size {
            true => Ok(()),
            false if (w, h) == (height, width) => Err(format!(
                "the image has {h}x{w} pixels, but its annotation says {height}x{width}: height and width are exchanged"
            )),
            false => Err(format!("the image has {h}x{w} pixels, but its annotation says {height}x{width}")),
        }
    }
}

/// One object of a detection annotation, in source-image pixels.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    /// Contiguous class index, from 0.
    pub label: u32,
    /// x, y of the upper left corner, width, height.
    pub bbox: Xywh,
    /// Its outline.
    pub segmentation: Segmentation,
    /// A region of many objects, ignored by evaluation (COCO `iscrowd`).
    pub crowd: bool,
    /// Area in pixels as annotated.
    pub area: f64,
}

impl Object {
    /// Whether the object has a mask in addition to its box.
    pub fn has_mask(&self) -> bool {
        !matches!(self.segmentation, Segmentation::None | Segmentation::Flawed(_))
    }

    /// Its mask in an image of (height, width) `size`; `None` if it has only a box, or an outline that cannot be drawn.
    ///
    /// # Errors
    /// An image of 2³² pixels or more.
    pub fn mask(&self, size: Size) -> Result<Option<Rle>, String> {
        match &self.segmentation {
            Segmentation::None | Segmentation::Flawed(_) => Ok(None),
            Segmentation::Degenerate => {
                let pixels =
                    u32::try_from(size.0 * size.1).map_err(|_| "the image is too large".to_string())?;
                Rle::new(size.0 as u32, size.1 as u32, vec![pixels]).map(Some)
            }
            Segmentation::Polygons(rings) => Rle::of_polygons(rings, size).map(Some),
            Segmentation::Rle(rle) => Ok(Some(rle.clone())),
        }
    }
}

/// The outline of an object, as COCO stores it.
#[derive(Clone, Debug, PartialEq)]
pub enum Segmentation {
    /// The object has only a box.
    None,
    /// Flat x, y lists, one per ring.
    Polygons(Vec<Vec<f64>>),
    /// Run lengths.
    Rle(Rle),
    /// An outline without area that the manifest knows of: an empty mask.
    Degenerate,
    /// An outline that cannot be drawn, for this reason. The object has a box; tasks with masks refuse it.
    Flawed(String),
}

/// Facts about a class in a COCO-style file, besides its name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Category {
    /// Its id in the file, which result files use.
    pub id: RecordId,
    /// Frequency of the class in training images (LVIS).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frequency: Option<Frequency>,
}

/// Frequency of an LVIS class in training images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Frequency {
    /// Up to 10.
    #[serde(rename = "r")]
    Rare,
    /// 11 to 100.
    #[serde(rename = "c")]
    Common,
    /// More than 100.
    #[serde(rename = "f")]
    Frequent,
}

/// The annotation of an image in a data set, from which a task makes a target.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Annotation {
    /// No annotation, as in pre-training.
    None,
    /// Class index, from 0.
    Label(u32),
    /// Boxes and masks.
    Objects(Arc<Objects>),
    /// A label for each pixel.
    Raster(RasterFile),
    /// A number for each pixel.
    DenseMap(DenseMapFile),
}

/// One image in the index of a data set.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Id, unique in the split.
    pub id: SampleId,
    /// The source of the pixels.
    pub image: ImageRef,
    /// The annotation of the image.
    pub annotation: Annotation,
}

/// The content of one split as read by a format.
#[derive(Clone, Debug, Default)]
pub struct Index {
    /// Entries sorted by the bytes of their ids, or in file order if the file defines one.
    pub entries: Vec<Entry>,
    /// Class names in label order, if the layout itself defines them (class folders, categories of a COCO json).
    pub classes: Option<Vec<String>>,
    /// Facts about the classes in label order if the annotations have category ids; otherwise empty.
    pub categories: Vec<Category>,
    /// Whether the images were found by listing folders, so that they are known to exist.
    pub images_listed: bool,
    /// Other files among the images, if the format lists a folder.
    pub ignored: IgnoredFiles,
    /// What was left out or understood in a way of which the user should know, one sentence each, with counts.
    pub notes: Vec<String>,
}

impl Index {
    /// Replaces every label `l` by `labels[l]`.
    pub(super) fn relabel(&mut self, labels: &[u32]) {
        if labels.iter().copied().eq(0..labels.len() as u32) {
            return;
        }
        let mut encodings: Vec<(Arc<LabelEncoding>, Arc<LabelEncoding>)> = vec![];
        for entry in &mut self.entries {
            match &mut entry.annotation {
                Annotation::Label(label) => *label = labels[*label as usize],
                Annotation::Objects(image) => Arc::make_mut(image).relabel(labels),
                Annotation::Raster(mask) => {
                    // Files of a split share their encoding, which is large.
                    let known = encodings.iter().find(|(from, _)| Arc::ptr_eq(from, &mask.encoding));
                    let relabelled = match known {
                        Some((_, to)) => to.clone(),
                        None => {
                            let to = Arc::new(mask.encoding.relabelled(labels));
                            encodings.push((mask.encoding.clone(), to.clone()));
                            to
                        }
                    };
                    mask.encoding = relabelled;
                }
                Annotation::None | Annotation::DenseMap(_) => {}
            }
        }
    }
}

/// Files that lie among images and are not images by their extension: the number of files by extension, in lower case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IgnoredFiles(BTreeMap<String, usize>);

/// Largest number of extensions that a message lists; files with other extensions are counted together.
const ENDINGS_SHOWN: usize = 5;

impl IgnoredFiles {
    /// Whether no file was ignored.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds `file` to the count of its extension.
    pub fn count(&mut self, file: &Path) {
        let ending = file.extension().map_or("without an ending".into(), |ending| {
            format!(".{}", ending.to_string_lossy().to_lowercase())
        });
        *self.0.entry(ending).or_default() += 1;
    }

    /// Adds the counts of `other`.
    pub fn extend(&mut self, other: Self) {
        other.0.into_iter().for_each(|(ending, count)| *self.0.entry(ending).or_default() += count);
    }
}

/// `11 other files ignored: 8 .gif, 3 .avif`, the most frequent ending first.
impl std::fmt::Display for IgnoredFiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let total: usize = self.0.values().sum();
        let files = if total == 1 { "file" } else { "files" };
        write!(f, "{total} other {files} ignored: ")?;
        let mut endings: Vec<(&String, &usize)> = self.0.iter().collect();
        endings.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        let named: Vec<_> =
            endings.iter().take(ENDINGS_SHOWN).map(|(e, count)| format!("{count} {e}")).collect();
        f.write_str(&named.join(", "))?;
        match endings.iter().skip(ENDINGS_SHOWN).map(|(_, count)| **count).sum() {
            0usize => Ok(()),
            more => write!(f, ", {more} more"),
        }
    }
}
