//! Writes and reads detections in the result format of COCO: a list of image_id, category_id, score, bbox (x, y, width,
//! height) and segmentation (compressed run lengths). <https://cocodataset.org/#format-results>

mod read;

pub(super) use read::read;

use crate::data::{Category, DatasetInfo, RecordId, Xywh, xywh};
use crate::metrics::coco::Detection;
use crate::record::write_atomic;
use crate::task::{PredictedImage, PredictionWriter};
use anyhow::{Context, Result, bail};
use serde::Serialize;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Name of the file that [`ResultWriter`] writes.
const FILE: &str = "detections.json";

/// Class ids in files: those of the data set, or labels from 1 if it has none.
fn category_ids(info: &DatasetInfo) -> Vec<RecordId> {
    match info.categories.is_empty() {
        true => (1..=info.classes.len() as u64).map(RecordId::from).collect(),
        false => info.categories.iter().map(|Category { id, .. }| id.clone()).collect(),
    }
}

/// A detection in a file that is written.
#[derive(Serialize)]
struct Row {
    image_id: u64,
    /// Not part of the format, and ignored by its readers; for people.
    file_name: String,
    category_id: RecordId,
    bbox: Xywh,
    score: f32,
    #[serde(skip_serializing_if = "Option::is_none")]
    segmentation: Option<Mask>,
}

#[derive(Serialize)]
struct Mask {
    /// Height, width.
    size: [u32; 2],
    counts: String,
}

/// Collects detections and writes one file at the end.
///
/// If all images have distinct numbers as file names, as in COCO, `image_id` is that number; otherwise it is the position
/// of the image, from 1.
pub(super) struct ResultWriter {
    file: PathBuf,
    category_ids: Vec<RecordId>,
    /// For each image, the number that is its file name, if it is one, and its position from 1.
    images: Vec<(Option<u64>, u64)>,
    /// Rows, each with the index of its image.
    rows: Vec<(usize, Row)>,
}

impl ResultWriter {
    pub(super) fn new(folder: &Path, info: &DatasetInfo) -> Self {
        let file = folder.join(FILE);
        Self { file, category_ids: category_ids(info), images: vec![], rows: vec![] }
    }
}

impl PredictionWriter for ResultWriter {
    type Prediction = Vec<Detection>;

    fn files(&self, _: &[String]) -> Vec<PathBuf> {
        vec![FILE.into()]
    }

    fn write(&mut self, image: &PredictedImage, detections: &Vec<Detection>) -> Result<()> {
        let stem = image.path.file_stem().unwrap_or_default().to_string_lossy();
        let file_name = image.path.file_name().unwrap_or_default().to_string_lossy().to_string();
        self.images.push((stem.parse().ok(), image.number as u64));
        let image = self.images.len() - 1;
        for Detection { label, score, bbox, mask, .. } in detections {
            let Some(category_id) = self.category_ids.get(*label as usize) else {
                bail!("a detection has label {label}, but there are only {} classes", self.category_ids.len())
            };
            let mask =
                mask.as_ref().map(|mask| Mask { size: [mask.height, mask.width], counts: mask.to_coco() });
            let row = Row {
                image_id: 0, // set in `finish`
                file_name: file_name.clone(),
                category_id: category_id.clone(),
                bbox: xywh(bbox.map(f64::from)),
                score: *score,
                segmentation: mask,
            };
            self.rows.push((image, row));
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        let numbers: BTreeSet<u64> = self.images.iter().filter_map(|(number, _)| *number).collect();
        let numbered = numbers.len() == self.images.len();
        for (image, row) in &mut self.rows {
            let (number, place) = self.images[*image];
            row.image_id = number.filter(|_| numbered).unwrap_or(place);
        }
        let rows: Vec<&Row> = self.rows.iter().map(|(_, row)| row).collect();
        let text = serde_json::to_vec(&rows)?;
        write_atomic(&self.file, &text).with_context(|| format!("cannot write `{}`", self.file.display()))
    }
}

#[cfg(test)]
mod tests;
