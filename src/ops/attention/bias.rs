//! Biases of the attention scores: relative positions.

use super::relative::Area;
use candle_core::{Result, Tensor, bail};

/// A bias that is added to the scores q·kᵀ/√d before the softmax.
#[derive(Clone, Debug)]
pub enum AttentionBias {
    /// One value for each head and pair of tokens, the same for all samples. [heads, N, N]; BEiT (arXiv:2106.08254)
    /// gathers it from its table of relative positions.
    Table(Tensor),
    /// A value for each head and offset of a query from a key, N = h·w tokens of a grid, perhaps after a class token:
    /// the table of BEiT itself, whose rows [`super::relative_offsets`] counts.
    Relative {
        /// [T, heads]
        table: Tensor,
        /// Rows and columns of the tokens.
        grid: (usize, usize),
        /// Whether a class token comes before the grid.
        class: bool,
    },
    /// A value for each query and row of keys plus one for each query and column of keys, where the N = h·w keys
    /// are a grid: the decomposed relative positions of ViTDet (arXiv:2203.16527, after arXiv:2112.01526).
    Decomposed {
        /// [B, heads, N, h]
        rows: Tensor,
        /// [B, heads, N, w]
        columns: Tensor,
    },
}

impl AttentionBias {
    pub(super) fn tensors(&self) -> (&Tensor, Option<&Tensor>) {
        match self {
            Self::Table(table) | Self::Relative { table, .. } => (table, None),
            Self::Decomposed { rows, columns } => (rows, Some(columns)),
        }
    }

    pub(super) fn check(&self, b: usize, heads: usize, n: usize) -> Result<()> {
        match self {
            Self::Table(table) if table.dims() != [heads, n, n] => {
                bail!(
                    "attention: bias {:?}, expected {:?} (heads, tokens, tokens)",
                    table.dims(),
                    [heads, n, n]
                )
            }
            Self::Relative { table, grid, class } => {
                let area = Area { size: *grid, class: *class };
                let tokens = grid.0 * grid.1 + usize::from(*class);
                if table.dims() != [area.offsets(), heads] || tokens != n {
                    let expected = [area.offsets(), heads];
                    bail!(
                        "attention: table {:?} for {n} tokens, expected {expected:?} (offsets, heads) for {tokens}",
                        table.dims()
                    );
                }
                Ok(())
            }
            Self::Decomposed { rows, columns } => {
                let ((.., h), (.., w)) = (rows.dims4()?, columns.dims4()?);
                let fits = |tensor: &Tensor, last| tensor.dims() == [b, heads, n, last];
                if !fits(rows, h) || !fits(columns, w) || h * w != n {
                    bail!(
                        "attention: bias of rows {:?} and of columns {:?} for {b} samples, {heads} heads, {n} tokens",
                        rows.dims(),
                        columns.dims()
                    );
                }
                Ok(())
            }
            Self::Table(_) => Ok(()),
        }
    }

    /// One value for each pair of tokens. [heads, N, N] or [B, heads, N, N]
    pub(super) fn whole(&self) -> Result<Tensor> {
        match self {
            Self::Table(table) => Ok(table.clone()),
            Self::Relative { table, grid, class } => Area { size: *grid, class: *class }.gather(table),
            Self::Decomposed { rows, columns } => {
                let sum = rows.unsqueeze(4)?.broadcast_add(&columns.unsqueeze(3)?)?; // [B, heads, N, h, w]
                sum.flatten_from(3)
            }
        }
    }
}

/// The values of a bias.
#[derive(Clone, Copy)]
pub(in crate::ops) enum Offsets<'a> {
    None,
    Table(&'a [f32]),
    Decomposed {
        rows: &'a [f32],
        columns: &'a [f32],
        grid: (usize, usize),
    },
    /// A list per head of [`Area::lists`], the same for all samples.
    Relative {
        lists: &'a [f32],
        area: Area,
    },
}

impl Offsets<'_> {
    /// Whether the samples share the bias of a head.
    pub(super) fn shared(&self) -> bool {
        matches!(self, Self::Table(_) | Self::Relative { .. })
    }

    /// Adds the bias of `head` (counted over all samples where those differ) to scores of queries from `start` on,
    /// whose rows are `stride` apart.
    pub(super) fn add(&self, scores: &mut [f32], stride: usize, n: usize, head: usize, start: usize) {
        match *self {
            Self::None => {}
            Self::Table(table) => {
                for (i, scores) in scores.chunks_exact_mut(stride).enumerate() {
                    let bias = &table[(head * n + start + i) * n..][..n];
                    scores.iter_mut().zip(bias).for_each(|(score, &bias)| *score += bias);
                }
            }
            Self::Relative { lists, area } => {
                let list = &lists[head * area.offsets()..][..area.offsets()];
                for (i, scores) in scores.chunks_exact_mut(stride).enumerate() {
                    area.add(list, start + i, &mut scores[..n]);
                }
            }
            Self::Decomposed { rows, columns, grid: (h, w) } => {
                for (i, scores) in scores.chunks_exact_mut(stride).enumerate() {
                    let query = head * n + start + i;
                    let columns = &columns[query * w..][..w];
                    for (scores, &row) in scores.chunks_exact_mut(w).zip(&rows[query * h..][..h]) {
                        scores.iter_mut().zip(columns).for_each(|(score, &column)| *score += row + column);
                    }
                }
            }
        }
    }

    /// Adds the contribution of the gradient `ds` of the scores to the gradient of the bias of one head: `first` [N, N]
    /// of a table or `[T]` of a list, or `first` [N, h] and `second` [N, w].
    pub(super) fn collect(
        &self,
        ds: &[f32],
        stride: usize,
        n: usize,
        start: usize,
        first: &mut [f32],
        second: &mut [f32],
    ) {
        match *self {
            Self::None => {}
            Self::Table(_) => {
                for (ds, sums) in ds.chunks_exact(stride).zip(first[start * n..].chunks_exact_mut(n)) {
                    sums.iter_mut().zip(ds).for_each(|(sum, &ds)| *sum += ds);
                }
            }
            Self::Relative { area, .. } => {
                for (i, ds) in ds.chunks_exact(stride).enumerate() {
                    area.collect(&ds[..n], start + i, first);
                }
            }
            Self::Decomposed { grid: (h, w), .. } => {
                let rows = first[start * h..].chunks_exact_mut(h);
                let columns = second[start * w..].chunks_exact_mut(w);
                for (ds, (rows, columns)) in ds.chunks_exact(stride).zip(rows.zip(columns)) {
                    for (ds, row) in ds.chunks_exact(w).zip(rows) {
                        *row += ds.iter().sum::<f32>();
                        columns.iter_mut().zip(ds).for_each(|(sum, &ds)| *sum += ds);
                    }
                }
            }
        }
    }
}
