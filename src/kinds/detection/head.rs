//! [`DetectionHead`]: Mask R-CNN on a plain ViT, made of pyramid, proposals, regions, box head and mask head.
//!
//! Follows the recipes of Li et al. (arXiv:2111.11429) and ViTDet (arXiv:2203.16527); values that both share are those of
//! detectron2. Padding counts as background for anchors; proposals and boxes are clipped to the image.

use super::box_head::{self, BoxConfig, BoxHead, Postprocess, ScoredBox};
use super::boxes::is_proper;
use super::config::{DetectionHeadConfig, PyramidKind};
use super::mask_head::{self, MASK, MaskHead};
use super::paste::paste;
use super::roi::{self, Pooler, Roi};
use super::rpn::{Rpn, RpnConfig};
use super::sampler::Sampler;
use super::target::DetectionTarget;
use crate::config::quarters;
use crate::data::{Batch, SourceTransform, Xyxy};
use crate::metrics::coco::Detection;
use crate::models::pyramid::{Fpn, LEVELS, Pyramid, ScalePyramid, SimplePyramid};
use crate::models::{BackboneSpec, Features};
use crate::nn::{Losses, Pass};
use crate::ops;
use crate::rng::Rng;
use crate::task::Head;
use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use rayon::prelude::*;

/// Predicts boxes and masks from the features of a backbone.
pub struct DetectionHead {
    taps: Vec<usize>,
    pub(super) pyramid: Neck,
    pub(super) rpn: Rpn,
    pub(super) pooler: Pooler,
    pub(super) boxes: BoxHead,
    pub(super) masks: Option<MaskHead>,
    pub(super) sampler: Sampler,
    postprocess: Postprocess,
}

/// Makes four maps with the same number of channels from the maps of a backbone.
pub(super) enum Neck {
    Taps { scales: ScalePyramid, fpn: Fpn },
    Last(SimplePyramid),
}

impl DetectionHead {
    pub(super) fn new(
        backbone: &BackboneSpec,
        config: &DetectionHeadConfig,
        (classes, masks): (usize, bool),
        postprocess: Postprocess,
        vb: VarBuilder,
    ) -> Result<Self> {
        let BackboneSpec { width, depth, patch } = *backbone;
        let channels = config.channels;
        let (taps, pyramid) = match config.pyramid {
            PyramidKind::Taps => {
                let taps = config.taps.clone().unwrap_or_else(|| quarters(depth));
                if taps.len() != LEVELS {
                    candle_core::bail!(
                        "detection: {} taps {taps:?} of {depth} blocks, expected {LEVELS}; set transfer.head.taps",
                        taps.len()
                    );
                }
                let scales = ScalePyramid::new(width, config.pyramid_norm, vb.pp("pyramid"))?;
                let fpn = Fpn::new(&[width; LEVELS], channels, config.fpn_norm, vb.pp("fpn"))?;
                (taps, Neck::Taps { scales, fpn })
            }
            PyramidKind::Simple => {
                let simple = SimplePyramid::new(width, channels, config.fpn_norm, vb.pp("pyramid"))?;
                (vec![depth - 1], Neck::Last(simple))
            }
        };
        // Strides of ¼, ½, 1 and 2 patches, and one more level for proposals.
        let strides: Vec<f32> = (0..=LEVELS).map(|i| patch as f32 / 4. * (1 << i) as f32).collect();
        let sizes = config.anchor_sizes.clone();
        let sizes = sizes.unwrap_or_else(|| strides.iter().map(|stride| 8. * stride).collect());
        let rpn = RpnConfig {
            channels,
            convs: config.rpn_convs,
            ratios: config.anchor_ratios.clone(),
            sizes,
            strides: strides.clone(),
            sampler: Sampler { count: config.anchors, positive_fraction: 0.5 },
            before_nms: [config.proposals_before_nms, config.proposals_before_nms_test],
            after_nms: config.proposals,
        };
        let regions = vb.pp("roi_heads");
        let norm = config.head_norm;
        let boxes = BoxConfig { channels, convs: config.box_convs, width: config.box_width, norm, classes };
        let mask_head = || MaskHead::new(channels, config.mask_convs, norm, classes, regions.clone());
        Ok(Self {
            taps,
            pyramid,
            rpn: Rpn::new(rpn, vb.pp("rpn"))?,
            pooler: Pooler { strides: strides[..LEVELS].to_vec(), canonical: 14. * patch as f32 },
            boxes: BoxHead::new(boxes, regions.clone())?,
            masks: masks.then(mask_head).transpose()?,
            sampler: Sampler { count: config.regions, positive_fraction: config.regions_positive },
            postprocess,
        })
    }

