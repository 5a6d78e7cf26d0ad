//! The operations against Pillow, torchvision and timm: `scripts/golden/augment.py`.
//!
//! 8-bit results are equal in every byte. Floating-point results leave room for the order of a few roundings.

use super::super::{Image, Sample, SampleId, Size};
use super::color::Adjustment;
use super::crop::{RandomResizedCrop, cut_reflected, mirrored};
use super::mix::{self, Draw, Mix};
use super::rand_augment::{OPS, Op};
use super::resample::{Rect, resize};
use super::resize::{CenterCrop, ResizeShort, cut};
use super::{Augmentations, Pipeline, PrepareSample, SampleMut, erase};
use crate::config::{Interpolation, Normalize, parse};
use crate::rng::Rng;
use candle_core::{Device, Tensor};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::HashMap;

struct Golden {
    cases: serde_json::Value,
    tensors: HashMap<String, Tensor>,
}

impl Golden {
    fn read() -> Self {
        let json = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/augment.json"));
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/augment.safetensors");
        Self {
            cases: serde_json::from_str(json).unwrap(),
            tensors: candle_core::safetensors::load(path, &Device::Cpu).unwrap(),
        }
    }

    fn cases<C: DeserializeOwned>(&self, kind: &str) -> Vec<C> {
        let cases: Vec<C> = serde_json::from_value(self.cases[kind].clone()).unwrap();
        assert!(!cases.is_empty(), "no case of {kind}");
        cases
    }

    fn image(&self, name: &str) -> Image {
        let (h, w, c) = self.tensors[name].dims3().unwrap();
        Image::new(h, w, c, self.tensors[name].flatten_all().unwrap().to_vec1().unwrap())
    }

    fn source(&self, name: &str) -> Image {
        self.image(&format!("source.{name}"))
    }
}

/// Panics with the number and the size of the differences.
fn same(found: &Image, expected: &Image, what: &dyn std::fmt::Debug) {
    assert_eq!((found.size(), found.channels), (expected.size(), expected.channels), "{what:?}");
    let differences: Vec<u8> =
        found.data.iter().zip(&expected.data).map(|(f, e)| f.abs_diff(*e)).filter(|d| *d > 0).collect();
    let (n, most) = (differences.len(), differences.iter().max());
    assert!(n == 0, "{what:?}: {n} of {} bytes differ, by up to {}", found.data.len(), most.unwrap());
}

fn close(found: &Tensor, expected: &Tensor, tolerance: f32, what: &dyn std::fmt::Debug) {
    assert_eq!(found.dims(), expected.dims(), "{what:?}");
    let differences: Vec<f32> =
        (found - expected).unwrap().abs().unwrap().flatten_all().unwrap().to_vec1().unwrap();
    // NaN is not within any tolerance.
    assert!(differences.iter().all(|difference| *difference <= tolerance), "{what:?}: {differences:?}");
}

fn sample(image: Image) -> Sample<()> {
    Sample::new(SampleId::new("golden"), image, ())
}

#[test]
fn resize_is_pillow_s() {
    #[derive(Deserialize, Debug)]
    struct Case {
        source: String,
        filter: Interpolation,
        crop: Option<[usize; 4]>,
        size: Size,
        tensor: String,
    }
    let golden = Golden::read();
    for case in golden.cases::<Case>("resize") {
        let source = golden.source(&case.source);
        let rect = match case.crop {
            Some([top, left, height, width]) => Rect { top, left, height, width },
            None => Rect::whole(source.size()),
        };
        let image = resize(&source, rect, case.size, case.filter).unwrap();
        same(&image, &golden.image(&case.tensor), &case);
    }
}

#[test]
fn sizes_and_crops_are_torchvision_s() {
    #[derive(Deserialize, Debug)]
    struct Short {
        size: Size,
        short: usize,
        target: Size,
    }
    #[derive(Deserialize, Debug)]
    struct Center {
        size: Size,
        tensor: String,
    }
    #[derive(Deserialize, Debug)]
    struct Reflect {
        padding: isize,
        top: isize,
        left: isize,
        tensor: String,
    }
    #[derive(Deserialize, Debug)]
    struct Mirror {
        source: String,
        tensor: String,
    }
    let golden = Golden::read();
    for case in golden.cases::<Short>("short") {
        let step = ResizeShort { size: case.short, interpolation: Interpolation::Bicubic };
        assert_eq!(step.target(case.size), case.target, "{case:?}");
    }
    let grey = golden.source("grey");
    for case in golden.cases::<Center>("center") {
        let (top, left) = CenterCrop { size: case.size }.corner(grey.size());
        same(&cut(&grey, top, left, case.size), &golden.image(&case.tensor), &case);
    }
    for case in golden.cases::<Reflect>("reflect") {
        let image = cut_reflected(&grey, case.top - case.padding, case.left - case.padding, grey.size());
        same(&image, &golden.image(&case.tensor), &case);
    }
    for case in golden.cases::<Mirror>("flip") {
        same(&mirrored(&golden.source(&case.source)), &golden.image(&case.tensor), &case);
    }
}

