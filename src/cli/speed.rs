//! `bench speed`: measures images per second, and estimates how long a recipe takes.

use super::flags::{PlaceFlags, RequestFlags};
use super::output::duration;
use super::{CommandResult, Failure, print};
use crate::config::{RunConfig, Stage};
use crate::engine::{Plan, Session, Speed, SpeedOptions};
use crate::ops::profile::{Direction, Profile, Spent};
use crate::registry::Registry;
use crate::runs::{RunContext, index, resolve, stage_of};
use candle_core::Device;
use clap::Args;
use std::collections::BTreeMap;

/// Floating-point operations of training on one image: three times the matrix products of a forward pass. Frozen blocks
/// count as if they were trained.
fn training_flops(runs: &RunContext, config: &RunConfig) -> anyhow::Result<Option<f64>> {
    let gmacs = match &config.recipe.pretrain {
        Some(table) => runs.registry.components().objectives.facts(table, &config.model)?.gmacs,
        None => runs.registry.components().backbones.gmacs(&config.model)?,
    };
    Ok(gmacs.map(|gmacs| 3. * 2e9 * gmacs))
}

/// Floating-point operations per second that large matrix products reach on a CUDA device.
fn peak(device: &Device) -> anyhow::Result<Option<f64>> {
    #[cfg(feature = "cuda")]
    if device.is_cuda() {
        return Ok(Some(crate::ops::cuda::product_rate(device)?));
    }
    let _ = device;
    Ok(None)
}

#[derive(Args, Debug)]
pub(super) struct SpeedArgs {
    /// Measure the transfer to this task (name or path), or pre-training on its data set if --recipe is a pre-training recipe
    #[arg(long)]
    task: Option<String>,
    /// Measure pre-training on this data set (name or path)
    #[arg(long, conflicts_with = "task")]
    dataset: Option<String>,
    /// Approximate duration of each measurement in seconds
    #[arg(long, default_value_t = 5.)]
    seconds: f64,
    /// Show the share of every operator in the training step, and how many threads were at work meanwhile
    #[arg(long)]
    profile: bool,
    #[command(flatten)]
    request: RequestFlags,
    #[command(flatten)]
    place: PlaceFlags,
}

pub(super) fn speed(registry: &Registry, args: SpeedArgs) -> CommandResult {
    let place =
        args.request.config.as_ref().map_or(args.place.clone(), |file| args.place.with_includes_in(file));
    let context = place.context()?;
    let runs = context.run_context(registry);
    let mut request = args.request.request(args.task, args.dataset)?;
    let stage = stage_of(&context.library, &request)?;
    if stage == Stage::Transfer && request.init.is_none() {
        request.init = Some(crate::config::SCRATCH.into()); // The speed does not depend on the initial weights.
    }
    let resolved = resolve(&runs, stage, &request)?;
    let data = index(&runs, &resolved)?;
    // A batch larger than the data is a wrong request.
    let (recipe, images) = (&resolved.config.recipe, data.splits.train.len());
    match &data.task {
        Some(task) => task.check_batches(recipe, images)?,
        None => Plan::check(recipe, images, 1)?,
    }
    let inputs = resolved.inputs(&runs, &data.splits);
    let options = SpeedOptions { seconds: args.seconds, profile: args.profile };
    let measured = match &data.task {
        Some(task) => task.speed(&inputs, options),
        None => Session::pretraining(&inputs).and_then(|session| session.speed(options)),
    };
    let speed: Speed = measured.map_err(Failure::Run)?;
    let run = &resolved.config.run;
    print(format_args!("recipe {}, model {}, {} workers", run.recipe, run.model, runs.workers))?;
    print(format_args!("loader alone  {:>9.1} img/s", speed.loader))?;
    print(format_args!("model alone   {:>9.1} img/s", speed.model))?;
    print(format_args!("end to end    {:>9.1} img/s", speed.end_to_end))?;
    let (plan, eta) = (speed.plan, duration(speed.eta()));
    let flops = training_flops(&runs, &resolved.config).map_err(Failure::Run)?;
    let rate = flops.map(|flops| speed.model * flops);
    match (rate, peak(&runs.device).map_err(Failure::Run)?) {
        (Some(rate), Some(peak)) => print(format_args!(
            "model alone   {:>9.1} TFLOP/s, {:.1} % of the {:.0} that bf16 products reach on this device",
            rate / 1e12,
            100. * rate / peak,
            peak / 1e12
        ))?,
        (Some(rate), None) => print(format_args!("model alone   {:>9.1} GFLOP/s", rate / 1e9))?,
        (None, _) => {}
    }
    #[cfg(feature = "cuda")]
    if let Some(calls) = speed.calls {
        print(format_args!(
            "a step queues {} kernels, {} matrix products and {} copies and fills, allocates {} times, reads from the \
             device {} times and waits for it {} times",
            calls.kernels, calls.products, calls.writes, calls.allocations, calls.reads, calls.waits
        ))?;
    }
    print(format_args!("{} steps of {} images take {eta}, without evaluation", plan.steps, plan.batch))?;
    if let Some(profile) = &speed.profile {
        lines_of(profile, rayon::current_num_threads()).iter().try_for_each(print)?;
    }
    Ok(())
}

