//! Who parses the tables that a configuration leaves open.

use super::{ConfigError, ModelConfig, ObjectiveTable, Operation, Recipe};

/// The owners of open tables: whatever is registered under the name that a table gives parses its options strictly.
/// Implemented by the registry; this module knows only the tables.
pub trait Owners: Send + Sync {
    /// `[pretrain]` with every default written out, checked together with `recipe`, in which it stands.
    ///
    /// # Errors
    /// An unknown objective, an unknown or missing key, values that cannot work.
    fn objective(&self, table: &ObjectiveTable, recipe: &Recipe) -> Result<ObjectiveTable, ConfigError>;

    /// `model` with every default of the options of its backbone written out.
    ///
    /// # Errors
    /// An unknown backbone, an unknown or missing key, values that cannot work.
    fn model(&self, model: &ModelConfig) -> Result<ModelConfig, ConfigError>;

    /// `operation` with every default of its options written out.
    ///
    /// # Errors
    /// An unknown operation, an option that is unknown, missing or of the wrong type.
    fn operation(&self, operation: &Operation) -> Result<Operation, ConfigError>;
}
