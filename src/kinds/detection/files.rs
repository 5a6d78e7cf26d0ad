//! Writes and reads detections in the result format of COCO: a list of image_id, category_id, score, bbox (x, y, width,
//! height) and segmentation (compressed run lengths). <https://cocodataset.org/#format-results>

use crate::data::formats::coco_json::{Outline, ReadOutline, to_box};
use crate::data::json::{NumberList, Records, Scalar, parse};
use crate::data::{
    Annotation, Category, DataError, DatasetInfo, Entry, Object, Objects, RecordId, Rle, Segmentation, Xywh,
    xywh, xyxy,
};
use crate::files;
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

/// A detection in a file that is read, as it is written.
#[derive(Deserialize)]
struct Found {
    #[serde(default)]
    image_id: Scalar,
    #[serde(default)]
    category_id: Scalar,
    #[serde(default)]
    bbox: NumberList,
    #[serde(default)]
    score: Scalar,
    #[serde(default)]
    segmentation: Outline,
}

/// Reads result files for the same images. A row with a box and a mask is a detection with both. Rows with only a mask are
/// scored only as masks if other rows have boxes (COCO's servers take separate files for boxes and masks); otherwise they
/// get the box around their mask. All rows of a file have boxes, masks, or both. Outlines are read only if `masks` are scored, or if a row has no box.
///
/// # Errors
/// Files in another format or with more than one list, images that are not among `entries`, unknown categories, masks of
/// another size than their image, and other invalid rows; the error names the file and every such row.
pub(super) fn read<'a>(
    files: &[PathBuf],
    entries: &[Entry],
    info: &DatasetInfo,
    masks: bool,
) -> Result<Predictions<'a, Vec<Detection>>> {
    let images: Vec<&Objects> = entries.iter().map(objects).collect::<Result<_>>()?;
    let known = Known {
        label_of: category_ids(info).into_iter().zip(0..).collect(),
        place_of: images.iter().map(|image| &image.image_id).zip(0..).collect(),
        images,
        masks,
    };
    let mut detections: Vec<Vec<Detection>> = entries.iter().map(|_| vec![]).collect();
    let mut boxes = false;
    for file in files {
        let text = files::read(file)
            .map_err(anyhow::Error::msg)
            .with_context(|| format!("cannot read `{}`", file.display()))?;
        let rows: Records<Found> = parse(text)
            .map_err(anyhow::Error::msg)
            .with_context(|| format!("`{}` is not a list of results in COCO's format", file.display()))?;
        let rows = rows.0.with_context(|| format!("`{}`: there is no list of results", file.display()))?;
        let (mut flaws, mut with_box, mut with_mask) = (vec![], None, None);
        for (k, row) in rows.into_iter().enumerate() {
            match row.detection(&known) {
                Ok((place, detection)) => {
                    let has_box = detection.written.is_some_and(|written| written.bbox.is_some());
                    flaws.extend(alike(&mut with_box, has_box, k, "bbox"));
                    if masks {
                        flaws.extend(alike(&mut with_mask, detection.mask.is_some(), k, "segmentation"));
                    }
                    boxes |= has_box;
                    detections[place].push(detection);
                }
                Err(flaw) => flaws.push(format!("row {k}{flaw}")),
            }
        }
        if !flaws.is_empty() {
            return Err(DataError::flaws(file, flaws).into());
        }
    }
    if !boxes {
        for Detection { mask, written, .. } in detections.iter_mut().flatten() {
            if let (Some(mask), Some(written)) = (mask, written) {
                written.bbox = Some(mask.bbox());
            }
        }
    }
    Ok(Predictions { each: Box::new(detections.into_iter().map(Ok)), notes: vec![] })
}

/// Says so if row `k` of a file has the value `name` and its first row has not, or the other way round. Rows without it would
/// be missing in one of the two scores without a word.
fn alike(first: &mut Option<bool>, has: bool, k: usize, name: &str) -> Option<String> {
    let words = |has: bool| if has { "has" } else { "has no" };
    let expected = *first.get_or_insert(has);
    let flaw = || {
        format!(
            "row {k} {} `{name}`, and row 0 {} one; give boxes and masks in all rows of a file, or in \
         files of their own",
            words(has),
            words(expected)
        )
    };
    (expected != has).then(flaw)
}

/// What the rows of a file refer to.
struct Known<'a> {
    label_of: BTreeMap<u64, u32>,
    place_of: BTreeMap<&'a RecordId, usize>,
    images: Vec<&'a Objects>,
    masks: bool,
}

impl Found {
    /// Place of the image, and the detection.
    ///
    /// # Errors
    /// What is wrong, to be put behind the number of the row.
    fn detection(self, known: &Known) -> Result<(usize, Detection), String> {
        let need = |what: &str| format!(": there is no `{what}`");
        let of = |what: &str, flaw: String| format!(": `{what}` {flaw}");
        let image =
            self.image_id.id().map_err(|flaw| of("image_id", flaw))?.ok_or_else(|| need("image_id"))?;
        let name = format!(" (image {image})");
        let place = *known.place_of.get(&image).ok_or_else(|| {
            let example =
                known.place_of.keys().next().map_or(String::new(), |id| format!(", whose ids are like {id}"));
            format!("{name}: image {image} is not in the split{example}")
        })?;
        let category = self.category_id.whole().map_err(|flaw| name.clone() + &of("category_id", flaw))?;
        let category = category.ok_or_else(|| name.clone() + &need("category_id"))?;
        let label = *known
            .label_of
            .get(&category)
            .ok_or_else(|| format!("{name}: category {category} is not in the data set"))?;
        let score = self.score.number().map_err(|flaw| name.clone() + &of("score", flaw))?;
        let score = score.ok_or_else(|| name.clone() + &need("score"))?;
        let bbox = self.bbox.numbers().map_err(|flaw| name.clone() + &of("bbox", flaw))?;
        let bbox =
            bbox.map(|numbers| to_box(&numbers)).transpose().map_err(|flaw| format!("{name}: {flaw}"))?;
        let size = known.images[place].size;
        let mask = match (known.masks || bbox.is_none()).then(|| self.segmentation.segmentation(size)) {
            None => None,
            Some(ReadOutline { segmentation: Segmentation::Flawed(flaw), .. }) => {
                return Err(format!("{name}: {flaw}"));
            }
            Some(ReadOutline { segmentation, .. }) => {
                let object = Object { label, bbox: [0.; 4], segmentation, crowd: false, area: 0. };
                object.mask(size).map_err(|flaw| format!("{name}: {flaw}"))?
            }
        };
        let detection = detection(label, score, bbox, mask).map_err(|flaw| format!("{name}: {flaw}"))?;
        Ok((place, detection))
    }
}

fn detection(label: u32, score: f64, bbox: Option<Xywh>, mask: Option<Rle>) -> Result<Detection> {
    ensure!((score as f32).is_finite(), "score {score} is not a finite number");
    ensure!(bbox.is_some() || mask.is_some(), "neither `bbox` nor `segmentation` is given");
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
