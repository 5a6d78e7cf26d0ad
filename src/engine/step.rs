//! The training step: runs, `bench speed` and the benchmarks all call [`Trainer::step`].
//!
//! A step computes the losses and gradients of each micro-batch, averages the gradients, computes their norm,
//! and updates the parameters with clipping. It then updates the averaged weights. It writes no file and prints
//! nothing.

use super::batches::MicroBatches;
use super::plan::Plan;
use crate::config::Recipe;
use crate::data::loader::LoaderError;
use crate::data::{Batch, SampleId};
use crate::nn::{LossMetric, Parameter, Params, Pass};
use crate::ops;
use crate::ops::profile::Direction::{Backward, Forward};
use crate::ops::profile::scope;
use crate::optim::{
    Ema, Gradients, LrSchedule, Optimizer, Step, WeightDecaySchedule, build_optimizer, clip_factor,
    param_groups,
};
use crate::pretrain::{Moment, Objective};
use crate::rng::Rng;
use anyhow::{Context, Result, anyhow};
use candle_core::{DType, Tensor};

/// What the profile of a step calls everything that is no operator of [`crate::ops`]: operators of candle and the walk
/// over their graph.
pub const REST: &str = "(rest)";

/// Numbers by name.
pub type Values = Vec<(&'static str, f64)>;

/// Mixes the samples of a training batch.
pub type Mixer<'a, T> = &'a dyn Fn(&mut Batch<T>, &mut Rng) -> candle_core::Result<()>;

/// The objective, its parameters and the settings of training.
pub struct TrainerInputs<'a, T> {
    /// The settings of the training loop.
    pub recipe: &'a Recipe,
    /// Steps and batches.
    pub plan: Plan,
    /// Seed of all random numbers.
    pub seed: u64,
    /// Computes the losses of batches.
    pub objective: &'a dyn Objective<Target = T>,
    /// All parameters; the trainable ones are updated.
    pub params: &'a Params,
    /// Layer of the head, for layer-wise learning rate decay.
    pub layers: usize,
    /// Mixes samples; see [`crate::task::Task::mix`].
    pub mix: Mixer<'a, T>,
}

impl<T> Clone for TrainerInputs<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for TrainerInputs<'_, T> {}

/// An objective with its optimiser: all state that a step changes, except the parameters.
pub struct Trainer<'a, T> {
    inputs: TrainerInputs<'a, T>,
    parameters: Vec<Parameter>,
    schedule: LrSchedule,
    weight_decay: WeightDecaySchedule,
    /// The state of the optimiser.
    pub(super) optimizer: Box<dyn Optimizer>,
    /// The averaged weights, if the recipe asks for them.
    pub(super) ema: Option<Ema>,
}

/// The result of a step.
#[derive(Clone, Debug, PartialEq)]
pub struct StepReport {
    /// Learning rate of the last layer, the largest of the step.
    pub lr: f64,
    /// Losses by name, averaged over the micro-batches.
    pub losses: Values,
    /// Metrics that the objective reports beside its losses.
    pub metrics: Values,
    /// Global norm of the gradients before clipping.
    pub grad_norm: f64,
}

/// The reason why a step failed. Parameters and the optimiser's state are unchanged.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// A batch could not be read. `first` is true if nothing of the step had been computed yet.
    #[error("{error}")]
    Load {
        /// Why.
        error: LoaderError,
        /// Whether it was the first micro-batch of the step.
        first: bool,
    },
    /// A loss or a gradient is not a finite number.
    #[error("a loss or gradient is not finite")]
    NotFinite {
        /// The losses of the micro-batch or, if they are finite, those of the step with the norm of its gradients.
        values: Values,
        /// The samples of the micro-batch; empty when only the norm is not finite.
        samples: Vec<SampleId>,
        /// Learning rate of the step.
        lr: f64,
    },
    /// Anything else.
    #[error(transparent)]
    Failed(#[from] anyhow::Error),
}

