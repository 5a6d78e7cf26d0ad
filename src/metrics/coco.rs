//! Average precision and recall of boxes and masks, as the COCO and LVIS benchmarks define them. They are computed by
//! `hotcoco`, which gives the same numbers as `pycocotools` and `lvis-api`.
//!
//! Every image counts, including images without detections. Size classes (small, medium, large) refer to annotated
//! areas; crowds are ignored, as in COCO. Scores are percentages, except that the score of a size class without
//! objects is −1, as in `pycocotools`. Standard errors come from a [bootstrap](super::bootstrap) over images or
//! sequences. A detection without a mask is scored as a box only; if no detection has a mask, mask scores are −1.

mod annotated;
mod matches;

use super::bootstrap::Units;
use super::{ClassScores, MetricError};
use crate::data::{Category, DatasetInfo, Frequency, Objects, RecordId, Rle, SampleId, Xywh, Xyxy, xywh};
use crate::record::{Better, Score, ScoreSpec, Scores, Unit};
use annotated::{segmentation, truth};
use hotcoco::{Annotation, COCO, COCOeval, IouType};
use matches::Matches;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// A detected object, in pixels of the source image.
#[derive(Clone, Debug, PartialEq)]
pub struct Detection {
    /// Class index.
    pub label: u32,
    /// Confidence: 0 to 1.
    pub score: f32,
    /// Box (x1, y1, x2, y2).
    pub bbox: Xyxy<f32>,
    /// Mask with the size of the source image; `None` if only boxes are predicted.
    pub mask: Option<Rle>,
    /// Its exact numbers, if it was read from a file; they are scored instead.
    pub written: Option<WrittenDetection>,
}

/// Numbers of a detection in a result file, not rounded to `f32`: rounding matters for overlaps of exactly a threshold,
/// which are common in synthetic results.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WrittenDetection {
    /// Confidence.
    pub score: f64,
    /// Box (x, y, width, height); `None` for a detection that is only a mask and not scored as a box.
    pub bbox: Option<Xywh>,
}

impl Detection {
    /// Score and box that enter the evaluation.
    fn scored(&self) -> (f64, Option<Xywh>) {
        match self.written {
            Some(WrittenDetection { score, bbox }) => (score, bbox),
            None => (f64::from(self.score), Some(xywh(self.bbox.map(f64::from)))),
        }
    }
}

/// The benchmark whose rules apply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// At most 100 detections per image and class; every image is annotated completely.
    #[default]
    Coco,
    /// At most 300 detections per image; a class counts only in images where it is annotated (federated).
    Lvis,
}

const fn percent(name: &'static str) -> ScoreSpec {
    ScoreSpec { name, unit: Unit::Percent, better: Better::Higher }
}

/// In the order of `hotcoco`: boxes, then masks.
const COCO_SPECS: [ScoreSpec; 24] = [
    percent("box_ap"),
    percent("box_ap50"),
    percent("box_ap75"),
    percent("box_ap_small"),
    percent("box_ap_medium"),
    percent("box_ap_large"),
    percent("box_ar_1"),
    percent("box_ar_10"),
    percent("box_ar_100"),
    percent("box_ar_small"),
    percent("box_ar_medium"),
    percent("box_ar_large"),
    percent("mask_ap"),
    percent("mask_ap50"),
    percent("mask_ap75"),
    percent("mask_ap_small"),
    percent("mask_ap_medium"),
    percent("mask_ap_large"),
    percent("mask_ar_1"),
    percent("mask_ar_10"),
    percent("mask_ar_100"),
    percent("mask_ar_small"),
    percent("mask_ar_medium"),
    percent("mask_ar_large"),
];

const LVIS_SPECS: [ScoreSpec; 26] = [
    percent("box_ap"),
    percent("box_ap50"),
    percent("box_ap75"),
    percent("box_ap_small"),
    percent("box_ap_medium"),
    percent("box_ap_large"),
    percent("box_ap_rare"),
    percent("box_ap_common"),
    percent("box_ap_frequent"),
    percent("box_ar_300"),
    percent("box_ar_small"),
    percent("box_ar_medium"),
    percent("box_ar_large"),
    percent("mask_ap"),
    percent("mask_ap50"),
    percent("mask_ap75"),
    percent("mask_ap_small"),
    percent("mask_ap_medium"),
    percent("mask_ap_large"),
    percent("mask_ap_rare"),
    percent("mask_ap_common"),
    percent("mask_ap_frequent"),
    percent("mask_ar_300"),
    percent("mask_ar_small"),
    percent("mask_ar_medium"),
    percent("mask_ar_large"),
];

