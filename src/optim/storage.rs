//! The values of CPU tensors as slices, for updates in place.
//!
//! candle hands out mutable storage only inside an in-place operator; [`write`] is one that runs a
//! closure on it, so that calls nest and one loop can update a parameter and its moments together.

#[cfg(feature = "cuda")]
use crate::ops::cuda::optimizer::{self, Update};
use crate::ops::simd::{Kernel, LANES, vectorized};
use candle_core::{CpuStorage, Error, InplaceOp1, Layout, Result, Storage, Tensor, bail};
use rayon::prelude::*;
use std::cell::Cell;

/// Number of values per task: large enough to outweigh the cost of scheduling, small enough to distribute evenly.
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
            None => bail!("an in-place update ran twice"),
        }
    }
}

/// Runs `kernel` on the values of a contiguous f32 CPU tensor. `kernel` must not touch tensors that
/// share this one's storage: it is locked.
pub(super) fn write(tensor: &Tensor, kernel: impl FnOnce(&mut [f32]) -> Result<()>) -> Result<()> {
    tensor.inplace_op1(&Write(Cell::new(Some(kernel))))
}

/// Like [`write`], for several tensors at a time. No two of them may share storage.
pub(super) fn write_all<const N: usize>(
    tensors: [&Tensor; N],
    kernel: impl FnOnce([&mut [f32]; N]) -> Result<()>,
) -> Result<()> {
    fn nest<const N: usize>(
        tensors: &[&Tensor],
        locked: Vec<&mut [f32]>,
        kernel: impl FnOnce([&mut [f32]; N]) -> Result<()>,
    ) -> Result<()> {
        match tensors {
            [] => kernel(array(locked)?),
            [first, rest @ ..] => write(first, |values| {
                let mut locked: Vec<&mut [f32]> = locked; // with the shorter lifetime of `values`
                locked.push(values);
                nest(rest, locked, kernel)
            }),
        }
    }
    nest(&tensors, Vec::with_capacity(N), kernel)
}

/// Like [`write`], for a tensor that may be absent.
pub(super) fn write_some(
    tensor: Option<&Tensor>,
    kernel: impl FnOnce(Option<&mut [f32]>) -> Result<()>,
) -> Result<()> {
    match tensor {
        Some(tensor) => write(tensor, |values| kernel(Some(values))),
        None => kernel(None),
    }
}

/// Converts `items` to an array; another number of items is an error.
pub(super) fn array<T, const N: usize>(items: Vec<T>) -> Result<[T; N]> {
    let count = items.len();
    items.try_into().map_err(|_| Error::Msg(format!("got {count} tensors, expected {N}")))
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

/// ‖p‖ and ‖scale·gradient + decay·p‖ of each (p, gradient, [scale, decay]) that has a gradient, in f64.
pub(super) fn norms(pairs: &[(&Tensor, Option<&Tensor>, [f32; 2])]) -> Result<Vec<Option<[f64; 2]>>> {
    #[cfg(feature = "cuda")]
    if pairs.first().is_some_and(|(p, ..)| p.device().is_cuda()) {
        let update = |value, gradient, numbers: [f32; 2]| {
            let numbers = [numbers[0], numbers[1], 0., 0., 0., 0., 0., 0.];
            Update { value, gradient, running: &[], average: None, numbers }
        };
        let given = pairs.iter().filter(|(_, gradient, _)| gradient.is_some());
        let updates: Vec<Update> = given
            .flat_map(|&(p, gradient, [scale, decay])| {
                [update(p, None, [1., 0.]), update(p, gradient, [decay, scale])]
            })
            .collect();
        let mut sums = optimizer::squares(&updates)?.into_iter().map(f64::sqrt);
        let mut pair = || Some([sums.next()?, sums.next()?]);
        return Ok(pairs.iter().map(|(_, gradient, _)| gradient.and_then(|_| pair())).collect());
    }
    let norms = |&(p, gradient, [scale, decay]): &(&Tensor, Option<&Tensor>, [f32; 2])| {
        let Some(gradient) = gradient else { return Ok(None) };
        let sums =
            read(p, |p| read(gradient, |g| Ok(sums_of_squares(p, g, |p, g| [p, g * scale + decay * p]))))?;
        Ok(Some(sums.map(f64::sqrt)))
    };
    pairs.par_iter().map(norms).collect()
}

/// Σ x² in f64 for the `K` values x that `term` makes of each pair of values. The order of additions
/// depends on the length alone.
pub(super) fn sums_of_squares<const K: usize>(
    a: &[f32],
    b: &[f32],
    term: impl Fn(f32, f32) -> [f32; K] + Copy + Sync,
) -> [f64; K] {
    let chunk = |(a, b)| vectorized(Squares { a, b, term });
    if a.len() <= CHUNK {
        return chunk((a, b));
    }
    let sums: Vec<[f64; K]> = a.par_chunks(CHUNK).zip(b.par_chunks(CHUNK)).map(chunk).collect();
    std::array::from_fn(|k| sums.iter().map(|sum| sum[k]).sum())
}

struct Squares<'a, F> {
    a: &'a [f32],
    b: &'a [f32],
    term: F,
}

impl<const K: usize, F: Fn(f32, f32) -> [f32; K]> Kernel for Squares<'_, F> {
    type Output = [f64; K];

    #[inline(always)]
    fn run(self) -> [f64; K] {
        let Self { a, b, term } = self;
        let mut sums = [[0f64; LANES]; K];
        let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
        for (a, b) in a.iter().zip(b) {
            let mut terms = [[0f32; LANES]; K];
            for l in 0..LANES {
                let pair = term(a[l], b[l]);
                for k in 0..K {
                    terms[k][l] = pair[k];
                }
            }
            for (sums, terms) in sums.iter_mut().zip(&terms) {
                for (sum, &x) in sums.iter_mut().zip(terms) {
                    *sum += f64::from(x) * f64::from(x);
                }
            }
        }
        for (l, (&a, &b)) in a_rest.iter().zip(b_rest).enumerate() {
            let terms = term(a, b);
            for k in 0..K {
                sums[k][l] += f64::from(terms[k]) * f64::from(terms[k]);
            }
        }
        sums.map(|lanes| lanes.iter().sum())
    }
}

/// Copies the values of `source` into `live`, which keeps its storage.
pub(super) fn overwrite(live: &Tensor, source: &Tensor) -> Result<()> {
    let source = source.contiguous()?;
    if live.device().is_cpu() {
        return read(&source, |source| write(live, |live| zip(live, source, |d, s| *d = s)));
    }
    live.flatten_all()?.slice_set(&source.to_device(live.device())?.flatten_all()?, 0, 0)
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
    overwrite(live, &tensor)
}
