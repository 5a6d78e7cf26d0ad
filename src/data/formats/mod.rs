//! Layouts of files on disk. Each module reads one layout into an [`Index`](super::Index).
//!
//! A format knows files and labels, but no tasks. To add one: a type in a file of its own that implements [`Format`],
//! and a line in [`Formats::builtin`], or [`Formats::with`] in a program outside of this crate.

pub(crate) mod coco_json;
mod coco_labels;
mod csv;
mod dense_maps;
mod format;
mod idx;
mod image_folder;
mod pairs;
mod png_masks;
mod registry;

pub use coco_json::CocoJson;
pub use coco_labels::CocoLabels;
pub use csv::Csv;
pub use dense_maps::DenseMaps;
pub use format::{Annotations, Format, FormatKey, SplitSource};
pub use idx::Idx;
pub use image_folder::{ImageFolder, image_files_below, images_below};
pub use png_masks::{PixelEncoding, PngMasks};
pub use registry::Formats;

pub(super) use image_folder::{has_image_extension, unlabelled};

#[cfg(test)]
mod tests;
