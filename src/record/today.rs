//! [`Today`]: compares records with themselves, with each other, and with the files and the program of today.
//!
//! What cannot be true is a [`Fault`], and no table is made from it. What is true but may no longer hold is a mark, which tables
//! show beside the number: another program, another recipe, a record of the old layout.

use super::{RunRecord, SampleUnit, Score, Status, task_hash};
use crate::config::{Choice, Library, Owners, RunConfig, SCRATCH, Stage};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Mark on a record whose standard errors take the frames of a video as independent; tables leave these errors out.
pub(super) const FRAMES: &str =
    "its standard errors take neighbouring video frames as independent; they are not shown";

/// Number of keys that a mark lists.
const KEYS: usize = 4;

/// The files and the program that records are compared with.
pub struct Today<'a> {
    /// The tasks, models and recipes.
    pub library: &'a Library,
    /// Parses the tables of registered parts.
    pub owners: &'a dyn Owners,
    /// [`Build::sources`](super::Build::sources) of the program; `None` compares none.
    pub sources: Option<&'a str>,
}

/// A record that contradicts itself, another record, or a file of today.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("record `{id}`: {reason}")]
pub struct Fault {
    /// Id of the record.
    pub id: String,
    /// The contradiction, and what to do.
    pub reason: String,
}