impl From<candle_core::Error> for StepError {
    fn from(error: candle_core::Error) -> Self {
        Self::Failed(error.into())
    }
}

impl<'a, T> Trainer<'a, T> {
    /// A trainer before its first step.
    ///
    /// # Errors
    /// An optimiser that cannot be built.
    pub fn new(inputs: TrainerInputs<'a, T>) -> Result<Self> {
        let TrainerInputs { recipe, plan, params, objective, layers, .. } = &inputs;
        let parameters = params.trainable();
        let layer_of = |name: &str| objective.layer_of(name);
        let groups = param_groups(&parameters, &recipe.optim, &layer_of, *layers);
        let optimizer = build_optimizer(&recipe.optim, groups)?;
        let ema = recipe.ema.map(|decay| Ema::new(&params.all(), decay)).transpose()?;
        let schedule = LrSchedule::new(&recipe.schedule, recipe.lr(), plan.steps_per_epoch, plan.steps);
        let weight_decay = WeightDecaySchedule::new(&recipe.optim, plan.steps);
        Ok(Self { parameters, schedule, weight_decay, optimizer, ema, inputs })
    }

    /// Learning rate of step `step`, from 0.
    pub fn lr(&self, step: usize) -> f64 {
        self.schedule.at(step)
    }

    /// Steps and batches of the run.
    pub fn plan(&self) -> &Plan {
        &self.inputs.plan
    }

    /// Number of trainable values.
    pub fn trainable(&self) -> usize {
        self.parameters.iter().map(|parameter| parameter.var.elem_count()).sum()
    }

    /// Does step number `step` (from 0) with the next micro-batches of `batches`. `skipped` receives the
    /// unreadable images of each micro-batch that has any, and may return an error to refuse them.
    ///
    /// # Errors
    /// See [`StepError`].
    pub fn step(
        &mut self,
        step: usize,
        batches: &mut MicroBatches<T>,
        skipped: &mut dyn FnMut(&[SampleId]) -> Result<()>,
    ) -> Result<StepReport, StepError> {
        let TrainerInputs { recipe, plan, objective, .. } = &self.inputs;
        let (micro_steps, lr, at) = (plan.micro_steps(), self.lr(step), plan.moment(step));
        let mut sum: Option<Gradients> = None;
        let mut computed = vec![];
        for micro in 0..micro_steps {
            let loaded = scope("(loader)", Forward, || batches.next());
            let loaded = loaded.context("the loader ended before the end of the epoch")?;
            let loaded = loaded.map_err(|error| StepError::Load { error, first: micro == 0 })?;
            skipped(&loaded.skipped)?;
            let (outcome, gradients) = self.backward(loaded.batch, &[step as u64, micro as u64], at)?;
            computed.push(outcome);
            match &mut sum {
                Some(sum) => sum.add(gradients)?,
                None => sum = Some(gradients),
            }
        }
        let mut gradients = sum.context("a step has at least one micro-batch")?;
        if step == 0 && !gradients.missing().is_empty() {
            let missing = gradients.missing().join(", ");
            return Err(anyhow!("the loss does not depend on the parameters {missing}").into());
        }
        objective.before_optimizer(&mut gradients, &at)?;
        let mean = 1. / micro_steps as f64;
        // Reading the norm waits for the device, so that everything is queued before; then the losses are there.
        let grad_norm = scope("(gradient norm)", Forward, || gradients.norm());
        let grad_norm = grad_norm.map_err(|error| self.advise(error.into()))? * mean;
        let (mut losses, mut metrics): (Values, Values) = (vec![], vec![]);
        for outcome in computed {
            let values = outcome.losses.iter().map(|(name, loss)| Ok((*name, scalar(loss)?)));
            let values = values.collect::<candle_core::Result<Values>>()?;
            if values.iter().any(|(_, value)| !value.is_finite()) {
                return Err(StepError::NotFinite { values, samples: outcome.samples, lr });
            }
            let noted = outcome.metrics.iter().map(|(name, metric)| Ok((*name, metric.value()?)));
            add_means(&mut losses, &values, micro_steps);
            add_means(&mut metrics, &noted.collect::<candle_core::Result<Values>>()?, micro_steps);
        }
        if !grad_norm.is_finite() {
            losses.push(("grad_norm", grad_norm));
            return Err(StepError::NotFinite { values: losses, samples: vec![], lr });
        }
        let scale = mean * recipe.clip.map_or(1., |most| clip_factor(grad_norm, most));
        let weight_decay_scale = self.weight_decay.scale_at(step);
        let update = Step { lr, scale, weight_decay_scale, ema: self.ema.as_mut() };
        scope("(optimizer)", Forward, || self.optimizer.step(&gradients, update))?;
        objective.after_optimizer(&at)?;
        Ok(StepReport { lr, losses, metrics, grad_norm })
    }

