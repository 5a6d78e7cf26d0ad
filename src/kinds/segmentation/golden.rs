//! The kind against PyTorch, transformers, NumPy and mmsegmentation's arithmetic (`scripts/golden/segmentation.py`).
//!
//! Networks have random weights. LabelTable agree to 1e-4, the rounding of a dozen layers in f32.

use super::inference::SegmentationOptions;
use super::*;
use crate::config::{AttentionConfig, ModelConfig, RelativePosition};
use crate::data::{Batch, Geometry, LabelEncoding, LabelTable, SourceTransform};
use crate::models::{Backbone, BackboneUsage, Features, Vit};
use crate::nn::test_tolerance;
use crate::nn::{Params, Pass};
use crate::ops;
use crate::rng::Rng;
use crate::task::Head;
use candle_core::{DType, Device, Tensor};
use std::collections::HashMap;

type Golden = HashMap<String, Tensor>;

fn golden() -> Golden {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/segmentation.safetensors");
    candle_core::safetensors::load(path, &Device::Cpu).unwrap()
}

const CLASSES: usize = 5;

struct Model {
    params: Params,
    vit: Vit,
    head: SegmentationHead,
}

impl Model {
    /// The network of a case, with its weights.
    fn new(golden: &Golden, case: &str, head: &str) -> Self {
        let model: ModelConfig = toml::from_str(
            "image = [48, 48]\npatch = 8\nwidth = 8\ndepth = 5\nheads = 2\n\
             decoder = { width = 8, depth = 1, heads = 2 }",
        )
        .unwrap();
        let attention =
            AttentionConfig { relative_position: RelativePosition::PerBlock, ..AttentionConfig::default() };
        let options = BackboneUsage { attention: Some(attention), ..BackboneUsage::default() };
        let names = (0..CLASSES).map(|k| k.to_string()).collect();
        let dataset = DatasetInfo { classes: names, ..DatasetInfo::default() };
        let head = format!("taps = [0, 1, 2, 3]\ndropout = 0.0\n{head}");
        let task =
            SegmentationTask::new(SegmentationOptions::default(), toml::from_str(&head).unwrap(), &dataset)
                .unwrap();
        let params = Params::new(0, &Device::Cpu);
        let spec = BackboneSpec { width: 8, depth: 5, patch: 8 };
        let head = task.head(&spec, params.builder()).unwrap();
        let vit = Vit::new(&model, options, params.builder()).unwrap();
        for parameter in params.all() {
            let value = golden.get(&format!("{case}.weights.{}", parameter.name));
            parameter.var.set(value.unwrap_or_else(|| panic!("no `{}`", parameter.name))).unwrap();
        }
        Self { params, vit, head }
    }

    fn features(&self, images: &Tensor, pass: &mut Pass) -> Features {
        self.vit.forward(images, self.head.taps(), pass).unwrap()
    }
}

/// Largest difference, relative where values exceed 1.
fn error(found: &Tensor, expected: &Tensor) -> f32 {
    assert_eq!(found.dims(), expected.dims());
    test_tolerance::absolute(found, expected) / test_tolerance::largest(expected).max(1.)
}

#[test]
fn logits_are_those_of_transformers() {
    let golden = golden();
    let model = Model::new(&golden, "upernet", "channels = 12\nauxiliary = { weight = 0.4, channels = 6 }");
    let logits = model.head.logits(&model.features(&golden["upernet.images"], &mut Pass::Eval)).unwrap();
    let logits = ops::resize_bilinear(&logits, (48, 48)).unwrap();
    let worst = error(&logits, &golden["upernet.logits"]);
    assert!(worst < 1e-4, "UperNetForSemanticSegmentation: {worst:e}");

    let model = Model::new(&golden, "beit", "auxiliary = { weight = 0.4, channels = 6 }");
    let logits = model.head.logits(&model.features(&golden["beit.images"], &mut Pass::Eval)).unwrap();
    let worst = error(&logits, &golden["beit.logits"]);
    assert!(worst < 1e-4, "BeitForSemanticSegmentation: {worst:e}");
}

