//! Rows of a matrix by their indices, and patches of images.

use super::launch::{GATHER, Grid, THREADS, int, launch, size};
use super::value::{OnDevice, Pointer, allocate, argument, device_of, on_cpu, storage, tensor, values};
use crate::ops::autograd::ApplyOp;
use crate::ops::row_places::RowPlaces;
use candle_core::cuda::CudaDevice;
use candle_core::cuda::cudarc::driver::CudaSlice;
use candle_core::{CpuStorage, CudaStorage, CustomOp1, Layout, Result, Shape, Tensor};

/// Rows that one block sums: the mask token is taken by most places.
const SPAN: usize = 64;

/// [`crate::ops::index_select`] of an f32 matrix that has these rows.
pub(in crate::ops) fn index_select(x: &Tensor, rows: &[u32]) -> Result<Tensor> {
    x.contiguous()?.apply1(IndexSelect { rows: rows.to_vec() })
}

/// [`crate::ops::patchify`] of f32 images [B, C, H, W] that need no gradient, with sides that are multiples of `patch`.
pub(crate) fn patchify(images: &Tensor, patch: usize) -> Result<Tensor> {
    images.contiguous()?.apply_op1_no_bwd(&Patchify { patch })
}

struct Patchify {
    patch: usize,
}

impl CustomOp1 for Patchify {
    fn name(&self) -> &'static str {
        "patchify"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        on_cpu("patchify")
    }

    fn cuda_fwd(&self, x: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let (device, (b, c, height, width), patch) = (&x.device, layout.shape().dims4()?, self.patch);
        let (patches, values) = (height / patch * (width / patch), patch * patch * c);
        let out = allocate::<f32>(device, b * patches * values)?;
        let arguments = [
            argument::<f32>(x, layout)?.into(),
            out.pointer().into(),
            size(b * patches),
            int(c)?,
            int(height)?,
            int(width)?,
            int(patch)?,
        ];
        launch(device, &GATHER, "patchify", Grid::planes(b * patches, values), &arguments)?;
        Ok((storage(out, device), (b, patches, values).into()))
    }
}

struct IndexSelect {
    rows: Vec<u32>,
}

impl CustomOp1 for IndexSelect {
    fn name(&self) -> &'static str {
        "index_select"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        on_cpu("index_select")
    }

    fn cuda_fwd(&self, x: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let (device, (_, width), count) = (&x.device, layout.shape().dims2()?, self.rows.len());
        let out = allocate::<f32>(device, count * width)?;
        if count * width > 0 {
            let (x, rows) = (argument::<f32>(x, layout)?, device.clone_htod(&self.rows)?);
            let arguments = [x.into(), rows.pointer().into(), out.pointer().into(), size(count), int(width)?];
            launch(device, &GATHER, "index_select", Grid::fours(count * width), &arguments)?;
        }
        Ok((storage(out, device), (count, width).into()))
    }

    /// Sums of at most [`SPAN`] places, and sums of those.
    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let (device, (count, width), grad) = (device_of(x)?, x.dims2()?, grad.contiguous()?);
        let taken_at = RowPlaces::of(&self.rows, count);
        let (mut spans, mut lists) = (vec![0u32], vec![0u32]);
        for row in taken_at.starts.windows(2) {
            spans.extend((row[0] + SPAN..row[1]).step_by(SPAN).map(|end| end as u32));
            if row[1] > row[0] {
                spans.push(row[1] as u32);
            }
            lists.push(spans.len() as u32 - 1);
        }
        if spans.len() == 1 || width == 0 {
            return Ok(Some(x.zeros_like()?));
        }
        let (guard, layout) = grad.storage_and_layout();
        let places = device.clone_htod(&taken_at.places)?;
        let partial = sum_rows(&device, values(&guard, layout)?, &spans, places.pointer(), width)?;
        let sums = sum_rows(&device, partial.pointer(), &lists, Pointer::NULL, width)?;
        Ok(Some(tensor(sums, (count, width), &device)))
    }
}

/// Sums of the rows of `x` that `places` from `starts[i]` to `starts[i + 1]` name; null places name themselves.
fn sum_rows(
    device: &CudaDevice,
    x: Pointer,
    starts: &[u32],
    places: Pointer,
    width: usize,
) -> Result<CudaSlice<f32>> {
    let lists = starts.len() - 1;
    let (sums, starts) = (allocate::<f32>(device, lists * width)?, device.clone_htod(starts)?);
    let arguments = [x.into(), starts.pointer().into(), places.into(), sums.pointer().into(), int(width)?];
    let grid = Grid { blocks: (lists, 1), threads: THREADS, shared: 0 };
    launch(device, &GATHER, "sum_rows", grid, &arguments)?;
    Ok(sums)
}
