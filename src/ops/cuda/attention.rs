//! Softmax attention without the N×N matrix.

use super::cast::{rounded, widened};
use super::launch::{ATTENTION, Argument, Grid, int, launch};
use super::value::{
    OnDevice, Pointer, Value, allocate, argument, device_of, on_cpu, storage, tensor, values,
};
use crate::ops::attention::bias::AttentionBias;
use crate::ops::autograd::ApplyOp;
use crate::ops::gemm::Precision;
use candle_core::cuda::CudaDevice;
use candle_core::cuda::cudarc::driver::CudaSlice;
use candle_core::{CpuStorage, CudaStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor};
use half::bf16;
use std::marker::PhantomData;

/// Largest number of channels per head that the kernels support.
pub(in crate::ops) const MOST: usize = 128;

/// Threads of a block, and rows that it works on in f32 and in bf16.
const THREADS: u32 = 128;
const ROWS_F32: usize = 4;
const ROWS_BF16: usize = 64;

/// Keys of a tile in the backward pass.
const KEYS: usize = 32;
/// Largest number of values in shared memory for the gradient of a bias: what devices have, less what tiles take.
const MOST_SUMS: usize = 1 << 14;

/// Heads in qkv [B, N, 3·C] on the device.
#[derive(Clone, Copy)]
pub(super) struct Heads {
    pub samples: usize,
    pub tokens: usize,
    pub count: usize,
    /// Channels of a head.
    pub width: usize,
}

/// The bias of the scores: a table [heads, N, N] or [T, heads], or rows [B, heads, N, h] and columns [B, heads, N, w].
/// Null if there is none.
#[derive(Clone, Copy)]
pub(super) struct Offsets {
    table: Pointer,
    rows: Pointer,
    columns: Pointer,
    grid: (usize, usize),
    /// Kind of the rows of the table: pairs of tokens (0), offsets of the grid (1), those and the class token's (2).
    of_table: usize,
}

/// The grid that a table [T, heads] belongs to.
#[derive(Clone, Copy)]
pub(super) struct Relative {
    pub grid: (usize, usize),
    pub class: bool,
}

impl Offsets {
    pub const NONE: Self =
        Self { table: Pointer::NULL, rows: Pointer::NULL, columns: Pointer::NULL, grid: (1, 1), of_table: 0 };

    pub fn of_table(table: Pointer, relative: Option<Relative>) -> Self {
        match relative {
            None => Self { table, ..Self::NONE },
            Some(Relative { grid, class }) => {
                Self { table, grid, of_table: 1 + usize::from(class), ..Self::NONE }
            }
        }
    }

    /// Values of shared memory in which a block of `queries` sums the gradient of the bias over keys, `keys` at a time;
    /// 0 if the gradient is added in the memory of the device.
    fn sums(&self, queries: usize, keys: usize) -> usize {
        let (h, w) = self.grid;
        let values = match self.of_table {
            0 if self.rows.0 == 0 => 0,
            0 => queries * (keys + 1 + (h | 1) + (w | 1)),
            kind => (2 * h - 1) * (2 * w - 1) + if kind == 2 { 3 } else { 0 },
        };
        if values <= MOST_SUMS { values } else { 0 }
    }

    fn arguments(&self) -> Result<[Argument; 6]> {
        let (h, w) = (int(self.grid.0)?, int(self.grid.1)?);
        Ok([self.table.into(), self.rows.into(), self.columns.into(), h, w, int(self.of_table)?])
    }
}

impl Heads {
    fn channels(&self) -> usize {
        self.count * self.width
    }

    fn arguments(&self) -> Result<[Argument; 4]> {
        let scale = (self.width as f64).powf(-0.5) as f32;
        Ok([int(self.tokens)?, int(self.width)?, int(self.count)?, scale.into()])
    }

    /// Queues a kernel for all rows of all heads, with `more` values of shared memory for each block.
    fn run<T: Value>(
        &self,
        device: &CudaDevice,
        kernel: &str,
        more: usize,
        arguments: Vec<Argument>,
    ) -> Result<()> {
        let (name, rows, shared) = match T::PRECISION {
            Precision::F32 => {
                let shared = 2 * 32 * (self.width + 1) + ROWS_F32 * 2 * self.width;
                ("f32".to_string(), ROWS_F32, 4 * shared)
            }
            Precision::Bf16 => {
                let padded =
                    [16, 32, 64, 80].into_iter().find(|&padded| self.width <= padded).unwrap_or(MOST);
                (format!("{padded}_bf16"), ROWS_BF16, 0)
            }
        };
        let shared = shared + 4 * more;
        let blocks = self.tokens.div_ceil(rows) * self.count * self.samples;
        let grid = Grid { blocks: (blocks, 1), threads: THREADS, shared };
        launch(device, &ATTENTION, &format!("{kernel}_{name}"), grid, &arguments)
    }

