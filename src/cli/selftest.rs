//! `bench selftest`: checks that this program computes the same on a device as on the CPU.

use super::flags::Include;
use super::{CommandResult, Failure, print};
use crate::record::write_atomic;
use crate::registry::Registry;
use crate::runs::open_device;
use crate::selftest::{Check, operators, poisoned, training};
use anyhow::{Context, anyhow};
use clap::Args;
use serde_json::json;
use std::path::PathBuf;

#[derive(Args, Debug)]
pub(super) struct SelftestArgs {
    /// Device to test: cuda or cuda:<number>; cpu compares the CPU with itself
    #[arg(long, default_value = "cuda")]
    device: String,
    /// Test only operators whose name contains TEXT; `training` tests whole runs only
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Number of pre-training steps in which the loss must fall; 0 skips this test
    #[arg(long, value_name = "N", default_value_t = 200)]
    steps: usize,
    /// Write all comparisons to this file as JSON
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    include: Include,
}

pub(super) fn selftest(registry: &Registry, args: SelftestArgs) -> CommandResult {
    let device = open_device(&args.device)?;
    let library = args.include.library()?;
    let folder = tempfile::tempdir().context("cannot create a temporary folder")?;
    let (mut checks, mut failed, mut printed) = (vec![], 0, Ok(()));
    let mut tell = |check: &Check| {
        if printed.is_ok() {
            printed = print(line(check));
        }
        failed += usize::from(!check.passed());
        checks.push(check.clone());
    };
    print(format_args!(
        "{:<4} {:<22} {:<5} {:>9} {:>9} {:>7}  sizes",
        "", "", "dtype", "values", "gradients", "limit"
    ))?;
    operators(&device, args.only.as_deref().unwrap_or_default(), &mut tell);
    if args.only.as_deref().is_none_or(|only| only == "training") {
        training(registry, &library, folder.path(), &device, args.steps, &mut tell).map_err(Failure::Run)?;
    }
    printed?;
    let total = checks.len();
    if poisoned(&device)? {
        print("fresh memory is filled with NaN, so that values that no kernel writes are detected")?;
    }
    let peak = peak_memory(&device);
    if let Some(bytes) = peak {
        print(format_args!("peak memory of the device: {:.0} MB", bytes as f64 / 1e6))?;
    }
    if let Some(path) = &args.out {
        let record = json!({
            "schema": 1,
            "version": super::version::VERSION,
            "device": args.device,
            "name": device_name(&device),
            "passed": failed == 0,
            "peak_memory_bytes": peak,
            "checks": checks,
        });
        let text = serde_json::to_string_pretty(&record).context("cannot write the record as JSON")?;
        write_atomic(path, text.as_bytes()).with_context(|| format!("cannot write `{}`", path.display()))?;
    }
    match failed {
        0 if total == 0 => {
            Err(anyhow!("no operator has a name that contains `{}`", args.only.unwrap_or_default()).into())
        }
        0 => {
            print(format_args!("all {total} comparisons are within their limits"))?;
            Ok(())
        }
        _ => Err(Failure::Run(anyhow!("{failed} of {total} comparisons exceed their limits"))),
    }
}

fn line(check: &Check) -> String {
    let Check { name, detail, dtype, error, gradient_error, limit, failure } = check;
    let mark = if check.passed() { "ok" } else { "FAIL" };
    let gradient = gradient_error.map_or(String::new(), |error| format!("{error:.1e}"));
    let failure = failure.as_ref().map_or(String::new(), |failure| format!(": {failure}"));
    format!("{mark:<4} {name:<22} {dtype:<5} {error:>9.1e} {gradient:>9} {limit:>7.0e}  {detail}{failure}")
}

#[cfg(feature = "cuda")]
fn peak_memory(device: &candle_core::Device) -> Option<u64> {
    crate::ops::cuda::peak_memory(device)
}

#[cfg(feature = "cuda")]
fn device_name(device: &candle_core::Device) -> Option<String> {
    crate::ops::cuda::name(device)
}

#[cfg(not(feature = "cuda"))]
fn peak_memory(_: &candle_core::Device) -> Option<u64> {
    None
}

#[cfg(not(feature = "cuda"))]
fn device_name(_: &candle_core::Device) -> Option<String> {
    None
}
