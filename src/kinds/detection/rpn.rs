//! Region proposal network (arXiv:1506.01497): objectness and four deltas for each anchor, their losses, and the
//! proposals. Two convolutions in Li et al. and ViTDet. Names are torchvision's (`rpn.head.*`).

use super::anchors::{Anchors, Level};
use super::boxes::{BoxCoder, clip, is_proper};
use super::matcher::{Match, Matcher};
use super::sampler::{Sampled, Sampler};
use crate::data::Xyxy;
use crate::nn::{Conv2d, ConvConfig, ConvInit};
use crate::ops;
use candle_core::{Device, Result, Tensor};
use candle_nn::VarBuilder;
use rayon::prelude::*;
use std::ops::Range;

/// IoU above which NMS drops the proposal with the lower objectness of two proposals of a level.
const NMS_IOU: f64 = 0.7;
/// Number of values per anchor: objectness (a logit) and four deltas.
const VALUES: usize = 5;

/// Sizes and training parameters of the network.
#[derive(Clone, Debug)]
pub(super) struct RpnConfig {
    pub channels: usize,
    pub convs: usize,
    pub ratios: Vec<f32>,
    /// Square root of the area of the anchors of each level, in input pixels.
    pub sizes: Vec<f32>,
    /// Stride of each level in input pixels.
    pub strides: Vec<f32>,
    pub sampler: Sampler,
    /// Number of proposals per level before NMS, in training and in evaluation.
    pub before_nms: [usize; 2],
    /// Number of proposals per image.
    pub after_nms: usize,
}

/// The network.
#[derive(Clone, Debug)]
pub(super) struct Rpn {
    convs: Vec<Conv2d>,
    logits: Conv2d,
    deltas: Conv2d,
    pub config: RpnConfig,
}

/// Objectness and deltas of every anchor.
pub(super) struct RpnOutput {
    /// Values in the order of the anchors. [B·anchors, 5]
    pub values: Tensor,
    pub anchors: Anchors,
    pub images: usize,
}

impl Rpn {
    pub(crate) fn new(config: RpnConfig, vb: VarBuilder) -> Result<Self> {
        let (width, init, shapes) = (config.channels, ConvInit::Normal(0.01), config.ratios.len());
        let vb = vb.pp("head");
        let conv = |i| Conv2d::new(width, width, ConvConfig::same(3, init), vb.pp(format!("conv.{i}.0")));
        Ok(Self {
            convs: (0..config.convs).map(conv).collect::<Result<_>>()?,
            logits: Conv2d::new(width, shapes, ConvConfig::same(1, init), vb.pp("cls_logits"))?,
            deltas: Conv2d::new(width, 4 * shapes, ConvConfig::same(1, init), vb.pp("bbox_pred"))?,
            config,
        })
    }

    /// Applies the network to `levels` [B, C, h, w], finest first.
    pub(crate) fn forward(&self, levels: &[Tensor]) -> Result<RpnOutput> {
        let Self { config, .. } = self;
        let (mut values, mut places) = (vec![], vec![]);
        for ((x, &stride), &size) in levels.iter().zip(&config.strides).zip(&config.sizes) {
            let (b, _, h, w) = x.dims4()?;
            let mut x = x.clone();
            for conv in &self.convs {
                x = ops::relu(&conv.forward(&x)?)?;
            }
            let shapes = config.ratios.len();
            let logits = self.logits.forward(&x)?.unsqueeze(2)?; // [B, A, 1, h, w]
            let deltas = self.deltas.forward(&x)?.reshape((b, shapes, 4, h, w))?;
            let both = Tensor::cat(&[logits, deltas], 2)?.permute((0, 3, 4, 1, 2))?; // [B, h, w, A, 5]
            values.push(both.reshape((b, h * w * shapes, VALUES))?);
            places.push(Level { grid: (h, w), stride, size });
        }
        let values = Tensor::cat(&values, 1)?; // [B, anchors, 5]
        let images = values.dim(0)?;
        Ok(RpnOutput {
            values: values.flatten_to(1)?,
            anchors: Anchors::new(&places, &config.ratios),
            images,
        })
    }

    /// Samples the anchors of an image for the loss.
    pub(crate) fn sample(&self, matches: &[Match], rng: &mut crate::rng::Rng) -> Sampled {
        self.config.sampler.draw(matches, rng)
    }

