//! `bench doctor`: what the program finds on this machine.

use super::Outcome;
use super::flags::{SiteFlags, bench_data};
use crate::data::{Dataset, JPEG_DECODER};
use crate::registry::Registry;
use clap::Args;

#[derive(Args, Debug)]
pub struct DoctorArgs {
    #[command(flatten)]
    site: SiteFlags,
}

pub fn doctor(registry: &Registry, args: DoctorArgs) -> Outcome {
    let ground = args.site.ground()?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    println!("program    bench {}", env!("BENCH_VERSION"));
    println!("devices    cpu ({cores} threads{}); CUDA is not built in", instructions());
    println!("jpeg       {JPEG_DECODER}");
    println!("kinds      {}", registry.names().collect::<Vec<_>>().join(", "));
    println!("runs       {} ({} runs)", ground.store.root().display(), ground.store.ids()?.len());
    match bench_data() {
        None => println!("data       BENCH_DATA is not set; `bench demo` needs none"),
        Some(root) => {
            println!("data       BENCH_DATA = {}", root.display());
            for name in ground.library.list("datasets") {
                let dataset = Dataset::load(&ground.library, &name)?;
                let there = dataset.root(None, Some(&root)).is_ok();
                println!("           {name:<18} {}", if there { "there" } else { "not there" });
            }
        }
    }
    Ok(())
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
