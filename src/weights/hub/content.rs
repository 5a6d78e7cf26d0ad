//! Downloads into the cache: a file appears there once it is complete and has the hash that the Hub states.
//!
//! A partial download is kept in `blobs/<hash>.incomplete`, as Python's library does, and resumed: by this process after an
//! interruption, by the next one after a kill.

use super::error::{HubError, disk};
use super::reference::HubFile;
use super::remote::{Entry, Remote, TRIES, chain};
use sha2::{Digest, Sha256};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

/// Downloads the content of `entry` to `blob` while holding `lock`.
pub(super) fn complete(
    remote: &Remote,
    file: &HubFile,
    entry: &Entry,
    blob: &Path,
    lock: &Path,
    progress: &dyn Fn(u64, u64),
) -> Result<(), HubError> {
    let _lock = hold(lock)?;
    if blob.is_file() {
        return Ok(()); // by the process that held the lock
    }
    make_parent(blob)?;
    let partial = PathBuf::from(format!("{}.incomplete", blob.display()));
    let mut resumed = length(&partial) > 0;
    loop {
        remote.runtime().block_on(append(remote, file, entry, &partial, progress))?;
        let actual = entry.sha256().map(|_| sha256(&partial)).transpose()?;
        if actual == entry.sha256() {
            break;
        }
        remove(&partial)?;
        if !resumed {
            let reason = format!(
                "the download has SHA-256 {}, expected {}; it has been discarded",
                actual.unwrap_or_default(),
                entry.etag
            );
            return Err(HubError::Damaged { reference: file.to_string(), reason });
        }
        resumed = false; // the partial download may be the cause: start over once
    }
    std::fs::rename(&partial, blob).map_err(|source| disk(blob, source))
}

/// Appends the missing bytes to `partial`, with as many requests as necessary.
async fn append(
    remote: &Remote,
    file: &HubFile,
    entry: &Entry,
    partial: &Path,
    progress: &dyn Fn(u64, u64),
) -> Result<(), HubError> {
    let name = file.file.as_deref().unwrap_or_default();
    let broken = |reason: String| HubError::Unreachable { reference: file.to_string(), reason };
    let mut fruitless = 0;
    loop {
        if length(partial) > entry.size {
            remove(partial)?; // of another file
        }
        let from = length(partial);
        let mut out =
            OpenOptions::new().create(true).append(true).open(partial).map_err(|e| disk(partial, e))?;
        progress(from, entry.size);
        if from == entry.size {
            return out.sync_all().map_err(|e| disk(partial, e));
        }
        let (mut response, start) = remote.content(file, name, from).await?;
        if start != from {
            out.set_len(0).map_err(|e| disk(partial, e))?; // the response is the whole file
        }
        let mut done = if start == from { from } else { 0 };
        let ended = loop {
            match response.chunk().await {
                Ok(Some(chunk)) => {
                    out.write_all(&chunk).map_err(|e| disk(partial, e))?;
                    done += chunk.len() as u64;
                    if done > entry.size {
                        break String::new();
                    }
                    progress(done, entry.size);
                }
                Ok(None) => break String::from("the response ended early"),
                Err(error) => break chain(&error.without_url()),
            }
        };
        if done > entry.size {
            remove(partial)?;
            return Err(broken(format!("received more than the {} bytes that the Hub states", entry.size)));
        }
        fruitless = if done > from { 0 } else { fruitless + 1 };
        if done < entry.size && fruitless == TRIES {
            return Err(broken(format!("{ended} ({done} of {} bytes are kept)", entry.size)));
        }
    }
}

/// SHA-256 of a file, in hexadecimal.
pub(super) fn sha256(path: &Path) -> Result<String, HubError> {
    let mut file = File::open(path).map_err(|source| disk(path, source))?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).map_err(|source| disk(path, source))? {
            0 => return Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()),
            n => hasher.update(&buffer[..n]),
        }
    }
}

/// Locks `path`, waiting for other processes that download the same file. Python's library uses the same lock.
fn hold(path: &Path) -> Result<File, HubError> {
    make_parent(path)?;
    let file = File::create(path).map_err(|source| disk(path, source))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => file.lock().map(|()| file).map_err(|source| disk(path, source)),
        Err(TryLockError::Error(source)) => Err(disk(path, source)),
    }
}

fn make_parent(path: &Path) -> Result<(), HubError> {
    let parent = path.parent().unwrap_or(path);
    std::fs::create_dir_all(parent).map_err(|source| disk(parent, source))
}

fn length(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |data| data.len())
}

fn remove(path: &Path) -> Result<(), HubError> {
    std::fs::remove_file(path).map_err(|source| disk(path, source))
}
