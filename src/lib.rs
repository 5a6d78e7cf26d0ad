//! `bench`: downstream transfer-learning benchmark for masked autoencoders (MAE), on candle.
//!
//! Code is *kinds*, data is *tasks*: what a programmer writes is a module here, what an
//! experimenter chooses is a TOML file under `tasks/`, `configs/` or `datasets/`.
//!
//! | module | holds |
//! |---|---|
//! | [`config`] | TOML files to typed structs: models, recipes, `--set` |
//! | [`data`] | dataset manifests, formats, images, geometry, augmentation, loader, the `shapes` set |
//! | [`draw`] | pictures of predictions |
//! | [`ops`] | differentiable operators, tensor in, tensor out |
//! | [`nn`] | parameters and the layers, each once |
//! | [`optim`] | AdamW, SGD, LARS, parameter groups, schedules, EMA |
//! | [`models`] | the backbone contract, ViT, feature pyramids, the dVAE, frozen backbones of other programs |
//! | [`weights`] | reading and writing checkpoints |
//! | [`pretrain`] | objectives: MAE, BEiT and the dVAE, with their masks and targets |
//! | [`task`] | the plugin interface: `Task`, `Head`, manifests |
//! | [`kinds`] | the built-in kinds of task |
//! | [`metrics`] | accuracy and friends: plain data in, scores out |
//! | [`engine`] | the one training loop, evaluation, checkpoints |
//! | [`record`] | what a run leaves behind, and tables made from it |
//! | [`registry`] | word in a manifest -> kind in Rust |
//! | [`launch`] | from a request to a finished run |
//! | [`suite`] | a file of runs as a resumable plan |
//! | [`process`] | settings of the process: subnormal numbers, memory, idle threads |
//! | [`rng`] | random numbers as a function of seed, purpose and step |
//! | [`selftest`] | whether a device computes what the CPU does |
//! | [`cli`] | the command-line program |
//!
//! A program that trains calls [`process::prepare`] first; [`cli::main`] does.

pub mod cli;
pub mod config;
pub mod data;
pub mod draw;
pub mod engine;
pub mod kinds;
pub mod launch;
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
pub mod selftest;
pub mod suite;
pub mod task;
pub mod weights;

/// What the author of a plugin needs.
pub mod prelude {
    pub use crate::data::{
        Annotation, Batch, DatasetInfo, Entry, Geometric, Geometry, Sample, SampleId, SourceTransform,
    };
    pub use crate::metrics::{Metric, MetricError};
    pub use crate::models::{Backbone, BackboneSpec, Features};
    pub use crate::nn::{LayerNorm, Linear, Losses, Pass};
    pub use crate::record::{Better, ScoreSpec, Scores, Unit};
    pub use crate::registry::Registry;
    pub use crate::rng::Rng;
    pub use crate::task::{Drawing, Forward, Head, Picture, Predictions, Task, Writer};
}
