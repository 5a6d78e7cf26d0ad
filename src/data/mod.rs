//! Data sets: everything from files on disk to batches for the model.
//!
//! `dataset.toml` -> [`Format::index`] -> [`Entry`] -> decode + target -> [`Sample`] ->
//! [`augment::Transform`]s -> [`PreparedSample`] -> [`Batch`]. This module does not know tasks.

pub mod augment;
mod check;
mod classes;
mod content;
mod decode;
mod dense;
mod error;
pub mod formats;
mod geometry;
mod image;
mod index;
mod jpeg;
pub(crate) mod json;
pub mod loader;
mod manifest;
mod orientation;
mod pixel_map;
#[cfg(any(feature = "cuda", test))]
pub(crate) mod prefetch;
mod raster;
mod readable;
pub mod recognise;
mod rle;
mod sample;
pub mod shapes;
mod text;
mod turned;

pub use check::SplitReport;
pub use content::content;
pub use dense::{DenseMap, DenseMapFile, DenseTarget, INVALID};
pub use error::DataError;
pub use formats::{Annotations, Format, Formats, SplitSource};
pub use geometry::{Geometric, Geometry, Size, SourceTransform, Xywh, Xyxy, xywh, xyxy};
pub use image::{DecodeError, Image};
pub use index::{
    Annotation, Category, Entry, Frequency, IgnoredFiles, ImageRef, Index, Object, Objects, SampleId,
    Segmentation,
};
pub use json::RecordId;
pub use manifest::{Dataset, DatasetInfo, Folds, Sequences, Split};
pub use orientation::Orientation;
pub use raster::{IGNORE, LabelEncoding, LabelTable, Raster, RasterFile};
pub use readable::readable;
pub use rle::Rle;
pub use sample::{Batch, PreparedSample, Sample};
pub use turned::TurnedFiles;

pub(crate) use pixel_map::PixelMap;
