//! [`publish`]: copies the record of a finished run, and those of the runs whose weights it starts from, to `tasks/*/results`.

use super::folder::record_bytes;
use super::{RunFolder, RunRecord, RunStore, Status, StoreError, Today, file_hash};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// Why a record is not published.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// A run or a record that cannot be read, or a file that cannot be written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A run whose record others should not rely on.
    #[error("run `{id}` is not published: {reason}")]
    Refused {
        /// Id of the run.
        id: String,
        /// The reason, and what to do.
        reason: String,
    },
}

/// A record among the results of a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// Id of the run.
    pub id: String,
    /// Its file.
    pub path: PathBuf,
    /// Whether it was there before.
    pub earlier: bool,
}

/// Publishes `run`, an id, the start of an id, or a folder of a run, below the folder `tasks`: the runs whose weights it starts from
/// first, unless they have been published. `task` says whose results a pre-training run belongs to; by default those of the
/// transfer that starts from it. No file is overwritten.
///
/// # Errors
/// A run that is not finished, was made by a modified or unknown program, has been published, has other weights than its record says,
/// starts from a run without record, or contradicts the files of `today`. Nothing is written then.
pub fn publish(
    store: &RunStore,
    run: &str,
    (tasks, task): (&Path, Option<&str>),
    today: &Today,
) -> Result<Vec<Published>, PublishError> {
    let folder = match RunFolder::at(run) {
        folder if folder.record().is_file() => folder,
        _ => store.find(run)?,
    };
    let committed = RunStore::committed(tasks)?;
    let (mut new, mut published) = (vec![], vec![]);
    gather(store, &folder, &committed, &mut new, &mut published)?;
    let Some(last) = new.last() else { return Ok(published) };
    let Some(task) = last.task.clone().or(task.map(String::from)) else {
        let reason = "a pre-training run belongs to no task; name with --task the task that uses it, or publish a transfer \
                      run that starts from it";
        return Err(refused(&last.id, reason));
    };
    if !tasks.join(&task).is_dir() {
        let reason = format!(
            "there is no folder `{}`; run the command at the root of the repository, or name the folder of \
                              tasks with --tasks",
            tasks.join(&task).display()
        );
        return Err(refused(&last.id, &reason));
    }
    let mut all: Vec<RunRecord> = committed.into_values().map(|(_, record)| record).collect();
    all.extend(new.iter().cloned());
    if let Some(fault) = today.examine(&mut all, true).into_iter().find(|f| new.iter().any(|r| r.id == f.id))
    {
        return Err(PublishError::Refused { id: fault.id, reason: fault.reason });
    }
    let results = tasks.join(&task).join("results");
    std::fs::create_dir_all(&results).map_err(StoreError::io("create", &results))?;
    for record in new {
        let path = results.join(format!("{}.json", record.id));
        let bytes = record_bytes(&record, &path)?;
        File::create_new(&path)
            .and_then(|mut file| file.write_all(&bytes).and_then(|()| file.sync_all()))
            .map_err(StoreError::io("write", &path))?;
        published.push(Published { id: record.id, path, earlier: false });
    }
    Ok(published)
}

/// Adds the record in `folder` to `new`, after those of the runs whose weights it starts from.
fn gather(
    store: &RunStore,
    folder: &RunFolder,
    committed: &BTreeMap<String, (PathBuf, RunRecord)>,
    new: &mut Vec<RunRecord>,
    published: &mut Vec<Published>,
) -> Result<(), PublishError> {
    let record = folder.read_record()?;
    if let Some((path, _)) = committed.get(&record.id) {
        let reason = format!("`{}` is there already, and records are not overwritten", path.display());
        return Err(refused(&record.id, &reason));
    }
    reliable(&record, folder)?;
    let tokenizer = record.tokenizer.as_ref();
    let before = [
        (record.init.run.as_ref(), record.init.hash.as_ref()),
        (tokenizer.and_then(|t| t.run.as_ref()), tokenizer.map(|t| &t.hash)),
    ];
    for (run, hash) in before {
        let Some(run) = run else { continue };
        if let Some((path, _)) = committed.get(run) {
            published.push(Published { id: run.clone(), path: path.clone(), earlier: true });
            continue;
        }
        if new.iter().any(|other| other.id == *run) {
            continue;
        }
        // The weights may lie beside another folder of runs; their record then lies beside them.
        let named = Path::new(&record.init.source);
        let beside = RunFolder::at(if named.is_file() { named.parent().unwrap_or(named) } else { named });
        let found = match beside.record().is_file() && beside.id() == *run {
            true => Ok(beside),
            false => store.find(run),
        };
        let found = found.map_err(|error| {
            let reason = format!("it starts from run `{run}`, which has no record: {error}; name its folder of runs with --runs, \
                                  or make both runs again");
            refused(&record.id, &reason)
        })?;
        gather(store, &found, committed, new, published)?;
        if hash.is_none() {
            return Err(refused(
                &record.id,
                "its record has no hash of the weights that it starts from; make it again",
            ));
        }
    }
    new.push(record);
    Ok(())
}

/// Checks what the record of a run, and the weights in its folder, say of each other and of the program.
fn reliable(record: &RunRecord, folder: &RunFolder) -> Result<(), PublishError> {
    let environment = &record.environment;
    let reason = if record.schema < RunRecord::SCHEMA {
        "a version of the program made it that did not record configurations and hashes of weights; make it again".into()
    } else if record.status != Status::Finished {
        format!(
            "it is not finished (status {:?}, {} of {} steps); continue it with --resume",
            record.status, record.steps_done, record.steps_planned
        )
    } else if environment.dirty {
        "the program that made it was built from sources with uncommitted changes (`dirty`); commit them, build, and make the \
         run again"
            .into()
    } else if environment.commit.is_none() {
        "the program that made it does not know its commit; build it in a clone of the repository, and make the run again".into()
    } else {
        let path = folder.weights();
        let hash = file_hash(&path).map_err(StoreError::io("read", &path))?;
        if record.weights_hash == Some(hash) {
            return Ok(());
        }
        format!(
            "`{}` is not the file of weights that its record describes; make the run again",
            path.display()
        )
    };
    Err(refused(&record.id, &reason))
}

fn refused(id: &str, reason: &str) -> PublishError {
    PublishError::Refused { id: id.into(), reason: reason.into() }
}
