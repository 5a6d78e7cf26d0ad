//! The built-in synthetic data set `shapes`: cluttered scenes of ten shapes, made from a seed.
//!
//! One set serves every kind of task without a download: unlabelled images for pre-training, an image folder, COCO
//! annotations with crowds and holes, and id maps, in the layouts of real data sets. Colour and texture are drawn
//! independently of the class. It was made to try the program and its protocols; scores on it cannot be compared with
//! published numbers.
//!
//! Deviations from COCO: regions are exact to the pixel, image ids are unique over all splits.

mod annotation;
mod outline;
mod paint;
mod scene;
mod spec;
mod texture;
mod write;

pub use spec::{CATEGORY_IDS, CLASSES, GENERATOR, ShapesError, ShapesSpec, Summary};
pub use write::make;

#[cfg(test)]
mod tests;
