//! [`Table`]: the content of a table, before it is rendered.

use crate::record::Origin;

/// A number with its spread.
#[derive(Clone, Debug, PartialEq)]
pub struct Estimate {
    /// Mean over `n` runs.
    pub mean: f64,
    /// Standard deviation over `n` runs (`None` for one run); for a difference, the standard error (`None` if unknown).
    pub spread: Option<f64>,
    /// Number of runs.
    pub n: usize,
}

/// A cell: a number or nothing, with footnotes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cell {
    /// The number; `None` if there is none.
    pub value: Option<Estimate>,
    /// Numbers of its footnotes, from 1.
    pub marks: Vec<usize>,
}

/// A row.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The origin of its numbers.
    pub origin: Origin,
    /// Whether it is the difference of two other rows.
    pub difference: bool,
    /// One text for each of [`Table::keys`].
    pub keys: Vec<String>,
    /// Numbers of the footnotes of the whole row, from 1.
    pub marks: Vec<usize>,
    /// One cell for each of [`Table::columns`].
    pub cells: Vec<Cell>,
}

/// A table, ready to be rendered.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    /// Title above the table.
    pub title: String,
    /// Headers of the row keys.
    pub keys: Vec<String>,
    /// Headers of the columns of numbers.
    pub columns: Vec<String>,
    /// The rows, from top to bottom.
    pub rows: Vec<Row>,
    /// Texts of the footnotes, starting with footnote 1.
    pub footnotes: Vec<String>,
    /// Remarks on the whole table.
    pub remarks: Vec<String>,
    /// Number of decimals for each of [`Table::columns`].
    pub decimals: Vec<usize>,
}
