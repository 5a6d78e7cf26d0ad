//! Keys of the metadata of the weight files that this program writes: what a file says about its origin.

/// Id of the run that made the weights.
pub const RUN: &str = "bench.run";
/// Stage of the run: `pretrain` or `transfer`.
pub const STAGE: &str = "bench.stage";
/// Name of the model: a file of `configs/models`.
pub const MODEL_NAME: &str = "bench.model_name";
/// Configuration of the model in TOML; see [`WeightFile::model`](super::WeightFile::model).
pub const MODEL: &str = "bench.model";
/// Name of the recipe: a file of `configs/pretrain` or `configs/transfer`.
pub const RECIPE_NAME: &str = "bench.recipe_name";
/// Configuration of a transfer run in TOML.
pub const CONFIG: &str = "bench.config";
/// Data set of a transfer run, with its classes, in JSON.
pub const DATASET: &str = "bench.dataset";
/// Name and version of the program that wrote the file.
pub const WRITTEN_BY: &str = "written_by";

/// Keys that belong to no objective.
const RESERVED: [&str; 7] = [RUN, STAGE, MODEL_NAME, MODEL, RECIPE_NAME, CONFIG, DATASET];

/// Key of the options of a pre-training objective in TOML, given the name that the objective is registered under:
/// `bench.mae` for `mae`.
///
/// ```
/// assert_eq!(bench_core::weights::metadata::objective_key("mae"), "bench.mae");
/// ```
pub fn objective_key(objective: &str) -> String {
    format!("bench.{objective}")
}

/// Whether no objective may be registered under `name`, because its key would be one of the other keys: `run`, `stage`,
/// `model_name`, `model`, `recipe_name`, `config` and `dataset`.
///
/// ```
/// use bench_core::weights::metadata::is_reserved;
/// assert!(is_reserved("model") && !is_reserved("mae"));
/// ```
pub fn is_reserved(name: &str) -> bool {
    RESERVED.contains(&objective_key(name).as_str())
}
