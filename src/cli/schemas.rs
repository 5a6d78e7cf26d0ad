//! JSON schemas of the files of a configuration, with everything that is registered in them.

use crate::config::{ModelConfig, Recipe, RunConfig, schema_with};
use crate::data::Dataset;
use crate::record::table::TableSpec;
use crate::registry::Registry;
use crate::suite::Suite;
use crate::task::Manifest;
use clap::ValueEnum;
use schemars::{JsonSchema, Schema, schema_for};
use serde_json::{Value, json};

/// Files that have a schema.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum SchemaName {
    Model,
    Recipe,
    Task,
    Dataset,
    Suite,
    Table,
    Run,
}

/// The schema of `file`.
pub(super) fn file_schema(registry: &Registry, file: SchemaName) -> Schema {
    match file {
        SchemaName::Model => schema::<ModelConfig>(registry),
        SchemaName::Recipe => schema::<Recipe>(registry),
        SchemaName::Task => schema::<Manifest>(registry),
        SchemaName::Dataset => schema::<Dataset>(registry),
        SchemaName::Suite => schema_for!(Suite),
        SchemaName::Table => schema_for!(TableSpec),
        SchemaName::Run => schema::<RunConfig>(registry),
    }
}

/// The schema of `T`, with the registered formats, operations, objectives, backbones and kinds in their places.
fn schema<T: JsonSchema>(registry: &Registry) -> Schema {
    let components = registry.components();
    let mut schema = schema_with::<T>(|generator| {
        components.augmentations.define(generator);
        components.formats.define(generator);
        components.objectives.define(generator);
    });
    let name = T::schema_name();
    let backbones: Vec<(&str, Schema)> = components.backbones.option_schemas().collect();
    let kinds: Vec<(&str, [Schema; 2])> = registry.kind_schemas().collect();
    let [options, heads] = [0, 1].map(|which| {
        let one = |(kind, schemas): &(&'static str, [Schema; 2])| (*kind, schemas[which].clone());
        kinds.iter().map(one).collect::<Vec<_>>()
    });
    for (owner, key, tables, names) in [
        ("ModelConfig", "options", &backbones, Some("backbone")),
        ("Manifest", "options", &options, Some("kind")),
        ("Transfer", "head", &heads, None),
    ] {
        let properties = match owner == name {
            true => schema.pointer_mut("/properties"),
            false => schema.pointer_mut(&format!("/$defs/{owner}/properties")),
        };
        let Some(Value::Object(properties)) = properties else { continue };
        if let Some(Value::Object(property)) = properties.get_mut(key) {
            property.remove("additionalProperties");
            property.insert("anyOf".into(), tables.iter().map(|(name, table)| titled(name, table)).collect());
        }
        if let Some(Value::Object(property)) = names.and_then(|key| properties.get_mut(key)) {
            property.insert("enum".into(), tables.iter().map(|(name, _)| json!(name)).collect());
        }
    }
    schema
}

/// `table` under the name of its owner.
fn titled(name: &str, table: &Schema) -> Value {
    let mut table = table.clone().to_value();
    if let Value::Object(table) = &mut table {
        table.insert("title".into(), name.into());
        table.remove("$schema");
    }
    table
}
