//! A LaTeX table for package `booktabs`.

use super::text::{EMPTY, headers, marks, one_line, texts};
use crate::record::table::Table;

pub(super) fn render(table: &Table) -> String {
    let mut out = String::from("% \\usepackage{booktabs}\n\\begin{table}\n\\centering\n");
    out.push_str(&format!("\\caption{{{}}}\n", escape(&table.title)));
    let columns = "l".repeat(table.keys.len()) + &"r".repeat(table.columns.len());
    out.push_str(&format!("\\begin{{tabular}}{{{columns}}}\n\\toprule\n"));
    let header: Vec<_> = headers(table).map(escape).collect();
    out.push_str(&format!("{} \\\\\n\\midrule\n", header.join(" & ")));
    if table.rows.is_empty() {
        out.push_str(&format!("\\multicolumn{{{}}}{{l}}{{{EMPTY}}} \\\\\n", header.len()));
    }
    for row in &table.rows {
        let text = |(text, notes): (String, &[usize])| match notes {
            [] => escape(&text),
            notes => format!("{}\\textsuperscript{{{}}}", escape(&text), marks(notes)),
        };
        let cells: Vec<_> = texts(table, row).map(text).collect();
        out.push_str(&format!("{} \\\\\n", cells.join(" & ")));
    }
    out.push_str("\\bottomrule\n\\end{tabular}\n");
    for (i, note) in table.footnotes.iter().enumerate() {
        out.push_str(&format!("\\par{{\\footnotesize \\textsuperscript{{{}}} {}}}\n", i + 1, escape(note)));
    }
    for note in &table.remarks {
        out.push_str(&format!("\\par{{\\footnotesize {}}}\n", escape(note)));
    }
    out.push_str("\\end{table}\n");
    out
}

/// Plain text to LaTeX; a span between backticks becomes typewriter text.
fn escape(text: &str) -> String {
    let mut out = String::new();
    let mut open = false;
    for c in one_line(text).chars() {
        match c {
            '\\' => out.push_str("\\textbackslash{}"),
            '{' | '}' | '$' | '&' | '#' | '_' | '%' => out.extend(['\\', c]),
            '[' => out.push_str("{[}"), // at the start of a row it would be an option of the line break before
            '^' => out.push_str("\\textasciicircum{}"),
            '~' => out.push_str("\\textasciitilde{}"),
            '<' => out.push_str("\\textless{}"),
            '>' => out.push_str("\\textgreater{}"),
            '"' => out.push_str("\\textquotedbl{}"),
            '±' => out.push_str("$\\pm$"),
            '−' => out.push_str("$-$"),
            '×' => out.push_str("$\\times$"),
            '→' => out.push_str("$\\to$"),
            '½' => out.push_str("$\\frac12$"),
            '–' => out.push_str("--"),
            '`' => {
                out.push_str(if open { "}" } else { "\\texttt{" });
                open = !open;
            }
            c => out.push(c),
        }
    }
    if open {
        out.push('}');
    }
    out
}
