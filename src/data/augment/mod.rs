//! From a decoded image to the model's input: crops, flips, colours, erasing, mixing.
//!
//! Every operation has a part that computes from explicit parameters, equal to Pillow, torchvision or timm, and a part
//! that draws the parameters. Images and targets move together ([`Sample::moved`]). Pixels
//! are 8-bit until the end of the pipeline, as those of PIL images.

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
mod resample;
mod resize;
mod scale;
mod scene;

#[cfg(test)]
mod golden;
#[cfg(test)]
mod tests;

pub use error::AugmentError;
pub use mix::{Mix, mix_batch};
pub use pipeline::Pipeline;

use super::{Prepared, Sample};
use crate::rng::Rng;

/// Makes a decoded sample ready for the model: what the loader's workers call.
pub trait Prepare<T>: Send + Sync {
    /// `rng` belongs to this sample in this epoch. The error says what is wrong with the image; the loader adds its id.
    fn prepare(&self, sample: Sample<T>, rng: &mut Rng) -> Result<Prepared<T>, String>;
}

/// One step of a pipeline: changes the image, moves the target with it ([`Sample::moved`]). The error says what is
/// wrong with the image or the step.
pub trait Transform<T>: Send + Sync {
    fn apply(&self, sample: &mut Sample<T>, rng: &mut Rng) -> Result<(), String>;
}
