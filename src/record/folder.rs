//! [`RunFolder`]: the folder of one run, `runs/<id>/`, and its lock.
//!
//! One process writes at a time: a writer holds an `flock` on the file `lock`, which the kernel releases when the process
//! ends for any reason. Readers need no lock, because every file is replaced atomically.

use super::digest::{seal, unseal};
use super::{RunRecord, write_atomic};
use serde_json::Value;
use std::fs::{File, TryLockError};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

/// Errors of run folders and of the run store; each names its file or folder.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// A file or folder cannot be read or written.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried: `read`, `write`, `create`, …
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The error of the operating system.
        source: std::io::Error,
    },
    /// A file has invalid content.
    #[error("{}: {message}", path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// The problem.
        message: String,
    },
    /// Another process writes in the folder.
    #[error("run folder {} is in use by {holder}", path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
        /// Description of the process.
        holder: String,
    },
    /// The folder of a new run already holds a run.
    #[error("run folder {} already exists: resume the run, or choose another folder", path.display())]
    Exists {
        /// The folder.
        path: PathBuf,
    },
    /// There is no such folder.
    #[error("run folder {} does not exist", path.display())]
    Missing {
        /// The folder.
        path: PathBuf,
    },
    /// A record cannot be written without the lock.
    #[error("run folder {} is open for reading only: open it with `RunFolder::open`", path.display())]
    ReadOnly {
        /// The folder.
        path: PathBuf,
    },
    /// No run has this id.
    #[error("there is no run `{id}` in `{}`{known}", root.display())]
    Unknown {
        /// The id that was looked up.
        id: String,
        /// Folder of all runs.
        root: PathBuf,
        /// Similar ids, as the end of the message; empty if there are no runs.
        known: String,
    },
    /// Several ids start with this prefix.
    #[error("run `{prefix}` is ambiguous in {}: {matches}", root.display())]
    Ambiguous {
        /// The prefix that was looked up.
        prefix: String,
        /// Folder of all runs.
        root: PathBuf,
        /// The ids that match.
        matches: String,
    },
}

impl StoreError {
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { action, path: path.into(), source }
    }
    pub(super) fn broken(path: &Path, message: impl std::fmt::Display) -> Self {
        Self::Broken { path: path.into(), message: message.to_string() }
    }
}

/// The folder of one run. It is locked if it comes from [`create`](Self::create) or [`open`](Self::open).
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    lock: Option<Lock>,
}

impl RunFolder {
    /// Creates the folder of a new run and locks it.
    ///
    /// # Errors
    /// [`StoreError::InUse`] if another process writes there, [`StoreError::Exists`] if it already holds a run.
    pub fn create(path: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let path = path.into();
        std::fs::create_dir_all(&path).map_err(StoreError::io("create", &path))?;
        if holds_a_run(&path)? {
            // If another process writes there, its message is more useful.
            if path.join("lock").is_file() {
                lock(&path)?;
            }
            return Err(StoreError::Exists { path });
        }
        let folder = Self { lock: Some(lock(&path)?), path };
        // Another process may have written a run and ended between the two checks above.
        if holds_a_run(&folder.path)? {
            return Err(StoreError::Exists { path: folder.path });
        }
        Ok(folder)
    }

