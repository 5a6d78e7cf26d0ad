//! `bench doctor`: shows what the program finds on this machine.

use super::flags::{PlaceFlags, bench_data};
use super::version::VERSION;
use super::{CommandResult, OutputError, print};
use crate::data::Dataset;
use crate::ops::{Precision, ProductKernel};
use crate::process::flushes_subnormals;
use crate::registry::Registry;
use crate::runs::default_dtype;
use candle_core::Device;
use clap::Args;

#[derive(Args, Debug)]
pub(super) struct DoctorArgs {
    #[command(flatten)]
    place: PlaceFlags,
}

pub(super) fn doctor(registry: &Registry, args: DoctorArgs) -> CommandResult {
    let context = args.place.context()?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    print(format_args!("program    bench {}", VERSION))?;
    print(format_args!("devices    cpu ({cores} threads{})", instructions()))?;
    let subnormals =
        if flushes_subnormals() { "treated as zero" } else { "not treated as zero, which is slow" };
    print(format_args!("           subnormal numbers are {subnormals}"))?;
    products()?;
    cuda()?;
    print(format_args!("kinds      {}", registry.kinds().collect::<Vec<_>>().join(", ")))?;
    print(format_args!(
        "runs       {} ({} runs)",
        context.store.root().display(),
        context.store.ids()?.len()
    ))?;
    match bench_data() {
        None => print("data       BENCH_DATA is not set; `bench demo` does not need it")?,
        Some(root) => {
            print(format_args!("data       BENCH_DATA = {}", root.display()))?;
            for name in context.library.list("datasets") {
                let dataset = Dataset::load(&context.library, &name, &registry.components().formats)?;
                let there = dataset.root(None, Some(&root)).is_ok();
                print(format_args!("           {name:<18} {}", if there { "found" } else { "not found" }))?;
            }
        }
    }
    Ok(())
}

/// Describes the CUDA driver, devices and libraries, and how to get missing ones.
#[cfg(feature = "cuda")]
fn cuda() -> Result<(), OutputError> {
    use crate::ops::cuda::{describe, driver_version, libraries};
    match driver_version() {
        Ok((major, minor)) if major < 13 => print(format_args!(
            "           the driver supports CUDA {major}.{minor}; the kernels may need 13.0 (driver 580)"
        ))?,
        Ok((major, minor)) => print(format_args!("           the driver supports CUDA {major}.{minor}"))?,
        Err(error) => {
            print(format_args!("           {error}; --device cuda needs a driver of version 580 or later"))?
        }
    }
    match describe() {
        Ok(devices) => {
            for (number, device) in devices.iter().enumerate() {
                let ((major, minor), gib) = (device.capability, device.memory as f64 / f64::from(1 << 30));
                let old = if major < 8 { "; not supported: the kernels need 8.0" } else { "" };
                print(format_args!(
                    "           cuda:{number} {}, {gib:.0} GiB, compute capability {major}.{minor}{old}",
                    device.name
                ))?;
                if !device.pools {
                    print(format_args!(
                        "           cuda:{number} has no memory pools: every release of memory waits for the device, which \
                         makes training slow (some virtual machines and driver settings switch pools off)"
                    ))?;
                }
            }
        }
        Err(error) => print(format_args!("           {error}"))?,
    }
    let missing: Vec<String> =
        libraries().into_iter().filter(|(_, found)| !found).map(|(name, _)| name).collect();
    if !missing.is_empty() {
        print(format_args!(
            "           not found: {}; install the libraries of the CUDA toolkit, or add the folders of those in Python packages to \
             LD_LIBRARY_PATH",
            missing.join(", ")
        ))?;
    }
    Ok(())
}

#[cfg(not(feature = "cuda"))]
fn cuda() -> Result<(), OutputError> {
    print("           CUDA is not built in; `cargo build --release --features cuda` includes it")
}

/// Describes the rates of matrix products, and how those in bf16 are computed.
fn products() -> anyhow::Result<()> {
    let [single, half] = [Precision::F32, Precision::Bf16].map(ProductKernel::of);
    let (single_rate, half_rate) = on_one_core(|| (single.rate(), half.rate()))?;
    let how = match half.multiplies_bf16() {
        true => half.instructions().to_owned(),
        false => format!("{}, on values rounded to bf16", half.instructions()),
    };
    print(format_args!(
        "           matrix products on one core: {single_rate:.0} GFLOP/s in f32 ({}), {half_rate:.0} in bf16 ({how})",
        single.instructions()
    ))?;
    let default = default_dtype(&Device::Cpu).as_str();
    print(format_args!("           without --dtype, a run on the CPU computes in {default}"))?;
    Ok(())
}

/// Runs `measure` in a pool of one thread.
fn on_one_core<T: Send>(measure: impl FnOnce() -> T + Send) -> anyhow::Result<T> {
    Ok(rayon::ThreadPoolBuilder::new().num_threads(1).build()?.install(measure))
}

/// The vector instructions that the kernels will use.
fn instructions() -> String {
    let mut found: Vec<&str> = vec![];
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx2") {
            found.push("AVX2");
        }
        if is_x86_feature_detected!("avx512f") {
            found.push("AVX-512");
        }
        if is_x86_feature_detected!("avx512bf16") {
            found.push("AVX512-BF16");
        }
    }
    found.iter().map(|name| format!(", {name}")).collect()
}
