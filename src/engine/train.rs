//! The training loop of both stages: MAE is an [`Objective`](crate::pretrain::Objective), a backbone with a
//! head is another.
//!
//! After a [step](Trainer::step) the loop writes a line of the log, evaluates and saves checkpoints when they
//! are due. A loss that is not finite ends the run and leaves `failure.json`.

mod evaluation;
mod skips;

use super::batches::{MicroBatches, Source};
use super::checkpoint::{self, Progress};
use super::log::RunLog;
use super::observer::{Control, Event};
use super::step::{StepError, Trainer, TrainerInputs, Values};
use crate::data::SampleId;
use crate::nn::Params;
use crate::record::{BestScore, RunFolder, ScoreSpec, Scores, Status, write_atomic};
use crate::weights;
use anyhow::{Result, bail};
use serde_json::json;
use skips::{count_skips, unreadable};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Lines of the log per epoch.
const LINES_PER_EPOCH: usize = 10;
/// Without `save_steps`, the state is saved at the end of an epoch, but no more often than this.
const SAVE_INTERVAL: Duration = Duration::from_secs(60);
/// The state is saved at least this often, even when epochs are long and `save_steps` is absent or large.
const LONGEST_LOSS: Duration = Duration::from_secs(600);

/// How a run is evaluated.
pub(super) struct Evaluation<'a> {
    /// Computes the scores of the current weights on the reported split.
    pub run: &'a dyn Fn() -> Result<Scores>,
    /// Computes their scores on the split on which the best weights are chosen; `None` if that is the reported split.
    pub select: Option<&'a dyn Fn() -> Result<Scores>>,
    /// The score that decides which weights are the best.
    pub primary: ScoreSpec,
}

/// Everything that the training loop needs.
pub(super) struct Training<'a, T> {
    /// The objective, its parameters and the settings of training.
    pub inputs: TrainerInputs<'a, T>,
    /// Hash of the configuration, which saved state must match.
    pub config_hash: &'a str,
    /// The source of batches.
    pub source: &'a dyn Source<T>,
    /// Evaluates at the end, and during training if the recipe asks for it.
    pub evaluation: Option<Evaluation<'a>>,
    /// Metadata of the files of weights.
    pub metadata: &'a BTreeMap<String, String>,
    /// Draws or loads the initial weights; not called when the run continues from saved state.
    pub initialize: &'a dyn Fn() -> Result<()>,
    /// Receives events, and says whether to stop.
    pub control: &'a Control<'a>,
}

/// How far to train, and where to write results.
#[derive(Clone, Copy, Debug)]
pub struct TrainOptions<'a> {
    /// The folder of the run, which this process holds.
    pub folder: &'a RunFolder,
    /// Whether to continue from the state in the folder, if there is one.
    pub resume: bool,
    /// Number of planned steps after which to stop; `None` for all of them.
    pub max_steps: Option<usize>,
}

/// The trained weights are saved, but could not be scored.
#[derive(Debug, thiserror::Error)]
#[error(
    "the weights are trained and saved in `{}`, but could not be scored; when the cause is repaired, continue the run with \
     --resume, or score them with `bench eval`",
    weights.display()
)]
pub struct Unscored {
    /// The file of weights.
    pub weights: PathBuf,
    /// Steps done.
    pub steps: usize,
}

/// How a run ended, and its measurements.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Whether all steps were done and, if not, the reason.
    pub status: Status,
    /// Steps of the whole run.
    pub steps_planned: usize,
    /// Steps done, including those before a resume.
    pub steps_done: usize,
    /// Unreadable images that were replaced.
    pub skipped: u64,
    /// Scores of the last evaluation on the reported split.
    pub scores: Scores,
    /// Number of evaluations on that split, with those of earlier starts.
    pub evaluations: u64,
    /// The best primary score, if there were evaluations.
    pub best: Option<BestScore>,
    /// Mean losses of the last line of the log.
    pub losses: BTreeMap<String, f64>,
    /// Images trained on since the program started, and the time that they took without evaluation.
    pub images: usize,
    /// See `images`.
    pub training: Duration,
    /// Warnings about the numbers for their readers.
    pub notes: Vec<String>,
}

impl Outcome {
    /// The result for a head that is fitted in one pass, without steps, and evaluated once.
    pub(super) fn fitted(scores: Scores) -> Self {
        Self {
            status: Status::Finished,
            steps_planned: 0,
            steps_done: 0,
            skipped: 0,
            scores,
            evaluations: 1,
            best: None,
            losses: BTreeMap::new(),
            images: 0,
            training: Duration::ZERO,
            notes: vec![],
        }
    }
}

/// A run in progress.
struct Run<'r, 'a, T> {
    training: &'r Training<'a, T>,
    options: TrainOptions<'r>,
    /// The step after which the run stops.
    end: usize,
    trainer: Trainer<'a, T>,
    progress: Progress,
    log: RunLog,
    saved: Instant,
    images: usize,
    time: Duration,
}

