//! The detector against torchvision's parts (`scripts/golden/detection.py` says what is changed there), stage by stage
//! and as a whole. 1e-4 of the largest value is what sums in f32 lose over the length of the model.

use super::boxes::BoxCoder;
use super::head::{DetectionHead, Neck};
use super::mask_head::MASK;
use super::matcher::Match;
use super::paste::paste;
use super::roi::{self, Roi};
use super::rpn::Rpn;
use super::sampler::Sampler;
use super::{DetectionHeadConfig, Postprocess};
use crate::config::quarters;
use crate::data::{Geometry, SourceTransform, Xyxy};
use crate::models::{BackboneSpec, Features};
use crate::nn::NormKind;
use crate::nn::{Params, Pass};
use crate::rng::Rng;
use candle_core::{Device, Result, Tensor};
use std::collections::HashMap;

const TOLERANCE: f64 = 1e-4;
const EVERYTHING: usize = 1_000_000;
const POSTPROCESS: Postprocess = Postprocess { score_threshold: 0.05, nms_iou: 0.5, max_detections: 20 };

struct Golden(HashMap<String, Tensor>);

impl Golden {
    fn load() -> Result<Self> {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/detection.safetensors");
        candle_core::safetensors::load(path, &Device::Cpu).map(Self)
    }

    fn get(&self, name: &str) -> &Tensor {
        self.0.get(name).unwrap_or_else(|| panic!("no `{name}`"))
    }

    fn boxes(&self, name: &str) -> Vec<Xyxy<f32>> {
        let rows = self.get(name).to_vec2::<f32>().unwrap();
        rows.iter().map(|row| [row[0], row[1], row[2], row[3]]).collect()
    }

    /// The detector with the weights of the file.
    fn head(&self, params: &Params) -> Result<DetectionHead> {
        let config = DetectionHeadConfig {
            channels: 8,
            anchor_sizes: Some(vec![6., 12., 24., 40., 60.]),
            anchors: EVERYTHING,
            proposals_before_nms: 300,
            proposals_before_nms_test: 30,
            proposals: 50,
            regions: EVERYTHING,
            regions_positive: 1.,
            box_convs: 2,
            box_width: 16,
            mask_convs: 2,
            pyramid_norm: NormKind::Group,
            ..DetectionHeadConfig::default()
        };
        let spec = BackboneSpec { width: 8, depth: 4, patch: 8 };
        let head = DetectionHead::new(&spec, &config, (3, true), POSTPROCESS, params.builder())?;
        for p in params.all() {
            p.var.set(self.get(&format!("weights.{}", p.name)))?;
        }
        Ok(head)
    }

    fn features(&self) -> Features {
        let taps = (0..4).map(|i| self.get(&format!("taps.{i}")).clone()).collect();
        Features { taps, cls: None, grid: (8, 8) }
    }

    fn objects(&self, image: usize) -> (Vec<Xyxy<f32>>, Vec<u32>) {
        let labels = self.get(&format!("labels.{image}")).to_vec1::<f32>().unwrap();
        (self.boxes(&format!("objects.{image}")), labels.into_iter().map(|label| label as u32).collect())
    }
}

/// Largest difference over the largest value.
fn near(what: &str, found: &Tensor, expected: &Tensor) {
    assert_eq!(found.dims(), expected.dims(), "{what}");
    let values = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    near_values(what, &values(found), &values(expected));
}

fn near_values(what: &str, found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(0f64, |m, v| m.max(f64::from(v.abs())));
    for (i, (a, b)) in found.iter().zip(expected).enumerate() {
        let error = f64::from((a - b).abs()) / largest.max(1e-3);
        assert!(error < TOLERANCE, "{what}, value {i}: {a}, expected {b} (largest {largest})");
    }
}

/// The second input shows an image of 48×56 pixels, the rest is padding.
fn source_transforms() -> [SourceTransform; 2] {
    let padded = Geometry::crop_resize((48, 56), 0., 0., 64., 64., (64, 64));
    [SourceTransform::new((64, 64)), SourceTransform { source: (48, 56), geometry: padded }]
}

const REGIONS: [Xyxy<f32>; 2] = [[0., 0., 64., 64.], [0., 0., 56., 48.]];

