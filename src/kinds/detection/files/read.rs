//! Reads detections in the result format of COCO.

use super::category_ids;
use crate::data::formats::coco_json::{Outline, ReadOutline, to_box};
use crate::data::json::{NamedFields, NumberList, Records, Scalar, parse};
use crate::data::{
    Annotation, DataError, DatasetInfo, Entry, Object, Objects, RecordId, Rle, Segmentation, Xywh, xyxy,
};
use crate::metrics::coco::{Detection, WrittenDetection};
use crate::task::Predictions;
use anyhow::{Context, Result, bail, ensure};
use serde::de::{Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

/// Number of categories that a message lists.
const LISTED: usize = 5;

/// A file of results: a list, or an object with one list under a name that programs use.
struct ResultFile {
    rows: Option<Vec<Found>>,
    /// The key of the list in an object.
    key: Option<String>,
}

/// Keys under which programs put the list of results.
const KEYS: [&str; 4] = ["annotations", "results", "predictions", "detections"];

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
/// Rows of other categories are left out and counted, as in pycocotools.
///
/// # Errors
/// Files in another format or with more than one list, images that are not among `entries`, files of which no row has a category
/// of the data set, masks of another size than their image, and other invalid rows; the error names the file and every such row.
pub(crate) fn read<'a>(
    files: &[PathBuf],
    entries: &[Entry],
    info: &DatasetInfo,
    masks: bool,
) -> Result<Predictions<'a, Vec<Detection>>> {
    let images: Vec<&Objects> = entries.iter().map(objects).collect::<Result<_>>()?;
    let ids = category_ids(info);
    let known = Known {
        label_of: ids.iter().cloned().zip(0..).collect(),
        place_of: images.iter().map(|image| &image.image_id).zip(0..).collect(),
        images,
        masks,
    };
    let mut detections: Vec<Vec<Detection>> = entries.iter().map(|_| vec![]).collect();
    let (mut boxes, mut notes) = (false, vec![]);
    for file in files {
        let text = crate::files::read(file)
            .map_err(anyhow::Error::msg)
            .with_context(|| format!("cannot read `{}`", file.display()))?;
        let ResultFile { rows, key } = parse(text)
            .map_err(anyhow::Error::msg)
            .with_context(|| format!("`{}` is not a list of results in COCO's format", file.display()))?;
        let rows = rows.with_context(|| format!("`{}`: there is no list of results", file.display()))?;
        let mut told = Told { rows: rows.len(), key, ..Told::default() };
        told.respelled = known.respells(&rows);
        let (mut flaws, mut with_box, mut with_mask) = (vec![], None, None);
        for (k, row) in rows.into_iter().enumerate() {
            match row.detection(&known, told.respelled) {
                Ok(Row::Of(place, detection)) => {
                    let bbox = detection.written.and_then(|written| written.bbox);
                    flaws.extend(alike(&mut with_box, bbox.is_some(), k, "bbox"));
                    if masks {
                        flaws.extend(alike(&mut with_mask, detection.mask.is_some(), k, "segmentation"));
                    }
                    boxes |= bbox.is_some();
                    told.boxes(bbox);
                    detections[place].push(detection);
                }
                Ok(Row::OfUnknown(category)) => *told.unknown.entry(category).or_default() += 1,
                Err(flaw) => flaws.push(format!("row {k}{flaw}")),
            }
        }
        flaws.extend(told.nothing_known(&ids, info));
        if !flaws.is_empty() {
            return Err(DataError::flaws(file, flaws).into());
        }
        notes.extend(told.notes(file));
    }
    if !boxes {
        for Detection { mask, written, .. } in detections.iter_mut().flatten() {
            if let (Some(mask), Some(written)) = (mask, written) {
                written.bbox = Some(mask.bbox());
            }
        }
    }
    Ok(Predictions { each: Box::new(detections.into_iter().map(Ok)), notes })
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
    label_of: BTreeMap<RecordId, u32>,
    place_of: BTreeMap<&'a RecordId, usize>,
    images: Vec<&'a Objects>,
    masks: bool,
}

impl Known<'_> {
    /// Whether all ids of images in `rows` are those of the split in another spelling: numbers for words, or words for numbers.
    fn respells(&self, rows: &[Found]) -> bool {
        let other = |row: &Found| {
            let id = row.image_id.id().ok().flatten();
            id.is_some_and(|id| {
                !self.place_of.contains_key(&id)
                    && id.respelled().is_some_and(|id| self.place_of.contains_key(&id))
            })
        };
        !rows.is_empty() && rows.iter().all(other)
    }
}

/// What a row is.
enum Row {
    /// A detection in the image at this place.
    Of(usize, Detection),
    /// A detection of a category that the data set does not have.
    OfUnknown(RecordId),
}

