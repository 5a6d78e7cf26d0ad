//! Matches boxes with objects by intersection over union (IoU): arXiv:1506.01497 §3.1.2, detectron2
//! `modeling/matcher.py`.

use super::boxes::iou;
use crate::data::Xyxy;
use rayon::prelude::*;

/// Role of a box in training.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Match {
    /// Positive: matches the object with this index.
    Object(u32),
    Background,
    /// Ignored: the IoU is between the thresholds.
    Ignored,
}

/// Thresholds of the IoU.
#[derive(Clone, Copy, Debug)]
pub(super) struct Matcher {
    /// A box with at least this IoU matches the object that it overlaps most.
    pub positive_iou: f32,
    /// A box with a lower IoU than this with every object is background.
    pub negative_iou: f32,
    /// `allow_low_quality_matches` of detectron2: the boxes with the largest IoU with an object match the object that
    /// they overlap most, even below the threshold. If no box overlaps an object, no box matches it in this way; in
    /// detectron2, all boxes do.
    pub low_quality: bool,
}

/// Number of boxes that a thread matches at a time.
const CHUNK: usize = 4096;

impl Matcher {
    pub(crate) const RPN: Self = Self { positive_iou: 0.7, negative_iou: 0.3, low_quality: true };
    pub(crate) const ROI: Self = Self { positive_iou: 0.5, negative_iou: 0.5, low_quality: false };

    /// One match per box.
    pub(crate) fn run(self, boxes: &[Xyxy<f32>], objects: &[Xyxy<f32>]) -> Vec<Match> {
        let best: Vec<(u32, f32)> =
            boxes.par_iter().with_min_len(CHUNK).map(|b| best_object(*b, objects)).collect();
        let judged = |&(object, overlap): &(u32, f32)| match overlap {
            _ if objects.is_empty() => Match::Background,
            overlap if overlap >= self.positive_iou => Match::Object(object),
            overlap if overlap < self.negative_iou => Match::Background,
            _ => Match::Ignored,
        };
        let mut matches: Vec<Match> = best.iter().map(judged).collect();
        if self.low_quality {
            let largest = largest_ious(boxes, objects);
            let chunks =
                matches.par_chunks_mut(CHUNK).zip(boxes.par_chunks(CHUNK)).zip(best.par_chunks(CHUNK));
            chunks.for_each(|((matches, boxes), best)| {
                for ((found, bounds), (object, overlap)) in matches.iter_mut().zip(boxes).zip(best) {
                    let equals = |(object, largest): (&Xyxy<f32>, &f32)| {
                        *largest > 0. && iou(*bounds, *object) == *largest
                    };
                    if *overlap > 0. && objects.iter().zip(&largest).any(equals) {
                        *found = Match::Object(*object);
                    }
                }
            });
        }
        matches
    }
}

/// The object with the largest IoU with a box (the first one if several are equal), and this IoU.
fn best_object(bounds: Xyxy<f32>, objects: &[Xyxy<f32>]) -> (u32, f32) {
    let mut best = (0, -1.);
    for (i, object) in (0..).zip(objects) {
        let overlap = iou(bounds, *object);
        if overlap > best.1 {
            best = (i, overlap);
        }
    }
    best
}

/// The largest IoU of every object with a box.
fn largest_ious(boxes: &[Xyxy<f32>], objects: &[Xyxy<f32>]) -> Vec<f32> {
    let largest = |object: &Xyxy<f32>| boxes.iter().fold(0f32, |largest, b| largest.max(iou(*b, *object)));
    objects.par_iter().map(largest).collect()
}

#[cfg(test)]
mod tests {
    use super::Match::*;
    use super::*;

    /// IoU with the first object: 1, 0.5, 0.25, 0; with the second, 0.1 at best.
    const BOXES: [Xyxy<f32>; 5] =
        [[0., 0., 4., 4.], [0., 0., 4., 2.], [0., 0., 2., 2.], [20., 20., 21., 21.], [40., 0., 42., 2.]];
    const OBJECTS: [Xyxy<f32>; 2] = [[0., 0., 4., 4.], [40., 0., 50., 4.]];

    #[test]
    fn thresholds_and_low_quality_by_hand() {
        assert_eq!(
            Matcher::ROI.run(&BOXES, &OBJECTS),
            [Object(0), Object(0), Background, Background, Background]
        );
        // 0.5 is between 0.3 and 0.7; the last box is the best of the second object.
        assert_eq!(
            Matcher::RPN.run(&BOXES, &OBJECTS),
            [Object(0), Ignored, Background, Background, Object(1)]
        );
    }

    #[test]
    fn a_threshold_belongs_to_the_range_above_it_and_the_first_of_equal_objects_wins() {
        let matcher = Matcher { positive_iou: 0.5, negative_iou: 0.25, low_quality: false };
        let twice = [OBJECTS[0], OBJECTS[0]];
        assert_eq!(matcher.run(&BOXES, &twice), [Object(0), Object(0), Ignored, Background, Background]);
    }

    /// The best overlap with such an object is 0, which every box that is elsewhere reaches.
    #[test]
    fn an_object_that_nothing_overlaps_claims_no_box() {
        let objects = [OBJECTS[0], [90., 90., 91., 91.]];
        let expected = [Object(0), Ignored, Background, Background, Background];
        assert_eq!(Matcher::RPN.run(&BOXES, &objects), expected);
    }

    #[test]
    fn no_objects_and_objects_that_nothing_overlaps_make_background() {
        assert_eq!(Matcher::RPN.run(&BOXES, &[]), [Background; 5]);
        assert_eq!(Matcher::RPN.run(&BOXES, &[[90., 90., 91., 91.]]), [Background; 5]);
        assert_eq!(Matcher::RPN.run(&[[f32::NAN; 4]], &OBJECTS), [Background]);
        assert!(Matcher::RPN.run(&[], &OBJECTS).is_empty());
    }
}
