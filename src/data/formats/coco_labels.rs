//! Format `coco_labels`: one label per image, in the JSON layout of COCO, as iNaturalist publishes it.
//!
//! `images` (id, file_name), `annotations` (image_id, category_id) and `categories` (id, name). Labels follow the
//! order of category ids; boxes and masks are not read.

use super::super::{Annotation, DataError, Index};
use super::format::{Format, SplitSource};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

/// `format = "coco_labels"` of a manifest: COCO's JSON layout with one category per image. File names lie below `images`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CocoLabels {
    /// The JSON file, relative to the data root.
    pub file: PathBuf,
}

/// Ids are numbers in most files and strings in some.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(untagged)]
enum Id {
    Number(i64),
    Word(String),
}

impl std::fmt::Display for Id {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Word(word) => word.fmt(f),
        }
    }
}

#[derive(Deserialize)]
struct Document {
    images: Vec<ImageRecord>,
    annotations: Vec<Link>,
    categories: Vec<Category>,
}

#[derive(Deserialize)]
struct ImageRecord {
    id: Id,
    file_name: String,
}

#[derive(Deserialize)]
struct Link {
    image_id: Id,
    category_id: Id,
}

#[derive(Deserialize)]
struct Category {
    id: Id,
    name: Option<Id>,
}

impl Format for CocoLabels {
    const NAME: &'static str = "coco_labels";

    fn index(&self, split: &SplitSource) -> Result<Index, DataError> {
        let file = split.root.join(&self.file);
        let text = std::fs::read(&file).map_err(|e| DataError::file(&file, e))?;
        let document = serde_json::from_slice(&text).map_err(|e| DataError::file(&file, e))?;
        let (labels, classes) = labelled(document).map_err(|e| DataError::file(&file, e))?;
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
fn labelled(document: Document) -> Result<(Vec<Labelled>, Vec<String>), String> {
    let mut categories: BTreeMap<Id, String> = BTreeMap::new();
    for category in document.categories {
        let name = category.name.as_ref().unwrap_or(&category.id).to_string();
        if categories.insert(category.id.clone(), name).is_some() {
            return Err(format!("category {} occurs twice", category.id));
        }
    }
    let label_of: HashMap<&Id, u32> = categories.keys().zip(0..).collect();
    let mut labels: HashMap<Id, u32> = HashMap::with_capacity(document.annotations.len());
    for Link { image_id, category_id } in document.annotations {
        let Some(label) = label_of.get(&category_id) else {
            return Err(format!(
                "image {image_id} is of category {category_id}, which is not in `categories`"
            ));
        };
        if let Some(other) = labels.insert(image_id.clone(), *label)
            && other != *label
        {
            return Err(format!("image {image_id} has two labels"));
        }
    }
    let images = document.images.into_iter().map(|image| match labels.get(&image.id) {
        Some(label) => Ok((image.file_name, *label)),
        None => Err(format!("image {} (`{}`) has no annotation", image.id, image.file_name)),
    });
    Ok((images.collect::<Result<_, _>>()?, categories.into_values().collect()))
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
            (r#"{"image_id": 3}"#, "missing field `category_id`"),
        ] {
            let error = read(&document(annotations)).unwrap_err();
            assert!(error.contains(words) && error.contains("train.json"), "{error}");
        }
    }
}