impl<'a, T> Training<'a, T> {
    /// Trains until the end, `max_steps` or a request to stop.
    ///
    /// # Errors
    /// Unreadable images beyond what the recipe allows, a loss that is not finite, a trainable parameter that
    /// the loss does not depend on, files that cannot be written.
    pub fn run(&self, options: TrainOptions) -> Result<Outcome> {
        let mut run = self.start(options)?;
        let (plan, end, control) = (self.inputs.plan, run.end, self.control);
        control.tell(Event::Started { plan: &plan, done: run.done(), end });
        while run.done() < end && !control.stopped() && !run.stops_early() {
            let (epoch, start) = plan.position(run.done());
            let left = plan.steps_per_epoch - start / plan.micro_steps();
            let mut batches = self.source.epoch(epoch as u64, start);
            for _ in 0..left.min(end - run.done()) {
                run.step(&mut *batches)?;
                run.after_step()?;
                if control.stopped() || run.stops_early() {
                    break;
                }
            }
        }
        run.finish()
    }

    fn start<'r>(&'r self, options: TrainOptions<'r>) -> Result<Run<'r, 'a, T>> {
        let path = options.folder.state();
        let resumes = options.resume && path.exists();
        if !resumes {
            if options.resume && options.folder.log().exists() {
                let note = format!("no state is saved in `{}`: starting from step 0", path.display());
                self.control.tell(Event::Note(&note));
            }
            (self.initialize)()?;
        }
        let steps = self.inputs.plan.steps;
        let mut trainer = Trainer::new(self.inputs)?;
        let mut progress = Progress { config: self.config_hash.to_string(), ..Progress::default() };
        if resumes {
            progress = checkpoint::load(&path, self.inputs.params, &mut trainer, &progress)?;
        }
        Ok(Run {
            training: self,
            options,
            end: options.max_steps.map_or(steps, |most| most.min(steps)),
            log: RunLog::open(&options.folder.log(), progress.log_bytes)?,
            trainer,
            progress,
            saved: Instant::now(),
            images: 0,
            time: Duration::ZERO,
        })
    }
}

impl<T> Run<'_, '_, T> {
    /// Steps done.
    fn done(&self) -> usize {
        self.progress.steps
    }

    /// One optimiser step.
    fn step(&mut self, batches: &mut MicroBatches<T>) -> Result<()> {
        let (began, step) = (Instant::now(), self.done());
        let Self { training, trainer, progress, log, .. } = self;
        let (control, allowed) = (training.control, training.inputs.recipe.allowed_skips);
        let mut count = |skipped: &[SampleId]| count_skips(skipped, allowed, progress, log, control);
        let report = match trainer.step(step, batches, &mut count) {
            Ok(report) => report,
            Err(StepError::Load { error, first }) => {
                if first && step > 0 {
                    // Nothing of this step has been computed, so the run can continue from here. A full disk must
                    // not hide the first error.
                    let _ = self.save();
                }
                return Err(unreadable(error));
            }
            Err(StepError::NotFinite { values, samples, lr }) => return self.fail(&values, &samples, lr),
            Err(StepError::Failed(error)) => {
                return Err(error.context(format!("failed in step {}", step + 1)));
            }
        };
        self.progress.steps += 1;
        self.images += training.inputs.plan.batch;
        self.time += began.elapsed();
        control.tell(Event::Step { done: self.done(), lr: report.lr, losses: &report.losses });
        let mut values = report.losses;
        if values.len() > 1 && values.iter().all(|(name, _)| *name != "loss") {
            values.insert(0, ("loss", values.iter().map(|(_, value)| value).sum()));
        }
        values.extend(report.metrics);
        values.push(("grad_norm", report.grad_norm));
        self.progress.meter.add(&values);
        Ok(())
    }

    /// Does what is due after a step: writes a line of the log, evaluates, and saves weights and resumable
    /// state.
    fn after_step(&mut self) -> Result<()> {
        let TrainerInputs { recipe, plan, .. } = self.training.inputs;
        let done = self.done();
        let in_epoch = (done - 1) % plan.steps_per_epoch + 1;
        if in_epoch.is_multiple_of(plan.steps_per_epoch.div_ceil(LINES_PER_EPOCH))
            || in_epoch == plan.steps_per_epoch
            || done == self.end
        {
            self.log_losses()?;
        }
        if plan.ends_epoch(done, recipe.eval_epochs) && done < self.end {
            self.count_evaluation(self.chooses_apart());
            self.evaluate(self.chooses_apart())?;
        }
        if plan.ends_epoch(done, recipe.keep_epochs) {
            let name = format!("epoch_{}.safetensors", done / plan.steps_per_epoch);
            self.save_weights(&self.options.folder.path().join(name))?;
        }
        let due = match recipe.save_steps {
            0 => plan.ends_epoch(done, 1) && self.saved.elapsed() >= SAVE_INTERVAL,
            every => done.is_multiple_of(every),
        };
        if due || self.saved.elapsed() >= LONGEST_LOSS || self.training.control.stopped() {
            self.save()?;
        }
        Ok(())
    }

