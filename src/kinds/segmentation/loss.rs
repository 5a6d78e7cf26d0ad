//! Pixel-wise cross-entropy, averaged as in mmsegmentation, with class weights if the recipe sets them.

use super::config::{Average, SegmentationHeadConfig};
use crate::data::IGNORE;
use crate::ops;
use candle_core::{Device, Result, Tensor};

/// Pixel-wise cross-entropy as the recipe configures it.
#[derive(Clone, Debug)]
pub(super) struct PixelLoss {
    /// Weight of every class; `None` if all weights are equal.
    weights: Option<Vec<f32>>,
    average: Average,
}

/// Labels of a batch.
#[derive(Clone, Debug)]
pub(super) struct Labels {
    /// [B, H, W]
    classes: Tensor,
    /// Factor for the mean over labeled pixels.
    share: f64,
}

impl PixelLoss {
    /// A loss for `classes`, in the order of their indices. Classes that the recipe does not list have weight 1.
    pub(crate) fn new(classes: &[String], config: &SegmentationHeadConfig) -> Self {
        let weight = |class: &String| config.class_weight.get(class).map_or(1., |weight| *weight as f32);
        let weights = (!config.class_weight.is_empty()).then(|| classes.iter().map(weight).collect());
        Self { weights, average: config.average }
    }

    /// `labels` of [B, H, W] pixels, row-major, in host memory, where they are checked.
    pub(crate) fn labels(&self, labels: Vec<u32>, size: (usize, usize, usize)) -> Result<Labels> {
        let share = match self.average {
            Average::Valid => 1.,
            Average::All => {
                let valid = labels.iter().filter(|label| **label != u32::from(IGNORE)).count();
                valid as f64 / labels.len() as f64
            }
        };
        Ok(Labels { classes: Tensor::from_vec(labels, size, &Device::Cpu)?, share })
    }

    /// The mean over labeled pixels, Σ weight·loss / Σ weight; multiplied by the fraction of labeled pixels if ignored ones
    /// count too. `logits` [B, K, h, w] are resized to the labels.
    ///
    /// # Errors
    /// A label that is neither a class nor ignored.
    pub(crate) fn of(&self, logits: &Tensor, Labels { classes, share }: &Labels) -> Result<Tensor> {
        let (_, height, width) = classes.dims3()?;
        let logits = ops::resize_bilinear(logits, (height, width))?;
        let ignore = Some(u32::from(IGNORE));
        let mean = match &self.weights {
            Some(weights) => ops::weighted_cross_entropy(&logits, classes, ignore, weights)?,
            None => ops::cross_entropy(&logits, classes, ignore, 0.)?,
        };
        mean * *share
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::Rng as _;

    /// `torch.nn.functional.cross_entropy(logits, labels, weight, ignore_index=…)`, by its definition.
    fn expected(logits: &[Vec<f32>], labels: &[u32], weights: &[f32]) -> f64 {
        let (mut sum, mut total) = (0., 0.);
        for (pixel, &label) in labels.iter().enumerate().filter(|(_, label)| **label < 3) {
            let at = |class: usize| f64::from(logits[class][pixel]);
            let norm: f64 = (0..3).map(|class| at(class).exp()).sum();
            let weight = f64::from(weights[label as usize]);
            sum += weight * (norm.ln() - at(label as usize));
            total += weight;
        }
        sum / total
    }

    #[test]
    fn weights_of_classes_are_those_of_pytorch() -> Result<()> {
        let mut rng = crate::rng::Rng::new(0, "test", &[]);
        let logits: Vec<Vec<f32>> =
            (0..3).map(|_| (0..8).map(|_| rng.random_range(-2f32..2.)).collect()).collect();
        let ignore = u32::from(IGNORE);
        let labels = [0, 0, 1, 2, ignore, 0, 1, ignore];
        let tensor = Tensor::new(logits.concat(), &Device::Cpu)?.reshape((1, 3, 2, 4))?;
        for weights in [None, Some(vec![0.1, 1., 1.]), Some(vec![0.25, 2., 3.])] {
            for (average, share) in [(Average::Valid, 1.), (Average::All, 6. / 8.)] {
                let loss = PixelLoss { weights: weights.clone(), average };
                let prepared = loss.labels(labels.to_vec(), (1, 2, 4))?;
                let found = f64::from(loss.of(&tensor, &prepared)?.to_scalar::<f32>()?);
                let all = weights.clone().unwrap_or(vec![1.; 3]);
                let expected = share * expected(&logits, &labels, &all);
                assert!((found - expected).abs() < 1e-6, "{weights:?}: {found}, expected {expected}");
            }
        }
        Ok(())
    }

    #[test]
    fn a_batch_without_labels_has_no_loss() -> Result<()> {
        let loss = PixelLoss { weights: Some(vec![0.1, 1.]), average: Average::Valid };
        let labels = loss.labels(vec![u32::from(IGNORE); 4], (1, 2, 2))?;
        let logits = Tensor::ones((1, 2, 1, 1), candle_core::DType::F32, &Device::Cpu)?;
        let found = loss.of(&logits, &labels)?;
        assert_eq!(found.to_scalar::<f32>()?, 0.);
        let strange = loss.labels(vec![0, 1, 2, 0], (1, 2, 2))?;
        let error = loss.of(&logits, &strange).unwrap_err().to_string();
        assert!(error.contains("target 2 at position 2"), "{error}");
        Ok(())
    }
}
