//! The resolved configuration of one run: `config.toml` of a run folder. Feeding it back reproduces the run.

use super::keys::suggestion;
use super::stage::{Dtype, Reported, Stage};
use super::{
    ConfigError, Library, ModelConfig, NamedFile, Owners, Recipe, apply_set, complete_recipe, parse,
    parse_table,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Everything that determines the result of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RunConfig {
    /// `[run]`: the sources of the configuration.
    pub run: Run,
    /// `[model]`: the backbone and its sizes.
    pub model: ModelConfig,
    /// `[recipe]`: how to train.
    pub recipe: Recipe,
}

/// `[run]`: the files from which the configuration was made, and the settings of this run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Run {
    /// Pre-training or transfer.
    pub stage: Stage,
    /// Transfer: the task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    /// The data set; `folder` for a folder of images without a manifest.
    pub dataset: String,
    /// The training split.
    pub split: String,
    /// Transfer: which split of the task is scored.
    #[serde(default, skip_serializing_if = "Reported::is_default")]
    pub report: Reported,
    /// Name of the model's file.
    pub model: String,
    /// Name of the recipe's file.
    pub recipe: String,
    /// `scratch`, a run id or a weights file.
    pub init: String,
    /// blake3 of the weights that `init` named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init_hash: Option<String>,
    /// blake3 of the tokenizer of the recipe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer_hash: Option<String>,
    /// A short label of the initial weights: `scratch`, the label of the recipe that pre-trained them, or the file's
    /// stem.
    pub init_label: String,
    /// Seed of all random numbers.
    pub seed: u64,
    /// Type in which matrix products are computed.
    #[serde(default, skip_serializing_if = "Dtype::is_default")]
    pub dtype: Dtype,
    /// `--set` as typed; already applied to the tables below.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub overrides: Vec<String>,
    /// The file of the task, if the task was named by its path. It is not part of the run's identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task_path: Option<PathBuf>,
    /// The file of the data set, if the data set was named by its path. It is not part of the run's identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataset_path: Option<PathBuf>,
    /// The file of the model, where the model was named by its path. It is not part of the run's identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_path: Option<PathBuf>,
    /// The file of the recipe, where the recipe was named by its path. It is not part of the run's identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipe_path: Option<PathBuf>,
    /// Path of the data. It is not part of the run's identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<PathBuf>,
    /// Folders of `--include` in which the parts of the run were found. They are not part of the run's identity.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub include: Vec<PathBuf>,
}

impl Run {
    /// The path of the task if it was named by one, otherwise its name.
    pub fn task_source(&self) -> Option<String> {
        self.task_path.as_ref().map(|path| path.display().to_string()).or_else(|| self.task.clone())
    }

    /// The path of the data set if it was named by one, otherwise its name.
    pub fn dataset_source(&self) -> String {
        self.dataset_path.as_ref().map_or_else(|| self.dataset.clone(), |path| path.display().to_string())
    }
}

/// `dataset` of a run on a folder of images that has no manifest.
pub const FOLDER: &str = "folder";

/// `init` of a run that starts from random weights.
pub const SCRATCH: &str = "scratch";

impl RunConfig {
    /// The same configuration with every `--set key=value` and `--set model.key=value` applied.
    ///
    /// # Errors
    /// A key that does not exist, or an invalid value.
    pub fn with(mut self, set: &[String], owners: &dyn Owners) -> Result<Self, ConfigError> {
        if set.is_empty() {
            complete_recipe(owners, &mut self.recipe, "config.toml")?;
            return Ok(self);
        }
        let tree = |table: Result<toml::Table, _>| table.map_err(|e| ConfigError::new("config.toml", e));
        let (mut model, mut recipe) =
            (tree(toml::Table::try_from(&self.model))?, tree(toml::Table::try_from(&self.recipe))?);
        for assignment in set {
            match assignment.strip_prefix("model.") {
                Some(rest) => apply_set(&mut model, rest)?,
                None => apply_set(&mut recipe, assignment)?,
            }
        }
        let origin = format!("--set {}", set.join(" --set "));
        let edits: Vec<&String> = set.iter().collect();
        self.model = parse_table(model, &origin).map_err(|error| suggesting(error, &edits))?;
        self.recipe = parse_table(recipe, &origin).map_err(|error| suggesting(error, &edits))?;
        complete_recipe(owners, &mut self.recipe, &origin)?;
        self.run.overrides.extend_from_slice(set);
        Ok(self)
    }

