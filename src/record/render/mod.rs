//! A [`Table`] as text: for the terminal, Markdown, CSV and LaTeX, and inside a README.

mod csv;
mod latex;
mod markdown;
pub mod readme;
mod terminal;
#[cfg(test)]
mod tests;
mod text;

use super::table::Table;

/// What to render to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TableFormat {
    #[default]
    Terminal,
    Markdown,
    /// One line a cell, numbers in full.
    Csv,
    /// For `\usepackage{booktabs}`.
    Latex,
}

impl TableFormat {
    pub const NAMES: [&str; 4] = ["terminal", "markdown", "csv", "latex"];
}

impl std::str::FromStr for TableFormat {
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
pub fn render(table: &Table, format: TableFormat) -> String {
    match format {
        TableFormat::Terminal => terminal::render(table),
        TableFormat::Markdown => markdown::render(table),
        TableFormat::Csv => csv::render(table),
        TableFormat::Latex => latex::render(table),
    }
}
