//! Devices by their names on the command line and in records.

use crate::config::Dtype;
use anyhow::{Result, bail};
use candle_core::Device;

/// Opens `cpu`, or the NVIDIA device `cuda` (the first) or `cuda:<number>`.
///
/// # Errors
/// An unknown name, a program built without CUDA, a missing driver, or a device that does not exist.
pub fn open_device(name: &str) -> Result<Device> {
    if name == "cpu" {
        return Ok(Device::Cpu);
    }
    let number = match name.strip_prefix("cuda") {
        Some("") => Some(0),
        Some(rest) => rest.strip_prefix(':').and_then(|number| number.parse().ok()),
        None => None,
    };
    match number {
        Some(number) => open_cuda(name, number),
        None => bail!("--device {name}: unknown; known: cpu, cuda, cuda:<number>"),
    }
}

#[cfg(feature = "cuda")]
fn open_cuda(name: &str, number: usize) -> Result<Device> {
    use anyhow::Context;
    crate::ops::cuda::open(number)
        .with_context(|| format!("--device {name} cannot be used; `bench doctor` says what is missing"))
}

#[cfg(not(feature = "cuda"))]
fn open_cuda(name: &str, _: usize) -> Result<Device> {
    bail!(
        "--device {name}: this program is built for the CPU only; `cargo build --release --features cuda` builds it with CUDA"
    )
}

/// The default type of matrix products: bf16 on a CUDA device, f32 on the CPU.
pub fn default_dtype(device: &Device) -> Dtype {
    if device.is_cuda() { Dtype::Bf16 } else { Dtype::F32 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_devices_are_named() {
        assert!(open_device("cpu").unwrap().is_cpu());
        for name in ["gpu", "cuda:", "cuda:x", "cuda0", "cuda:-1"] {
            let error = open_device(name).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains("unknown"), "{error}");
        }
        assert!(open_device("cuda:99").is_err());
    }
}
