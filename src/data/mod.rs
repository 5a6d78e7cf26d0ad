//! From bytes on disk to batches: the way of one image up to the model.
//!
//! `dataset.toml` -> [`Format::index`] -> [`Entry`] -> decode + target -> [`Sample`] ->
//! [`augment::Transform`]s -> [`Prepared`] -> [`Batch`]. Nothing here knows a task.

pub mod ahead;
pub mod augment;
mod check;
mod classes;
pub mod formats;
mod geometry;
mod image;
mod index;
mod jpeg;
pub mod loader;
mod manifest;
mod raster;
mod rle;
pub mod shapes;

pub use check::SplitReport;
pub use geometry::{Frame, Geometric, Geometry, Size, Xywh, Xyxy, xywh, xyxy};
pub use image::{DecodeError, Image};
pub use index::{
    Annotation, Category, Entry, Format, Frequency, Ignored, ImageRef, Index, Object, Objects, SampleId,
    Segmentation,
};
pub use jpeg::JPEG_DECODER;
pub use manifest::{Annotations, DataError, Dataset, DatasetInfo, Split};
pub use raster::{Coding, IGNORE, Mask, Raster, Values};
pub use rle::Rle;

use candle_core::Tensor;

/// One decoded example on the host: an image and what is to be predicted.
#[derive(Clone, Debug)]
pub struct Sample<T> {
    pub id: SampleId,
    pub image: Image,
    pub target: T,
    /// How the pixels of `image` lie in the source image.
    pub frame: Frame,
}

impl<T: Geometric> Sample<T> {
    /// A sample as decoded: nothing has moved yet.
    pub fn new(id: SampleId, image: Image, target: T) -> Self {
        let frame = Frame::new(image.size());
        Self { id, image, target, frame }
    }

    /// Replaces the image by `image`, which is the old one seen through `geometry`, and moves the target with it.
    pub fn moved(&mut self, image: Image, geometry: &Geometry) {
        self.image = image;
        self.target.apply(geometry);
        self.frame.geometry = self.frame.geometry.then(geometry);
    }
}

/// One example ready for collation: normalised pixels, channel first.
#[derive(Clone, Debug)]
pub struct Prepared<T> {
    pub id: SampleId,
    /// Normalised pixels, [C, H, W] row-major.
    pub pixels: Vec<f32>,
    /// (C, H, W)
    pub shape: (usize, usize, usize),
    pub frame: Frame,
    pub target: T,
}

/// What one micro-step of training or evaluation sees.
#[derive(Clone, Debug)]
pub struct Batch<T> {
    pub ids: Vec<SampleId>,
    /// Normalised pixels. [B, C, H, W]
    pub images: Tensor,
    pub frames: Vec<Frame>,
    pub targets: Vec<T>,
}

impl<T> Batch<T> {
    pub fn len(&self) -> usize {
        self.ids.len()
    }
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }
}