    /// Five maps with the same number of channels, finest first; the last is used only for proposals.
    pub(super) fn levels(&self, features: &Features, pass: &mut Pass) -> Result<Pyramid> {
        let mut levels = match &self.pyramid {
            Neck::Taps { scales, fpn } => {
                let maps = (0..LEVELS).map(|tap| features.map(tap)).collect::<Result<Vec<_>>>()?;
                fpn.forward(&scales.forward(&maps, pass)?, pass)?
            }
            Neck::Last(simple) => simple.forward(&features.map(0)?, pass)?,
        };
        levels.push(ops::subsample(&levels[LEVELS - 1], 2)?);
        Ok(levels)
    }

    /// Samples the regions for the loss. Gradients do not flow to the proposals.
    fn regions(&self, proposals: Vec<Vec<Xyxy<f32>>>, objects: &[Objects], rng: &mut Rng) -> Vec<Roi> {
        let images = proposals.into_iter().zip(objects).enumerate();
        let drawn = images.flat_map(|(image, (proposals, objects))| {
            roi::sample(image, proposals, &objects.bounds, self.sampler, rng)
        });
        let mut rois: Vec<Roi> = drawn.collect();
        self.pooler.sort(&mut rois);
        rois
    }

    /// Mask loss of the regions that match an object with a mask.
    fn mask_loss(
        &self,
        head: &MaskHead,
        levels: &[Tensor],
        rois: &[Roi],
        objects: &[Objects],
        pass: &mut Pass,
    ) -> Result<Tensor> {
        let target = |roi: &Roi| {
            let (label, _, instance) = objects[roi.image].of(roi)?;
            let mask = objects[roi.image].target.mask_in(instance, roi.bounds, MASK)?;
            Some((*roi, label, mask))
        };
        let found: Vec<(Roi, u32, Vec<f32>)> = rois.par_iter().filter_map(target).collect();
        let of_objects: Vec<Roi> = found.iter().map(|(roi, ..)| *roi).collect();
        let labels: Vec<u32> = found.iter().map(|(_, label, _)| *label).collect();
        let x = self.pooler.pool(&levels[..LEVELS], &of_objects, mask_head::FEATURES)?;
        let logits = head.forward(&x, &labels, pass)?;
        head.loss(&logits, found.into_iter().flat_map(|(.., mask)| mask).collect())
    }

    /// Masks of the boxes, in their order, as probabilities `[28·28]`; `None` without a mask head. All are copied from the
    /// device in one transfer.
    fn mask_probabilities(
        &self,
        levels: &[Tensor],
        found: &[Vec<ScoredBox>],
    ) -> Result<Option<Vec<Vec<f32>>>> {
        let Some(head) = &self.masks else { return Ok(None) };
        let places =
            found.iter().enumerate().flat_map(|(image, found)| found.iter().map(move |f| (image, f)));
        // Sort by level, and restore the order afterwards.
        let mut order: Vec<(usize, Roi, u32)> = places
            .enumerate()
            .map(|(i, (image, f))| (i, Roi { image, bounds: f.bounds, object: None }, f.label))
            .collect();
        order.sort_by_key(|(_, roi, _)| self.pooler.level(roi.bounds));
        let rois: Vec<Roi> = order.iter().map(|(_, roi, _)| *roi).collect();
        let labels: Vec<u32> = order.iter().map(|(.., label)| *label).collect();
        let mut masks = vec![vec![]; rois.len()];
        if rois.is_empty() {
            return Ok(Some(masks));
        }
        let x = self.pooler.pool(&levels[..LEVELS], &rois, mask_head::FEATURES)?;
        let logits = head.forward(&x, &labels, &mut Pass::Eval)?.detach();
        let values = candle_nn::ops::sigmoid(&logits)?.flatten_all()?.to_vec1::<f32>()?;
        for ((i, ..), mask) in order.iter().zip(values.chunks_exact(MASK * MASK)) {
            masks[*i] = mask.to_vec();
        }
        Ok(Some(masks))
    }
}

/// The objects of an image that are used in training.
struct Objects<'a> {
    target: &'a DetectionTarget,
    /// Indices of the instances that are not crowds.
    instances: Vec<usize>,
    bounds: Vec<Xyxy<f32>>,
}

impl<'a> Objects<'a> {
    fn new(target: &'a DetectionTarget) -> Self {
        let instances = target.instances().iter().enumerate();
        let single = instances.filter(|(_, instance)| !instance.crowd && is_proper(instance.bbox));
        let (instances, bounds) = single.map(|(i, instance)| (i, instance.bbox)).unzip();
        Self { target, instances, bounds }
    }

    /// Label and box of the object that a region matches, and the index of its instance.
    fn of(&self, roi: &Roi) -> Option<(u32, Xyxy<f32>, usize)> {
        let object = roi.object? as usize;
        let instance = self.instances[object];
        Some((self.target.instances()[instance].label, self.bounds[object], instance))
    }
}

