//! The values of CPU tensors as slices, for updates in place.
//!
//! candle hands out mutable storage only inside an in-place operator; [`write`] is one that runs a
//! closure on it, so that calls nest and one loop can update a parameter and its moments together.

use candle_core::{CpuStorage, InplaceOp1, Layout, Result, Storage, Tensor, bail};
use rayon::prelude::*;
use std::cell::Cell;

/// Values a task works on: large enough to pay for the hand-over, small enough to share out.
/// Fixed, so that sums do not depend on the number of threads.
pub(super) const CHUNK: usize = 1 << 14;

struct Write<F>(Cell<Option<F>>);

impl<F: FnOnce(&mut [f32]) -> Result<()>> InplaceOp1 for Write<F> {
    fn name(&self) -> &'static str {
        "write"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let (CpuStorage::F32(values), Some((start, end))) = (storage, layout.contiguous_offsets()) else {
            bail!("an update in place needs a contiguous f32 tensor, got shape {:?}", layout.shape())
        };
        match self.0.take() {
            Some(kernel) => kernel(&mut values[start..end]),
            None => bail!("an update in place ran twice"),
        }
    }
}

/// Runs `kernel` on the values of a contiguous f32 CPU tensor. `kernel` must not touch tensors that
/// share this one's storage: it is locked.
pub(super) fn write(tensor: &Tensor, kernel: impl FnOnce(&mut [f32]) -> Result<()>) -> Result<()> {
    tensor.inplace_op1(&Write(Cell::new(Some(kernel))))
}

/// Runs `kernel` on the values of a contiguous f32 CPU tensor.
pub(super) fn read<T>(tensor: &Tensor, kernel: impl FnOnce(&[f32]) -> Result<T>) -> Result<T> {
    let (storage, layout) = tensor.storage_and_layout();
    match (&*storage, layout.contiguous_offsets()) {
        (Storage::Cpu(CpuStorage::F32(values)), Some((start, end))) => kernel(&values[start..end]),
        _ => bail!(
            "expected a contiguous f32 tensor on the CPU, got {:?} {:?} on {:?}",
            tensor.dtype(),
            tensor.shape(),
            tensor.device().location()
        ),
    }
}

/// Applies `update` to every value, in parallel.
pub(super) fn map(values: &mut [f32], update: impl Fn(&mut f32) + Sync) {
    if values.len() <= CHUNK {
        values.iter_mut().for_each(update);
    } else {
        values.par_chunks_mut(CHUNK).for_each(|chunk| chunk.iter_mut().for_each(&update));
    }
}

/// Applies `update` to (destination, source) in chunks, in parallel.
pub(super) fn zip(
    destination: &mut [f32],
    source: &[f32],
    update: impl Fn(&mut f32, f32) + Sync,
) -> Result<()> {
    same_length(destination.len(), source.len())?;
    let chunk = |(destination, source): (&mut [f32], &[f32])| {
        destination.iter_mut().zip(source).for_each(|(d, &s)| update(d, s));
    };
    if destination.len() <= CHUNK {
        chunk((destination, source));
    } else {
        destination.par_chunks_mut(CHUNK).zip(source.par_chunks(CHUNK)).for_each(chunk);
    }
    Ok(())
}

/// Σ x², in f64. The order of additions depends on the length alone.
pub(super) fn sum_of_squares(values: &[f32]) -> f64 {
    let chunk = |values: &[f32]| {
        let mut lanes = [0f64; 16];
        let (groups, rest) = values.as_chunks::<16>();
        for group in groups {
            for (lane, &x) in lanes.iter_mut().zip(group) {
                *lane += f64::from(x) * f64::from(x);
            }
        }
        lanes.iter().sum::<f64>() + rest.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>()
    };
    if values.len() <= CHUNK {
        return chunk(values);
    }
    values.par_chunks(CHUNK).map(chunk).collect::<Vec<f64>>().iter().sum()
}

pub(super) fn same_length(destination: usize, source: usize) -> Result<()> {
    if destination != source {
        bail!("an update in place of {destination} values got {source} values");
    }
    Ok(())
}

/// Copies the saved tensor `name` into `live`, which keeps its storage.
pub(super) fn restore(
    live: &Tensor,
    name: &str,
    saved: &dyn Fn(&str) -> Option<Tensor>,
    what: &str,
) -> Result<()> {
    let Some(tensor) = saved(name) else { bail!("{what}: no tensor `{name}` in the saved state") };
    if tensor.shape() != live.shape() || tensor.dtype() != live.dtype() {
        bail!(
            "{what}: saved tensor `{name}` is {:?} {:?}, expected {:?} {:?}",
            tensor.dtype(),
            tensor.dims(),
            live.dtype(),
            live.dims()
        );
    }
    let tensor = tensor.contiguous()?;
    read(&tensor, |source| write(live, |live| zip(live, source, |d, s| *d = s)))
}
