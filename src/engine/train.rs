//! The training loop, the only one: MAE is an [`Objective`], a backbone with a head is another.
//!
//! A step is: micro-batches -> losses -> backward, gradients added up; their norm; optimiser with clipping and EMA.
//! Then, when due: a line of the log, evaluation, checkpoints. A loss that is not finite ends the run and leaves
//! `failure.json`.

use super::checkpoint::{Progress, State};
use super::log::RunLog;
use super::observer::{Control, Event};
use super::plan::Plan;
use super::upload;
use crate::config::Recipe;
use crate::data::loader::{Loaded, Loader, LoaderError};
use crate::data::{Batch, Geometric, SampleId};
use crate::nn::{Parameter, Params, Pass};
use crate::ops;
use crate::optim::{Ema, Gradients, LrSchedule, Step, build, clip_factor, slots};
use crate::pretrain::Objective;
use crate::record::{RunFolder, ScoreSpec, Scores, Status, write_atomic};
use crate::rng::Rng;
use anyhow::{Context, Result, bail};
use candle_core::{DType, Tensor};
use serde_json::json;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Where training batches come from.
pub trait Source<T> {
    /// Micro-batches of `epoch` from `start` on, in order.
    fn epoch(&self, epoch: u64, start: usize) -> Batches<'_, T>;
}

/// An epoch under way.
pub type Batches<'a, T> = Box<dyn Iterator<Item = std::result::Result<Loaded<T>, LoaderError>> + 'a>;

impl<T: Geometric + Clone + Send + Sync + 'static> Source<T> for Loader<T> {
    fn epoch(&self, epoch: u64, start: usize) -> Batches<'_, T> {
        upload::batches(self, epoch, start)
    }
}

/// Evaluation during training.
pub struct Evaluation<'a> {
    pub run: &'a dyn Fn() -> Result<Scores>,
    /// Decides which weights are the best.
    pub primary: ScoreSpec,
}

/// Mixes the samples of a training batch.
pub type Mixer<'a, T> = &'a dyn Fn(&mut Batch<T>, &mut Rng) -> candle_core::Result<()>;

/// A run of the loop.
pub struct Training<'a, T> {
    pub recipe: &'a Recipe,
    pub plan: Plan,
    pub seed: u64,
    /// Hash of the configuration, which saved state must match.
    pub config: &'a str,
    pub objective: &'a dyn Objective<Target = T>,
    pub params: &'a Params,
    /// Layer of the head, for layer-wise lr decay.
    pub layers: usize,
    pub source: &'a dyn Source<T>,
    pub mix: Mixer<'a, T>,
    pub evaluation: Option<Evaluation<'a>>,
    pub folder: &'a RunFolder,
    /// Notes for the files of weights.
    pub metadata: &'a BTreeMap<String, String>,
    pub max_steps: Option<usize>,
    pub control: &'a Control<'a>,
}

/// How a run ended, and what it measured.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub status: Status,
    pub steps_planned: usize,
    pub steps_done: usize,
    pub skipped: u64,
    pub scores: Scores,
    /// Means of the last line of the log.
    pub losses: BTreeMap<String, f64>,
    /// Images trained on since the program started, and the time for them (evaluation apart).
    pub images: usize,
    pub training: Duration,
    pub notes: Vec<String>,
}

impl Outcome {
    /// Of a head that is fitted in one pass, without steps.
    pub(super) fn fitted(scores: Scores) -> Self {
        Self {
            status: Status::Finished,
            steps_planned: 0,
            steps_done: 0,
            skipped: 0,
            scores,
            losses: BTreeMap::new(),
            images: 0,
            training: Duration::ZERO,
            notes: vec![],
        }
    }
}

/// One run under way.
pub(super) struct Run<'r, 'a, T> {
    pub(super) training: &'r Training<'a, T>,
    pub(super) parameters: Vec<Parameter>,
    pub(super) schedule: LrSchedule,
    pub(super) state: State,
    pub(super) log: RunLog,
    pub(super) saved: Instant,
    pub(super) images: usize,
    pub(super) time: Duration,
}