/// The part of an input without padding.
fn shown(source_transform: &SourceTransform) -> Xyxy<f32> {
    source_transform.shown().map(|v| v as f32)
}

/// Converts a box to source pixels and clips it to the source; `None` if nothing is left.
fn in_source(bbox: Xyxy<f32>, source_transform: &SourceTransform) -> Option<Xyxy<f32>> {
    let bbox = source_transform.in_source(bbox.map(f64::from))?.map(|v| v as f32);
    is_proper(bbox).then_some(bbox)
}

impl Head for DetectionHead {
    type Target = DetectionTarget;
    type Prediction = Vec<Detection>;

    fn taps(&self) -> &[usize] {
        &self.taps
    }

    fn loss(&self, features: &Features, batch: &Batch<DetectionTarget>, pass: &mut Pass) -> Result<Losses> {
        let mut rng = match pass {
            Pass::Train { rng, .. } => rng.fork(),
            Pass::Eval => Rng::new(0, "detection", &[]),
        };
        let objects: Vec<Objects> = batch.targets.iter().map(Objects::new).collect();
        let bounds: Vec<Vec<Xyxy<f32>>> = objects.iter().map(|objects| objects.bounds.clone()).collect();
        let shown: Vec<Xyxy<f32>> = batch.source_transforms.iter().map(shown).collect();
        let levels = self.levels(features, pass)?;
        let rpn_output = self.rpn.forward(&levels)?;
        let matches = Rpn::matches(&rpn_output, &bounds);
        let sampled: Vec<_> = matches.iter().map(|matches| self.rpn.sample(matches, &mut rng)).collect();
        let (rpn_cls, rpn_box) = self.rpn.losses(&rpn_output, &bounds, &matches, &sampled)?;

        let rois = self.regions(self.rpn.proposals(&rpn_output, &shown, true)?, &objects, &mut rng);
        let x = self.pooler.pool(&levels[..LEVELS], &rois, box_head::SIDE)?;
        let boxes = self.boxes.forward(&x, pass)?;
        let object_of = |roi: &Roi| objects[roi.image].of(roi).map(|(label, bounds, _)| (label, bounds));
        let (cls, bbox) = self.boxes.losses(&boxes, &rois, object_of)?;
        let losses = Losses::of("loss_rpn_cls", rpn_cls)
            .with("loss_rpn_box", rpn_box)
            .with("loss_cls", cls)
            .with("loss_box", bbox);
        Ok(match &self.masks {
            Some(head) => losses.with("loss_mask", self.mask_loss(head, &levels, &rois, &objects, pass)?),
            None => losses,
        })
    }

    fn predict(
        &self,
        features: &Features,
        source_transforms: &[SourceTransform],
    ) -> Result<Vec<Vec<Detection>>> {
        let shown: Vec<Xyxy<f32>> = source_transforms.iter().map(shown).collect();
        let levels = self.levels(features, &mut Pass::Eval)?;
        let rpn_output = self.rpn.forward(&levels)?;
        let proposals = self.rpn.proposals(&rpn_output, &shown, false)?;
        let rois = proposals.into_iter().enumerate().flat_map(|(image, boxes)| {
            boxes.into_iter().map(move |bounds| Roi { image, bounds, object: None })
        });
        let mut rois: Vec<Roi> = rois.collect();
        self.pooler.sort(&mut rois);
        if rois.is_empty() {
            return Ok(vec![vec![]; source_transforms.len()]);
        }
        let x = self.pooler.pool(&levels[..LEVELS], &rois, box_head::SIDE)?;
        let boxes = self.boxes.forward(&x, &mut Pass::Eval)?;
        let found = self.boxes.detect(&boxes, &rois, &shown, self.postprocess)?;
        let masks = self.mask_probabilities(&levels, &found)?;
        let mut masks = masks.map(Vec::into_iter);
        let each = |(found, source_transform): (&Vec<ScoredBox>, &SourceTransform)| {
            let with_mask = |f: &ScoredBox| (*f, masks.as_mut().and_then(Iterator::next));
            let found: Vec<_> = found.iter().map(with_mask).collect();
            let detection = |(found, mask): (ScoredBox, Option<Vec<f32>>)| {
                let ScoredBox { bounds, label, score } = found;
                let mask = mask.map(|mask| paste(&mask, bounds, source_transform));
                Some(Detection {
                    label,
                    score,
                    bbox: in_source(bounds, source_transform)?,
                    mask,
                    written: None,
                })
            };
            found.into_par_iter().filter_map(detection).collect()
        };
        Ok(found.iter().zip(source_transforms).map(each).collect())
    }
}
