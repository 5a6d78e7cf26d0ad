//! From a decoded image to the model's input: crops, flips, colours, erasing, mixing.
//!
//! Every operation has two parts: one draws the parameters, and one computes the result from them exactly as Pillow,
//! torchvision or timm does. Images and targets move together ([`SampleMut::moved`]). Pixels have 8 bits until the end
//! of the pipeline, as in PIL images. [`Augmentations`] has the operations by name.

mod affine;
mod color;
mod crop;
mod erase;
mod error;
mod input;
mod mix;
mod photometric;
mod pipeline;
mod point;
mod rand_augment;
mod registry;
mod resample;
mod resize;
mod scale;
mod scene;
mod transform;

#[cfg(test)]
mod golden;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod written;

pub use error::AugmentError;
pub use input::ModelInput;
pub use mix::{Mix, mix_batch};
pub use pipeline::{Pipeline, PrepareSample, view_pipelines};
pub use registry::Augmentations;
pub use transform::{Augmentation, SampleMut, Transform};
