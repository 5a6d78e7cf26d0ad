//! [`DenseMap`]: the values of the pixels of an image, and [`DenseMapFile`], the file from which they are read.

use super::super::pixel_map::check_size;
use super::super::raster::{self, StoredPixels, StoredValues};
use super::super::{DataError, Size};
use super::npy;
use crate::files;
use std::path::PathBuf;

/// Marks pixels that have no value. It is NaN, which does not equal itself: test with `is_nan`.
pub const INVALID: f32 = f32::NAN;

/// One number for each pixel of an image.
#[derive(Clone, Debug)]
pub struct DenseMap {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// Finite numbers, or [`INVALID`]. [H, W] row-major.
    pub values: Vec<f32>,
}

impl DenseMap {
    /// A map of the given values.
    ///
    /// # Panics
    /// If `values` does not have height × width numbers.
    pub fn new(height: usize, width: usize, values: Vec<f32>) -> Self {
        assert_eq!(values.len(), height * width, "a map does not match its size");
        Self { height, width, values }
    }

    /// (height, width)
    pub fn size(&self) -> Size {
        (self.height, self.width)
    }
}

/// A file with one number for each pixel, which is read when it is needed: a grey PNG of up to 16 bits or a `.npy` array.
#[derive(Clone, Debug, PartialEq)]
pub struct DenseMapFile {
    /// The file. The content of the file determines its format, not its name.
    pub path: PathBuf,
    /// A value is `scale` times the stored number plus `offset`.
    pub scale: f64,
    /// Added after scaling.
    pub offset: f64,
    /// The stored number of pixels without a value, besides NaN and infinite numbers.
    pub invalid: Option<f64>,
}

impl DenseMapFile {
    /// Reads the file.
    ///
    /// # Errors
    /// A file that does not exist, is neither a grey PNG nor a two-dimensional array of numbers, or is damaged; a value
    /// that does not fit into 32 bits. Each error names the file.
    pub fn read(&self) -> Result<DenseMap, DataError> {
        let fail = |message: String| DataError::file(&self.path, message);
        let bytes = files::read(&self.path).map_err(fail)?;
        let ((height, width), stored) = decode(&bytes).map_err(fail)?;
        let mut values = Vec::with_capacity(stored.len());
        for (at, number) in stored.into_iter().enumerate() {
            if !number.is_finite() || self.invalid == Some(number) {
                values.push(INVALID);
                continue;
            }
            let value = (self.scale * number + self.offset) as f32;
            if !value.is_finite() {
                let (column, row) = (at % width, at / width);
                return Err(fail(format!("{number} at column {column}, row {row} is too large")));
            }
            values.push(value);
        }
        Ok(DenseMap::new(height, width, values))
    }

    /// Checks that the map of this file covers an image of `decoded` pixels; both are (height, width).
    ///
    /// # Errors
    /// Another size; the error names the file.
    pub fn check_size(&self, map: Size, decoded: Size) -> Result<(), String> {
        check_size("map", &self.path, map, decoded)
    }
}

/// (height, width) and the stored numbers.
fn decode(bytes: &[u8]) -> Result<(Size, Vec<f64>), String> {
    if bytes.starts_with(npy::MAGIC) {
        return npy::read(bytes);
    }
    let StoredPixels { height, width, pixels, palette } =
        raster::decode(bytes).map_err(|e| format!("{e}; it is not a `.npy` file either"))?;
    match pixels {
        StoredValues::Numbers(_) if palette => {
            Err("has a palette, but a map of numbers is a grey PNG or a `.npy` file".into())
        }
        StoredValues::Numbers(numbers) => Ok(((height, width), numbers.into_iter().map(f64::from).collect())),
        StoredValues::Colours(_) => {
            Err("has RGB colours, but a map of numbers is a grey PNG or a `.npy` file".into())
        }
    }
}
