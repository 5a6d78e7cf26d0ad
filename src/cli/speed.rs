//! `bench speed`: measures images per second, and estimates how long a recipe takes.

use super::flags::{PlaceFlags, RequestFlags};
use super::progress::duration;
use super::{CommandResult, Failure, print};
use crate::config::{RunConfig, Stage};
use crate::engine::{Plan, Session, Speed};
use crate::registry::Registry;
use crate::runs::{RunContext, index, resolve, stage_of};
use candle_core::Device;
use clap::Args;

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
    /// Approximate duration of each of the three measurements in seconds
    #[arg(long, default_value_t = 5.)]
    seconds: f64,
    #[command(flatten)]
    request: RequestFlags,
    #[command(flatten)]
    place: PlaceFlags,
}

pub(super) fn speed(registry: &Registry, args: SpeedArgs) -> CommandResult {
    let context = args.place.context()?;
    let runs = context.run_context(registry);
    let mut request = args.request.request(args.task, args.dataset);
    let stage = stage_of(&context.library, &request)?;
    if stage == Stage::Transfer && request.init.is_none() {
        request.init = Some(crate::config::SCRATCH.into()); // The speed does not depend on the initial weights.
    }
    let resolved = resolve(&runs, stage, &request)?;
    let data = index(&runs, &resolved)?;
    // A batch larger than the data is a wrong request.
    Plan::new(&resolved.config.recipe, data.splits.train.len())?;
    let inputs = resolved.inputs(&runs, &data.splits);
    let measured = match &data.task {
        Some(task) => task.speed(&inputs, args.seconds),
        None => Session::pretraining(&inputs).and_then(|session| session.speed(args.seconds)),
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
    Ok(())
}
