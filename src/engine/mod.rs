//! The one training loop, evaluation, checkpoints. Knows objectives and heads, and no kind of task by name.
//!
//! [`pretrain`](pretrain()) and [`transfer`](transfer()) put an objective, its parameters and its data together;
//! [`Training`] runs it. What a run computes is a function of its configuration, the data and nothing else: not of
//! the number of loader workers, nor of how often it was killed and resumed.

mod checkpoint;
mod evaluate;
mod features;
mod follow_up;
mod log;
mod meter;
mod notes;
mod observer;
mod plan;
mod predict;
mod pretrain;
mod reconstruct;
mod speed;
mod train;
mod transfer;
mod upload;

pub use checkpoint::Progress;
pub use evaluate::{Evaluated, evaluate, perfect, score_files};
pub use notes::TransferNotes;
pub use observer::{Control, Event, Observer, Silent};
pub use plan::{Plan, PlanError};
pub use predict::{Pictures, Predicted, predict};
pub use pretrain::pretrain;
pub use reconstruct::{Pretrained, reconstruct};
pub use speed::{Speed, speed_pretrain, speed_transfer};
pub use train::{Evaluation, Outcome, Source, Training};
pub use transfer::{rescore, transfer};

use crate::config::{Dtype, Operation, RunConfig};
use crate::data::Entry;
use crate::nn::Params;
use crate::ops::Precision;
use candle_core::Device;
use std::path::Path;
use std::sync::Arc;

/// One run, ready to start: its configuration is resolved and its data indexed.
pub struct Job<'a> {
    pub config: &'a RunConfig,
    /// Training split.
    pub train: Arc<Vec<Entry>>,
    /// Evaluation split; empty in pre-training.
    pub eval: Arc<Vec<Entry>>,
    /// The protocol of evaluation.
    pub eval_ops: &'a [Operation],
    /// Initial weights; random when absent.
    pub init: Option<&'a Path>,
    /// The file that makes tokens for pre-training.
    pub tokenizer: Option<&'a Path>,
    pub device: &'a Device,
    /// Loader threads.
    pub workers: usize,
    /// Continue from the state in the run's folder, where there is one.
    pub resume: bool,
    /// Stop after so many steps of the planned ones.
    pub max_steps: Option<usize>,
    pub control: &'a Control<'a>,
}

impl Job<'_> {
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

/// Micro-batches that may wait for the model.
const PREFETCH: usize = 4;
