//! A JSON schema as a page of Markdown: a section for each TOML table, with a row for each of its keys.

use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Appends the keys that `schema` describes to `text`: those of the whole file first, then a section for each table. Returns the keys.
pub(super) fn append(text: &mut String, schema: &Value) -> Vec<KeyRow> {
    let mut page =
        Page { root: schema, text, found: vec![], waiting: VecDeque::new(), headings: BTreeMap::new() };
    page.body("", schema, 2);
    while let Some((path, schema)) = page.waiting.pop_front() {
        page.heading(2, &path);
        page.body(&path, schema, 3);
    }
    page.found
}

/// A key of a file.
pub(super) struct KeyRow {
    name: String,
    /// The key with its tables: `optim.base_lr`. The tables of a choice have the same paths.
    pub path: String,
    /// Its type in words; may contain links.
    pub kind: String,
    /// Its default as TOML, `required`, or `–`.
    pub default: String,
    /// What it means.
    pub meaning: String,
}

/// All keys that `schema` describes, in the order of its page.
pub(super) fn keys(schema: &Value) -> Vec<KeyRow> {
    let mut text = String::new();
    append(&mut text, schema)
}

struct Page<'a> {
    root: &'a Value,
    text: &'a mut String,
    /// Every key that was written.
    found: Vec<KeyRow>,
    /// Sections that are linked to and not yet written: key path and schema.
    waiting: VecDeque<(String, &'a Value)>,
    /// Key path of the section of each definition that has one.
    headings: BTreeMap<String, String>,
}

impl<'a> Page<'a> {
    fn heading(&mut self, level: usize, title: &str) {
        self.text.push_str(&format!("\n{} `{title}`\n", "#".repeat(level)));
    }

    fn paragraph(&mut self, text: &str) {
        if !text.is_empty() {
            self.text.push_str(&format!("\n{text}\n"));
        }
    }

    /// Description, keys and alternatives of a table.
    fn body(&mut self, path: &str, schema: &'a Value, level: usize) {
        let schema = self.resolved(schema);
        self.paragraph(&description(schema));
        self.keys(path, &[schema]);
        let alternatives = alternatives(schema);
        let (tables, words): (Vec<&Value>, Vec<&Value>) =
            alternatives.into_iter().partition(|alternative| self.is_table(alternative));
        let listed: Vec<String> = words
            .iter()
            .flat_map(|word| constants(word).into_iter().map(move |value| (value, description(word))))
            .map(|(value, about)| format!("- `{path} = {value}`{}", after_colon(&about)))
            .collect();
        self.paragraph(&listed.join("\n"));
        for table in tables {
            // A variant may hold its tag beside a reference to its other keys.
            let whole = self.resolved(table);
            let title = title(path, &[table, whole]);
            self.heading(level, &title);
            let own = description(table);
            self.paragraph(&if own.is_empty() { description(whole) } else { own });
            let parts = if std::ptr::eq(table, whole) { vec![table] } else { vec![table, whole] };
            self.keys(path, &parts);
        }
    }

