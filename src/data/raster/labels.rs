//! [`Raster`]: the labels of an image, and [`RasterFile`], the file from which they are read.

use super::super::pixel_map::{PixelValues, check_size};
use super::super::{DataError, Size};
use super::encoding::{IGNORE, LabelEncoding};
use super::png;
use crate::files;
use std::path::PathBuf;
use std::sync::Arc;

/// One label for each pixel of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Raster {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// Class indices from 0, or [`IGNORE`]. [H, W] row-major.
    pub labels: Vec<u16>,
}

impl Raster {
    /// A raster with the given labels.
    ///
    /// # Panics
    /// If `labels` does not have height × width values.
    pub fn new(height: usize, width: usize, labels: Vec<u16>) -> Self {
        assert_eq!(labels.len(), height * width, "a raster does not match its size");
        Self { height, width, labels }
    }

    /// (height, width)
    pub fn size(&self) -> Size {
        (self.height, self.width)
    }

    /// The raster as a PNG whose pixels are `ids[label]`: indices of 8 bits into a palette with the color of each label where all ids fit,
    /// and otherwise grey values of 16 bits. Labels without a color, and unused ids, are black.
    ///
    /// # Errors
    /// A label without an id, an id above 65535.
    pub fn to_png(&self, ids: &[u32], colors: &[Option<[u8; 3]>]) -> Result<Vec<u8>, String> {
        if let Some(id) = ids.iter().find(|id| **id > u32::from(u16::MAX)) {
            return Err(format!("id {id} does not fit into 16 bits"));
        }
        let value = |label: &u16| match ids.get(usize::from(*label)) {
            Some(id) => Ok(*id as u16),
            None => Err(format!("label {label} has no id; there are {}", ids.len())),
        };
        let values: Vec<u16> = self.labels.iter().map(value).collect::<Result<_, _>>()?;
        let most = ids.iter().max().copied().unwrap_or(0) as usize;
        if most > usize::from(u8::MAX) {
            return png::encode_grey(self.size(), &values);
        }
        let mut palette = vec![[0; 3]; most + 1];
        for (id, color) in ids.iter().zip(colors) {
            palette[*id as usize] = color.unwrap_or_default();
        }
        png::encode_indexed(self.size(), &values, &palette)
    }
}

impl PixelValues for Raster {
    type Value = u16;
    const OUTSIDE: u16 = IGNORE;

    fn of((height, width): Size, labels: Vec<u16>) -> Self {
        Self::new(height, width, labels)
    }

    fn size(&self) -> Size {
        self.size()
    }

    fn values(&self) -> &[u16] {
        &self.labels
    }
}

/// A file of labels, which is read when it is needed.
#[derive(Clone, Debug)]
pub struct RasterFile {
    /// A PNG.
    pub path: PathBuf,
    /// The encoding of its values; shared by the files of a split.
    pub encoding: Arc<LabelEncoding>,
}

impl RasterFile {
    /// Reads the file.
    ///
    /// # Errors
    /// A file that does not exist or is not a PNG, values of another type than the encoding reads, or undefined values;
    /// the error names the file.
    pub fn read(&self) -> Result<Raster, DataError> {
        let fail = |message: String| DataError::file(&self.path, message);
        let bytes = files::read(&self.path).map_err(fail)?;
        let stored = png::decode(&bytes).map_err(fail)?;
        let labels = self.encoding.labels(&stored, &self.path).map_err(fail)?;
        Ok(Raster::new(stored.height, stored.width, labels))
    }

    /// Checks that the raster of this file covers an image of `decoded` pixels; both are (height, width).
    ///
    /// # Errors
    /// Another size; the error names the file.
    pub fn check_size(&self, raster: Size, decoded: Size) -> Result<(), String> {
        check_size("mask", &self.path, raster, decoded)
    }
}
