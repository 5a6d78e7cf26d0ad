//! [`Matches`]: which detections of an evaluation are right, from which the scores of resampled images are computed without
//! matching again.
//!
//! An image that a sample contains k times counts as k images with the same detections: the detections keep their order by
//! confidence, and each counts k times as right or wrong. With distinct confidences this equals the scores by
//! `pycocotools` of a data set in which the image is there k times.

use crate::record::ScoreSpec;
use hotcoco::{COCOeval, EvalImg};
use std::collections::HashMap;

/// The matches of one evaluation of boxes or of masks.
pub(super) struct Matches {
    /// Recalls at which precision is read.
    recalls: Vec<f64>,
    /// IoU thresholds.
    thresholds: Vec<f64>,
    /// For each class its `r`, `c` or `f` of LVIS, and its size classes in the order of [`SIZES`].
    classes: Vec<(Option<String>, Vec<Cell>)>,
    /// The greatest number of detections of an image.
    cap: usize,
}

/// Labels of size classes in hotcoco; the first has all objects.
const SIZES: [&str; 4] = ["all", "small", "medium", "large"];

/// One class and size class.
#[derive(Clone, Debug, Default)]
struct Cell {
    /// Images and their number of objects, except for ignored ones.
    objects: Vec<(u32, u32)>,
    /// For each IoU threshold, the detections by descending confidence, except for ignored ones.
    ranked: Vec<Vec<Ranked>>,
}

/// A detection in the ranking of its class.
#[derive(Clone, Copy, Debug)]
struct Ranked {
    image: u32,
    /// Its place among the detections of its image and class, from 0.
    place: u16,
    right: bool,
}

/// A detection before it is ranked.
#[derive(Clone, Copy)]
struct Found<'a> {
    score: f64,
    image: u32,
    evaluation: &'a EvalImg,
    /// Its index there.
    d: usize,
}

/// What a score is, read from its name.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Statistic<'a> {
    /// Average recall instead of average precision.
    recall: bool,
    /// One IoU threshold instead of the mean over all.
    threshold: Option<f64>,
    /// Index in [`SIZES`].
    size: usize,
    /// The number of detections of an image that count.
    cap: Option<usize>,
    /// The frequency of the classes that count.
    frequency: Option<&'a str>,
}

impl Statistic<'_> {
    /// `box_ap50`, `mask_ap_small`, `box_ar_100`, `box_ap_rare`, …; `None` for another name.
    fn parse(name: &str) -> Option<Self> {
        let (_, rest) = name.split_once('_')?;
        let mut found =
            Self { recall: rest.starts_with("ar"), threshold: None, size: 0, cap: None, frequency: None };
        match rest.strip_prefix("ap").or_else(|| rest.strip_prefix("ar_"))? {
            "" => {}
            "50" if !found.recall => found.threshold = Some(0.5),
            "75" => found.threshold = Some(0.75),
            "_rare" => found.frequency = Some("r"),
            "_common" => found.frequency = Some("c"),
            "_frequent" => found.frequency = Some("f"),
            word => match SIZES.iter().position(|size| *size == word.trim_start_matches('_')) {
                Some(size) => found.size = size,
                None => found.cap = Some(word.parse().ok()?),
            },
        }
        Some(found)
    }
}

impl Matches {
    /// The matches of `evaluated`, whose images have the ids `images`; `frequency` gives the `r`, `c` or `f` of a class.
    pub fn new(evaluated: &COCOeval, images: &[u64], frequency: impl Fn(usize) -> Option<String>) -> Self {
        let params = &evaluated.params;
        let place: HashMap<u64, u32> = images.iter().copied().zip(0..).collect();
        let class: HashMap<u64, usize> = params.cat_ids.iter().copied().zip(0..).collect();
        let size = |range: [f64; 2]| {
            let found = params.area_ranges.iter().find(|area| area.range == range)?;
            SIZES.iter().position(|label| *label == found.label)
        };
        let thresholds = params.iou_thrs.clone();
        let empty = Cell { objects: vec![], ranked: vec![vec![]; thresholds.len()] };
        let mut cells = vec![vec![empty; SIZES.len()]; params.cat_ids.len()];
        let mut found: Vec<Vec<Vec<Found>>> = vec![vec![vec![]; SIZES.len()]; params.cat_ids.len()];
        for evaluation in evaluated.eval_imgs().iter().flatten() {
            let (Some(k), Some(s)) = (class.get(&evaluation.category_id), size(evaluation.area_rng)) else {
                continue;
            };
            let Some(image) = place.get(&evaluation.image_id).copied() else { continue };
            let objects = evaluation.num_gt_in_denominator() as u32;
            if objects > 0 {
                cells[*k][s].objects.push((image, objects));
            }
            let detections = evaluation.dt_scores.iter().enumerate();
            found[*k][s].extend(detections.map(|(d, score)| Found { score: *score, image, evaluation, d }));
        }
        for (cell, found) in cells.iter_mut().flatten().zip(found.iter_mut().flatten()) {
            found.sort_by(|a, b| b.score.total_cmp(&a.score)); // stable, as in pycocotools
            for (t, ranked) in cell.ranked.iter_mut().enumerate() {
                let counts = found.iter().filter(|found| !found.evaluation.dt_ignore[(t, found.d)]);
                ranked.extend(counts.map(|found| Ranked {
                    image: found.image,
                    place: u16::try_from(found.d).unwrap_or(u16::MAX),
                    right: found.evaluation.dt_matched[(t, found.d)],
                }));
                // Wrong detections below the last right one change neither precision nor recall.
                ranked.truncate(ranked.iter().rposition(|found| found.right).map_or(0, |last| last + 1));
            }
        }
        let classes = params.cat_ids.iter().map(|id| frequency(*id as usize)).zip(cells).collect();
        Self { recalls: params.rec_thrs.clone(), thresholds, classes, cap: params.max_det() }
    }

