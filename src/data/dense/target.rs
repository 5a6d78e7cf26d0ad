//! [`DenseTarget`]: the numbers of an image's pixels, which move with it.

use super::map::{DenseMap, DenseMapFile, INVALID};
use crate::data::pixel_map::{PixelMap, PixelValues};
use crate::data::{Geometric, Geometry, Size};

impl PixelValues for DenseMap {
    type Value = f32;
    const OUTSIDE: f32 = INVALID;

    fn of((height, width): Size, values: Vec<f32>) -> Self {
        Self::new(height, width, values)
    }

    fn size(&self) -> Size {
        self.size()
    }

    fn values(&self) -> &[f32] {
        &self.values
    }
}

/// Numbers of an image, in its pixels and in those of the source image. Each pixel of the image has the number of the
/// nearest pixel of the source; numbers are not interpolated, and they do not change when the image is scaled. Padding is
/// [`INVALID`].
#[derive(Clone, Debug)]
pub struct DenseTarget {
    /// The file, for messages.
    file: Option<DenseMapFile>,
    map: PixelMap<DenseMap>,
}

impl DenseTarget {
    /// The map of an image as annotated; `file` is its origin, for messages.
    pub fn new(source: DenseMap, file: Option<DenseMapFile>) -> Self {
        Self { file, map: PixelMap::new(source) }
    }

    /// The annotation in the pixels of the source image.
    pub fn source(&self) -> &DenseMap {
        self.map.source()
    }

    /// (height, width) of the image.
    pub fn size(&self) -> Size {
        self.map.size()
    }

    /// Numbers of the image. [H, W] row-major; [`INVALID`] where nothing is annotated and where the image shows nothing of
    /// the source.
    pub fn values(&self) -> Vec<f32> {
        self.map.values()
    }

    /// Numbers of the image with 0 for those that are [`INVALID`], and a mask that is 1 where there is a number and 0
    /// elsewhere: what a loss over tensors needs. [H, W] row-major each.
    pub fn masked_values(&self) -> (Vec<f32>, Vec<f32>) {
        let mut values = self.values();
        let mut mask = vec![1.; values.len()];
        for (value, valid) in values.iter_mut().zip(&mut mask) {
            if value.is_nan() {
                (*value, *valid) = (0., 0.);
            }
        }
        (values, mask)
    }
}

impl Geometric for DenseTarget {
    fn apply(&mut self, geometry: &Geometry) {
        self.map.apply(geometry);
    }

    fn fits(&self, decoded: Size) -> Result<(), String> {
        match &self.file {
            Some(file) => file.check_size(self.source().size(), decoded),
            None => Ok(()),
        }
    }
}
