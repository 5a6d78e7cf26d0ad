//! Attention windows, rotations and relative position biases of a block: windows, tables (BEiT, arXiv:2106.08254) and decomposed
//! vectors (ViTDet, arXiv:2203.16527; detectron2 `modeling/backbone/utils.py`). All of them start at 0, so that new
//! ones have no effect at first. Vectors are not interpolated, because the size of the input is always that of the
//! model.

use crate::ops::{self, Rotary, relative_offsets};
use candle_core::{Result, Tensor};
use candle_nn::{Init, VarBuilder};

/// The end of the name of a table.
const TABLE: &str = "relative_position_bias_table";

/// Whether a parameter is one of relative positions: absent from pre-trained weights without them.
pub(crate) fn is_relative_position(name: &str) -> bool {
    matches!(name.rsplit('.').next(), Some(TABLE | "rel_pos_h" | "rel_pos_w"))
}

/// The relative position bias that is added to the scores of attention.
#[derive(Clone, Debug)]
pub enum RelativePositionBias {
    /// No bias.
    None,
    /// [T, heads], of one block or of many.
    Table(Tensor),
    /// A vector for every offset of rows, and of columns. [2·size − 1, C/heads] each
    Decomposed {
        /// Vectors of offsets between rows.
        rows: Tensor,
        /// Vectors of offsets between columns.
        columns: Tensor,
    },
}

impl RelativePositionBias {
    /// The table `relative_position_bias_table` of an area of tokens, with or without a class token before it.
    pub fn table(area: (usize, usize), class: bool, heads: usize, vb: &VarBuilder) -> Result<Self> {
        let shape = (relative_offsets(area, class), heads);
        Ok(Self::Table(vb.get_with_hints(shape, TABLE, Init::Const(0.))?))
    }

    /// `rel_pos_h` and `rel_pos_w` of heads with `width` channels.
    pub fn decomposed(area: (usize, usize), width: usize, vb: &VarBuilder) -> Result<Self> {
        let get = |size: usize, name| vb.get_with_hints((2 * size - 1, width), name, Init::Const(0.));
        Ok(Self::Decomposed { rows: get(area.0, "rel_pos_h")?, columns: get(area.1, "rel_pos_w")? })
    }
}

/// The attention windows and the positions in the attention of one block.
#[derive(Clone, Debug)]
pub struct AttentionPattern {
    /// Rows and columns of the tokens.
    pub grid: (usize, usize),
    /// Side of the square windows; `None` for global attention.
    pub window: Option<usize>,
    /// Added to the scores.
    pub relative: RelativePositionBias,
    /// Rotations of queries and keys; only without a bias.
    pub rotary: Option<Rotary>,
}

/// The biases of the queries `q` [B, heads, h·w, d] for every row and every column of keys of an area (h, w), from the
/// vectors [2·h − 1, d] and [2·w − 1, d] -> [B, heads, h·w, h] and [B, heads, h·w, w]. Queries are not scaled.
pub(super) fn decomposed_bias(
    q: &Tensor,
    rows: &Tensor,
    columns: &Tensor,
    (h, w): (usize, usize),
) -> Result<[Tensor; 2]> {
    let (b, heads, n, d) = q.dims4()?;
    let q = q.reshape((b * heads, h, w, d))?;
    let by_row = q.transpose(0, 1)?.reshape((h, b * heads * w, d))?; // queries of a row together
    let by_column = q.permute((2, 0, 1, 3))?.reshape((w, b * heads * h, d))?;
    let of_rows = by_row.matmul(&vectors(rows, h)?)?; // [h, B·heads·w, h]
    let of_columns = by_column.matmul(&vectors(columns, w)?)?; // [w, B·heads·h, w]
    let of_rows = of_rows.reshape((h, b * heads, w, h))?.transpose(0, 1)?.contiguous()?;
    let of_columns = of_columns.reshape((w, b * heads, h, w))?.permute((1, 2, 0, 3))?.contiguous()?;
    Ok([of_rows.reshape((b, heads, n, h))?, of_columns.reshape((b, heads, n, w))?])
}

/// The vectors [2·size − 1, d] of every pair of places: row query − key + size − 1. [size, d, size]
fn vectors(table: &Tensor, size: usize) -> Result<Tensor> {
    let (_, d) = table.dims2()?;
    let rows: Vec<u32> = (0..size * size).map(|i| (i / size + size - 1 - i % size) as u32).collect();
    ops::index_select(table, &rows)?.reshape((size, size, d))?.transpose(1, 2)?.contiguous()
}
