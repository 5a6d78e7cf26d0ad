//! [`Rehearsal`]: a few steps and the evaluation of a few images, to tell how long a run takes and how much memory it needs.
//! Nothing is written.

use super::session::Session;
use super::{Speed, SpeedOptions, TaskModel};
use crate::nn::Params;
use crate::pretrain::Pretraining;
use crate::task::{Head, Task};
use anyhow::Result;
use std::sync::Arc;
use std::time::Duration;

/// Number of images that are evaluated.
const EVALUATED: usize = 32;

/// What a rehearsal found.
#[derive(Clone, Debug)]
pub struct Rehearsal {
    /// Speed of training; `None` for a head that is fitted in one pass.
    pub speed: Option<Speed>,
    /// Time to evaluate one image, if the run has a split to evaluate and a part of it can be scored by itself.
    pub evaluation: Option<Duration>,
    /// Bytes of all parameters, and of those that are trained.
    pub parameters: [usize; 2],
}

/// Bytes of all parameters, and of those that are trained.
fn bytes(params: &Params) -> [usize; 2] {
    let of = |trained: bool| {
        let all = params.all().into_iter().filter(|p| !trained || p.trainable);
        all.map(|p| p.var.elem_count() * p.var.dtype().size_in_bytes()).sum()
    };
    [of(false), of(true)]
}

impl<T: Task> Session<'_, TaskModel<T>> {
    /// Rehearses training and evaluation with the parameters as they are.
    ///
    /// # Errors
    /// The errors of a training step and of the loader.
    pub fn rehearse(&self, options: SpeedOptions) -> Result<Rehearsal> {
        let parameters = bytes(&self.params);
        if self.model.head.fits() {
            return Ok(Rehearsal { speed: None, evaluation: None, parameters });
        }
        let speed = Some(self.speed(options)?);
        let entries = &self.run.splits.eval;
        let step = entries.len().div_ceil(EVALUATED).max(1);
        let some = Arc::new(entries.iter().step_by(step).cloned().collect::<Vec<_>>());
        // A few images may have nothing to score.
        let found = if some.is_empty() { None } else { self.evaluate_on(&some).ok() };
        let evaluation = found.map(|found| (found.predicting + found.scoring) / found.images.max(1) as u32);
        Ok(Rehearsal { speed, evaluation, parameters })
    }
}

impl Session<'_, Box<dyn Pretraining>> {
    /// Rehearses training with the parameters as they are.
    ///
    /// # Errors
    /// The errors of a training step and of the loader.
    pub fn rehearse(&self, options: SpeedOptions) -> Result<Rehearsal> {
        let speed = Some(self.speed(options)?);
        Ok(Rehearsal { speed, evaluation: None, parameters: bytes(&self.params) })
    }
}
