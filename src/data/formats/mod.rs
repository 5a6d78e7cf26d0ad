//! Layouts of files on disk: each module reads one into an [`Index`](super::Index).

mod image_folder;

pub use image_folder::{ImageFolder, images_below};

use super::{Format, Split};

/// The reader of a split's layout.
pub fn of(split: &Split) -> Box<dyn Format> {
    match &split.annotations {
        None | Some(_) => Box::new(ImageFolder),
    }
}
