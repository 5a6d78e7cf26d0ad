//! Weight files on the Hugging Face Hub: [`Hub::fetch`] and [`Hub::push`].
//!
//! The `hf-hub` crate provides the cache, which is shared with Python's `huggingface_hub`, and uploads. Downloads are
//! implemented here, because that crate neither resumes them nor compares hashes: a file enters the cache only if its
//! length and SHA-256 are those that the Hub states. The token is sent to the Hub, but never printed.

mod content;
mod error;
mod push;
mod reference;
mod remote;
mod settings;

pub use error::HubError;
pub use push::{Pushed, UploadContent};
pub use reference::{HUB, HubFile};
pub use settings::HubSettings;

use super::shards::{self, WEIGHTS};
use error::disk;
use hf_hub::{HFClient, HFClientSync, HFError};
use reference::{is_commit, is_hex};
use remote::Remote;
use std::path::{Path, PathBuf};

/// Describes the model; fetched together with weights that a reference does not name, if it exists.
const CONFIG: &str = "config.json";

/// A file in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// Reference with the commit as its revision and with the name of the file: it permanently identifies these bytes.
    pub reference: HubFile,
    /// The file in the cache.
    pub path: PathBuf,
    /// Size in bytes.
    pub bytes: u64,
    /// SHA-256 that the Hub states; `None` for small files, which the Hub stores in git.
    pub sha256: Option<String>,
    /// Whether the content was already in the cache.
    pub cached: bool,
    /// Why the Hub could not confirm that this is the latest version; `None` if it did.
    pub stale: Option<String>,
}

/// A client of the Hub with its cache.
pub struct Hub {
    client: HFClientSync,
    cache: PathBuf,
    remote: Remote,
    offline: bool,
}

impl Hub {
    /// Creates a client; nothing is sent yet.
    ///
    /// # Errors
    /// An endpoint that is not an address, unless it is not used.
    pub fn new(settings: HubSettings) -> Result<Self, HubError> {
        let fail = |e: HFError| HubError::Client(e.to_string());
        let endpoint = settings.address()?.to_string();
        let HubSettings { cache, token, offline, .. } = settings;
        let mut builder = HFClient::builder().endpoint(endpoint).cache_dir(&cache);
        if let Some(token) = &token {
            builder = builder.token(token);
        }
        let client = builder.build().map_err(fail)?;
        let remote = Remote::new(client.endpoint(), token)?;
        Ok(Self { client: HFClientSync::from_inner(client).map_err(fail)?, cache, remote, offline })
    }

    /// Folder of the cache.
    pub fn cache(&self) -> &Path {
        &self.cache
    }

    /// Returns the file from the cache, after downloading it if necessary. `progress` receives the number of bytes so far
    /// and in total.
    ///
    /// A reference without a file stands for the weights of the repository; their `config.json` is fetched with them. With
    /// an index of several files, all of them are fetched.
    ///
    /// # Errors
    /// A file that does not exist or may not be read, a download that fails, or content with another hash than the Hub
    /// states.
    pub fn fetch(&self, file: &HubFile, progress: &dyn Fn(u64, u64)) -> Result<Fetched, HubError> {
        if let Some(name) = &file.file {
            return self.with_shards(self.fetch_named(file, name, progress)?, progress);
        }
        let absent = |e: &HubError| matches!(e, HubError::Missing { .. } | HubError::Offline { .. });
        let mut last = None;
        for name in WEIGHTS {
            match self.fetch_named(file, name, progress) {
                Err(error) if absent(&error) => last = last.or(Some(error)),
                Err(error) => return Err(error),
                Ok(found) if found.stale.is_some() => return self.with_shards(found, progress),
                Ok(found) => {
                    let found = self.with_shards(found, progress)?;
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
                reason: format!("has none of `{}`; name a file", WEIGHTS.join("`, `")),
            },
            Some(error) => error,
            None => HubError::Client("no file name for weights is known".into()),
        })
    }

    /// Fetches the files that `found` lists if it is an index. They are of the same commit.
    fn with_shards(&self, found: Fetched, progress: &dyn Fn(u64, u64)) -> Result<Fetched, HubError> {
        let mut whole = Fetched { stale: None, ..found };
        for shard in self.shards(&whole)? {
            // The name comes from the Hub: it must stay in the repository.
            let named = HubFile { file: Some(shard.clone()), ..whole.reference.clone() };
            let shard = self.fetch_named(&HubFile::parse(&named.to_string())?, &shard, progress)?;
            whole.bytes += shard.bytes;
            whole.cached &= shard.cached;
        }
        Ok(Fetched { stale: found.stale, ..whole })
    }

    /// Paths in the repository of the files that `found` lists; none unless it is an index.
    fn shards(&self, found: &Fetched) -> Result<Vec<String>, HubError> {
        let name = found.reference.file.as_deref().unwrap_or_default();
        if !shards::is_index(Path::new(name)) {
            return Ok(vec![]);
        }
        let text = std::fs::read(&found.path).map_err(|source| disk(&found.path, source))?;
        let damaged = |reason| HubError::Damaged { reference: found.reference.to_string(), reason };
        let folder = name.rsplit_once('/').map_or(String::new(), |(folder, _)| format!("{folder}/"));
        let listed = shards::listed(&text).map_err(damaged)?;
        Ok(listed.into_iter().map(|name| folder.clone() + &name).collect())
    }

    /// Compares a file in the cache, and those that it lists if it is an index, with their hashes; a damaged file is
    /// removed from the cache.
    ///
    /// # Errors
    /// A file that is damaged or cannot be read.
    pub fn check(&self, found: &Fetched) -> Result<(), HubError> {
        for shard in self.shards(found)? {
            let file = HubFile { file: Some(shard.clone()), ..found.reference.clone() };
            self.check(&self.cached(&file, &shard)?)?;
        }
        let Some(expected) = &found.sha256 else { return Ok(()) };
        let blob = found.path.canonicalize().map_err(|source| disk(&found.path, source))?;
        let actual = content::sha256(&blob)?;
        if actual == *expected {
            return Ok(());
        }
        for path in [&found.path, &blob] {
            std::fs::remove_file(path).map_err(|source| disk(path, source))?;
        }
        let reason = format!(
            "the cached copy was damaged (SHA-256 {actual}, expected {expected}) and has been removed"
        );
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
        // The content is in the cache: this links it into the snapshot and records the revision.
        let path = self.find(&named, name, false).map_err(|e| self.remote.explain(&named, e))?;
        let found = Fetched { cached, ..self.found(&named, name, path)? };
        if found.sha256 != entry.sha256() {
            let reason = "the file was replaced during the download; try again".into();
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

    /// Takes commit and hash from a path `…/snapshots/<commit>/<file>`.
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
