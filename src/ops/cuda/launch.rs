//! Queueing kernels.

use super::value::Pointer;
use candle_core::cuda::cudarc::driver::{CudaFunction, LaunchConfig, PushKernelArg, sys};
use candle_core::cuda::{CudaDevice, WrapErr};
use candle_core::{Result, bail};
use std::collections::HashMap;
use std::sync::{LazyLock, Mutex};

/// A `.cu` file, compiled.
pub(super) struct Source {
    name: &'static str,
    ptx: &'static str,
}

macro_rules! sources {
    ($($constant:ident = $name:literal),* $(,)?) => {
        $(pub(super) static $constant: Source =
            Source { name: concat!("bench_", $name), ptx: include_str!(concat!(env!("OUT_DIR"), "/", $name, ".ptx")) };)*
    };
}

sources! {
    ATTENTION = "attention",
    CONV = "conv",
    ELEMENTWISE = "elementwise",
    GATHER = "gather",
    LOSS = "loss",
    OPTIMIZER = "optimizer",
    NORM_STATISTICS = "norm_statistics",
    ROWS = "rows",
    VISION = "vision",
}

/// Threads of a block, unless a kernel asks for others.
pub(super) const THREADS: u32 = 256;
/// Largest number of blocks that share planes.
const MOST_SHARES: usize = 1 << 14;
/// Threads of a warp.
pub(super) const WARP: u32 = 32;

/// The threads of a launch.
#[derive(Clone, Copy)]
pub(super) struct Grid {
    pub blocks: (usize, usize),
    pub threads: u32,
    /// Bytes of dynamic shared memory of a block.
    pub shared: usize,
}

impl Grid {
    /// At least `count` threads.
    pub fn threads(count: usize) -> Self {
        Self { blocks: (count.div_ceil(THREADS as usize), 1), threads: THREADS, shared: 0 }
    }

    /// At least `count` warps.
    pub fn warps(count: usize) -> Self {
        Self::threads(count * WARP as usize)
    }

    /// A thread for every value of a plane of `size` values, in blocks that share `count` planes.
    pub fn planes(count: usize, size: usize) -> Self {
        let threads = size.clamp(1, THREADS as usize).next_multiple_of(WARP as usize);
        let shares = count.min(MOST_SHARES);
        let blocks = if size == 0 { (0, 0) } else { (size.div_ceil(threads), shares) };
        Self { blocks, threads: threads as u32, shared: 0 }
    }

    /// A thread for every four of `count` values.
    pub fn fours(count: usize) -> Self {
        Self::threads(count.div_ceil(4))
    }
}

/// An argument of a kernel, by its type in C++.
pub(super) enum Argument {
    Pointer(u64),
    /// int
    Int(i32),
    /// size_t
    Size(u64),
    /// float
    Float(f32),
}

impl From<Pointer> for Argument {
    fn from(pointer: Pointer) -> Self {
        Self::Pointer(pointer.0)
    }
}

impl From<f32> for Argument {
    fn from(value: f32) -> Self {
        Self::Float(value)
    }
}

/// A size as C++ int.
///
/// # Errors
/// The number does not fit.
pub(super) fn int(size: usize) -> Result<Argument> {
    match i32::try_from(size) {
        Ok(size) => Ok(Argument::Int(size)),
        Err(_) => bail!("a kernel counts {size} in 32 bits"),
    }
}

/// A size as C++ size_t.
pub(super) fn size(size: usize) -> Argument {
    Argument::Size(size as u64)
}

/// Kernels that have been used.
static FUNCTIONS: LazyLock<Mutex<HashMap<Device, HashMap<String, Loaded>>>> = LazyLock::new(Mutex::default);

/// Number of a device, and a source that is loaded there.
type Device = (usize, &'static str);

/// A kernel on a device, with the dynamic shared memory that it may use, in bytes.
struct Loaded {
    function: CudaFunction,
    shared: usize,
}

/// The kernel of `source`, for blocks with `shared` bytes of dynamic shared memory. The driver is asked once: candle does
/// so for every launch.
fn function(device: &CudaDevice, source: &Source, kernel: &str, shared: usize) -> Result<CudaFunction> {
    let key = (device.cuda_stream().context().ordinal(), source.name);
    let mut functions = FUNCTIONS.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let functions = functions.entry(key).or_default();
    if !functions.contains_key(kernel) {
        let function = device.get_or_load_custom_func(kernel, source.name, source.ptx)?.into_cuda_function();
        functions.insert(kernel.to_string(), Loaded { function, shared: OPT_IN });
    }
    let Some(loaded) = functions.get_mut(kernel) else { bail!("{kernel} is not loaded") };
    if shared > loaded.shared {
        let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        loaded.function.set_attribute(attribute, shared as i32).w()?;
        loaded.shared = shared;
    }
    Ok(loaded.function.clone())
}

/// Bytes of dynamic shared memory from which on a kernel asks for them: together with their static memory, blocks get 48 KB
/// unasked, and no kernel here has more than 40 KB of static memory.
const OPT_IN: usize = 8 << 10;

/// Queues a kernel of `source`. Does nothing if there are no blocks.
pub(super) fn launch(
    device: &CudaDevice,
    source: &Source,
    kernel: &str,
    grid: Grid,
    arguments: &[Argument],
) -> Result<()> {
    let (Ok(x), Ok(y)) = (u32::try_from(grid.blocks.0), u16::try_from(grid.blocks.1)) else {
        bail!("{kernel}: {:?} blocks exceed the limit of a device", grid.blocks)
    };
    if x == 0 || y == 0 {
        return Ok(());
    }
    let function = function(device, source, kernel, grid.shared)?;
    let stream = device.cuda_stream();
    let mut launch = stream.launch_builder(&function);
    for argument in arguments {
        match argument {
            Argument::Pointer(pointer) => launch.arg(pointer),
            Argument::Int(value) => launch.arg(value),
            Argument::Size(value) => launch.arg(value),
            Argument::Float(value) => launch.arg(value),
        };
    }
    let config = LaunchConfig {
        grid_dim: (x, u32::from(y), 1),
        block_dim: (grid.threads, 1, 1),
        shared_mem_bytes: grid.shared as u32,
    };
    // SAFETY: callers pass what the kernel declares, and memory of the sizes it works on.
    unsafe { launch.launch(config) }.w()?;
    Ok(())
}
