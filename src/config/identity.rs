//! The identity of a run: what in its configuration can change its result. Paths of this machine and the settings that only say what
//! is written, and how often, are no part of it, so a run can be continued with other values of them.

use super::{ConfigError, Run, RunConfig, SCRATCH, Stage};
use std::collections::BTreeSet;

/// Keys of a recipe that do not change the trained weights: they may differ when a run is continued. How often a run is evaluated
/// matters if the evaluations end it (`early_stop`).
fn changeable(early_stop: bool) -> &'static [&'static str] {
    const KEYS: [&str; 4] = ["allowed_skips", "keep_epochs", "save_steps", "eval_epochs"];
    if early_stop { &KEYS[..3] } else { &KEYS }
}

/// The overrides (`--set` as typed) that can change the weights that a run trains.
pub fn changing<'a>(overrides: impl IntoIterator<Item = &'a String>) -> Vec<String> {
    let key = |set: &str| set.split_once('=').map_or(set, |(key, _)| key).trim().to_string();
    let overrides: Vec<&String> = overrides.into_iter().collect();
    let fixed = changeable(overrides.iter().any(|set| key(set) == "early_stop"));
    overrides.into_iter().filter(|set| !fixed.contains(&key(set).as_str())).cloned().collect()
}

impl Run {
    /// The keys of paths of this machine, which are not part of the run's identity.
    const PATHS: [&str; 6] =
        ["run.data", "run.dataset_path", "run.include", "run.model_path", "run.recipe_path", "run.task_path"];

    /// The same run without paths of this machine.
    #[must_use]
    pub fn without_paths(self) -> Self {
        Self {
            task_path: None,
            dataset_path: None,
            model_path: None,
            recipe_path: None,
            data: None,
            include: vec![],
            ..self
        }
    }
}

impl RunConfig {
    /// The configuration without paths of this machine ([`Run::data`] and the like) and with the defaults of the keys that do not change
    /// the result.
    fn identity(&self) -> Self {
        let mut run = self.run.clone().without_paths();
        run.overrides = changing(&run.overrides);
        let mut identity = Self { run, ..self.clone() };
        let recipe = &mut identity.recipe;
        (recipe.allowed_skips, recipe.keep_epochs, recipe.save_steps) = (0, 0, 0);
        if recipe.early_stop.is_none() {
            recipe.eval_epochs = 0;
        }
        identity
    }

    /// blake3 of the identity of the run in hexadecimal. It is the same for configurations that differ only in paths of the machine and
    /// in keys that do not change the result: `allowed_skips`, `keep_epochs`, `save_steps` and, without early stopping, `eval_epochs`.
    pub fn hash(&self) -> Result<String, ConfigError> {
        Ok(blake3::hash(self.identity().to_toml()?.as_bytes()).to_hex().to_string())
    }

    /// Keys whose values differ from those of `other`, except those that are not part of the run's identity: `run.seed`,
    /// `recipe.optim.base_lr`.
    pub fn differences(&self, other: &Self) -> Result<Vec<String>, ConfigError> {
        let found = self.changes(other)?.into_iter().map(|change| change.key);
        let keys = changeable(self.recipe.early_stop.is_some() || other.recipe.early_stop.is_some());
        let changeable = |key: &str| key.strip_prefix("recipe.").is_some_and(|key| keys.contains(&key));
        let overrides = |key: &str| {
            key == "run.overrides" && self.identity().run.overrides == other.identity().run.overrides
        };
        Ok(found
            .filter(|key| !Run::PATHS.contains(&key.as_str()) && !changeable(key) && !overrides(key))
            .collect())
    }

    /// Every key whose value differs from that of `other`, with both values.
    ///
    /// # Errors
    /// A value that TOML cannot express.
    pub fn changes(&self, other: &Self) -> Result<Vec<Change>, ConfigError> {
        let tree = |config| toml::Table::try_from(config).map_err(|e| ConfigError::new("config.toml", e));
        let mut found = vec![];
        differing(&tree(self)?, &tree(other)?, "", &mut found);
        Ok(found)
    }

    /// The configuration as records hold it: without paths of this machine.
    ///
    /// # Errors
    /// A value that JSON cannot express.
    pub fn to_json(&self) -> Result<serde_json::Value, ConfigError> {
        let identity = Self { run: self.run.clone().without_paths(), ..self.clone() };
        serde_json::to_value(identity).map_err(|e| ConfigError::new("config.toml", e))
    }

    /// Whether `hash` is that of a configuration as a record holds it ([`RunConfig::to_json`]). The layout may be one that this program
    /// no longer reads, and the hash of an earlier program covers the whole configuration.
    ///
    /// # Errors
    /// A value that TOML cannot express.
    pub fn has_hash(json: &serde_json::Value, hash: &str) -> Result<bool, ConfigError> {
        let of = |json: &serde_json::Value| {
            let text = toml::to_string(json).map_err(|e| ConfigError::new("`config` of a record", e))?;
            Ok::<_, ConfigError>(blake3::hash(text.as_bytes()).to_hex().to_string())
        };
        if of(json)? == hash {
            return Ok(true);
        }
        let mut identity = json.clone();
        let early_stop = identity["recipe"].get("early_stop").is_some();
        for key in changeable(early_stop) {
            if let Some(value) = identity["recipe"].get_mut(key) {
                *value = 0.into();
            }
        }
        let run = identity["run"].as_object_mut();
        if let Some(run) = run
            && let Some(overrides) = run.get_mut("overrides").and_then(serde_json::Value::as_array_mut)
        {
            let typed: Vec<String> =
                overrides.iter().filter_map(|set| set.as_str().map(String::from)).collect();
            *overrides = changing(&typed).into_iter().map(serde_json::Value::from).collect();
            if overrides.is_empty() {
                run.remove("overrides");
            }
        }
        Ok(of(&identity)? == hash)
    }

