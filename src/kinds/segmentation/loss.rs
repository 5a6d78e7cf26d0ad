//! Cross-entropy of every pixel, averaged as mmsegmentation does it, with weights of classes where a recipe has some.

use super::{Average, Training};
use crate::data::{IGNORE, Size};
use crate::ops;
use candle_core::{Device, Result, Tensor};

/// What a recipe makes of the losses of pixels.
#[derive(Clone, Debug)]
pub(super) struct PixelLoss {
    /// Of every class.
    weights: Vec<f64>,
    average: Average,
}

/// Labels of a batch. Pixels whose classes weigh the same are a group, and ignored in the labels of the others.
#[derive(Clone, Debug)]
pub(super) struct Labels {
    /// Share in the sum of weights, and labels `[B, H, W]`.
    groups: Vec<(f64, Tensor)>,
    size: Size,
}

impl PixelLoss {
    /// For `classes` in order of their indices. Those that the recipe does not name weigh 1.
    pub fn new(classes: &[String], training: &Training) -> Self {
        let weight = |class: &String| training.class_weight.get(class).copied().unwrap_or(1.);
        Self { weights: classes.iter().map(weight).collect(), average: training.average }
    }

    /// `labels` of [B, H, W] pixels, row-major, on `device`.
    pub fn labels(
        &self,
        labels: &[u32],
        (b, h, w): (usize, usize, usize),
        device: &Device,
    ) -> Result<Labels> {
        let ignored = |label: &u32| *label == u32::from(IGNORE);
        let weight = |label: u32| self.weights.get(label as usize).copied();
        if let Some(label) = labels.iter().find(|label| weight(**label).is_none() && !ignored(label)) {
            candle_core::bail!("segmentation: label {label}, classes are 0..{}", self.weights.len());
        }
        let mut kinds: Vec<f64> = self.weights.clone();
        kinds.sort_unstable_by(f64::total_cmp);
        kinds.dedup();
        let total: f64 = labels.iter().filter_map(|label| weight(*label)).sum();
        let group = |kind: &f64| {
            let alone = |label: &u32| if weight(*label) == Some(*kind) { *label } else { u32::from(IGNORE) };
            let own: Vec<u32> = labels.iter().map(alone).collect();
            let count = own.iter().filter(|label| !ignored(label)).count();
            let mut share = if count == 0 { 0. } else { kind * count as f64 / total };
            if self.average == Average::All {
                let valid = labels.iter().filter(|label| !ignored(label)).count();
                share *= valid as f64 / labels.len() as f64;
            }
            Ok((share, Tensor::from_vec(own, (b, h, w), device)?))
        };
        Ok(Labels { groups: kinds.iter().map(group).collect::<Result<_>>()?, size: (h, w) })
    }

    /// The mean over pixels with a label, Σ weight·loss / Σ weight; times the share of such pixels where ignored ones count
    /// too. `logits` [B, K, h, w] are scaled to the labels.
    pub fn of(&self, logits: &Tensor, labels: &Labels) -> Result<Tensor> {
        let logits = ops::resize_bilinear(logits, labels.size)?;
        let mut sum: Option<Tensor> = None;
        for (share, labels) in &labels.groups {
            let mean = ops::cross_entropy(&logits, labels, Some(u32::from(IGNORE)), 0.)?;
            let part = (mean * *share)?;
            sum = Some(sum.map_or(Ok(part.clone()), |sum| sum + part)?);
        }
        sum.map_or_else(|| Tensor::new(0f32, logits.device()), Ok)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::Rng as _;

    /// `torch.nn.functional.cross_entropy(logits, labels, weight, ignore_index=…)`, by its definition.
    fn expected(logits: &[Vec<f32>], labels: &[u32], weights: &[f64]) -> f64 {
        let (mut sum, mut total) = (0., 0.);
        for (pixel, &label) in labels.iter().enumerate().filter(|(_, label)| **label < 3) {
            let at = |class: usize| f64::from(logits[class][pixel]);
            let norm: f64 = (0..3).map(|class| at(class).exp()).sum();
            sum += weights[label as usize] * (norm.ln() - at(label as usize));
            total += weights[label as usize];
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
        for weights in [[1., 1., 1.], [0.1, 1., 1.], [0.25, 2., 3.]] {
            for (average, share) in [(Average::Valid, 1.), (Average::All, 6. / 8.)] {
                let loss = PixelLoss { weights: weights.to_vec(), average };
                let prepared = loss.labels(&labels, (1, 2, 4), &Device::Cpu)?;
                let found = f64::from(loss.of(&tensor, &prepared)?.to_scalar::<f32>()?);
                let expected = share * expected(&logits, &labels, &weights);
                assert!((found - expected).abs() < 1e-6, "{weights:?}: {found}, expected {expected}");
            }
        }
        Ok(())
    }

    #[test]
    fn a_batch_without_labels_has_no_loss() -> Result<()> {
        let loss = PixelLoss { weights: vec![0.1, 1.], average: Average::Valid };
        let labels = loss.labels(&[u32::from(IGNORE); 4], (1, 2, 2), &Device::Cpu)?;
        let found = loss.of(&Tensor::ones((1, 2, 1, 1), candle_core::DType::F32, &Device::Cpu)?, &labels)?;
        assert_eq!(found.to_scalar::<f32>()?, 0.);
        let error = loss.labels(&[0, 1, 2, 0], (1, 2, 2), &Device::Cpu).unwrap_err().to_string();
        assert!(error.contains("label 2, classes are 0..2"), "{error}");
        Ok(())
    }
}