    /// A table with a row for each key of `schemas`, which describe one TOML table together.
    fn keys(&mut self, path: &str, schemas: &[&'a Value]) {
        let mut rows = String::new();
        for key in self.described(path, schemas) {
            let default = match key.default.as_str() {
                word @ ("required" | "–") => word.to_string(),
                value => format!("`{value}`"),
            };
            let (kind, meaning) = (cell(&key.kind), cell(&key.meaning));
            rows.push_str(&format!("| `{}` | {kind} | {default} | {meaning} |\n", key.name));
            self.found.push(key);
        }
        if !rows.is_empty() {
            self.text.push_str("\n| key | type | default | meaning |\n|---|---|---|---|\n");
            self.text.push_str(&rows);
        }
    }

    /// The keys of `schemas`, which describe one TOML table together.
    fn described(&mut self, path: &str, schemas: &[&'a Value]) -> Vec<KeyRow> {
        let mut rows = vec![];
        for schema in schemas {
            let required: BTreeSet<&str> = list(schema, "required").filter_map(Value::as_str).collect();
            for (key, value) in map(schema, "properties") {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                let default = match value.get("default") {
                    _ if required.contains(key.as_str()) => "required".into(),
                    None | Some(Value::Null) => "–".into(),
                    Some(default) => toml(default),
                };
                let (kind, meaning) = (self.kind(&path, value), self.meaning(value));
                rows.push(KeyRow { name: key.clone(), path, kind, default, meaning });
            }
        }
        rows
    }

    /// The type of a value, in words; tables get a section of their own.
    fn kind(&mut self, path: &str, schema: &'a Value) -> String {
        if let Some(one) = self.nullable(schema) {
            return self.kind(path, one);
        }
        let whole = self.resolved(schema);
        if let Some(values) = self.choices(whole) {
            return values.iter().map(|(value, _)| format!("`{value}`")).collect::<Vec<_>>().join(" | ");
        }
        if self.is_section(whole) {
            let name = schema.get("$ref").and_then(Value::as_str).unwrap_or(path).to_string();
            let known = self.headings.get(&name).cloned();
            let heading = known.unwrap_or_else(|| {
                self.headings.insert(name, path.to_string());
                self.waiting.push_back((path.to_string(), whole));
                path.to_string()
            });
            return format!("[table](#{})", anchor(&heading));
        }
        match type_of(whole) {
            "array" => self.array(path, whole),
            "object" => match whole.get("additionalProperties") {
                Some(values @ Value::Object(_)) => match self.kind(&format!("{path}.<name>"), values) {
                    link if link.starts_with("[table]") => format!("table of {}", plural(&link)),
                    other => format!("{{ name = {other}, … }}"),
                },
                _ => "table".into(),
            },
            "boolean" => "`true` or `false`".into(),
            "" => {
                let of = alternatives(whole).into_iter().map(|one| self.kind(path, one));
                let of: Vec<String> = of.collect();
                if of.is_empty() { "any value".into() } else { of.join(" or ") }
            }
            kind => kind.into(),
        }
    }

    fn array(&mut self, path: &str, schema: &'a Value) -> String {
        let Some(items) = schema.get("items") else { return "array".into() };
        let of = self.kind(path, items);
        let length = |key: &str| schema.get(key).and_then(Value::as_u64);
        match (length("minItems"), length("maxItems")) {
            (Some(least), Some(most)) if least == most && most <= 4 => {
                format!("[{}]", vec![of; most as usize].join(", "))
            }
            _ if of.starts_with("[table]") => format!("array of {}", plural(&of)),
            _ => format!("[{of}, …]"),
        }
    }

    /// The description of a key: its own or that of its type, and those of its values.
    fn meaning(&self, schema: &'a Value) -> String {
        let one = self.nullable(schema).unwrap_or(schema);
        let whole = self.resolved(one);
        let own = [schema, one].map(description).into_iter().find(|text| !text.is_empty());
        let mut text = own.unwrap_or_else(|| description(whole));
        for (value, about) in self.choices(whole).unwrap_or_default() {
            if !about.is_empty() {
                text.push_str(&format!(" `{value}`: {about}"));
            }
        }
        text.trim().to_string()
    }

    /// `X` of "X or null".
    fn nullable(&self, schema: &'a Value) -> Option<&'a Value> {
        let mut values = list(schema, "anyOf").filter(|one| type_of(one) != "null");
        let one = values.next()?;
        values.next().is_none().then_some(one)
    }

    fn resolved(&self, schema: &'a Value) -> &'a Value {
        let name = schema.get("$ref").and_then(Value::as_str);
        let found = name.and_then(|name| self.root.pointer(name.strip_prefix('#')?));
        found.map_or(schema, |found| self.resolved(found))
    }

    /// The values of an enumeration, each with what is said of it.
    fn choices(&self, schema: &'a Value) -> Option<Vec<(String, String)>> {
        let of = |schema: &Value| -> Vec<(String, String)> {
            constants(schema).into_iter().map(|value| (value, String::new())).collect()
        };
        let alternatives = alternatives(schema);
        if alternatives.is_empty() {
            return Some(of(schema)).filter(|values| !values.is_empty());
        }
        let mut values = vec![];
        for alternative in alternatives {
            let about = description(alternative);
            let found = constants(alternative);
            if found.is_empty() {
                return None;
            }
            values.extend(found.into_iter().map(|value| (value, about.clone())));
        }
        Some(values)
    }

    fn is_table(&self, schema: &'a Value) -> bool {
        schema.get("properties").is_some() || self.resolved(schema).get("properties").is_some()
    }

    fn is_section(&self, schema: &'a Value) -> bool {
        self.is_table(schema) || alternatives(schema).into_iter().any(|one| self.is_table(one))
    }
}

/// `objective = "mae"` of a variant that has a constant key; otherwise its keys.
fn title(path: &str, parts: &[&Value]) -> String {
    let properties = || parts.iter().flat_map(|part| map(part, "properties"));
    let tag = properties().find_map(|(key, value)| Some(format!("{key} = {}", toml(value.get("const")?))));
    let keys = || properties().map(|(key, _)| format!("{key} = …")).collect::<BTreeSet<_>>();
    let inside = tag.unwrap_or_else(|| keys().into_iter().collect::<Vec<_>>().join(", "));
    if path.is_empty() { inside } else { format!("{path}: {inside}") }
}

/// The words of a type without the links of its page.
pub(super) fn without_links(kind: &str) -> String {
    let mut text = kind.replace('`', "");
    while let Some(middle) = text.find("](#") {
        let (before, after) = text.split_at(middle);
        let (start, end) =
            (before.rfind('[').unwrap_or(middle), after.find(')').map_or(text.len(), |end| middle + end + 1));
        text =
            format!("{}{}{}", &text[..start], text.get(start + 1..middle).unwrap_or_default(), &text[end..]);
    }
    text
}

fn alternatives(schema: &Value) -> Vec<&Value> {
    let all = list(schema, "oneOf").chain(list(schema, "anyOf"));
    all.filter(|one| type_of(one) != "null").collect()
}

/// The values that a schema lists by `const` or `enum`, as TOML.
fn constants(schema: &Value) -> Vec<String> {
    schema.get("const").into_iter().chain(list(schema, "enum")).map(toml).collect()
}

fn list<'a>(schema: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    schema.get(key).and_then(Value::as_array).into_iter().flatten()
}

fn map<'a>(schema: &'a Value, key: &str) -> impl Iterator<Item = (&'a String, &'a Value)> + use<'a> {
    schema.get(key).and_then(Value::as_object).into_iter().flat_map(Map::iter)
}

/// The JSON type; of two types, the one that is not `null`.
fn type_of(schema: &Value) -> &str {
    match schema.get("type") {
        Some(Value::String(name)) => name,
        Some(Value::Array(names)) => {
            names.iter().filter_map(Value::as_str).find(|name| *name != "null").unwrap_or("null")
        }
        _ => "",
    }
}

/// The description on one line; links of Rust's documentation become code.
fn description(schema: &Value) -> String {
    let text = schema.get("description").and_then(Value::as_str).unwrap_or_default();
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace("[`", "`").replace("`]", "`")
}

fn after_colon(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(": {text}") }
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

/// A JSON value in the notation of TOML.
fn toml(value: &Value) -> String {
    match value {
        Value::Array(values) => format!("[{}]", values.iter().map(toml).collect::<Vec<_>>().join(", ")),
        Value::Object(values) if values.is_empty() => "{}".into(),
        Value::Object(values) => {
            let pairs = values.iter().map(|(key, value)| format!("{key} = {}", toml(value)));
            format!("{{ {} }}", pairs.collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}

/// The link to a table as a link to tables.
fn plural(link: &str) -> String {
    link.replacen("[table]", "[tables]", 1)
}

/// The anchor that GitHub gives a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().flat_map(char::to_lowercase).filter_map(|c| match c {
        ' ' => Some('-'),
        c if c.is_alphanumeric() || "-_".contains(c) => Some(c),
        _ => None,
    });
    kept.collect()
}

#[cfg(test)]
mod tests {
    use super::append;
    use serde_json::json;

