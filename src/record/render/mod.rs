//! A [`Table`] as text: for the terminal, Markdown, CSV and LaTeX, and inside a README.

mod csv;
mod latex;
mod markdown;
pub mod readme;
mod terminal;
#[cfg(test)]
mod tests;

use super::table::{Cell, Row, Table};

/// What to render to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    #[default]
    Terminal,
    Markdown,
    /// One line a cell, numbers in full.
    Csv,
    /// For `\usepackage{booktabs}`.
    Latex,
}

impl Format {
    pub const NAMES: [&str; 4] = ["terminal", "markdown", "csv", "latex"];
}

impl std::str::FromStr for Format {
    type Err = String;
    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "terminal" => Ok(Self::Terminal),
            "markdown" => Ok(Self::Markdown),
            "csv" => Ok(Self::Csv),
            "latex" => Ok(Self::Latex),
            _ => Err(format!("unknown format `{name}`; known: {}", Self::NAMES.join(", "))),
        }
    }
}

/// The text of `table`; ends with a line break.
pub fn render(table: &Table, format: Format) -> String {
    match format {
        Format::Terminal => terminal::render(table),
        Format::Markdown => markdown::render(table),
        Format::Csv => csv::render(table),
        Format::Latex => latex::render(table),
    }
}

/// Shown where there is no number.
const ABSENT: &str = "–";
/// Shown where there are no rows.
const EMPTY: &str = "No runs yet.";

/// `83.6`, `83.6 ± 0.1 (n=3)`, `+9.6 ± 1.2` or `–`, without footnote marks.
fn number(digits: usize, row: &Row, cell: &Cell) -> String {
    let Some(value) = &cell.value else { return ABSENT.into() };
    let mut text = fixed(value.mean, digits);
    if row.difference && value.mean > 0. {
        text.insert(0, '+');
    }
    if let Some(spread) = value.spread {
        text.push_str(&format!(" ± {}", fixed(spread, digits)));
    }
    if !row.difference && value.n > 1 {
        text.push_str(&format!(" (n={})", value.n));
    }
    text
}

/// Fixed-point text with a typographic minus, and without the minus of a rounded zero.
fn fixed(value: f64, digits: usize) -> String {
    let text = format!("{value:.digits$}");
    match text.strip_prefix('-') {
        Some(rest) if rest.chars().all(|c| matches!(c, '0' | '.')) => rest.to_string(),
        Some(rest) => format!("−{rest}"),
        None => text,
    }
}

/// The header texts, keys first.
fn headers(table: &Table) -> impl Iterator<Item = &str> {
    table.keys.iter().chain(&table.columns).map(String::as_str)
}

/// The texts of a row as (text, marks), keys first; the marks of the row stand at its last key.
fn texts<'a>(table: &'a Table, row: &'a Row) -> impl Iterator<Item = (String, &'a [usize])> {
    let last = row.keys.len() - 1;
    let keys = row.keys.iter().enumerate().map(move |(i, key)| {
        let marks = if i == last { row.marks.as_slice() } else { &[] };
        (one_line(key), marks)
    });
    let cells = row.cells.iter().zip(&table.decimals);
    keys.chain(cells.map(move |(cell, digits)| (number(*digits, row, cell), cell.marks.as_slice())))
}

/// `1,2`
fn marks(marks: &[usize]) -> String {
    marks.iter().map(usize::to_string).collect::<Vec<_>>().join(",")
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
