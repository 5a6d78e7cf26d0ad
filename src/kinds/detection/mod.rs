//! Kind `detection`: the objects of an image, each with a label, a box and (where they are annotated) a mask, scored by
//! COCO's average precision.

mod draw;
mod files;
mod mask;
mod results;
mod target;
mod visible;

pub use results::{CocoMetric, Protocol, perfect, score_specs};
pub use target::{DetectionTarget, Instance};

pub use crate::data::Rle;
pub use crate::metrics::coco::Detection;
