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
        let mut definitions = serde_json::Map::new();
        let tables: Vec<(&str, Value)> = tables
            .iter()
            .map(|(name, table)| (*name, embedded(key, name, table, &mut definitions)))
            .collect();
        let properties = match owner == name {
            true => schema.pointer_mut("/properties"),
            false => schema.pointer_mut(&format!("/$defs/{owner}/properties")),
        };
        let Some(Value::Object(properties)) = properties else { continue };
        if let Some(Value::Object(property)) = properties.get_mut(key) {
            property.remove("additionalProperties");
            property.insert("anyOf".into(), tables.iter().map(|(_, table)| table.clone()).collect());
        }
        if let Some(Value::Object(property)) = names.and_then(|key| properties.get_mut(key)) {
            property.insert("enum".into(), tables.iter().map(|(name, _)| json!(name)).collect());
        }
        let known = schema.ensure_object().entry("$defs").or_insert_with(|| json!({}));
        if let Value::Object(known) = known {
            known.extend(definitions);
        }
    }
    schema
}

/// The schema `table` of the key `key` as a part of another one, under the name of its owner. Its own definitions move to
/// `definitions`, by names that contain `key` and `name`, because owners may give one name to different types.
fn embedded(
    key: &str,
    name: &str,
    table: &Schema,
    definitions: &mut serde_json::Map<String, Value>,
) -> Value {
    let mut table = table.clone().to_value();
    let prefix = format!("{key}_{name}_");
    qualify(&mut table, &prefix);
    if let Value::Object(table) = &mut table {
        table.insert("title".into(), name.into());
        table.remove("$schema");
        if let Some(Value::Object(own)) = table.remove("$defs") {
            definitions
                .extend(own.into_iter().map(|(name, definition)| (prefix.clone() + &name, definition)));
        }
    }
    table
}

/// Puts `prefix` before the name of every definition that `value` refers to.
fn qualify(value: &mut Value, prefix: &str) {
    match value {
        Value::Object(object) => {
            if let Some(Value::String(reference)) = object.get_mut("$ref")
                && let Some(name) = reference.strip_prefix("#/$defs/")
            {
                *reference = format!("#/$defs/{prefix}{name}");
            }
            object.values_mut().for_each(|value| qualify(value, prefix));
        }
        Value::Array(values) => values.iter_mut().for_each(|value| qualify(value, prefix)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every `$ref` of `value`.
    fn references(value: &Value) -> Vec<&str> {
        match value {
            Value::Object(object) => {
                let own = object.get("$ref").and_then(Value::as_str);
                own.into_iter().chain(object.values().flat_map(references)).collect()
            }
            Value::Array(values) => values.iter().flat_map(references).collect(),
            _ => vec![],
        }
    }

    #[test]
    fn every_reference_of_a_schema_leads_to_a_definition() {
        let registry = Registry::builtin();
        for file in SchemaName::value_variants() {
            let schema = file_schema(&registry, *file).to_value();
            let found = references(&schema);
            for reference in &found {
                let target = reference.strip_prefix('#').and_then(|path| schema.pointer(path));
                assert!(target.is_some(), "{file:?}: {reference}");
            }
            if matches!(file, SchemaName::Recipe | SchemaName::Task | SchemaName::Run) {
                assert!(found.len() > 5, "{file:?}: {found:?}");
            }
        }
    }
}
