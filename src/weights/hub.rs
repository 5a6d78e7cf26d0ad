//! Weights files of the Hugging Face Hub: [`Hub::fetch`] and [`Hub::push`].
//!
//! Layout of the cache, look-ups in it and uploads are those of `hf-hub`, so that Python's `huggingface_hub` shares the
//! cache. Content is read here, because that crate neither resumes nor compares hashes: a file enters the cache when
//! its length and its SHA-256 are those that the Hub names. `HF_ENDPOINT`, `HF_HOME`, `HF_HUB_CACHE`, `HF_TOKEN`,
//! `HF_TOKEN_PATH` and `HF_HUB_OFFLINE` mean what they mean in Python. A token is sent, and never shown.

mod content;
mod push;
mod reference;
mod remote;

pub use push::{Pushed, Upload};
pub use reference::{HUB, HubFile};

use hf_hub::{HFClient, HFClientSync, HFError};
use remote::Remote;
use std::path::{Path, PathBuf};

/// What a repository calls its weights when a reference names no file, in the order of the search.
const WEIGHTS: [&str; 2] = ["model.safetensors", "pytorch_model.bin"];
/// What says how to read [`WEIGHTS`]; fetched beside them where it exists.
const CONFIG: &str = "config.json";

/// Why there is no file, or no upload.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    #[error("`{reference}`: {reason}; expected hub:owner/name[@revision][/file]")]
    Reference { reference: String, reason: String },
    #[error("`{reference}` is not in the cache `{cache}`, and the Hub is not asked (--offline or HF_HUB_OFFLINE)", cache = cache.display())]
    Offline { reference: String, cache: PathBuf },
    /// The repository has no such file.
    #[error("`{reference}`: {reason}")]
    Missing { reference: String, reason: String },
    /// No answer, or one that says: later.
    #[error("`{reference}`: {reason}")]
    Unreachable { reference: String, reason: String },
    #[error("`{reference}`: {reason}")]
    Refused { reference: String, reason: String },
    #[error("`{reference}`: {reason}")]
    Damaged { reference: String, reason: String },
    #[error("`{path}`: {source}", path = path.display())]
    Disk { path: PathBuf, source: std::io::Error },
    #[error("Hub: {0}")]
    Client(String),
}

/// A file in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// With the commit as revision and the name of the file: what names these bytes for good.
    pub reference: HubFile,
    pub path: PathBuf,
    pub bytes: u64,
    /// The SHA-256 that the Hub names; absent for small files, which it keeps in git.
    pub sha256: Option<String>,
    /// Whether the content was there before.
    pub cached: bool,
    /// Why the Hub was not asked whether this is still the newest, where it could not be.
    pub stale: Option<String>,
}

/// The Hub that the environment names, and its cache.
pub struct Hub {
    client: HFClientSync,
    cache: PathBuf,
    remote: Remote,
    offline: bool,
}

impl Hub {
    /// `offline`: ask nothing, whatever `HF_HUB_OFFLINE` says.
    ///
    /// # Errors
    /// An `HF_ENDPOINT` that is not an address.
    pub fn new(offline: bool) -> Result<Self, HubError> {
        let fail = |e: HFError| HubError::Client(e.to_string());
        let client = HFClient::new().map_err(fail)?;
        let variable = std::env::var("HF_HUB_OFFLINE").unwrap_or_default().to_ascii_lowercase();
        let offline = offline || ["1", "true", "yes", "on"].contains(&variable.as_str());
        let (remote, cache) = (Remote::new(client.endpoint())?, client.cache_dir().into());
        Ok(Self { client: HFClientSync::from_inner(client).map_err(fail)?, cache, remote, offline })
    }

    /// Where files lie.
    pub fn cache(&self) -> &Path {
        &self.cache
    }

    /// The file in the cache, fetched when it is not there. `progress` is given the bytes that are there and those in all.
    ///
    /// A reference that names no file is that of the repository's weights; its `config.json` comes with them.
    ///
    /// # Errors
    /// A file that does not exist, may not be read, does not come, or is not what the Hub says.
    pub fn fetch(&self, file: &HubFile, progress: &dyn Fn(u64, u64)) -> Result<Fetched, HubError> {
        if let Some(name) = &file.file {
            return self.fetch_named(file, name, progress);
        }
        let absent = |e: &HubError| matches!(e, HubError::Missing { .. } | HubError::Offline { .. });
        let mut last = None;
        for name in WEIGHTS {
            match self.fetch_named(file, name, progress) {
                Err(error) if absent(&error) => last = last.or(Some(error)),
                Err(error) => return Err(error),
                Ok(found) if found.stale.is_some() => return Ok(found),
                Ok(found) => {
                    let config = self.fetch_named(&found.reference, CONFIG, &|_, _| ());
                    return match config {
                        Err(error) if !absent(&error) => Err(error),
                        _ => Ok(found),
                    };
                }
            }
        }
        Err(match last {
            Some(HubError::Missing { reference, .. }) => HubError::Missing {
                reference,
                reason: format!("has neither `{}`; name a file", WEIGHTS.join("` nor `")),
            },
            Some(error) => error,
            None => HubError::Client("no name of weights is known".into()),
        })
    }

