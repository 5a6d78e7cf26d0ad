//! How often the program calls the device: kernels, copies, allocations and waits.
//!
//! candle and cudarc queue work by functions of the driver's libraries, and have no place to count it. So the program defines
//! those functions itself, counts, and calls those of the library: the linker prefers ours. cuBLAS reaches its kernels in
//! another way; its products are counted instead.

use candle_core::cuda::cudarc::cublas::sys as blas;
use candle_core::cuda::cudarc::driver::sys;
use std::ffi::{CStr, c_int, c_longlong, c_uchar, c_uint, c_void};
use std::ops::Sub;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Numbers of calls since the program started, or between two moments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Calls {
    /// Kernels that were queued, apart from those of cuBLAS.
    pub kernels: usize,
    /// Matrix products of cuBLAS, batches of them counted once.
    pub products: usize,
    /// Allocations.
    pub allocations: usize,
    /// Copies to the device, and memory that was set to a value.
    pub writes: usize,
    /// Copies from the device, for which the host waits.
    pub reads: usize,
    /// Times at which the host waited for all work that was queued.
    pub waits: usize,
}

impl Sub for Calls {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            kernels: self.kernels - before.kernels,
            products: self.products - before.products,
            allocations: self.allocations - before.allocations,
            writes: self.writes - before.writes,
            reads: self.reads - before.reads,
            waits: self.waits - before.waits,
        }
    }
}

static KERNELS: AtomicUsize = AtomicUsize::new(0);
static PRODUCTS: AtomicUsize = AtomicUsize::new(0);
static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);
static WRITES: AtomicUsize = AtomicUsize::new(0);
static READS: AtomicUsize = AtomicUsize::new(0);
static WAITS: AtomicUsize = AtomicUsize::new(0);

/// The calls of all threads since the program started.
pub fn calls() -> Calls {
    let of = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
    Calls {
        kernels: of(&KERNELS),
        products: of(&PRODUCTS),
        allocations: of(&ALLOCATIONS),
        writes: of(&WRITES),
        reads: of(&READS),
        waits: of(&WAITS),
    }
}

/// The libraries that have the functions, as the loader names them.
const LIBRARIES: [&CStr; 3] = [c"libcuda.so.1", c"libcublas.so.13", c"libcublas.so.12"];

/// The address of a function in one of the libraries; 0 if none has it.
fn find(name: &CStr) -> usize {
    let address = |library: &&CStr| {
        // SAFETY: both names end with a zero; the libraries are those that the program uses anyway, and stay open.
        unsafe {
            let handle = libc::dlopen(library.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL);
            if handle.is_null() { 0 } else { libc::dlsym(handle, name.as_ptr()) as usize }
        }
    };
    LIBRARIES.iter().map(|library| address(&library)).find(|&address| address != 0).unwrap_or(0)
}

/// Defines functions of a library that count and call the library's.
macro_rules! counted {
    ($($counter:ident $absent:expr => fn $name:ident($($argument:ident: $type:ty),*) -> $result:ty;)*) => {$(
        /// Counts, and calls the function of the library.
        ///
        /// # Safety
        /// As the function of the library.
        #[unsafe(no_mangle)]
        #[allow(non_snake_case, clippy::too_many_arguments)]
        pub unsafe extern "C" fn $name($($argument: $type),*) -> $result {
            const NAME: &str = concat!(stringify!($name), "\0");
            static NEXT: LazyLock<usize> =
                LazyLock::new(|| CStr::from_bytes_with_nul(NAME.as_bytes()).map_or(0, find));
            if *NEXT == 0 {
                return $absent;
            }
            $counter.fetch_add(1, Ordering::Relaxed);
            // SAFETY: the library's function has this signature, and the caller keeps its rules.
            unsafe {
                let call: unsafe extern "C" fn($($type),*) -> $result = std::mem::transmute(*NEXT);
                call($($argument),*)
            }
        }
    )*

    /// Makes sure that the linker takes the functions of this module.
    pub(super) fn link() {
        $(std::hint::black_box($name as *const c_void);)*
    }};
}

const ABSENT: sys::CUresult = sys::CUresult::CUDA_ERROR_STUB_LIBRARY;
const NO_BLAS: blas::cublasStatus_t = blas::cublasStatus_t::CUBLAS_STATUS_NOT_INITIALIZED;

counted! {
    KERNELS ABSENT => fn cuLaunchKernel(
        function: sys::CUfunction, grid_x: c_uint, grid_y: c_uint, grid_z: c_uint, block_x: c_uint, block_y: c_uint,
        block_z: c_uint, shared: c_uint, stream: sys::CUstream, parameters: *mut *mut c_void, extra: *mut *mut c_void
    ) -> sys::CUresult;
    ALLOCATIONS ABSENT => fn cuMemAllocAsync(
        to: *mut sys::CUdeviceptr, bytes: usize, stream: sys::CUstream
    ) -> sys::CUresult;
    ALLOCATIONS ABSENT => fn cuMemAlloc_v2(to: *mut sys::CUdeviceptr, bytes: usize) -> sys::CUresult;
    WRITES ABSENT => fn cuMemsetD8Async(
        to: sys::CUdeviceptr, value: c_uchar, bytes: usize, stream: sys::CUstream
    ) -> sys::CUresult;
    WRITES ABSENT => fn cuMemcpyHtoDAsync_v2(
        to: sys::CUdeviceptr, from: *const c_void, bytes: usize, stream: sys::CUstream
    ) -> sys::CUresult;
    WRITES ABSENT => fn cuMemcpyHtoD_v2(to: sys::CUdeviceptr, from: *const c_void, bytes: usize) -> sys::CUresult;
    READS ABSENT => fn cuMemcpyDtoHAsync_v2(
        to: *mut c_void, from: sys::CUdeviceptr, bytes: usize, stream: sys::CUstream
    ) -> sys::CUresult;
    READS ABSENT => fn cuMemcpyDtoH_v2(to: *mut c_void, from: sys::CUdeviceptr, bytes: usize) -> sys::CUresult;
    WAITS ABSENT => fn cuStreamSynchronize(stream: sys::CUstream) -> sys::CUresult;
    WAITS ABSENT => fn cuCtxSynchronize() -> sys::CUresult;
    WAITS ABSENT => fn cuEventSynchronize(event: sys::CUevent) -> sys::CUresult;
    PRODUCTS NO_BLAS => fn cublasGemmStridedBatchedEx(
        handle: blas::cublasHandle_t, side_a: blas::cublasOperation_t, side_b: blas::cublasOperation_t, m: c_int,
        n: c_int, k: c_int, alpha: *const c_void, a: *const c_void, type_a: blas::cudaDataType, step_a: c_int,
        stride_a: c_longlong, b: *const c_void, type_b: blas::cudaDataType, step_b: c_int, stride_b: c_longlong,
        beta: *const c_void, c: *mut c_void, type_c: blas::cudaDataType, step_c: c_int, stride_c: c_longlong,
        count: c_int, compute: blas::cublasComputeType_t, algorithm: blas::cublasGemmAlgo_t
    ) -> blas::cublasStatus_t;
}
