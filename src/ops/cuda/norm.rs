//! Layer normalisation, and sums over the rows of a matrix.

use super::launch::{Grid, ROWS, THREADS, int, launch};
use super::value::{
    OnDevice, Pointer, Value, allocate, argument, device_of, on_cpu, storage, tensor, values,
};
use crate::ops::autograd::ApplyOp;
use candle_core::cuda::CudaDevice;
use candle_core::cuda::cudarc::driver::CudaSlice;
use candle_core::{CpuStorage, CudaStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};

/// Rows that one block sums.
const CHUNK: usize = 128;
/// Sums of chunks that are added by one thread.
const AT_A_TIME: usize = 32;

/// The norm of rows: weight and bias `[width]`, ε.
#[derive(Clone, Copy)]
pub(super) struct Norm {
    pub weight: Pointer,
    pub bias: Pointer,
    pub eps: f32,
}

impl Norm {
    /// y [rows, width] of x.
    pub fn forward<T: Value>(
        &self,
        device: &CudaDevice,
        (rows, width): (usize, usize),
        x: Pointer,
        y: Pointer,
    ) -> Result<()> {
        let arguments = [
            x.into(),
            self.weight.into(),
            self.bias.into(),
            y.into(),
            int(rows)?,
            int(width)?,
            self.eps.into(),
        ];
        launch(device, &ROWS, &format!("layer_norm_{}", T::NAME), Grid::warps(rows), &arguments)
    }

    /// dx [rows, width] from the gradient of the norm, plus `residual`; the norm once more in `normed`; both may be
    /// null. Returns the gradients of weight and bias `[2·width]`.
    pub fn backward<T: Value>(
        &self,
        device: &CudaDevice,
        (rows, width): (usize, usize),
        x: Pointer,
        grad: Pointer,
        (residual, dx, normed): (Pointer, Pointer, Pointer),
    ) -> Result<CudaSlice<f32>> {
        let moments = allocate::<f32>(device, 2 * rows)?;
        let arguments = [
            x.into(),
            self.weight.into(),
            self.bias.into(),
            grad.into(),
            residual.into(),
            dx.into(),
            normed.into(),
            moments.pointer().into(),
            int(rows)?,
            int(width)?,
            self.eps.into(),
        ];
        launch(device, &ROWS, &format!("layer_norm_gradient_{}", T::NAME), Grid::warps(rows), &arguments)?;
        let kernel = format!("layer_norm_affine_{}", T::NAME);
        let sum = |sums: Pointer| {
            let arguments = [
                x.into(),
                grad.into(),
                moments.pointer().into(),
                sums.into(),
                int(rows)?,
                int(width)?,
                int(CHUNK)?,
            ];
            launch(device, &ROWS, &kernel, columns(rows, width), &arguments)
        };
        in_chunks(device, rows, 2 * width, sum)
    }
}

/// Sums over the rows of a matrix [rows, width] -> `[width]`.
pub(super) fn column_sums<T: Value>(
    device: &CudaDevice,
    (rows, width): (usize, usize),
    matrix: Pointer,
) -> Result<CudaSlice<f32>> {
    let kernel = format!("column_sums_{}", T::NAME);
    let sum = |sums: Pointer| {
        let arguments = [matrix.into(), sums.into(), int(rows)?, int(width)?, int(CHUNK)?];
        launch(device, &ROWS, &kernel, columns(rows, width), &arguments)
    };
    in_chunks(device, rows, width, sum)
}

/// `sum` writes sums over chunks of `rows` [chunks, width]; they are added in order.
fn in_chunks(
    device: &CudaDevice,
    rows: usize,
    width: usize,
    sum: impl Fn(Pointer) -> Result<()>,
) -> Result<CudaSlice<f32>> {
    if rows == 0 {
        return device.alloc_zeros(width.max(1));
    }
    let mut chunks = rows.div_ceil(CHUNK);
    let mut sums = allocate::<f32>(device, chunks * width)?;
    sum(sums.pointer())?;
    // Few sums at a time: otherwise a thread for each column would go through hundreds of chunks alone.
    while chunks > 1 {
        let fewer = chunks.div_ceil(AT_A_TIME);
        let next = allocate::<f32>(device, fewer * width)?;
        let arguments =
            [sums.pointer().into(), next.pointer().into(), int(chunks)?, int(width)?, int(AT_A_TIME)?];
        let grid = Grid { blocks: (width.div_ceil(THREADS as usize), fewer), threads: THREADS, shared: 0 };
        launch(device, &ROWS, "column_sums_f32", grid, &arguments)?;
        (chunks, sums) = (fewer, next);
    }
    Ok(sums)
}

/// A thread for every column of every chunk of rows.
fn columns(rows: usize, width: usize) -> Grid {
    let threads = THREADS / 2;
    Grid { blocks: (width.div_ceil(threads as usize), rows.div_ceil(CHUNK)), threads, shared: 0 }
}

/// [`crate::ops::layer_norm`] of contiguous f32 tensors.
pub(in crate::ops) fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    x.contiguous()?.apply3(&weight.contiguous()?, &bias.contiguous()?, LayerNorm { eps: eps as f32 })
}

struct LayerNorm {
    eps: f32,
}

impl CustomOp3 for LayerNorm {
    fn name(&self) -> &'static str {
        "layer_norm"
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        on_cpu("layer_norm")
    }

    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        x_layout: &Layout,
        weight: &CudaStorage,
        weight_layout: &Layout,
        bias: &CudaStorage,
        bias_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let shape = x_layout.shape();
        let width = shape.dims().last().copied().unwrap_or(0);
        if width == 0 || weight_layout.dims() != [width] || bias_layout.dims() != [width] {
            let (weight, bias) = (weight_layout.shape(), bias_layout.shape());
            bail!("layer_norm: x {shape:?}, weight {weight:?}, bias {bias:?}");
        }
        let norm = Norm {
            weight: argument::<f32>(weight, weight_layout)?,
            bias: argument::<f32>(bias, bias_layout)?,
            eps: self.eps,
        };
        let y = allocate::<f32>(&x.device, shape.elem_count())?;
        let rows = shape.elem_count() / width;
        norm.forward::<f32>(&x.device, (rows, width), argument::<f32>(x, x_layout)?, y.pointer())?;
        Ok((storage(y, &x.device), shape.clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (device, grad, width) = (device_of(x)?, grad.contiguous()?, weight.elem_count());
        let guards = [x, weight, bias, &grad].map(Tensor::storage_and_layout);
        let [x_values, w, b, g] = guards.each_ref().map(|(guard, layout)| values(guard, layout));
        let norm = Norm { weight: w?, bias: b?, eps: self.eps };
        let dx = allocate::<f32>(&device, x.elem_count())?;
        let size = (x.elem_count() / width, width);
        let to = (Pointer::NULL, dx.pointer(), Pointer::NULL);
        let affine = norm.backward::<f32>(&device, size, x_values?, g?, to)?;
        let affine = tensor(affine, 2 * width, &device);
        let dx = tensor(dx, x.shape(), &device);
        Ok((Some(dx), Some(affine.narrow(0, 0, width)?), Some(affine.narrow(0, width, width)?)))
    }
}
