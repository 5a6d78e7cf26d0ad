//! Rows and cells of a table while it is built: sortable, and with notes that have no numbers yet.

use super::content::Estimate;
use crate::config::ReconstructionTarget;
use crate::record::Origin;

/// A cell whose notes are not yet numbered.
#[derive(Clone, Debug, Default)]
pub(super) struct Draft {
    pub value: Option<Estimate>,
    /// Squared standard error of the mean, where known.
    pub variance: Option<f64>,
    /// What the pre-training of the initial weights predicted, where that is known.
    pub target: Option<ReconstructionTarget>,
    pub notes: Vec<String>,
}

impl Draft {
    /// Adds a note, unless it is there already.
    pub fn note(&mut self, text: impl Into<String>) {
        let text = text.into();
        if !self.notes.contains(&text) {
            self.notes.push(text);
        }
    }
}

/// What makes a row, in the order of rows.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct RowKey {
    /// Rank in the filter, number or the largest, text.
    pub keys: Vec<(usize, u64, String)>,
    pub variant: String,
    pub origin: Origin,
    /// Position in the specification's `references`, and text.
    pub place: (usize, String),
}

#[derive(Clone, Debug)]
pub(super) struct DraftRow {
    pub key: RowKey,
    pub difference: bool,
    /// Of a comparison with ours: the origin of the other number.
    pub against: Option<Origin>,
    pub cells: Vec<Draft>,
}
