//! The operators of dense prediction against PyTorch and torchvision (`scripts/golden/vision.py`).
//!
//! The references are computed in f64; 4e-6 of the largest value is what f32 sums of these lengths
//! lose. RoIAlign's is computed in f32, where positions of samples differ by their last bits: 1e-5.

use super::*;
use candle_core::{DType, Device, Result, Tensor, Var};
use std::collections::HashMap;

struct Golden(HashMap<String, Tensor>);

impl Golden {
    fn load() -> Self {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/vision.safetensors");
        Self(candle_core::safetensors::load(path, &Device::Cpu).unwrap())
    }

    fn get(&self, name: &str) -> &Tensor {
        self.0.get(name).unwrap_or_else(|| panic!("no `{name}`"))
    }

    /// Value and gradients of the inputs of a case, for f32 and f64.
    fn check(&self, case: &str, inputs: &[&str], tolerance: f64, run: impl Fn(&[Tensor]) -> Result<Tensor>) {
        for dtype in [DType::F32, DType::F64] {
            let get = |name: &str| self.get(&format!("{case}.{name}")).to_dtype(dtype).unwrap();
            let vars: Vec<Var> = inputs.iter().map(|name| Var::from_tensor(&get(name)).unwrap()).collect();
            let tensors: Vec<Tensor> = vars.iter().map(|var| var.as_tensor().clone()).collect();
            let y = run(&tensors).unwrap();
            near(&format!("{case}, {dtype:?}"), &y, &get("y"), tolerance);
            let store = (y * get("seed")).unwrap().sum_all().unwrap().backward().unwrap();
            for (name, var) in inputs.iter().zip(&vars) {
                let what = format!("{case}, {dtype:?}, gradient of {name}");
                near(&what, store.get(var).unwrap(), &get(&format!("gradient.{name}")), tolerance);
            }
        }
    }
}

fn near(what: &str, found: &Tensor, expected: &Tensor, tolerance: f64) {
    assert_eq!(found.dims(), expected.dims(), "{what}");
    let largest = |t: &Tensor| {
        let values = t.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
        values.into_iter().fold(0f64, |m, v| if v.abs() > m || v.is_nan() { v.abs() } else { m })
    };
    let error = largest(&(found - expected).unwrap()) / largest(expected).max(1.);
    assert!(error < tolerance, "{what}: {error:e}");
}

const AFFINE: [&str; 3] = ["x", "weight", "bias"];

#[test]
fn norms_equal_pytorch() {
    let golden = Golden::load();
    for case in ["batch_norm.pixels", "batch_norm.rows"] {
        golden.check(case, &AFFINE, 4e-6, |t| Ok(batch_norm(&t[0], Some((&t[1], &t[2])), 1e-5)?.0));
    }
    golden.check("batch_norm.given", &AFFINE, 4e-6, |t| {
        let given = |name| golden.get(&format!("batch_norm.given.{name}")).to_dtype(t[0].dtype());
        let moments = Moments { mean: given("mean")?, var: given("var")? };
        batch_norm_with(&t[0], &moments, Some((&t[1], &t[2])), 1e-5)
    });
    for groups in [1, 2, 3, 6] {
        let case = format!("group_norm.{groups}");
        golden.check(&case, &AFFINE, 4e-6, |t| group_norm(&t[0], groups, &t[1], &t[2], 1e-5));
    }
    golden.check("layer_norm2d", &AFFINE, 4e-6, |t| layer_norm2d(&t[0], &t[1], &t[2], 1e-6));
}

#[test]
fn pools_equal_pytorch() {
    let golden = Golden::load();
    for (kernel, stride, padding) in [(3, 2, 1), (2, 2, 0), (3, 1, 1), (1, 2, 0), (5, 3, 2)] {
        let case = format!("max_pool2d.{kernel}.{stride}.{padding}");
        golden.check(&case, &["x"], 4e-6, |t| max_pool2d(&t[0], kernel, stride, padding));
    }
    golden.check("max_pool2d.1.2.0", &["x"], 4e-6, |t| subsample(&t[0], 2));
    for (kernel, stride) in [((2, 2), (2, 2)), ((3, 2), (1, 3))] {
        let case = format!("avg_pool2d.{}.{}.{}.{}", kernel.0, kernel.1, stride.0, stride.1);
        golden.check(&case, &["x"], 4e-6, |t| avg_pool2d(&t[0], kernel, stride));
    }
    for size in [(1, 1), (2, 2), (3, 3), (6, 6), (10, 5)] {
        let case = format!("adaptive_avg_pool2d.{}.{}", size.0, size.1);
        golden.check(&case, &["x"], 4e-6, |t| adaptive_avg_pool2d(&t[0], size));
    }
}

