//! Format `coco_labels`: a COCO-like json with one category an image, as iNaturalist 2018 has it.

use super::super::{Annotation, DataError, Entry, Format, ImageRef, Index, SampleId, Split};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;

/// Reads the json at this path.
pub struct CocoLabels<'a> {
    pub file: &'a Path,
}

#[derive(Deserialize)]
struct File {
    images: Vec<ImageLine>,
    annotations: Vec<Line>,
    categories: Vec<Category>,
}

#[derive(Deserialize)]
struct ImageLine {
    id: u64,
    file_name: String,
}

#[derive(Deserialize)]
struct Line {
    image_id: u64,
    category_id: u64,
}

#[derive(Deserialize)]
struct Category {
    id: u64,
    name: String,
}

impl Format for CocoLabels<'_> {
    fn index(&self, root: &Path, split: &Split) -> Result<Index, DataError> {
        let path = root.join(self.file);
        let fail = |message: String| DataError::file(&path, message);
        let text = std::fs::read(&path).map_err(|e| fail(e.to_string()))?;
        let mut file: File = serde_json::from_slice(&text).map_err(|e| fail(e.to_string()))?;
        file.categories.sort_by_key(|category| category.id);
        let labels: BTreeMap<u64, u32> =
            file.categories.iter().enumerate().map(|(i, category)| (category.id, i as u32)).collect();
        let mut of_image = BTreeMap::new();
        for Line { image_id, category_id } in file.annotations {
            let Some(label) = labels.get(&category_id) else {
                return Err(fail(format!("image {image_id}: category {category_id} is not in `categories`")));
            };
            if of_image.insert(image_id, *label).is_some_and(|other| other != *label) {
                return Err(fail(format!("image {image_id} has two categories")));
            }
        }
        let entry = |image: ImageLine| {
            let Some(label) = of_image.get(&image.id) else {
                return Err(fail(format!("image `{}` has no annotation", image.file_name)));
            };
            let below = split.images.join(&image.file_name);
            let id = SampleId::new(image.file_name);
            Ok(Entry { id, image: ImageRef::File(root.join(below)), annotation: Annotation::Label(*label) })
        };
        let mut entries: Vec<Entry> = file.images.into_iter().map(entry).collect::<Result<_, _>>()?;
        entries.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(Index { entries, classes: Some(file.categories.into_iter().map(|c| c.name).collect()) })
    }
}