impl Today<'_> {
    /// Checks all `records` and fills in their [`marks`](RunRecord::marks). `complete` says whether runs that others start from are
    /// expected among them; a record that misses one is marked then.
    pub fn examine(&self, records: &mut [RunRecord], complete: bool) -> Vec<Fault> {
        let mut faults = vec![];
        let mut all_marks = vec![];
        let named = named_weights(records);
        for record in records.iter() {
            let mut fault = |reason: String| faults.push(Fault { id: record.id.clone(), reason });
            contradictions(record).into_iter().for_each(&mut fault);
            self.old_task(record).into_iter().for_each(&mut fault);
            let mut marks: Vec<String> =
                self.program(record).into_iter().chain(self.recipe(record)).collect();
            let own = marks.len();
            match chain(record, records, complete) {
                Ok(found) => marks.extend(found),
                Err(reason) => fault(reason),
            }
            marks.extend(ambiguous(record, &named));
            marks.extend(self.frames(record));
            all_marks.push((marks, own));
        }
        let of: BTreeMap<String, Vec<String>> = records
            .iter()
            .zip(&all_marks)
            .map(|(record, (marks, own))| (record.id.clone(), marks[..*own].to_vec()))
            .collect();
        for (record, (mut marks, _)) in records.iter_mut().zip(all_marks) {
            for before in record.init.run.iter().filter_map(|run| of.get(run)).flatten() {
                if !marks.contains(before) {
                    marks.push(format!("pre-training: {before}"));
                }
            }
            record.marks = marks;
        }
        faults
    }

    /// The manifest of its task must be that of today.
    fn old_task(&self, record: &RunRecord) -> Option<String> {
        let (task, version) = (record.task.as_ref()?, record.task_version?);
        // A task that was named by its path may be unknown here.
        let (text, origin) = self.library.text(&format!("tasks/{task}/task.toml")).ok()?;
        let table: toml::Table = crate::config::parse(&text, &origin).ok()?;
        let now = table.get("version").and_then(toml::Value::as_integer)?;
        if now != i64::from(version) {
            return Some(format!(
                "it has version {version} of task `{task}`, and {origin} has version {now}: the scores do not compare. Make \
                 the run again, or remove its record"
            ));
        }
        let hash = match record.schema {
            1 => {
                // Of the text, as it was before splits for choosing were added.
                let added = |line: &str| line.starts_with("select = ") || line.starts_with("tune = ");
                let text: String = text.split_inclusive('\n').filter(|line| !added(line)).collect();
                blake3::hash(text.as_bytes()).to_hex().to_string()
            }
            _ => task_hash(&text, &origin).ok()?,
        };
        (record.task_hash.as_ref() != Some(&hash)).then(|| {
            format!(
                "`task_hash` is not that of {origin}, which was changed within version {version}: raise `version` there if a \
                 score can change, and make the run again; otherwise restore the file"
            )
        })
    }

    /// A mark on a record of video frames with errors that do not come from resampling sequences.
    fn frames(&self, record: &RunRecord) -> Option<String> {
        // A data set that was named by its path may be unknown here.
        let (text, origin) = self.library.text(&format!("datasets/{}/dataset.toml", record.dataset)).ok()?;
        let table: toml::Table = crate::config::parse(&text, &origin).ok()?;
        let by_image = |score: &Score| {
            score.stderr.is_some() && score.sample.is_none_or(|sample| sample.unit != SampleUnit::Sequence)
        };
        let wrong = table.contains_key("sequences") && record.scores.0.values().any(by_image);
        wrong.then(|| FRAMES.to_string())
    }

    /// A mark on a record of the old layout or of other sources.
    fn program(&self, record: &RunRecord) -> Option<String> {
        let commit = record.environment.made_by();
        if record.schema < RunRecord::SCHEMA {
            return Some(format!(
                "made by {commit}, before records held configurations and hashes of weights"
            ));
        }
        let (then, now) = (record.environment.sources.as_deref()?, self.sources?);
        (then != now).then(|| format!("made by {commit}; the program has changed since"))
    }

    /// A mark on a record whose recipe or model file says something else today.
    fn recipe(&self, record: &RunRecord) -> Option<String> {
        let config = record.config.as_ref()?;
        let name = &record.recipe;
        let Ok(stored) = serde_json::from_value::<RunConfig>(config.clone()) else {
            return Some("this program cannot read its configuration, which is of an earlier layout".into());
        };
        if record.files_hash.is_some() {
            return Some("its recipe or model is a file that is not part of the program".into());
        }
        let mut differing = match self.differing(&stored) {
            Ok(keys) => keys,
            Err(_) => return Some(format!("recipe `{name}` with its overrides is not valid any more")),
        };
        let more = if differing.len() > KEYS { ", …" } else { "" };
        differing.truncate(KEYS);
        (!differing.is_empty())
            .then(|| format!("recipe `{name}` has changed since: {}{more}", differing.join(", ")))
    }

    /// Keys of the recipe and the model of `stored` that the files of today would set otherwise.
    fn differing(&self, stored: &RunConfig) -> Result<Vec<String>, crate::config::ConfigError> {
        let run = &stored.run;
        let choice = Choice { library: self.library, owners: self.owners, overrides: &run.overrides };
        let with = |task: &str| {
            let recipe = choice.recipe(run.stage, &run.recipe, (&run.model, task))?;
            let mut now = RunConfig { recipe, ..stored.clone() };
            // Weights of a run bring their model with them.
            if run.init == SCRATCH {
                now.model = choice.model(&run.model, None)?;
                // The recipe may set the size of the input.
                now.model.image = stored.model.image;
            }
            let keys = stored.differences(&now)?;
            let short = |key: String| key.strip_prefix("recipe.").map_or(key.clone(), String::from);
            Ok::<_, crate::config::ConfigError>(keys.into_iter().map(short).collect::<Vec<_>>())
        };
        let keys = with(run.task.as_deref().unwrap_or_default())?;
        if keys.is_empty() || run.stage == Stage::Transfer {
            return Ok(keys);
        }
        // The configuration of a pre-training does not say for which task it was made.
        let tasks = self.library.list("tasks");
        let others = tasks.iter().filter_map(|task| with(task).ok());
        Ok(others.chain([keys]).min_by_key(Vec::len).unwrap_or_default())
    }
}

