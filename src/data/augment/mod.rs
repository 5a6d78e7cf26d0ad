//! In work.

use super::{Prepared, Sample};
use crate::rng::Rng;

/// Makes a decoded sample ready for the model: what the loader's workers call.
pub trait Prepare<T>: Send + Sync {
    /// `rng` belongs to this sample in this epoch. The error says what is wrong with the image; the loader adds its id.
    fn prepare(&self, sample: Sample<T>, rng: &mut Rng) -> Result<Prepared<T>, String>;
}
