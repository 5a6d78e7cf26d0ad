//! What a region shows and where exactly (Fast R-CNN, arXiv:1504.08083): convolutions and one wide layer, then a class
//! and, for every class, four deltas. Background is the last class, as in detectron2; in torchvision it is the first.
//! Names are torchvision's (`roi_heads.box_head.*`, `roi_heads.box_predictor.*`).

use super::boxes::{Bounds, BoxCoder, clip, is_proper};
use super::roi::Roi;
use super::tower::Tower;
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
    /// Of the layer behind the convolutions.
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

/// What the head says of regions.
pub(super) struct BoxHeadOutput {
    /// [R, K + 1]
    pub logits: Tensor,
    /// [R, 4·K]
    pub deltas: Tensor,
}

/// When a box counts as found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Postprocess {
    /// Smallest probability of its class.
    pub score: f32,
    /// Overlap from which the worse of two boxes of a class is dropped.
    pub nms: f64,
    /// Boxes of an image.
    pub most: usize,
}

/// A box that was found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct FoundBox {
    pub bounds: Bounds,
    pub label: u32,
    pub score: f32,
}

impl BoxHead {
    pub fn new(config: BoxConfig, vb: VarBuilder) -> Result<Self> {
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
    pub fn forward(&self, x: &Tensor, pass: &mut Pass) -> Result<BoxHeadOutput> {
        let x = self.tower.forward(x, pass)?.flatten_from(1)?;
        let x = ops::relu(&self.wide.forward(&x)?)?; // [R, width]
        Ok(BoxHeadOutput { logits: self.classes.forward(&x)?, deltas: self.deltas.forward(&x)? })
    }

    /// (classes, boxes): cross-entropy over all regions, and L1 of the deltas of the right class of those that stand
    /// for objects, divided by all regions. `object_of` gives label and box of the object of a region.
    pub fn losses(
        &self,
        told: &BoxHeadOutput,
        rois: &[Roi],
        object_of: impl Fn(&Roi) -> Option<(u32, Bounds)>,
    ) -> Result<(Tensor, Tensor)> {
        let device = told.logits.device();
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
        let labels = Tensor::from_vec(labels, rois.len(), device)?;
        let classes = ops::cross_entropy(&told.logits, &labels, None, 0.)?;
        let deltas = told.deltas.reshape((rois.len() * self.count, 4))?;
        let found = ops::take_rows(&deltas, &rows)?;
        let targets = Tensor::from_vec(targets, found.shape(), device)?;
        let weights = Tensor::full(1. / rois.len().max(1) as f32, found.shape(), device)?;
        Ok((classes, ops::smooth_l1(&found, &targets, Some(&weights), 0.)?))
    }

    /// The boxes that the head finds in `rois`, by image, surest first; all are read from the device at once.
    pub fn found(
        &self,
        told: &BoxHeadOutput,
        rois: &[Roi],
        regions: &[Bounds],
        threshold: Postprocess,
    ) -> Result<Vec<Vec<FoundBox>>> {
        let probabilities = candle_nn::ops::softmax(&told.logits, 1)?;
        let both = Tensor::cat(&[&probabilities, &told.deltas], 1)?.detach(); // [R, K + 1 + 4·K]
        let width = 5 * self.count + 1;
        let values = both.flatten_all()?.to_vec1::<f32>()?;
        let mut candidates = vec![vec![]; regions.len()];
        for (roi, values) in rois.iter().zip(values.chunks_exact(width)) {
            let (scores, deltas) = values.split_at(self.count + 1);
            let sure = scores[..self.count].iter().enumerate().filter(|(_, score)| **score > threshold.score);
            for (label, &score) in sure {
                let deltas = &deltas[4 * label..][..4];
                let bounds = BoxCoder::ROI.decode(roi.bounds, [deltas[0], deltas[1], deltas[2], deltas[3]]);
                let bounds = clip(bounds, regions[roi.image]);
                if is_proper(bounds) && score.is_finite() {
                    candidates[roi.image].push(FoundBox { bounds, label: label as u32, score });
                }
            }
        }
        candidates.into_iter().map(|found| best(found, threshold)).collect()
    }
}

/// The surest of `found` after NMS of each class.
fn best(found: Vec<FoundBox>, threshold: Postprocess) -> Result<Vec<FoundBox>> {
    let count = found.len();
    let boxes: Vec<f32> = found.iter().flat_map(|found| found.bounds).collect();
    let boxes = Tensor::from_vec(boxes, (count, 4), &Device::Cpu)?;
    let scores = Tensor::from_vec(found.iter().map(|found| found.score).collect(), count, &Device::Cpu)?;
    let labels = Tensor::from_vec(found.iter().map(|found| found.label).collect(), count, &Device::Cpu)?;
    let kept = ops::batched_nms(&boxes, &scores, &labels, threshold.nms)?.to_vec1::<u32>()?;
    Ok(kept.into_iter().take(threshold.most).map(|i| found[i as usize]).collect())
}
