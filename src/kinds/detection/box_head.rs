//! The box head of Fast R-CNN (arXiv:1504.08083): convolutions and a fully connected layer on the features of a region,
//! then one logit and four deltas per class. Background is the last class, as in detectron2; in torchvision it is the first.
//! Names are torchvision's (`roi_heads.box_head.*`, `roi_heads.box_predictor.*`).

use super::boxes::{BoxCoder, clip, is_proper};
use super::roi::Roi;
use super::tower::Tower;
use crate::data::Xyxy;
use crate::nn::{Linear, NormKind, Pass};
use crate::ops;
use candle_core::{Device, Result, Tensor};
use candle_nn::{Init, VarBuilder};

/// Side of the features of a region.
pub(super) const SIDE: usize = 7;

/// Sizes of the head.
#[derive(Clone, Copy, Debug)]
pub(super) struct BoxConfig {
    pub channels: usize,
    pub convs: usize,
    /// Width of the fully connected layer.
    pub width: usize,
    pub norm: NormKind,
    pub classes: usize,
}

/// The head.
#[derive(Clone, Debug)]
pub(super) struct BoxHead {
    tower: Tower,
    wide: Linear,
    classes: Linear,
    deltas: Linear,
    count: usize,
}

/// Logits and deltas for R regions, with K classes and background.
pub(super) struct BoxHeadOutput {
    /// [R, K + 1]
    pub logits: Tensor,
    /// [R, 4·K]
    pub deltas: Tensor,
}

/// Rules for turning the boxes of an image into detections.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Postprocess {
    /// Boxes with this probability or less are dropped.
    pub score_threshold: f32,
    /// IoU above which NMS drops the box with the lower score of two boxes of a class.
    pub nms_iou: f64,
    /// Maximum number of detections per image; those with the highest scores are kept.
    pub max_detections: usize,
}

/// A detection without its mask, in input pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct ScoredBox {
    pub bounds: Xyxy<f32>,
    pub label: u32,
    pub score: f32,
}

impl BoxHead {
    pub(crate) fn new(config: BoxConfig, vb: VarBuilder) -> Result<Self> {
        let BoxConfig { channels, convs, width, norm, classes } = config;
        let (trunk, predictor) = (vb.pp("box_head"), vb.pp("box_predictor"));
        let input = channels * SIDE * SIDE;
        let bound = (3. / input as f64).sqrt(); // detectron2's `c2_xavier_fill`
        let wide = Init::Uniform { lo: -bound, up: bound };
        Ok(Self {
            tower: Tower::new(channels, convs, norm, &trunk)?,
            wide: Linear::with_init(input, width, wide, trunk.pp(convs + 1))?,
            classes: Linear::with_std(width, classes + 1, 0.01, predictor.pp("cls_score"))?,
            deltas: Linear::with_std(width, 4 * classes, 0.001, predictor.pp("bbox_pred"))?,
            count: classes,
        })
    }

    /// `x` [R, C, 7, 7]
    pub(crate) fn forward(&self, x: &Tensor, pass: &mut Pass) -> Result<BoxHeadOutput> {
        let x = self.tower.forward(x, pass)?.flatten_from(1)?;
        let x = ops::relu(&self.wide.forward(&x)?)?; // [R, width]
        Ok(BoxHeadOutput { logits: self.classes.forward(&x)?, deltas: self.deltas.forward(&x)? })
    }

    /// The losses (classes, boxes): cross-entropy over all regions, and the L1 loss of the deltas of positive regions for
    /// their class, divided by the number of all regions. `object_of` returns label and box of the object of a positive
    /// region.
    pub(crate) fn losses(
        &self,
        output: &BoxHeadOutput,
        rois: &[Roi],
        object_of: impl Fn(&Roi) -> Option<(u32, Xyxy<f32>)>,
    ) -> Result<(Tensor, Tensor)> {
        let device = output.logits.device();
        let (mut labels, mut rows, mut targets) = (vec![], vec![], vec![]);
        for (i, roi) in rois.iter().enumerate() {
            let Some((label, bounds)) = object_of(roi) else {
                labels.push(self.count as u32);
                continue;
            };
            labels.push(label);
            rows.push((i * self.count) as u32 + label);
            targets.extend(BoxCoder::ROI.encode(roi.bounds, bounds));
        }
        let labels = Tensor::from_vec(labels, rois.len(), &Device::Cpu)?; // where they are checked
        let classes = ops::cross_entropy(&output.logits, &labels, None, 0.)?;
        let deltas = output.deltas.reshape((rois.len() * self.count, 4))?;
        let predicted = ops::index_select(&deltas, &rows)?;
        let targets = Tensor::from_vec(targets, predicted.shape(), device)?;
        let weights = Tensor::full(1. / rois.len().max(1) as f32, predicted.shape(), device)?;
        Ok((classes, ops::smooth_l1(&predicted, &targets, Some(&weights), 0.)?))
    }

