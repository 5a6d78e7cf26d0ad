//! Format `coco_labels`: one label per image, in the JSON layout of COCO, as iNaturalist publishes it.
//!
//! `images` (id, file_name), `annotations` (image_id, category_id) and `categories` (id, name). Labels follow the
//! order of category ids; boxes and masks are not read.

use super::super::json::{NamedFields, RecordId, Records, Scalar, parse};
use super::super::{Annotation, DataError, Index};
use super::format::{Format, SplitSource};
use crate::files;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::PathBuf;

/// `format = "coco_labels"` of a manifest: COCO's JSON layout with one category per image. File names lie below `images`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CocoLabels {
    /// The JSON file, relative to the data root.
    pub file: PathBuf,
}

#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    images: Records<ImageRecord>,
    #[serde(default)]
    annotations: Records<Link>,
    #[serde(default)]
    categories: Records<Category>,
}

#[derive(Deserialize)]
struct ImageRecord {
    #[serde(default)]
    id: Scalar,
    #[serde(default)]
    file_name: Scalar,
}

#[derive(Deserialize)]
struct Link {
    #[serde(default)]
    image_id: Scalar,
    #[serde(default)]
    category_id: Scalar,
}

#[derive(Deserialize)]
struct Category {
    #[serde(default)]
    id: Scalar,
    #[serde(default)]
    name: Scalar,
}

impl Format for CocoLabels {
    const NAME: &'static str = "coco_labels";

    fn index(&self, split: &SplitSource) -> Result<Index, DataError> {
        let file = split.root.join(&self.file);
        let text = files::read(&file).map_err(|e| DataError::file(&file, e))?;
        let NamedFields(document) = parse(text).map_err(|e| DataError::file(&file, e))?;
        let (labels, classes) = labelled(document).map_err(|flaws| DataError::flaws(&file, flaws))?;
        let entry =
            |(name, label): Labelled| split.entry(split.listed_image(&name), Annotation::Label(label));
        Ok(Index {
            entries: labels.into_iter().map(entry).collect(),
            classes: Some(classes),
            ..Index::default()
        })
    }
}

/// A file name and its label.
type Labelled = (String, u32);

/// Images in the order of the document, and class names.
///
/// # Errors
/// Every flaw with its place.
fn labelled(document: Document) -> Result<(Vec<Labelled>, Vec<String>), Vec<String>> {
    let mut flaws = vec![];
    let images = document.images.required("images", &mut flaws);
    let links = document.annotations.required("annotations", &mut flaws);
    let mut categories: BTreeMap<RecordId, String> = BTreeMap::new();
    for (place, category) in document.categories.required("categories", &mut flaws).iter().enumerate() {
        match category.read() {
            Ok((id, name)) => match categories.insert(id.clone(), name.clone()) {
                Some(other) if other != name => {
                    flaws.push(format!("category {id} occurs twice, with different names"));
                }
                _ => {}
            },
            Err(flaw) => flaws.push(format!("categories[{place}]: {flaw}")),
        }
    }
    let label_of: HashMap<&RecordId, u32> = categories.keys().zip(0..).collect();
    let mut labels: HashMap<RecordId, u32> = HashMap::with_capacity(links.len());
    for (place, link) in links.iter().enumerate() {
        let ids = id(&link.image_id, "image_id")
            .and_then(|image| Ok((image, id(&link.category_id, "category_id")?)));
        let (image, category) = match ids {
            Ok(ids) => ids,
            Err(flaw) => {
                flaws.push(format!("annotations[{place}]: {flaw}"));
                continue;
            }
        };
        match label_of.get(&category) {
            None => {
                flaws.push(format!("image {image} is of category {category}, which is not in `categories`"));
                labels.entry(image).or_default(); // the label is wrong, not absent
            }
            Some(label) if labels.insert(image.clone(), *label).is_some_and(|other| other != *label) => {
                flaws.push(format!("image {image} has two labels"));
            }
            Some(_) => {}
        }
    }
    let mut found = Vec::with_capacity(images.len());
    let (mut ids, mut names) = (HashSet::new(), HashSet::new());
    for (place, image) in images.iter().enumerate() {
        match image.read() {
            Err(flaw) => flaws.push(format!("images[{place}]: {flaw}")),
            Ok((id, name)) if !ids.insert(id.clone()) => {
                flaws.push(format!("image {id} (`{name}`) occurs twice"))
            }
            Ok((id, name)) if !names.insert(name.to_string()) => {
                flaws.push(format!("image {id}: file `{name}` occurs twice"));
            }
            Ok((id, name)) => match labels.get(&id) {
                Some(label) => found.push((name.to_string(), *label)),
                None => flaws.push(format!("image {id} (`{name}`) has no annotation")),
            },
        }
    }
    let unknown = labels.keys().filter(|id| !ids.contains(*id)).collect::<BTreeSet<_>>();
    flaws.extend(
        unknown.into_iter().map(|id| format!("an annotation is of image {id}, which is not in `images`")),
    );
    if flaws.is_empty() { Ok((found, categories.into_values().collect())) } else { Err(flaws) }
}

