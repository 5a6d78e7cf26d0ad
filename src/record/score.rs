//! [`Scores`]: measured values with their standard errors, and what these are based on.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Unit of a score.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// A percentage, stored as 0–100.
    Percent,
    /// A number without a unit.
    Plain,
}

/// Whether higher or lower values of a score are better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Better {
    /// Higher values are better.
    Higher,
    /// Lower values are better.
    Lower,
}

/// Declaration of a score that a kind of task measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ScoreSpec {
    /// Name in records and tables, such as `top1`.
    pub name: &'static str,
    /// Unit of its values.
    pub unit: Unit,
    /// Direction of improvement.
    pub better: Better,
}

/// A measured value.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Score {
    /// The value, in the unit of its [`ScoreSpec`].
    pub value: f64,
    /// Standard error over the evaluation split; `None` if unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stderr: Option<f64>,
    /// How `stderr` was computed, or why there is none; absent if the kind does not say it and in earlier records.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sample: Option<EvaluationSample>,
}

/// The sample of images that a standard error takes as drawn at random.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvaluationSample {
    /// How the error is computed.
    pub method: ErrorMethod,
    /// What is taken as independent.
    pub unit: SampleUnit,
    /// Number of units. One unit tells nothing about its error.
    pub units: u64,
}

/// How the standard error of a score is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorMethod {
    /// That of a proportion p of n: √(p(1 − p) / n).
    Binomial,
    /// The standard deviation over samples drawn with replacement.
    Bootstrap,
}

/// What a standard error takes as independent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SampleUnit {
    /// Images.
    Image,
    /// Sequences of video frames.
    Sequence,
}

/// Scores by name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Scores(pub BTreeMap<String, Score>);

impl Scores {
    /// Adds a score or replaces it. `stderr` is the standard error; `None` if unknown.
    pub fn insert(&mut self, name: impl Into<String>, value: f64, stderr: Option<f64>) {
        self.insert_score(name, Score { value, stderr, sample: None });
    }

    /// Adds a score or replaces it.
    pub fn insert_score(&mut self, name: impl Into<String>, score: Score) {
        self.0.insert(name.into(), score);
    }

    /// The score `name`, if there is one.
    pub fn get(&self, name: &str) -> Option<Score> {
        self.0.get(name).copied()
    }

    /// Whether there are no scores.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
