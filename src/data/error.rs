//! [`DataError`]: what can be wrong with a data set.

use crate::config::ConfigError;
use std::path::{Path, PathBuf};

/// Errors of manifests and indices: each names its file.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// A manifest that cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A file or folder of the data that cannot be read.
    #[error("{}: {message}", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// Data that is not on this machine.
    #[error(
        "data set `{name}` is not there: {looked}{}\n`bench demo` needs no data",
        get.as_deref().map(|get| format!("\nhow to get it: {get}")).unwrap_or_default()
    )]
    Missing {
        /// The data set.
        name: String,
        /// Where it was looked for.
        looked: String,
        /// How to get it, as the manifest says.
        get: Option<String>,
    },
    /// A split that the manifest does not have.
    #[error("data set `{dataset}` has no split `{split}`; it has: {known}")]
    Split {
        /// The data set.
        dataset: String,
        /// The split that was asked for.
        split: String,
        /// The splits that there are.
        known: String,
    },
    /// Labels or class folders that do not match the class names of the manifest.
    #[error("data set `{dataset}`, split `{split}`: {message}")]
    Classes {
        /// The data set.
        dataset: String,
        /// The split.
        split: String,
        /// What does not match.
        message: String,
    },
}

impl DataError {
    /// The file or folder at `path` cannot be read; `message` says why.
    pub fn file(path: &Path, message: impl std::fmt::Display) -> Self {
        Self::File { path: path.into(), message: message.to_string() }
    }
}