    /// The text of `config.toml`.
    ///
    /// # Errors
    /// A value that TOML cannot express.
    pub fn to_toml(&self) -> Result<String, ConfigError> {
        toml::to_string(self).map_err(|e| ConfigError::new("config.toml", e))
    }

    /// Checks model and recipe before any data are read.
    pub fn check(&self) -> Result<(), ConfigError> {
        let Run { model, recipe, stage, .. } = &self.run;
        self.model.check().map_err(|e| ConfigError::new(format!("model `{model}`"), e))?;
        let attention = self.recipe.transfer.as_ref().and_then(|transfer| transfer.attention.as_ref());
        let fits = || attention.map_or(Ok(()), |attention| attention.check(self.model.depth));
        let checked = self.recipe.check(*stage).and_then(|()| fits());
        checked.map_err(|e| ConfigError::new(format!("recipe `{recipe}`"), e))
    }
}

/// The source of a model or a recipe.
#[derive(Clone, Copy)]
pub struct Choice<'a> {
    /// The library in which named files are looked up.
    pub library: &'a Library,
    /// Parses the tables that belong to registered parts.
    pub owners: &'a dyn Owners,
    /// `--set` as typed.
    pub overrides: &'a [String],
}

impl Choice<'_> {
    /// The model `configs/models/<name>.toml` (or `base`, when given) with every `--set model.key=value`.
    pub fn model(&self, name: &str, base: Option<&ModelConfig>) -> Result<ModelConfig, ConfigError> {
        let (mut tree, origin) = match base {
            Some(base) => (
                toml::Table::try_from(base).map_err(|e| ConfigError::new(name, e))?,
                format!("model `{name}`"),
            ),
            None => self.file("model", name, "configs/models")?,
        };
        let model = self.complete_model(tree.clone(), &origin)?;
        let edits: Vec<&String> = self.overrides.iter().filter(|s| s.starts_with("model.")).collect();
        if edits.is_empty() {
            return Ok(model);
        }
        for edit in &edits {
            apply_set(&mut tree, &edit["model.".len()..])?;
        }
        // An error can only come from `--set`.
        self.complete_model(tree, self.origin("model.")).map_err(|error| suggesting(error, &edits))
    }

    /// Parses a model strictly, and writes out the defaults of its backbone's options.
    fn complete_model(
        &self,
        tree: toml::Table,
        origin: impl std::fmt::Display,
    ) -> Result<ModelConfig, ConfigError> {
        let model: ModelConfig = parse_table(tree, &origin)?;
        self.owners.model(&model).map_err(|error| error.within(origin))
    }

    /// The recipe `configs/<stage>/<name>.toml` for a model and a task, if they are known (otherwise empty): body <
    /// `[task.<task>]` < `[model.<model>]` < `--set`.
    pub fn recipe(
        &self,
        stage: Stage,
        name: &str,
        (model, task): (&str, &str),
    ) -> Result<Recipe, ConfigError> {
        let folder = |stage: Stage| format!("configs/{}", stage.as_str());
        let other = if stage == Stage::Pretrain { Stage::Transfer } else { Stage::Pretrain };
        let known = |stage| self.library.list(&folder(stage)).iter().any(|known| known == name);
        if known(other) && !known(stage) {
            let message =
                format!("is a recipe of `bench {}`, not of `bench {}`", other.as_str(), stage.as_str());
            return Err(ConfigError::new(format!("recipe `{name}`"), message));
        }
        let (mut tree, origin) = self.file("recipe", name, &folder(stage))?;
        let parts = [("task", task, "tasks"), ("model", model, "configs/models")];
        let parts = parts.map(|(key, name, folder)| (key, name, folder, tree.remove(key)));
        for (key, name, folder, parts) in parts {
            let parts = match parts {
                None => continue,
                Some(toml::Value::Table(parts)) => parts,
                Some(_) => {
                    return Err(ConfigError::new(
                        origin,
                        format!("`{key}` must hold tables `[{key}.<name>]`"),
                    ));
                }
            };
            // Every part is checked, not only the one in use, so that a typo is found before its model is used.
            let known = self.library.list(folder);
            for (part, edits) in &parts {
                if !known.contains(part) && part != name {
                    let message = format!("`[{key}.{part}]`: {}", super::unknown(part, &known));
                    return Err(ConfigError::new(origin, message));
                }
                let toml::Value::Table(edits) = edits else {
                    return Err(ConfigError::new(origin, format!("`{key}.{part}` must be a table")));
                };
                let mut merged = tree.clone();
                merge(&mut merged, edits);
                self.complete(merged, format!("{origin} with [{key}.{part}]"))?;
            }
            if let Some(toml::Value::Table(edits)) = parts.get(name) {
                merge(&mut tree, edits);
            }
        }
        let recipe = self.complete(tree.clone(), &origin)?;
        recipe.check(stage).map_err(|e| ConfigError::new(&origin, e))?;
        let edits: Vec<&String> = self.overrides.iter().filter(|s| !s.starts_with("model.")).collect();
        if edits.is_empty() {
            return Ok(recipe);
        }
        for edit in &edits {
            apply_set(&mut tree, edit)?;
        }
        // An error can only come from `--set`.
        let recipe = self.complete(tree, self.origin("")).map_err(|error| suggesting(error, &edits))?;
        recipe.check(stage).map_err(|e| ConfigError::new(self.origin(""), e))?;
        Ok(recipe)
    }

    /// Parses the file that `name` means; a syntax error shows its line.
    fn file(&self, what: &str, name: &str, folder: &str) -> Result<(toml::Table, String), ConfigError> {
        let NamedFile { text, origin, .. } = self.library.file(what, name, folder)?;
        Ok((parse(&text, &origin)?, origin))
    }

    /// Parses a recipe strictly, and writes out the defaults of every table.
    fn complete(&self, tree: toml::Table, origin: impl std::fmt::Display) -> Result<Recipe, ConfigError> {
        let mut recipe: Recipe = parse_table(tree, &origin)?;
        complete_recipe(self.owners, &mut recipe, &origin.to_string())?;
        Ok(recipe)
    }

    fn origin(&self, prefix: &str) -> String {
        let (model, rest): (Vec<_>, Vec<_>) = self.overrides.iter().partition(|s| s.starts_with("model."));
        let shown = if prefix.is_empty() { rest } else { model };
        format!("--set {}", shown.into_iter().map(String::as_str).collect::<Vec<_>>().join(" --set "))
    }
}

