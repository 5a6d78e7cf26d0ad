//! Images a second of the loader alone, of the model alone, and of both together: which of them waits for the other.

use super::pretrain::{Built, build, loader};
use super::train::Source;
use super::transfer::{self, train_loader};
use super::{Job, Plan};
use crate::data::loader::Loader;
use crate::data::{Batch, Geometric};
use crate::nn::{Params, Pass};
use crate::ops;
use crate::optim::{Gradients, LrSchedule, Step, param_groups};
use crate::pretrain::Objective;
use crate::rng::Rng;
use crate::task::{Head, Task};
use anyhow::{Context, Result, ensure};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Throughput of training, in images a second.
#[derive(Clone, Copy, Debug)]
pub struct Speed {
    pub loader: f64,
    pub model: f64,
    pub end_to_end: f64,
    pub plan: Plan,
}

impl Speed {
    /// Time of the whole recipe without evaluation.
    pub fn eta(&self) -> Duration {
        Duration::from_secs_f64((self.plan.steps * self.plan.batch) as f64 / self.end_to_end)
    }
}

/// Measures pre-training, about `seconds` for each of the three numbers.
pub fn speed_pretrain(job: &Job, seconds: f64) -> Result<Speed> {
    let Built { plan, params, objective } = build(job)?;
    let loader = loader(job, plan.micro_batch)?;
    measure(job, plan, &params, objective.as_ref(), &loader, &|_, _| Ok(()), seconds)
}

/// Measures the training of a transfer.
pub fn speed_transfer<T: Task>(task: &Arc<T>, job: &Job, seconds: f64) -> Result<Speed> {
    let plan = Plan::new(&job.config.recipe, job.train.len())?;
    let (params, model) = transfer::build(task.as_ref(), job, job.init)?;
    ensure!(!model.head.fits(), "recipe `{}` fits its head and trains nothing", job.config.run.recipe);
    let loader = train_loader(task, job, plan.micro_batch)?;
    measure(job, plan, &params, &model, &loader, &|batch, rng| task.mix(batch, rng), seconds)
}

fn measure<T: Geometric + Clone + Send + Sync + 'static>(
    job: &Job,
    plan: Plan,
    params: &Params,
    objective: &dyn Objective<Target = T>,
    loader: &Loader<T>,
    mix: super::train::Mixer<T>,
    seconds: f64,
) -> Result<Speed> {
    let recipe = &job.config.recipe;
    let parameters = params.trainable();
    let layer_of = |name: &str| objective.layer_of(name);
    let groups = param_groups(&parameters, &recipe.optim, &layer_of, job.config.model.depth + 1);
    let mut optimizer = crate::optim::build_optimizer(&recipe.optim, groups)?;
    let lr = LrSchedule::new(&recipe.schedule, recipe.lr(), plan.steps_per_epoch, plan.steps);
    let mut step = 0;
    let mut train = |mut batch: Batch<T>| -> Result<()> {
        let key = [step as u64];
        mix(&mut batch, &mut Rng::new(job.config.run.seed, "mix", &key))?;
        let mut rng = Rng::new(job.config.run.seed, "pass", &key);
        let loss = objective.losses(&batch, &mut Pass::train(&mut rng))?.total()?;
        let gradients = Gradients::collect(&mut ops::backward(&loss)?, &parameters)?;
        step += 1;
        if step % plan.micro_steps() == 0 {
            optimizer
                .step(&gradients, Step { lr: lr.at(step), scale: 1., weight_decay_scale: 1., ema: None })?;
        }
        Ok(())
    };
    let first = loader.epoch(0, 0).next().context("the loader is empty")??.batch;
    train(first.clone())?; // warms up allocator and caches
    let model = rate(seconds, plan.micro_batch, || train(first.clone()))?;
    let mut batches = (0..).flat_map(|epoch| Source::epoch(loader, epoch, 0));
    let mut next = || Ok(batches.next().context("the loader is empty")??.batch);
    next()?;
    let alone = rate(seconds, plan.micro_batch, || next().map(|_| ()))?;
    let end_to_end = rate(seconds, plan.micro_batch, || train(next()?))?;
    Ok(Speed { loader: alone, model, end_to_end, plan })
}

/// Images a second of `work`, which handles `images` at a call, over at least `seconds` and three calls.
fn rate(seconds: f64, images: usize, mut work: impl FnMut() -> Result<()>) -> Result<f64> {
    let (began, mut calls) = (Instant::now(), 0);
    while calls < 3 || began.elapsed().as_secs_f64() < seconds {
        work()?;
        calls += 1;
    }
    Ok((calls * images) as f64 / began.elapsed().as_secs_f64())
}
