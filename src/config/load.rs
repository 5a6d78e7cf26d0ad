//! Strict parsing of TOML into typed structs, with errors that name file and key; the overrides of `--set`; and the
//! library of named files, which is part of the program and which `--include` extends.

use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};

/// An invalid configuration; names the file (or `--set`), the key and the allowed values.
#[derive(Debug, thiserror::Error)]
#[error("{origin}: {message}")]
pub struct ConfigError {
    /// The file, or another source such as `--set`.
    pub origin: String,
    /// The problem, with the key and the allowed values.
    pub message: String,
}

impl ConfigError {
    /// An error in `origin`, usually a file.
    pub fn new(origin: impl std::fmt::Display, message: impl std::fmt::Display) -> Self {
        Self { origin: origin.to_string(), message: message.to_string() }
    }

    /// The same error as part of the file or table `origin`.
    #[must_use]
    pub fn within(self, origin: impl std::fmt::Display) -> Self {
        Self::new(origin, self)
    }
}

/// Parses TOML text that came from `origin`; the error shows the line with a caret or, for a key that is not there, names the
/// table that lacks it.
pub fn parse<T: DeserializeOwned>(text: &str, origin: impl std::fmt::Display) -> Result<T, ConfigError> {
    let shown = |e: &toml::de::Error| ConfigError::new(&origin, format!("\n{}", e.to_string().trim_end()));
    let document = toml::Deserializer::parse(text).map_err(|e| shown(&e))?;
    serde_path_to_error::deserialize(document).map_err(|e| match e.inner().message() {
        missing if missing.starts_with("missing field") => {
            let table = e.path().to_string();
            let place = if table == "." { String::new() } else { format!("`{table}`: ") };
            ConfigError::new(&origin, format!("{place}{missing}"))
        }
        _ => shown(e.inner()),
    })
}

/// Converts an edited tree into a typed struct; the error names the path of the key.
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

/// Applies one override `a.b=value` to `tree`; the value is TOML, or a bare word that is read as a string. Missing
/// tables are created; the strict parse that follows checks whether the key exists.
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

/// A file of the library, or one named by its path.
#[derive(Clone, Debug)]
pub struct NamedFile {
    /// Its name, without folder and extension.
    pub name: String,
    /// Its contents.
    pub text: String,
    /// Its origin, for messages.
    pub origin: String,
    /// Whether it was named by its path.
    pub by_path: bool,
}

impl NamedFile {
    fn at(what: &str, path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| ConfigError::new(format!("{what} `{}`", path.display()), error))?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Self { name, text, origin: path.display().to_string(), by_path: true })
    }
}

/// The text files of `configs/`, `tasks/` and `datasets/` that are part of the program.
static BUILT_IN: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/library.rs"));

/// Named files: those of `--include` folders first, then the built-in ones.
///
/// Paths are relative with `/`: `datasets/shapes/dataset.toml`. An included folder has the same tree.
#[derive(Clone, Debug, Default)]
pub struct Library {
    includes: Vec<PathBuf>,
}

impl Library {
    /// # Errors
    /// An included folder that does not exist.
    pub fn new(includes: &[PathBuf]) -> Result<Self, ConfigError> {
        for folder in includes {
            if !folder.is_dir() {
                return Err(ConfigError::new(format!("--include {}", folder.display()), "no such folder"));
            }
        }
        Ok(Self { includes: includes.to_vec() })
    }

    /// The included folders, in the order of the search.
    pub fn includes(&self) -> &[PathBuf] {
        &self.includes
    }

    /// The text at `path`, and its origin for messages.
    pub fn text(&self, path: &str) -> Result<(String, String), ConfigError> {
        for folder in &self.includes {
            let file = folder.join(path);
            if file.is_file() {
                let text = std::fs::read_to_string(&file).map_err(|e| ConfigError::new(file.display(), e))?;
                return Ok((text, file.display().to_string()));
            }
        }
        match BUILT_IN.iter().find(|(name, _)| *name == path) {
            Some((_, text)) => Ok((text.to_string(), path.to_string())),
            None => Err(ConfigError::new(path, "no such file")),
        }
    }

    /// The file that `name` means: `<folder>/<name>.toml` of the library, or a path that ends in `.toml`.
    ///
    /// # Errors
    /// A name that is not in `folder`; the error suggests the nearest name and lists all. A path without a file.
    pub fn file(&self, what: &str, name: &str, folder: &str) -> Result<NamedFile, ConfigError> {
        if name.ends_with(".toml") {
            return NamedFile::at(what, Path::new(name));
        }
        let (text, origin) = self.text(&format!("{folder}/{name}.toml")).map_err(|_| {
            let mut error = self.unknown(what, name, folder);
            error.message += "; a path to a file ends in .toml";
            error
        })?;
        Ok(NamedFile { name: name.into(), text, origin, by_path: false })
    }

