//! `log.jsonl`: one JSON object a line, without clock times, so that two runs of one configuration write the
//! same bytes. A resumed run truncates the file to its length at the time of the saved state and appends to it.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

pub struct RunLog {
    path: PathBuf,
    file: File,
    length: u64,
}

impl RunLog {
    /// Opens the log at `path`, keeping its first `length` bytes.
    pub fn open(path: &Path, length: u64) -> Result<Self> {
        let context = || format!("cannot open the log `{}`", path.display());
        let mut file =
            OpenOptions::new().create(true).write(true).truncate(false).open(path).with_context(context)?;
        let found = file.metadata().with_context(context)?.len();
        ensure!(
            found >= length,
            "`{}` has {found} bytes, but had {length} when the state was saved",
            path.display()
        );
        file.set_len(length).with_context(context)?;
        file.seek(SeekFrom::End(0)).with_context(context)?;
        Ok(Self { path: path.into(), file, length })
    }

    pub fn line(&mut self, value: &Value) -> Result<()> {
        let line = format!("{value}\n");
        self.file
            .write_all(line.as_bytes())
            .with_context(|| format!("cannot write the log `{}`", self.path.display()))?;
        self.length += line.len() as u64;
        Ok(())
    }

    /// Flushes the log to disk and returns its length in bytes.
    pub fn sync(&mut self) -> Result<u64> {
        self.file.sync_data().with_context(|| format!("cannot write the log `{}`", self.path.display()))?;
        Ok(self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::RunLog;
    use serde_json::json;

    #[test]
    fn a_resumed_log_forgets_what_came_after_the_state() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.jsonl");
        let mut log = RunLog::open(&path, 0).unwrap();
        log.line(&json!({"step": 1})).unwrap();
        let length = log.sync().unwrap();
        log.line(&json!({"step": 2})).unwrap();
        drop(log);
        let mut log = RunLog::open(&path, length).unwrap();
        log.line(&json!({"step": 3})).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"step\":1}\n{\"step\":3}\n");
        assert!(RunLog::open(&path, 1000).is_err());
    }
}
