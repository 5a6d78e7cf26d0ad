//! [`RunRecord`]: the record of one run, with the origin of every number in a table.

use super::environment::{Environment, Throughput};
use super::score::Scores;
use crate::config::{ReconstructionTarget, Reported, changing};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// All planned steps are done.
    Finished,
    /// Stopped at `--max-steps`.
    Truncated,
    /// Stopped by Ctrl-C or a crash; can be resumed.
    Interrupted,
    /// Stopped by an error.
    Failed,
}

/// Origin of the initial weights of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InitRecord {
    /// `scratch`, a run id, or a file name.
    pub source: String,
    /// Label in tables: `scratch`, `mae`, or the name of the file without its extension.
    pub label: String,
    /// blake3 of the weight file, in hexadecimal; `None` for `scratch`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<String>,
    /// Id of the run that made them, if it was a run. If that run has a record, its [`RunRecord::weights_hash`] is `hash`,
    /// unless `source` is another file of the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
    /// Seed of the run that made them; `None` if it has no record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// The target of their pre-training; `None` if unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<ReconstructionTarget>,
    /// How the run that made them was trained; `None` if it has no record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trained: Option<InitTraining>,
}

/// Origin of the tokenizer of a pre-training run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenizerRecord {
    /// A run id or a file name.
    pub source: String,
    /// blake3 of its weights file, in hexadecimal.
    pub hash: String,
    /// Id of the run that trained it, if it was a run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
}

/// Hash of the files that a run read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataRecord {
    /// blake3 in hexadecimal.
    pub hash: String,
    /// Number of files.
    pub files: u64,
    /// Their total size in bytes.
    pub bytes: u64,
    /// What the hash covers.
    pub covers: DataCover,
}

/// What a hash of files covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DataCover {
    /// Every byte.
    Contents,
    /// The sizes of the files only, because reading all of them would take long.
    Sizes,
}

/// How initial weights were trained. Weights that differ here never share a cell of a table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InitTraining {
    /// Name of the recipe.
    pub recipe: String,
    /// Name of the data set.
    pub dataset: String,
    /// `--set` overrides as typed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub overrides: Vec<String>,
    /// Number of optimizer steps that were done.
    pub steps_done: u64,
    /// Number of optimizer steps that the recipe planned.
    pub steps_planned: u64,
}

impl InitTraining {
    /// The training of `run`, whose weights another run starts from.
    pub fn of(run: &RunRecord) -> Self {
        Self {
            recipe: run.recipe.clone(),
            dataset: run.dataset.clone(),
            overrides: run.overrides.clone(),
            steps_done: run.steps_done,
            steps_planned: run.steps_planned,
        }
    }

    /// `10 of 1200 steps` if training stopped early, otherwise `None`.
    pub fn cut_short(&self) -> Option<String> {
        let (done, planned) = (self.steps_done, self.steps_planned);
        (done < planned).then(|| format!("{done} of {planned} steps"))
    }
}

impl std::fmt::Display for InitTraining {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "from {} on {}", self.recipe, self.dataset)?;
        changing(&self.overrides).iter().try_for_each(|set| write!(f, " {set}"))?;
        self.cut_short().map_or(Ok(()), |steps| write!(f, ", {steps}"))
    }
}

/// On which splits a run was scored, and its best weights were chosen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvaluationRecord {
    /// Name of the split behind the scores.
    pub split: String,
    /// What that split is for.
    pub role: Reported,
    /// Number of evaluations on it. Choices that are made after the first are made on what is reported.
    pub times: u64,
    /// Name of the split on which `best.safetensors` was chosen; `None` if nothing was chosen. The scores are those of the last
    /// weights in any case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub best_on: Option<String>,
    /// The best primary score on that split, and when it was reached; absent if nothing was chosen and in earlier records.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub best: Option<BestScore>,
}

/// The best primary score of the evaluations of a run. The weights that have it are in `best.safetensors`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BestScore {
    /// The score.
    pub value: f64,
    /// Number of optimizer steps after which the weights had it.
    pub step: u64,
}

impl EvaluationRecord {
    /// What a reader of reported scores should know: more than one look at the split.
    pub fn caveat(&self) -> Option<String> {
        let Self { split, role, times, best_on, .. } = self;
        if *role != Reported::Eval || *times < 2 {
            return None;
        }
        let chosen = best_on.as_ref().filter(|best_on| *best_on == split);
        let chosen =
            chosen.map_or("", |_| ", and its best weights were chosen there; the last ones are reported");
        Some(format!("evaluated {times} times on the reported split{chosen}"))
    }
}

