//! The parts of the program `bench` below its command line. Use them through the crate `bench`, which exports all of them
//! and describes them.

#![deny(missing_docs)]

pub mod components;
pub mod config;
pub mod data;
pub mod draw;
pub mod engine;
mod files;
pub mod kinds;
pub mod metrics;
pub mod models;
pub mod nn;
pub mod ops;
pub mod optim;
pub mod pretrain;
pub mod process;
pub mod record;
pub mod registry;
pub mod rng;
pub mod runs;
pub mod selftest;
pub mod suite;
pub mod task;
pub mod weights;

/// What an extension of the program needs: the traits of every kind of extension, and the types in their signatures.
///
/// ```
/// # use bench_core as bench;
/// use bench::prelude::*;
/// ```
pub mod prelude {
    pub use crate::config::ModelConfig;
    pub use crate::data::augment::{AugmentError, Augmentation, ModelInput, SampleMut, Transform};
    pub use crate::data::{
        Annotation, Batch, DataError, DatasetInfo, DenseMap, DenseMapFile, DenseTarget, Entry, Format,
        Geometric, Geometry, Image, ImageRef, Index, Object, Objects, Orientation, Raster, RasterFile, Rle,
        Sample, SampleId, Segmentation, Size, SourceTransform, SplitSource,
    };
    pub use crate::draw::{Drawing, LegendEntry};
    pub use crate::metrics::{Metric, MetricError};
    pub use crate::models::{
        Backbone, BackboneKind, BackboneSpec, BackboneUsage, Features, NoOptions, WeightMatching,
    };
    pub use crate::nn::{
        Conv2d, LayerNorm, Linear, Losses, MomentumTeacher, Params, Pass, PatchEmbed, drop_path, patchify,
        unpatchify,
    };
    pub use crate::ops;
    pub use crate::optim::Gradients;
    pub use crate::pretrain::{
        Moment, Objective, ObjectiveInputs, PretrainObjective, Pretraining, RecipeFacts, TokenizerUse,
    };
    pub use crate::record::{Better, ScoreSpec, Scores, Unit};
    pub use crate::registry::Registry;
    pub use crate::rng::Rng;
    pub use crate::task::{
        DrawOptions, Forward, Head, PredictedImage, PredictionIo, PredictionWriter, Predictions, Task,
    };
    /// The methods that draw numbers from an [`Rng`], such as `random_range`.
    pub use rand::Rng as _;
}
