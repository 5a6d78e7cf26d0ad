//! Relative positions on a grid of tokens: the table of BEiT (arXiv:2106.08254), and windows.
//!
//! A table [T, heads] has a row for every offset of a query from a key, T = (2h − 1)·(2w − 1), and three more where a
//! class token stands before the grid: class to token, token to class, class to class (BEiT `modeling_finetune.py`).
//! The kernels read rows of keys as slices of the table and never make the [N, N] values of a head.

use super::rotary::Rotary;
use crate::ops::index_select::index_select;
use candle_core::{Result, Tensor, bail};

/// Which tokens attend to each other, and the relative position bias that is added to their scores.
#[derive(Clone, Copy, Debug, Default)]
pub struct AttentionWindow<'a> {
    /// Rows and columns of the tokens. If there is one more token, it is the class token and comes first.
    pub grid: (usize, usize),
    /// Side of the square windows within which tokens attend; `None` for global attention.
    pub side: Option<usize>,
    /// Table of relative position biases of a window, or of the grid: [T, heads] with T of [`relative_offsets`].
    pub table: Option<&'a Tensor>,
    /// Rotations of queries and keys; they cannot be combined with a table.
    pub rotary: Option<&'a Rotary>,
}

impl AttentionWindow<'_> {
    /// The tokens of one softmax, for samples of `n` tokens.
    pub(in crate::ops) fn area(&self, n: usize, heads: usize) -> Result<Area> {
        let (h, w) = self.grid;
        let class = n == h * w + 1;
        if n != h * w && !class {
            bail!("attention: {n} tokens for a {h}×{w} grid");
        }
        let size = match self.side {
            Some(0) => bail!("attention: windows of size 0"),
            Some(_) if class => bail!("attention: windowed attention does not support a class token"),
            Some(side) => (side, side),
            None => self.grid,
        };
        let area = Area { size, class };
        match self.table {
            Some(_) if self.rotary.is_some() => {
                bail!("attention: a table of relative positions cannot be combined with rotations")
            }
            Some(table) if table.dims() != [area.offsets(), heads] => {
                let expected = [area.offsets(), heads];
                bail!(
                    "attention: table {:?}, expected {expected:?} (offsets, heads) for {size:?}",
                    table.dims()
                )
            }
            _ => Ok(area),
        }
    }
}

/// The tokens of one softmax: a grid, perhaps with a class token before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::ops) struct Area {
    pub(in crate::ops) size: (usize, usize),
    pub(in crate::ops) class: bool,
}

impl Area {
    /// Rows of a table.
    pub(in crate::ops) fn offsets(self) -> usize {
        relative_offsets(self.size, self.class)
    }

    /// Offsets within the grid.
    fn inner(self) -> usize {
        relative_offsets(self.size, false)
    }

    /// The row of the table for every query and key. `[N²]`
    fn rows(self) -> Vec<u32> {
        let (h, w) = self.size;
        let (skip, inner) = (usize::from(self.class), self.inner());
        let n = h * w + skip;
        let row = |i: usize| {
            let (query, key) = (i / n, i % n);
            match (query < skip, key < skip) {
                (true, true) => inner + 2,
                (false, true) => inner + 1,
                (true, false) => inner,
                (false, false) => {
                    let (query, key) = (query - skip, key - skip);
                    let (down, right) = (query / w + h - 1 - key / w, query % w + w - 1 - key % w);
                    down * (2 * w - 1) + right
                }
            }
        };
        (0..n * n).map(|i| row(i) as u32).collect()
    }

    /// The values of `table` [T, heads] for every query and key. [heads, N, N]
    pub(in crate::ops) fn gather(self, table: &Tensor) -> Result<Tensor> {
        let (rows, heads) = (self.rows(), table.dim(1)?);
        let n = rows.len().isqrt();
        index_select(table, &rows)?.reshape((n, n, heads))?.permute((2, 0, 1))?.contiguous()
    }

    /// `table` [T, heads] for the kernels: a list a head, offsets of the grid in reverse, so that the keys of a row
    /// take a slice in order; then those of the class token. [heads, T]
    pub(in crate::ops) fn lists(self, table: &[f32], heads: usize) -> Vec<f32> {
        let places = self.places();
        (0..heads).flat_map(|head| places.iter().map(move |&row| table[row * heads + head])).collect()
    }

