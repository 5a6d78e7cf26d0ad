//! Opening a device so that candle's queue and allocator suit training.

use candle_core::backend::BackendDevice;
use candle_core::cuda::cudarc::driver::{CudaContext, DriverError, sys};
use candle_core::{CudaDevice, Device, Error, Result, bail};

/// The device with this number, all work on one stream of its own.
///
/// Freed memory stays with the program instead of going back to the driver at every synchronisation, and no events are
/// recorded: nothing here uses a second stream without waiting for the first.
///
/// # Errors
/// There is no driver, or no device with this number.
pub fn open(ordinal: usize) -> Result<Device> {
    super::count::link();
    let count = count()?;
    if ordinal >= count {
        bail!("there is no device cuda:{ordinal}; the driver reports {count}");
    }
    let device = CudaDevice::new_with_stream(ordinal)?;
    // SAFETY: one stream orders all uses of all memory.
    unsafe { device.disable_event_tracking() };
    keep_memory(&device)?;
    Ok(Device::Cuda(device))
}

/// Number of devices that the driver reports.
///
/// # Errors
/// There is no driver.
pub fn count() -> Result<usize> {
    match CudaContext::device_count() {
        Ok(count) => Ok(count.max(0) as usize),
        Err(error) => Err(Error::Msg(format!("the CUDA driver does not respond: {error}"))),
    }
}

/// A device as the driver describes it.
pub struct Description {
    /// Its name: `NVIDIA H200`.
    pub name: String,
    /// Compute capability: (9, 0) for H100.
    pub capability: (i32, i32),
    /// Memory in bytes.
    pub memory: usize,
    /// Whether the driver keeps freed memory in pools. Without them every release of memory waits for the device.
    pub pools: bool,
}

/// All devices, by number.
///
/// # Errors
/// There is no driver.
pub fn describe() -> Result<Vec<Description>> {
    let describe = |ordinal| -> std::result::Result<Description, DriverError> {
        let context = CudaContext::new(ordinal)?;
        let (name, memory) = (context.name()?, context.total_mem()?);
        Ok(Description {
            name,
            capability: context.compute_capability()?,
            memory,
            pools: context.has_async_alloc(),
        })
    };
    let described =
        |ordinal| describe(ordinal).map_err(|error| Error::Msg(format!("cuda:{ordinal}: {error}")));
    (0..count()?).map(described).collect()
}

/// The name of an open device.
pub fn name(device: &Device) -> Option<String> {
    device.as_cuda_device().ok()?.cuda_stream().context().name().ok()
}

/// Peak memory of tensors on an open device, in bytes.
pub fn peak_memory(device: &Device) -> Option<u64> {
    let device = device.as_cuda_device().ok()?;
    let (mut pool, mut bytes) = (std::ptr::null_mut(), 0u64);
    let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH;
    // SAFETY: the pool belongs to the device for as long as the driver runs; the attribute is a u64.
    let status = unsafe {
        sys::cuDeviceGetDefaultMemPool(&mut pool, device.cuda_stream().context().cu_device())
            .result()
            .and_then(|()| sys::cuMemPoolGetAttribute(pool, attribute, (&raw mut bytes).cast()).result())
    };
    status.is_ok().then_some(bytes)
}

/// The CUDA version of the driver, such as (13, 0).
///
/// # Errors
/// There is no driver.
pub fn driver_version() -> Result<(i32, i32)> {
    let mut version = 0;
    // SAFETY: the driver writes an int.
    match unsafe { sys::cuDriverGetVersion(&mut version) }.result() {
        Ok(()) => Ok((version / 1000, version % 1000 / 10)),
        Err(error) => Err(Error::Msg(format!("the CUDA driver does not respond: {error}"))),
    }
}

/// The libraries that are loaded when a device is used, and whether the loader finds them: those of the CUDA version that the
/// program is built for, or of any supported one if the build does not say which.
pub fn libraries() -> Vec<(String, bool)> {
    let majors: &[u32] = match option_env!("CUDARC_CUDA_VERSION").and_then(|version| version.get(..2)) {
        Some("12") => &[12],
        Some("13") => &[13],
        _ => &[13, 12],
    };
    let of_version = |name: &'static str| {
        let names: Vec<String> = majors.iter().map(|major| format!("lib{name}.so.{major}")).collect();
        let found = names.iter().any(|name| loads(name));
        (names.join(" or "), found)
    };
    let fixed = |name: &str| (name.to_string(), loads(name));
    vec![fixed("libcuda.so.1"), of_version("cublas"), of_version("cublasLt"), fixed("libcurand.so.10")]
}

/// Whether the loader finds a library.
fn loads(name: &str) -> bool {
    let Ok(name) = std::ffi::CString::new(name) else { return false };
    // SAFETY: opening these libraries runs nothing but their initialisers; the handle is kept open.
    !unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_LAZY) }.is_null()
}

/// Lets matrix products of f32 tensors round operands to TF32, 10 bits of mantissa.
pub fn tf32(allowed: bool) {
    candle_core::cuda::set_gemm_reduced_precision_f32(allowed);
}

/// Keeps freed memory in the pool of the device, if it has one; see [`Description::pools`].
fn keep_memory(device: &CudaDevice) -> Result<()> {
    let context = device.cuda_stream().context().clone();
    if !context.has_async_alloc() {
        return Ok(());
    }
    let mut all = u64::MAX;
    let mut pool = std::ptr::null_mut();
    // SAFETY: the pool belongs to the device for as long as the driver runs; the attribute is a u64.
    let status = unsafe {
        sys::cuDeviceGetDefaultMemPool(&mut pool, context.cu_device()).result().and_then(|()| {
            let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
            sys::cuMemPoolSetAttribute(pool, attribute, (&raw mut all).cast()).result()
        })
    };
    status.map_err(|error| Error::Msg(format!("the memory pool of {:?}: {error}", device.location())))
}
