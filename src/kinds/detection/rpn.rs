//! Region proposal network (arXiv:1506.01497): at every place of every level an objectness and four deltas an anchor,
//! the loss of both, and the proposals. Two convolutions in Li et al. and ViTDet. Names are torchvision's (`rpn.head.*`).

use super::anchors::{Anchors, Level};
use super::boxes::{Bounds, BoxCoder, clip, is_proper};
use super::matcher::{Match, Matcher};
use super::sampler::{Sampled, Sampler};
use crate::nn::{Conv2d, ConvConfig, ConvInit};
use crate::ops;
use candle_core::{Device, Result, Tensor};
use candle_nn::VarBuilder;
use std::ops::Range;

/// Overlap from which the worse of two proposals of a level is dropped.
const NMS: f64 = 0.7;
/// Values an anchor: objectness, four deltas.
const VALUES: usize = 5;

/// Numbers of the network.
#[derive(Clone, Debug)]
pub(super) struct RpnConfig {
    pub channels: usize,
    pub convs: usize,
    pub ratios: Vec<f32>,
    /// Square root of the area of the anchors of each level, in input pixels.
    pub sizes: Vec<f32>,
    /// Of each level, in input pixels.
    pub strides: Vec<f32>,
    pub sampler: Sampler,
    /// Proposals of a level that go into NMS, in training and in evaluation.
    pub before_nms: [usize; 2],
    /// Proposals of an image.
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

/// What the network says of every anchor.
pub(super) struct RpnOutput {
    /// Objectness and deltas, in the order of the anchors. [B·anchors, 5]
    pub values: Tensor,
    pub anchors: Anchors,
    pub images: usize,
}

impl Rpn {
    pub fn new(config: RpnConfig, vb: VarBuilder) -> Result<Self> {
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

    /// `levels` [B, C, h, w], finest first.
    pub fn forward(&self, levels: &[Tensor]) -> Result<RpnOutput> {
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

    /// Draws the anchors of an image that learn.
    pub fn sample(&self, matches: &[Match], rng: &mut crate::rng::Rng) -> Sampled {
        self.config.sampler.draw(matches, rng)
    }

    /// (objectness, boxes): logistic loss of the sampled anchors and L1 of the deltas of those that stand for objects,
    /// both divided by the samples asked for, in all images. `objects` are the boxes of each image.
    pub fn losses(
        &self,
        told: &RpnOutput,
        objects: &[Vec<Bounds>],
        matches: &[Vec<Match>],
        sampled: &[Sampled],
    ) -> Result<(Tensor, Tensor)> {
        let (anchors, share) = (&told.anchors.boxes, 1. / (self.config.sampler.count * told.images) as f32);
        let (mut rows, mut labels) = (vec![], vec![]);
        let (mut of_objects, mut deltas) = (vec![], vec![]);
        for (image, Sampled { positive, negative }) in sampled.iter().enumerate() {
            let row = |i: usize| (image * anchors.len() + i) as u32;
            for &i in positive {
                if let Match::Object(object) = matches[image][i] {
                    of_objects.push(row(i));
                    deltas.extend(BoxCoder::RPN.encode(anchors[i], objects[image][object as usize]));
                }
            }
            rows.extend(positive.iter().chain(negative).map(|&i| row(i)));
            labels.extend(std::iter::repeat_n(1f32, positive.len()));
            labels.extend(std::iter::repeat_n(0f32, negative.len()));
        }
        let device = told.values.device();
        let weighted = |values: Tensor, targets: Vec<f32>| -> Result<[Tensor; 3]> {
            let targets = Tensor::from_vec(targets, values.shape(), device)?;
            let weights = Tensor::full(share, values.shape(), device)?;
            Ok([values, targets, weights])
        };
        let logits = ops::take_rows(&told.values, &rows)?.narrow(1, 0, 1)?.contiguous()?;
        let [logits, labels, weights] = weighted(logits, labels)?;
        let objectness = ops::binary_cross_entropy_with_logits(&logits, &labels, Some(&weights))?;
        let found = ops::take_rows(&told.values, &of_objects)?.narrow(1, 1, 4)?.contiguous()?;
        let [found, deltas, weights] = weighted(found, deltas)?;
        Ok((objectness, ops::smooth_l1(&found, &deltas, Some(&weights), 0.)?))
    }

    /// Matches of the anchors of each image.
    pub fn matches(told: &RpnOutput, objects: &[Vec<Bounds>]) -> Vec<Vec<Match>> {
        objects.iter().map(|objects| Matcher::RPN.run(&told.anchors.boxes, objects)).collect()
    }

    /// The surest boxes of each image, within `regions` (the part of each input that shows its image). Boxes that are
    /// not finite or empty are left out.
    pub fn proposals(&self, told: &RpnOutput, regions: &[Bounds], train: bool) -> Result<Vec<Vec<Bounds>>> {
        let values = told.values.detach().flatten_all()?.to_vec1::<f32>()?;
        let most = self.config.before_nms[usize::from(!train)];
        let count = told.anchors.boxes.len();
        let image = |(i, region): (usize, &Bounds)| {
            let values = &values[i * count * VALUES..][..count * VALUES];
            let mut found = Found::default();
            for (level, range) in (0..).zip(told.anchors.ranges()) {
                found.add(level, surest(values, range, most), values, &told.anchors, *region);
            }
            found.kept(self.config.after_nms)
        };
        regions.iter().enumerate().map(image).collect()
    }
}

/// Numbers of the `most` anchors of a level with the largest objectness, largest first; equal ones in order.
fn surest(values: &[f32], range: Range<usize>, most: usize) -> Vec<usize> {
    let score = |i: &usize| values[i * VALUES];
    let mut order: Vec<usize> = range.filter(|i| score(i).is_finite()).collect();
    let larger = |a: &usize, b: &usize| score(b).total_cmp(&score(a)).then(a.cmp(b));
    if order.len() > most && most > 0 {
        order.select_nth_unstable_by(most - 1, larger);
    }
    order.truncate(most);
    order.sort_unstable_by(larger);
    order
}

/// Candidates of an image.
#[derive(Default)]
struct Found {
    boxes: Vec<Bounds>,
    scores: Vec<f32>,
    levels: Vec<u32>,
}

impl Found {
    fn add(&mut self, level: u32, order: Vec<usize>, values: &[f32], anchors: &Anchors, region: Bounds) {
        for i in order {
            let told = &values[i * VALUES..][..VALUES];
            let bounds = BoxCoder::RPN.decode(anchors.boxes[i], [told[1], told[2], told[3], told[4]]);
            let bounds = clip(bounds, region);
            if is_proper(bounds) {
                self.boxes.push(bounds);
                self.scores.push(told[0]);
                self.levels.push(level);
            }
        }
    }

    /// The surest after NMS of each level.
    fn kept(self, most: usize) -> Result<Vec<Bounds>> {
        let count = self.boxes.len();
        let boxes = Tensor::from_vec(self.boxes.concat(), (count, 4), &Device::Cpu)?;
        let scores = Tensor::from_vec(self.scores, count, &Device::Cpu)?;
        let levels = Tensor::from_vec(self.levels, count, &Device::Cpu)?;
        let kept = ops::batched_nms(&boxes, &scores, &levels, NMS)?.to_vec1::<u32>()?;
        Ok(kept.into_iter().take(most).map(|i| self.boxes[i as usize]).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_surest_come_first_and_what_is_no_number_never() {
        let scores = [0.5, f32::NAN, 3., 0.5, f32::INFINITY, -1., 0.5];
        let values: Vec<f32> = scores.iter().flat_map(|&s| [s, 0., 0., 0., 0.]).collect();
        assert_eq!(surest(&values, 0..7, 3), [2, 0, 3]);
        assert_eq!(surest(&values, 5..7, 9), [6, 5]);
        assert!(surest(&values, 0..7, 0).is_empty() && surest(&values, 1..2, 3).is_empty());
    }
}
