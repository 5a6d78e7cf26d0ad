//! Values of f32 rounded to the type of a matrix product, and back.

use super::launch::{Grid, ROWS, int, launch, size};
use super::value::{OnDevice, Pointer, Value, allocate};
use crate::ops::gemm::Precision;
use candle_core::Result;
use candle_core::cuda::CudaDevice;
use candle_core::cuda::cudarc::driver::CudaSlice;

/// Values of type `T`: a copy, or those of f32 themselves where `T` is f32, valid as long as they are.
pub(super) enum Rounded<T> {
    Themselves(Pointer),
    Copy(CudaSlice<T>),
}

impl<T> OnDevice for Rounded<T> {
    fn pointer(&self) -> Pointer {
        match self {
            Self::Themselves(pointer) => *pointer,
            Self::Copy(values) => values.pointer(),
        }
    }
}

/// f32 values rounded to `T`.
pub(super) fn rounded<T: Value>(device: &CudaDevice, values: Pointer, count: usize) -> Result<Rounded<T>> {
    if T::PRECISION == Precision::F32 {
        return Ok(Rounded::Themselves(values));
    }
    let to = allocate::<T>(device, count)?;
    let width = if count.is_multiple_of(4) { 4 } else { 1 };
    let arguments = [
        values.into(),
        Pointer::NULL.into(),
        to.pointer().into(),
        size(count),
        int(width)?,
        size(count.max(1)),
    ];
    launch(device, &ROWS, &format!("scaled_{}", T::NAME), Grid::fours(count), &arguments)?;
    Ok(Rounded::Copy(to))
}

/// Values of `T` as f32.
pub(super) fn widened<T: Value>(
    device: &CudaDevice,
    values: Pointer,
    count: usize,
) -> Result<CudaSlice<f32>> {
    let to = allocate::<f32>(device, count)?;
    let arguments = [values.into(), to.pointer().into(), size(count)];
    launch(device, &ROWS, &format!("widen_{}", T::NAME), Grid::fours(count), &arguments)?;
    Ok(to)
}