#[test]
fn detections_equal_torchvision() -> Result<()> {
    let golden = Golden::load()?;
    let head = golden.head(&Params::new(0, &Device::Cpu))?;
    assert_eq!(quarters(4), [0, 1, 2, 3]);
    let levels = head.levels(&golden.features(), &mut Pass::Eval)?;
    assert!(matches!(head.pyramid, Neck::Taps { .. }));
    for (i, level) in levels.iter().enumerate() {
        near(&format!("level {i}"), level, golden.get(&format!("levels.{i}")));
    }
    let rpn_output = head.rpn.forward(&levels)?;
    near_values("anchors", &rpn_output.anchors.boxes.concat(), &golden.boxes("anchors").concat());
    let rows: Vec<u32> = (0..rpn_output.values.dim(0)? as u32).step_by(7).collect();
    near("rpn", &crate::ops::index_select(&rpn_output.values.detach(), &rows)?, golden.get("rpn"));
    let proposals = head.rpn.proposals(&rpn_output, &REGIONS, false)?;
    for (i, found) in proposals.iter().enumerate() {
        near_values("proposals", &found.concat(), &golden.boxes(&format!("proposals.{i}")).concat());
    }

    let source_transforms = source_transforms();
    let found = crate::task::Head::predict(&head, &golden.features(), &source_transforms)?;
    for (i, found) in found.iter().enumerate() {
        let expected = golden.get(&format!("found.{i}")).to_vec2::<f32>()?;
        let flat = |d: &super::Detection| [d.bbox.to_vec(), vec![d.score, d.label as f32]].concat();
        let rows: Vec<f32> = found.iter().flat_map(flat).collect();
        near_values(&format!("detections of image {i}"), &rows, &expected.concat());
    }
    let pasted = golden.get("pasted.1").to_dtype(candle_core::DType::U8)?;
    let (mut differing, mut covered) = (0, 0);
    for (found, expected) in found[1].iter().zip(pasted.flatten_from(1)?.to_vec2::<u8>()?) {
        let mask = found.mask.as_ref().expect("the task has masks").decode();
        differing += mask.iter().zip(&expected).filter(|(a, b)| a != b).count();
        covered += expected.iter().filter(|v| **v == 1).count();
    }
    assert!(covered > 1000 && differing < 4, "{differing} of {covered} pixels differ");
    Ok(())
}

#[test]
fn masks_are_pasted_as_by_grid_sample() -> Result<()> {
    let golden = Golden::load()?;
    let expected = golden.get("pasted.1").flatten_from(1)?.to_vec2::<u8>()?;
    let masks = golden.get("masks.1").to_vec2::<f32>()?;
    for ((mask, bounds), expected) in masks.iter().zip(golden.boxes("found.1")).zip(expected) {
        let found = paste(mask, bounds, &SourceTransform::new((48, 56))).decode();
        let differing = found.iter().zip(&expected).filter(|(a, b)| a != b).count();
        assert!(differing <= 1, "{differing} pixels of {bounds:?} differ"); // at ½, by rounding
    }
    Ok(())
}