    /// The detections of each image, by decreasing score, clipped to `shown` (the part of each input without padding).
    /// Logits and deltas are copied from the device in one transfer.
    pub(crate) fn detect(
        &self,
        output: &BoxHeadOutput,
        rois: &[Roi],
        shown: &[Xyxy<f32>],
        postprocess: Postprocess,
    ) -> Result<Vec<Vec<ScoredBox>>> {
        let probabilities = candle_nn::ops::softmax(&output.logits, 1)?;
        let both = Tensor::cat(&[&probabilities, &output.deltas], 1)?.detach(); // [R, K + 1 + 4·K]
        let width = 5 * self.count + 1;
        let values = both.flatten_all()?.to_vec1::<f32>()?;
        let mut candidates = vec![vec![]; shown.len()];
        for (roi, values) in rois.iter().zip(values.chunks_exact(width)) {
            let (scores, deltas) = values.split_at(self.count + 1);
            let classes = scores[..self.count].iter().enumerate();
            let likely = classes.filter(|(_, score)| **score > postprocess.score_threshold);
            for (label, &score) in likely {
                let deltas = &deltas[4 * label..][..4];
                let bounds = BoxCoder::ROI.decode(roi.bounds, [deltas[0], deltas[1], deltas[2], deltas[3]]);
                let bounds = clip(bounds, shown[roi.image]);
                if is_proper(bounds) && score.is_finite() {
                    candidates[roi.image].push(ScoredBox { bounds, label: label as u32, score });
                }
            }
        }
        candidates.into_iter().map(|boxes| after_nms(boxes, postprocess)).collect()
    }
}

/// The boxes with the highest scores after NMS within each class.
fn after_nms(candidates: Vec<ScoredBox>, postprocess: Postprocess) -> Result<Vec<ScoredBox>> {
    let Postprocess { nms_iou, max_detections, .. } = postprocess;
    let count = candidates.len();
    let boxes: Vec<f32> = candidates.iter().flat_map(|candidate| candidate.bounds).collect();
    let boxes = Tensor::from_vec(boxes, (count, 4), &Device::Cpu)?;
    let scores: Vec<f32> = candidates.iter().map(|candidate| candidate.score).collect();
    let scores = Tensor::from_vec(scores, count, &Device::Cpu)?;
    let labels: Vec<u32> = candidates.iter().map(|candidate| candidate.label).collect();
    let labels = Tensor::from_vec(labels, count, &Device::Cpu)?;
    let kept = ops::batched_nms(&boxes, &scores, &labels, nms_iou)?.to_vec1::<u32>()?;
    Ok(kept.into_iter().take(max_detections).map(|i| candidates[i as usize]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::Params;
    use candle_core::DType;

    /// detectron2's `c2_xavier_fill`, which is `kaiming_uniform_(a=1)`: uniform with a bound of √(3 / inputs).
    #[test]
    fn the_wide_layer_starts_within_its_bound() {
        let params = Params::new(0, &Device::Cpu);
        let config = BoxConfig { channels: 4, convs: 0, width: 64, norm: NormKind::Batch, classes: 2 };
        BoxHead::new(config, params.builder()).unwrap();
        let weight = params.get("box_head.1.weight").unwrap().var.flatten_all().unwrap();
        let values: Vec<f32> = weight.to_vec1().unwrap();
        let bound = (3f32 / (4. * 7. * 7.)).sqrt();
        let largest = values.iter().fold(0f32, |most, x| most.max(x.abs()));
        assert!(largest <= bound && largest > 0.99 * bound, "{largest}, bound {bound}");
        let variance = values.iter().map(|x| x * x).sum::<f32>() / values.len() as f32;
        assert!((variance / (bound * bound / 3.) - 1.).abs() < 0.05, "{variance}");
    }

    #[test]
    fn a_score_must_exceed_the_threshold() {
        let params = Params::new(0, &Device::Cpu);
        let config = BoxConfig { channels: 4, convs: 0, width: 8, norm: NormKind::Batch, classes: 1 };
        let head = BoxHead::new(config, params.builder()).unwrap();
        // A class and the background, equally likely.
        let output = BoxHeadOutput {
            logits: Tensor::zeros((1, 2), DType::F32, &Device::Cpu).unwrap(),
            deltas: Tensor::zeros((1, 4), DType::F32, &Device::Cpu).unwrap(),
        };
        let roi = Roi { image: 0, bounds: [1., 2., 5., 8.], object: None };
        let found = |score_threshold| {
            let rules = Postprocess { score_threshold, nms_iou: 0.5, max_detections: 10 };
            head.detect(&output, &[roi], &[[0., 0., 10., 10.]], rules).unwrap().remove(0)
        };
        assert_eq!(found(0.49), [ScoredBox { bounds: roi.bounds, label: 0, score: 0.5 }]);
        assert_eq!(found(0.5), []);
    }
}
