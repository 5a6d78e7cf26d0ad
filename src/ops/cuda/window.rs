//! Tokens of a grid in the order of its windows, and back.

use super::launch::{GATHER, Grid, int, launch, size};
use super::value::{
    OnDevice, Pointer, Value, allocate, argument, device_of, on_cpu, storage, tensor, values as values_of,
};
use crate::ops::autograd::ApplyOp;
use candle_core::cuda::CudaDevice;
use candle_core::cuda::cudarc::driver::CudaSlice;
use candle_core::{CpuStorage, CudaStorage, CustomOp1, Layout, Result, Shape, Tensor};

/// Grids of tokens and their square windows, which are padded below and to the right.
#[derive(Clone, Copy)]
pub(in crate::ops) struct Windows {
    pub images: usize,
    /// Rows and columns of a grid.
    pub grid: (usize, usize),
    /// Side of a window.
    pub side: usize,
}

impl Windows {
    /// Windows of all images.
    pub fn count(&self) -> usize {
        self.images * self.grid.0.div_ceil(self.side) * self.grid.1.div_ceil(self.side)
    }

    /// Tokens of a window.
    pub fn size(&self) -> usize {
        self.side * self.side
    }

    fn tokens(&self) -> usize {
        self.images * self.grid.0 * self.grid.1
    }

    /// `rows` [tokens, channels] -> [count·size, channels], with the row `padding`, or zeros if it is null, where there
    /// is no token.
    pub(in crate::ops::cuda) fn partition<T: Value>(
        &self,
        device: &CudaDevice,
        rows: Pointer,
        padding: Pointer,
        channels: usize,
    ) -> Result<CudaSlice<T>> {
        let places = self.count() * self.size();
        let out = allocate::<T>(device, places * channels)?;
        let arguments = [
            rows.into(),
            padding.into(),
            out.pointer().into(),
            size(places),
            int(self.grid.0)?,
            int(self.grid.1)?,
            int(self.side)?,
            int(channels)?,
        ];
        launch(device, &GATHER, &format!("partition_{}", T::NAME), Grid::warps(places), &arguments)?;
        Ok(out)
    }

    /// The inverse of [`Windows::partition`].
    pub(in crate::ops::cuda) fn merge<T: Value>(
        &self,
        device: &CudaDevice,
        rows: Pointer,
        channels: usize,
    ) -> Result<CudaSlice<T>> {
        let out = allocate::<T>(device, self.tokens() * channels)?;
        let arguments = [
            rows.into(),
            out.pointer().into(),
            size(self.tokens()),
            int(self.grid.0)?,
            int(self.grid.1)?,
            int(self.side)?,
            int(channels)?,
        ];
        launch(device, &GATHER, &format!("merge_{}", T::NAME), Grid::warps(self.tokens()), &arguments)?;
        Ok(out)
    }
}

/// [`crate::ops::partition_windows`] of an f32 tensor [B, H, W, C].
pub(in crate::ops) fn partition_windows(x: &Tensor, windows: Windows) -> Result<Tensor> {
    x.contiguous()?.apply1(Reorder { windows, partition: true })
}

/// [`crate::ops::merge_windows`] of an f32 tensor [B·n, side², C].
pub(in crate::ops) fn merge_windows(x: &Tensor, windows: Windows) -> Result<Tensor> {
    x.contiguous()?.apply1(Reorder { windows, partition: false })
}

struct Reorder {
    windows: Windows,
    /// To windows, or back.
    partition: bool,
}

impl Reorder {
    fn run(
        &self,
        device: &CudaDevice,
        rows: Pointer,
        channels: usize,
        partition: bool,
    ) -> Result<CudaSlice<f32>> {
        match partition {
            true => self.windows.partition::<f32>(device, rows, Pointer::NULL, channels),
            false => self.windows.merge::<f32>(device, rows, channels),
        }
    }
}

impl CustomOp1 for Reorder {
    fn name(&self) -> &'static str {
        if self.partition { "partition_windows" } else { "merge_windows" }
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        on_cpu(self.name())
    }

    fn cuda_fwd(&self, x: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let Self { windows, partition } = *self;
        let (device, channels) = (&x.device, layout.dims().last().copied().unwrap_or(1));
        let out = self.run(device, argument::<f32>(x, layout)?, channels, partition)?;
        let shape: Shape = match partition {
            true => (windows.count(), windows.size(), channels).into(),
            false => (windows.images, windows.grid.0, windows.grid.1, channels).into(),
        };
        Ok((storage(out, device), shape))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let (device, grad) = (device_of(x)?, grad.contiguous()?);
        let (guard, layout) = grad.storage_and_layout();
        let channels = x.dims().last().copied().unwrap_or(1);
        let gradient = self.run(&device, values_of(&guard, layout)?, channels, !self.partition)?;
        Ok(Some(tensor(gradient, x.shape(), &device)))
    }
}