/// The error with a suggestion if it is about a key of `edits` that does not exist.
fn suggesting(error: ConfigError, edits: &[&String]) -> ConfigError {
    if !error.message.contains("unknown field") {
        return error;
    }
    let mut hints = edits.iter().map(|edit| suggestion(edit)).filter(|hint| !hint.is_empty());
    let hint = hints.next().unwrap_or_default();
    ConfigError::new(&error.origin, format!("{}{hint}", error.message))
}

/// Merges `edits` into `tree`, table by table.
fn merge(tree: &mut toml::Table, edits: &toml::Table) {
    for (key, edit) in edits {
        match (tree.get_mut(key), edit) {
            (Some(toml::Value::Table(old)), toml::Value::Table(new)) if old.get("op").is_none() => {
                merge(old, new)
            }
            _ => {
                tree.insert(key.clone(), edit.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ObjectiveTable, Operation};

    /// Leaves every table as it is.
    struct Anyone;

    impl Owners for Anyone {
        fn objective(&self, table: &ObjectiveTable, _: &Recipe) -> Result<ObjectiveTable, ConfigError> {
            Ok(table.clone())
        }

        fn model(&self, model: &ModelConfig) -> Result<ModelConfig, ConfigError> {
            Ok(model.clone())
        }

        fn operation(&self, operation: &Operation) -> Result<Operation, ConfigError> {
            Ok(operation.clone())
        }
    }

    fn library() -> (tempfile::TempDir, Library) {
        let folder = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("configs/models/small.toml", "image = [8, 8]\npatch = 4\nwidth = 8\ndepth = 2\nheads = 2\n");
        let recipe = "epochs = 10\nbatch = 8\n[optim]\nname = \"adamw\"\nbase_lr = 1e-3\nweight_decay = 0.1\n\
                      [schedule]\nname = \"cosine\"\n[transfer]\ntune = \"all\"\n";
        write(
            "configs/transfer/r.toml",
            &format!(
                "{recipe}[model.small]\noptim = {{ base_lr = 2e-3 }}\n\
                       [task.flowers]\noptim = {{ base_lr = 4e-3, weight_decay = 0.2 }}\n"
            ),
        );
        write("tasks/flowers/task.toml", "");
        write("configs/transfer/typo.toml", &format!("{recipe}[model.small]\noptim = {{ bas_lr = 2e-3 }}\n"));
        write("configs/transfer/pre.toml", &recipe.replace("transfer", "pretrain"));
        let library = Library::new(&[folder.path().to_path_buf()]).unwrap();
        (folder, library)
    }

    #[test]
    fn set_is_above_the_part_of_a_model_is_above_that_of_a_task_is_above_the_body() {
        let (_folder, library) = library();
        let recipe = |overrides: &[String], model: &str, task: &str| {
            Choice { library: &library, owners: &Anyone, overrides }
                .recipe(Stage::Transfer, "r", (model, task))
                .unwrap()
        };
        let lr = |overrides: &[String], model: &str| recipe(overrides, model, "").optim.base_lr;
        let both = recipe(&[], "small", "flowers").optim;
        assert_eq!((both.base_lr, both.weight_decay), (2e-3, 0.2));
        assert_eq!(recipe(&[], "vit_b16", "flowers").optim.base_lr, 4e-3);
        assert_eq!(lr(&[], "vit_b16"), 1e-3);
        assert_eq!(lr(&[], "small"), 2e-3);
        assert_eq!(lr(&["optim.base_lr=3e-3".into(), "model.depth=3".into()], "small"), 3e-3);
        let choice = Choice { library: &library, owners: &Anyone, overrides: &["model.depth=3".into()] };
        assert_eq!(choice.model("small", None).unwrap().depth, 3);
    }

    #[test]
    fn typos_are_named_with_file_and_key() {
        let (_folder, library) = library();
        let recipe = |name: &str, set: &str| {
            let overrides: Vec<String> = if set.is_empty() { vec![] } else { vec![set.to_string()] };
            let choice = Choice { library: &library, owners: &Anyone, overrides: &overrides };
            choice.recipe(Stage::Transfer, name, ("vit_b16", "")).unwrap_err().to_string()
        };
        let error = recipe("typo", "");
        assert!(error.contains("typo.toml") && error.contains("bas_lr"), "{error}");
        let error = recipe("r", "optim.bas_lr=1");
        assert!(error.starts_with("--set optim.bas_lr=1") && error.contains("bas_lr"), "{error}");
        let error = recipe("rr", "");
        assert!(error.contains("did you mean `r`"), "{error}");
        let choice = Choice { library: &library, owners: &Anyone, overrides: &["model.deph=3".into()] };
        let error = choice.model("small", None).unwrap_err().to_string();
        assert!(error.contains("--set model.deph=3") && error.contains("deph"), "{error}");
    }
}
