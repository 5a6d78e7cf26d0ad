//! The training loop, evaluation and checkpoints. This module knows objectives and heads, but no kind of task
//! by name.
//!
//! A [`Session`] holds the model, parameters, objective and data of a run; its methods train, evaluate,
//! predict, reconstruct and measure speed. There is one training step ([`Trainer::step`]) and one place where
//! loaders are built ([`RunInputs::loader`]). The result of a run depends only on its configuration and data.
//! It does not depend on the number of loader workers, nor on how often the run was killed and resumed.

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
mod protocol;
mod reconstruct;
mod rehearsal;
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
pub use predict::{Pictures, Predicted, draw_annotations};
pub use pretrain::HELD_OUT_LOSS;
pub use protocol::check_protocol;
pub use reconstruct::{Pretrained, reconstruct};
pub use rehearsal::Rehearsal;
pub use session::Session;
pub use speed::{Speed, SpeedOptions};
pub use step::{Mixer, REST, StepError, StepReport, Trainer, TrainerInputs, Values};
pub use train::{Outcome, TrainOptions, Unscored};

use crate::components::Components;
use crate::config::{Dtype, Operation, RunConfig};
use crate::data::Entry;
use crate::nn::Params;
use crate::ops::Precision;
use candle_core::Device;
use std::path::Path;
use std::sync::Arc;

/// The inputs of a run: its configuration, its data and its device.
#[derive(Clone, Copy)]
pub struct RunInputs<'a> {
    /// The resolved configuration.
    pub config: &'a RunConfig,
    /// Training and evaluation data.
    pub splits: &'a IndexedSplits,
    /// The evaluation protocol of the task; empty in pre-training.
    pub protocol: &'a [Operation],
    /// Initial weights; random when absent.
    pub init: Option<&'a Path>,
    /// The weights of the tokenizer for pre-training; `None` when the objective needs none.
    pub tokenizer: Option<&'a Path>,
    /// The registered objectives, formats, operations and backbones.
    pub components: &'a Components,
    /// The device of all tensors.
    pub device: &'a Device,
    /// Loader threads.
    pub workers: usize,
    /// Receives events, and says whether to stop.
    pub control: &'a Control<'a>,
}

/// The indexed data of a run.
#[derive(Clone, Debug, Default)]
pub struct IndexedSplits {
    /// The training split.
    pub train: Arc<Vec<Entry>>,
    /// The split whose scores are reported; empty in pre-training.
    pub eval: Arc<Vec<Entry>>,
    /// The split on which the best weights are chosen; empty if no weights are chosen or they are chosen on `eval`.
    pub select: Arc<Vec<Entry>>,
}

impl IndexedSplits {
    /// The entries of all splits.
    pub fn all(&self) -> impl Iterator<Item = &Entry> {
        self.train.iter().chain(self.eval.iter()).chain(self.select.iter())
    }
}

impl RunInputs<'_> {
    /// An empty parameter store for layers on the device and with the precision of the run.
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
