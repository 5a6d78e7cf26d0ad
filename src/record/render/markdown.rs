//! GitHub's Markdown, with columns that are also aligned as plain text.

use super::text::{EMPTY, headers, marks, one_line, texts};
use crate::record::table::Table;

pub(super) fn render(table: &Table) -> String {
    let mut out = format!("**{}**\n\n", cell(&table.title));
    if table.rows.is_empty() {
        out.push_str(EMPTY);
        out.push('\n');
    } else {
        let mut lines: Vec<Vec<String>> = vec![headers(table).map(cell).collect()];
        for row in &table.rows {
            let text = |(text, notes): (String, &[usize])| match notes {
                [] => cell(&text),
                notes => format!("{} <sup>{}</sup>", cell(&text), marks(notes)),
            };
            lines.push(texts(table, row).map(text).collect());
        }
        let width = |i: usize| lines.iter().map(|line| line[i].chars().count()).max().unwrap_or(0).max(3);
        let widths: Vec<usize> = (0..lines[0].len()).map(width).collect();
        let left = |i: usize| i < table.keys.len();
        for (l, line) in lines.iter().enumerate() {
            for (i, (text, width)) in line.iter().zip(&widths).enumerate() {
                let pad = " ".repeat(width - text.chars().count());
                let text = if left(i) { format!("{text}{pad}") } else { format!("{pad}{text}") };
                out.push_str(&format!("| {text} "));
            }
            out.push_str("|\n");
            if l == 0 {
                for (i, width) in widths.iter().enumerate() {
                    let rule = "-".repeat(width + 1);
                    out.push_str(&if left(i) { format!("|:{rule}") } else { format!("|{rule}:") });
                }
                out.push_str("|\n");
            }
        }
    }
    if !(table.footnotes.is_empty() && table.remarks.is_empty()) {
        out.push('\n');
    }
    for (i, note) in table.footnotes.iter().enumerate() {
        out.push_str(&format!("- <sup>{}</sup> {}\n", i + 1, prose(note)));
    }
    for note in &table.remarks {
        out.push_str(&format!("- {}\n", prose(note)));
    }
    out
}

/// Escapes what would end a cell or start markup.
fn cell(text: &str) -> String {
    escape(text, &['\\', '|', '*', '`', '<'])
}

/// A note: code spans stay.
fn prose(text: &str) -> String {
    escape(text, &['\\', '*', '<'])
}

fn escape(text: &str, special: &[char]) -> String {
    let mut out = String::new();
    for c in one_line(text).chars() {
        if special.contains(&c) {
            out.push('\\');
        }
        out.push(c);
    }
    out
}
