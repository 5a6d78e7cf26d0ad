//! The processor of this machine, as records describe it, and its memory.

use crate::record::Processor;

/// The processor that computes on `device` (`cpu`, `cuda:1`).
pub(super) fn processor(device: &str) -> Processor {
    match device.strip_prefix("cuda") {
        Some(number) => gpu(number.trim_start_matches(':').parse().unwrap_or(0)),
        None => cpu(),
    }
}

#[cfg(feature = "cuda")]
fn gpu(number: usize) -> Processor {
    let devices = crate::ops::cuda::describe().unwrap_or_default();
    let Some(device) = devices.into_iter().nth(number) else { return unknown("cuda") };
    let (major, minor) = device.capability;
    Processor { name: device.name, family: format!("cuda {major}.{minor}"), features: vec![] }
}

#[cfg(not(feature = "cuda"))]
fn gpu(_: usize) -> Processor {
    unknown("cuda")
}

fn unknown(family: &str) -> Processor {
    Processor { name: "unknown".into(), family: family.into(), features: vec![] }
}

#[cfg(target_arch = "x86_64")]
fn cpu() -> Processor {
    use std::arch::x86_64::__cpuid;
    // SAFETY: every x86-64 processor has the instruction. Newer compilers know.
    #[allow(unused_unsafe)]
    let cpuid = |leaf: u32| {
        let found = unsafe { __cpuid(leaf) };
        [found.eax, found.ebx, found.ecx, found.edx]
    };
    let text = |words: &[u32]| {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        String::from_utf8_lossy(&bytes).trim_matches(['\0', ' ']).to_string()
    };
    let [_, b, c, d] = cpuid(0);
    let [version, ..] = cpuid(1);
    // As Intel and AMD document it: the long forms of family and model are used by family 15, of model also by family 6.
    let family = (version >> 8) & 0xf;
    let long = if family == 0xf { (version >> 20) & 0xff } else { 0 };
    let model = (version >> 4) & 0xf | if matches!(family, 6 | 0xf) { (version >> 12) & 0xf0 } else { 0 };
    const BRAND: u32 = 0x8000_0000;
    let name = match cpuid(BRAND)[0] >= BRAND + 4 {
        true => text(&[cpuid(BRAND + 2), cpuid(BRAND + 3), cpuid(BRAND + 4)].concat()),
        false => "unknown".into(),
    };
    let features = [
        ("avx2", is_x86_feature_detected!("avx2")),
        ("avx512bf16", is_x86_feature_detected!("avx512bf16")),
        ("avx512bw", is_x86_feature_detected!("avx512bw")),
        ("avx512dq", is_x86_feature_detected!("avx512dq")),
        ("avx512f", is_x86_feature_detected!("avx512f")),
        ("avx512vl", is_x86_feature_detected!("avx512vl")),
        ("fma", is_x86_feature_detected!("fma")),
    ];
    Processor {
        name,
        family: format!("x86_64 {} {} {model}", text(&[b, d, c]), family + long),
        features: features.into_iter().filter(|(_, there)| *there).map(|(name, _)| name.into()).collect(),
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn cpu() -> Processor {
    unknown(std::env::consts::ARCH)
}

/// Bytes of memory that this process can have in all: what it has and what the system, or the control group of the process,
/// still gives. `None` where the system does not say.
pub(super) fn memory() -> Option<u64> {
    let read = |path: &str| std::fs::read_to_string(path).ok();
    let kilobytes = |text: &str, key: &str| -> Option<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(key))?;
        line.trim_start_matches(':').split_whitespace().next()?.parse().ok().map(|kb: u64| kb << 10)
    };
    let free = kilobytes(&read("/proc/meminfo")?, "MemAvailable")?;
    let own = kilobytes(&read("/proc/self/status")?, "VmRSS")?;
    let limits = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
    let limit = limits.iter().find_map(|path| read(path)?.trim().parse::<u64>().ok());
    Some((free + own).min(limit.unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn a_process_has_some_memory() {
        assert!(memory().unwrap() > 64 << 20);
    }

    #[test]
    fn the_processor_has_a_name_and_a_family() {
        let Processor { name, family, features } = processor("cpu");
        assert!(!name.is_empty() && family.starts_with(std::env::consts::ARCH), "{name}, {family}");
        assert!(features.is_sorted());
        #[cfg(target_arch = "x86_64")]
        assert_eq!(family.split(' ').count(), 4, "{family}");
    }
}
