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

/// Writes out the defaults of every table of `recipe` that is parsed by its owner. The recipe came from `origin`.
///
/// # Errors
/// An unknown objective or operation, an unknown, missing or wrong key of its table.
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

/// Completes every operation of the list that the file `origin` has under `key`.
///
/// # Errors
/// Those of [`Owners::operation`]; the message names the file and the place in the list.
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
