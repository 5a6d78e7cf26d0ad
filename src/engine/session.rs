//! [`Session`]: the model, parameters, objective and data of one run, with the methods that use them.
//!
//! | method | of | does |
//! |---|---|---|
//! | `train` | pre-training, transfer | trains (or fits), evaluates, writes weights |
//! | `evaluate` | transfer | scores of the evaluation split |
//! | `predict` | transfer | drawings and files of predictions for images without annotations |
//! | `reconstruct` | pre-training | a drawing of the predictions of the objective |
//! | `speed` | pre-training, transfer | images a second of loader, step and both |
//!
//! The methods of the two stages are in `pretrain.rs` and `transfer.rs`; this file has the methods that both
//! stages share. Every training step is [`Trainer::step`](super::Trainer::step), every loader comes from
//! [`RunInputs::loader`].

use super::batches::Source;
use super::step::{Mixer, Trainer, TrainerInputs};
use super::train::{Evaluation, Outcome, TrainOptions, Training};
use super::{Plan, RunInputs, Speed, SpeedOptions, speed};
use crate::data::Geometric;
use crate::data::loader::Loader;
use crate::nn::Params;
use crate::pretrain::Objective;
use anyhow::Result;
use std::collections::BTreeMap;

/// A run with its model `M`: [`Pretraining`](crate::pretrain::Pretraining) or [`TaskModel`](super::TaskModel).
pub struct Session<'a, M> {
    pub(super) run: &'a RunInputs<'a>,
    pub(super) params: Params,
    pub(super) model: M,
}

/// The part of a training loop that differs between the stages.
pub(super) struct StageParts<'s, T> {
    pub source: &'s dyn Source<T>,
    pub objective: &'s dyn Objective<Target = T>,
    pub mix: Mixer<'s, T>,
    pub initialize: &'s dyn Fn() -> Result<()>,
    pub evaluation: Option<Evaluation<'s>>,
    pub metadata: &'s BTreeMap<String, String>,
}

impl<'a, M> Session<'a, M> {
    /// All parameters, in order of creation.
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// The objective that is trained.
    pub fn model(&self) -> &M {
        &self.model
    }

    /// Steps and batches of the run.
    ///
    /// # Errors
    /// Fewer training images than a batch.
    pub fn plan(&self) -> Result<Plan> {
        Ok(Plan::new(&self.run.config.recipe, self.run.splits.train.len())?)
    }

    /// The inputs of a trainer for `objective`.
    pub(super) fn trainer_inputs<'s, T>(
        &'s self,
        objective: &'s dyn Objective<Target = T>,
        mix: Mixer<'s, T>,
    ) -> Result<TrainerInputs<'s, T>> {
        Ok(TrainerInputs {
            recipe: &self.run.config.recipe,
            plan: self.plan()?,
            seed: self.run.config.run.seed,
            objective,
            params: &self.params,
            layers: self.run.config.model.depth + 1,
            mix,
        })
    }

    /// Runs the loop.
    pub(super) fn run_loop<T>(&self, parts: StageParts<T>, options: TrainOptions) -> Result<Outcome> {
        let training = Training {
            inputs: self.trainer_inputs(parts.objective, parts.mix)?,
            config_hash: &self.run.config.hash()?,
            source: parts.source,
            evaluation: parts.evaluation,
            metadata: parts.metadata,
            initialize: parts.initialize,
            control: self.run.control,
        };
        training.run(options)
    }

    /// Measures the speed of loader and steps.
    pub(super) fn measure<T: Geometric + Clone + Send + Sync + 'static>(
        &self,
        objective: &dyn Objective<Target = T>,
        mix: Mixer<T>,
        loader: &Loader<T>,
        options: SpeedOptions,
    ) -> Result<Speed> {
        let mut trainer = Trainer::new(self.trainer_inputs(objective, mix)?)?;
        speed::measure(&mut trainer, loader, self.run.device, options)
    }
}
