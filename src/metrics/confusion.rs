//! Mean intersection over union (IoU) for semantic segmentation, with the conventions of mmsegmentation.
//!
//! For each class, correct, annotated and predicted pixels are counted over the whole split, except where the annotation
//! is [`IGNORE`]. IoU is correct / (annotated + predicted − correct), and accuracy is correct / annotated. A class that is
//! neither annotated nor predicted has no IoU, and a class that is not annotated has no accuracy; means skip such classes
//! (NumPy's `nanmean`). Standard errors come from a [bootstrap](super::bootstrap) over images or sequences.

use super::bootstrap::Units;
use super::{Metric, MetricError};
use crate::data::{IGNORE, Raster, SampleId, Sequences};
use crate::record::{Better, Score, ScoreSpec, Scores, Unit};

/// Mean IoU, mean class accuracy and pixel accuracy, in percent.
pub const SCORES: [ScoreSpec; 3] = [
    ScoreSpec { name: "miou", unit: Unit::Percent, better: Better::Higher },
    ScoreSpec { name: "macc", unit: Unit::Percent, better: Better::Higher },
    ScoreSpec { name: "aacc", unit: Unit::Percent, better: Better::Higher },
];

/// Pixel counts of one class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClassCounts {
    /// Pixels that are both annotated and predicted as this class.
    pub right: u64,
    /// Pixels that are annotated as this class.
    pub annotated: u64,
    /// Pixels that are predicted as this class.
    pub predicted: u64,
}

impl ClassCounts {
    fn add(&mut self, other: &Self, times: u32) {
        let times = u64::from(times);
        self.right += times * other.right;
        self.annotated += times * other.annotated;
        self.predicted += times * other.predicted;
    }

    /// Intersection over union: 0 to 1. `None` for a class that is neither annotated nor predicted.
    pub fn iou(&self) -> Option<f64> {
        let union = self.annotated + self.predicted - self.right;
        (union > 0).then(|| self.right as f64 / union as f64)
    }

    /// Fraction of the annotated pixels that are predicted correctly. `None` if there are none.
    pub fn accuracy(&self) -> Option<f64> {
        (self.annotated > 0).then(|| self.right as f64 / self.annotated as f64)
    }
}

/// Pixel counts of a split, image by image.
#[derive(Clone, Debug)]
pub struct Confusion {
    classes: usize,
    units: Units,
    /// Counts of the classes that occur in each image.
    images: Vec<Vec<(u16, ClassCounts)>>,
}

impl Confusion {
    /// A metric for this number of classes. `sequences` says which images are frames of one video.
    pub fn new(classes: usize, sequences: Option<Sequences>) -> Self {
        Self { classes, units: Units::new(sequences), images: vec![] }
    }

    /// Counts the pixels of the image `id`.
    ///
    /// # Errors
    /// Rasters of different sizes, or a label that is not a class.
    pub fn count(&mut self, id: &SampleId, prediction: &Raster, truth: &Raster) -> Result<(), String> {
        if prediction.size() != truth.size() {
            let ((h, w), (height, width)) = (prediction.size(), truth.size());
            return Err(format!("{h}x{w} pixels, but the annotation has {height}x{width} (height x width)"));
        }
        let mut counts = vec![ClassCounts::default(); self.classes];
        for (found, label) in prediction.labels.iter().zip(&truth.labels) {
            if *label == IGNORE {
                continue;
            }
            let (found, label) = (usize::from(*found), usize::from(*label));
            if found.max(label) >= self.classes {
                let what = if label >= self.classes { "annotation" } else { "prediction" };
                let class = if label >= self.classes { label } else { found };
                return Err(format!(
                    "the {what} has class {class}, but there are only {} classes",
                    self.classes
                ));
            }
            counts[label].annotated += 1;
            counts[found].predicted += 1;
            counts[label].right += u64::from(found == label);
        }
        let there = |(_, c): &(u16, ClassCounts)| c.annotated + c.predicted > 0;
        self.images.push((0..).zip(counts).filter(there).collect());
        self.units.add(id);
        Ok(())
    }

    /// Pixel counts of every class over all images.
    pub fn total(&self) -> Vec<ClassCounts> {
        self.sum(&vec![1; self.images.len()])
    }

