//! Rows and cells of a table while it is built: sortable, and with notes that have no numbers yet.

use super::content::Estimate;
use super::statistics::Run;
use crate::config::ReconstructionTarget;
use crate::record::Origin;

/// A cell whose notes are not yet numbered.
#[derive(Clone, Debug, Default)]
pub(super) struct Draft {
    pub value: Option<Estimate>,
    /// The runs behind the value, if it is ours.
    pub runs: Vec<Run>,
    /// The target of the pre-training of the initial weights, if known.
    pub target: Option<ReconstructionTarget>,
    pub notes: Vec<String>,
    /// The marks of the records behind it ([`RunRecord::marks`](crate::record::RunRecord::marks)).
    pub marks: Vec<String>,
}

impl Draft {
    /// Adds a note, unless it is present.
    pub(crate) fn note(&mut self, text: impl Into<String>) {
        let text = text.into();
        if !self.notes.contains(&text) {
            self.notes.push(text);
        }
    }
}

/// Identity of a row; rows are sorted by it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct RowKey {
    /// For each key: rank in the filter, value as a number (the largest one if it is text), text.
    pub keys: Vec<(usize, u64, String)>,
    pub variant: String,
    pub origin: Origin,
    /// Position in `references` of the specification, and the citation.
    pub place: (usize, String),
}

/// A row whose notes are not yet numbered.
#[derive(Clone, Debug)]
pub(super) struct DraftRow {
    pub key: RowKey,
    pub difference: bool,
    /// In a comparison with our runs: the origin of the other number.
    pub against: Option<Origin>,
    pub cells: Vec<Draft>,
}
