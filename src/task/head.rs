//! [`Head`]: the part of a model that a task adds to a backbone.

use crate::data::{Batch, Size, SourceTransform};
use crate::models::{Backbone, Features};
use crate::nn::{Losses, Pass};
use candle_core::{Result, Tensor};

/// The trainable part of a model that turns the features of a backbone into predictions.
pub trait Head: Send + Sync {
    /// Same as the target of the task.
    type Target;
    /// Same as the prediction of the task.
    type Prediction;

    /// Indices of the blocks whose outputs it reads, from 0; [`Features::taps`] holds them in this order.
    fn taps(&self) -> &[usize];

    /// Whether it reads the class token ([`Features::cls`]). False by default.
    fn reads_cls(&self) -> bool {
        false
    }

    /// Losses of one training batch; their sum is minimized.
    ///
    /// # Errors
    /// An operation that fails.
    fn loss(&self, features: &Features, batch: &Batch<Self::Target>, pass: &mut Pass) -> Result<Losses>;

    /// Whether [`Head::fit`] replaces training: one pass over the training split without gradients. False by default.
    fn fits(&self) -> bool {
        false
    }

    /// Receives the features of one batch of the training split, without augmentation. Called in the order of the split,
    /// and only if [`Head::fits`]. The fitted state is not saved: it is fitted again when the weights are loaded.
    ///
    /// # Errors
    /// An operation that fails.
    fn fit(&mut self, _features: &Features, _batch: &Batch<Self::Target>) -> Result<()> {
        Ok(())
    }

    /// One prediction per image, in the coordinates of the source image.
    ///
    /// # Errors
    /// An operation that fails.
    fn predict(
        &self,
        features: &Features,
        source_transforms: &[SourceTransform],
    ) -> Result<Vec<Self::Prediction>>;

    /// One prediction per image of an evaluation batch [B, C, H, W]. By default runs the backbone once and calls
    /// [`Head::predict`]; heads that evaluate images in windows (see `Task::any_size`) override it.
    ///
    /// # Errors
    /// An operation that fails.
    fn infer(
        &self,
        images: &Tensor,
        source_transforms: &[SourceTransform],
        forward: &Forward,
    ) -> Result<Vec<Self::Prediction>> {
        self.predict(&forward.run(images)?, source_transforms)
    }
}

/// The backbone as a head sees it during evaluation.
pub struct Forward<'a> {
    backbone: &'a dyn Backbone,
    taps: &'a [usize],
    input: Size,
}

impl<'a> Forward<'a> {
    /// Wraps a backbone for images of size `input` (height, width); `taps` are the blocks whose outputs are returned.
    pub fn new(backbone: &'a dyn Backbone, taps: &'a [usize], input: Size) -> Self {
        Self { backbone, taps, input }
    }

    /// (height, width) of the images that the backbone takes.
    pub fn input(&self) -> Size {
        self.input
    }

    /// Features of `images` [B, C, H, W] of the input size, computed in evaluation mode.
    ///
    /// # Errors
    /// An operation that fails, for example for images of another size.
    pub fn run(&self, images: &Tensor) -> Result<Features> {
        self.backbone.forward(images, self.taps, &mut Pass::Eval)
    }
}
