//! [`Named`]: values registered by name, and [`Tagged`]: a TOML table that selects one of them.

use super::load::{ConfigError, parse_table, unknown};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{DeserializeOwned, Error as _};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::json;
use std::borrow::Cow;
use std::marker::PhantomData;

/// Values by name, in order of registration.
#[derive(Clone, Debug)]
pub struct Named<T> {
    /// The word for one value in messages: `format`, `objective`.
    what: &'static str,
    entries: Vec<(&'static str, T)>,
    duplicates: Vec<&'static str>,
}

impl<T> Named<T> {
    /// An empty list; `what` is the word for one value in messages.
    pub fn new(what: &'static str) -> Self {
        Self { what, entries: vec![], duplicates: vec![] }
    }

    /// Registers `value`. A second value with the same name is not registered; [`Named::check`] reports it.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: T) -> Self {
        match self.entries.iter().any(|(known, _)| *known == name) {
            true => self.duplicates.push(name),
            false => self.entries.push((name, value)),
        }
        self
    }

    /// # Errors
    /// A name that was registered twice.
    pub fn check(&self) -> Result<(), ConfigError> {
        match self.duplicates.first() {
            None => Ok(()),
            Some(name) => Err(ConfigError::new(
                format!("{} `{name}`", self.what),
                "is registered twice; a plugin must use a name of its own",
            )),
        }
    }

    /// # Errors
    /// An unknown name; the error suggests the nearest name and lists all.
    pub fn get(&self, name: &str) -> Result<&T, ConfigError> {
        let found = self.entries.iter().find(|(known, _)| *known == name);
        found.map(|(_, value)| value).ok_or_else(|| {
            let known: Vec<String> = self.names().map(String::from).collect();
            ConfigError::new(format!("{} `{name}`", self.what), unknown(name, &known))
        })
    }

    /// Names in order of registration.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.entries.iter().map(|(name, _)| *name)
    }

    /// Names and values, in order of registration.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &T)> {
        self.entries.iter().map(|(name, value)| (*name, value))
    }
}

/// The key of a [`Tagged`] table that names the registered value.
pub trait Tag: 'static {
    /// The key: `op`, `format`, `objective`.
    const KEY: &'static str;
}

/// A table that names a registered value and contains its options: `{ op = "flip", p = 0.5 }`. The value registered
/// under that name parses the options strictly.
#[derive(Debug)]
pub struct Tagged<K> {
    /// The value of the key.
    pub name: String,
    /// All other keys.
    pub options: toml::Table,
    key: PhantomData<fn() -> K>,
}

impl<K> Clone for Tagged<K> {
    fn clone(&self) -> Self {
        Self { name: self.name.clone(), options: self.options.clone(), key: PhantomData }
    }
}

impl<K> PartialEq for Tagged<K> {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && self.options == other.options
    }
}

impl<K: Tag> Tagged<K> {
    /// The table that selects `name` with `options`.
    ///
    /// # Errors
    /// Options that are not a table.
    pub fn new<O: Serialize>(name: &str, options: &O) -> Result<Self, ConfigError> {
        let options = toml::Table::try_from(options)
            .map_err(|error| ConfigError::new(format!("{} = \"{name}\"", K::KEY), error))?;
        Ok(Self { name: name.into(), options, key: PhantomData })
    }

    /// The options, parsed strictly.
    ///
    /// # Errors
    /// An unknown, missing or wrong key; the error gives its name.
    pub fn parse<O: DeserializeOwned>(&self) -> Result<O, ConfigError> {
        parse_table(self.options.clone(), format!("{} = \"{}\"", K::KEY, self.name))
    }

    /// The options of the table at the path `key` of the file `origin`, parsed strictly.
    ///
    /// # Errors
    /// An unknown, missing or wrong key; the error gives its path in the file.
    pub fn parse_at<O: DeserializeOwned>(&self, origin: &str, key: &str) -> Result<O, ConfigError> {
        let options = toml::Value::Table(self.options.clone());
        serde_path_to_error::deserialize(options).map_err(|e| {
            let path = match e.path().to_string().as_str() {
                "." => key.to_string(),
                path => format!("{key}.{path}"),
            };
            let message = e.into_inner().to_string();
            ConfigError::new(
                origin,
                format!("`{path}`: {} = \"{}\": {}", K::KEY, self.name, message.trim_end()),
            )
        })
    }

    /// The same table with every default of its options written out.
    ///
    /// # Errors
    /// The errors of [`Tagged::parse`].
    pub fn completed<O: DeserializeOwned + Serialize>(&self) -> Result<Self, ConfigError> {
        Self::new(&self.name, &self.parse::<O>()?)
    }
}

