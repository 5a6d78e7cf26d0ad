//! [`Manifest`]: a task as its file `tasks/<name>/task.toml` describes it.

use crate::config::{ConfigError, Operation, Reported};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A parsed `task.toml`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Name of the task; in `tasks/` it is also the name of the folder.
    pub name: String,
    /// Version, raised when a score could change; a table never mixes versions.
    pub version: u32,
    /// Kind of task, as registered: `classification`, `detection`, `segmentation` or an external one.
    pub kind: String,
    /// Name of the data set, a folder of `datasets/`; or a path with a `/` to its folder or its `dataset.toml`, relative to
    /// the folder of this file.
    pub dataset: String,
    /// The score that ranks runs.
    pub primary: String,
    /// Recipe used when `--recipe` is not given: its name, or the path of its file, relative to the working directory.
    pub recipe: String,
    /// Splits of the data set for training and evaluation.
    pub splits: Splits,
    /// The kind's own options, strictly parsed by it.
    #[serde(default)]
    #[schemars(with = "serde_json::Map<String, serde_json::Value>")]
    pub options: toml::Table,
    /// The evaluation protocol, which no recipe can change.
    pub eval: Vec<Operation>,
    /// The file that the manifest was read from, for messages.
    #[serde(skip)]
    pub origin: String,
}

/// Names of the splits that a task uses.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Splits {
    /// Split that transfer learning trains on.
    pub train: String,
    /// Split on which hyper-parameters, epochs and the best weights of a run are chosen (`--report select`). When absent,
    /// the best weights are chosen on the evaluation split, and records and tables say so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub select: Option<String>,
    /// Split that runs with `--report select` train on instead of `train`; needed if `train` contains the images of
    /// `select`, as VTAB's train800 beside its train1000. Other runs then choose their best weights on the evaluation split.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tune: Option<String>,
    /// Split whose scores are reported.
    pub eval: String,
    /// Split that `bench pretrain --task` reads; the training split if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pretrain: Option<String>,
}

impl Splits {
    /// The name of the split that a run trains on.
    pub fn training(&self, report: Reported) -> &str {
        match (report, &self.tune) {
            (Reported::Select, Some(tune)) => tune,
            _ => &self.train,
        }
    }
}

impl Manifest {
    /// The name of the split that a run scores.
    ///
    /// # Errors
    /// A task without a split for choosing.
    pub fn split(&self, report: Reported) -> Result<&str, ConfigError> {
        match report {
            Reported::Eval => Ok(&self.splits.eval),
            Reported::Select => self.splits.select.as_deref().ok_or_else(|| {
                let message = format!(
                    "task `{}` has no `select` in `[splits]`, which --report select scores; name a split of data set `{}` \
                     there",
                    self.name, self.dataset
                );
                ConfigError::new(&self.origin, message)
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Manifest;
    use crate::config::{Library, parse};

    #[test]
    fn every_built_in_manifest_parses_and_bears_the_name_of_its_folder() {
        let library = Library::default();
        let tasks = library.list("tasks");
        assert!(tasks.len() >= 7, "{tasks:?}");
        for task in tasks {
            let (text, origin) = library.text(&format!("tasks/{task}/task.toml")).unwrap();
            let manifest: Manifest = parse(&text, origin).unwrap();
            assert_eq!(manifest.name, task);
            // Sliding windows take images as they are.
            let protocol = !manifest.eval.is_empty() || manifest.options.contains_key("stride");
            assert!(protocol, "{task}: a protocol");
        }
    }
}