/// All anchors and all regions learn, so that no random number decides; the mask to learn is the same everywhere.
#[test]
fn losses_and_gradients_equal_torchvision() -> Result<()> {
    let golden = Golden::load()?;
    let params = Params::new(0, &Device::Cpu);
    let mut head = golden.head(&params)?;
    let mut rng = Rng::new(0, "test", &[]);
    let levels = head.levels(&golden.features(), &mut Pass::train(&mut rng))?;
    let rpn_output = head.rpn.forward(&levels)?;
    let count = rpn_output.anchors.boxes.len();
    let objects = [golden.objects(0), golden.objects(1)];
    let bounds: Vec<Vec<Xyxy<f32>>> = objects.iter().map(|(bounds, _)| bounds.clone()).collect();
    let matches = Rpn::matches(&rpn_output, &bounds);
    for (i, matches) in matches.iter().enumerate() {
        // 0: ignored, 1: background, 2: an object
        let code = |found: &Match| match found {
            Match::Ignored => 0,
            Match::Background => 1,
            Match::Object(_) => 2u8,
        };
        let expected = golden.get(&format!("matches.{i}")).to_vec1::<u8>()?;
        assert_eq!(matches.iter().map(code).collect::<Vec<_>>(), expected, "image {i}");
    }
    let encoded: Vec<[f32; 4]> = matches
        .iter()
        .zip(&bounds)
        .flat_map(|(matches, bounds)| {
            let of_object = |(i, found): (usize, &Match)| match found {
                Match::Object(object) => {
                    Some(BoxCoder::RPN.encode(rpn_output.anchors.boxes[i], bounds[*object as usize]))
                }
                _ => None,
            };
            matches.iter().enumerate().filter_map(of_object).collect::<Vec<_>>()
        })
        .collect();
    near_values("encoded", &encoded.concat(), &golden.get("encoded").flatten_all()?.to_vec1::<f32>()?);

    // Asked for as many samples as there are anchors, with room for all.
    head.rpn.config.sampler = Sampler { count, positive_fraction: 1. };
    head.rpn.config.after_nms = 250;
    let sampled: Vec<_> = matches.iter().map(|matches| head.rpn.sample(matches, &mut rng)).collect();
    let (rpn_cls, rpn_box) = head.rpn.losses(&rpn_output, &bounds, &matches, &sampled)?;
    let proposals = head.rpn.proposals(&rpn_output, &REGIONS, true)?;
    let mut rois: Vec<Roi> = vec![];
    for (image, proposals) in proposals.into_iter().enumerate() {
        let drawn = roi::sample(image, proposals, &bounds[image], head.sampler, &mut rng);
        let label = |roi: &Roi| roi.object.map_or(-1., |object| objects[image].1[object as usize] as f32);
        let mut found: Vec<Vec<f32>> =
            drawn.iter().map(|roi| [&roi.bounds[..], &[label(roi)]].concat()).collect();
        let mut expected = golden.get(&format!("regions.{image}")).to_vec2::<f32>()?;
        // torchvision calls the background −1 here, and has another order.
        let order = |a: &Vec<f32>, b: &Vec<f32>| a.partial_cmp(b).expect("numbers");
        found.sort_by(order);
        expected.sort_by(order);
        near_values(&format!("regions of image {image}"), &found.concat(), &expected.concat());
        rois.extend(drawn);
    }
    head.pooler.sort(&mut rois);
    let x = head.pooler.pool(&levels[..4], &rois, super::box_head::SIDE)?;
    let boxes = head.boxes.forward(&x, &mut Pass::train(&mut rng))?;
    let object_of = |roi: &Roi| {
        let object = roi.object? as usize;
        Some((objects[roi.image].1[object], bounds[roi.image][object]))
    };
    let (cls, bbox) = head.boxes.losses(&boxes, &rois, object_of)?;
    let positive: Vec<Roi> = rois.iter().filter(|roi| roi.object.is_some()).copied().collect();
    let labels: Vec<u32> = positive.iter().filter_map(|roi| Some(object_of(roi)?.0)).collect();
    let x = head.pooler.pool(&levels[..4], &positive, super::mask_head::FEATURES)?;
    let masks = head.masks.as_ref().expect("the task has masks");
    let logits = masks.forward(&x, &labels, &mut Pass::train(&mut rng))?;
    let place = |k: usize| if (k / MASK * 7 + k % MASK * 3) % 5 < 2 { 1. } else { 0. };
    let mask =
        masks.loss(&logits, (0..positive.len() * MASK * MASK).map(|k| place(k % (MASK * MASK))).collect())?;

    let losses = Tensor::stack(&[rpn_cls, rpn_box, cls, bbox, mask], 0)?;
    for ((found, expected), name) in losses
        .to_vec1::<f32>()?
        .into_iter()
        .zip(golden.get("losses").to_vec1::<f32>()?)
        .zip(["rpn_cls", "rpn_box", "cls", "box", "mask"])
    {
        assert!((found / expected - 1.).abs() < 1e-4, "loss_{name}: {found}, expected {expected}");
    }
    let gradients = crate::ops::backward(&losses.sum_all()?)?;
    for p in params.trainable() {
        let found = gradients.get(&p.var).unwrap_or_else(|| panic!("{} has no gradient", p.name));
        near(&format!("gradient of {}", p.name), found, golden.get(&format!("gradient.{}", p.name)));
    }
    Ok(())
}
