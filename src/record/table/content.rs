//! [`Table`]: the content of a table, before it is rendered.

use crate::record::Origin;

/// A number with its errors.
#[derive(Clone, Debug, PartialEq)]
pub struct Estimate {
    /// Mean over runs, in which every pre-training counts the same.
    pub mean: f64,
    /// Standard deviation over pre-trainings or, without pre-training, over runs; for a difference, the standard error over
    /// pre-trainings and seeds. `None` if there is only one.
    pub spread: Option<f64>,
    /// For a difference and for a single run, the standard error by the size of the evaluation split; `None` if unknown.
    pub evaluation: Option<f64>,
    /// Number of pre-trainings behind the runs; `None` for random initial weights and for numbers of others.
    pub pretrainings: Option<usize>,
    /// Number of runs; for a difference, of pairs.
    pub n: usize,
}

impl Estimate {
    /// A number about which nothing else is known.
    pub fn exact(mean: f64) -> Self {
        Self { mean, spread: None, evaluation: None, pretrainings: None, n: 1 }
    }

    /// Number of independent values behind the mean of a cell that is not a difference: pre-trainings, otherwise runs.
    pub(super) fn independent(&self) -> usize {
        self.pretrainings.unwrap_or(self.n)
    }

    /// The squared standard error of the mean of a cell that is not a difference; `None` without a spread.
    pub(super) fn variance(&self) -> Option<f64> {
        self.spread.map(|spread| spread * spread / self.independent() as f64)
    }

    /// `3×2`: pre-trainings, and transfers from each of them; `5 from 3`: runs and pre-trainings, if the transfers cannot
    /// be equally many. `None` without pre-training.
    pub(crate) fn counts(&self) -> Option<String> {
        let pretrainings = self.pretrainings?;
        let whole = self.n.is_multiple_of(pretrainings.max(1));
        Some(match whole {
            true => format!("{pretrainings}×{}", self.n / pretrainings.max(1)),
            false => format!("{} from {pretrainings}", self.n),
        })
    }
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
