//! [`RunRecord`]: everything a reader of a table can ask about one cell.

use crate::config::ReconstructionTarget;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Unit of a score as stored: percentages are stored as 0–100.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    Percent,
    Plain,
}

/// Direction of a score.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Better {
    Higher,
    Lower,
}

/// A score that a kind declares before it measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ScoreSpec {
    pub name: &'static str,
    pub unit: Unit,
    pub better: Better,
}

/// A measured value with its standard error over the evaluation split, where one is known.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Score {
    pub value: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stderr: Option<f64>,
}

/// Scores by name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Scores(pub BTreeMap<String, Score>);

impl Scores {
    pub fn insert(&mut self, name: impl Into<String>, value: f64, stderr: Option<f64>) {
        self.0.insert(name.into(), Score { value, stderr });
    }
    pub fn get(&self, name: &str) -> Option<Score> {
        self.0.get(name).copied()
    }
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// All planned steps done.
    Finished,
    /// Stopped at `--max-steps`.
    Truncated,
    /// Ctrl-C or a crash; can be resumed.
    Interrupted,
    /// Stopped by an error.
    Failed,
}

/// Where the weights of a run came from: the join of every table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InitRecord {
    /// `scratch`, a run id, or a file name.
    pub source: String,
    /// What made it, for a table: `scratch`, `mae`, or the file's stem.
    pub label: String,
    /// blake3 of the weights file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<String>,
    /// The pre-training run, when it was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
    /// What their pre-training predicted, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<ReconstructionTarget>,
    /// How the run that made them was trained, where it has a record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trained: Option<InitTraining>,
}

/// How initial weights were trained. Weights that differ here do not share a cell of a table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InitTraining {
    pub recipe: String,
    pub dataset: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub overrides: Vec<String>,
    pub steps_done: u64,
    pub steps_planned: u64,
}

impl InitTraining {
    pub fn of(run: &RunRecord) -> Self {
        Self {
            recipe: run.recipe.clone(),
            dataset: run.dataset.clone(),
            overrides: run.overrides.clone(),
            steps_done: run.steps_done,
            steps_planned: run.steps_planned,
        }
    }

    /// `10 of 1200 steps`, where training was cut short.
    pub fn cut_short(&self) -> Option<String> {
        let (done, planned) = (self.steps_done, self.steps_planned);
        (done < planned).then(|| format!("{done} of {planned} steps"))
    }
}

impl std::fmt::Display for InitTraining {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "from {} on {}", self.recipe, self.dataset)?;
        self.overrides.iter().try_for_each(|set| write!(f, " {set}"))?;
        self.cut_short().map_or(Ok(()), |steps| write!(f, ", {steps}"))
    }
}

/// The program and the machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Environment {
    /// `bench` version.
    pub version: String,
    /// Commit the program was built from, and whether the tree had changes.
    pub commit: Option<String>,
    pub dirty: bool,
    pub device: String,
    pub dtype: String,
    pub world_size: usize,
    pub threads: usize,
    /// Library that decodes JPEG, where it is not that of the default build.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jpeg_decoder: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Throughput {
    pub wall_seconds: f64,
    pub images_per_second: f64,
    pub peak_memory_mb: Option<f64>,
}

/// One run = task × model × recipe × init × seed. Stored as `runs/<id>/run.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunRecord {
    /// Version of this layout.
    pub schema: u32,
    pub id: String,
    /// `pretrain` or `transfer`.
    pub stage: String,
    /// The exact command line.
    pub command: String,
    /// Task id; absent for pre-training.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task_version: Option<u32>,
    /// blake3 of the task manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task_hash: Option<String>,
    pub dataset: String,
    /// blake3 over the ids and annotations of the splits used.
    pub dataset_fingerprint: String,
    pub model: String,
    pub recipe: String,
    /// blake3 of the resolved configuration.
    pub config_hash: String,
    /// `--set` overrides as typed.
    #[serde(default)]
    pub overrides: Vec<String>,
    pub seed: u64,
    pub init: InitRecord,
    pub environment: Environment,
    pub throughput: Throughput,
    pub steps_planned: u64,
    pub steps_done: u64,
    /// Unreadable images skipped (allowed by the recipe).
    #[serde(default)]
    pub skipped: u64,
    /// Score that ranks runs of this task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub primary: Option<String>,
    #[serde(default)]
    pub scores: Scores,
    /// Last training losses by name.
    #[serde(default)]
    pub losses: BTreeMap<String, f64>,
    pub status: Status,
    /// The error, when failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What a reader must know (`cached features`, `reduced scale`, …).
    #[serde(default)]
    pub notes: Vec<String>,
}

impl RunRecord {
    pub const SCHEMA: u32 = 1;
}

/// A finished transfer run, for the tests of this module tree.
#[cfg(test)]
pub(super) fn sample(id: &str) -> RunRecord {
    let mut scores = Scores::default();
    scores.insert("top1", 50., Some(0.5));
    RunRecord {
        schema: RunRecord::SCHEMA,
        id: id.into(),
        stage: "transfer".into(),
        command: "bench transfer --task tiny --recipe finetune".into(),
        task: Some("tiny".into()),
        task_version: Some(1),
        task_hash: Some("aa".into()),
        dataset: "tiny".into(),
        dataset_fingerprint: "f1f1".into(),
        model: "vit_b16".into(),
        recipe: "finetune".into(),
        config_hash: "cc".into(),
        overrides: vec![],
        seed: 0,
        init: InitRecord {
            source: "scratch".into(),
            label: "scratch".into(),
            hash: None,
            run: None,
            target: None,
            trained: None,
        },
        environment: Environment {
            version: "0.1.0".into(),
            commit: Some("0123456789ab".into()),
            dirty: false,
            device: "cpu".into(),
            dtype: "f32".into(),
            world_size: 1,
            threads: 1,
            jpeg_decoder: None,
        },
        throughput: Throughput::default(),
        steps_planned: 10,
        steps_done: 10,
        skipped: 0,
        primary: Some("top1".into()),
        scores,
        losses: BTreeMap::new(),
        status: Status::Finished,
        error: None,
        notes: vec![],
    }
}