/// The id in the field `name`.
fn id(value: &Scalar, name: &str) -> Result<RecordId, String> {
    value.id().map_err(|flaw| format!("`{name}` {flaw}"))?.ok_or_else(|| format!("there is no `{name}`"))
}

impl ImageRecord {
    fn read(&self) -> Result<(RecordId, &str), String> {
        let name = self.file_name.word().map_err(|flaw| format!("`file_name` {flaw}"))?;
        Ok((id(&self.id, "id")?, name.ok_or("there is no `file_name`")?))
    }
}

impl Category {
    /// Id and name; a category without a name is named by its id.
    fn read(&self) -> Result<(RecordId, String), String> {
        let id = id(&self.id, "id")?;
        let name =
            match self.name.id().map_err(|flaw| format!("`name` {flaw}"))?.unwrap_or_else(|| id.clone()) {
                RecordId::Number(number) => number.to_string(),
                RecordId::Word(word) => word.to_string(),
            };
        Ok((id, name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn read(text: &str) -> Result<Index, String> {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("train.json"), text).unwrap();
        let split = SplitSource { root: root.path(), images: Path::new("."), class_names: None };
        CocoLabels { file: "train.json".into() }.index(&split).map_err(|e| e.to_string())
    }

    fn document(annotations: &str) -> String {
        format!(
            r#"{{"info": {{"year": 2018}},
                 "images": [{{"id": 7, "file_name": "t/B/2.jpg", "width": 3}}, {{"id": 3, "file_name": "t/A/1.jpg"}}],
                 "annotations": [{annotations}],
                 "categories": [{{"id": 10, "name": "wolf"}}, {{"id": 2, "name": "cat"}}, {{"id": 5}}]}}"#
        )
    }

    #[test]
    fn labels_follow_category_ids() {
        let text = document(
            r#"{"id": 1, "image_id": 3, "category_id": 2}, {"id": 2, "image_id": 7, "category_id": 10}"#,
        );
        let index = read(&text).unwrap();
        let lines: Vec<_> = index.entries.iter().map(|e| format!("{} {:?}", e.id, e.annotation)).collect();
        assert_eq!(lines, ["t/B/2.jpg Label(2)", "t/A/1.jpg Label(0)"]);
        assert_eq!(index.classes.unwrap(), ["cat", "5", "wolf"]);
    }

    #[test]
    fn gaps_are_errors() {
        for (annotations, words) in [
            (r#"{"image_id": 3, "category_id": 2}"#, "image 7 (`t/B/2.jpg`) has no annotation"),
            (r#"{"image_id": 3, "category_id": 4}"#, "image 3 is of category 4"),
            (
                r#"{"image_id": 3, "category_id": 2}, {"image_id": 3, "category_id": 5}"#,
                "image 3 has two labels",
            ),
            (r#"{"image_id": 3}"#, "annotations[0]: there is no `category_id`"),
            (r#"{"image_id": [3], "category_id": 2}"#, "annotations[0]: `image_id` is a list"),
            (r#"{"image_id": 8, "category_id": 2}"#, "an annotation is of image 8, which is not in `images`"),
        ] {
            let error = read(&document(annotations)).unwrap_err();
            assert!(error.contains(words) && error.contains("train.json"), "{error}");
        }
    }
}
