//! A limit that benchmarks print beside their times: what this machine needs at least to move the bytes of an operator,
//! as measured here with all threads.

use rayon::prelude::*;
use std::time::{Duration, Instant};

/// Repetitions of a measurement; the fastest counts.
pub const RUNS: usize = 20;
/// Values of a piece that one thread copies.
const PIECE: usize = 1 << 14;

/// The fastest of many runs.
pub fn fastest(runs: usize, mut run: impl FnMut()) -> Duration {
    let mut best = Duration::MAX;
    for _ in 0..runs {
        let begin = Instant::now();
        run();
        best = best.min(begin.elapsed());
    }
    best
}

/// Seconds to copy from one list of f32 to another, so that `bytes` are read and written together. A small list stays
/// in the cache, as the values of an operator of that size do.
pub fn copy_seconds(bytes: usize) -> f64 {
    let count = (bytes / 8).max(1);
    let (from, mut to) = (vec![1f32; count], vec![0f32; count]);
    let copy = || {
        to.par_chunks_mut(PIECE).zip(from.par_chunks(PIECE)).for_each(|(to, from)| to.copy_from_slice(from));
        std::hint::black_box(&mut to);
    };
    fastest(RUNS, copy).as_secs_f64()
}
