//! What explains the accuracy of a classifier: scores of each class, confusions, calibration, and the surest errors.
//!
//! The numbers are those of scikit-learn (`confusion_matrix`, `precision_recall_fscore_support`, `log_loss`); see
//! `scripts/golden/classification.py`. The expected calibration error is that of Guo et al. 2017 (arXiv:1706.04599), with
//! 15 bins of equal width.

use super::ClassScores;
use super::accuracy::rank;
use crate::data::SampleId;

/// Number of bins of the expected calibration error, as in Guo et al. 2017.
pub const BINS: usize = 15;

/// The prediction for one image.
#[derive(Clone, Debug, PartialEq)]
pub struct Classified {
    /// The image.
    pub id: SampleId,
    /// Index of its class.
    pub label: usize,
    /// Index of the class with the highest score, the first of equal ones; `None` if no class has a score.
    pub predicted: Option<usize>,
    /// Probability of the predicted class: 0 to 1, and 0 without one.
    pub confidence: f64,
    /// Probability of the true class: 0 to 1.
    pub probability: f64,
    /// Natural logarithm of `probability`, computed from logits without underflow.
    pub log_probability: f64,
}

impl Classified {
    /// Whether the predicted class is the true one.
    pub fn is_right(&self) -> bool {
        self.predicted == Some(self.label)
    }
}

/// How scores become probabilities.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScoreKind {
    /// Logits, by softmax.
    Logits,
    /// Votes of neighbours, by division by their sum; a class without a vote has −∞.
    Votes,
}

impl ScoreKind {
    /// The natural logarithms of the probabilities: −∞ for a class without a score (NaN, −∞ or no vote).
    pub fn log_probabilities(self, scores: &[f32]) -> Vec<f64> {
        let logs: Vec<f64> = scores.iter().map(|score| self.log_weight(f64::from(*score))).collect();
        let most = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        if most == f64::NEG_INFINITY {
            return logs;
        }
        let sum: f64 = logs.iter().map(|log| (log - most).exp()).sum();
        logs.iter().map(|log| log - most - sum.ln()).collect()
    }

    fn log_weight(self, score: f64) -> f64 {
        match self {
            _ if score.is_nan() => f64::NEG_INFINITY,
            Self::Logits => score,
            Self::Votes => score.max(0.).ln(),
        }
    }
}

/// One bin of the reliability diagram.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CalibrationBin {
    /// Number of images whose confidence is in the bin.
    pub images: usize,
    /// Their mean confidence: 0 to 1.
    pub confidence: f64,
    /// Fraction of them that is classified correctly: 0 to 1.
    pub accuracy: f64,
}

/// Two classes that are confused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConfusedPair {
    /// Index of the true class.
    pub label: usize,
    /// Index of the class that was predicted instead.
    pub predicted: usize,
    /// Number of images.
    pub images: usize,
}

/// Counts and per-image results of a split.
#[derive(Clone, Debug)]
pub struct ClassificationReport {
    classes: Vec<String>,
    scores: ScoreKind,
    images: Vec<Classified>,
    /// Number of images by true class (rows) and predicted class (columns).
    matrix: Vec<Vec<usize>>,
}

impl ClassificationReport {
    /// A report without any images yet.
    pub fn new(classes: &[String], scores: ScoreKind) -> Self {
        let matrix = vec![vec![0; classes.len()]; classes.len()];
        Self { classes: classes.to_vec(), scores, images: vec![], matrix }
    }

    /// Adds the scores for one image of the class `label`.
    ///
    /// # Panics
    /// If there is not one score for each class, or no such class.
    pub fn add(&mut self, id: &SampleId, scores: &[f32], label: usize) {
        assert_eq!(scores.len(), self.classes.len(), "there must be one score for each class");
        let logs = self.scores.log_probabilities(scores);
        let predicted = (0..scores.len()).find(|class| rank(scores, *class) == 0);
        if let Some(predicted) = predicted {
            self.matrix[label][predicted] += 1;
        }
        self.images.push(Classified {
            id: id.clone(),
            label,
            predicted,
            confidence: predicted.map_or(0., |class| logs[class].exp()),
            probability: logs[label].exp(),
            log_probability: logs[label],
        });
    }

    /// The names of the classes.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// The results of the images, in the order in which they were added.
    pub fn images(&self) -> &[Classified] {
        &self.images
    }