    /// Locks the folder of an existing run in order to continue it.
    ///
    /// # Errors
    /// A folder that does not exist, or that another process writes in.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let path = path.into();
        if !path.is_dir() {
            return Err(StoreError::Missing { path });
        }
        Ok(Self { lock: Some(lock(&path)?), path })
    }

    /// Opens a folder for reading, without a lock; [`write_record`](Self::write_record) is an error then.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), lock: None }
    }

    /// Path of the folder.
    pub fn path(&self) -> &Path {
        &self.path
    }
    /// Id of the run: the name of the folder.
    pub fn id(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }
    /// Path of the resolved configuration, which is written before the first step.
    pub fn config(&self) -> PathBuf {
        self.path.join("config.toml")
    }
    /// Path of the [`RunRecord`].
    pub fn record(&self) -> PathBuf {
        self.path.join("run.json")
    }
    /// Path of the log: one JSON object per line with losses, learning rate and scores over time.
    pub fn log(&self) -> PathBuf {
        self.path.join("log.jsonl")
    }
    /// Path of the weights after the last step.
    pub fn weights(&self) -> PathBuf {
        self.path.join("model.safetensors")
    }
    /// Path of the weights with the best primary score.
    pub fn best(&self) -> PathBuf {
        self.path.join("best.safetensors")
    }
    /// Path of the per-class scores, which only some kinds of task have.
    pub fn by_class(&self) -> PathBuf {
        self.path.join("by_class.json")
    }
    /// Path of the folder of tables and pictures that explain the scores, which only some kinds of task have.
    pub fn report(&self) -> PathBuf {
        self.path.join("report")
    }
    /// Path of the optimizer state and the position in training, for resuming.
    pub fn state(&self) -> PathBuf {
        self.path.join("state.safetensors")
    }

    /// Whether a process is writing in the folder now. A folder that cannot be asked counts as free.
    pub fn is_in_use(&self) -> bool {
        let Ok(file) = File::open(self.path.join("lock")) else { return false };
        matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock))
    }

    /// Replaces `run.json` atomically: after an error, such as a full disk, the old file is still intact.
    ///
    /// JSON cannot represent infinity and NaN, so non-finite losses and scores become notes of the record.
    ///
    /// # Errors
    /// A folder that is open for reading only, or a file that cannot be written.
    pub fn write_record(&self, record: &RunRecord) -> Result<(), StoreError> {
        if self.lock.is_none() {
            return Err(StoreError::ReadOnly { path: self.path.clone() });
        }
        let path = self.record();
        let bytes = record_bytes(record, &path)?;
        parse_record(&bytes, &path)?; // a record that could not be read back is never written
        write_atomic(&path, &bytes).map_err(StoreError::io("write", &path))
    }

    /// Reads the record.
    ///
    /// # Errors
    /// A record that is missing or invalid; the error names the file.
    pub fn read_record(&self) -> Result<RunRecord, StoreError> {
        read_record(&self.record())
    }
}

/// Reads the record at `path`.
///
/// # Errors
/// A record that is missing or invalid, or that was edited after the program wrote it; the error names the file and the key.
pub fn read_record(path: &Path) -> Result<RunRecord, StoreError> {
    let bytes = std::fs::read(path).map_err(StoreError::io("read", path))?;
    Ok(parse_record(&bytes, path)?.0)
}

/// Parses a record; also returns whether it has a digest, which records of schema 1 lack when the program writes them.
pub(super) fn parse_record(bytes: &[u8], path: &Path) -> Result<(RunRecord, bool), StoreError> {
    let mut value: Value = serde_json::from_slice(bytes).map_err(|e| StoreError::broken(path, e))?;
    let schema = value.get("schema").and_then(Value::as_u64);
    if let Some(schema) = schema
        && !(1..=u64::from(RunRecord::SCHEMA)).contains(&schema)
    {
        let known = RunRecord::SCHEMA;
        return Err(StoreError::broken(
            path,
            format!("schema {schema}; this program reads schemas 1 to {known}"),
        ));
    }
    let sealed = unseal(&mut value).map_err(|message| StoreError::broken(path, message))?;
    if !sealed && schema.is_some_and(|schema| schema > 1) {
        return Err(StoreError::broken(
            path,
            "the field `digest` is missing; restore the file, or make the run again",
        ));
    }
    let record = serde_path_to_error::deserialize(value)
        .map_err(|e| StoreError::broken(path, format!("`{}`: {}", e.path(), e.inner())))?;
    Ok((record, sealed))
}

/// The text of a record with its digest; `path` is its name in messages.
pub(super) fn record_bytes(record: &RunRecord, path: &Path) -> Result<Vec<u8>, StoreError> {
    let mut value = serde_json::to_value(finite(record)).map_err(|e| StoreError::broken(path, e))?;
    seal(&mut value);
    let mut bytes = serde_json::to_vec_pretty(&value).map_err(|e| StoreError::broken(path, e))?;
    bytes.push(b'\n');
    Ok(bytes)
}