    /// The losses (objectness, boxes): binary cross-entropy of the sampled anchors and the L1 loss of the deltas of positive
    /// anchors, both divided by the nominal number of samples in all images. `objects` are the boxes of each image.
    pub(crate) fn losses(
        &self,
        output: &RpnOutput,
        objects: &[Vec<Xyxy<f32>>],
        matches: &[Vec<Match>],
        sampled: &[Sampled],
    ) -> Result<(Tensor, Tensor)> {
        let (anchors, share) =
            (&output.anchors.boxes, 1. / (self.config.sampler.count * output.images) as f32);
        let (mut rows, mut labels) = (vec![], vec![]);
        let (mut positives, mut deltas) = (vec![], vec![]);
        for (image, Sampled { positive, negative }) in sampled.iter().enumerate() {
            let row = |i: usize| (image * anchors.len() + i) as u32;
            for &i in positive {
                if let Match::Object(object) = matches[image][i] {
                    positives.push(row(i));
                    deltas.extend(BoxCoder::RPN.encode(anchors[i], objects[image][object as usize]));
                }
            }
            rows.extend(positive.iter().chain(negative).map(|&i| row(i)));
            labels.extend(std::iter::repeat_n(1f32, positive.len()));
            labels.extend(std::iter::repeat_n(0f32, negative.len()));
        }
        let device = output.values.device();
        let weighted = |values: Tensor, targets: Vec<f32>| -> Result<[Tensor; 3]> {
            let targets = Tensor::from_vec(targets, values.shape(), device)?;
            let weights = Tensor::full(share, values.shape(), device)?;
            Ok([values, targets, weights])
        };
        let logits = ops::index_select(&output.values, &rows)?.narrow(1, 0, 1)?.contiguous()?;
        let [logits, labels, weights] = weighted(logits, labels)?;
        let objectness = ops::binary_cross_entropy_with_logits(&logits, &labels, Some(&weights))?;
        let predicted = ops::index_select(&output.values, &positives)?.narrow(1, 1, 4)?.contiguous()?;
        let [predicted, deltas, weights] = weighted(predicted, deltas)?;
        Ok((objectness, ops::smooth_l1(&predicted, &deltas, Some(&weights), 0.)?))
    }

    /// Matches of the anchors of each image.
    pub(crate) fn matches(output: &RpnOutput, objects: &[Vec<Xyxy<f32>>]) -> Vec<Vec<Match>> {
        objects.par_iter().map(|objects| Matcher::RPN.run(&output.anchors.boxes, objects)).collect()
    }

    /// The proposals of each image, by decreasing objectness, clipped to `shown` (the part of each input without padding).
    /// Empty and non-finite boxes are dropped.
    pub(crate) fn proposals(
        &self,
        output: &RpnOutput,
        shown: &[Xyxy<f32>],
        train: bool,
    ) -> Result<Vec<Vec<Xyxy<f32>>>> {
        let values = output.values.detach().flatten_all()?.to_vec1::<f32>()?;
        let k = self.config.before_nms[usize::from(!train)];
        let count = output.anchors.boxes.len();
        let image = |(i, shown): (usize, &Xyxy<f32>)| {
            let values = &values[i * count * VALUES..][..count * VALUES];
            let mut proposals = Proposals::default();
            for (level, range) in (0..).zip(output.anchors.ranges()) {
                proposals.add(level, top_k(values, range, k), values, &output.anchors, *shown);
            }
            proposals.after_nms(self.config.after_nms)
        };
        // Host work between two halves of a step, so that images are worked on in parallel.
        shown.par_iter().enumerate().map(image).collect()
    }
}

/// Indices of the `k` anchors of `range` with the largest objectness, by decreasing objectness; ties keep their order.
fn top_k(values: &[f32], range: Range<usize>, k: usize) -> Vec<usize> {
    let score = |i: &usize| values[i * VALUES];
    let mut order: Vec<usize> = range.filter(|i| score(i).is_finite()).collect();
    let larger = |a: &usize, b: &usize| score(b).total_cmp(&score(a)).then(a.cmp(b));
    if order.len() > k && k > 0 {
        order.select_nth_unstable_by(k - 1, larger);
    }
    order.truncate(k);
    order.sort_unstable_by(larger);
    order
}

/// Proposals of one image before NMS.
#[derive(Default)]
struct Proposals {
    boxes: Vec<Xyxy<f32>>,
    scores: Vec<f32>,
    levels: Vec<u32>,
}

impl Proposals {
    /// Adds the proposals for the anchors `indices` of a level, clipped to `shown`.
    fn add(&mut self, level: u32, indices: Vec<usize>, values: &[f32], anchors: &Anchors, shown: Xyxy<f32>) {
        for i in indices {
            let values = &values[i * VALUES..][..VALUES];
            let bounds = BoxCoder::RPN.decode(anchors.boxes[i], [values[1], values[2], values[3], values[4]]);
            let bounds = clip(bounds, shown);
            if is_proper(bounds) {
                self.boxes.push(bounds);
                self.scores.push(values[0]);
                self.levels.push(level);
            }
        }
    }

    /// The `count` proposals with the highest objectness after NMS within each level.
    fn after_nms(self, count: usize) -> Result<Vec<Xyxy<f32>>> {
        let n = self.boxes.len();
        let boxes = Tensor::from_vec(self.boxes.concat(), (n, 4), &Device::Cpu)?;
        let scores = Tensor::from_vec(self.scores, n, &Device::Cpu)?;
        let levels = Tensor::from_vec(self.levels, n, &Device::Cpu)?;
        let kept = ops::batched_nms(&boxes, &scores, &levels, NMS_IOU)?.to_vec1::<u32>()?;
        Ok(kept.into_iter().take(count).map(|i| self.boxes[i as usize]).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anchors_of_the_largest_objectness_come_first_and_those_that_are_not_finite_never() {
        let scores = [0.5, f32::NAN, 3., 0.5, f32::INFINITY, -1., 0.5];
        let values: Vec<f32> = scores.iter().flat_map(|&s| [s, 0., 0., 0., 0.]).collect();
        assert_eq!(top_k(&values, 0..7, 3), [2, 0, 3]);
        assert_eq!(top_k(&values, 5..7, 9), [6, 5]);
        assert_eq!((top_k(&values, 0..7, 1), top_k(&values, 3..7, 1)), (vec![2], vec![3]));
        assert!(top_k(&values, 0..7, 0).is_empty() && top_k(&values, 1..2, 3).is_empty());
    }
}
