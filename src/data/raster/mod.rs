//! Label rasters: one class a pixel, and the PNG files that hold them.
//!
//! [`Mask`] is a file together with what its values mean ([`Coding`]); reading it gives a [`Raster`] of labels. Values
//! are read as they are stored: indices of a palette stay indices, 16-bit ids stay whole, nothing is converted to
//! colours and nothing is scaled. A value without a meaning is an error that names the file and the pixel.

mod coding;
mod png;

pub use coding::{Coding, Values};

use super::{DataError, Size};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The label of pixels that neither training nor evaluation looks at.
pub const IGNORE: u16 = u16::MAX;

/// One label a pixel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Raster {
    pub height: usize,
    pub width: usize,
    /// Class indices from 0, or [`IGNORE`]. [H, W] row-major.
    pub labels: Vec<u16>,
}

impl Raster {
    /// # Panics
    /// When `labels` does not hold height × width values.
    pub fn new(height: usize, width: usize, labels: Vec<u16>) -> Self {
        assert_eq!(labels.len(), height * width, "a raster does not match its size");
        Self { height, width, labels }
    }

    /// (height, width)
    pub fn size(&self) -> Size {
        (self.height, self.width)
    }

    /// The raster as a grey PNG: `ids[label]` a pixel, in 8 bits where all ids fit.
    ///
    /// # Errors
    /// A label without an id, an id above 65535.
    pub fn to_png(&self, ids: &[u32]) -> Result<Vec<u8>, String> {
        if let Some(id) = ids.iter().find(|id| **id > u32::from(u16::MAX)) {
            return Err(format!("id {id} does not fit into 16 bits"));
        }
        let value = |label: &u16| match ids.get(usize::from(*label)) {
            Some(id) => Ok(*id as u16),
            None => Err(format!("label {label} has no id, there are {}", ids.len())),
        };
        let values: Vec<u16> = self.labels.iter().map(value).collect::<Result<_, _>>()?;
        png::encode_grey(self.size(), &values, ids.iter().any(|id| *id > 255))
    }
}

/// A file of labels, which is read when it is needed.
#[derive(Clone, Debug)]
pub struct Mask {
    pub path: PathBuf,
    /// Shared by the masks of a split.
    pub coding: Arc<Coding>,
}

impl Mask {
    /// # Errors
    /// A file that is not there or is no PNG, values of another kind than the coding reads, values that mean nothing;
    /// each names the file.
    pub fn read(&self) -> Result<Raster, DataError> {
        let fail = |message: String| DataError::file(&self.path, message);
        let bytes = std::fs::read(&self.path).map_err(|e| fail(e.to_string()))?;
        let picture = png::decode(&bytes).map_err(fail)?;
        let labels = self.coding.labels(&picture, &self.path).map_err(fail)?;
        Ok(Raster::new(picture.height, picture.width, labels))
    }

    /// Checks that the raster of this file covers an image of `decoded` pixels.
    pub fn check_size(&self, raster: Size, decoded: Size) -> Result<(), String> {
        if raster == decoded {
            return Ok(());
        }
        Err(format!(
            "its mask `{}` has {}x{} pixels, the image {}x{} (height x width)",
            self.path.display(),
            raster.0,
            raster.1,
            decoded.0,
            decoded.1
        ))
    }
}

/// The pixels of a mask as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Picture {
    pub height: usize,
    pub width: usize,
    pub pixels: Pixels,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Pixels {
    /// Grey values, or indices of a palette.
    Values(Vec<u16>),
    Colours(Vec<[u8; 3]>),
}

/// `path` with another ending; `None` when it does not end with `from`.
pub(super) fn with_ending(path: &Path, from: &str, to: &str) -> Option<PathBuf> {
    let name = path.file_name()?.to_str()?.strip_suffix(from)?;
    Some(path.with_file_name(format!("{name}{to}")))
}

#[cfg(test)]
mod tests;
