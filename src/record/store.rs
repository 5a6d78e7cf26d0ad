//! [`RunStore`]: the folder `runs/`, which is read without locks, and the records that are committed under `tasks/`.
//!
//! A record that cannot be read is an error that names its file: no run is skipped silently.

use super::folder::parse_record;
use super::{RunFolder, RunRecord, Status, StoreError, read_record};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A folder of runs.
#[derive(Clone, Debug)]
pub struct RunStore {
    root: PathBuf,
}

impl RunStore {
    /// The store in the folder `root` (`runs/`), which need not exist yet.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Folder of all runs.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Folder of the run `id`, which need not exist.
    pub fn path(&self, id: &str) -> PathBuf {
        self.root.join(id)
    }

    /// Sorted ids of all runs: the folders that hold a configuration or a record.
    ///
    /// # Errors
    /// A folder that cannot be listed.
    pub fn ids(&self) -> Result<Vec<String>, StoreError> {
        let ids = list(&self.root)?.into_iter().filter_map(|path| {
            let run = RunFolder::at(&path);
            (run.config().is_file() || run.record().is_file()).then(|| run.id())
        });
        Ok(ids.collect())
    }

    /// Finds the run with this id, or the only run whose id starts with it, and opens its folder for reading.
    ///
    /// # Errors
    /// An unknown id (with similar ones in the message), or a prefix that matches several.
    pub fn find(&self, id_or_prefix: &str) -> Result<RunFolder, StoreError> {
        let ids = self.ids()?;
        if ids.iter().any(|id| id == id_or_prefix) {
            return Ok(RunFolder::at(self.path(id_or_prefix)));
        }
        let matches: Vec<_> = ids.iter().filter(|id| id.starts_with(id_or_prefix)).cloned().collect();
        match matches.as_slice() {
            [id] => Ok(RunFolder::at(self.path(id))),
            [] => Err(StoreError::Unknown {
                id: id_or_prefix.into(),
                root: self.root.clone(),
                known: near_misses(id_or_prefix, &ids),
            }),
            several => Err(StoreError::Ambiguous {
                prefix: id_or_prefix.into(),
                root: self.root.clone(),
                matches: several.join(", "),
            }),
        }
    }

    /// Reads the records of all runs that have one, sorted by id.
    ///
    /// # Errors
    /// A record that cannot be read, or that is in the folder of another run (a copy would be counted twice).
    pub fn records(&self) -> Result<Vec<RunRecord>, StoreError> {
        self.each_record()?.collect()
    }

    /// Like [`RunStore::records`], but returns the errors of unreadable records beside the readable ones.
    ///
    /// # Errors
    /// A folder that cannot be listed.
    pub fn readable_records(&self) -> Result<(Vec<RunRecord>, Vec<StoreError>), StoreError> {
        let (mut records, mut broken) = (vec![], vec![]);
        for record in self.each_record()? {
            match record {
                Ok(record) => records.push(record),
                Err(error) => broken.push(error),
            }
        }
        Ok((records, broken))
    }

    fn each_record(&self) -> Result<impl Iterator<Item = Result<RunRecord, StoreError>>, StoreError> {
        let record = |id: String| {
            let path = RunFolder::at(self.path(&id)).record();
            path.is_file().then(|| {
                let record = read_record(&path)?;
                if record.id != id {
                    let message = format!("the record of run `{}` is in the folder `{id}`", record.id);
                    return Err(StoreError::broken(&path, message));
                }
                Ok(record)
            })
        };
        Ok(self.ids()?.into_iter().filter_map(record))
    }

    /// The most recently written record of a finished run of `stage` (`pretrain` or `transfer`) that passes `filter`.
    ///
    /// # Errors
    /// A record that cannot be read.
    pub fn newest_finished(
        &self,
        stage: &str,
        filter: impl Fn(&RunRecord) -> bool,
    ) -> Result<Option<RunRecord>, StoreError> {
        let mut newest = None;
        for record in self.records()? {
            if record.stage != stage || record.status != Status::Finished || !filter(&record) {
                continue;
            }
            let path = RunFolder::at(self.path(&record.id)).record();
            let modified =
                path.metadata().and_then(|m| m.modified()).map_err(StoreError::io("read", &path))?;
            // Records are sorted by id: of two with the same time, the later id wins.
            if newest.as_ref().is_none_or(|(time, _)| modified >= *time) {
                newest = Some((modified, record));
            }
        }
        Ok(newest.map(|(_, record)| record))
    }