    /// The inverse of [`Area::lists`], for gradients.
    pub(in crate::ops) fn table(self, lists: &[f32], heads: usize) -> Vec<f32> {
        let places = self.places();
        let mut table = vec![0f32; lists.len()];
        for (head, list) in lists.chunks_exact(places.len()).enumerate() {
            for (&row, &value) in places.iter().zip(list) {
                table[row * heads + head] = value;
            }
        }
        table
    }

    fn places(self) -> Vec<usize> {
        (0..self.inner()).rev().chain(self.inner()..self.offsets()).collect()
    }

    /// Adds a head's `list` to the `scores` of a query, one a key.
    pub(super) fn add(self, list: &[f32], query: usize, scores: &mut [f32]) {
        let [mut keys, class] = self.split(scores);
        let extra = &list[self.inner()..];
        if self.class && query == 0 {
            keys.iter_mut().for_each(|score| *score += extra[0]);
            class.iter_mut().for_each(|score| *score += extra[2]);
            return;
        }
        class.iter_mut().for_each(|score| *score += extra[1]);
        for start in self.slices(query) {
            let (row, rest) = std::mem::take(&mut keys).split_at_mut(self.size.1);
            row.iter_mut().zip(&list[start..]).for_each(|(score, &bias)| *score += bias);
            keys = rest;
        }
    }

    /// Adds the gradient of the scores of a query to that of the list.
    pub(super) fn collect(self, ds: &[f32], query: usize, list: &mut [f32]) {
        let skip = usize::from(self.class);
        let (class, keys) = ds.split_at(skip);
        let inner = self.inner();
        if self.class && query == 0 {
            list[inner] += keys.iter().sum::<f32>();
            list[inner + 2] += class[0];
            return;
        }
        if self.class {
            list[inner + 1] += class[0];
        }
        for (start, ds) in self.slices(query).zip(keys.chunks_exact(self.size.1)) {
            list[start..].iter_mut().zip(ds).for_each(|(sum, &ds)| *sum += ds);
        }
    }

    /// Keys of the grid, and the class token.
    fn split(self, scores: &mut [f32]) -> [&mut [f32]; 2] {
        let (class, keys) = scores.split_at_mut(usize::from(self.class));
        [keys, class]
    }

    /// The start of the slice of a list for each row of keys, for a query of the grid.
    fn slices(self, query: usize) -> impl Iterator<Item = usize> {
        let (h, w) = self.size;
        let query = query - usize::from(self.class);
        let (y, x) = (query / w, query % w);
        (0..h).map(move |key| (key + h - 1 - y) * (2 * w - 1) + w - 1 - x)
    }
}

/// Rows of a table of relative positions for a grid, with or without a class token before it.
pub fn relative_offsets((h, w): (usize, usize), class: bool) -> usize {
    (2 * h).saturating_sub(1) * (2 * w).saturating_sub(1) + if class { 3 } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// BEiT's index for a 2×2 grid with class token, written out by hand.
    #[test]
    fn rows_are_those_of_beit() {
        let area = Area { size: (2, 2), class: true };
        assert_eq!(area.offsets(), 12);
        let expected =
            [[11, 9, 9, 9, 9], [10, 4, 3, 1, 0], [10, 5, 4, 2, 1], [10, 7, 6, 4, 3], [10, 8, 7, 5, 4]];
        assert_eq!(area.rows(), expected.concat());
    }

    #[test]
    fn slices_of_lists_are_rows_of_the_table() {
        for (size, class) in [((2, 3), false), ((3, 2), true), ((1, 4), true), ((1, 1), false)] {
            let area = Area { size, class };
            let (heads, n) = (2, size.0 * size.1 + usize::from(class));
            let table: Vec<f32> = (0..area.offsets() * heads).map(|i| i as f32).collect();
            let lists = area.lists(&table, heads);
            assert_eq!(area.table(&lists, heads), table);
            let rows = area.rows();
            for (head, list) in lists.chunks_exact(area.offsets()).enumerate() {
                let mut sums = vec![0f32; list.len()];
                for query in 0..n {
                    let mut scores = vec![0f32; n];
                    area.add(list, query, &mut scores);
                    let wanted = rows[query * n..][..n].iter().map(|&row| table[row as usize * heads + head]);
                    assert_eq!(scores, wanted.collect::<Vec<_>>(), "{size:?}, query {query}");
                    area.collect(&vec![1.; n], query, &mut sums);
                }
                assert_eq!(sums.iter().sum::<f32>(), (n * n) as f32);
            }
        }
    }
}