fn finite(record: &RunRecord) -> RunRecord {
    let mut record = record.clone();
    let notes = &mut record.notes;
    let mut keep = |what: &str, name: &str, value: f64| {
        let note = format!("{what} `{name}` is {value}");
        if !value.is_finite() && !notes.contains(&note) {
            notes.push(note);
        }
        value.is_finite()
    };
    record.losses.retain(|name, loss| keep("loss", name, *loss));
    record.scores.0.retain(|name, score| keep("score", name, score.value));
    for score in record.scores.0.values_mut() {
        score.stderr = score.stderr.filter(|e| e.is_finite());
    }
    record
}

/// Whether the folder contains anything besides the lock file.
fn holds_a_run(path: &Path) -> Result<bool, StoreError> {
    for entry in std::fs::read_dir(path).map_err(StoreError::io("list", path))? {
        if entry.map_err(StoreError::io("list", path))?.file_name() != "lock" {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The locked file. Closing it would not be enough to free the folder: a child that is being started has a copy of every open
/// file for a moment.
#[derive(Debug)]
struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // The kernel frees it at the latest when the process ends.
        let _ = self.0.unlock();
    }
}

/// Acquires an `flock` on `<folder>/lock` without waiting, and writes the process id to the file for messages.
fn lock(folder: &Path) -> Result<Lock, StoreError> {
    let path = folder.join("lock");
    let mut options = File::options();
    let mut file = options
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(StoreError::io("open", &path))?;
    match file.try_lock() {
        Ok(()) => {
            file.set_len(0)
                .and_then(|()| writeln!(file, "{}", std::process::id()))
                .map_err(StoreError::io("write", &path))?;
            Ok(Lock(file))
        }
        Err(TryLockError::WouldBlock) => {
            let holder = match std::fs::read_to_string(&path) {
                Ok(text) if !text.trim().is_empty() => format!("process {}", text.trim()),
                _ => "another process".to_string(),
            };
            Err(StoreError::InUse { path: folder.into(), holder })
        }
        Err(TryLockError::Error(source)) if source.kind() == ErrorKind::Unsupported => {
            Err(StoreError::broken(&path, "this file system does not support locks (flock)"))
        }
        Err(TryLockError::Error(source)) => Err(StoreError::Io { action: "lock", path, source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::run::sample;
    use std::io::{BufRead as _, BufReader};
    use std::process::{Command, Stdio};

    /// Runs one ignored test of this module in a process of its own.
    fn child(name: &str, folder: &Path) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", &format!("record::folder::tests::{name}"), "--ignored", "--nocapture"])
            .env("BENCH_TEST_FOLDER", folder)
            .stdout(Stdio::piped());
        command
    }
    /// The folder that the parent test names; none when somebody runs all ignored tests.
    fn given() -> Option<PathBuf> {
        std::env::var_os("BENCH_TEST_FOLDER").map(PathBuf::from)
    }

    #[test]
    #[ignore = "a child process: `cargo test --lib a_killed_writer_frees_the_folder` runs it"]
    fn hold_the_lock() {
        let Some(path) = given() else { return };
        let _folder = RunFolder::open(path).unwrap();
        println!("\nlocked");
        std::thread::sleep(std::time::Duration::from_secs(60));
    }

    #[test]
    fn a_killed_writer_frees_the_folder() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a");
        drop(RunFolder::create(&path).unwrap());
        let mut writer = child("hold_the_lock", &path).spawn().unwrap();
        let lines = BufReader::new(writer.stdout.take().unwrap()).lines();
        assert!(lines.map_while(Result::ok).any(|line| line == "locked"), "the child takes the lock");
        let error = RunFolder::open(&path).unwrap_err().to_string();
        assert_eq!(error, format!("run folder {} is in use by process {}", path.display(), writer.id()));
        writer.kill().unwrap(); // SIGKILL
        writer.wait().unwrap();
        RunFolder::open(&path).unwrap();
    }

    #[test]
    fn a_copy_of_the_file_in_a_child_does_not_keep_the_lock() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a");
        let folder = RunFolder::create(&path).unwrap();
        let copy = folder.lock.as_ref().unwrap().0.try_clone().unwrap();
        assert!(RunFolder::open(&path).is_err());
        drop(folder);
        drop(RunFolder::open(&path).unwrap());
        drop(copy);
    }

    #[test]
    #[ignore = "a child process: `cargo test --lib a_full_disk_leaves_the_old_record` runs it"]
    fn write_with_no_room() {
        let Some(path) = given() else { return };
        let folder = RunFolder::open(path).unwrap();
        let room = libc::rlimit { rlim_cur: 64, rlim_max: 64 };
        // SAFETY: plain system calls with a valid pointer; they change this child process only.
        unsafe {
            libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
            assert_eq!(libc::setrlimit(libc::RLIMIT_FSIZE, &room), 0);
        }
        let error = folder.write_record(&sample("a")).unwrap_err().to_string();
        assert!(error.starts_with(&format!("cannot write {}", folder.record().display())), "{error}");
    }

    #[test]
    fn a_full_disk_leaves_the_old_record() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a");
        let old = RunRecord { seed: 7, ..sample("a") };
        RunFolder::create(&path).unwrap().write_record(&old).unwrap();
        let output = child("write_with_no_room", &path).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"));
        assert_eq!(RunFolder::at(&path).read_record().unwrap(), old);
        let mut names: Vec<_> = std::fs::read_dir(&path)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["lock", "run.json"], "no temporary file stays");
    }

    #[test]
    fn create_refuses_a_folder_in_use_and_a_folder_with_a_run() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("runs/a");
        let folder = RunFolder::create(&path).unwrap();
        assert!(matches!(RunFolder::create(&path), Err(StoreError::InUse { .. })));
        folder.write_record(&sample("a")).unwrap();
        assert!(matches!(RunFolder::create(&path), Err(StoreError::InUse { .. })));
        drop(folder);
        assert!(matches!(RunFolder::create(&path), Err(StoreError::Exists { .. })));
        assert!(matches!(RunFolder::open(root.path().join("b")), Err(StoreError::Missing { .. })));
        assert!(matches!(RunFolder::at(&path).write_record(&sample("a")), Err(StoreError::ReadOnly { .. })));
    }

    #[test]
    fn what_json_cannot_hold_becomes_a_note() {
        let root = tempfile::tempdir().unwrap();
        let folder = RunFolder::create(root.path().join("a")).unwrap();
        let mut record = sample("a");
        record.losses.insert("mae".into(), f64::NAN);
        record.scores.insert("top1", f64::INFINITY, None);
        folder.write_record(&record).unwrap();
        let read = folder.read_record().unwrap();
        assert_eq!(read.notes, ["loss `mae` is NaN", "score `top1` is inf"]);
        assert!(read.losses.is_empty() && read.scores.is_empty());
        record.throughput.images_per_second = f64::NAN;
        let error = folder.write_record(&record).unwrap_err().to_string();
        assert!(error.contains("throughput.images_per_second"), "{error}");
    }

    #[test]
    fn an_edited_record_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let folder = RunFolder::create(root.path().join("a")).unwrap();
        folder.write_record(&sample("a")).unwrap();
        let text = std::fs::read_to_string(folder.record()).unwrap();
        let refused = |text: String| {
            std::fs::write(folder.record(), text).unwrap();
            folder.read_record().unwrap_err().to_string()
        };
        let error = refused(text.replacen("50.0", "51.0", 1));
        assert!(error.contains("run.json: the content was changed"), "{error}");
        let mut value: serde_json::Value = serde_json::from_str(&text).unwrap();
        value.as_object_mut().unwrap().remove("digest");
        value["schema"] = 2.into();
        assert!(refused(value.to_string()).contains("`digest` is missing"));
        value["schema"] = 1.into(); // written before there were digests
        std::fs::write(folder.record(), value.to_string()).unwrap();
        assert_eq!(folder.read_record().unwrap(), sample("a"));
    }

    #[test]
    fn a_record_of_another_schema_or_with_a_strange_key_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let folder = RunFolder::create(root.path().join("a")).unwrap();
        for (key, expected) in [("schema", "schema 9; this program reads schemas 1 to 2"), ("sede", "sede")] {
            let mut value = serde_json::to_value(sample("a")).unwrap();
            value[key] = 9.into();
            std::fs::write(folder.record(), value.to_string()).unwrap();
            let error = folder.read_record().unwrap_err().to_string();
            assert!(error.contains(expected) && error.contains("run.json"), "{error}");
        }
    }
}
