//! Images per second of the loader alone, of the training step alone, and of both together, which shows which
//! of them waits for the other. The step is the one of a real run, with gradient norm, clipping, optimiser and
//! averaged weights.

use super::Plan;
use super::batches::Source;
use super::step::Trainer;
use crate::data::Geometric;
use crate::data::loader::{Loaded, Loader};
use crate::ops::profile::{Profile, record};
use anyhow::{Context, Result};
use candle_core::Device;
use std::time::{Duration, Instant};

/// How to measure [`Speed`].
#[derive(Clone, Copy, Debug)]
pub struct SpeedOptions {
    /// Approximate duration of each measurement in seconds.
    pub seconds: f64,
    /// Whether to measure the parts of the step, too.
    pub profile: bool,
}

/// Throughput of training in images per second.
#[derive(Clone, Debug)]
pub struct Speed {
    /// The loader alone: reading, decoding and augmenting.
    pub loader: f64,
    /// The training step alone, on one batch that stays in memory.
    pub model: f64,
    /// Loader and training step together.
    pub end_to_end: f64,
    /// Steps and batches of the run.
    pub plan: Plan,
    /// What one step asks of a CUDA device.
    #[cfg(feature = "cuda")]
    pub calls: Option<crate::ops::cuda::Calls>,
    /// The parts of steps with the loader, if requested: [`REST`](super::REST) holds what is no operator of
    /// [`crate::ops`].
    pub profile: Option<Profile>,
}

impl Speed {
    /// Estimated time of the whole recipe without evaluation.
    pub fn eta(&self) -> Duration {
        Duration::from_secs_f64((self.plan.steps * self.plan.batch) as f64 / self.end_to_end)
    }
}

/// Measures the loader, the steps, and both together.
pub(super) fn measure<T: Geometric + Clone + Send + Sync + 'static>(
    trainer: &mut Trainer<T>,
    loader: &Loader<T>,
    device: &Device,
    options: SpeedOptions,
) -> Result<Speed> {
    let SpeedOptions { seconds, profile } = options;
    let plan = *trainer.plan();
    let mut steps = 0;
    let mut train = |batches: &mut dyn Iterator<Item = _>| -> Result<()> {
        trainer.step(steps % plan.steps, batches, &mut |_| Ok(()))?;
        steps += 1;
        Ok(device.synchronize()?)
    };
    let first = Source::epoch(loader, 0, 0).next().context("the loader is empty")??.batch;
    let mut repeated = std::iter::repeat_with(|| Ok(Loaded { batch: first.clone(), skipped: vec![] }));
    train(&mut repeated)?; // warms up allocator and caches
    let model = rate(seconds, plan.batch, || train(&mut repeated))?;
    #[cfg(feature = "cuda")]
    let calls = device.is_cuda().then(|| calls_of(|| train(&mut repeated))).transpose()?;
    let mut batches = (0..).flat_map(|epoch| Source::epoch(loader, epoch, 0));
    let mut next = || -> Result<()> {
        batches.next().context("the loader is empty")??;
        Ok(())
    };
    next()?;
    let alone = rate(seconds, plan.micro_batch, next)?;
    let end_to_end = rate(seconds, plan.batch, || train(&mut batches))?;
    let profile = match profile {
        true => {
            let (steps, profile) = record(|| rate(seconds, plan.batch, || train(&mut batches)));
            steps?;
            Some(profile)
        }
        false => None,
    };
    Ok(Speed {
        loader: alone,
        model,
        end_to_end,
        plan,
        #[cfg(feature = "cuda")]
        calls,
        profile,
    })
}

/// What `work` asks of the CUDA device, without the synchronisation at its end.
#[cfg(feature = "cuda")]
fn calls_of(work: impl FnOnce() -> Result<()>) -> Result<crate::ops::cuda::Calls> {
    use crate::ops::cuda::calls;
    let before = calls();
    work()?;
    let mut made = calls() - before;
    made.waits = made.waits.saturating_sub(1);
    Ok(made)
}

/// Images per second of `work`, which processes `images` per call, over at least `seconds` and three calls.
fn rate(seconds: f64, images: usize, mut work: impl FnMut() -> Result<()>) -> Result<f64> {
    let (began, mut calls) = (Instant::now(), 0);
    while calls < 3 || began.elapsed().as_secs_f64() < seconds {
        work()?;
        calls += 1;
    }
    Ok((calls * images) as f64 / began.elapsed().as_secs_f64())
}