    #[test]
    fn keys_tables_choices_and_variants_are_written() {
        let schema = json!({
            "type": "object",
            "required": ["epochs"],
            "properties": {
                "epochs": { "type": "integer", "description": "Passes over\nthe split | all." },
                "image": { "type": ["array", "null"], "items": { "type": "integer" }, "minItems": 2, "maxItems": 2 },
                "exempt": { "$ref": "#/$defs/Exempt", "default": "none" },
                "optim": { "anyOf": [{ "$ref": "#/$defs/Optim" }, { "type": "null" }] },
                "pretrain": { "$ref": "#/$defs/Pretrain" },
                "blocks": { "$ref": "#/$defs/Blocks", "description": "Which blocks." },
                "rows": { "type": "array", "items": { "type": "string" } },
                "split": { "type": "object", "additionalProperties": { "$ref": "#/$defs/Optim" } },
            },
            "$defs": {
                "Blocks": { "anyOf": [{ "const": "all" }, { "type": "array", "items": { "type": "integer" } }] },
                "Exempt": { "oneOf": [
                    { "enum": ["none"] },
                    { "const": "norms", "description": "See [`Norm`]." },
                ] },
                "Optim": {
                    "type": "object", "description": "The optimiser.",
                    "properties": { "lr": { "type": "number", "default": 0.1 } },
                },
                "Mae": { "type": "object", "properties": { "mask_ratio": { "type": "number" } } },
                "Pretrain": { "oneOf": [
                    { "const": "nothing", "description": "No training." },
                    {
                        "type": "object", "description": "Masked autoencoding.", "$ref": "#/$defs/Mae",
                        "properties": { "objective": { "const": "mae" } }, "required": ["objective"],
                    },
                    { "type": "object", "properties": { "blocks": { "type": "number" } } },
                ] },
            },
        });
        let mut text = String::new();
        append(&mut text, &schema);
        for expected in [
            "| `epochs` | integer | required | Passes over the split \\| all. |\n",
            "| `image` | [integer, integer] | – |  |\n",
            "| `exempt` | `\"none\"` \\| `\"norms\"` | `\"none\"` | `\"norms\"`: See `Norm`. |\n",
            "| `optim` | [table](#optim) | – | The optimiser. |\n",
            "| `blocks` | `\"all\"` or [integer, …] | – | Which blocks. |\n",
            "| `rows` | [string, …] | – |  |\n",
            "| `split` | table of [tables](#optim) | – |  |\n",
            "\n## `optim`\n\nThe optimiser.\n\n| key | type | default | meaning |\n|---|---|---|---|\n| `lr` | number | `0.1` |  |\n",
            "\n## `pretrain`\n\n- `pretrain = \"nothing\"`: No training.\n",
            "\n### `pretrain: objective = \"mae\"`\n\nMasked autoencoding.\n",
            "| `objective` | `\"mae\"` | required |  |\n| `mask_ratio` | number | – |  |\n",
            "\n### `pretrain: blocks = …`\n",
        ] {
            assert!(text.contains(expected), "{expected}\n---\n{text}");
        }
        assert_eq!(text.matches("## `optim`").count(), 1, "{text}");
        let keys: Vec<_> = super::keys(&schema).into_iter().map(|key| (key.path, key.default)).collect();
        assert!(
            keys.contains(&("optim.lr".into(), "0.1".into()))
                && keys.contains(&("epochs".into(), "required".into()))
        );
        assert_eq!(
            super::without_links("array of [tables](#optim) or [integer, …]"),
            "array of tables or [integer, …]"
        );
    }
}