    /// The counts of all images, if image i is there `weights[i]` times.
    fn sum(&self, weights: &[u32]) -> Vec<ClassCounts> {
        let mut total = vec![ClassCounts::default(); self.classes];
        for (image, weight) in self.images.iter().zip(weights).filter(|(_, weight)| **weight > 0) {
            image.iter().for_each(|(class, counts)| total[usize::from(*class)].add(counts, *weight));
        }
        total
    }

    /// The [`SCORES`] in percent, with standard errors if there is more than one image or sequence.
    ///
    /// # Errors
    /// A split without any annotated pixel.
    pub fn scores(&self) -> Result<Scores, String> {
        let values = means(&self.total()).ok_or("no pixel of the split is annotated")?;
        let resampled = |weights: &[u32]| match means(&self.sum(weights)) {
            Some(values) => values.map(Some).to_vec(),
            None => vec![None; SCORES.len()],
        };
        let errors = self.units.standard_errors(SCORES.len(), resampled);
        let mut scores = Scores::default();
        for ((spec, value), error) in SCORES.iter().zip(values).zip(errors) {
            let stderr = error.map(|error| 100. * error);
            let score = Score { value: 100. * value, stderr, sample: Some(self.units.sample()) };
            scores.insert_score(spec.name, score);
        }
        Ok(scores)
    }
}

/// Means over the classes that have a value; `None` if no pixel is annotated.
fn means(counts: &[ClassCounts]) -> Option<[f64; 3]> {
    let mean = |values: Vec<f64>| values.iter().sum::<f64>() / values.len() as f64;
    let sum = |of: fn(&ClassCounts) -> u64| counts.iter().map(of).sum::<u64>();
    let annotated = sum(|c| c.annotated);
    (annotated > 0).then(|| {
        [
            mean(counts.iter().filter_map(ClassCounts::iou).collect()),
            mean(counts.iter().filter_map(ClassCounts::accuracy).collect()),
            sum(|c| c.right) as f64 / annotated as f64,
        ]
    })
}

impl Metric for Confusion {
    type Target = Raster;
    type Prediction = Raster;

    fn update(&mut self, id: &SampleId, prediction: Raster, target: &Raster) -> Result<(), MetricError> {
        let fail = |message| MetricError::Prediction { id: id.clone(), message };
        self.count(id, &prediction, target).map_err(fail)
    }