/// What cannot be true of one record.
fn contradictions(record: &RunRecord) -> Vec<String> {
    let mut found = vec![];
    let RunRecord { id, config_hash, .. } = record;
    let (_, last) = id.rsplit_once('-').unwrap_or_default();
    let hashed = last.len() == 8 && last.bytes().all(|c| c.is_ascii_hexdigit());
    if hashed && !config_hash.starts_with(last) {
        found
            .push(format!("its id ends in `{last}`, but `config_hash` begins with `{}`", short(config_hash)));
    }
    if record.schema < RunRecord::SCHEMA {
        return found;
    }
    let ended = matches!(record.status, Status::Finished | Status::Truncated);
    let environment = &record.environment;
    let fields = [
        ("config", record.config.is_some()),
        ("weights_hash", record.weights_hash.is_some() || !ended),
        ("data", record.data.is_some()),
        ("environment.processor", environment.processor.is_some()),
    ];
    found.extend(fields.iter().filter(|(_, there)| !there).map(|(name, _)| format!("`{name}` is missing")));
    let Some(config) = &record.config else { return found };
    if !RunConfig::has_hash(config, config_hash).unwrap_or(false) {
        found.push("`config_hash` is not the hash of `config`".into());
    }
    let run = &config["run"];
    let text = |key: &str| run.get(key).and_then(serde_json::Value::as_str);
    let same = [
        ("stage", text("stage") == Some(&record.stage)),
        ("task", text("task") == record.task.as_deref()),
        ("dataset", text("dataset") == Some(&record.dataset)),
        ("model", text("model") == Some(&record.model)),
        ("recipe", text("recipe") == Some(&record.recipe)),
        ("seed", run.get("seed").and_then(serde_json::Value::as_u64) == Some(record.seed)),
        ("init.source", text("init") == Some(&record.init.source)),
        ("init.label", text("init_label") == Some(&record.init.label)),
        ("init.hash", text("init_hash") == record.init.hash.as_deref()),
        ("tokenizer.hash", text("tokenizer_hash") == record.tokenizer.as_ref().map(|t| t.hash.as_str())),
        ("environment.dtype", text("dtype").unwrap_or("f32") == environment.dtype),
        (
            "evaluation.role",
            record.evaluation.as_ref().is_none_or(|e| text("report").unwrap_or("eval") == e.role.as_str()),
        ),
    ];
    found.extend(
        same.iter().filter(|(_, same)| !same).map(|(name, _)| format!("`{name}` is not that of `config`")),
    );
    found
}

/// Compares the weights that a run starts from with the record of the run that made them. Returns marks.
///
/// # Errors
/// Weights that are not those of that run.
fn chain(record: &RunRecord, records: &[RunRecord], complete: bool) -> Result<Vec<String>, String> {
    let init = &record.init;
    let tokenizer = record.tokenizer.as_ref();
    let links = [
        ("initial weights", init.run.as_ref(), &init.source, init.hash.as_ref()),
        (
            "tokenizer",
            tokenizer.and_then(|tokenizer| tokenizer.run.as_ref()),
            tokenizer.map_or(&init.source, |tokenizer| &tokenizer.source),
            tokenizer.map(|tokenizer| &tokenizer.hash),
        ),
    ];
    let mut marks = vec![];
    for (what, run, source, hash) in links {
        let Some(run) = run else { continue };
        let Some(before) = records.iter().find(|other| other.id == *run) else {
            if complete {
                marks.push(format!("{what}: run `{run}` has no record here"));
            }
            continue;
        };
        if before.weights_hash.is_none() || before.weights_hash.as_ref() == hash {
            continue; // the old layout, which is marked anyway
        }
        // A name or a folder means the last weights of the run; the path of a file may mean others.
        if Path::new(source).file_name().is_some_and(|name| *name == **run) {
            return Err(format!(
                "its {what} (blake3 {}…) are not the weights of the record of run `{run}` ({}…): one of the two runs was made \
                 again. Make this run again from those weights",
                hash.map_or("none", |hash| short(hash)),
                before.weights_hash.as_deref().map_or("none", short)
            ));
        }
        marks.push(format!("{what}: not the last weights of run `{run}`"));
    }
    Ok(marks)
}

/// The different weights that records of the old layout call those of one run, by its id.
fn named_weights(records: &[RunRecord]) -> BTreeMap<String, BTreeSet<String>> {
    let mut named: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for record in records.iter().filter(|record| record.schema < RunRecord::SCHEMA) {
        if let (Some(run), Some(hash)) = (&record.init.run, &record.init.hash) {
            named.entry(run.clone()).or_default().insert(hash.clone());
        }
    }
    named.retain(|_, hashes| hashes.len() > 1);
    named
}

/// A mark on a record that starts from weights of a run to which other records give other weights.
fn ambiguous(record: &RunRecord, named: &BTreeMap<String, BTreeSet<String>>) -> Option<String> {
    let (run, hash) = (record.init.run.as_ref()?, record.init.hash.as_ref()?);
    let hashes = named.get(run)?;
    let others: Vec<_> = hashes.iter().filter(|other| *other != hash).map(|other| short(other)).collect();
    let (own, others) = (short(hash), others.join(", "));
    (record.schema < RunRecord::SCHEMA)
        .then(|| format!("initial weights {own}; other records of the same pre-training run have {others}"))
}

/// The start of a hash.
fn short(hash: &str) -> &str {
    hash.get(..8).unwrap_or(hash)
}

#[cfg(test)]
mod tests;