impl<T> Training<'_, T> {
    /// Steps until the end, `max_steps` or a request to stop. Continues from the state in the folder when `resume`
    /// is set and there is one; otherwise calls `initialize` before step 0.
    ///
    /// # Errors
    /// Unreadable images beyond what the recipe allows, a loss that is not finite, a trainable parameter that the
    /// loss does not depend on, files that cannot be written.
    pub fn run(&self, resume: bool, initialize: &dyn Fn() -> Result<()>) -> Result<Outcome> {
        let end = self.max_steps.map_or(self.plan.steps, |most| most.min(self.plan.steps));
        let mut run = self.start(resume, initialize)?;
        self.control.tell(Event::Started { plan: &self.plan, done: run.done(), end });
        while run.done() < end && !self.control.stopped() {
            let (epoch, start) = self.plan.position(run.done());
            let left = self.plan.steps_per_epoch - start / self.plan.micro_steps();
            let mut batches = self.source.epoch(epoch as u64, start);
            for _ in 0..left.min(end - run.done()) {
                run.step(&mut batches)?;
                run.follow_up(end)?;
                if self.control.stopped() {
                    break;
                }
            }
        }
        run.finish(end)
    }

    fn start(&self, resume: bool, initialize: &dyn Fn() -> Result<()>) -> Result<Run<'_, '_, T>> {
        let Self { recipe, plan, params, .. } = self;
        let path = self.folder.state();
        let resumes = resume && path.exists();
        if !resumes {
            initialize()?;
        }
        let parameters = params.trainable();
        let layer_of = |name: &str| self.objective.layer_of(name);
        let optimizer = build(&recipe.optim, slots(&parameters, &recipe.optim, &layer_of, self.layers))?;
        let ema = recipe.ema.map(|decay| Ema::new(&params.all(), decay)).transpose()?;
        let progress = Progress { config: self.config.to_string(), ..Progress::default() };
        let mut state = State { optimizer, ema, progress };
        if resumes {
            state.load(&path, params)?;
        }
        Ok(Run {
            training: self,
            parameters,
            schedule: LrSchedule::new(&recipe.schedule, recipe.lr(), plan.steps_per_epoch, plan.steps),
            log: RunLog::open(&self.folder.log(), state.progress.log_bytes)?,
            state,
            saved: Instant::now(),
            images: 0,
            time: Duration::ZERO,
        })
    }
}

impl<T> Run<'_, '_, T> {
    /// Steps done.
    pub(super) fn done(&self) -> usize {
        self.state.progress.steps
    }

    /// One optimiser step.
    fn step(&mut self, batches: &mut Batches<T>) -> Result<()> {
        let began = Instant::now();
        let Training { recipe, plan, control, .. } = *self.training;
        let (step, micro_steps) = (self.done(), plan.micro_steps());
        let lr = self.schedule.at(step);
        let mut sum: Option<Gradients> = None;
        let (mut losses, mut notes): (Values, Values) = (vec![], vec![]);
        for micro in 0..micro_steps {
            let loaded = batches.next().context("the loader ended before the epoch did")?;
            if loaded.is_err() && micro == 0 && step > 0 {
                // Nothing of this step is computed yet: the run can go on where it fails. A disk that is full must not
                // hide the error that came first.
                let _ = self.save();
            }
            let loaded = loaded?;
            self.count_skips(&loaded.skipped)?;
            let found = self.backward(loaded.batch, &[step as u64, micro as u64], lr);
            let (found, noted, gradients) = found.map_err(|error| advise(error, plan.micro_batch))?;
            add_means(&mut losses, &found, micro_steps);
            add_means(&mut notes, &noted, micro_steps);
            match &mut sum {
                Some(sum) => sum.add(gradients)?,
                None => sum = Some(gradients),
            }
        }
        let gradients = sum.context("a step has at least one micro-batch")?;
        if step == 0 && !gradients.missing().is_empty() {
            bail!("the loss does not depend on the parameters {}", gradients.missing().join(", "));
        }
        let mean = 1. / micro_steps as f64;
        let norm = gradients.norm()? * mean;
        if !norm.is_finite() {
            losses.push(("grad_norm", norm));
            self.fail(&losses, &[], lr)?;
        }
        let scale = mean * recipe.clip.map_or(1., |most| clip_factor(norm, most));
        self.state.optimizer.step(&gradients, Step { lr, scale, ema: self.state.ema.as_mut() })?;
        self.state.progress.steps += 1;
        self.images += plan.batch;
        self.time += began.elapsed();
        control.tell(Event::Step { done: self.done(), lr, losses: &losses });
        losses.extend(notes);
        losses.push(("grad_norm", norm));
        self.state.progress.meter.add(&losses);
        Ok(())
    }