/// The scores of boxes and, with `masks`, of masks.
pub fn score_specs(protocol: Protocol, masks: bool) -> &'static [ScoreSpec] {
    let all: &'static [ScoreSpec] = match protocol {
        Protocol::Coco => &COCO_SPECS,
        Protocol::Lvis => &LVIS_SPECS,
    };
    if masks { all } else { &all[..all.len() / 2] }
}

/// Accumulates annotations and detections, image by image.
pub struct CocoScorer {
    protocol: Protocol,
    masks: bool,
    classes: Vec<String>,
    categories: Vec<Category>,
    units: Units,
    /// Ids of the images in the order of [`CocoScorer::update`]. Until they are evaluated, all parts name an image by its
    /// place in this order.
    ids: Vec<RecordId>,
    images: Vec<hotcoco::Image>,
    truths: Vec<Annotation>,
    /// Detections for box scores and for mask scores.
    found: [Vec<Annotation>; 2],
}

impl CocoScorer {
    /// A scorer for the classes of `info`. With `masks`, masks are scored too, and every object needs one.
    pub fn new(info: &DatasetInfo, protocol: Protocol, masks: bool) -> Self {
        let (classes, categories) = (info.classes.clone(), info.categories.clone());
        let (images, truths, found) = (vec![], vec![], [vec![], vec![]]);
        let units = Units::new(info.sequences.clone());
        Self { protocol, masks, classes, categories, units, ids: vec![], images, truths, found }
    }

    /// Adds the detections and annotated objects of the image `id`.
    ///
    /// # Errors
    /// A detection with non-finite numbers, an unknown class or a mask of another size than the image; an object without a
    /// mask if masks are scored.
    pub fn update(
        &mut self,
        id: &SampleId,
        detections: &[Detection],
        image: &Objects,
    ) -> Result<(), MetricError> {
        let fail = |message: String| MetricError::Prediction { id: id.clone(), message };
        for detection in detections {
            self.check(detection, image).map_err(fail)?;
        }
        if self.masks && image.objects.iter().any(|object| !object.has_mask()) {
            return Err(fail("cannot be scored: an object is annotated without a mask".into()));
        }
        self.units.add(id);
        let place = self.ids.len() as u64;
        self.ids.push(image.image_id.clone());
        let (height, width) = (image.size.0 as u32, image.size.1 as u32);
        let ids = |labels: &[u32]| labels.iter().map(|label| u64::from(*label)).collect();
        self.images.push(hotcoco::Image {
            id: place,
            height,
            width,
            neg_category_ids: ids(&image.absent),
            not_exhaustive_category_ids: ids(&image.not_exhaustive),
            ..hotcoco::Image::default()
        });
        // lvis-api ignores objects without an area.
        let counts = |area: f64| self.protocol == Protocol::Coco || area > 0.;
        for object in image.objects.iter().filter(|object| counts(object.area)) {
            let id = self.truths.len() as u64 + 1; // 0 would mean that nothing matches
            self.truths.push(truth(id, place, image.size, object));
        }
        for detection in detections {
            let (score, bbox) = detection.scored();
            let found = Annotation {
                image_id: place,
                category_id: u64::from(detection.label),
                score: Some(score),
                ..Annotation::default()
            };
            let seen = |mask: &&Rle| self.masks && counts(mask.area() as f64);
            if let Some(mask) = detection.mask.as_ref().filter(seen) {
                self.found[1].push(Annotation { segmentation: Some(segmentation(mask)), ..found.clone() });
            }
            if bbox.is_some_and(|[_, _, w, h]| counts(w * h)) {
                self.found[0].push(Annotation { bbox, ..found });
            }
        }
        Ok(())
    }

