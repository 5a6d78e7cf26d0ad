//! Keys of the metadata in which a file of weights of ours says what it is.

/// Id of the run that made the weights.
pub const RUN: &str = "bench.run";
/// `pretrain` or `transfer`.
pub const STAGE: &str = "bench.stage";
/// File of `configs/models`.
pub const MODEL_NAME: &str = "bench.model_name";
/// The model in TOML ([`WeightFile::model`](super::WeightFile::model)).
pub const MODEL: &str = "bench.model";
/// File of `configs/pretrain` or `configs/transfer`.
pub const RECIPE_NAME: &str = "bench.recipe_name";
/// The key of the options of the objective `name` of a pre-training run, in TOML.
pub fn objective(name: &str) -> String {
    format!("bench.{name}")
}

/// Configuration of a transfer run in TOML.
pub const CONFIG: &str = "bench.config";
/// The data set of a transfer run and its classes in JSON.
pub const DATASET: &str = "bench.dataset";
/// Name and version of the program.
pub const WRITTEN_BY: &str = "written_by";