    /// Losses of one micro-batch by name, what is noted beside them, and gradients.
    fn backward(&self, mut batch: Batch<T>, key: &[u64], lr: f64) -> Result<(Values, Values, Gradients)> {
        let Training { seed, objective, mix, plan, .. } = *self.training;
        mix(&mut batch, &mut Rng::new(seed, "mix", key))?;
        let mut rng = Rng::new(seed, "pass", key);
        let progress = self.done() as f64 / plan.steps as f64;
        let losses = objective.losses(&batch, &mut Pass::Train { rng: &mut rng, progress })?;
        let mut store = ops::backward(&losses.total()?)?;
        let gradients = Gradients::collect(&mut store, &self.parameters)?;
        // Reading a loss waits for the device: everything is queued before.
        let value = |(name, loss): (&'static str, &Tensor)| {
            Ok((name, f64::from(loss.to_dtype(DType::F32)?.to_scalar::<f32>()?)))
        };
        let values = losses.iter().map(value).collect::<candle_core::Result<Values>>()?;
        if values.iter().any(|(_, value)| !value.is_finite()) {
            self.fail(&values, &batch.ids, lr)?;
        }
        Ok((values, losses.notes().collect(), gradients))
    }

    fn count_skips(&mut self, skipped: &[SampleId]) -> Result<()> {
        let Training { recipe, control, .. } = self.training;
        for id in skipped {
            control.tell(Event::Skipped { id: id.as_str() });
            self.log.line(&json!({ "step": self.done(), "skipped": id.as_str() }))?;
            self.state.progress.skipped += 1;
        }
        let count = self.state.progress.skipped;
        if count > recipe.allowed_skips as u64 {
            let last = skipped.last().map(SampleId::as_str).unwrap_or_default();
            bail!(
                "{count} unreadable images (the last is `{last}`), allowed_skips is {}",
                recipe.allowed_skips
            );
        }
        Ok(())
    }

    /// Saves what is known about a loss that is not finite, and fails.
    fn fail(&self, losses: &[(&'static str, f64)], ids: &[SampleId], lr: f64) -> Result<()> {
        let shown: Vec<String> = losses.iter().map(|(name, value)| format!("{name} = {value}")).collect();
        let ids: Vec<&str> = ids.iter().map(SampleId::as_str).collect();
        let values: BTreeMap<&str, String> = losses.iter().map(|(n, v)| (*n, v.to_string())).collect();
        let report = json!({ "step": self.done(), "lr": lr, "losses": values, "samples": ids });
        let path = self.training.folder.path().join("failure.json");
        write_atomic(&path, serde_json::to_string_pretty(&report)?.as_bytes())?;
        bail!(
            "step {}: not finite: {} at lr {lr:.3e}; samples are in `{}`. A lower learning rate or clipping may help \
             (--set optim.base_lr=…, --set clip=1.0)",
            self.done(),
            shown.join(", "),
            path.display()
        )
    }
}

/// Numbers by name.
type Values = Vec<(&'static str, f64)>;

/// Adds one of `count` parts of a mean.
fn add_means(means: &mut Values, found: &[(&'static str, f64)], count: usize) {
    for &(name, value) in found {
        let value = value / count as f64;
        match means.iter_mut().find(|(n, _)| *n == name) {
            Some((_, mean)) => *mean += value,
            None => means.push((name, value)),
        }
    }
}

/// Says what to do when a device has no memory for a micro-batch.
fn advise(error: anyhow::Error, images: usize) -> anyhow::Error {
    let full = |text: String| text.contains("OUT_OF_MEMORY") || text.contains("ALLOC_FAILED");
    if !error.chain().any(|cause| full(cause.to_string())) {
        return error;
    }
    error.context(format!(
        "the device has no memory for {images} images at a time; --set micro_batch=N accumulates the same batch from \
         passes of N images"
    ))
}
