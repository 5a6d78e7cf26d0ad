//! What real data does to a detector: images without objects, crowds alone, hundreds of objects, objects of a pixel, and
//! numbers that have run away. It trains and predicts on all of them.

use super::*;
use crate::data::{
    Annotation, Batch, Category, Geometry, ImageRef, Object, Objects, SampleId, SourceTransform,
};
use crate::data::{Geometric, Segmentation};
use crate::models::Features;
use crate::nn::NormKind;
use crate::nn::{Params, Pass};
use crate::rng::Rng;
use crate::task::Head;
use candle_core::{Device, Tensor};
use std::sync::Arc;

const SIDE: usize = 32;

fn info() -> DatasetInfo {
    let classes: Vec<String> = ["cat", "dog"].map(String::from).to_vec();
    let categories = (1..=2).map(|id| Category { id: u64::into(id), frequency: None }).collect();
    DatasetInfo { name: "made".into(), classes, categories, ..DatasetInfo::default() }
}

fn head_config(norm: NormKind) -> DetectionHeadConfig {
    DetectionHeadConfig {
        fpn_norm: norm,
        head_norm: norm,
        channels: 8,
        anchor_sizes: Some(vec![4., 8., 16., 24., 32.]),
        anchors: 32,
        proposals_before_nms: 50,
        proposals_before_nms_test: 50,
        proposals: 20,
        regions: 16,
        box_convs: 1,
        box_width: 16,
        mask_convs: 1,
        ..DetectionHeadConfig::default()
    }
}

fn object(label: u32, [x, y, w, h]: [f64; 4], crowd: bool) -> Object {
    let ring = vec![x, y, x + w, y, x + w, y + h, x, y + h];
    Object { label, bbox: [x, y, w, h], segmentation: Segmentation::Polygons(vec![ring]), crowd, area: w * h }
}

fn target(objects: Vec<Object>) -> DetectionTarget {
    let image =
        Objects { image_id: 1.into(), size: (SIDE, SIDE), objects, absent: vec![], not_exhaustive: vec![] };
    let entry = Entry {
        id: SampleId::new("made"),
        image: ImageRef::File("made.jpg".into()),
        annotation: Annotation::Objects(Arc::new(image)),
    };
    DetectionTarget::new(&entry, 2).unwrap()
}

struct Ground {
    params: Params,
    head: DetectionHead,
    taps: Vec<Tensor>,
}

impl Ground {
    fn new(norm: NormKind, masks: bool) -> Self {
        let options = DetectionOptions { masks, score_threshold: Some(0.), ..DetectionOptions::default() };
        let task = DetectionTask::new(options, head_config(norm), &info()).unwrap();
        let params = Params::new(0, &Device::Cpu);
        let spec = BackboneSpec { width: 8, depth: 4, patch: 8 };
        let head = task.head(&spec, params.builder()).unwrap();
        let mut rng = Rng::new(1, "test", &[]);
        let mut tap = || {
            let values = (0..2 * 16 * 8).map(|_| rand::Rng::random_range(&mut rng, -1f32..1.)).collect();
            Tensor::from_vec(values, (2, 16, 8), &Device::Cpu).unwrap()
        };
        let taps = (0..4).map(|_| tap()).collect();
        Self { params, head, taps }
    }

    fn features(&self) -> Features {
        Features { taps: self.taps.clone(), cls: None, grid: (4, 4) }
    }

