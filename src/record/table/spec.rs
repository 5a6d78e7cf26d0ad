//! [`TableSpec`]: `configs/tables/<name>.toml`, which runs make the rows and columns of a table.

use crate::config::{ConfigError, Library, NamedFile, parse};
use crate::record::{Reference, RunRecord};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// What tells runs apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Key {
    Stage,
    Task,
    Dataset,
    Model,
    Recipe,
    /// The label of the initial weights: `scratch`, `mae`, …
    Init,
    Seed,
    /// The run id.
    Run,
    /// The name of the task's primary score.
    Primary,
    /// `--set` as typed, joined by spaces.
    Overrides,
}

impl Key {
    pub fn name(self) -> &'static str {
        match self {
            Self::Stage => "stage",
            Self::Task => "task",
            Self::Dataset => "dataset",
            Self::Model => "model",
            Self::Recipe => "recipe",
            Self::Init => "init",
            Self::Seed => "seed",
            Self::Run => "run",
            Self::Primary => "primary",
            Self::Overrides => "overrides",
        }
    }
    /// Its value for a run; empty where a run has none (pre-training has no task).
    pub fn of_run(self, run: &RunRecord) -> String {
        match self {
            Self::Stage => run.stage.clone(),
            Self::Task => run.task.clone().unwrap_or_default(),
            Self::Dataset => run.dataset.clone(),
            Self::Model => run.model.clone(),
            Self::Recipe => run.recipe.clone(),
            Self::Init => run.init.label.clone(),
            Self::Seed => run.seed.to_string(),
            Self::Run => run.id.clone(),
            Self::Primary => run.primary.clone().unwrap_or_default(),
            Self::Overrides => run.overrides.join(" "),
        }
    }
    /// Its value for a published number, where it has one.
    pub fn of_reference(self, reference: &Reference) -> Option<&str> {
        match self {
            Self::Task => Some(&reference.task),
            Self::Model => Some(&reference.model),
            Self::Recipe => Some(&reference.recipe),
            Self::Init => Some(&reference.init),
            Self::Stage | Self::Dataset | Self::Seed | Self::Run | Self::Primary | Self::Overrides => None,
        }
    }
}

/// Allowed values by key; a key that is not named allows everything.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Selection(pub BTreeMap<Key, Vec<String>>);

impl Selection {
    pub fn allows_run(&self, run: &RunRecord) -> bool {
        self.against(run).next().is_none()
    }
    /// The keys whose values do not allow a run.
    fn against(&self, run: &RunRecord) -> impl Iterator<Item = Key> {
        self.0.iter().filter(|(key, values)| !values.contains(&key.of_run(run))).map(|(key, _)| *key)
    }
    /// Keys that a published number does not have allow it.
    pub fn allows_reference(&self, reference: &Reference) -> bool {
        self.0.iter().all(|(key, values)| {
            key.of_reference(reference).is_none_or(|value| values.iter().any(|v| v == value))
        })
    }
    /// Position of `value` in the list of `key`: the order of rows.
    pub(super) fn rank(&self, key: Key, value: &str) -> usize {
        let values = self.0.get(&key).map(Vec::as_slice).unwrap_or_default();
        values.iter().position(|v| v == value).unwrap_or(values.len())
    }
}

/// One column: one score of the runs it selects.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Column {
    pub title: String,
    /// The task's primary score when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<String>,
    #[serde(default, rename = "where")]
    pub selection: Selection,
    /// Shows the best of the runs that differ in `--set`: the highest mean over seeds.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub best: bool,
}

/// A row that holds the difference of two others, which agree in everything but `key`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Difference {
    pub key: Key,
    pub of: String,
    pub minus: String,
    /// Shown in place of the key's value.
    pub title: String,
}

/// A parsed `configs/tables/<name>.toml`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TableSpec {
    pub title: String,
    /// Runs that agree in these keys share a row.
    pub rows: Vec<Key>,
    /// Which runs and published numbers are shown, and, by the order of values, the order of rows.
    /// Only runs of stage `transfer` when the stage is not named.
    #[serde(default)]
    pub filter: Selection,
    #[serde(rename = "column")]
    pub columns: Vec<Column>,
    /// Ids of published tables (`reference.toml`) to show, in rows of their own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub references: Vec<String>,
    /// Whether a row with the difference of ours stands below each of them that has the same keys.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub compare: bool,
    #[serde(default, rename = "difference", skip_serializing_if = "Vec::is_empty")]
    pub differences: Vec<Difference>,
    /// Runs with different `--set` overrides share a cell. They are rows of their own otherwise.
    #[serde(default)]
    pub group_overrides: bool,
    /// Digits after the point.
    #[serde(default = "one")]
    pub decimals: usize,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub footnotes: Vec<String>,
}

impl TableSpec {
    /// Parses and checks the text of a file; the error names `origin`.
    pub fn parse(text: &str, origin: impl std::fmt::Display) -> Result<Self, ConfigError> {
        let origin = origin.to_string();
        let spec: Self = parse(text, &origin)?;
        spec.check().map_err(|message| ConfigError::new(origin, message))?;
        Ok(spec)
    }

    /// The table `name` of a library.
    pub fn load(library: &Library, name: &str) -> Result<Self, ConfigError> {
        let NamedFile { text, origin, .. } = library.file("table", name, "configs/tables")?;
        Self::parse(&text, origin)
    }

    /// The keys for whose values a run is not in the table, those of the filter or else of the column that comes nearest;
    /// none when it is there.
    pub fn hides(&self, run: &RunRecord) -> BTreeSet<Key> {
        let mut keys: BTreeSet<Key> = self.filter.against(run).collect();
        if !self.filter.0.contains_key(&Key::Stage) && run.stage != "transfer" {
            keys.insert(Key::Stage);
        }
        let columns = self.columns.iter().map(|column| column.selection.against(run).collect());
        let nearest = columns.min_by_key(|keys: &BTreeSet<Key>| (keys.contains(&Key::Task), keys.len()));
        keys.extend(nearest.unwrap_or_default());
        keys
    }

    fn check(&self) -> Result<(), String> {
        if self.rows.is_empty() || self.columns.is_empty() {
            return Err("`rows` and `column` need at least one entry each".into());
        }
        if self.rows.iter().collect::<BTreeSet<_>>().len() != self.rows.len() {
            return Err("`rows` names a key twice".into());
        }
        let mut titles = BTreeSet::new();
        for column in &self.columns {
            if !titles.insert(&column.title) {
                return Err(format!("two columns have the title `{}`", column.title));
            }
            if column.best && !self.group_overrides {
                return Err(format!(
                    "column `{}`: `best` needs `group_overrides = true`, or each run has a row of its own",
                    column.title
                ));
            }
            if column.score.is_none() && !self.references.is_empty() {
                return Err(format!(
                    "column `{}` needs a `score`: published numbers do not say which score is primary",
                    column.title
                ));
            }
        }
        for difference in &self.differences {
            if !self.rows.contains(&difference.key) {
                let known: Vec<_> = self.rows.iter().map(|k| k.name()).collect();
                let (name, title) = (difference.key.name(), &difference.title);
                return Err(format!(
                    "difference `{title}`: key `{name}` is not in rows; rows: {}",
                    known.join(", ")
                ));
            }
        }
        Ok(())
    }
}

fn one() -> usize {
    1
}
