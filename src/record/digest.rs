//! Hashes of the content of JSON and TOML, whatever its layout, comments and order of keys.
//!
//! The digest of a record finds an edit by hand. It does not resist forgery, because anyone can compute it; repeating the run
//! does (`bench record verify`).

use crate::config::{ConfigError, parse};
use serde_json::{Map, Value};
use std::fs::File;
use std::path::Path;

/// The key of a record that holds the hash of the others.
const DIGEST: &str = "digest";

/// blake3 of a record without its key `digest`, in hexadecimal: of its JSON without spaces, with the keys of every object sorted.
pub fn digest(record: &Value) -> String {
    let mut content = record.clone();
    if let Value::Object(fields) = &mut content {
        fields.remove(DIGEST);
    }
    hash(&content)
}

/// Adds the digest to a record as its last key, or replaces it.
pub(super) fn seal(record: &mut Value) {
    let digest = digest(record);
    if let Value::Object(fields) = record {
        fields.shift_remove(DIGEST);
        fields.insert(DIGEST.into(), digest.into());
    }
}

/// Checks the digest of a record and removes it. Returns whether there was one.
///
/// # Errors
/// A digest that is not that of the other fields.
pub(super) fn unseal(record: &mut Value) -> Result<bool, String> {
    let expected = digest(record);
    let Some(found) = record.as_object_mut().and_then(|fields| fields.shift_remove(DIGEST)) else {
        return Ok(false);
    };
    if found.as_str() != Some(&expected) {
        return Err("the content was changed after the program wrote it (`digest` is not that of the other \
                    fields); restore the file, or make the run again"
            .into());
    }
    Ok(true)
}

/// Hash of a task's manifest, in hexadecimal: of its values, without those on which no reported score depends (the default recipe
/// and the splits for choosing, `select` and `tune`). Comments and layout do not count.
///
/// # Errors
/// Text that is not TOML; `origin` names it.
pub fn task_hash(text: &str, origin: impl std::fmt::Display) -> Result<String, ConfigError> {
    let origin = origin.to_string();
    let mut manifest: toml::Table = parse(text, &origin)?;
    manifest.remove("recipe");
    if let Some(splits) = manifest.get_mut("splits").and_then(toml::Value::as_table_mut) {
        for split in ["select", "tune"] {
            splits.remove(split);
        }
    }
    let value = serde_json::to_value(manifest).map_err(|error| ConfigError::new(origin, error))?;
    Ok(hash(&value))
}

/// blake3 of the bytes of a file, in hexadecimal.
///
/// # Errors
/// A file that cannot be read.
pub fn file_hash(path: &Path) -> std::io::Result<String> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(File::open(path)?)?;
    Ok(hasher.finalize().to_hex().to_string())
}

fn hash(value: &Value) -> String {
    blake3::hash(sorted(value).to_string().as_bytes()).to_hex().to_string()
}

/// The same value with the keys of every object in alphabetical order.
fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().map(|(key, value)| (key.clone(), sorted(value))).collect();
            fields.sort_by(|a, b| a.0.cmp(&b.0));
            Value::Object(Map::from_iter(fields))
        }
        Value::Array(values) => Value::Array(values.iter().map(sorted).collect()),
        value => value.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn layout_does_not_count_and_every_value_does() {
        let record = json!({ "a": 1, "b": { "y": 0.1, "x": [1, { "q": 1, "p": 2 }] } });
        let other: Value =
            serde_json::from_str(r#"{ "b": {"x": [1, {"p": 2, "q": 1}],  "y": 1e-1}, "a": 1 }"#).unwrap();
        assert_eq!(digest(&record), digest(&other));
        let expected = blake3::hash(br#"{"a":1,"b":{"x":[1,{"p":2,"q":1}],"y":0.1}}"#).to_hex().to_string();
        assert_eq!(digest(&record), expected);
        for (from, to) in [("0.1", "0.10000000000000002"), ("\"p\":2", "\"p\":3"), ("[1,", "[2,")] {
            let edited = record.to_string().replacen(from, to, 1);
            assert_ne!(edited, record.to_string());
            assert_ne!(digest(&serde_json::from_str(&edited).unwrap()), digest(&record), "{from}");
        }
    }

    #[test]
    fn a_sealed_record_opens_unless_it_was_edited() {
        let mut record = json!({ "a": 1 });
        assert!(!unseal(&mut record.clone()).unwrap());
        seal(&mut record);
        seal(&mut record);
        let mut opened = record.clone();
        assert!(unseal(&mut opened).unwrap());
        assert_eq!(opened, json!({ "a": 1 }));
        record["a"] = 2.into();
        assert!(unseal(&mut record).unwrap_err().contains("changed"));
    }

    #[test]
    fn a_manifest_is_its_values() {
        let hash = |text: &str| task_hash(text, "task.toml").unwrap();
        let text = "name = \"t\"\nversion = 1\n";
        assert_eq!(hash(text), hash("# a comment\nversion = 1\nrecipe = \"r\"\n\nname = 't'"));
        assert_ne!(hash(text), hash(&text.replace('1', "2")));
        let splits = |more: &str| hash(&format!("{text}[splits]\ntrain = \"a\"\neval = \"b\"\n{more}"));
        assert_eq!(splits(""), splits("select = \"c\"\ntune = \"d\"\n"));
        assert_ne!(splits(""), splits("pretrain = \"c\"\n"));
        assert!(
            task_hash("=", "tasks/t/task.toml").unwrap_err().to_string().starts_with("tasks/t/task.toml")
        );
    }
}
