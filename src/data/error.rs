//! [`DataError`]: errors of data sets.

use crate::config::ConfigError;
use std::path::{Path, PathBuf};

/// Errors of manifests and indices: each names its file.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// An invalid manifest.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A file or folder of the data that cannot be read.
    #[error("{}: {message}", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// The problem.
        message: String,
    },
    /// A file with flaws, all of which are listed.
    #[error("{}: {}", path.display(), flaw_list(flaws))]
    Flaws {
        /// The file.
        path: PathBuf,
        /// What is wrong, one sentence each, at least one.
        flaws: Vec<String>,
    },
    /// Data that are not on this machine.
    #[error(
        "data set `{name}` was not found: {looked}{}\n`bench demo` needs no data",
        get.as_deref().map(|get| format!("\nhow to get it: {get}")).unwrap_or_default()
    )]
    Missing {
        /// The data set.
        name: String,
        /// The places that were searched.
        looked: String,
        /// How to get the data, from the manifest.
        get: Option<String>,
    },
    /// A split that the manifest does not have.
    #[error("data set `{dataset}` has no split `{split}`; it has: {known}")]
    Split {
        /// The data set.
        dataset: String,
        /// The requested split.
        split: String,
        /// The existing splits.
        known: String,
    },
    /// Labels or class folders that do not match the class names of the manifest.
    #[error("data set `{dataset}`, split `{split}`: {message}")]
    Classes {
        /// The data set.
        dataset: String,
        /// The split.
        split: String,
        /// The mismatch.
        message: String,
    },
}

/// Largest number of flaws of a file that a message lists.
const SHOWN: usize = 10;

/// One flaw in the line of its file, several in lines of their own.
fn flaw_list(flaws: &[String]) -> String {
    if let [flaw] = flaws {
        return flaw.clone();
    }
    let more = flaws.len().saturating_sub(SHOWN);
    let mut lines = vec![format!("{} flaws", flaws.len())];
    lines.extend(flaws.iter().take(SHOWN).cloned());
    lines.extend((more > 0).then(|| format!("and {more} more")));
    lines.join("\n  ")
}

impl DataError {
    /// The file at `path` has these flaws.
    pub fn flaws(path: &Path, flaws: Vec<String>) -> Self {
        Self::Flaws { path: path.into(), flaws }
    }

    /// Every problem as a message of its own, each with the file.
    pub(super) fn messages(&self) -> Vec<String> {
        match self {
            Self::Flaws { path, flaws } => {
                flaws.iter().map(|flaw| format!("{}: {flaw}", path.display())).collect()
            }
            error => vec![error.to_string()],
        }
    }

    /// The file or folder at `path` cannot be read; `message` says why.
    pub fn file(path: &Path, message: impl std::fmt::Display) -> Self {
        Self::File { path: path.into(), message: message.to_string() }
    }
}
