//! From a decoded image to the model's input: crops, flips, colours, erasing, mixing.
//!
//! Every operation has a part that computes from explicit parameters, equal to Pillow, torchvision or timm, and a part
//! that draws the parameters. Images and targets move together ([`SampleMut::moved`]). Pixels are 8-bit until the end of
//! the pipeline, as those of PIL images. [`Augmentations`] knows the operations by name.

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
