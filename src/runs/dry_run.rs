//! [`dry_run`]: all checks of a run, and an estimate of its time, memory and disk from a few steps. Nothing is written.

use super::prepare::check;
use super::{Data, Request, Resolved, RunContext, machine, peak_memory_mb, resolve};
use crate::config::{RunConfig, Stage};
use crate::engine::{Plan, Rehearsal, Session, SpeedOptions};
use anyhow::Result;
use std::time::Duration;

/// Approximate duration of each of the three measurements of speed in seconds; at least three steps are made in each.
const SECONDS: f64 = 5.;
/// The share of the memory of the machine that a run may fill by the estimate from small batches, before it is tried.
const FILLED: f64 = 0.9;

/// What a run will take.
#[derive(Clone, Debug)]
pub struct RunEstimate {
    /// Steps and batches; `None` for a head that is fitted in one pass.
    pub plan: Option<Plan>,
    /// Time of a step.
    pub step: Duration,
    /// Time of all training steps.
    pub training: Duration,
    /// Number of evaluations.
    pub evaluations: usize,
    /// Time of one evaluation, if it could be measured.
    pub evaluation: Option<Duration>,
    /// Memory of the process; `None` on other devices than the CPU, or where the system does not say.
    pub memory: Option<MemoryEstimate>,
    /// Bytes of the final weights, and of the state that an unfinished run keeps to be resumed.
    pub disk: [u64; 2],
}

impl RunEstimate {
    /// Time of the whole run.
    pub fn total(&self) -> Duration {
        self.training + self.evaluation.unwrap_or_default() * self.evaluations as u32
    }
}

/// Peak memory of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryEstimate {
    /// Bytes at the peak: measured in a few steps, with the file of a state, which is put together in memory; or estimated from
    /// smaller batches if they would not fit.
    pub peak: u64,
    /// Bytes that the process can have.
    pub machine: u64,
    /// The largest micro-batch that fits, if that of the run does not.
    pub fitting: Option<usize>,
}

/// Checks a request as a run does, and rehearses it. Writes nothing.
///
/// # Errors
/// Every error for which the run would not start, and the errors of a training step.
pub fn dry_run(
    context: &RunContext,
    stage: Stage,
    request: &Request,
    tell: &dyn Fn(&str),
) -> Result<RunEstimate> {
    let resolved = resolve(context, stage, request)?;
    resolved.notes.iter().for_each(|note| tell(note));
    let (data, _) = check(context, &resolved, tell)?;
    let recipe = &resolved.config.recipe;
    let plan = match data.task.as_ref().is_some_and(|task| task.fits()) {
        true => None,
        false => Some(Plan::new(recipe, data.splits.train.len())?),
    };
    let machine = machine::memory().filter(|_| context.device.is_cpu());
    let micro = recipe.micro_batch();
    let least = data.task.as_ref().map_or(1, |task| task.least_batch());
    // Memory grows linearly with the micro-batch; two small ones show how.
    let mut slope = None;
    if let (Some(machine), Some(_), true) = (machine, plan, micro > 4 * least) {
        let mut peaks = [0.; 2];
        for (peak, images) in peaks.iter_mut().zip([least, 2 * least]) {
            rehearse(context, &resolved, &data, images, images, 0.)?;
            *peak = bytes();
        }
        let each = (peaks[1] - peaks[0]).max(0.) / least as f64;
        let base = peaks[1] - each * 2. * least as f64;
        let expected = base + each * micro as f64;
        if expected > FILLED * machine as f64 {
            let most = ((FILLED * machine as f64 - base) / each).floor().max(0.) as usize;
            let fitting = (least..=most).rev().find(|images| recipe.batch.is_multiple_of(*images));
            slope =
                Some(MemoryEstimate { peak: expected as u64, machine, fitting: Some(fitting.unwrap_or(0)) });
        }
    }
    let tried = match slope.and_then(|memory| memory.fitting) {
        Some(fitting) => fitting.max(least),
        None => micro,
    };
    // Two forward passes per step are enough to see what accumulation costs.
    let batch = recipe.batch.min(2 * tried);
    // A detector that has hardly been trained finds the most objects, so that its evaluation takes the most memory.
    if data.task.is_some() {
        rehearse(context, &resolved, &data, batch, tried, 0.)?;
    }
    let Rehearsal { speed, evaluation, parameters: [all, trained] } =
        rehearse(context, &resolved, &data, batch, tried, SECONDS)?;
    // Adam keeps two averages of each trained parameter. The file of a state is put together in memory before it is written.
    let disk = [all as u64, (all + 2 * trained) as u64];
    let peak = bytes() as u64 + disk[1];
    let memory = slope.or(machine.map(|machine| MemoryEstimate { peak, machine, fitting: None }));
    let images = data.splits.train.len();
    let scored = data.splits.eval.len() as u32;
    let evaluations = match recipe.eval_epochs {
        0 => 1,
        every => recipe.epochs.div_ceil(every),
    };
    let cached = recipe.transfer.as_ref().is_some_and(|transfer| transfer.cached_features);
    let training = match (&plan, &speed, evaluation) {
        // Features are computed once, as fast as images are evaluated; the steps on them are cheap.
        (Some(_), _, Some(each)) if cached => each * images as u32,
        (Some(plan), Some(speed), _) => {
            Duration::from_secs_f64((plan.steps * plan.batch) as f64 / speed.end_to_end)
        }
        _ => Duration::ZERO,
    };
    let steps = plan.map_or(1, |plan| plan.steps.max(1));
    Ok(RunEstimate {
        plan,
        step: training.div_f64(steps as f64),
        training,
        evaluations: if data.splits.eval.is_empty() { 0 } else { evaluations },
        evaluation: evaluation.map(|each| each * scored),
        memory,
        disk,
    })
}

/// Rehearses the run with other batches.
fn rehearse(
    context: &RunContext,
    resolved: &Resolved,
    data: &Data,
    batch: usize,
    micro: usize,
    seconds: f64,
) -> Result<Rehearsal> {
    let mut config: RunConfig = resolved.config.clone();
    (config.recipe.batch, config.recipe.micro_batch) = (batch, Some(micro));
    let mut inputs = resolved.inputs(context, &data.splits);
    inputs.config = &config;
    let options = SpeedOptions { seconds, profile: false };
    match &data.task {
        Some(task) => task.rehearse(&inputs, options),
        None => Session::pretraining(&inputs)?.rehearse(options),
    }
}

/// Peak memory of this process so far in bytes.
fn bytes() -> f64 {
    peak_memory_mb().unwrap_or(0.) * 1024. * 1024.
}
