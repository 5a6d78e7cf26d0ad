//! The interface through which registered parts parse their own tables of a configuration.

use super::{ConfigError, ModelConfig, ObjectiveTable, Operation, Recipe};

/// Parses the tables of a configuration whose keys belong to registered parts, strictly, by the part that each table
/// names. Implemented by the registry; this module knows only the tables.
pub trait Owners: Send + Sync {
    /// `[pretrain]` with every default written out, checked together with its `recipe`.
    ///
    /// # Errors
    /// An unknown objective, an unknown or missing key, or invalid values.
    fn objective(&self, table: &ObjectiveTable, recipe: &Recipe) -> Result<ObjectiveTable, ConfigError>;

    /// `model` with every default of the options of its backbone written out.
    ///
    /// # Errors
    /// An unknown backbone, an unknown or missing key, or invalid values.
    fn model(&self, model: &ModelConfig) -> Result<ModelConfig, ConfigError>;

    /// `operation` with every default of its options written out.
    ///
    /// # Errors
    /// An unknown operation, an option that is unknown, missing or of the wrong type.
    fn operation(&self, operation: &Operation) -> Result<Operation, ConfigError>;
}

/// Writes out the defaults of every table of `recipe` that belongs to a registered part. The recipe came from `origin`.
///
/// # Errors
/// An unknown objective or operation, or an unknown, missing or wrong key of its table.
pub fn complete_recipe(owners: &dyn Owners, recipe: &mut Recipe, origin: &str) -> Result<(), ConfigError> {
    complete_operations(owners, &mut recipe.augment, origin, "augment")?;
    for (place, view) in recipe.views.iter_mut().enumerate() {
        complete_operations(owners, &mut view.augment, origin, &format!("views[{place}].augment"))?;
    }
    if let Some(table) = &recipe.pretrain {
        let completed = owners.objective(table, recipe).map_err(|error| error.within(origin))?;
        recipe.pretrain = Some(completed);
    }
    Ok(())
}

/// Writes out the defaults of every operation in the list `key` of the file `origin`.
///
/// # Errors
/// The errors of [`Owners::operation`]; the message names the file and the index in the list.
pub fn complete_operations(
    owners: &dyn Owners,
    operations: &mut [Operation],
    origin: impl std::fmt::Display,
    key: &str,
) -> Result<(), ConfigError> {
    for (place, operation) in operations.iter_mut().enumerate() {
        let at = |e: ConfigError| ConfigError::new(&origin, format!("`{key}[{place}]`: {e}"));
        *operation = owners.operation(operation).map_err(at)?;
    }
    Ok(())
}
