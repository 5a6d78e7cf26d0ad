//! An image and its target on the way to the model: [`Sample`], [`PreparedSample`], [`Batch`].

use super::{Geometric, Image, SampleId, SourceTransform};
use candle_core::Tensor;

/// One decoded example in host memory: an image and what is to be predicted of it.
#[derive(Clone, Debug)]
pub struct Sample<T> {
    /// Names the sample in messages and results.
    pub id: SampleId,
    /// 8-bit pixels.
    pub image: Image,
    /// What is to be predicted; moves with the image.
    pub target: T,
    /// How the pixels of `image` lie in the source image.
    pub source_transform: SourceTransform,
}

impl<T: Geometric> Sample<T> {
    /// A sample as decoded: nothing has moved yet.
    pub fn new(id: SampleId, image: Image, target: T) -> Self {
        let source_transform = SourceTransform::new(image.size());
        Self { id, image, target, source_transform }
    }
}

/// One example ready for collation: normalised pixels, channels first.
#[derive(Clone, Debug)]
pub struct PreparedSample<T> {
    /// Names the sample in messages and results.
    pub id: SampleId,
    /// Normalised pixels, [C, H, W] row-major.
    pub pixels: Vec<f32>,
    /// (C, H, W)
    pub shape: (usize, usize, usize),
    /// How the pixels lie in the source image.
    pub source_transform: SourceTransform,
    /// What is to be predicted, in the pixels of the model's input.
    pub target: T,
}

/// What one forward pass of training or evaluation sees.
#[derive(Clone, Debug)]
pub struct Batch<T> {
    /// Names of the samples, B of them.
    pub ids: Vec<SampleId>,
    /// Normalised pixels. [B, C, H, W]
    pub images: Tensor,
    /// Further views of the same images, in the order of the recipe's `[[views]]`; empty without them. [B, C, h, w] each
    pub views: Vec<Tensor>,
    /// How each image lies in its source image, B of them.
    pub source_transforms: Vec<SourceTransform>,
    /// What is to be predicted of each image, B of them.
    pub targets: Vec<T>,
}

impl<T> Batch<T> {
    /// Number of images, B.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there is no image, as when none of them could be read.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }
}
