//! Memory of panels: at cache lines, and kept for later products.

use std::sync::{Mutex, PoisonError};

/// A cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u32; WORDS]);

/// Words in a cache line.
const WORDS: usize = 16;
/// Most lines that are kept: 32 MiB.
const KEPT: usize = 1 << 19;

/// Buffers that no product uses now, sorted by length. Without them every product would ask the allocator for megabytes
/// and fill them with zeros, only to overwrite them.
static FREE: Mutex<Vec<Vec<Line>>> = Mutex::new(vec![]);

/// A buffer of words, the first at the start of a cache line: a vector that crosses a cache line takes twice as long
/// to load.
#[derive(Default)]
pub(super) struct Words {
    lines: Vec<Line>,
    count: usize,
}

impl Words {
    /// Makes it `count` words of any value.
    pub(super) fn resize(&mut self, count: usize) {
        let lines = count.div_ceil(WORDS);
        if self.lines.len() < lines {
            put(std::mem::take(&mut self.lines));
            self.lines = take(lines);
        }
        self.count = count;
    }
}

impl std::ops::Deref for Words {
    type Target = [u32];

    fn deref(&self) -> &[u32] {
        let (first, count) = (self.lines.as_ptr().cast(), self.lines.len() * WORDS);
        // SAFETY: a line is that many words without padding.
        let words = unsafe { std::slice::from_raw_parts(first, count) };
        &words[..self.count]
    }
}

impl std::ops::DerefMut for Words {
    fn deref_mut(&mut self) -> &mut [u32] {
        let (first, count) = (self.lines.as_mut_ptr().cast(), self.lines.len() * WORDS);
        // SAFETY: a line is that many words without padding.
        let words = unsafe { std::slice::from_raw_parts_mut(first, count) };
        &mut words[..self.count]
    }
}

impl Drop for Words {
    fn drop(&mut self) {
        put(std::mem::take(&mut self.lines));
    }
}

/// A buffer of at least `count` lines.
fn take(count: usize) -> Vec<Line> {
    let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
    let found = fitting(&free, count).map(|place| free.remove(place));
    drop(free);
    found.unwrap_or_else(|| vec![Line([0; WORDS]); count])
}

/// The smallest of `free` that has `count` lines, unless it is so large that it should wait for a larger operand.
fn fitting(free: &[Vec<Line>], count: usize) -> Option<usize> {
    let place = free.partition_point(|lines| lines.len() < count);
    free.get(place).filter(|lines| lines.len() <= 4 * count.max(64)).map(|_| place)
}

/// Keeps a buffer, or frees it if enough are kept.
fn put(lines: Vec<Line>) {
    if lines.is_empty() {
        return;
    }
    let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
    if free.iter().map(Vec::len).sum::<usize>() + lines.len() <= KEPT {
        let place = free.partition_point(|other| other.len() < lines.len());
        free.insert(place, lines);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_begin_at_a_cache_line() {
        for count in [1, 15, 16, 17, 1000] {
            let mut words = Words::default();
            words.resize(count);
            words.fill(7);
            assert!(words.len() == count && words.as_ptr().addr() % size_of::<Line>() == 0);
            words.resize(2 * count);
            assert!(words.len() == 2 * count && words.as_ptr().addr() % size_of::<Line>() == 0);
        }
        assert!(Words::default().is_empty());
    }

    #[test]
    fn a_buffer_fits_if_it_is_large_enough_and_not_far_too_large() {
        let free = [10, 300, 5000].map(|count| vec![Line([0; WORDS]); count]);
        let expected = [
            (1, Some(0)),
            (11, None),
            (80, Some(1)),
            (300, Some(1)),
            (301, None),
            (1300, Some(2)),
            (5001, None),
        ];
        for (count, place) in expected {
            assert_eq!(fitting(&free, count), place, "{count} lines");
        }
    }
}
