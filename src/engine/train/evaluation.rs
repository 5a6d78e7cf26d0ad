//! Evaluation during training, and the choice of the best weights.
//!
//! If the task has a split for choosing, the evaluations on the way are made on it, and what is reported is evaluated once, at
//! the end. Otherwise all evaluations are made on the reported split, and counted.

use super::{Run, Training};
use crate::engine::observer::Event;
use crate::record::{Better, ScoreSpec, Scores};
use anyhow::Result;
use serde_json::json;

impl<T> Run<'_, '_, T> {
    /// Whether the best weights are chosen on another split than the reported one.
    pub(super) fn chooses_apart(&self) -> bool {
        self.training.evaluation.as_ref().is_some_and(|evaluation| evaluation.select.is_some())
    }

    /// Counts an evaluation that is about to begin, unless it is on the split for choosing (`select`).
    pub(super) fn count_evaluation(&mut self, select: bool) {
        self.progress.evaluations += u64::from(self.training.evaluation.is_some() && !select);
    }

    /// Evaluates the current weights, or their average if one is kept, on the split for choosing (`select`) or on the
    /// reported one. Saves them if they are the best on the split on which they are chosen.
    pub(super) fn evaluate(&mut self, select: bool) -> Result<Scores> {
        let Training { evaluation: Some(evaluation), control, .. } = self.training else {
            return Ok(Scores::default());
        };
        let run = evaluation.select.filter(|_| select).unwrap_or(evaluation.run);
        let scores = self.averaged(|_| run())?;
        let step = self.done();
        self.log.line(&match select {
            true => json!({ "step": step, "split": "select", "scores": scores }),
            false => json!({ "step": step, "scores": scores }),
        })?;
        control.tell(Event::Evaluated { step, scores: &scores });
        if select == self.chooses_apart() {
            self.keep_best(&scores, evaluation.primary)?;
        }
        Ok(scores)
    }

    /// Whether so many evaluations in a row were not better that the recipe ends the run.
    pub(super) fn stops_early(&self) -> bool {
        let patience = self.training.inputs.recipe.early_stop;
        patience.is_some_and(|patience| self.progress.not_better >= patience)
    }

    /// What is said about a run that ended before its last planned step.
    pub(super) fn early_end(&self) -> Option<String> {
        let (progress, steps) = (&self.progress, self.training.inputs.plan.steps);
        (self.stops_early() && progress.steps < steps).then(|| {
            format!(
                "stopped early after step {} of {steps}: {} evaluations without a better score than that of step {}",
                progress.steps, progress.not_better, progress.best_step
            )
        })
    }

    /// Saves the current weights if their score is the best so far.
    fn keep_best(&mut self, scores: &Scores, primary: ScoreSpec) -> Result<()> {
        let value = scores.get(primary.name).map(|score| score.value);
        let better = |new: f64, old: f64| match primary.better {
            Better::Higher => new > old,
            Better::Lower => new < old,
        };
        if value.is_some_and(|new| self.progress.best.is_none_or(|old| better(new, old))) {
            self.progress.best = value;
            self.progress.best_step = self.done() as u64;
            self.progress.not_better = 0;
            if self.training.inputs.recipe.eval_epochs > 0 {
                self.save_weights(&self.options.folder.best())?;
            }
        } else {
            self.progress.not_better += 1;
        }
        Ok(())
    }
}
