//! Layouts of files on disk: each module reads one into an [`Index`](super::Index).
//!
//! A format knows files and labels, no tasks. To add one: a module here, a variant of [`Annotations`], a line in [`of`].

pub mod coco_json;
mod coco_labels;
mod csv;
mod idx;
mod image_folder;
mod png_masks;

pub use coco_json::CocoJson;
pub use coco_labels::CocoLabels;
pub use csv::Csv;
pub use idx::Idx;
pub use image_folder::{ImageFolder, images_below};
pub use png_masks::{Encoding, PngMasks};

use super::{Annotation, Annotations, Entry, Format, ImageRef, SampleId, Split};
use std::path::{Path, PathBuf};

/// The reader of a split's layout; `names` are the manifest's class names, in label order.
pub fn of(split: &Split, names: Option<&[String]>) -> Box<dyn Format> {
    match split.annotations.clone() {
        None => Box::new(ImageFolder { labelled: false }),
        Some(Annotations::ImageFolder {}) => Box::new(ImageFolder { labelled: true }),
        Some(Annotations::Csv { file, image, label, columns, delimiter, classes }) => {
            Box::new(Csv { file, image, label, columns, delimiter: delimiter.unwrap_or(','), classes })
        }
        Some(Annotations::Idx { labels }) => Box::new(Idx { labels }),
        Some(Annotations::CocoJson { file, drop_empty, allowed_degenerate }) => {
            Box::new(CocoJson { file, drop_empty, allowed_degenerate })
        }
        Some(Annotations::CocoLabels { file }) => Box::new(CocoLabels { file }),
        Some(Annotations::PngMasks(masks)) => {
            let listed =
                if masks.names.is_empty() { names.unwrap_or_default().to_vec() } else { masks.names };
            Box::new(PngMasks { names: listed, ..masks })
        }
    }
}

/// An entry whose id is the path of its image below `root`.
fn file_entry(root: &Path, path: PathBuf, annotation: Annotation) -> Entry {
    let below = path.strip_prefix(root).unwrap_or(&path);
    let id = below.to_string_lossy().replace('\\', "/");
    Entry { id: SampleId::new(id), image: ImageRef::File(path), annotation }
}

/// The path of an image that a file lists as `listed`: below `folder`, also when it begins with a slash.
fn listed_image(folder: &Path, listed: &str) -> PathBuf {
    folder.join(listed.trim_start_matches('/'))
}