#[test]
fn losses_gradients_and_statistics_are_those_of_pytorch() {
    let golden = golden();
    for average in ["all", "valid"] {
        let config =
            format!("channels = 12\nauxiliary = {{ weight = 0.4, channels = 6 }}\naverage = \"{average}\"");
        let model = Model::new(&golden, "upernet", &config);
        let labels: Vec<u32> = golden["upernet.labels"].flatten_all().unwrap().to_vec1().unwrap();
        let target = |labels: &[u32]| {
            let labels = labels.iter().map(|label| *label as u16).collect();
            SegmentationTarget::new(Raster::new(48, 48, labels), None)
        };
        let batch = Batch {
            ids: vec![SampleId::new("0"), SampleId::new("1")],
            images: golden["upernet.images"].clone(),
            views: vec![],
            source_transforms: vec![SourceTransform::new((48, 48)); 2],
            targets: labels.chunks_exact(48 * 48).map(target).collect(),
        };
        let mut rng = Rng::new(0, "pass", &[]);
        let mut pass = Pass::train(&mut rng);
        let features = model.features(&batch.images, &mut pass);
        let losses = model.head.loss(&features, &batch, &mut pass).unwrap();
        for ((_, loss), name) in losses.iter().zip(["decode", "auxiliary"]) {
            let worst = error(loss, &golden[&format!("upernet.{name}.{average}")]);
            assert!(worst < 1e-5, "{name}, {average}: {worst:e}");
        }
        if average == "valid" {
            continue;
        }
        let gradients = ops::backward(&losses.total().unwrap()).unwrap();
        let cases: Vec<&str> =
            golden.keys().filter_map(|name| name.strip_prefix("upernet.gradient.")).collect();
        assert_eq!(cases.len(), 12);
        for name in cases {
            let found = gradients.get(&model.params.get(name).unwrap().var).unwrap();
            let expected = &golden[&format!("upernet.gradient.{name}")];
            let worst = test_tolerance::relative(found, expected);
            assert!(worst < 1e-4, "gradient of {name}: {worst:e}");
        }
        for name in ["fpn1.1.running_mean", "decode_head.psp_modules.1.1.bn.running_var"] {
            let found = model.params.get(name).unwrap().var;
            let worst = error(found.as_tensor(), &golden[&format!("upernet.after.{name}")]);
            assert!(worst < 1e-5, "{name}: {worst:e}");
        }
    }
}

/// Labels agree wherever the reference is sure by more than its own rounding.
#[test]
fn windows_and_views_are_those_of_mmsegmentation() {
    let golden = golden();
    let (weight, image) = (&golden["slide.weight"], &golden["slide.image"]);
    let network = |images: &Tensor| ops::conv2d(images, weight, None, 4, 2, ops::Precision::F32);
    let source = (131, 177);
    let geometry = Geometry::crop_resize(source, 0., 0., 131., 177., (53, 70));
    let source_transform = SourceTransform { source, geometry };
    for (case, scales, flip) in [("slide", vec![1.], false), ("views", vec![0.5, 1., 1.75], true)] {
        let options = SegmentationOptions { stride: Some(0.67), scales, flip };
        let found = options.slide(image, &source_transform, (24, 24), CLASSES, &network).unwrap();
        let labels: Vec<u8> = golden[&format!("{case}.labels")].flatten_all().unwrap().to_vec1().unwrap();
        let margins: Vec<f32> = golden[&format!("{case}.margin")].flatten_all().unwrap().to_vec1().unwrap();
        let mut unsure = 0;
        for ((found, label), margin) in found.labels.iter().zip(labels).zip(margins) {
            match margin > 1e-4 {
                true => assert_eq!(*found, u16::from(label), "{case}, margin {margin}"),
                false => unsure += 1,
            }
        }
        assert!(unsure < 60, "{case}: {unsure} pixels without a margin");
    }
}

#[test]
fn mean_iou_is_that_of_numpy() {
    let golden = golden();
    for (case, first) in [("plain", 0u32), ("reduced", 1)] {
        let mut pairs: Vec<(u32, u16)> = (0..CLASSES as u32).map(|k| (k + first, k as u16)).collect();
        pairs.extend([(255, IGNORE)]);
        pairs.extend((first > 0).then_some((0, IGNORE)));
        let encoding = LabelEncoding::Ids(LabelTable::new(pairs).unwrap());
        let folder = tempfile::tempdir().unwrap();
        let rasters = |name: &str| -> Vec<Vec<u16>> {
            let values: Vec<u8> =
                golden[&format!("iou.{case}.{name}")].flatten_all().unwrap().to_vec1().unwrap();
            values.chunks_exact(11 * 13).map(|image| image.iter().map(|v| u16::from(*v)).collect()).collect()
        };
        let mut confusion = Confusion::new(CLASSES, None);
        for (i, (truth, predicted)) in rasters("truth").into_iter().zip(rasters("predicted")).enumerate() {
            // Through a file, as a data set has it.
            let path = folder.path().join(format!("{i}.png"));
            let ids: Vec<u32> = (0..256).collect();
            std::fs::write(&path, Raster::new(11, 13, truth).to_png(&ids, &[]).unwrap()).unwrap();
            let mask = crate::data::RasterFile { path, encoding: std::sync::Arc::new(encoding.clone()) };
            confusion
                .count(&SampleId::new("a"), &Raster::new(11, 13, predicted), &mask.read().unwrap())
                .unwrap();
        }
        let scores = confusion.scores().unwrap();
        let expected: Vec<f64> =
            golden[&format!("iou.{case}.scores")].to_dtype(DType::F64).unwrap().to_vec1().unwrap();
        for (spec, expected) in SCORES.iter().zip(expected) {
            let found = scores.get(spec.name).unwrap().value;
            assert!((found - expected).abs() < 1e-9, "{case}, {}: {found}, NumPy {expected}", spec.name);
        }
    }
}