/// Record of one run (task × model × recipe × initial weights × seed), stored as `runs/<id>/run.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunRecord {
    /// Version of this layout: [`RunRecord::SCHEMA`].
    pub schema: u32,
    /// Id of the run, which is also the name of its folder.
    pub id: String,
    /// `pretrain` or `transfer`.
    pub stage: String,
    /// The command line that makes this run. Schema 1: the command line that was typed, which may be that of a whole suite.
    pub command: String,
    /// Name of the task; `None` for pre-training.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    /// Version of the task; `None` for pre-training.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task_version: Option<u32>,
    /// Hash of the task's manifest ([`task_hash`](super::task_hash)), in schema 1 blake3 of its text; `None` for pre-training.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task_hash: Option<String>,
    /// Name of the data set.
    pub dataset: String,
    /// blake3 of the ids and annotations in the splits that the run used.
    pub dataset_fingerprint: String,
    /// Hash of the files of those splits; absent in schema 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<DataRecord>,
    /// Name of the model.
    pub model: String,
    /// Name of the recipe.
    pub recipe: String,
    /// blake3 of the resolved configuration.
    pub config_hash: String,
    /// The resolved configuration without paths of the machine: a [`RunConfig`](crate::config::RunConfig); absent in schema 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<serde_json::Value>,
    /// blake3 of the model and the recipe, without seed and initial weights, if one of them was named by the path of a
    /// file: files of one name may differ.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files_hash: Option<String>,
    /// `--set` overrides as typed.
    #[serde(default)]
    pub overrides: Vec<String>,
    /// Seed of all random numbers.
    pub seed: u64,
    /// Origin of the initial weights.
    pub init: InitRecord,
    /// Origin of the tokenizer, if the objective has one; absent in schema 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<TokenizerRecord>,
    /// blake3 of the weights file of the run, in hexadecimal; absent in schema 1 and if the run wrote none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights_hash: Option<String>,
    /// The program and the machine.
    pub environment: Environment,
    /// Time and memory.
    pub throughput: Throughput,
    /// Number of optimizer steps that the recipe plans.
    pub steps_planned: u64,
    /// Number of optimizer steps that are done.
    pub steps_done: u64,
    /// Number of unreadable images that were skipped, as the recipe allows.
    #[serde(default)]
    pub skipped: u64,
    /// The score that ranks runs of this task; `None` for pre-training without held-out images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub primary: Option<String>,
    /// On which splits the run was scored and weights were chosen; `None` for pre-training and in earlier records.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evaluation: Option<EvaluationRecord>,
    /// Scores on the reported split; in pre-training the loss of held-out images, if there are any.
    #[serde(default)]
    pub scores: Scores,
    /// Last training losses by name.
    #[serde(default)]
    pub losses: BTreeMap<String, f64>,
    /// How the run ended.
    pub status: Status,
    /// Error message of a failed run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Remarks for readers of the record (`cached features`, `reduced scale`, …).
    #[serde(default)]
    pub notes: Vec<String>,
    /// What was left out of the data, or understood in a way of which a reader should know, with counts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub data_notes: Vec<String>,
    /// What readers of tables should know although the record does not say it ([`Today`](super::Today)); not stored.
    #[serde(skip)]
    pub marks: Vec<String>,
}

impl RunRecord {
    /// Version of the layout that this program writes. It also reads version 1, which has no configuration, no hashes of
    /// weights and files, and no description of the processor.
    pub const SCHEMA: u32 = 2;

    /// The overrides that distinguish the run in tables: those of keys that can change its result.
    pub fn variant(&self) -> Vec<String> {
        changing(&self.overrides)
    }
}

/// A finished transfer run, for tests.
#[cfg(test)]
pub(super) fn sample(id: &str) -> RunRecord {
    let mut scores = Scores::default();
    scores.insert("top1", 50., Some(0.5));
    RunRecord {
        schema: 1,
        id: id.into(),
        stage: "transfer".into(),
        command: "bench transfer --task tiny --recipe finetune".into(),
        task: Some("tiny".into()),
        task_version: Some(1),
        task_hash: Some("aa".into()),
        dataset: "tiny".into(),
        dataset_fingerprint: "f1f1".into(),
        data: None,
        model: "vit_b16".into(),
        recipe: "finetune".into(),
        config_hash: "cc".into(),
        config: None,
        files_hash: None,
        overrides: vec![],
        seed: 0,
        init: InitRecord {
            source: "scratch".into(),
            label: "scratch".into(),
            hash: None,
            run: None,
            seed: None,
            target: None,
            trained: None,
        },
        tokenizer: None,
        weights_hash: None,
        environment: Environment {
            version: "0.1.0".into(),
            commit: Some("0123456789ab".into()),
            dirty: false,
            device: "cpu".into(),
            dtype: "f32".into(),
            world_size: 1,
            threads: 1,
            jpeg_decoder: None,
            sources: None,
            versions: BTreeMap::new(),
            processor: None,
        },
        throughput: Throughput::default(),
        steps_planned: 10,
        steps_done: 10,
        skipped: 0,
        primary: Some("top1".into()),
        evaluation: None,
        scores,
        losses: BTreeMap::new(),
        status: Status::Finished,
        error: None,
        notes: vec![],
        data_notes: vec![],
        marks: vec![],
    }
}