    fn check(&self, detection: &Detection, image: &Objects) -> Result<(), String> {
        let Detection { label, score, bbox, mask, .. } = detection;
        let (exact, scored) = detection.scored();
        let numbers = scored.iter().flatten().chain(std::iter::once(&exact));
        if numbers.into_iter().any(|v| !v.is_finite()) {
            return Err(format!("score {score} and box {bbox:?} must be finite numbers"));
        }
        if let Some([_, _, w, h]) = scored
            && (w < 0. || h < 0.)
        {
            return Err(format!("box {bbox:?} ends before it begins (x1, y1, x2, y2)"));
        }
        if *label as usize >= self.classes.len() {
            return Err(format!("label {label} is out of range for {} classes", self.classes.len()));
        }
        match mask {
            None if scored.is_none() => Err("a detection has neither a box nor a mask".into()),
            Some(mask) if mask.size() != image.size => {
                let ((h, w), (height, width)) = (mask.size(), image.size);
                Err(format!("a mask has {h}x{w} pixels, but the image has {height}x{width}"))
            }
            _ => Ok(()),
        }
    }

    /// The scores with their standard errors, and those of each class.
    ///
    /// # Errors
    /// An evaluation that `hotcoco` refuses, such as two images of the same id.
    pub fn finish(self) -> Result<(Scores, ClassScores), MetricError> {
        let units = self.units.clone();
        let (mut scores, mut by_class) = (Scores::default(), ClassScores::default());
        for Evaluation { specs, ap, scorer } in self.evaluate()? {
            let Some((mut scorer, matches)) = scorer else {
                specs.iter().for_each(|spec| scores.insert(spec.name, -1., None));
                continue;
            };
            scorer.accumulate();
            scorer.summarize_lines(); // fills the statistics; prints nothing
            let values = scorer.stats().unwrap_or_default();
            if values.len() != specs.len() {
                let (n, expected) = (values.len(), specs.len());
                return Err(MetricError::Scoring(format!("{n} scores `{ap}`, …, expected {expected}")));
            }
            let errors = units.standard_errors(specs.len(), |weights| matches.scores(specs, weights));
            for ((spec, value), error) in specs.iter().zip(values).zip(errors) {
                let value = percentage(*value);
                // A score without cases has no error.
                let stderr = error.filter(|_| value >= 0.).map(|error| 100. * error);
                scores.insert_score(spec.name, Score { value, stderr, sample: Some(units.sample()) });
            }
            let results = scorer.results(true).map_err(refused)?;
            for (class, value) in results.per_class.unwrap_or_default() {
                by_class.insert(&class, ap, percentage(value));
            }
        }
        Ok((scores, by_class))
    }

    /// The scores if image i were there `weights[i]` times, in the order of [`CocoScorer::update`].
    ///
    /// # Errors
    /// As [`CocoScorer::finish`].
    pub fn resampled(self, weights: &[u32]) -> Result<Scores, MetricError> {
        let mut scores = Scores::default();
        for Evaluation { specs, scorer, .. } in self.evaluate()? {
            let values = match scorer {
                Some((_, matches)) => matches.scores(specs, weights),
                None => vec![None; specs.len()],
            };
            for (spec, value) in specs.iter().zip(values) {
                scores.insert(spec.name, value.map_or(-1., percentage), None);
            }
        }
        Ok(scores)
    }

    /// Numbers the images by the order of their ids, which decides between detections of equal scores, as in pycocotools.
    /// Returns the numbers in the order of [`CocoScorer::update`].
    fn number_images(&mut self) -> Result<Vec<u64>, MetricError> {
        let mut order: Vec<usize> = (0..self.ids.len()).collect();
        order.sort_by(|a, b| self.ids[*a].cmp(&self.ids[*b]));
        if let Some(pair) = order.windows(2).find(|pair| self.ids[pair[0]] == self.ids[pair[1]]) {
            let id = &self.ids[pair[0]];
            return Err(MetricError::Scoring(format!("two images have the id {id}")));
        }
        let mut numbers = vec![0; order.len()];
        for (number, place) in (1..).zip(order) {
            numbers[place] = number;
        }
        let number = |place: &mut u64| *place = numbers[*place as usize];
        self.images.iter_mut().for_each(|image| number(&mut image.id));
        self.truths
            .iter_mut()
            .chain(self.found.iter_mut().flatten())
            .for_each(|part| number(&mut part.image_id));
        Ok(numbers)
    }