    fn log_losses(&mut self) -> Result<()> {
        let done = self.done();
        let means = self.progress.meter.take();
        let mut line = serde_json::Map::new();
        line.insert("step".into(), json!(done));
        line.insert("epoch".into(), json!(done as f64 / self.trainer.plan().steps_per_epoch as f64));
        line.insert("lr".into(), json!(self.trainer.lr(done - 1)));
        line.extend(means.iter().map(|(name, value)| (name.clone(), json!(value))));
        self.progress.losses = means.into_iter().collect();
        self.log.line(&line.into())
    }

    /// Calls `with` while the averaged weights, if there are any, replace the current ones.
    fn averaged<R>(&mut self, with: impl FnOnce(&Self) -> Result<R>) -> Result<R> {
        if let Some(ema) = &mut self.trainer.ema {
            ema.swap()?;
        }
        let result = with(self);
        if let Some(ema) = &mut self.trainer.ema {
            ema.swap()?;
        }
        result
    }

    fn save_weights(&mut self, path: &Path) -> Result<()> {
        let Training { inputs, metadata, control, .. } = self.training;
        let params: &Params = inputs.params;
        self.averaged(|_| Ok(weights::save(path, params, metadata)?))?;
        control.tell(Event::Saved { path });
        Ok(())
    }

    /// Saves everything needed to continue the run exactly.
    fn save(&mut self) -> Result<()> {
        self.progress.log_bytes = self.log.sync()?;
        let path = self.options.folder.state();
        checkpoint::save(&path, self.training.inputs.params, &self.trainer, &self.progress)?;
        self.saved = Instant::now();
        Ok(())
    }

    fn finish(mut self) -> Result<Outcome> {
        let steps = self.trainer.plan().steps;
        let status = match self.done() {
            _ if self.stops_early() => Status::Finished,
            done if done < self.end => Status::Interrupted,
            done if done < steps => Status::Truncated,
            _ => Status::Finished,
        };
        if status != Status::Interrupted {
            self.count_evaluation(false);
        }
        if status != Status::Finished || self.training.evaluation.is_some() {
            self.save()?; // so that the run can continue even if the last evaluation is interrupted
        }
        let mut scores = Scores::default();
        if status != Status::Interrupted {
            // Before the scores, because an evaluation that fails must not take the weights with it.
            self.save_weights(&self.options.folder.weights())?;
            let scored = self.final_scores();
            scores = scored.map_err(|error| error.context(self.unscored()))?;
            self.log.sync()?;
        }
        let notes = self.early_end().into_iter().collect();
        let Self { progress, images, time: training, .. } = self;
        Ok(Outcome {
            status,
            steps_planned: steps,
            steps_done: progress.steps,
            skipped: progress.skipped,
            scores,
            evaluations: progress.evaluations,
            best: progress.best.map(|value| BestScore { value, step: progress.best_step }),
            losses: progress.losses,
            images,
            training,
            notes,
        })
    }

    /// The scores of the final weights.
    fn final_scores(&mut self) -> Result<Scores> {
        // A run that stops early has just been evaluated on the split for choosing.
        if self.chooses_apart() && !self.stops_early() {
            self.evaluate(true)?;
        }
        self.evaluate(false)
    }

    /// What remains if the final weights cannot be scored.
    fn unscored(&self) -> Unscored {
        Unscored { weights: self.options.folder.weights(), steps: self.done() }
    }

    /// Saves what is known about a loss that is not finite, and fails.
    fn fail(&self, losses: &Values, ids: &[SampleId], lr: f64) -> Result<()> {
        let shown: Vec<String> = losses.iter().map(|(name, value)| format!("{name} = {value}")).collect();
        let ids: Vec<&str> = ids.iter().map(SampleId::as_str).collect();
        let values: BTreeMap<&str, String> = losses.iter().map(|(n, v)| (*n, v.to_string())).collect();
        let report = json!({ "step": self.done(), "lr": lr, "losses": values, "samples": ids });
        let path = self.options.folder.path().join("failure.json");
        write_atomic(&path, serde_json::to_string_pretty(&report)?.as_bytes())?;
        bail!(
            "failed in step {}: a loss or gradient is not finite ({}) at lr {lr:.3e}; samples are in `{}`. \
             A lower learning rate or clipping may help \
             (--set optim.base_lr=…, --set clip=1.0)",
            self.done() + 1,
            shown.join(", "),
            path.display()
        )
    }
}