impl<K: Tag> Serialize for Tagged<K> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(1 + self.options.len()))?;
        map.serialize_entry(K::KEY, &self.name)?;
        for (key, value) in &self.options {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

impl<'de, K: Tag> Deserialize<'de> for Tagged<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let table = toml::Table::deserialize(deserializer)?;
        let name = match table.get(K::KEY) {
            Some(toml::Value::String(name)) => name.clone(),
            Some(_) => return Err(D::Error::custom(format!("`{}` must be a string", K::KEY))),
            None => return Err(D::Error::missing_field(K::KEY)),
        };
        // In the order of the file, which `remove` would not keep.
        let options = table.into_iter().filter(|(key, _)| key != K::KEY).collect();
        Ok(Self { name, options, key: PhantomData })
    }
}

impl<K: Tag> JsonSchema for Tagged<K> {
    fn schema_name() -> Cow<'static, str> {
        format!("table_with_{}", K::KEY).into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "object", "properties": { K::KEY: { "type": "string" } }, "required": [K::KEY] })
    }
}

impl<K: Tag> Tagged<K> {
    /// Replaces the definition of this table in the schemas of `generator` by one that allows exactly the tables of
    /// `registered`: names, and schemas of options.
    pub fn define<T>(
        generator: &mut SchemaGenerator,
        registered: &Named<T>,
        options: impl Fn(&T, &mut SchemaGenerator) -> Schema,
    ) {
        let mut tables = vec![];
        for (name, value) in registered.iter() {
            let mut schema = options(value, generator);
            let table = schema.ensure_object();
            let mut properties = serde_json::Map::from_iter([(K::KEY.to_string(), json!({ "const": name }))]);
            if let Some(serde_json::Value::Object(others)) = table.remove("properties") {
                properties.extend(others);
            }
            let mut required = vec![serde_json::Value::from(K::KEY)];
            if let Some(serde_json::Value::Array(others)) = table.remove("required") {
                required.extend(others);
            }
            table.insert("type".into(), "object".into());
            table.insert("properties".into(), properties.into());
            table.insert("required".into(), required.into());
            table.insert("additionalProperties".into(), false.into());
            tables.push(schema.to_value());
        }
        generator.definitions_mut().insert(Self::schema_name().into(), json!({ "oneOf": tables }));
    }
}

/// The JSON schema of `T`, where `define` replaces the definitions of open tables by the registered parts
/// ([`Tagged::define`]).
pub fn schema_with<T: JsonSchema>(define: impl FnOnce(&mut SchemaGenerator)) -> Schema {
    let mut generator = SchemaGenerator::default();
    generator.root_schema_for::<T>(); // makes the definitions that are replaced
    define(&mut generator);
    generator.into_root_schema_for::<T>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    #[derive(Debug)]
    struct Op;

    impl Tag for Op {
        const KEY: &'static str = "op";
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Flip {
        #[serde(default)]
        p: f64,
    }

    #[test]
    fn a_tagged_table_keeps_its_options_for_their_owner() {
        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        struct Recipe {
            augment: Vec<Tagged<Op>>,
        }
        let recipe: Recipe =
            parse("augment = [{ op = \"flip\" }, { p = 0.5, op = \"flip\" }]", "test").unwrap();
        assert_eq!(recipe.augment[0].name, "flip");
        assert_eq!(recipe.augment[1].parse::<Flip>().unwrap(), Flip { p: 0.5 });
        let completed = recipe.augment[0].completed::<Flip>().unwrap();
        assert_eq!(toml::to_string(&completed).unwrap(), "op = \"flip\"\np = 0.0\n");
        let error = parse::<Recipe>("augment = [{ p = 0.5 }]", "test").unwrap_err().to_string();
        assert!(error.contains("missing field `op`"), "{error}");
        let wrong: Recipe = parse("augment = [{ op = \"flip\", q = 1 }]", "test").unwrap();
        let error = wrong.augment[0].parse::<Flip>().unwrap_err().to_string();
        assert!(error.starts_with("op = \"flip\": `q`") && error.contains("expected `p`"), "{error}");
    }

    #[test]
    fn names_are_unique_and_near_misses_are_suggested() {
        let named = Named::new("operation").with("flip", 1).with("crop", 2);
        named.check().unwrap();
        assert_eq!(named.get("crop").unwrap(), &2);
        let error = named.get("flp").unwrap_err().to_string();
        assert_eq!(error, "operation `flp`: unknown; did you mean `flip`? known: flip, crop");
        let error = named.with("flip", 3).check().unwrap_err().to_string();
        assert!(error.starts_with("operation `flip`: is registered twice"), "{error}");
    }
}
