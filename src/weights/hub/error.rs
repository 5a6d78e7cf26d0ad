//! [`HubError`]: why a file cannot be fetched or pushed.

use std::path::{Path, PathBuf};

/// Why a file cannot be fetched or pushed. `reference` is the file as the user named it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// The reference cannot be parsed.
    #[error("`{reference}`: {reason}; expected hub:owner/name[@revision][/file]")]
    Reference {
        /// The file as the user named it.
        reference: String,
        /// The problem.
        reason: String,
    },
    /// The file is not in the cache, and the Hub may not be asked.
    #[error(
        "`{reference}` is not in the cache `{cache}`, and the Hub is not contacted (--offline or HF_HUB_OFFLINE)",
        cache = cache.display()
    )]
    Offline {
        /// The file as the user named it.
        reference: String,
        /// Folder of the cache.
        cache: PathBuf,
    },
    /// The repository has no such file.
    #[error("`{reference}`: {reason}")]
    Missing {
        /// The file as the user named it.
        reference: String,
        /// The missing file or repository.
        reason: String,
    },
    /// The Hub does not answer, or asks to try again later.
    #[error("`{reference}`: {reason}")]
    Unreachable {
        /// The file as the user named it.
        reference: String,
        /// The problem.
        reason: String,
    },
    /// The Hub refuses the request: no such repository, no access, an unexpected answer.
    #[error("`{reference}`: {reason}")]
    Refused {
        /// The file as the user named it.
        reference: String,
        /// The message of the Hub.
        reason: String,
    },
    /// The content does not have the hash that the Hub states.
    #[error("`{reference}`: {reason}")]
    Damaged {
        /// The file as the user named it.
        reference: String,
        /// The message with both hashes.
        reason: String,
    },
    /// A file of the cache cannot be read or written.
    #[error("`{path}`: {source}", path = path.display())]
    Disk {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        source: std::io::Error,
    },
    /// The client cannot be set up, for example because the endpoint is not an address.
    #[error("Hub: {0}")]
    Client(String),
}

/// A [`HubError::Disk`] for `path`.
pub(super) fn disk(path: &Path, source: std::io::Error) -> HubError {
    HubError::Disk { path: path.into(), source }
}