    /// The scores `specs`, 0 to 1, if image i is there `weights[i]` times; `None` for a score without cases.
    pub fn scores(&self, specs: &[ScoreSpec], weights: &[u32]) -> Vec<Option<f64>> {
        let statistics: Vec<Option<Statistic>> =
            specs.iter().map(|spec| Statistic::parse(spec.name)).collect();
        let mut sums = vec![(0., 0u32); specs.len()];
        let mut points = vec![];
        for (frequency, cells) in &self.classes {
            for (size, cell) in cells.iter().enumerate() {
                let times = |image: u32| u64::from(weights[image as usize]);
                let objects: u64 = cell.objects.iter().map(|(image, n)| times(*image) * u64::from(*n)).sum();
                if objects == 0 {
                    continue;
                }
                for (threshold, ranked) in self.thresholds.iter().zip(&cell.ranked) {
                    let (precision, recall) = self.curve(ranked, weights, objects, &mut points);
                    for (statistic, (sum, count)) in statistics.iter().zip(&mut sums) {
                        let Some(statistic) = statistic else { continue };
                        let counts = statistic.size == size
                            && statistic.threshold.is_none_or(|one| (one - threshold).abs() < 1e-9)
                            && statistic.frequency.is_none_or(|group| frequency.as_deref() == Some(group));
                        if !counts {
                            continue;
                        }
                        *count += 1;
                        *sum += match (statistic.recall, statistic.cap.filter(|cap| *cap < self.cap)) {
                            (false, _) => precision,
                            (true, None) => recall,
                            (true, Some(cap)) => capped_recall(ranked, weights, objects, cap),
                        };
                    }
                }
            }
        }
        sums.into_iter().map(|(sum, count)| (count > 0).then(|| sum / f64::from(count))).collect()
    }

    /// Average precision and the greatest recall. `points` is scratch memory.
    fn curve(
        &self,
        ranked: &[Ranked],
        weights: &[u32],
        objects: u64,
        points: &mut Vec<(f64, f64)>,
    ) -> (f64, f64) {
        points.clear();
        let (mut right, mut seen) = (0, 0);
        for detection in ranked {
            let times = u64::from(weights[detection.image as usize]);
            seen += times;
            if detection.right && times > 0 {
                right += times;
                points.push((right as f64 / objects as f64, right as f64 / seen as f64));
            }
        }
        // Precision at a recall is the greatest one at this or a higher recall.
        let mut greatest = 0f64;
        for (_, precision) in points.iter_mut().rev() {
            greatest = greatest.max(*precision);
            *precision = greatest;
        }
        let (mut sum, mut next) = (0., 0);
        for recall in &self.recalls {
            while points.get(next).is_some_and(|(reached, _)| reached < recall) {
                next += 1;
            }
            let Some((_, precision)) = points.get(next) else { break };
            sum += precision;
        }
        (sum / self.recalls.len() as f64, right as f64 / objects as f64)
    }
}

/// The recall of the first `cap` detections of each image.
fn capped_recall(ranked: &[Ranked], weights: &[u32], objects: u64, cap: usize) -> f64 {
    let first = ranked.iter().filter(|detection| detection.right && usize::from(detection.place) < cap);
    let right: u64 = first.map(|detection| u64::from(weights[detection.image as usize])).sum();
    right as f64 / objects as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::coco::{Protocol, score_specs};

    #[test]
    fn every_score_has_a_statistic() {
        for protocol in [Protocol::Coco, Protocol::Lvis] {
            for spec in score_specs(protocol, true) {
                assert!(Statistic::parse(spec.name).is_some(), "{}", spec.name);
            }
        }
        let plain = Statistic { recall: false, threshold: None, size: 0, cap: None, frequency: None };
        assert_eq!(Statistic::parse("box_ap"), Some(plain));
        assert_eq!(Statistic::parse("mask_ap75"), Some(Statistic { threshold: Some(0.75), ..plain }));
        assert_eq!(Statistic::parse("box_ap_rare"), Some(Statistic { frequency: Some("r"), ..plain }));
        let recall = Statistic { recall: true, ..plain };
        assert_eq!(Statistic::parse("box_ar_10"), Some(Statistic { cap: Some(10), ..recall }));
        assert_eq!(Statistic::parse("mask_ar_large"), Some(Statistic { size: 3, ..recall }));
        assert_eq!(Statistic::parse("miou"), None);
    }
}
