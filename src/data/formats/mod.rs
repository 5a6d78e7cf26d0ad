//! Layouts of files on disk: each module reads one into an [`Index`](super::Index).

mod coco_labels;
mod csv;
mod idx;
mod image_folder;

pub use coco_labels::CocoLabels;
pub use csv::CsvTable;
pub use idx::Idx;
pub use image_folder::{ImageFolder, images_below};

use super::{Annotations, Format, Split};

/// The reader of a split's layout. `classes` are the manifest's class names, where it has any.
pub fn of<'a>(split: &'a Split, classes: Option<&'a [String]>) -> Box<dyn Format + 'a> {
    match &split.annotations {
        None | Some(Annotations::ImageFolder {}) => Box::new(ImageFolder),
        Some(Annotations::Csv(options)) => Box::new(CsvTable { options, classes }),
        Some(Annotations::Idx { labels }) => Box::new(Idx { labels }),
        Some(Annotations::CocoLabels { file }) => Box::new(CocoLabels { file }),
    }
}