    /// Reads the committed records in a folder of tasks, `<tasks>/<task>/results/*.json`, sorted by id.
    ///
    /// # Errors
    /// A record that cannot be read, has no digest, was edited, belongs to another task, is in a file of another name, or exists
    /// twice.
    pub fn read_committed(tasks: &Path) -> Result<Vec<RunRecord>, StoreError> {
        Ok(Self::committed(tasks)?.into_values().map(|(_, record)| record).collect())
    }

    /// The committed records by id, each with its file.
    ///
    /// # Errors
    /// The errors of [`RunStore::read_committed`].
    pub fn committed(tasks: &Path) -> Result<BTreeMap<String, (PathBuf, RunRecord)>, StoreError> {
        let mut records: BTreeMap<String, (PathBuf, RunRecord)> = BTreeMap::new();
        for home in list(tasks)? {
            let task = home.file_name().unwrap_or_default().to_string_lossy().into_owned();
            for path in list(&home.join("results"))? {
                if path.extension().is_none_or(|e| e != "json") {
                    continue;
                }
                let record = read_committed_file(&path)?;
                if record.task.as_ref().is_some_and(|t| *t != task) {
                    let other = record.task.unwrap_or_default();
                    let message = format!("a record of task `{other}` among the results of `{task}`");
                    return Err(StoreError::broken(&path, message));
                }
                if let Some((first, _)) = records.get(&record.id) {
                    let message = format!("run `{}` is also in {}", record.id, first.display());
                    return Err(StoreError::broken(&path, message));
                }
                records.insert(record.id.clone(), (path, record));
            }
        }
        Ok(records)
    }
}

/// Reads the committed record at `path`.
fn read_committed_file(path: &Path) -> Result<RunRecord, StoreError> {
    let bytes = std::fs::read(path).map_err(StoreError::io("read", path))?;
    let (record, sealed) = parse_record(&bytes, path)?;
    let message = match path.file_stem().is_some_and(|name| *name == *record.id) {
        true if sealed => return Ok(record),
        true => "the field `digest` is missing; publish the run by `bench record add`".into(),
        false => format!("the record of run `{0}`; its file must be `{0}.json`", record.id),
    };
    Err(StoreError::broken(path, message))
}

/// Entries of a folder, sorted by bytes; none if it does not exist.
fn list(folder: &Path) -> Result<Vec<PathBuf>, StoreError> {
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let mut paths = std::fs::read_dir(folder)
        .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>, _>>())
        .map_err(StoreError::io("list", folder))?;
    paths.sort();
    Ok(paths)
}