    /// blake3 of the model and the recipe with all overrides, in hexadecimal, if one of them was named by a path: files
    /// of one name may differ. `None` if both are named files of the library.
    pub fn files_hash(&self) -> Result<Option<String>, ConfigError> {
        if self.run.model_path.is_none() && self.run.recipe_path.is_none() {
            return Ok(None);
        }
        let identity = self.identity();
        let text = |table: Result<String, _>| table.map_err(|e| ConfigError::new("config.toml", e));
        let (model, recipe) =
            (text(toml::to_string(&identity.model))?, text(toml::to_string(&identity.recipe))?);
        Ok(Some(blake3::hash(format!("{model}\0{recipe}").as_bytes()).to_hex().to_string()))
    }

    /// A readable and unique name of the configuration: `finetune-shapes-vit_micro8-mae_demo-s0-1a2b3c4d`.
    pub fn id(&self) -> Result<String, ConfigError> {
        let Run { task, dataset, model, recipe, init_label, seed, .. } = &self.run;
        let on = task.as_ref().unwrap_or(dataset);
        let init = match self.run.stage {
            Stage::Pretrain if init_label == SCRATCH => String::new(),
            _ => format!("-{init_label}"),
        };
        Ok(format!("{recipe}-{on}-{model}{init}-s{seed}-{}", &self.hash()?[..8]))
    }
}

/// A key whose values differ in two configurations.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// Path of the key: `recipe.optim.base_lr`.
    pub key: String,
    /// The two values; `None` where the key is absent.
    pub values: [Option<toml::Value>; 2],
}

/// The keys, each with the prefix `path`, whose values differ between the two tables.
fn differing(a: &toml::Table, b: &toml::Table, path: &str, found: &mut Vec<Change>) {
    let keys: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
    for key in keys {
        match (a.get(key), b.get(key)) {
            (Some(toml::Value::Table(a)), Some(toml::Value::Table(b))) => {
                differing(a, b, &format!("{path}{key}."), found);
            }
            (a, b) if a != b => {
                found.push(Change { key: format!("{path}{key}"), values: [a.cloned(), b.cloned()] });
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    fn config(recipe: &str, overrides: &str) -> RunConfig {
        let text = format!(
            "[run]\nstage = \"transfer\"\ndataset = \"d\"\nsplit = \"train\"\nmodel = \"m\"\nrecipe = \"r\"\ninit = \"scratch\"\n\
             init_label = \"scratch\"\nseed = 0\noverrides = [{overrides}]\n[model]\nimage = [8, 8]\npatch = 4\nwidth = 8\ndepth = 2\n\
             heads = 2\n[recipe]\nepochs = 10\nbatch = 8\n{recipe}[recipe.optim]\nname = \"adamw\"\nbase_lr = 1e-3\n\
             weight_decay = 0.1\n[recipe.schedule]\nname = \"cosine\"\n[recipe.transfer]\ntune = \"all\"\n"
        );
        parse(&text, "test").unwrap()
    }

    #[test]
    fn settings_that_change_no_weights_are_no_part_of_the_identity() {
        let plain = config("", "");
        let other = config(
            "allowed_skips = 5\neval_epochs = 2\nkeep_epochs = 3\nsave_steps = 7\n",
            "\"allowed_skips=5\", \"eval_epochs = 2\", \"keep_epochs=3\", \"save_steps=7\"",
        );
        assert_eq!(plain.hash().unwrap(), other.hash().unwrap());
        assert_eq!(plain.differences(&other).unwrap(), [""; 0]);
        assert_eq!(plain.changes(&other).unwrap().len(), 5);
        let epochs = config("", "\"epochs=10\"");
        assert_ne!(plain.hash().unwrap(), epochs.hash().unwrap());
        assert_eq!(plain.differences(&epochs).unwrap(), ["run.overrides"]);
    }

    #[test]
    fn evaluations_that_can_end_a_run_are_part_of_it() {
        let every = |epochs: usize| {
            config(
                &format!("early_stop = 1\neval_epochs = {epochs}\n"),
                &format!("\"early_stop=1\", \"eval_epochs={epochs}\""),
            )
        };
        assert_ne!(every(1).hash().unwrap(), every(2).hash().unwrap());
        assert_eq!(every(1).differences(&every(2)).unwrap(), ["recipe.eval_epochs", "run.overrides"]);
        let json = every(2).to_json().unwrap();
        assert!(RunConfig::has_hash(&json, &every(2).hash().unwrap()).unwrap());
        assert!(!RunConfig::has_hash(&json, &every(1).hash().unwrap()).unwrap());
    }

    #[test]
    fn the_hash_of_a_record_is_that_of_its_identity_or_of_all_of_it() {
        let config = config("keep_epochs = 3\nsave_steps = 7\n", "\"keep_epochs=3\", \"epochs=10\"");
        let json = config.to_json().unwrap();
        let whole = blake3::hash(toml::to_string(&json).unwrap().as_bytes()).to_hex().to_string();
        assert_ne!(config.hash().unwrap(), whole);
        for hash in [config.hash().unwrap(), whole] {
            assert!(RunConfig::has_hash(&json, &hash).unwrap());
        }
        assert!(!RunConfig::has_hash(&json, "00").unwrap());
    }
}
