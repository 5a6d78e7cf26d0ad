//! The stages of an image and its target: [`Sample`], [`PreparedSample`], [`Batch`].

use super::{Geometric, Image, SampleId, SourceTransform};
use candle_core::Tensor;

/// One decoded example in host memory: an image and its target.
#[derive(Clone, Debug)]
pub struct Sample<T> {
    /// Id of the sample, for messages and results.
    pub id: SampleId,
    /// 8-bit pixels.
    pub image: Image,
    /// The target; it moves with the image.
    pub target: T,
    /// The transform from the source image to `image`.
    pub source_transform: SourceTransform,
}

impl<T: Geometric> Sample<T> {
    /// A sample as decoded, before any operation.
    pub fn new(id: SampleId, image: Image, target: T) -> Self {
        let source_transform = SourceTransform::new(image.size());
        Self { id, image, target, source_transform }
    }
}

/// One example ready for collation: normalised pixels, channels first.
#[derive(Clone, Debug)]
pub struct PreparedSample<T> {
    /// Id of the sample, for messages and results.
    pub id: SampleId,
    /// Normalised pixels, [C, H, W] row-major.
    pub pixels: Vec<f32>,
    /// (C, H, W)
    pub shape: (usize, usize, usize),
    /// The transform from the source image to these pixels.
    pub source_transform: SourceTransform,
    /// The target, in the pixels of the model's input.
    pub target: T,
}

/// A batch for one forward pass of training or evaluation.
#[derive(Clone, Debug)]
pub struct Batch<T> {
    /// Names of the samples, B of them.
    pub ids: Vec<SampleId>,
    /// Normalised pixels. [B, C, H, W]
    pub images: Tensor,
    /// Further views of the same images, in the order of the recipe's `[[views]]`; empty without them. [B, C, h, w] each
    pub views: Vec<Tensor>,
    /// The transform from the source image to each image, B of them.
    pub source_transforms: Vec<SourceTransform>,
    /// The target of each image, B of them.
    pub targets: Vec<T>,
}

impl<T> Batch<T> {
    /// Number of images, B.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether the batch has no images, for example because none could be read.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }
}
