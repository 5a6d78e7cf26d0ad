//! [`Table`]: the content of a table, before it is rendered.

use crate::record::Origin;

/// A number with its spread.
#[derive(Clone, Debug, PartialEq)]
pub struct Estimate {
    pub mean: f64,
    /// Standard deviation over `n` runs (absent for one); in a difference, the standard error (absent when unknown).
    pub spread: Option<f64>,
    pub n: usize,
}

/// One number, or none, with the numbers of its footnotes (from 1).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cell {
    pub value: Option<Estimate>,
    pub marks: Vec<usize>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub origin: Origin,
    /// The difference of two rows above.
    pub difference: bool,
    /// One text for each of [`Table::keys`].
    pub keys: Vec<String>,
    /// Footnotes of the whole row.
    pub marks: Vec<usize>,
    /// One for each of [`Table::columns`].
    pub cells: Vec<Cell>,
}

/// What the renderers print.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    pub title: String,
    /// Headers of the row keys.
    pub keys: Vec<String>,
    /// Headers of the numbers.
    pub columns: Vec<String>,
    pub rows: Vec<Row>,
    /// Footnote 1 is the first.
    pub footnotes: Vec<String>,
    /// Notes on the whole table.
    pub remarks: Vec<String>,
    /// Digits after the point, for each of [`Table::columns`].
    pub decimals: Vec<usize>,
}