impl Found {
    /// The detection, and the place of its image. With `respelled`, ids of images are spelled otherwise than in the split.
    ///
    /// # Errors
    /// What is wrong, to be put behind the number of the row.
    fn detection(self, known: &Known, respelled: bool) -> Result<Row, String> {
        let need = |what: &str| format!(": there is no `{what}`");
        let of = |what: &str, flaw: String| format!(": `{what}` {flaw}");
        let image =
            self.image_id.id().map_err(|flaw| of("image_id", flaw))?.ok_or_else(|| need("image_id"))?;
        let image = if respelled { image.respelled().unwrap_or(image) } else { image };
        let name = format!(" (image {image})");
        let place = *known.place_of.get(&image).ok_or_else(|| {
            let example =
                known.place_of.keys().next().map_or(String::new(), |id| format!(", whose ids are like {id}"));
            format!("{name}: image {image} is not in the split{example}")
        })?;
        let category = self.category_id.id().map_err(|flaw| name.clone() + &of("category_id", flaw))?;
        let category = category.ok_or_else(|| name.clone() + &need("category_id"))?;
        if let Some(other) = known.label_of.keys().next().filter(|other| !other.is_like(&category)) {
            return Err(format!(
                "{name}: `category_id` is {category}, and the data set has ids like {other}"
            ));
        }
        let score = self.score.number().map_err(|flaw| name.clone() + &of("score", flaw))?;
        let score = score.ok_or_else(|| name.clone() + &need("score"))?;
        let bbox = self.bbox.numbers().map_err(|flaw| name.clone() + &of("bbox", flaw))?;
        let bbox =
            bbox.map(|numbers| to_box(&numbers)).transpose().map_err(|flaw| format!("{name}: {flaw}"))?;
        let Some(label) = known.label_of.get(&category).copied() else { return Ok(Row::OfUnknown(category)) };
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
        Ok(Row::Of(place, detection))
    }
}

/// What is to be said of a file that is read.
#[derive(Default)]
struct Told {
    rows: usize,
    key: Option<String>,
    respelled: bool,
    /// Number of rows of each category that the data set does not have.
    unknown: BTreeMap<RecordId, usize>,
    /// Number of boxes, and of those that lie within 0 to 1.
    boxes: (usize, usize),
}

impl Told {
    fn boxes(&mut self, bbox: Option<Xywh>) {
        if let Some([x, y, w, h]) = bbox {
            self.boxes.0 += 1;
            self.boxes.1 += usize::from(x + w <= 1. && y + h <= 1.);
        }
    }

    /// The flaw of a file that has results, but none of a category of the data set.
    fn nothing_known(&self, ids: &[RecordId], info: &DatasetInfo) -> Option<String> {
        let unknown: usize = self.unknown.values().sum();
        if unknown == 0 || unknown < self.rows {
            return None;
        }
        let some = |words: Vec<String>| match words.len() {
            0..=LISTED => words.join(", "),
            count => format!("{}, … ({count} of them)", words[..LISTED].join(", ")),
        };
        let own = ids.iter().zip(&info.classes).map(|(id, name)| format!("{id} ({name})")).collect();
        let found = self.unknown.keys().map(RecordId::to_string).collect();
        Some(format!(
            "no result is of a category of the data set: `category_id` is {}, and the data set has {}; write the ids of \
             the annotation file",
            some(found),
            some(own)
        ))
    }

    /// A sentence for everything that may surprise.
    fn notes(self, file: &Path) -> Vec<String> {
        let mut notes = vec![];
        let mut note = |words: String| notes.push(format!("`{}`: {words}", file.display()));
        if self.rows == 0 {
            note("the file has no results, so nothing is detected".into());
        }
        if let Some(key) = self.key {
            note(format!("the results are those under `{key}`"));
        }
        if self.respelled {
            note(
                "ids of images are numbers here and words in the annotations, or the other way round".into(),
            );
        }
        if let Some(first) = self.unknown.keys().next() {
            let (count, rows) = (self.unknown.values().sum::<usize>(), self.rows);
            let ids = self.unknown.len();
            note(format!(
                "{count} of {rows} results are left out: the data set does not have their {ids} categories; the first: {first}"
            ));
        }
        if self.boxes.0 > 0 && self.boxes.0 == self.boxes.1 {
            note(
                "all boxes lie within 0 to 1, as fractions of the image do; `bbox` is x, y, width and height in pixels"
                    .into(),
            );
        }
        notes
    }
}

impl<'de> Deserialize<'de> for ResultFile {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ResultFileVisitor)
    }
}

struct ResultFileVisitor;

impl<'de> Visitor<'de> for ResultFileVisitor {
    type Value = ResultFile;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a list of results")
    }

    fn visit_unit<E: Error>(self) -> Result<ResultFile, E> {
        Ok(ResultFile { rows: None, key: None })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<ResultFile, A::Error> {
        let mut rows = vec![];
        while let Some(NamedFields(row)) = sequence.next_element()? {
            rows.push(row);
        }
        Ok(ResultFile { rows: Some(rows), key: None })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<ResultFile, A::Error> {
        let mut found: Option<(String, Vec<Found>)> = None;
        while let Some(key) = map.next_key::<String>()? {
            if !KEYS.contains(&key.as_str()) {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let Records(Some(rows)) = map.next_value()? else { continue };
            if let Some((other, _)) = &found {
                let words = format!("there are two lists of results, `{other}` and `{key}`; expected one");
                return Err(A::Error::custom(words));
            }
            found = Some((key, rows));
        }
        let keys = KEYS.join("`, `");
        let (key, rows) = found.ok_or_else(|| {
            A::Error::custom(format!(
                "an object without a list of results; expected a list, or one under `{keys}`"
            ))
        })?;
        Ok(ResultFile { rows: Some(rows), key: Some(key) })
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