    /// Compares a file in the cache with its hash; what differs is taken out of the cache.
    ///
    /// # Errors
    /// A file that is damaged, or cannot be read.
    pub fn check(&self, found: &Fetched) -> Result<(), HubError> {
        let Some(expected) = &found.sha256 else { return Ok(()) };
        let blob = found.path.canonicalize().map_err(|source| disk(&found.path, source))?;
        let actual = content::sha256(&blob)?;
        if actual == *expected {
            return Ok(());
        }
        for path in [&found.path, &blob] {
            std::fs::remove_file(path).map_err(|source| disk(path, source))?;
        }
        let reason =
            format!("the copy in the cache is damaged (SHA-256 {actual}, not {expected}); it is removed");
        Err(HubError::Damaged { reference: found.reference.to_string(), reason })
    }

    fn fetch_named(
        &self,
        file: &HubFile,
        name: &str,
        progress: &dyn Fn(u64, u64),
    ) -> Result<Fetched, HubError> {
        let named = HubFile { file: Some(name.into()), ..file.clone() };
        let pinned = file.revision.as_deref().is_some_and(is_commit);
        if self.offline || pinned {
            match self.cached(&named, name) {
                Err(_) if !self.offline => {}
                found => return found,
            }
        }
        let entry = match self.remote.entry(&named, name) {
            Ok(entry) => entry,
            Err(HubError::Unreachable { reference, reason }) => {
                return match self.cached(&named, name) {
                    Ok(found) => Ok(Fetched { stale: Some(reason), ..found }),
                    Err(_) => Err(HubError::Unreachable { reference, reason }),
                };
            }
            Err(error) => return Err(error),
        };
        let folder = format!("models--{}--{}", file.owner, file.name);
        let blob = self.cache().join(&folder).join("blobs").join(&entry.etag);
        let cached = blob.is_file();
        if !cached {
            let lock = self.cache().join(".locks").join(&folder).join(format!("{}.lock", entry.etag));
            content::complete(&self.remote, &named, &entry, &blob, &lock, progress)?;
        }
        // The content is there: this links it and notes what the revision is.
        let path = self.find(&named, name, false).map_err(|e| self.remote.explain(&named, e))?;
        let found = Fetched { cached, ..self.found(&named, name, path)? };
        if found.sha256 != entry.sha256() {
            let reason = "the file was replaced while it was read; try again".into();
            return Err(HubError::Unreachable { reference: named.to_string(), reason });
        }
        Ok(found)
    }

    fn find(&self, file: &HubFile, name: &str, only_local: bool) -> Result<PathBuf, HFError> {
        let repository = self.client.model(&file.owner, &file.name);
        let request = repository.download_file().filename(name);
        request.maybe_revision(file.revision.clone()).local_files_only(only_local).send()
    }

    fn cached(&self, file: &HubFile, name: &str) -> Result<Fetched, HubError> {
        match self.find(file, name, true) {
            Ok(path) => self.found(file, name, path),
            Err(_) => Err(HubError::Offline { reference: file.to_string(), cache: self.cache().into() }),
        }
    }

    /// What a path `…/snapshots/<commit>/<file>` says.
    fn found(&self, file: &HubFile, name: &str, path: PathBuf) -> Result<Fetched, HubError> {
        let snapshot = path.ancestors().nth(name.split('/').count());
        let commit =
            snapshot.and_then(|folder| folder.file_name()).map(|name| name.to_string_lossy().into_owned());
        let bytes = std::fs::metadata(&path).map_err(|source| disk(&path, source))?.len();
        let blob = path.canonicalize().map_err(|source| disk(&path, source))?;
        let etag = blob.file_name().map(|name| name.to_string_lossy().into_owned());
        Ok(Fetched {
            reference: HubFile { revision: commit, ..file.clone() },
            sha256: etag.filter(|etag| is_hex(etag, 64)),
            path,
            bytes,
            cached: true,
            stale: None,
        })
    }
}

fn disk(path: &Path, source: std::io::Error) -> HubError {
    HubError::Disk { path: path.into(), source }
}

fn is_hex(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn is_commit(revision: &str) -> bool {
    is_hex(revision, 40)
}
