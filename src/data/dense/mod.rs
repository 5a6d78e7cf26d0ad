//! Maps with one number per pixel: depth and other targets of dense regression, and their files.
//!
//! [`DenseMapFile`] is a file with the meaning of its numbers; reading it gives a [`DenseMap`]. Numbers are read as
//! they are stored, from a grey PNG or a `.npy` array, and become `scale` times the stored number plus `offset`.
//! [`DenseTarget`] is such a map as the target of an image, with which it moves.

mod map;
mod npy;
mod target;

pub use map::{DenseMap, DenseMapFile, INVALID};
pub use target::DenseTarget;

#[cfg(test)]
mod tests;
