//! CSV with one line per cell and unrounded numbers, for use by other programs.

use crate::record::table::Table;
use ::csv::{Terminator, Writer, WriterBuilder};

pub(super) fn render(table: &Table) -> String {
    let mut writer = WriterBuilder::new().terminator(Terminator::Any(b'\n')).from_writer(Vec::new());
    let mut write = |line: Vec<String>| write(&mut writer, line);
    let mut header = table.keys.clone();
    header.extend(
        ["kind", "column", "value", "spread", "evaluation_error", "pretrainings", "n", "notes"]
            .map(String::from),
    );
    write(header);
    for row in &table.rows {
        let kind = if row.difference { "difference" } else { row.origin.name() };
        for (cell, column) in row.cells.iter().zip(&table.columns) {
            let notes: Vec<_> =
                row.marks.iter().chain(&cell.marks).map(|i| table.footnotes[i - 1].as_str()).collect();
            let value = cell.value.as_ref();
            let mut line = row.keys.clone();
            line.extend([
                kind.to_string(),
                column.clone(),
                value.map(|v| v.mean.to_string()).unwrap_or_default(),
                value.and_then(|v| v.spread).map(|s| s.to_string()).unwrap_or_default(),
                value.and_then(|v| v.evaluation).map(|s| s.to_string()).unwrap_or_default(),
                value.and_then(|v| v.pretrainings).map(|p| p.to_string()).unwrap_or_default(),
                value.map(|v| v.n.to_string()).unwrap_or_default(),
                notes.join("; "),
            ]);
            write(line);
        }
    }
    let bytes = writer.into_inner().expect("memory takes every write");
    String::from_utf8(bytes).expect("every field is UTF-8")
}

fn write(writer: &mut Writer<Vec<u8>>, line: Vec<String>) {
    writer.write_record(line).expect("all lines have one length, and memory takes every write");
}
