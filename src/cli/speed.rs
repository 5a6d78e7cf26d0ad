//! `bench speed`: images a second, and how long a recipe takes.

use super::flags::{RequestFlags, SiteFlags};
use super::progress::duration;
use super::{CommandResult, Failure, print};
use crate::config::{Pretrain, RunConfig, Stage};
use crate::engine::{Job, Plan, Speed, speed_pretrain};
use crate::launch::{index, resolve, stage_of};
use crate::models::{Backbones, mae_gmacs};
use crate::registry::Registry;
use candle_core::Device;
use clap::Args;

/// Floating-point operations of training on one image: three times the matrix products of a forward pass. Frozen blocks
/// count as if they were trained.
fn training_flops(config: &RunConfig) -> Option<f64> {
    let gmacs = match &config.recipe.pretrain {
        Some(Pretrain::Dvae(_)) => return None, // no transformer
        Some(Pretrain::Beit(_)) | None => Backbones::builtin().gmacs(&config.model).ok()??,
        Some(Pretrain::Mae(mae)) => {
            let ratio = if mae.mask_tokens_in_encoder { 0. } else { mae.mask_ratio };
            let decoder = mae.decoder.as_ref().unwrap_or(&config.model.decoder);
            let (encoder, decoder) = mae_gmacs(&config.model, decoder, ratio);
            encoder + decoder
        }
    };
    Some(3. * 2e9 * gmacs)
}

/// Operations a second that large matrix products reach on a CUDA device.
fn peak(device: &Device) -> anyhow::Result<Option<f64>> {
    #[cfg(feature = "cuda")]
    if device.is_cuda() {
        return Ok(Some(crate::ops::cuda::product_rate(device)?));
    }
    let _ = device;
    Ok(None)
}

#[derive(Args, Debug)]
pub struct SpeedArgs {
    /// Measure the transfer to this task, or pre-training on its data set if --recipe says so; without it, pre-training
    #[arg(long)]
    task: Option<String>,
    /// Measure pre-training on this data set
    #[arg(long, conflicts_with = "task")]
    dataset: Option<String>,
    /// About so many seconds for each of the three numbers
    #[arg(long, default_value_t = 5.)]
    seconds: f64,
    #[command(flatten)]
    request: RequestFlags,
    #[command(flatten)]
    site: SiteFlags,
}

pub fn speed(registry: &Registry, args: SpeedArgs) -> CommandResult {
    let context = args.site.context()?;
    let site = context.site(registry);
    let mut request = args.request.request(args.task, args.dataset);
    let stage = stage_of(&context.library, &request)?;
    if stage == Stage::Transfer && request.init.is_none() {
        request.init = Some(crate::config::SCRATCH.into()); // the speed does not depend on it
    }
    let resolved = resolve(&site, stage, &request)?;
    let data = index(&site, &resolved)?;
    Plan::new(&resolved.config.recipe, data.train.len())?; // a batch larger than the data is a wrong request
    let job = Job {
        config: &resolved.config,
        train: data.train,
        eval: data.eval,
        eval_ops: &[],
        init: None,
        tokenizer: resolved.tokenizer.as_deref(),
        device: &site.device,
        workers: site.workers,
        resume: false,
        max_steps: None,
        control: &site.control,
    };
    let measured = match &data.task {
        Some(task) => task.speed(&job, args.seconds),
        None => speed_pretrain(&job, args.seconds),
    };
    let speed: Speed = measured.map_err(Failure::Run)?;
    let run = &resolved.config.run;
    print(format_args!("recipe {}, model {}, {} workers", run.recipe, run.model, site.workers))?;
    print(format_args!("loader alone  {:>9.1} img/s", speed.loader))?;
    print(format_args!("model alone   {:>9.1} img/s", speed.model))?;
    print(format_args!("end to end    {:>9.1} img/s", speed.end_to_end))?;
    let (plan, eta) = (speed.plan, duration(speed.eta()));
    let rate = training_flops(&resolved.config).map(|flops| speed.model * flops);
    match (rate, peak(&site.device).map_err(Failure::Run)?) {
        (Some(rate), Some(peak)) => print(format_args!(
            "model alone   {:>9.1} TFLOP/s, {:.1} % of the {:.0} that bf16 products reach on this device",
            rate / 1e12,
            100. * rate / peak,
            peak / 1e12
        ))?,
        (Some(rate), None) => print(format_args!("model alone   {:>9.1} GFLOP/s", rate / 1e9))?,
        (None, _) => {}
    }
    print(format_args!("{} steps of {} images take {eta}, evaluation apart", plan.steps, plan.batch))?;
    Ok(())
}
