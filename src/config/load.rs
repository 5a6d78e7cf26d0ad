//! TOML text to a typed struct: one strict parse, errors that name file and key; `--set`; and the
//! library of named files that ships inside the program and can be extended by `--include`.

use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};

/// A configuration that cannot be used: names the file (or `--set`), the key and what is allowed.
#[derive(Debug, thiserror::Error)]
#[error("{origin}: {message}")]
pub struct ConfigError {
    /// The file, or what else was parsed.
    pub origin: String,
    pub message: String,
}

impl ConfigError {
    pub fn new(origin: impl std::fmt::Display, message: impl std::fmt::Display) -> Self {
        Self { origin: origin.to_string(), message: message.to_string() }
    }
}

/// Parses TOML text that came from `origin`; the error shows the line with a caret.
pub fn parse<T: DeserializeOwned>(text: &str, origin: impl std::fmt::Display) -> Result<T, ConfigError> {
    toml::from_str(text).map_err(|e| ConfigError::new(origin, format!("\n{}", e.to_string().trim_end())))
}

/// Turns an edited tree into a typed struct; the error names the path of the key.
pub fn parse_table<T: DeserializeOwned>(
    table: toml::Table,
    origin: impl std::fmt::Display,
) -> Result<T, ConfigError> {
    serde_path_to_error::deserialize(toml::Value::Table(table)).map_err(|e| {
        let path = e.path().to_string();
        let key = if path == "." { String::new() } else { format!("`{path}`: ") };
        ConfigError::new(origin, format!("{key}{}", e.into_inner().to_string().trim_end()))
    })
}

/// Reads and parses the file at `path`.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<T, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|e| ConfigError::new(path.display(), e))?;
    parse(&text, path.display())
}

/// Edits `tree` by one `a.b=value`; the value is TOML, or a bare word taken as a string. Tables on the way are
/// made; whether the key exists is decided by the strict parse that follows.
pub fn apply_set(tree: &mut toml::Table, assignment: &str) -> Result<(), ConfigError> {
    let origin = || format!("--set {assignment}");
    let (key, text) =
        assignment.split_once('=').ok_or_else(|| ConfigError::new(origin(), "expected KEY=VALUE"))?;
    let value = toml::from_str::<toml::Table>(&format!("value = {text}"))
        .ok()
        .and_then(|mut t| t.remove("value"))
        .unwrap_or_else(|| toml::Value::String(text.to_string()));
    let mut path: Vec<&str> = key.trim().split('.').collect();
    let last = path.pop().filter(|k| !k.is_empty()).ok_or_else(|| ConfigError::new(origin(), "empty key"))?;
    let mut table = tree;
    for part in path {
        table = table
            .entry(part)
            .or_insert_with(|| toml::Value::Table(toml::Table::new()))
            .as_table_mut()
            .ok_or_else(|| ConfigError::new(origin(), format!("`{part}` is a value, not a table")))?;
    }
    table.insert(last.to_string(), value);
    Ok(())
}

/// Placeholder of the library.
#[derive(Clone, Debug, Default)]
pub struct Library {
    pub roots: Vec<PathBuf>,
}
