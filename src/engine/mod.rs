//! The one training loop, evaluation, checkpoints. Knows objectives and heads, and no kind of task by name.
//!
//! A [`Session`] puts model, parameters, objective and data of a run together; its methods train, evaluate, predict,
//! reconstruct and measure. There is one training step ([`Trainer::step`]) and one place where loaders are built
//! ([`RunInputs::loader`]). What a run computes is a function of its configuration, the data and nothing else: not of the
//! number of loader workers, nor of how often it was killed and resumed.

mod batches;
mod checkpoint;
mod evaluate;
mod features;
mod loaders;
mod log;
mod metadata;
mod meter;
mod model;
mod observer;
mod plan;
mod predict;
mod pretrain;
mod reconstruct;
mod session;
mod speed;
mod step;
mod train;
mod transfer;

pub use batches::{Batches, MicroBatches, Source};
pub use checkpoint::Progress;
pub use evaluate::{Evaluated, evaluate, perfect, score_files};
pub use loaders::LoaderSpec;
pub use metadata::TransferMetadata;
pub use model::TaskModel;
pub use observer::{Control, Event, Observer, Silent};
pub use plan::{Plan, PlanError};
pub use predict::{Pictures, Predicted};
pub use reconstruct::{Pretrained, reconstruct};
pub use session::Session;
pub use speed::Speed;
pub use step::{Mixer, StepError, StepReport, Trainer, TrainerInputs, Values};
pub use train::{Outcome, TrainOptions};

use crate::components::Components;
use crate::config::{Dtype, Operation, RunConfig};
use crate::data::Entry;
use crate::nn::Params;
use crate::ops::Precision;
use candle_core::Device;
use std::path::Path;
use std::sync::Arc;

/// What a run is made from: its configuration, its data, and where it computes.
#[derive(Clone, Copy)]
pub struct RunInputs<'a> {
    /// The resolved configuration.
    pub config: &'a RunConfig,
    /// Training and evaluation data.
    pub splits: &'a IndexedSplits,
    /// The task's protocol of evaluation; empty in pre-training.
    pub protocol: &'a [Operation],
    /// Initial weights; random when absent.
    pub init: Option<&'a Path>,
    /// The file that makes tokens for pre-training.
    pub tokenizer: Option<&'a Path>,
    /// Everything that can be registered.
    pub components: &'a Components,
    /// Where tensors are.
    pub device: &'a Device,
    /// Loader threads.
    pub workers: usize,
    /// Tells what happens, and is asked whether to stop.
    pub control: &'a Control<'a>,
}

/// The indexed data of a run.
#[derive(Clone, Debug, Default)]
pub struct IndexedSplits {
    /// What is trained on.
    pub train: Arc<Vec<Entry>>,
    /// What is evaluated on; empty in pre-training.
    pub eval: Arc<Vec<Entry>>,
}

impl RunInputs<'_> {
    /// No parameters yet, for layers that compute as the run is to.
    fn params(&self) -> Params {
        #[cfg(feature = "cuda")]
        crate::ops::cuda::tf32(self.config.run.dtype == Dtype::Tf32);
        let precision = match self.config.run.dtype {
            Dtype::F32 | Dtype::Tf32 => Precision::F32,
            Dtype::Bf16 => Precision::Bf16,
        };
        Params::new(self.config.run.seed, self.device).computing_in(precision)
    }
}