    /// Losses by name on two images, and the gradients of every parameter.
    fn losses(&self, targets: [DetectionTarget; 2], seed: u64) -> (Vec<(&'static str, f32)>, Vec<Vec<f32>>) {
        let batch = Batch {
            ids: vec![SampleId::new("a"), SampleId::new("b")],
            images: Tensor::zeros((2, 3, SIDE, SIDE), candle_core::DType::F32, &Device::Cpu).unwrap(),
            views: vec![],
            source_transforms: vec![SourceTransform::new((SIDE, SIDE)); 2],
            targets: targets.to_vec(),
        };
        let mut rng = Rng::new(seed, "test", &[]);
        let losses = self.head.loss(&self.features(), &batch, &mut Pass::train(&mut rng)).unwrap();
        let gradients = crate::ops::backward(&losses.total().unwrap()).unwrap();
        let gradient = |p: &crate::nn::Parameter| {
            let found = gradients.get(&p.var).unwrap_or_else(|| panic!("{} has no gradient", p.name));
            found.flatten_all().unwrap().to_vec1::<f32>().unwrap()
        };
        let values = losses.iter().map(|(name, loss)| (name, loss.to_scalar::<f32>().unwrap())).collect();
        (values, self.params.trainable().iter().map(gradient).collect())
    }
}

fn finite(found: &(Vec<(&'static str, f32)>, Vec<Vec<f32>>)) {
    assert!(found.0.iter().all(|(_, loss)| loss.is_finite()), "{:?}", found.0);
    assert!(found.1.iter().flatten().all(|g| g.is_finite()));
}

#[test]
fn every_number_of_objects_trains() {
    let many = (0..300).map(|i| object(i % 2, [f64::from(i % 25), f64::from(i / 25), 6., 5.], false));
    let pixels = vec![object(0, [3., 3., 1., 1.], false), object(1, [31., 31., 1., 1.], false)];
    let crowd = vec![object(0, [0., 0., 20., 20.], true)];
    let usual = vec![object(1, [4., 6., 16., 12.], false), object(0, [20., 2., 8., 25.], false)];
    let cases = [vec![], crowd, many.collect(), pixels, usual.clone()];
    for norm in [NormKind::None, NormKind::Batch, NormKind::Group, NormKind::Layer] {
        let ground = Ground::new(norm, true);
        for objects in &cases {
            let found = ground.losses([target(objects.clone()), target(vec![])], 0);
            finite(&found);
            let names: Vec<_> = found.0.iter().map(|(name, _)| *name).collect();
            assert_eq!(names, ["loss_rpn_cls", "loss_rpn_box", "loss_cls", "loss_box", "loss_mask"]);
            let learns = objects.iter().any(|object| !object.crowd);
            for (name, loss) in &found.0[3..] {
                assert_eq!(*loss > 0., learns, "{norm:?}: {name} = {loss} of {} objects", objects.len());
            }
        }
    }
    let boxes_alone = Ground::new(NormKind::Layer, false).losses([target(usual.clone()), target(vec![])], 0);
    assert_eq!(boxes_alone.0.len(), 4);
}

#[test]
fn losses_are_a_function_of_the_stream() {
    let ground = Ground::new(NormKind::Layer, true);
    let objects = || [target(vec![object(1, [4., 6., 16., 12.], false)]), target(vec![])];
    let first = ground.losses(objects(), 0);
    assert_eq!(first, ground.losses(objects(), 0));
    assert_ne!(first.0, ground.losses(objects(), 1).0, "other anchors and regions are drawn");
    let pool = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    assert_eq!(first, pool(1).install(|| ground.losses(objects(), 0)), "the number of threads");
}

#[test]
fn predictions_lie_in_the_source_and_can_be_scored() {
    let ground = Ground::new(NormKind::Layer, true);
    // The first image is half as large as the input, the second is padded: 20×32 pixels of 32×32.
    let doubled = Geometry::crop_resize((16, 16), 0., 0., 16., 16., (SIDE, SIDE));
    let padded = Geometry::crop_resize((20, 32), 0., 0., 32., 32., (SIDE, SIDE));
    let source_transforms = [
        SourceTransform { source: (16, 16), geometry: doubled },
        SourceTransform { source: (20, 32), geometry: padded },
    ];
    let found = ground.head.predict(&ground.features(), &source_transforms).unwrap();
    for (found, source_transform) in found.iter().zip(&source_transforms) {
        assert!(!found.is_empty() && found.len() <= 100);
        assert!(found.is_sorted_by(|a, b| a.score >= b.score));
        let (height, width) = source_transform.source;
        for Detection { bbox: [x1, y1, x2, y2], mask, .. } in found {
            assert!(0. <= *x1 && x1 < x2 && *x2 <= width as f32, "{x1} {x2}");
            assert!(0. <= *y1 && y1 < y2 && *y2 <= height as f32, "{y1} {y2}");
            assert_eq!(mask.as_ref().unwrap().size(), source_transform.source);
        }
    }
    let task = DetectionTask::new(
        DetectionOptions { masks: true, ..DetectionOptions::default() },
        head_config(NormKind::Layer),
        &info(),
    );
    let mut metric = task.unwrap().metric();
    let mut truth = target(vec![object(1, [4., 6., 16., 12.], false)]);
    truth.apply(&Geometry::flip((SIDE, SIDE)));
    let whole = ground.head.predict(&ground.features(), &[SourceTransform::new((SIDE, SIDE)); 2]).unwrap();
    metric.update(&SampleId::new("made"), whole[0].clone(), &truth).unwrap();
    let scores = metric.finish().unwrap();
    assert!(scores.0["box_ap"].value >= 0.);
}

#[test]
fn numbers_that_run_away_give_no_boxes_and_no_panic() {
    let ground = Ground::new(NormKind::Layer, true);
    for (name, value) in [
        ("rpn.head.bbox_pred.bias", f32::NAN),
        ("rpn.head.cls_logits.bias", f32::NAN),
        ("rpn.head.bbox_pred.bias", 1e30),
        ("roi_heads.box_predictor.bbox_pred.bias", f32::NAN),
        ("roi_heads.box_predictor.bbox_pred.bias", f32::INFINITY),
        ("roi_heads.mask_predictor.mask_fcn_logits.bias", f32::NAN),
    ] {
        let var = ground.params.get(name).unwrap().var;
        let kept = var.as_detached_tensor().copy().unwrap();
        var.set(&Tensor::full(value, var.shape(), &Device::Cpu).unwrap()).unwrap();
        let source_transforms = [SourceTransform::new((SIDE, SIDE)); 2];
        let found = ground.head.predict(&ground.features(), &source_transforms).unwrap();
        assert!(found.iter().flatten().all(|d| d.bbox.iter().all(|v| v.is_finite())), "{name} = {value}");
        ground.losses([target(vec![object(1, [4., 6., 16., 12.], false)]), target(vec![])], 0);
        var.set(&kept).unwrap();
    }
}

#[test]
fn choices_that_cannot_work_are_refused_by_name() {
    let refused = |config: DetectionHeadConfig, options: DetectionOptions| {
        DetectionTask::new(options, config, &info()).unwrap_err().to_string()
    };
    let plain = || head_config(NormKind::Layer);
    let error =
        refused(DetectionHeadConfig { anchor_sizes: Some(vec![8.]), ..plain() }, DetectionOptions::default());
    assert!(error.contains("anchor_sizes has 1 values, expected 5"), "{error}");
    let error = refused(DetectionHeadConfig { regions: 0, ..plain() }, DetectionOptions::default());
    assert!(error.contains("regions"), "{error}");
    let error =
        refused(plain(), DetectionOptions { score_threshold: Some(1.5), ..DetectionOptions::default() });
    assert!(error.contains("score_threshold"), "{error}");
    let taps = DetectionHeadConfig { taps: Some(vec![0, 1]), ..plain() };
    let task = DetectionTask::new(DetectionOptions::default(), taps, &info()).unwrap();
    let spec = BackboneSpec { width: 8, depth: 2, patch: 8 };
    let error = task.head(&spec, Params::new(0, &Device::Cpu).builder()).err().unwrap().to_string();
    assert!(error.contains("2 taps [0, 1] of 2 blocks, expected 4"), "{error}");
    let unknown =
        crate::config::parse::<DetectionHeadConfig>("channel = 3", "recipe").unwrap_err().to_string();
    assert!(unknown.contains("channel"), "{unknown}");
}
