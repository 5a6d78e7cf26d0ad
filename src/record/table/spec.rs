//! [`TableSpec`]: the file `configs/tables/<name>.toml`, which says which runs form the rows and columns of a table.

use crate::config::{ConfigError, Library, NamedFile, Reported, parse};
use crate::record::{Reference, RunRecord};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// A property that distinguishes runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Key {
    /// Stage: `pretrain` or `transfer`.
    Stage,
    /// Name of the task.
    Task,
    /// Name of the data set.
    Dataset,
    /// Name of the model.
    Model,
    /// Name of the recipe.
    Recipe,
    /// The label of the initial weights: `scratch`, `mae`, …
    Init,
    /// The split behind the scores: `eval` or `select`.
    Split,
    /// The seed.
    Seed,
    /// The run id.
    Run,
    /// The name of the task's primary score.
    Primary,
    /// `--set` as typed, joined by spaces, without keys that do not change the result.
    Overrides,
}

impl Key {
    /// Its name in files and as a column header.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stage => "stage",
            Self::Task => "task",
            Self::Dataset => "dataset",
            Self::Model => "model",
            Self::Recipe => "recipe",
            Self::Init => "init",
            Self::Split => "split",
            Self::Seed => "seed",
            Self::Run => "run",
            Self::Primary => "primary",
            Self::Overrides => "overrides",
        }
    }

    /// Its value for a run; empty if the run has none (pre-training has no task).
    pub fn of_run(self, run: &RunRecord) -> String {
        match self {
            Self::Stage => run.stage.clone(),
            Self::Task => run.task.clone().unwrap_or_default(),
            Self::Dataset => run.dataset.clone(),
            Self::Model => run.model.clone(),
            Self::Recipe => run.recipe.clone(),
            Self::Init => run.init.label.clone(),
            Self::Split => match (&run.evaluation, &run.task) {
                (Some(evaluation), _) => evaluation.role.as_str().into(),
                (None, Some(_)) => Reported::Eval.as_str().into(),
                (None, None) => String::new(),
            },
            Self::Seed => run.seed.to_string(),
            Self::Run => run.id.clone(),
            Self::Primary => run.primary.clone().unwrap_or_default(),
            Self::Overrides => run.variant().join(" "),
        }
    }

    /// Its value for a published number, if it has one.
    pub fn of_reference(self, reference: &Reference) -> Option<&str> {
        match self {
            Self::Task => Some(&reference.task),
            Self::Model => Some(&reference.model),
            Self::Recipe => Some(&reference.recipe),
            Self::Init => Some(&reference.init),
            Self::Stage
            | Self::Dataset
            | Self::Split
            | Self::Seed
            | Self::Run
            | Self::Primary
            | Self::Overrides => None,
        }
    }
}

/// Allowed values by key; keys that are not listed allow every value.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Selection(pub BTreeMap<Key, Vec<String>>);

impl Selection {
    /// Whether all values of a run are allowed.
    pub fn allows_run(&self, run: &RunRecord) -> bool {
        self.against(run).next().is_none()
    }

    /// The keys whose values do not allow a run.
    fn against(&self, run: &RunRecord) -> impl Iterator<Item = Key> {
        self.0.iter().filter(|(key, values)| !values.contains(&key.of_run(run))).map(|(key, _)| *key)
    }

    /// Whether all values of a published number are allowed; keys that it does not have are ignored.
    pub fn allows_reference(&self, reference: &Reference) -> bool {
        self.0.iter().all(|(key, values)| {
            key.of_reference(reference).is_none_or(|value| values.iter().any(|v| v == value))
        })
    }

    /// Position of `value` in the list of `key`, which determines the order of rows.
    pub(super) fn rank(&self, key: Key, value: &str) -> usize {
        let values = self.0.get(&key).map(Vec::as_slice).unwrap_or_default();
        values.iter().position(|v| v == value).unwrap_or(values.len())
    }
}

/// A column: one score of the runs that it selects.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Column {
    /// Header of the column.
    pub title: String,
    /// Name of the score; the primary score of the task if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<String>,
    /// Which of the runs in the table the column shows.
    #[serde(default, rename = "where")]
    pub selection: Selection,
    /// Whether to show only the best of the runs that differ in `--set`: the highest mean over seeds.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub best: bool,
}

/// A row with the difference of two other rows, which differ only in `key`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Difference {
    /// The key in which the two rows differ.
    pub key: Key,
    /// Its value in the first row.
    pub of: String,
    /// Its value in the row that is subtracted.
    pub minus: String,
    /// Text that is shown instead of the value of the key.
    pub title: String,
}

/// A parsed `configs/tables/<name>.toml`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TableSpec {
    /// Title above the table.
    pub title: String,
    /// Runs with the same values of these keys share a row.
    pub rows: Vec<Key>,
    /// Which runs and published numbers are shown; the order of the values is the order of rows. If the stage is not
    /// listed, only runs of stage `transfer` are shown; if the split is not listed, only scores on the evaluation split.
    #[serde(default)]
    pub filter: Selection,
    /// The columns, from left to right.
    #[serde(rename = "column")]
    pub columns: Vec<Column>,
    /// Ids of published tables (`reference.toml`) that are shown in separate rows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub references: Vec<String>,
    /// Whether each published row is followed by its difference from our row with the same keys.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub compare: bool,
    /// Rows with differences of other rows.
    #[serde(default, rename = "difference", skip_serializing_if = "Vec::is_empty")]
    pub differences: Vec<Difference>,
    /// Whether runs with different `--set` overrides share a cell; otherwise they have separate rows.
    #[serde(default)]
    pub group_overrides: bool,
    /// Number of decimals.
    #[serde(default = "one")]
    pub decimals: usize,
    /// Remarks below the table.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub footnotes: Vec<String>,
}

impl TableSpec {
    /// Parses and checks the text of a file.
    ///
    /// # Errors
    /// Invalid TOML, unknown keys and contradictions; the error names `origin`.
    pub fn parse(text: &str, origin: impl std::fmt::Display) -> Result<Self, ConfigError> {
        let origin = origin.to_string();
        let spec: Self = parse(text, &origin)?;
        spec.check().map_err(|message| ConfigError::new(origin, message))?;
        Ok(spec)
    }

    /// Reads the table `name` of a library.
    ///
    /// # Errors
    /// An unknown name, and those of [`TableSpec::parse`].
    pub fn load(library: &Library, name: &str) -> Result<Self, ConfigError> {
        let NamedFile { text, origin, .. } = library.file("table", name, "configs/tables")?;
        Self::parse(&text, origin)
    }

    /// The keys whose values exclude a run from the table: those of the filter, or else those of the column that excludes
    /// it by the fewest keys. Empty if the run is in the table.
    pub fn hides(&self, run: &RunRecord) -> BTreeSet<Key> {
        let mut keys: BTreeSet<Key> = self.filter.against(run).collect();
        if !self.filter.0.contains_key(&Key::Stage) && run.stage != "transfer" {
            keys.insert(Key::Stage);
        }
        let select = Reported::Select.as_str();
        if !self.filter.0.contains_key(&Key::Split) && Key::Split.of_run(run) == select {
            keys.insert(Key::Split);
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
