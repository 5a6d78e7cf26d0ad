//! The built-in kinds of task. Each uses the public plugin interface and nothing else of the engine.

pub mod classification;
pub mod detection;
pub mod segmentation;

pub use classification::ClassificationTask;
pub use detection::DetectionTask;
pub use segmentation::SegmentationTask;