#[test]
fn random_crops_and_rectangles_follow_from_the_same_draws() {
    #[derive(Deserialize, Debug)]
    struct Crop {
        size: Size,
        scale: [f64; 2],
        /// Area and log-aspect of every try.
        drawn: Vec<f64>,
        rect: [usize; 4],
    }
    #[derive(Deserialize, Debug)]
    struct Erased {
        size: Size,
        drawn: Vec<f64>,
        extent: Option<Size>,
    }
    /// The first draw that is accepted; those before it must have been refused.
    fn accepted<R>(drawn: &[f64], shape: impl Fn(f64, f64) -> Option<R>) -> Option<R> {
        let (last, refused) = drawn.rchunks_exact(2).next().zip(drawn.len().checked_sub(2)).unwrap();
        for draw in drawn[..refused].chunks_exact(2) {
            assert!(shape(draw[0], draw[1].exp()).is_none(), "{draw:?} fits");
        }
        shape(last[0], last[1].exp())
    }
    let golden = Golden::read();
    for case in golden.cases::<Crop>("random_resized_crop") {
        let step = RandomResizedCrop {
            size: (224, 224),
            scale: case.scale,
            ratio: [3. / 4., 4. / 3.],
            interpolation: Interpolation::Bicubic,
            single_draw: false,
        };
        let [top, left, height, width] = case.rect;
        match accepted(&case.drawn, |part, aspect| step.shape(case.size, part, aspect)) {
            Some(shape) => assert_eq!(shape, (height, width), "{case:?}"),
            None => {
                assert_eq!(case.drawn.len(), 20, "{case:?}");
                assert_eq!(step.central(case.size), Rect { top, left, height, width }, "{case:?}");
            }
        }
    }
    for case in golden.cases::<Erased>("erase") {
        let shape = accepted(&case.drawn, |part, aspect| erase::shape(case.size, part, aspect));
        assert_eq!(shape, case.extent, "{case:?}");
    }
}

#[test]
fn colour_adjustments_are_torchvision_s() {
    #[derive(Deserialize, Debug)]
    struct Case {
        source: String,
        op: String,
        factor: f64,
        tensor: String,
    }
    let golden = Golden::read();
    for case in golden.cases::<Case>("adjust") {
        let adjustment = match case.op.as_str() {
            "brightness" => Adjustment::Brightness(case.factor),
            "contrast" => Adjustment::Contrast(case.factor),
            "saturation" => Adjustment::Saturation(case.factor),
            _ => Adjustment::Hue(case.factor),
        };
        let mut image = golden.source(&case.source);
        adjustment.apply(&mut image);
        same(&image, &golden.image(&case.tensor), &case);
    }
}

#[test]
fn rand_augment_is_timm_s() {
    #[derive(Deserialize, Debug)]
    struct Case {
        index: usize,
        #[allow(dead_code)] // shown when the case fails
        name: String,
        source: String,
        filter: Interpolation,
        magnitude: f64,
        negative: bool,
        tensor: String,
    }
    let golden = Golden::read();
    let mut seen = [false; OPS];
    for case in golden.cases::<Case>("rand_augment") {
        seen[case.index] = true;
        let mut sample = sample(golden.source(&case.source));
        let fill = &[124, 116, 104][..sample.image.channels];
        let op = Op::new(case.index, case.magnitude, case.negative);
        op.apply(&mut SampleMut::of(&mut sample), case.filter, fill).unwrap();
        same(&sample.image, &golden.image(&case.tensor), &case);
    }
    assert_eq!(seen, [true; OPS]);
}

