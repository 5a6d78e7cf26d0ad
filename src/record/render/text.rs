//! Numbers, headers and footnote marks as text, the same for every format.

use crate::record::table::{Cell, Row, Table};

/// Shown where there is no number.
const ABSENT: &str = "–";
/// Shown where there are no rows.
pub(super) const EMPTY: &str = "No runs yet.";

/// `83.6`, `83.6 (eval 0.9)`, `83.6 ± 0.1 (n=3)`, `83.6 ± 0.1 (3×2)`, `+9.6 ± 1.2 (eval 0.9)` or `–`, without footnote marks.
fn number(digits: usize, row: &Row, cell: &Cell) -> String {
    let Some(value) = &cell.value else { return ABSENT.into() };
    let mut text = fixed(value.mean, digits);
    if row.difference && value.mean > 0. {
        text.insert(0, '+');
    }
    if let Some(spread) = value.spread {
        text.push_str(&format!(" ± {}", fixed(spread, digits)));
    }
    let behind = match (row.difference, value.counts()) {
        (true, _) => None,
        (false, Some(counts)) => Some(counts),
        (false, None) => (value.n > 1).then(|| format!("n={}", value.n)),
    };
    let evaluation = value.evaluation.map(|error| format!("eval {}", fixed(error, digits)));
    let behind: Vec<String> = behind.into_iter().chain(evaluation).collect();
    if !behind.is_empty() {
        text.push_str(&format!(" ({})", behind.join(", ")));
    }
    text
}

/// Fixed-point text with a typographic minus, and without the minus of a rounded zero.
pub(super) fn fixed(value: f64, digits: usize) -> String {
    let text = format!("{value:.digits$}");
    match text.strip_prefix('-') {
        Some(rest) if rest.chars().all(|c| matches!(c, '0' | '.')) => rest.to_string(),
        Some(rest) => format!("−{rest}"),
        None => text,
    }
}

/// The header texts, keys first.
pub(super) fn headers(table: &Table) -> impl Iterator<Item = &str> {
    table.keys.iter().chain(&table.columns).map(String::as_str)
}

/// The texts of a row as (text, marks), keys first; the marks of the row are placed at its last key.
pub(super) fn texts<'a>(table: &'a Table, row: &'a Row) -> impl Iterator<Item = (String, &'a [usize])> {
    let last = row.keys.len() - 1;
    let keys = row.keys.iter().enumerate().map(move |(i, key)| {
        let marks = if i == last { row.marks.as_slice() } else { &[] };
        (one_line(key), marks)
    });
    let cells = row.cells.iter().zip(&table.decimals);
    keys.chain(cells.map(move |(cell, digits)| (number(*digits, row, cell), cell.marks.as_slice())))
}

/// `1,2`
pub(super) fn marks(marks: &[usize]) -> String {
    marks.iter().map(usize::to_string).collect::<Vec<_>>().join(",")
}

/// Replaces line breaks and runs of spaces by single spaces.
pub(super) fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
