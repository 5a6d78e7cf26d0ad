//! Milliseconds of training steps, forward passes and operators at the sizes of the paper: our side of
//! `scripts/compare_pytorch`, with the models, the optimiser and the loader that runs use.
//!
//! `cargo bench --bench step` measures every case; `-- --case NAME --json` one of them, as a line of JSON for the
//! script. The number of threads is that of rayon: `RAYON_NUM_THREADS`.

mod detection;
mod images;
mod models;
mod operators;
mod segmentation;

use anyhow::{Context, Result};
use bench::ops::Precision;
use candle_core::Device;
use clap::{Parser, ValueEnum};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

/// Warm-up steps that are not measured: they fill the allocator and the optimiser's state.
const WARMUP: usize = 2;

/// One workload that is measured repeatedly.
pub struct Case {
    /// Number of images per step.
    pub images: usize,
    /// Number of parameters of the model, and of the trained ones.
    pub parameters: usize,
    pub trainable: usize,
    pub step: Box<dyn FnMut() -> Result<()>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Dtype {
    F32,
    /// Matrix products; everything else stays f32
    Bf16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum DeviceName {
    Cpu,
    Cuda,
}

#[derive(Parser)]
struct Args {
    /// The case to measure; all if absent
    #[arg(long = "case", value_parser = CASES.map(|(name, _)| name))]
    cases: Vec<String>,
    #[arg(long, value_enum, default_value = "f32")]
    dtype: Dtype,
    #[arg(long, value_enum, default_value = "cpu")]
    device: DeviceName,
    /// Images per step [default: 8 in training, 16 in forward passes]
    #[arg(long)]
    batch: Option<usize>,
    /// Minimum number of steps to measure
    #[arg(long, default_value_t = 3)]
    steps: usize,
    /// Minimum number of seconds to measure
    #[arg(long, default_value_t = 3.)]
    seconds: f64,
    /// Folder of JPEG files for the case `loader`
    #[arg(long)]
    images: Option<PathBuf>,
    /// Compute with subnormal numbers as IEEE 754 specifies, unlike the program, to measure their cost
    #[arg(long)]
    keep_subnormals: bool,
    /// Print a line of JSON for each case
    #[arg(long)]
    json: bool,
    /// Print the cases with their number types as JSON
    #[arg(long)]
    list: bool,
    /// Passed by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

/// The device and precision of a case, and its sizes.
#[derive(Clone, Debug)]
pub struct Machine {
    pub device: Device,
    pub precision: Precision,
    /// Images per step, if given on the command line.
    pub batch: Option<usize>,
}

/// Builds a case.
type Build = fn(&Args, &Machine) -> Result<Case>;

const CASES: [(&str, Build); 17] = [
    ("mae_vit_s16", |_, on| models::mae("vit_s16", on)),
    ("mae_vit_b16", |_, on| models::mae("vit_b16", on)),
    ("mae_vit_l16", |_, on| models::mae("vit_l16", on)),
    ("mae_vit_l16_mask_tokens_in_encoder", |_, on| models::mae_on_all_tokens("vit_l16", on)),
    ("finetune_vit_b16", |_, on| models::finetune("vit_b16", on)),
    ("linear_probe_forward", |_, on| models::linear_probe_forward("vit_b16", on)),
    ("eval_vit_b16", |_, on| models::eval("vit_b16", on)),
    ("maskrcnn_vit_mini8", |_, on| detection::train("vit_mini8", detection::SMALL, on)),
    ("maskrcnn_vit_mini8_predict", |_, on| detection::predict("vit_mini8", on)),
    ("maskrcnn_vit_b16_1024", |_, on| detection::train("vit_b16", detection::LARGE, on)),
    ("upernet_vit_mini16", |_, on| segmentation::small("vit_mini16", on)),
    ("upernet_vit_b16_512", |_, on| segmentation::large("vit_b16", on)),
    ("attention", |_, on| operators::attention(on)),
    ("conv_head", |_, on| operators::conv_head(on)),
    ("upernet_fusion", |_, on| operators::upernet_fusion(on)),
    ("linear_subnormal", |_, on| operators::linear_subnormal(on)),
    ("loader", |args, _| images::loader(args.images.as_deref().context("case `loader` needs --images")?)),
];

fn main() -> Result<()> {
    bench::process::prepare_process();
    let args = Args::parse();
    if args.keep_subnormals {
        bench::process::keep_subnormals();
    }
    if args.list {
        let dtypes: Vec<String> = Dtype::value_variants().iter().map(Dtype::name).collect();
        let cases = CASES.iter().map(|(name, _)| match *name {
            "loader" => (*name, &dtypes[..1]), // makes f32 of bytes
            name => (name, &dtypes[..]),
        });
        let cases = cases.filter(|(name, _)| args.device == DeviceName::Cuda || !is_large(name));
        let cases: BTreeMap<&str, _> = cases.collect();
        println!("{}", serde_json::json!({ "cases": cases }));
        return Ok(());
    }
    let device = match args.device {
        DeviceName::Cpu => Device::Cpu,
        DeviceName::Cuda => bench::runs::open_device("cuda")?,
    };
    let precision = match args.dtype {
        Dtype::F32 => Precision::F32,
        Dtype::Bf16 => Precision::Bf16,
    };
    let machine = Machine { device, precision, batch: args.batch };
    let wanted = |name: &str| match args.cases.is_empty() {
        true => match name {
            "loader" => args.images.is_some(),
            name => !is_large(name) || args.device == DeviceName::Cuda,
        },
        false => args.cases.iter().any(|case| case == name),
    };
    for (name, build) in CASES.iter().filter(|(name, _)| wanted(name)) {
        let mut case = build(&args, &machine)?;
        let ms = measure(&mut case, &machine.device, args.steps, args.seconds)?;
        report(name, &case, ms, &args, &machine.device);
    }
    Ok(())
}

/// Whether a case is too large for a CPU, where it is measured only on demand.
fn is_large(name: &str) -> bool {
    ["mae_vit_l16", "maskrcnn_vit_b16", "upernet_vit_b16"].iter().any(|large| name.starts_with(large))
}

impl Dtype {
    /// The name on the command line.
    fn name(&self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_string()).unwrap_or_default()
    }
}

/// Milliseconds of each step.
fn measure(case: &mut Case, device: &Device, steps: usize, seconds: f64) -> Result<Vec<f64>> {
    let mut step = || {
        (case.step)()?;
        anyhow::Ok(device.synchronize()?)
    };
    for _ in 0..WARMUP {
        step()?;
    }
    let (began, mut ms) = (Instant::now(), vec![]);
    while ms.len() < steps || began.elapsed().as_secs_f64() < seconds {
        let start = Instant::now();
        step()?;
        ms.push(start.elapsed().as_secs_f64() * 1e3);
    }
    Ok(ms)
}

/// Peak memory of tensors on a device other than the CPU.
fn device_mb(device: &Device) -> Option<f64> {
    #[cfg(feature = "cuda")]
    if device.is_cuda() {
        return bench::ops::cuda::peak_memory(device).map(|bytes| bytes as f64 / f64::from(1 << 20));
    }
    let _ = device;
    None
}

fn report(name: &str, case: &Case, mut ms: Vec<f64>, args: &Args, device: &Device) {
    let Case { images, parameters, trainable, .. } = *case;
    if args.json {
        let (threads, dtype) = (rayon::current_num_threads(), args.dtype.name());
        let line = serde_json::json!({
            "case": name, "variant": dtype, "threads": threads, "images": images,
            "parameters": parameters, "trainable": trainable, "ms": ms, "device_mb": device_mb(device),
        });
        println!("{line}");
        return;
    }
    ms.sort_by(f64::total_cmp);
    let (median, least) = (ms[ms.len() / 2], ms[0]);
    let rate = images as f64 / median * 1e3;
    println!("{name:<22}{median:>10.1} ms{least:>10.1} at least{rate:>9.1} img/s, {parameters} parameters");
}