    /// Writes `out` [B, N, C]; returns logarithms of sums of exponentials [B, heads, N].
    pub fn forward<T: Value>(
        &self,
        device: &CudaDevice,
        qkv: Pointer,
        offsets: Offsets,
        out: Pointer,
    ) -> Result<CudaSlice<f32>> {
        let lse = allocate::<f32>(device, self.samples * self.count * self.tokens)?;
        let mut arguments = vec![qkv.into(), out.into(), lse.pointer().into()];
        arguments.extend(self.arguments()?);
        arguments.extend(offsets.arguments()?);
        self.run::<T>(device, "attention", 0, arguments)?;
        Ok(lse)
    }

    /// Writes the gradient of qkv [B, N, 3·C] from that of the output, and adds that of the bias to `of_bias`, where
    /// the pointers of its parts are not null.
    pub fn backward<T: Value>(
        &self,
        device: &CudaDevice,
        (qkv, out, lse): (Pointer, Pointer, Pointer),
        grad: Pointer,
        (offsets, of_bias): (Offsets, [Pointer; 3]),
        gradient: Pointer,
    ) -> Result<()> {
        let count = self.samples * self.count * self.tokens;
        let delta = allocate::<f32>(device, count)?;
        let products = [
            grad.into(),
            out.into(),
            delta.pointer().into(),
            int(count)?,
            int(self.tokens)?,
            int(self.width)?,
            int(self.count)?,
        ];
        let kernel = format!("attention_products_{}", T::NAME);
        launch(device, &ATTENTION, &kernel, Grid::warps(count), &products)?;
        let arguments = || -> Result<Vec<Argument>> {
            let mut arguments =
                vec![qkv.into(), grad.into(), lse.into(), delta.pointer().into(), gradient.into()];
            arguments.extend(self.arguments()?);
            arguments.extend(offsets.arguments()?);
            Ok(arguments)
        };
        let mut with_bias = arguments()?;
        with_bias.extend(of_bias.map(Argument::from));
        let sums = match T::PRECISION {
            _ if of_bias.iter().all(|part| part.0 == 0) => 0,
            Precision::F32 => offsets.sums(ROWS_F32, KEYS),
            Precision::Bf16 => offsets.sums(ROWS_BF16, KEYS),
        };
        with_bias.push(int(usize::from(sums > 0))?);
        self.run::<T>(device, "attention_queries", sums, with_bias)?;
        self.run::<T>(device, "attention_keys", 0, arguments()?)
    }
}

/// [`crate::ops::attention`] of contiguous f32 tensors of shapes that fit, heads of at most [`MOST`] channels.
pub(in crate::ops) fn attention(
    qkv: &Tensor,
    heads: usize,
    bias: Option<&AttentionBias>,
    precision: Precision,
) -> Result<Tensor> {
    match precision {
        Precision::F32 => apply::<f32>(qkv, heads, bias),
        Precision::Bf16 => apply::<bf16>(qkv, heads, bias),
    }
}

fn apply<T: Value>(qkv: &Tensor, heads: usize, bias: Option<&AttentionBias>) -> Result<Tensor> {
    let (qkv, op) = (qkv.contiguous()?, AttentionOp::<T> { heads, relative: None, of: PhantomData });
    match bias {
        None => qkv.apply1(op),
        Some(AttentionBias::Table(table)) => qkv.apply2(&table.contiguous()?, op),
        Some(AttentionBias::Relative { table, grid, class }) => {
            let relative = Some(Relative { grid: *grid, class: *class });
            qkv.apply2(&table.contiguous()?, AttentionOp { relative, ..op })
        }
        Some(AttentionBias::Decomposed { rows, columns }) => {
            qkv.apply3(&rows.contiguous()?, &columns.contiguous()?, op)
        }
    }
}

struct AttentionOp<T> {
    heads: usize,
    /// The grid of the offsets that the rows of a table stand for; pairs of tokens when absent.
    relative: Option<Relative>,
    of: PhantomData<T>,
}

impl<T: Value> AttentionOp<T> {
    fn heads(&self, qkv: &Shape) -> Result<Heads> {
        let (samples, tokens, c3) = qkv.dims3()?;
        Ok(Heads { samples, tokens, count: self.heads, width: c3 / 3 / self.heads })
    }

    fn forward(&self, qkv: &CudaStorage, layout: &Layout, offsets: Offsets) -> Result<(CudaStorage, Shape)> {
        let (device, heads) = (&qkv.device, self.heads(layout.shape())?);
        let count = heads.samples * heads.tokens * heads.channels();
        let qkv = rounded::<T>(device, argument::<f32>(qkv, layout)?, 3 * count)?;
        let out = allocate::<T>(device, count)?;
        heads.forward::<T>(device, qkv.pointer(), offsets, out.pointer())?;
        let shape = (heads.samples, heads.tokens, heads.channels()).into();
        Ok((storage(widened::<T>(device, out.pointer(), count)?, device), shape))
    }