    /// The file that `name` means when each name has its own folder: `<folder>/<name>/<file>` of the library, or a path
    /// to such a file or to the folder that holds it.
    ///
    /// # Errors
    /// The errors of [`Library::file`].
    pub fn file_in_folder(
        &self,
        what: &str,
        name: &str,
        folder: &str,
        file: &str,
    ) -> Result<NamedFile, ConfigError> {
        let path = Path::new(name);
        let path = if path.join(file).is_file() { path.join(file) } else { path.to_path_buf() };
        let is_path = name.contains(std::path::MAIN_SEPARATOR) || [".", ".."].contains(&name);
        if name.ends_with(".toml") || (is_path && path.is_file()) {
            return NamedFile::at(what, &path);
        }
        let text = self.text(&format!("{folder}/{name}/{file}"));
        let (text, origin) = text.map_err(|_| self.unknown(what, name, folder))?;
        Ok(NamedFile { name: name.into(), text, origin, by_path: false })
    }

    /// The file or folder at `path` on disk, if it is in an included folder.
    pub fn on_disk(&self, path: &str) -> Option<PathBuf> {
        self.includes.iter().map(|folder| folder.join(path)).find(|file| file.exists())
    }

    /// Names directly below `folder`: folders, and `.toml` files without their extension. Sorted, each once.
    pub fn list(&self, folder: &str) -> Vec<String> {
        let mut names = std::collections::BTreeSet::new();
        for (path, _) in BUILT_IN {
            if let Some(rest) = path.strip_prefix(folder).and_then(|r| r.strip_prefix('/')) {
                match rest.split_once('/') {
                    Some((name, _)) => names.insert(name.to_string()),
                    None => rest.strip_suffix(".toml").is_some_and(|name| names.insert(name.to_string())),
                };
            }
        }
        for root in &self.includes {
            for entry in std::fs::read_dir(root.join(folder)).into_iter().flatten().flatten() {
                let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
                if path.is_dir() {
                    names.insert(name);
                } else if let Some(name) = name.strip_suffix(".toml") {
                    names.insert(name.to_string());
                }
            }
        }
        names.into_iter().collect()
    }

    /// An error for a name that is not in `folder`: suggests the near miss and lists what exists.
    pub fn unknown(&self, what: &str, name: &str, folder: &str) -> ConfigError {
        let known = self.list(folder);
        ConfigError::new(format!("{what} `{name}`"), unknown(name, &known))
    }
}

/// "unknown; did you mean `x`? known: …"
pub fn unknown(name: &str, known: &[String]) -> String {
    let near = known
        .iter()
        .map(|k| (strsim::damerau_levenshtein(name, k), k))
        .filter(|(distance, k)| *distance <= 1 + k.len() / 4 || name.ends_with(&format!("_{k}")))
        .min();
    let hint = near.map_or("; ".into(), |(_, k)| format!("; did you mean `{k}`? "));
    format!("unknown{hint}known: {}", known.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn set_edits_the_tree_and_words_are_strings() {
        let mut tree: toml::Table = toml::from_str("[optim]\nbase_lr = 1.0").unwrap();
        for assignment in ["optim.base_lr=1e-3", "optim.name=adamw", "transfer.tune={blocks = 0.5}"] {
            apply_set(&mut tree, assignment).unwrap();
        }
        assert_eq!(tree["optim"]["base_lr"].as_float(), Some(1e-3));
        assert_eq!(tree["optim"]["name"].as_str(), Some("adamw"));
        assert_eq!(tree["transfer"]["tune"]["blocks"].as_float(), Some(0.5));
        let error = apply_set(&mut tree, "optim.name.deep=1").unwrap_err().to_string();
        assert!(error.contains("`name` is a value"), "{error}");
        assert!(apply_set(&mut tree, "no-equals").is_err());
    }

    #[test]
    fn a_missing_key_is_named_with_its_table_and_other_faults_with_their_line() {
        #[derive(serde::Deserialize, Debug)]
        #[serde(deny_unknown_fields)]
        struct File {
            #[allow(dead_code)]
            table: Table,
        }
        #[derive(serde::Deserialize, Debug)]
        #[serde(deny_unknown_fields)]
        struct Table {
            #[allow(dead_code)]
            number: usize,
        }
        let error = |text: &str| parse::<File>(text, "a.toml").unwrap_err().to_string();
        assert_eq!(error(""), "a.toml: missing field `table`");
        assert_eq!(error("\n\n[table]\n"), "a.toml: `table`: missing field `number`");
        for (text, place) in [
            ("[table]\nnumber = \"x\"", "line 2, column 10"),
            ("[table]\nnumber = 1\nother = 2", "line 3, column 1"),
            ("[table]\nnumber = 1\nnumber = 2", "line 3, column 1"),
            ("table = {", "line 1, column 10"),
        ] {
            assert!(error(text).contains(place), "{}", error(text));
        }
    }

    #[test]
    fn near_misses_are_suggested() {
        let known = ["imagenet".to_string(), "shapes".to_string()];
        assert!(unknown("imagnet", &known).contains("did you mean `imagenet`"));
        assert!(unknown("zzz", &known).starts_with("unknown; known: "));
    }
}
