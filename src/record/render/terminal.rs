//! For reading in a terminal: aligned columns, marks in brackets, notes below. Never wraps.

use super::text::{EMPTY, headers, marks, one_line, texts};
use crate::record::table::Table;
use comfy_table::{Cell, CellAlignment, ContentLineStyle, LineStyle, TableStyle};

const STYLE: TableStyle = TableStyle::new()
    .header_lines(ContentLineStyle::none())
    .header_separator(LineStyle::none().fill('─').junction('─'))
    .content_lines(ContentLineStyle::none());

pub(super) fn render(table: &Table) -> String {
    let mut out = format!("{}\n\n", one_line(&table.title));
    if table.rows.is_empty() {
        out.push_str(EMPTY);
        out.push('\n');
    } else {
        let align = |i: usize, text: String| {
            let side = if i < table.keys.len() { CellAlignment::Left } else { CellAlignment::Right };
            Cell::new_owned(text).set_alignment(side)
        };
        let mut grid = comfy_table::Table::new();
        grid.load_style(STYLE);
        grid.set_header(headers(table).enumerate().map(|(i, text)| align(i, text.to_string())));
        for row in &table.rows {
            grid.add_row(texts(table, row).enumerate().map(|(i, (text, notes))| {
                align(i, if notes.is_empty() { text } else { format!("{text} [{}]", marks(notes)) })
            }));
        }
        for line in grid.lines() {
            out.push_str(line.trim_end());
            out.push('\n');
        }
    }
    if !(table.footnotes.is_empty() && table.remarks.is_empty()) {
        out.push('\n');
    }
    for (i, note) in table.footnotes.iter().enumerate() {
        out.push_str(&format!(" [{}] {}\n", i + 1, one_line(note)));
    }
    for note in &table.remarks {
        out.push_str(&format!(" {}\n", one_line(note)));
    }
    out
}