    /// The gradient of `qkv`; adds that of the bias to `of_bias`. The forward pass runs again.
    fn backward(
        &self,
        qkv: &Tensor,
        grad: &Tensor,
        offsets: Offsets,
        of_bias: [Pointer; 3],
    ) -> Result<Tensor> {
        let (device, heads, grad) = (device_of(qkv)?, self.heads(qkv.shape())?, grad.contiguous()?);
        let count = heads.samples * heads.tokens * heads.channels();
        let guards = [qkv, &grad].map(Tensor::storage_and_layout);
        let [qkv_values, grads] = guards.each_ref().map(|(guard, layout)| values(guard, layout));
        let qkv_values = rounded::<T>(&device, qkv_values?, 3 * count)?;
        let grads = rounded::<T>(&device, grads?, count)?;
        let (out, gradient) = (allocate::<T>(&device, count)?, allocate::<T>(&device, 3 * count)?);
        let lse = heads.forward::<T>(&device, qkv_values.pointer(), offsets, out.pointer())?;
        let from = (qkv_values.pointer(), out.pointer(), lse.pointer());
        heads.backward::<T>(&device, from, grads.pointer(), (offsets, of_bias), gradient.pointer())?;
        Ok(tensor(widened::<T>(&device, gradient.pointer(), 3 * count)?, qkv.shape(), &device))
    }
}

/// A gradient with the shape of `like`, initially zero; `None` if it depends on no variable.
fn sums(device: &CudaDevice, like: &Tensor) -> Result<Option<CudaSlice<f32>>> {
    like.track_op().then(|| device.alloc_zeros(like.elem_count().max(1))).transpose()
}

fn pointer(sums: &Option<CudaSlice<f32>>) -> Pointer {
    sums.as_ref().map_or(Pointer::NULL, OnDevice::pointer)
}

impl<T: Value> CustomOp1 for AttentionOp<T> {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        on_cpu("attention")
    }

    fn cuda_fwd(&self, qkv: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        self.forward(qkv, layout, Offsets::NONE)
    }

    fn bwd(&self, qkv: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        self.backward(qkv, grad, Offsets::NONE, [Pointer::NULL; 3]).map(Some)
    }
}

/// Attention with a bias for every pair of tokens, or for every offset.
impl<T: Value> CustomOp2 for AttentionOp<T> {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        on_cpu("attention")
    }

    fn cuda_fwd(
        &self,
        qkv: &CudaStorage,
        qkv_layout: &Layout,
        table: &CudaStorage,
        table_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let table = argument::<f32>(table, table_layout)?;
        self.forward(qkv, qkv_layout, Offsets::of_table(table, self.relative))
    }

    fn bwd(
        &self,
        qkv: &Tensor,
        table: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let device = device_of(qkv)?;
        let (guard, layout) = table.storage_and_layout();
        let offsets = Offsets::of_table(values(&guard, layout)?, self.relative);
        let of_table = sums(&device, table)?;
        let gradient =
            self.backward(qkv, grad, offsets, [pointer(&of_table), Pointer::NULL, Pointer::NULL])?;
        Ok((Some(gradient), of_table.map(|sums| tensor(sums, table.shape(), &device))))
    }
}

/// Attention with a bias of rows and one of columns.
impl<T: Value> CustomOp3 for AttentionOp<T> {
    fn name(&self) -> &'static str {
        "attention"
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
        on_cpu("attention")
    }

    fn cuda_fwd(
        &self,
        qkv: &CudaStorage,
        qkv_layout: &Layout,
        rows: &CudaStorage,
        rows_layout: &Layout,
        columns: &CudaStorage,
        columns_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let offsets = Offsets {
            rows: argument::<f32>(rows, rows_layout)?,
            columns: argument::<f32>(columns, columns_layout)?,
            grid: (rows_layout.shape().dims4()?.3, columns_layout.shape().dims4()?.3),
            ..Offsets::NONE
        };
        self.forward(qkv, qkv_layout, offsets)
    }

    fn bwd(
        &self,
        qkv: &Tensor,
        rows: &Tensor,
        columns: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let device = device_of(qkv)?;
        let guards = [rows, columns].map(Tensor::storage_and_layout);
        let [of_rows, of_columns] = guards.each_ref().map(|(guard, layout)| values(guard, layout));
        let grid = (rows.dims4()?.3, columns.dims4()?.3);
        let offsets = Offsets { rows: of_rows?, columns: of_columns?, grid, ..Offsets::NONE };
        let (of_rows, of_columns) = (sums(&device, rows)?, sums(&device, columns)?);
        let of_bias = [Pointer::NULL, pointer(&of_rows), pointer(&of_columns)];
        let gradient = self.backward(qkv, grad, offsets, of_bias)?;
        let shaped = |sums: Option<CudaSlice<f32>>, like: &Tensor| {
            sums.map(|sums| tensor(sums, like.shape(), &device))
        };
        Ok((Some(gradient), shaped(of_rows, rows), shaped(of_columns, columns)))
    }
}