/// "; nearest: " with the five ids that are most similar to `id`, and the number of the others; empty without any.
fn near_misses(id: &str, ids: &[String]) -> String {
    if ids.is_empty() {
        return String::new();
    }
    let mut nearest: Vec<_> = ids.iter().map(|k| (strsim::damerau_levenshtein(id, k), k.as_str())).collect();
    nearest.sort();
    let shown: Vec<_> = nearest.iter().take(5).map(|(_, k)| *k).collect();
    let rest = ids.len() - shown.len();
    let more = if rest > 0 { format!(" and {rest} more") } else { String::new() };
    format!("; nearest: {}{more}", shown.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::folder::record_bytes;
    use crate::record::run::sample;
    use std::time::{Duration, SystemTime};

    fn store(ids: &[&str]) -> (tempfile::TempDir, RunStore) {
        let root = tempfile::tempdir().unwrap();
        let store = RunStore::new(root.path().join("runs"));
        for id in ids {
            RunFolder::create(store.path(id)).unwrap().write_record(&sample(id)).unwrap();
        }
        (root, store)
    }

    #[test]
    fn a_run_is_found_by_id_or_by_a_unique_prefix() {
        let (_root, store) = store(&["mae-1", "mae-12", "scratch"]);
        assert_eq!(store.find("mae-1").unwrap().id(), "mae-1", "an exact id is not ambiguous");
        assert_eq!(store.find("scr").unwrap().id(), "scratch");
        let error = store.find("mae").unwrap_err().to_string();
        assert!(error.contains("ambiguous") && error.ends_with("mae-1, mae-12"), "{error}");
        let error = store.find("mea-12").unwrap_err().to_string();
        assert!(error.contains("nearest: mae-12, mae-1, scratch"), "{error}");
    }

    #[test]
    fn an_absent_store_is_empty() {
        let (_root, store) = store(&[]);
        assert!(store.records().unwrap().is_empty());
        assert!(
            store
                .find("x")
                .unwrap_err()
                .to_string()
                .ends_with(&format!("`x` in `{}`", store.root().display()))
        );
    }

    #[test]
    fn records_are_sorted_and_a_broken_or_copied_one_is_named() {
        let (_root, store) = store(&["b", "a"]);
        let ids = |records: Vec<RunRecord>| records.into_iter().map(|r| r.id).collect::<Vec<_>>();
        assert_eq!(ids(store.records().unwrap()), ["a", "b"]);
        let path = store.path("c").join("run.json");
        std::fs::create_dir(store.path("c")).unwrap();
        std::fs::copy(store.path("a").join("run.json"), &path).unwrap();
        let error = store.records().unwrap_err().to_string();
        assert!(error.contains("the record of run `a` is in the folder `c`"), "{error}");
        let (readable, broken) = store.readable_records().unwrap();
        assert_eq!((ids(readable), broken.len()), (vec!["a".into(), "b".into()], 1));
        std::fs::write(&path, "{").unwrap();
        let error = store.records().unwrap_err().to_string();
        assert!(error.starts_with(&path.display().to_string()), "{error}");
    }

    #[test]
    fn the_newest_finished_run_is_the_one_written_last() {
        let (_root, store) = store(&["a", "b", "c"]);
        let write = |id: &str, seconds: u64, edit: &dyn Fn(&mut RunRecord)| {
            let folder = RunFolder::open(store.path(id)).unwrap();
            let mut record = sample(id);
            edit(&mut record);
            folder.write_record(&record).unwrap();
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            std::fs::File::options().append(true).open(folder.record()).unwrap().set_modified(time).unwrap();
        };
        write("a", 200, &|_| ());
        write("b", 100, &|_| ());
        write("c", 300, &|r| r.status = Status::Interrupted);
        let newest = |stage: &str, model: &str| {
            store.newest_finished(stage, |r| r.model == model).unwrap().map(|r| r.id)
        };
        assert_eq!(newest("transfer", &sample("a").model).as_deref(), Some("a"));
        assert_eq!(newest("pretrain", &sample("a").model), None);
        assert_eq!(newest("transfer", "another"), None);
    }

    #[test]
    fn committed_records_lie_with_their_task_and_once() {
        let root = tempfile::tempdir().unwrap();
        let task = sample("a").task.unwrap();
        let write = |task: &str, file: &str, text: &[u8]| {
            let folder = root.path().join(task).join("results");
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join(file), text).unwrap();
        };
        let refused = || RunStore::read_committed(root.path()).unwrap_err().to_string();
        let text = |id: &str| record_bytes(&sample(id), Path::new(id)).unwrap();
        write(&task, "b.json", &text("b"));
        write(&task, "a.json", &text("a"));
        write(&task, "read.me", b"never read");
        let ids: Vec<_> = RunStore::read_committed(root.path()).unwrap().into_iter().map(|r| r.id).collect();
        assert_eq!(ids, ["a", "b"]);
        write(&task, "c.json", &text("b"));
        let error = refused();
        assert!(error.contains("c.json: the record of run `b`; its file must be `b.json`"), "{error}");
        write(&task, "c.json", serde_json::to_string(&sample("c")).unwrap().as_bytes());
        let error = refused();
        assert!(error.contains("`digest` is missing") && error.contains("bench record add"), "{error}");
        write("another", "a.json", &text("a"));
        let error = refused();
        assert!(error.contains("among the results of `another`"), "{error}");
        let pretraining = RunRecord { task: None, ..sample("a") };
        write("another", "a.json", &record_bytes(&pretraining, Path::new("a")).unwrap());
        write(&task, "c.json", &text("c"));
        let error = refused();
        assert!(error.contains("run `a` is also in"), "{error}");
    }
}
