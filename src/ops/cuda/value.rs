//! Values on a device: the types kernels know, and where tensors keep them.

use crate::ops::gemm::Element;
use candle_core::cuda::cudarc::cublas::sys::cudaDataType_t;
use candle_core::cuda::cudarc::driver::{CudaSlice, DevicePtr, DeviceRepr};
use candle_core::cuda::{CudaDType, CudaDevice};
use candle_core::op::BackpropOp;
use candle_core::{CudaStorage, Layout, Result, Shape, Storage, Tensor, bail};
use half::bf16;

/// The type of intermediate values: f32, or bf16 with sums in f32.
pub(in crate::ops) trait Value:
    Element + CudaDType + DeviceRepr + Send + Sync + 'static
{
    /// Ends the names of kernels.
    const NAME: &'static str;
    /// The type for cuBLAS.
    const TYPE: cudaDataType_t;
}

impl Value for f32 {
    const NAME: &'static str = "f32";
    const TYPE: cudaDataType_t = cudaDataType_t::CUDA_R_32F;
}

impl Value for bf16 {
    const NAME: &'static str = "bf16";
    const TYPE: cudaDataType_t = cudaDataType_t::CUDA_R_16BF;
}

/// An address on the device. Valid for kernels that are queued while its memory is allocated.
#[derive(Clone, Copy)]
pub(super) struct Pointer(pub u64);

impl Pointer {
    /// The null pointer, for absent arguments.
    pub const NULL: Self = Self(0);

    /// The address `bytes` bytes further on.
    pub fn after(self, bytes: usize) -> Self {
        Self(self.0 + bytes as u64)
    }
}

/// Something with values on the device.
pub(super) trait OnDevice {
    fn pointer(&self) -> Pointer;
}

impl<T> OnDevice for CudaSlice<T> {
    fn pointer(&self) -> Pointer {
        Pointer(self.device_ptr(self.stream()).0)
    }
}

/// The values of an operator's argument, which must be contiguous.
pub(super) fn argument<T: Value>(storage: &CudaStorage, layout: &Layout) -> Result<Pointer> {
    match layout.contiguous_offsets() {
        Some((start, _)) => Ok(storage.as_cuda_slice::<T>()?.pointer().after(start * size_of::<T>())),
        None => bail!("expected a contiguous tensor, got shape {:?}", layout.shape()),
    }
}

/// The values of a contiguous f32 tensor, from its locked storage.
pub(super) fn values(storage: &Storage, layout: &Layout) -> Result<Pointer> {
    argument::<f32>(on_device(storage)?, layout)
}

pub(super) fn on_device(storage: &Storage) -> Result<&CudaStorage> {
    match storage {
        Storage::Cuda(storage) => Ok(storage),
        _ => bail!("expected a tensor on a CUDA device"),
    }
}

/// The device of a tensor on one.
pub(super) fn device_of(tensor: &Tensor) -> Result<CudaDevice> {
    Ok(tensor.device().as_cuda_device()?.clone())
}

/// Allocates memory for `count` values, not yet written.
pub(super) fn allocate<T: Value>(device: &CudaDevice, count: usize) -> Result<CudaSlice<T>> {
    // SAFETY: kernels write all of it before anything reads it; zero values still need a pointer.
    unsafe { device.alloc::<T>(count.max(1)) }
}

pub(super) fn storage<T: Value>(values: CudaSlice<T>, device: &CudaDevice) -> CudaStorage {
    CudaStorage::wrap_cuda_slice(values, device.clone())
}

/// A constant tensor of these values.
pub(super) fn tensor(values: CudaSlice<f32>, shape: impl Into<Shape>, device: &CudaDevice) -> Tensor {
    Tensor::from_storage(Storage::Cuda(storage(values, device)), shape, BackpropOp::none(), false)
}

/// The error of a CUDA operator that is called with CPU tensors.
pub(super) fn on_cpu<T>(operator: &str) -> Result<T> {
    bail!("{operator}: a CUDA operator was called with CPU tensors")
}
