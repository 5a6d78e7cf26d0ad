//! Matrix products by cuBLAS.

use super::cast::rounded;
use super::value::{OnDevice, Pointer, Value, allocate, values as values_of};
use crate::ops::gemm::Precision;
use candle_core::cuda::cudarc::cublas::{result, sys};
use candle_core::cuda::{CudaDevice, WrapErr, gemm_reduced_precision_f32};
use candle_core::{Device, Result, Tensor, bail};
use half::bf16;
use std::ffi::c_void;
use std::time::Instant;

/// A row-major matrix, or the transpose of one; no row is longer than the distance to the next.
#[derive(Clone, Copy)]
pub(super) struct Operand {
    pointer: Pointer,
    /// Values from a row to the next, as it lies in memory.
    step: usize,
    transposed: bool,
}

impl Operand {
    /// A matrix of rows of `width` values, one after another.
    pub fn new(pointer: Pointer, width: usize) -> Self {
        Self { pointer, step: width, transposed: false }
    }

    pub fn t(self) -> Self {
        Self { transposed: !self.transposed, ..self }
    }
}

/// c [m, n] = a [m, k] · b [k, n], or c += where `accumulate` is set; sums in f32. Rows of c follow one another.
pub(super) fn product<T: Value, C: Value>(
    device: &CudaDevice,
    sizes: (usize, usize, usize),
    a: Operand,
    b: Operand,
    c: Pointer,
    accumulate: bool,
) -> Result<()> {
    product_of_many::<T, C>(device, 1, sizes, (a, 0), (b, 0), (c, 0), accumulate)
}

/// [`product`] `count` times; each matrix comes with the values from one to the next.
pub(super) fn product_of_many<T: Value, C: Value>(
    device: &CudaDevice,
    count: usize,
    (m, n, k): (usize, usize, usize),
    (a, a_step): (Operand, usize),
    (b, b_step): (Operand, usize),
    (c, c_step): (Pointer, usize),
    accumulate: bool,
) -> Result<()> {
    if m == 0 || n == 0 || count == 0 {
        return Ok(());
    }
    let int = |size: usize| match i32::try_from(size) {
        Ok(size) => Ok(size),
        Err(_) => bail!("a matrix product of {m}×{k} and {k}×{n} is too large for cuBLAS"),
    };
    let side = |operand: Operand| match operand.transposed {
        true => sys::cublasOperation_t::CUBLAS_OP_T,
        false => sys::cublasOperation_t::CUBLAS_OP_N,
    };
    let compute = match T::PRECISION == Precision::F32 && gemm_reduced_precision_f32() {
        true => sys::cublasComputeType_t::CUBLAS_COMPUTE_32F_FAST_TF32,
        false => sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
    };
    let (alpha, beta) = (1f32, if accumulate { 1f32 } else { 0. });
    let scalar = |value: &f32| std::ptr::from_ref(value).cast::<c_void>();
    // cuBLAS matrices are column-major: it computes cᵀ = bᵀ·aᵀ.
    // SAFETY: operands have the sizes given, on this device, and the handle works on its stream.
    unsafe {
        result::gemm_strided_batched_ex(
            *device.cublas_handle().handle(),
            side(b),
            side(a),
            int(n)?,
            int(m)?,
            int(k)?,
            scalar(&alpha),
            b.pointer.0 as *const c_void,
            T::TYPE,
            int(b.step.max(1))?,
            b_step as i64,
            a.pointer.0 as *const c_void,
            T::TYPE,
            int(a.step.max(1))?,
            a_step as i64,
            scalar(&beta),
            c.0 as *mut c_void,
            C::TYPE,
            int(n)?,
            c_step as i64,
            int(count)?,
            compute,
            sys::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT_TENSOR_OP,
        )
    }
    .w()
}

/// Operations a second of bf16 products of 8192×8192 matrices, the best of five: what this device reaches in practice.
pub fn product_rate(device: &Device) -> Result<f64> {
    const SIDE: usize = 8192;
    let cuda = device.as_cuda_device()?;
    let filled = || -> Result<_> {
        let values = Tensor::rand(-1f32, 1f32, (SIDE, SIDE), device)?;
        let (guard, layout) = values.storage_and_layout();
        rounded::<bf16>(cuda, values_of(&guard, layout)?, SIDE * SIDE)
    };
    let (a, b, c) = (filled()?, filled()?, allocate::<bf16>(cuda, SIDE * SIDE)?);
    let mut best = f64::INFINITY;
    for _ in 0..5 {
        device.synchronize()?;
        let began = Instant::now();
        let operands = (Operand::new(a.pointer(), SIDE), Operand::new(b.pointer(), SIDE));
        product::<bf16, bf16>(cuda, (SIDE, SIDE, SIDE), operands.0, operands.1, c.pointer(), false)?;
        device.synchronize()?;
        best = best.min(began.elapsed().as_secs_f64());
    }
    Ok(2. * (SIDE as f64).powi(3) / best)
}
