//! The built-in kinds of task. They use only the plugin interface ([`crate::task`]), as external kinds do.

pub mod classification;
pub mod detection;
pub mod segmentation;

pub use classification::ClassificationTask;
pub use detection::DetectionTask;
pub use segmentation::SegmentationTask;