    /// Number of images by true class (rows) and predicted class (columns). Images without a prediction are not counted.
    pub fn matrix(&self) -> &[Vec<usize>] {
        &self.matrix
    }

    /// Number of images of a class.
    pub fn images_of(&self, class: usize) -> usize {
        self.images.iter().filter(|image| image.label == class).count()
    }

    /// `accuracy` (recall), `precision` and `f1` in percent and the number of `images` of each class. Without images a class
    /// has no accuracy, without predictions no precision, and without either no F1 score.
    pub fn by_class(&self) -> ClassScores {
        let mut scores = ClassScores::default();
        for (class, name) in self.classes.iter().enumerate() {
            let right = self.matrix[class][class] as f64;
            let images = self.images_of(class) as f64;
            let predicted = self.matrix.iter().map(|row| row[class]).sum::<usize>() as f64;
            scores.insert(name, "images", images);
            for (score, part, whole) in [
                ("accuracy", right, images),
                ("precision", right, predicted),
                ("f1", 2. * right, images + predicted),
            ] {
                if whole > 0. {
                    scores.insert(name, score, 100. * part / whole);
                }
            }
        }
        scores
    }

    /// Mean of the accuracies of the classes that have images, in percent: scikit-learn's balanced accuracy.
    pub fn mean_class_accuracy(&self) -> f64 {
        let by_class = self.by_class();
        let found: Vec<f64> =
            by_class.0.values().filter_map(|scores| scores.get("accuracy").copied()).collect();
        found.iter().sum::<f64>() / found.len() as f64
    }

    /// Mean of −ln p over the images, where p is the probability of the true class. Infinite if an image has p = 0, as votes
    /// of neighbours may have.
    pub fn log_loss(&self) -> f64 {
        -self.images.iter().map(|image| image.log_probability).sum::<f64>() / self.images.len() as f64
    }

    /// The bins of the reliability diagram: bin k has the images with k/15 < confidence ≤ (k + 1)/15, and the first bin also
    /// those of confidence 0.
    pub fn calibration(&self) -> Vec<CalibrationBin> {
        let mut bins = vec![CalibrationBin::default(); BINS];
        for image in &self.images {
            let place = (image.confidence * BINS as f64).ceil() as usize;
            let bin = &mut bins[place.clamp(1, BINS) - 1];
            bin.images += 1;
            bin.confidence += image.confidence;
            bin.accuracy += f64::from(u8::from(image.is_right()));
        }
        for bin in bins.iter_mut().filter(|bin| bin.images > 0) {
            bin.confidence /= bin.images as f64;
            bin.accuracy /= bin.images as f64;
        }
        bins
    }

    /// Expected calibration error: the mean distance of confidence and accuracy over the bins, weighted by their images, in
    /// percent.
    pub fn calibration_error(&self) -> f64 {
        let distance = |bin: &CalibrationBin| bin.images as f64 * (bin.confidence - bin.accuracy).abs();
        100. * self.calibration().iter().map(distance).sum::<f64>() / self.images.len() as f64
    }

    /// The pairs of true and predicted class that are confused in the most images, at most `count` of them.
    pub fn most_confused(&self, count: usize) -> Vec<ConfusedPair> {
        let classes = 0..self.classes.len();
        let mut pairs: Vec<ConfusedPair> = classes
            .clone()
            .flat_map(|label| classes.clone().map(move |predicted| (label, predicted)))
            .filter(|(label, predicted)| label != predicted)
            .map(|(label, predicted)| ConfusedPair {
                label,
                predicted,
                images: self.matrix[label][predicted],
            })
            .filter(|pair| pair.images > 0)
            .collect();
        pairs.sort_by_key(|pair| std::cmp::Reverse(pair.images));
        pairs.truncate(count);
        pairs
    }

    /// Positions in [`images`](Self::images) of the errors with the highest confidence, at most `count` of them.
    pub fn surest_errors(&self, count: usize) -> Vec<usize> {
        let mut errors: Vec<usize> = (0..self.images.len()).filter(|k| !self.images[*k].is_right()).collect();
        errors.sort_by(|a, b| self.images[*b].confidence.total_cmp(&self.images[*a].confidence));
        errors.truncate(count);
        errors
    }
}

#[cfg(test)]
mod tests;