    fn finish(self: Box<Self>) -> Result<Scores, MetricError> {
        self.scores().map_err(MetricError::Scoring)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id() -> SampleId {
        SampleId::new("a")
    }

    fn raster(width: usize, labels: &[u16]) -> Raster {
        Raster::new(labels.len() / width, width, labels.to_vec())
    }

    /// Two images of two rows, three classes of which the last is nowhere.
    fn counted() -> Confusion {
        let mut confusion = Confusion::new(3, None);
        confusion.count(&id(), &raster(2, &[0, 0, 1, 1]), &raster(2, &[0, 1, 1, IGNORE])).unwrap();
        confusion.count(&id(), &raster(2, &[0, 1, 0, 0]), &raster(2, &[0, 0, 0, 0])).unwrap();
        confusion
    }

    #[test]
    fn means_by_hand() {
        let confusion = counted();
        let total = confusion.total();
        assert_eq!(total[0], ClassCounts { right: 4, annotated: 5, predicted: 5 });
        assert_eq!(total[1], ClassCounts { right: 1, annotated: 2, predicted: 2 });
        assert_eq!((total[2].iou(), total[2].accuracy()), (None, None));
        let scores = confusion.scores().unwrap();
        let value = |name| scores.get(name).unwrap().value;
        assert!((value("miou") - 100. * (4. / 6. + 1. / 3.) / 2.).abs() < 1e-9);
        assert!((value("macc") - 100. * (4. / 5. + 1. / 2.) / 2.).abs() < 1e-9);
        assert!((value("aacc") - 100. * 5. / 7.).abs() < 1e-9);
    }

    #[test]
    fn a_class_that_is_only_predicted_has_an_iou_of_0_and_no_accuracy() {
        let mut confusion = Confusion::new(2, None);
        confusion.count(&id(), &raster(2, &[0, 1]), &raster(2, &[0, 0])).unwrap();
        let scores = confusion.scores().unwrap();
        assert_eq!(scores.get("miou").unwrap().value, 25.);
        assert_eq!(scores.get("macc").unwrap().value, 50.);
    }

    #[test]
    fn a_split_without_annotated_pixels_has_no_scores() {
        assert!(Confusion::new(2, None).scores().is_err());
        let mut ignored = Confusion::new(2, None);
        ignored.count(&id(), &raster(2, &[0, 1]), &raster(2, &[IGNORE; 2])).unwrap();
        assert!(ignored.scores().unwrap_err().contains("annotated"));
    }

    /// Of two images, a resampled split holds the first twice, the second twice, or both.
    #[test]
    fn standard_errors_are_those_of_the_resampled_splits() {
        let scores = counted().scores().unwrap();
        let [first, both, second] = [2. / 3., 5. / 7., 3. / 4.]; // accuracy of pixels, with 1/4, 1/2, 1/4
        let mean = (first + 2. * both + second) / 4.;
        let square = |x: f64| (x - mean) * (x - mean);
        let expected = 100. * ((square(first) + 2. * square(both) + square(second)) / 4.).sqrt();
        let found = scores.get("aacc").unwrap().stderr.unwrap();
        assert!((found / expected - 1.).abs() < 0.1, "{found}, expected {expected}");
        assert_eq!(counted().scores().unwrap(), scores);
        let mut one = Confusion::new(2, None);
        one.count(&id(), &raster(1, &[1]), &raster(1, &[1])).unwrap();
        let score = one.scores().unwrap().get("miou").unwrap();
        assert_eq!((score.value, score.stderr), (100., None));
    }

    #[test]
    fn frames_of_one_sequence_have_no_error() {
        let sequences = Sequences { separator: "_".into(), fields: 1 };
        let mut confusion = Confusion::new(2, Some(sequences));
        for (id, found) in [("a_0.png", 0), ("a_1.png", 1)] {
            confusion.count(&SampleId::new(id), &raster(1, &[found]), &raster(1, &[0])).unwrap();
        }
        let score = confusion.scores().unwrap().get("aacc").unwrap();
        assert_eq!((score.value, score.stderr), (50., None));
        assert_eq!(score.sample.unwrap().units, 1);
    }

    #[test]
    fn what_cannot_be_scored_is_said() {
        let mut confusion = Confusion::new(2, None);
        let error = confusion.count(&id(), &raster(2, &[0, 1]), &raster(1, &[0, 1])).unwrap_err();
        assert!(error.contains("1x2 pixels, but the annotation has 2x1"), "{error}");
        let error = confusion.count(&id(), &raster(1, &[2]), &raster(1, &[0])).unwrap_err();
        assert!(error.contains("prediction has class 2, but there are only 2"), "{error}");
        let error = confusion.count(&id(), &raster(1, &[0]), &raster(1, &[7])).unwrap_err();
        assert!(error.contains("annotation has class 7"), "{error}");
        confusion.count(&id(), &raster(1, &[0]), &raster(1, &[IGNORE])).unwrap();
        assert!(confusion.scores().unwrap_err().contains("no pixel"));
    }

    #[test]
    fn predictions_and_annotations_are_not_taken_for_each_other() {
        let mut metric: Box<dyn Metric<Target = Raster, Prediction = Raster>> =
            Box::new(Confusion::new(2, None));
        // Three pixels of class 0, of which one is found, one of class 1, and one to be ignored.
        metric.update(&id(), raster(5, &[0, 1, 1, 1, 0]), &raster(5, &[0, 0, 0, 1, IGNORE])).unwrap();
        let scores = metric.finish().unwrap();
        let value = |name| scores.get(name).unwrap().value;
        assert!((value("macc") - 100. * (1. / 3. + 1.) / 2.).abs() < 1e-9, "{scores:?}");
        assert_eq!(value("aacc"), 50.);
    }

    #[test]
    fn a_class_that_does_not_exist_is_named() {
        let refused = |prediction, truth| {
            let mut confusion = Confusion::new(3, None);
            confusion.count(&id(), &raster(1, &[prediction]), &raster(1, &[truth])).unwrap_err()
        };
        assert_eq!(refused(0, 3), "the annotation has class 3, but there are only 3 classes");
        assert_eq!(refused(3, 2), "the prediction has class 3, but there are only 3 classes");
        assert_eq!(refused(4, 7), "the annotation has class 7, but there are only 3 classes");
    }
}
