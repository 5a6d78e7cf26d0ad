//! The values of CPU tensors as slices, and loops over them that give the same bits for any number
//! of threads: pieces are cut by shape alone, and their sums are added in order.

use candle_core::{CpuStorage, DType, Layout, Result, Storage, Tensor, bail};
use rayon::prelude::*;
use std::ops::Range;

/// Number of values per task.
const CHUNK: usize = 1 << 14;
/// Number of values that are worth another thread: waking one takes as long as a cheap operator on some ten thousand
/// values.
const SHARED: usize = 2 * CHUNK;

/// The least number of `tasks` that are worth another thread if all of them together take `products` multiplications
/// and additions.
pub(super) fn least_tasks(tasks: usize, products: usize) -> usize {
    /// Some ten microseconds of a thread.
    const PRODUCTS: usize = 1 << 20;
    (tasks * PRODUCTS).div_ceil(products.max(1)).max(1)
}

/// Whether the kernels here can work on these tensors. Other tensors use candle's own operators.
pub(super) fn fused(tensors: &[&Tensor]) -> bool {
    tensors.iter().all(|t| t.device().is_cpu() && t.dtype() == DType::F32)
}

/// The values of an operator's argument, which must be contiguous.
pub(super) fn argument<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match (storage, layout.contiguous_offsets()) {
        // The offset of an empty part of a tensor may be past its end.
        (CpuStorage::F32(_), Some((start, end))) if start >= end => Ok(&[]),
        (CpuStorage::F32(values), Some((start, end))) => Ok(&values[start..end]),
        _ => bail!("expected a contiguous f32 tensor, got shape {:?}", layout.shape()),
    }
}

/// The values of a contiguous f32 CPU tensor, from its locked storage.
pub(super) fn values<'a>(storage: &'a Storage, layout: &Layout) -> Result<&'a [f32]> {
    match storage {
        Storage::Cpu(storage) => argument(storage, layout),
        _ => bail!("expected a tensor on the CPU"),
    }
}

/// Runs `task` on (rows, their values) for pieces of an [R, width] matrix, in parallel.
pub(super) fn for_rows(matrix: &mut [f32], width: usize, task: impl Fn(Range<usize>, &mut [f32]) + Sync) {
    for_rows_costing(width, matrix, width, task);
}

/// Like [`for_rows`], if computing a row costs as much as processing `work` values.
pub(super) fn for_rows_costing<T: Send>(
    work: usize,
    matrix: &mut [T],
    width: usize,
    task: impl Fn(Range<usize>, &mut [T]) + Sync,
) {
    let (width, step) = (width.max(1), rows_per_task(work));
    let run = |(i, piece): (usize, &mut [T])| task(i * step..i * step + piece.len() / width, piece);
    if matrix.len() <= step * width {
        run((0, matrix));
    } else {
        let tasks = matrix.par_chunks_mut(step * width).enumerate();
        tasks.with_min_len(least_pieces(step * work)).for_each(run);
    }
}

/// Runs `task` on (columns, their part of every row) for pieces of at most `step` columns of an
/// [R, width] matrix, in parallel.
pub(super) fn for_columns(
    matrix: &mut [f32],
    width: usize,
    step: usize,
    task: impl Fn(Range<usize>, Vec<&mut [f32]>) + Sync,
) {
    let (width, step) = (width.max(1), step.max(1));
    let rows = matrix.len() / width;
    let mut pieces: Vec<Vec<&mut [f32]>> =
        (0..width.div_ceil(step)).map(|_| Vec::with_capacity(rows)).collect();
    for row in matrix.chunks_exact_mut(width) {
        pieces.iter_mut().zip(row.chunks_mut(step)).for_each(|(piece, part)| piece.push(part));
    }
    let run = |(i, piece)| task(i * step..width.min((i + 1) * step), piece);
    pieces.into_par_iter().enumerate().for_each(run);
}

/// Number of values in an f32 tensor of this shape.
///
/// # Errors
/// The number overflows the memory that a process can address.
pub(super) fn count(name: &str, shape: &[usize]) -> Result<usize> {
    let count = shape.iter().try_fold(1usize, |count, &size| count.checked_mul(size));
    match count.filter(|&count| count <= isize::MAX as usize / size_of::<f32>()) {
        Some(count) => Ok(count),
        None => bail!("{name}: a result of shape {shape:?} overflows memory"),
    }
}

/// Sums of `width` values over `rows`: `task` adds those of a piece of the rows to zeros; the
/// pieces are added in order.
pub(super) fn sum_rows(
    rows: usize,
    width: usize,
    task: impl Fn(Range<usize>, &mut [f32]) + Sync,
) -> Vec<f32> {
    let step = rows_per_task(width);
    let mut pieces = vec![0f32; rows.div_ceil(step).max(1) * width];
    let run = |(i, sums): (usize, &mut [f32])| task(i * step..rows.min((i + 1) * step), sums);
    if rows <= step {
        run((0, &mut pieces));
        return pieces;
    }
    let tasks = pieces.par_chunks_mut(width.max(1)).enumerate();
    tasks.with_min_len(least_pieces(step * width)).for_each(run);
    let (total, rest) = pieces.split_at_mut(width);
    for sums in rest.chunks(width.max(1)) {
        total.iter_mut().zip(sums).for_each(|(total, &sum)| *total += sum);
    }
    pieces.truncate(width);
    pieces
}

/// The least number of pieces of `values` values that are worth another thread.
fn least_pieces(values: usize) -> usize {
    (SHARED / values.max(1)).max(1)
}

/// Number of rows per task. It depends on the shape alone.
fn rows_per_task(width: usize) -> usize {
    (CHUNK / width.max(1)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::sync::Mutex;

    /// Threads of a pool that work on `count` values, which take as long as `work` values each.
    fn threads_at_work(work: usize, count: usize) -> usize {
        let seen = Mutex::new(HashSet::new());
        let pool = rayon::ThreadPoolBuilder::new().num_threads(4).build().unwrap();
        pool.install(|| {
            for_rows_costing(work, &mut vec![0f32; count], 1, |_, _| {
                seen.lock().unwrap().insert(rayon::current_thread_index());
                std::thread::sleep(std::time::Duration::from_millis(5));
            });
        });
        seen.into_inner().unwrap().len()
    }

    #[test]
    fn little_work_stays_on_the_calling_thread() {
        assert_eq!(threads_at_work(1, 3 * CHUNK), 1);
        assert_eq!(threads_at_work(CHUNK / 4, 9), 1);
        assert!(threads_at_work(1, 16 * CHUNK) > 1);
        assert!(threads_at_work(5 * CHUNK, 4) > 1, "a few heavy rows");
        assert_eq!([least_tasks(4, 1 << 30), least_tasks(4, 1 << 20), least_tasks(4, 0)], [1, 4, 1 << 22]);
    }
}
