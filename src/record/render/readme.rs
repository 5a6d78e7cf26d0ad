//! Generated blocks of a README, between the markers `<!-- table: NAME -->` and `<!-- /table -->`.
//!
//! Each marker is on a line of its own; inside a fenced code block, markers are ignored.

use std::error::Error;

/// Why a README cannot be updated, or is out of date.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadmeError {
    /// A marker is unclosed, nested or stray.
    #[error("line {line}: {message}")]
    Marker {
        /// Line of the marker, from 1.
        line: usize,
        /// The problem.
        message: String,
    },
    /// A table cannot be rendered.
    #[error("table `{name}`: {source}")]
    Render {
        /// Name of the table.
        name: String,
        /// The error of the renderer.
        source: Box<dyn Error + Send + Sync>,
    },
    /// Tables are out of date; holds a line diff of each.
    #[error("{0}")]
    Differs(String),
}

/// Replaces the content of each block in `text` by `render(name)`.
///
/// # Errors
/// An unclosed, nested or stray marker (with its line), or the error of `render` (with the name).
pub fn update_readme<E: Into<Box<dyn Error + Send + Sync>>>(
    text: &str,
    render: impl Fn(&str) -> Result<String, E>,
) -> Result<String, ReadmeError> {
    let mut out = String::new();
    walk(text, render, |part| match part {
        Part::Text(line) => out.push_str(line),
        Part::Block { new, .. } => out.push_str(&new),
    })?;
    Ok(out)
}

/// Checks that [`update_readme`] would change nothing.
///
/// # Errors
/// [`ReadmeError::Differs`] with a diff of each block that is out of date (`-` is the current line, `+` the expected one),
/// and those of [`update_readme`].
pub fn check_readme<E: Into<Box<dyn Error + Send + Sync>>>(
    text: &str,
    render: impl Fn(&str) -> Result<String, E>,
) -> Result<(), ReadmeError> {
    let mut differences = Vec::new();
    walk(text, render, |part| {
        if let Part::Block { name, old, new } = part
            && old != new
        {
            differences.push(format!("table `{name}` is out of date:\n{}", diff(&old, &new)));
        }
    })?;
    if differences.is_empty() { Ok(()) } else { Err(ReadmeError::Differs(differences.join("\n"))) }
}

enum Part<'a> {
    /// A line outside of blocks, or a marker.
    Text(&'a str),
    Block {
        name: &'a str,
        old: String,
        new: String,
    },
}

fn walk<'a, E: Into<Box<dyn Error + Send + Sync>>>(
    text: &'a str,
    render: impl Fn(&str) -> Result<String, E>,
    mut visit: impl FnMut(Part<'a>),
) -> Result<(), ReadmeError> {
    let mut open: Option<(usize, &str, String)> = None;
    let mut fenced = false;
    for (i, line) in text.split_inclusive('\n').enumerate() {
        let error = |message: String| ReadmeError::Marker { line: i + 1, message };
        fenced ^= open.is_none() && line.trim_start().starts_with("```");
        let marker =
            line.trim().strip_prefix("<!--").and_then(|rest| rest.strip_suffix("-->")).map(str::trim);
        let marker = marker.filter(|_| !fenced);
        if let Some(name) = marker.and_then(|m| m.strip_prefix("table:")).map(str::trim) {
            if let Some((_, outer, _)) = open {
                return Err(error(format!("table `{name}` begins inside table `{outer}`")));
            }
            visit(Part::Text(line));
            open = Some((i + 1, name, String::new()));
        } else if marker == Some("/table") {
            let Some((_, name, old)) = open.take() else {
                return Err(error("`<!-- /table -->` without a `<!-- table: NAME -->` before it".into()));
            };
            let new =
                render(name).map_err(|e| ReadmeError::Render { name: name.to_string(), source: e.into() })?;
            visit(Part::Block { name, old, new: format!("{}\n", new.trim_end()) });
            visit(Part::Text(line));
        } else if let Some((_, _, old)) = &mut open {
            old.push_str(line);
        } else {
            visit(Part::Text(line));
        }
    }
    match open {
        Some((line, name, _)) => {
            let message = format!("table `{name}` has no `<!-- /table -->`");
            Err(ReadmeError::Marker { line, message })
        }
        None => Ok(()),
    }
}

/// The lines of `old` and `new` along a longest common subsequence.
fn diff(old: &str, new: &str) -> String {
    let (old, new): (Vec<_>, Vec<_>) = (old.lines().collect(), new.lines().collect());
    // common[i][j]: length of the longest common subsequence of old[i..] and new[j..]
    let mut common = vec![vec![0; new.len() + 1]; old.len() + 1];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            common[i][j] = if old[i] == new[j] {
                common[i + 1][j + 1] + 1
            } else {
                common[i + 1][j].max(common[i][j + 1])
            };
        }
    }
    let (mut i, mut j, mut out) = (0, 0, String::new());
    while i < old.len() || j < new.len() {
        let (sign, line) = if i < old.len() && j < new.len() && old[i] == new[j] {
            i += 1;
            j += 1;
            (' ', old[i - 1])
        } else if i < old.len() && (j == new.len() || common[i + 1][j] >= common[i][j + 1]) {
            i += 1;
            ('-', old[i - 1])
        } else {
            j += 1;
            ('+', new[j - 1])
        };
        out.push_str(format!("{sign} {line}").trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str =
        "# T\n\n```\n<!-- table: in_code -->\n```\n<!-- table: a -->\none\ntwo\n<!-- /table -->\nend";

    fn render(name: &str) -> Result<String, std::io::Error> {
        match name {
            "a" => Ok("one\nthree\n".into()),
            _ => Err(std::io::Error::other("no such table")),
        }
    }

    #[test]
    fn update_replaces_blocks_and_nothing_else() {
        let updated = update_readme(TEXT, render).unwrap();
        assert_eq!(updated, TEXT.replace("two", "three"));
        assert_eq!(update_readme(&updated, render).unwrap(), updated);
        check_readme(&updated, render).unwrap();
    }

    #[test]
    fn check_names_the_block_and_shows_the_lines() {
        let error = check_readme(TEXT, render).unwrap_err().to_string();
        assert_eq!(error, "table `a` is out of date:\n  one\n- two\n+ three\n");
    }

    #[test]
    fn markers_must_pair_and_tables_must_exist() {
        for (text, expected) in [
            ("<!-- table: a -->\n", "line 1: table `a` has no"),
            ("\n<!-- /table -->\n", "line 2: `<!-- /table -->` without"),
            ("<!-- table: a -->\n<!--table:b-->\n", "line 2: table `b` begins inside table `a`"),
            ("<!-- table: c -->\n<!-- /table -->\n", "table `c`: no such table"),
        ] {
            let error = update_readme(text, render).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
        }
    }
}
