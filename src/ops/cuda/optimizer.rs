//! Steps of optimisers and norms over many tensors in one launch each.

use super::launch::{Argument, Grid, OPTIMIZER, THREADS, launch};
use super::value::{OnDevice, Pointer, device_of, values};
use candle_core::cuda::CudaDevice;
use candle_core::cuda::cudarc::driver::{CudaSlice, DeviceRepr};
use candle_core::{Result, Tensor, bail};

/// Values of a chunk, as in optimizer.cu.
const SPAN: usize = 1 << 14;

/// A contiguous f32 tensor and what is read and written along with it, all of one length.
pub struct Update<'a> {
    /// The parameter, or another tensor whose norm is computed.
    pub value: &'a Tensor,
    /// Its gradient.
    pub gradient: Option<&'a Tensor>,
    /// Moments or momentum, at most two.
    pub running: &'a [Tensor],
    /// Its moving average.
    pub average: Option<&'a Tensor>,
    /// The numbers of the update rule, as optimizer.cu reads them.
    pub numbers: [f32; 8],
}

/// Entry of optimizer.cu.
#[repr(C)]
#[derive(Clone, Copy)]
struct Entry {
    value: u64,
    gradient: u64,
    running: [u64; 2],
    average: u64,
    count: u64,
    numbers: [f32; 8],
}

/// Chunk of optimizer.cu.
#[repr(C)]
#[derive(Clone, Copy)]
struct Chunk {
    entry: u32,
    start: u32,
}

// SAFETY: plain numbers, laid out as in C.
unsafe impl DeviceRepr for Entry {}
// SAFETY: the same.
unsafe impl DeviceRepr for Chunk {}

/// The updates on the device.
struct Table {
    device: CudaDevice,
    entries: CudaSlice<Entry>,
    chunks: CudaSlice<Chunk>,
    /// The index of the update to which each chunk belongs.
    owners: Vec<u32>,
}

impl Table {
    /// `None` if there is nothing to update.
    fn new(updates: &[Update]) -> Result<Option<Self>> {
        let Some(first) = updates.first() else { return Ok(None) };
        let device = device_of(first.value)?;
        let entries = updates.iter().map(Update::entry).collect::<Result<Vec<_>>>()?;
        let mut chunks = vec![];
        for (entry, update) in (0u32..).zip(&entries) {
            let count = (update.count as usize).div_ceil(SPAN) as u32;
            chunks.extend((0..count).map(|start| Chunk { entry, start }));
        }
        if chunks.is_empty() {
            return Ok(None);
        }
        let owners = chunks.iter().map(|chunk| chunk.entry).collect();
        let (entries, chunks) = (device.clone_htod(&entries)?, device.clone_htod(&chunks)?);
        Ok(Some(Self { device, entries, chunks, owners }))
    }

    fn launch(&self, kernel: &str, rest: impl IntoIterator<Item = Argument>) -> Result<()> {
        let mut arguments = vec![self.entries.pointer().into(), self.chunks.pointer().into()];
        arguments.extend(rest);
        let grid = Grid { blocks: (self.owners.len(), 1), threads: THREADS, shared: 0 };
        launch(&self.device, &OPTIMIZER, kernel, grid, &arguments)
    }
}

impl Update<'_> {
    fn entry(&self) -> Result<Entry> {
        let count = self.value.elem_count();
        let place = |tensor: Option<&Tensor>| -> Result<u64> {
            let Some(tensor) = tensor else { return Ok(Pointer::NULL.0) };
            if tensor.elem_count() != count {
                bail!("an update of {:?} takes {:?}", self.value.shape(), tensor.shape());
            }
            let (guard, layout) = tensor.storage_and_layout();
            Ok(values(&guard, layout)?.0)
        };
        Ok(Entry {
            value: place(Some(self.value))?,
            gradient: place(self.gradient)?,
            running: [place(self.running.first())?, place(self.running.get(1))?],
            average: place(self.average)?,
            count: count as u64,
            numbers: self.numbers,
        })
    }
}

/// Applies the rule that `kernel` names (`adamw`, `momentum`) in place: gradients times `scale`; averages e become
/// `keep`·e + `take`·value. No two updates may share memory.
///
/// # Errors
/// Tensors of several devices, of other types than f32, of different lengths.
pub fn step(kernel: &str, updates: &[Update], scale: f32, [keep, take]: [f32; 2]) -> Result<()> {
    match Table::new(updates)? {
        Some(table) => table.launch(kernel, [scale, keep, take].map(Argument::from)),
        None => Ok(()),
    }
}

/// Σ (numbers\[0\]·value + numbers\[1\]·gradient)² of each update, in f64. Waits for the device.
///
/// # Errors
/// The errors of [`step`].
pub fn squares(updates: &[Update]) -> Result<Vec<f64>> {
    let mut sums = vec![0f64; updates.len()];
    if let Some(table) = Table::new(updates)? {
        // SAFETY: the kernel writes a sum for every chunk.
        let partial = unsafe { table.device.alloc::<f64>(table.owners.len())? };
        table.launch("squares", [partial.pointer().into()])?;
        let partial = table.device.clone_dtoh(&partial)?;
        table.owners.iter().zip(partial).for_each(|(&owner, sum)| sums[owner as usize] += sum);
    }
    Ok(sums)
}