#[test]
fn resizes_equal_pytorch() {
    let golden = Golden::load();
    for size in [(18, 16), (3, 4), (5, 13), (1, 30), (9, 8)] {
        let case = |mode: &str| format!("resize_{mode}.{}.{}", size.0, size.1);
        golden.check(&case("nearest"), &["x"], 4e-6, |t| resize_nearest(&t[0], size));
        golden.check(&case("bilinear"), &["x"], 4e-6, |t| resize_bilinear(&t[0], size));
        golden.check(&case("bicubic"), &["x"], 4e-6, |t| resize_bicubic(&t[0], size));
    }
    let (mut found, sizes) = (Vec::new(), [1, 2, 3, 5, 7, 10, 13, 17, 29, 40]);
    for from in sizes {
        let line = Tensor::arange(0f32, from as f32, &Device::Cpu).unwrap().reshape((1, 1, 1, from)).unwrap();
        for to in sizes {
            let y = resize_nearest(&line, (1, to)).unwrap();
            found.extend(y.flatten_all().unwrap().to_vec1::<f32>().unwrap());
        }
    }
    assert_eq!(found, golden.get("nearest").to_vec1::<f32>().unwrap());
}

#[test]
fn detection_equals_torchvision() {
    let golden = Golden::load();
    let boxes = golden.get("roi_align.boxes");
    for ratio in [0, 2] {
        for size in [(7, 7), (3, 5)] {
            let case = format!("roi_align.{ratio}.{}.{}", size.0, size.1);
            golden.check(&case, &["x"], 1e-5, |t| roi_align(&t[0], boxes, size, 0.25, ratio));
        }
    }
    let [boxes, scores, classes] =
        ["boxes", "scores", "classes"].map(|name| golden.get(&format!("nms.{name}")));
    for threshold in [0.3, 0.5, 0.7] {
        let same = |found: Tensor, name: &str| {
            let expected = golden.get(&format!("{name}.{threshold}"));
            assert_eq!(
                found.to_vec1::<u32>().unwrap(),
                expected.to_vec1::<u32>().unwrap(),
                "{name} {threshold}"
            );
        };
        same(nms(boxes, scores, threshold).unwrap(), "nms");
        same(batched_nms(boxes, scores, classes, threshold).unwrap(), "batched_nms");
    }
}

#[test]
fn losses_equal_pytorch() {
    let golden = Golden::load();
    for name in ["rows", "pixels"] {
        let targets = golden.get(&format!("cross_entropy.{name}.targets"));
        for (smoothing, text) in [(0., "0.0"), (0.1, "0.1")] {
            let case = format!("cross_entropy.{name}.{text}");
            golden.check(&case, &["x"], 4e-6, |t| cross_entropy(&t[0], targets, Some(255), smoothing));
        }
    }
    let held = |name: &str, x: &Tensor| golden.get(&format!("pointwise.{name}")).to_dtype(x.dtype());
    for (case, weighted) in [("mean", false), ("weighted", true)] {
        let weights = |x: &Tensor| weighted.then(|| held("weights", x)).transpose();
        golden.check(&format!("bce.{case}"), &["x"], 4e-6, |t| {
            binary_cross_entropy_with_logits(&t[0], &held("targets", &t[0])?, weights(&t[0])?.as_ref())
        });
        golden.check(&format!("smooth_l1.{case}"), &["x"], 4e-6, |t| {
            smooth_l1(&t[0], &held("targets", &t[0])?, weights(&t[0])?.as_ref(), 0.5)
        });
    }
    golden.check("l1.mean", &["x"], 4e-6, |t| smooth_l1(&t[0], &held("targets", &t[0])?, None, 0.));
}