    /// Matches boxes and, if they are scored, masks.
    fn evaluate(mut self) -> Result<Vec<Evaluation>, MetricError> {
        let ids = self.number_images()?;
        let frequency = |label: usize| {
            let word = |frequency| match frequency {
                Frequency::Rare => "r",
                Frequency::Common => "c",
                Frequency::Frequent => "f",
            };
            self.categories.get(label)?.frequency.map(|frequency| word(frequency).to_string())
        };
        let category = |(label, name): (usize, &String)| hotcoco::Category {
            id: label as u64,
            name: name.clone(),
            frequency: frequency(label),
            ..hotcoco::Category::default()
        };
        let categories = self.classes.iter().enumerate().map(category).collect();
        let dataset = hotcoco::Dataset {
            images: self.images,
            annotations: self.truths,
            categories,
            ..hotcoco::Dataset::default()
        };
        let truth = Arc::new(COCO::from_dataset(dataset));
        let specs = score_specs(self.protocol, self.masks).chunks(specs_per_type(self.protocol));
        let types = [(IouType::Bbox, "box_ap"), (IouType::Segm, "mask_ap")];
        let something = self.found.iter().any(|found| !found.is_empty());
        let mut evaluations = vec![];
        for (((iou_type, ap), found), specs) in types.into_iter().zip(self.found).zip(specs) {
            if found.is_empty() && something {
                evaluations.push(Evaluation { specs, ap, scorer: None });
                continue;
            }
            let found = truth.load_res_anns(found).map_err(refused)?;
            let mut scorer = match self.protocol {
                Protocol::Coco => COCOeval::new(truth.clone(), found, iou_type),
                Protocol::Lvis => COCOeval::new_lvis(truth.clone(), found, iou_type),
            };
            scorer.evaluate().map_err(refused)?;
            let matches = Matches::new(&scorer, &ids, frequency);
            evaluations.push(Evaluation { specs, ap, scorer: Some((scorer, matches)) });
        }
        Ok(evaluations)
    }
}

/// The evaluation of boxes or of masks.
struct Evaluation {
    specs: &'static [ScoreSpec],
    /// Name of the score of each class.
    ap: &'static str,
    /// `None` if no detection can be scored.
    scorer: Option<(COCOeval, Matches)>,
}

fn refused(error: hotcoco::Error) -> MetricError {
    MetricError::Scoring(error.to_string())
}

fn specs_per_type(protocol: Protocol) -> usize {
    score_specs(protocol, false).len()
}