/// A profile as a table: operators and stages by their share of the wall time, forward and backward, with the number of
/// threads that were at work on average; then what the other threads did not use.
fn lines_of(profile: &Profile, threads: usize) -> Vec<String> {
    const TITLE: &str = "share of the step in %";
    let mut rows: BTreeMap<&str, [Spent; 2]> = BTreeMap::new();
    let mut all = Spent::default();
    for ((name, direction), spent) in profile {
        rows.entry(name).or_default()[usize::from(*direction == Direction::Backward)].add(*spent);
        all.add(*spent);
    }
    let share =
        |spent: &Spent| 100. * spent.wall.as_secs_f64() / all.wall.as_secs_f64().max(f64::MIN_POSITIVE);
    let width = rows.keys().map(|name| name.len()).chain([TITLE.len()]).max().unwrap_or(0);
    let mut rows: Vec<_> = rows.into_iter().collect();
    rows.sort_by(|(_, a), (_, b)| (b[0].wall + b[1].wall).cmp(&(a[0].wall + a[1].wall)));
    let line = |name: &str, spent: &[Spent; 2]| {
        let [forward, backward] = spent;
        let mut both = *forward;
        both.add(*backward);
        let (forward, backward) = (share(forward), share(backward));
        format!("{name:<width$} {forward:>8.1} {backward:>8.1} {:>8.2}", both.threads())
    };
    let mut lines = vec![format!("{TITLE:<width$} {:>8} {:>8} {:>8}", "forward", "backward", "threads")];
    lines.extend(rows.iter().map(|(name, spent)| line(name, spent)));
    let idle = 100. * (1. - all.threads() / threads as f64);
    lines.push(format!(
        "{:.2} of {threads} threads were at work: {:.1} % of their time was idle",
        all.threads(),
        idle.max(0.)
    ));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_profile_by_hand() {
        let spent = |wall, processor| Spent {
            calls: 1,
            wall: Duration::from_millis(wall),
            processor: Duration::from_millis(processor),
        };
        let profile = Profile::from([
            (("linear", Direction::Forward), spent(30, 60)),
            (("linear", Direction::Backward), spent(50, 60)),
            (("(loader)", Direction::Forward), spent(20, 5)),
        ]);
        assert_eq!(
            lines_of(&profile, 2),
            [
                "share of the step in %  forward backward  threads",
                "linear                     30.0     50.0     1.50",
                "(loader)                   20.0      0.0     0.25",
                "1.25 of 2 threads were at work: 37.5 % of their time was idle",
            ]
        );
    }
}
