//! [`Reference`]: a published number, read from `tasks/<task>/reference.toml`.
//!
//! The file has one `[[published]]` for each published table or figure. A field given there applies to all its values, and a
//! value can override it. `origin = "unpublished"` marks results of other programs that no paper reports.

use crate::config::{ConfigError, Library, ReconstructionTarget, parse};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};

/// The origin of a number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// Runs of this program, each with a record.
    #[serde(skip)]
    Ours,
    /// A paper.
    #[default]
    Published,
    /// A reproduction of a paper by others, or by its authors in another program.
    Reproduced,
    /// Another program on the same data with the same recipe; not reported in a paper.
    Unpublished,
}

impl Origin {
    /// Its name in tables and files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Published => "published",
            Self::Reproduced => "reproduced",
            Self::Unpublished => "unpublished",
        }
    }
}

/// A number that does not come from a run of this program.
#[derive(Clone, Debug, PartialEq)]
pub struct Reference {
    /// Id of the published table, which several numbers share.
    pub id: String,
    /// Name of the task.
    pub task: String,
    /// The origin of the number.
    pub origin: Origin,
    /// Full citation of the source.
    pub source: String,
    /// Place in the source: `Table 3`.
    pub place: String,
    /// Name of the model.
    pub model: String,
    /// Name of the recipe.
    pub recipe: String,
    /// Label of the initial weights.
    pub init: String,
    /// Any other property that distinguishes it, like overrides of runs; may be empty.
    pub variant: String,
    /// Name of the score.
    pub score: String,
    /// The number, in the unit of the score.
    pub value: f64,
    /// Standard deviation over seeds, if the source states it.
    pub spread: Option<f64>,
    /// Number of seeds, if the value is a mean over several.
    pub seeds: Option<usize>,
    /// The target of the pre-training of the initial weights, if it matters.
    pub target: Option<ReconstructionTarget>,
    /// Remark for readers.
    pub note: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    sources: BTreeMap<String, String>,
    #[serde(default)]
    published: Vec<Published>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Published {
    id: String,
    #[serde(default)]
    origin: Origin,
    source: String,
    place: String,
    score: Option<String>,
    model: Option<String>,
    recipe: Option<String>,
    init: Option<String>,
    variant: Option<String>,
    target: Option<ReconstructionTarget>,
    note: Option<String>,
    values: Vec<Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Value {
    score: Option<String>,
    model: Option<String>,
    recipe: Option<String>,
    init: Option<String>,
    variant: Option<String>,
    target: Option<ReconstructionTarget>,
    note: Option<String>,
    value: f64,
    spread: Option<f64>,
    seeds: Option<usize>,
}

impl Reference {
    /// Parses the `reference.toml` of `task`.
    ///
    /// # Errors
    /// A source that is not in `[sources]`, a field that neither a value nor its table has, and values that are given twice
    /// or are not finite.
    pub fn parse(text: &str, origin: impl std::fmt::Display, task: &str) -> Result<Vec<Self>, ConfigError> {
        let origin = origin.to_string();
        let file: File = parse(text, &origin)?;
        let mut references: Vec<Self> = Vec::new();
        let mut seen = BTreeSet::new();
        for published in file.published {
            let id = &published.id;
            let source = file.sources.get(&published.source).ok_or_else(|| {
                let known: Vec<_> = file.sources.keys().map(String::as_str).collect();
                let (name, known) = (&published.source, known.join(", "));
                ConfigError::new(
                    &origin,
                    format!("`{id}`: source `{name}` is not in [sources]; known: {known}"),
                )
            })?;
            for (i, value) in published.values.into_iter().enumerate() {
                let at = |message: String| ConfigError::new(&origin, format!("`{id}`, value {i}: {message}"));
                let field = |name: &str, own: Option<String>, common: &Option<String>| {
                    own.or_else(|| common.clone()).ok_or_else(|| at(format!("no `{name}`")))
                };
                let spread = value.spread.is_none_or(|spread| spread.is_finite() && spread >= 0.);
                if !spread || value.seeds.is_some_and(|seeds| seeds < 2 || value.spread.is_none()) {
                    return Err(at("`spread` is at least 0, and `seeds`, at least 2, need one".into()));
                }
                if !value.value.is_finite() {
                    return Err(at("not finite".into()));
                }
                let reference = Self {
                    id: id.clone(),
                    task: task.to_string(),
                    origin: published.origin,
                    source: source.clone(),
                    place: published.place.clone(),
                    model: field("model", value.model, &published.model)?,
                    recipe: field("recipe", value.recipe, &published.recipe)?,
                    init: field("init", value.init, &published.init)?,
                    variant: value.variant.or_else(|| published.variant.clone()).unwrap_or_default(),
                    score: field("score", value.score, &published.score)?,
                    value: value.value,
                    spread: value.spread,
                    seeds: value.seeds,
                    target: value.target.or(published.target),
                    note: value.note.or_else(|| published.note.clone()),
                };
                let r = &reference;
                if !seen
                    .insert([&r.id, &r.model, &r.recipe, &r.init, &r.variant, &r.score].map(String::clone))
                {
                    return Err(at(format!(
                        "`{}` of {}, {}, {} {} is given twice",
                        r.score, r.model, r.recipe, r.init, r.variant
                    )));
                }
                references.push(reference);
            }
        }
        Ok(references)
    }

    /// Reads the published numbers of all tasks of a library, sorted by task and then as in the files. A task may have none.
    ///
    /// # Errors
    /// The errors of [`Reference::parse`].
    pub fn all(library: &Library) -> Result<Vec<Self>, ConfigError> {
        let mut references = Vec::new();
        for task in library.list("tasks") {
            let path = format!("tasks/{task}/reference.toml");
            match library.text(&path) {
                Ok((text, origin)) => references.extend(Self::parse(&text, origin, &task)?),
                Err(error) if library.on_disk(&path).is_some() => return Err(error),
                Err(_) => {} // no such file
            }
        }
        Ok(references)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
        [sources]
        mae = "He et al."
        [[published]]
        id = "t3"
        source = "mae"
        place = "Table 3"
        score = "top1"
        recipe = "finetune"
        init = "mae"
        values = [
            { model = "vit_b16", value = 83.6 },
            { model = "vit_b16", init = "scratch", value = 82.3, note = "n" },
        ]
    "#;

    #[test]
    fn a_value_replaces_a_field_of_its_table() {
        let read = Reference::parse(TEXT, "x", "imagenet").unwrap();
        assert_eq!(read.len(), 2);
        assert_eq!((read[0].init.as_str(), read[0].value, read[0].note.as_deref()), ("mae", 83.6, None));
        assert_eq!(
            (read[1].init.as_str(), read[1].value, read[1].note.as_deref()),
            ("scratch", 82.3, Some("n"))
        );
        assert_eq!((read[1].source.as_str(), read[1].task.as_str()), ("He et al.", "imagenet"));
    }

    #[test]
    fn a_number_is_published_unless_it_says_otherwise() {
        assert!(Reference::parse(TEXT, "x", "t").unwrap().iter().all(|r| r.origin == Origin::Published));
        let text = TEXT.replace("place =", "origin = \"unpublished\"\nplace =");
        let read = Reference::parse(&text, "x", "t").unwrap();
        assert!(read.iter().all(|r| r.origin == Origin::Unpublished && r.origin.name() == "unpublished"));
        let error = Reference::parse(&text.replace("unpublished", "ours"), "x", "t").unwrap_err().to_string();
        assert!(error.contains("`ours`"), "{error}");
    }

    #[test]
    fn what_is_missing_or_double_is_named() {
        for (from, to, expected) in [
            ("mae = \"He", "moco = \"He", "source `mae` is not in [sources]; known: moco"),
            ("score = \"top1\"", "", "`t3`, value 0: no `score`"),
            ("init = \"scratch\", ", "", "value 1: `top1` of vit_b16, finetune, mae  is given twice"),
            ("83.6", "nan", "value 0: not finite"),
            ("83.6", "83.6, seeds = 3", "value 0: `spread`"),
            ("place", "palce", "palce"),
        ] {
            let text = TEXT.replacen(from, to, 1);
            let error = Reference::parse(&text, "reference.toml", "imagenet").unwrap_err().to_string();
            assert!(error.starts_with("reference.toml: ") && error.contains(expected), "{error}");
        }
    }

    #[test]
    fn the_catalogue_names_rows_that_exist() {
        let library = Library::default();
        let references = Reference::all(&library).unwrap();
        for known in crate::config::Catalogue::load(&library).unwrap().0 {
            let here = |r: &&Reference| r.init == known.init && Some(&r.model) == known.model.as_ref();
            for id in &known.rows {
                let rows: Vec<_> = references.iter().filter(|r| r.id == *id).filter(here).collect();
                assert!(!rows.is_empty(), "{}: `{id}` has no such row", known.place());
                let targets =
                    rows.iter().all(|r| r.target.is_none()) || rows.iter().any(|r| r.target == known.target);
                assert!(targets, "{}: {rows:?}", known.place());
            }
        }
    }

    #[test]
    fn every_built_in_file_parses() {
        let references = Reference::all(&Library::default()).unwrap();
        let of = |task: &str| references.iter().filter(|r| r.task == task).count();
        assert!(of("imagenet") > 100, "{}", of("imagenet"));
        for task in ["inat2017", "inat2018", "inat2019", "places205", "places365"] {
            assert_eq!(of(task), 5, "{task}");
        }
        let percent = |r: &&Reference| (0. ..=100.).contains(&r.value);
        assert_eq!(references.iter().filter(percent).count(), references.len());
    }
}
