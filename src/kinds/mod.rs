//! The built-in kinds of task. Each uses the public plugin interface and nothing else of the engine.

pub mod classification;
pub mod detection;
pub mod segmentation;

pub use classification::Classification;
pub use detection::Detector;
pub use segmentation::Segmentation;