#[test]
fn mixing_is_timm_s() {
    #[derive(Deserialize, Debug)]
    struct Case {
        labels: Vec<u32>,
        classes: usize,
        smoothing: f64,
        cutmix: bool,
        lam: f64,
        centre: Vec<usize>,
        tensor: String,
    }
    let golden = Golden::read();
    let images = &golden.tensors["mix.images"];
    for case in golden.cases::<Case>("mix") {
        let draw = match case.cutmix {
            false => Draw::Mixup { lambda: case.lam },
            true => Draw::cutmix((10, 14), case.lam, (case.centre[0], case.centre[1])),
        };
        let (mixed, targets) =
            mix::apply(images, &case.labels, case.classes, case.smoothing, (4, &[draw])).unwrap();
        close(&mixed, &golden.tensors[&case.tensor], 1e-6, &case);
        close(&targets, &golden.tensors[&format!("{}.targets", case.tensor)], 1e-6, &case);
    }
    // An α of 0 switches off; `Mix` with both off leaves images alone and still makes smooth targets.
    let off = Mix { mixup: 0., cutmix: 0., prob: 1., switch_prob: 0.5, group: None };
    let mut rng = Rng::new(0, "mix", &[]);
    let (same, targets) = mix::mix_batch(images, &[0, 1, 2, 3], 4, 0.2, &off, &mut rng).unwrap();
    close(&same, images, 0., &"off");
    let sums: Vec<f32> = targets.sum(1).unwrap().to_vec1().unwrap();
    assert!(sums.iter().all(|sum| (sum - 1.).abs() < 1e-6), "{sums:?}");
}

#[test]
fn groups_are_mixed_as_on_the_devices_of_the_reference() {
    #[derive(Deserialize)]
    struct Drawn {
        lam: f64,
        cutmix: bool,
        centre: Vec<usize>,
    }
    #[derive(Deserialize)]
    struct Case {
        name: String,
        group: usize,
        draws: Vec<Drawn>,
    }
    #[derive(Deserialize)]
    struct Cases {
        classes: usize,
        smoothing: f64,
        labels: Vec<u32>,
        cases: Vec<Case>,
    }
    let json = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/mix.json"));
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/mix.safetensors");
    let Cases { classes, smoothing, labels, cases } = serde_json::from_str(json).unwrap();
    let tensors = candle_core::safetensors::load(path, &Device::Cpu).unwrap();
    let images = &tensors["images"];
    let (_, _, height, width) = images.dims4().unwrap();
    assert_eq!(cases.iter().map(|case| case.draws.len()).collect::<Vec<_>>(), [5, 3, 1]);
    for Case { name, group, draws } in &cases {
        let draw = |drawn: &Drawn| match drawn.cutmix {
            false => Draw::Mixup { lambda: drawn.lam },
            true => Draw::cutmix((height, width), drawn.lam, (drawn.centre[0], drawn.centre[1])),
        };
        let draws: Vec<Draw> = draws.iter().map(draw).collect();
        let (mixed, targets) = mix::apply(images, &labels, classes, smoothing, (*group, &draws)).unwrap();
        close(&mixed, &tensors[&format!("{name}.images")], 1e-6, name);
        close(&targets, &tensors[&format!("{name}.targets")], 1e-6, name);
        let by_operators = mix::mixed_on_device(images, *group, &draws).unwrap();
        close(&by_operators, &mixed, 1e-6, name);
    }
}

#[test]
fn the_evaluation_protocol_is_torchvision_s() {
    #[derive(Deserialize, Debug)]
    struct Case {
        source: String,
        short: usize,
        size: [usize; 2],
        tensor: String,
    }
    let golden = Golden::read();
    for case in golden.cases::<Case>("pipeline") {
        let short = format!("op = \"resize_short\"\nsize = {}\ninterpolation = \"bicubic\"", case.short);
        let ops = [short.as_str(), "op = \"center_crop\""].map(|text| parse(text, "golden").unwrap());
        let all = Augmentations::builtin();
        let pipeline = Pipeline::new(&all, &ops, None, &Normalize::imagenet(3), case.size, 3).unwrap();
        let prepared =
            pipeline.prepare(sample(golden.source(&case.source)), &mut Rng::new(0, "eval", &[])).unwrap();
        let pixels = Tensor::from_vec(prepared.pixels, prepared.shape, &Device::Cpu).unwrap();
        close(&pixels, &golden.tensors[&case.tensor], 1e-6, &case);
    }
}