/// −1 stays: it means that there is no score.
fn percentage(value: f64) -> f64 {
    if value < 0. { value } else { 100. * value }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Object, Segmentation};

    /// An object of a side of 10 pixels, with its area as annotated.
    fn object(left: f64, area: f64) -> Object {
        let segmentation = Segmentation::None;
        Object { label: 0, bbox: [left, 5., 10., 10.], segmentation, crowd: false, area }
    }

    /// Scores of boxes in images with these objects. The first is detected in some of them.
    fn scores(protocol: Protocol, images: impl Iterator<Item = (Vec<Object>, bool)>) -> Scores {
        let info = DatasetInfo { classes: vec!["a".into()], ..DatasetInfo::default() };
        let mut scorer = CocoScorer::new(&info, protocol, false);
        for (image_id, (objects, detected)) in (0u64..).zip(images) {
            let [x, y, w, h] = objects[0].bbox.map(|v| v as f32);
            let found =
                Detection { label: 0, score: 0.9, bbox: [x, y, x + w, y + h], mask: None, written: None };
            let found: Vec<Detection> = detected.then_some(found).into_iter().collect();
            let (size, absent, not_exhaustive) = ((50, 50), vec![], vec![]);
            let image = Objects { image_id: image_id.into(), size, objects, absent, not_exhaustive };
            scorer.update(&SampleId::new(image_id.to_string()), &found, &image).unwrap();
        }
        scorer.finish().unwrap().0
    }

    /// With one object in each image, recall is the share of images in which it is found.
    #[test]
    fn the_error_of_recall_is_that_of_a_share_in_percent() {
        let found = scores(Protocol::Coco, (0..100).map(|k| (vec![object(5., 100.)], k % 4 != 0)));
        let recall = found.get("box_ar_100").unwrap();
        assert!((recall.value - 75.).abs() < 1e-9, "{recall:?}");
        let expected = 100. * (0.75f64 * 0.25 / 100.).sqrt();
        assert!((recall.stderr.unwrap() / expected - 1.).abs() < 0.1, "{recall:?}, expected {expected}");
    }

    /// pycocotools goes through images in the order of their ids: numbers by value, words by their characters.
    #[test]
    fn equal_scores_count_in_the_order_of_ids() {
        let info = DatasetInfo { classes: vec!["a".into()], ..DatasetInfo::default() };
        let precision = |ids: [RecordId; 2]| {
            let mut scorer = CocoScorer::new(&info, Protocol::Coco, false);
            for (k, image_id) in ids.into_iter().enumerate() {
                let objects = vec![object(5., 100.)];
                let left = if k == 0 { 5. } else { 35. }; // only the first image's detection is right
                let found = Detection {
                    label: 0,
                    score: 0.5,
                    bbox: [left, 5., left + 10., 15.],
                    mask: None,
                    written: None,
                };
                let (size, absent, not_exhaustive) = ((50, 50), vec![], vec![]);
                let image = Objects { image_id, size, objects, absent, not_exhaustive };
                scorer.update(&SampleId::new(k.to_string()), &[found], &image).unwrap();
            }
            scorer
                .finish()
                .map(|(scores, _)| scores.get("box_ap50").unwrap().value)
                .map_err(|e| e.to_string())
        };
        let word = |text: &str| RecordId::Word(text.into());
        // A right detection before a wrong one has a precision of 1 up to a recall of a half, after it of a half.
        let (before, after) = (100. * 51. / 101., 100. * 0.5 * 51. / 101.);
        for (ids, expected) in [
            ([9u64.into(), 10u64.into()], before),
            ([10u64.into(), 9u64.into()], after),
            ([word("9"), word("10")], after),
            ([word("a"), word("b")], before),
        ] {
            let found = precision(ids.clone()).unwrap();
            assert!((found - expected).abs() < 1e-9, "{ids:?}: {found}, expected {expected}");
        }
        assert!(precision([word("a"), word("a")]).unwrap_err().contains("two images have the id \"a\""));
    }

    #[test]
    fn lvis_ignores_objects_without_an_area() {
        let images = || std::iter::repeat_n((vec![object(5., 100.), object(30., 0.)], true), 3);
        let recall = |protocol, name| scores(protocol, images()).get(name).unwrap().value;
        assert_eq!(recall(Protocol::Coco, "box_ar_100"), 50.);
        assert_eq!(recall(Protocol::Lvis, "box_ar_300"), 100.);
    }

    #[test]
    fn a_score_of_0_has_an_error_and_one_without_cases_has_none() {
        let found = scores(Protocol::Coco, (0..10).map(|_| (vec![object(5., 100.)], false)));
        let score = |name| found.get(name).map(|score| (score.value, score.stderr)).unwrap();
        assert_eq!(score("box_ar_100"), (0., Some(0.)));
        assert_eq!(score("box_ar_large"), (-1., None));
    }

    #[test]
    fn boxes_may_be_narrower_than_a_pixel_but_not_turned_round() {
        let info = DatasetInfo { classes: vec!["a".into()], ..DatasetInfo::default() };
        let image = Objects {
            image_id: 0.into(),
            size: (50, 50),
            objects: vec![object(5., 100.)],
            absent: vec![],
            not_exhaustive: vec![],
        };
        let update = |bbox| {
            let mut scorer = CocoScorer::new(&info, Protocol::Coco, false);
            let found = Detection { label: 0, score: 0.9, bbox, mask: None, written: None };
            scorer.update(&SampleId::new("0"), &[found], &image).map_err(|error| error.to_string())
        };
        for bbox in [[5., 5., 5.5, 15.], [5., 5., 15., 5.25], [5., 5., 5., 5.]] {
            assert_eq!(update(bbox), Ok(()), "{bbox:?}");
        }
        for bbox in [[5., 5., 4.5, 15.], [5., 5., 15., 4.75]] {
            let error = update(bbox).unwrap_err();
            assert!(error.contains("ends before it begins"), "{error}");
        }
    }
}
