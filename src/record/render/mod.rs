//! Renders a [`Table`] as plain text, Markdown, CSV or LaTeX, says in words what its differences show, and updates the tables
//! in a README.

mod csv;
mod findings;
mod latex;
mod markdown;
pub mod readme;
mod terminal;
#[cfg(test)]
mod tests;
mod text;

pub use findings::findings;

use super::table::Table;

/// Output format of a table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TableFormat {
    /// Plain text with aligned columns.
    #[default]
    Terminal,
    /// A Markdown table.
    Markdown,
    /// CSV with one line per cell and unrounded numbers.
    Csv,
    /// LaTeX for `\usepackage{booktabs}`.
    Latex,
}

impl TableFormat {
    /// Names of all formats, as on the command line.
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

/// Renders `table`; the text ends with a line break.
pub fn render(table: &Table, format: TableFormat) -> String {
    match format {
        TableFormat::Terminal => terminal::render(table),
        TableFormat::Markdown => markdown::render(table),
        TableFormat::Csv => csv::render(table),
        TableFormat::Latex => latex::render(table),
    }
}
