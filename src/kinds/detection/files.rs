//! Writes and reads detections in the result format of COCO: a list of image_id, category_id, score, bbox (x, y, width,
//! height) and segmentation (compressed run lengths). <https://cocodataset.org/#format-results>

use crate::data::formats::coco_json::Outline;
use crate::data::{Annotation, Category, DatasetInfo, Entry, Objects, Rle, Segmentation, Xywh, xywh, xyxy};
use crate::metrics::coco::{Detection, WrittenDetection};
use crate::record::write_atomic;
use crate::task::{PredictedImage, PredictionWriter, Predictions};
use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Name of the file that [`ResultWriter`] writes.
const FILE: &str = "detections.json";

/// Class ids in files: those of the data set, or labels from 1 if it has none.
fn category_ids(info: &DatasetInfo) -> Vec<u64> {
    match info.categories.is_empty() {
        true => (1..=info.classes.len() as u64).collect(),
        false => info.categories.iter().map(|Category { id, .. }| *id).collect(),
    }
}

/// A detection in a file that is written.
#[derive(Serialize)]
struct Row {
    image_id: u64,
    /// Not part of the format, and ignored by its readers; for people.
    file_name: String,
    category_id: u64,
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
    category_ids: Vec<u64>,
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
                category_id: *category_id,
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

/// A detection in a file that is read.
#[derive(Deserialize)]
struct Found {
    image_id: u64,
    category_id: u64,
    bbox: Option<Xywh>,
    score: f64,
    #[serde(default)]
    segmentation: Outline,
}

/// Reads result files for the same images. A row with a box and a mask is a detection with both. Rows with only a mask are
/// scored only as masks if other rows have boxes (COCO's servers take separate files for boxes and masks); otherwise they
/// get the box around their mask.
///
/// # Errors
/// Files in another format, images that are not among `entries`, unknown categories, masks of another size than their
/// image, and other invalid rows; the error names file and row.
pub(super) fn read<'a>(
    files: &[PathBuf],
    entries: &[Entry],
    info: &DatasetInfo,
) -> Result<Predictions<'a, Vec<Detection>>> {
    let label_of: BTreeMap<u64, u32> = category_ids(info).into_iter().zip(0..).collect();
    let images: Vec<&Objects> = entries.iter().map(objects).collect::<Result<_>>()?;
    let place_of: BTreeMap<u64, usize> = images.iter().map(|image| image.image_id).zip(0..).collect();
    let mut detections: Vec<Vec<Detection>> = entries.iter().map(|_| vec![]).collect();
    let mut boxes = false;
    for file in files {
        let text = std::fs::read(file).with_context(|| format!("cannot read `{}`", file.display()))?;
        let rows: Vec<Found> =
            serde_path_to_error::deserialize(&mut serde_json::Deserializer::from_slice(&text))
                .with_context(|| format!("`{}` is not a list of results in COCO's format", file.display()))?;
        for (k, row) in rows.into_iter().enumerate() {
            let context = || format!("`{}`, row {k} (image {})", file.display(), row.image_id);
            let (image, category) = (row.image_id, row.category_id);
            let place = *place_of
                .get(&image)
                .with_context(|| format!("image {image} is not in the split"))
                .with_context(context)?;
            let label = *label_of
                .get(&category)
                .with_context(|| format!("category {category} is not in the data set"))
                .with_context(context)?;
            boxes |= row.bbox.is_some();
            let (score, bbox) = (row.score, row.bbox);
            let segmentation = row.segmentation.segmentation(images[place].size);
            let segmentation = segmentation.map_err(|e| anyhow::anyhow!("{e}")).with_context(context)?;
            let mask = match segmentation {
                Segmentation::None => None,
                Segmentation::Rle(rle) => Some(rle),
                Segmentation::Polygons(rings) => {
                    Some(Rle::of_polygons(&rings, images[place].size).map_err(anyhow::Error::msg)?)
                }
            };
            let detection = detection(label, score, bbox, mask).with_context(context)?;
            detections[place].push(detection);
        }
    }
    if !boxes {
        for Detection { mask, written, .. } in detections.iter_mut().flatten() {
            if let (Some(mask), Some(written)) = (mask, written) {
                written.bbox = Some(mask.bbox());
            }
        }
    }
    Ok(Box::new(detections.into_iter().map(Ok)))
}

fn detection(label: u32, score: f64, bbox: Option<Xywh>, mask: Option<Rle>) -> Result<Detection> {
    ensure!((score as f32).is_finite(), "score {score} is not a finite number");
    ensure!(bbox.is_some() || mask.is_some(), "neither `bbox` nor `segmentation` is given");
    if let Some([_, _, w, h]) = bbox {
        ensure!(w >= 0. && h >= 0., "bbox {bbox:?} (x, y, width, height) has a negative side");
    }
    let around = bbox.or(mask.as_ref().map(Rle::bbox)).unwrap_or_default();
    let written = Some(WrittenDetection { score, bbox });
    Ok(Detection { label, score: score as f32, bbox: xyxy(around).map(|v| v as f32), mask, written })
}

fn objects(entry: &Entry) -> Result<&Objects> {
    match &entry.annotation {
        Annotation::Objects(objects) => Ok(objects),
        _ => bail!("`{}` has no objects, which detection needs", entry.id),
    }
}

#[cfg(test)]
mod tests;
