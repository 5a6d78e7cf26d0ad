//! `bench doctor`: what the program finds on this machine.

use super::flags::{SiteFlags, bench_data};
use super::{CommandResult, OutputError, print};
use crate::data::{Dataset, Formats, JPEG_DECODER};
use crate::process::flushes_subnormals;
use crate::registry::Registry;
use clap::Args;

#[derive(Args, Debug)]
pub struct DoctorArgs {
    #[command(flatten)]
    site: SiteFlags,
}

pub fn doctor(registry: &Registry, args: DoctorArgs) -> CommandResult {
    let context = args.site.context()?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    print(format_args!("program    bench {}", env!("BENCH_VERSION")))?;
    print(format_args!("devices    cpu ({cores} threads{})", instructions()))?;
    let subnormals = if flushes_subnormals() { "taken for zero" } else { "computed with, which is slow" };
    print(format_args!("           subnormal numbers are {subnormals}"))?;
    cuda()?;
    print(format_args!("jpeg       {JPEG_DECODER}"))?;
    print(format_args!("kinds      {}", registry.names().collect::<Vec<_>>().join(", ")))?;
    print(format_args!(
        "runs       {} ({} runs)",
        context.store.root().display(),
        context.store.ids()?.len()
    ))?;
    match bench_data() {
        None => print("data       BENCH_DATA is not set; `bench demo` needs none")?,
        Some(root) => {
            print(format_args!("data       BENCH_DATA = {}", root.display()))?;
            for name in context.library.list("datasets") {
                let dataset = Dataset::load(&context.library, &name, &Formats::builtin())?;
                let there = dataset.root(None, Some(&root)).is_ok();
                print(format_args!("           {name:<18} {}", if there { "there" } else { "not there" }))?;
            }
        }
    }
    Ok(())
}

/// What there is of CUDA, and what to do about what is missing.
#[cfg(feature = "cuda")]
fn cuda() -> Result<(), OutputError> {
    use crate::ops::cuda::{describe, driver_version, libraries};
    match driver_version() {
        Ok((major, minor)) if major < 13 => print(format_args!(
            "           the driver is for CUDA {major}.{minor}; kernels of this program may need one for 13.0 (580)"
        ))?,
        Ok((major, minor)) => print(format_args!("           the driver is for CUDA {major}.{minor}"))?,
        Err(error) => {
            print(format_args!("           {error}; --device cuda needs a driver of version 580 or later"))?
        }
    }
    match describe() {
        Ok(devices) => {
            for (number, device) in devices.iter().enumerate() {
                let ((major, minor), gib) = (device.capability, device.memory as f64 / f64::from(1 << 30));
                let old = if major < 8 { "; too old: kernels need 8.0" } else { "" };
                print(format_args!(
                    "           cuda:{number} {}, {gib:.0} GiB, compute capability {major}.{minor}{old}",
                    device.name
                ))?;
            }
        }
        Err(error) => print(format_args!("           {error}"))?,
    }
    let missing: Vec<&str> = libraries().iter().filter(|(_, found)| !found).map(|(name, _)| *name).collect();
    if !missing.is_empty() {
        print(format_args!(
            "           not found: {}; install CUDA 13 libraries, or put the folders of those that came with Python \
             packages into LD_LIBRARY_PATH",
            missing.join(", ")
        ))?;
    }
    Ok(())
}

#[cfg(not(feature = "cuda"))]
fn cuda() -> Result<(), OutputError> {
    print("           CUDA is not built in; `cargo build --release --features cuda` builds it")
}

/// Vector instructions that the kernels will use.
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
