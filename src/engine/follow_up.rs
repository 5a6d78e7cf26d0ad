//! What is due after a step: a line of the log, evaluation, weights, resumable state; and how a run ends.

use super::observer::Event;
use super::train::{Outcome, Run, Training};
use crate::record::{Better, Scores, Status};
use crate::weights;
use anyhow::Result;
use serde_json::json;
use std::path::Path;
use std::time::{Duration, Instant};

/// Lines of the log in an epoch.
const LINES_PER_EPOCH: usize = 10;
/// Without `save_steps`, the state is saved at ends of epochs, but no more often than this.
const SAVE_INTERVAL: Duration = Duration::from_secs(60);
/// What a kill may cost at most, where epochs are long and `save_steps` is absent or large.
const LONGEST_LOSS: Duration = Duration::from_secs(600);

impl<T> Run<'_, '_, T> {
    /// What is due after a step.
    pub(super) fn follow_up(&mut self, end: usize) -> Result<()> {
        let Training { recipe, plan, .. } = self.training;
        let done = self.done();
        let in_epoch = (done - 1) % plan.steps_per_epoch + 1;
        if in_epoch.is_multiple_of(plan.steps_per_epoch.div_ceil(LINES_PER_EPOCH))
            || in_epoch == plan.steps_per_epoch
            || done == end
        {
            self.log_losses()?;
        }
        if plan.ends_epoch(done, recipe.eval_epochs) && done < end {
            self.evaluate()?;
        }
        if plan.ends_epoch(done, recipe.keep_epochs) {
            let name = format!("epoch_{}.safetensors", done / plan.steps_per_epoch);
            self.save_weights(&self.training.folder.path().join(name))?;
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
        let means = self.state.progress.meter.take();
        let mut line = serde_json::Map::new();
        line.insert("step".into(), json!(done));
        line.insert("epoch".into(), json!(done as f64 / self.training.plan.steps_per_epoch as f64));
        line.insert("lr".into(), json!(self.schedule.at(done - 1)));
        line.extend(means.iter().map(|(name, value)| (name.clone(), json!(value))));
        self.state.progress.losses = means.into_iter().collect();
        self.log.line(&line.into())
    }

    /// Scores of the present weights (of their average, where one is kept); keeps the best.
    fn evaluate(&mut self) -> Result<Scores> {
        let Training { evaluation: Some(evaluation), control, folder, .. } = self.training else {
            return Ok(Scores::default());
        };
        self.averaged(|_| (evaluation.run)()).and_then(|scores| {
            let (step, primary) = (self.done(), evaluation.primary);
            self.log.line(&json!({ "step": step, "scores": scores }))?;
            control.tell(Event::Evaluated { step, scores: &scores });
            let value = scores.get(primary.name).map(|score| score.value);
            let better = |new: f64, old: f64| match primary.better {
                Better::Higher => new > old,
                Better::Lower => new < old,
            };
            if value.is_some_and(|new| self.state.progress.best.is_none_or(|old| better(new, old))) {
                self.state.progress.best = value;
                if self.training.recipe.eval_epochs > 0 {
                    self.save_weights(&folder.best())?;
                }
            }
            Ok(scores)
        })
    }

    /// Calls `with` while the averaged weights, where there are any, are in place.
    fn averaged<R>(&mut self, with: impl FnOnce(&Self) -> Result<R>) -> Result<R> {
        if let Some(ema) = &mut self.state.ema {
            ema.swap()?;
        }
        let result = with(self);
        if let Some(ema) = &mut self.state.ema {
            ema.swap()?;
        }
        result
    }

    fn save_weights(&mut self, path: &Path) -> Result<()> {
        let Training { params, metadata, control, .. } = self.training;
        self.averaged(|_| Ok(weights::save(path, params, metadata)?))?;
        control.tell(Event::Saved { path });
        Ok(())
    }

    pub(super) fn save(&mut self) -> Result<()> {
        self.state.progress.log_bytes = self.log.sync()?;
        self.state.save(&self.training.folder.state(), self.training.params)?;
        self.saved = Instant::now();
        Ok(())
    }

    pub(super) fn finish(mut self, end: usize) -> Result<Outcome> {
        let Training { plan, folder, .. } = self.training;
        let status = match self.done() {
            done if done < end => Status::Interrupted,
            done if done < plan.steps => Status::Truncated,
            _ => Status::Finished,
        };
        if status != Status::Finished || self.training.evaluation.is_some() {
            self.save()?; // so that it can go on, also from within the last evaluation
        }
        let mut scores = Scores::default();
        if status != Status::Interrupted {
            scores = self.evaluate()?;
            self.log.sync()?;
            self.save_weights(&folder.weights())?;
        }
        let progress = self.state.progress;
        Ok(Outcome {
            status,
            steps_planned: plan.steps,
            steps_done: progress.steps,
            skipped: progress.skipped,
            scores,
            losses: progress.losses,
            images: self.images,
            training: self.time,
            notes: vec![],
        })
    }
}