    /// Losses, metrics and gradients of one micro-batch.
    fn backward(
        &self,
        mut batch: Batch<T>,
        key: &[u64],
        at: Moment,
    ) -> Result<(MicroOutcome, Gradients), StepError> {
        let TrainerInputs { seed, objective, mix, .. } = &self.inputs;
        let mut compute = || -> Result<_> {
            mix(&mut batch, &mut Rng::new(*seed, "mix", key))?;
            let mut rng = Rng::new(*seed, "pass", key);
            let mut pass = Pass::Train { rng: &mut rng, progress: at.progress, epoch: at.epoch };
            let losses = scope(REST, Forward, || objective.losses(&batch, &mut pass))?;
            let mut store = scope(REST, Backward, || ops::backward(&losses.total()?))?;
            let gradients = Gradients::collect(&mut store, &self.parameters)?;
            // Detached, so that the graph is freed before the next micro-batch.
            let detached = losses.iter().map(|(name, loss)| (name, loss.detach())).collect();
            let metrics = losses.metrics().map(|(name, metric)| (name, metric.clone())).collect();
            Ok((detached, metrics, gradients))
        };
        let (losses, metrics, gradients) = compute().map_err(|error| self.advise(error))?;
        Ok((MicroOutcome { losses, metrics, samples: batch.ids }, gradients))
    }

    /// Adds advice to the error when the device has too little memory for a micro-batch.
    fn advise(&self, error: anyhow::Error) -> anyhow::Error {
        advise(error, self.inputs.plan.micro_batch)
    }
}

/// What a micro-batch has left on the device, beside its gradients.
struct MicroOutcome {
    losses: Vec<(&'static str, Tensor)>,
    metrics: Vec<(&'static str, LossMetric)>,
    samples: Vec<SampleId>,
}

/// The value of a scalar.
fn scalar(tensor: &Tensor) -> candle_core::Result<f64> {
    Ok(f64::from(tensor.to_dtype(DType::F32)?.to_scalar::<f32>()?))
}

/// Adds one of the `count` terms of a mean.
fn add_means(means: &mut Values, found: &[(&'static str, f64)], count: usize) {
    for &(name, value) in found {
        let value = value / count as f64;
        match means.iter_mut().find(|(n, _)| *n == name) {
            Some((_, mean)) => *mean += value,
            None => means.push((name, value)),
        }
    }
}

/// Adds advice to the error when the device has too little memory for a micro-batch.
fn advise(error: anyhow::Error, images: usize) -> anyhow::Error {
    let full = |text: String| text.contains("OUT_OF_MEMORY") || text.contains("ALLOC_FAILED");
    if !error.chain().any(|cause| full(cause.to_string())) {
        return error;
    }
    error.context(format!(
        "the device has too little memory for {images} images at a time; \
             --set micro_batch=N accumulates the same batch in passes of N images"
    ))
}
