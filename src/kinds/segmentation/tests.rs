//! The kind by hand: options and recipes, targets, the perfect prediction, stitching of windows.

use super::head::default_taps;
use super::inference::{self, SegmentationOptions};
use super::stitch::BestClass;
use super::*;
use crate::data::{Batch, Geometry, Raster, RasterFile, SourceTransform};
use crate::models::Features;
use crate::nn::{Params, Pass};
use crate::rng::Rng;
use crate::task::Head;
use candle_core::{Device, IndexOp, Tensor};
use rand::Rng as _;

fn dataset(classes: usize) -> DatasetInfo {
    let classes = (0..classes).map(|k| format!("class {k}")).collect();
    DatasetInfo { name: "d".into(), version: "1".into(), classes, ..DatasetInfo::default() }
}

fn task(options: &str, config: &str) -> Result<SegmentationTask> {
    SegmentationTask::new(toml::from_str(options)?, toml::from_str(config)?, &dataset(3))
}

const SPEC: BackboneSpec = BackboneSpec { width: 8, depth: 4, patch: 4 };

fn noise(shape: &[usize], stream: u64) -> Tensor {
    let mut rng = Rng::new(3, "noise", &[stream]);
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| rng.random_range(-1f32..1.)).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

/// Taps of two images of 8×8 pixels.
fn features() -> Features {
    Features { taps: (0..4).map(|k| noise(&[2, 4, 8], k)).collect(), cls: None, grid: (2, 2) }
}

fn target(labels: Vec<u16>) -> SegmentationTarget {
    SegmentationTarget::new(Raster::new(8, 8, labels), None)
}

fn batch(targets: [Vec<u16>; 2]) -> Batch<SegmentationTarget> {
    let ids = (0..2).map(|i| SampleId::new(i.to_string())).collect();
    let targets = targets.map(target).to_vec();
    Batch {
        ids,
        images: noise(&[2, 3, 8, 8], 9),
        views: vec![],
        source_transforms: vec![SourceTransform::new((8, 8)); 2],
        targets,
    }
}

fn losses(config: &str, targets: [Vec<u16>; 2]) -> Vec<(&'static str, f32)> {
    let head = task("", config).unwrap().head(&SPEC, Params::new(0, &Device::Cpu).builder()).unwrap();
    let mut rng = Rng::new(0, "pass", &[]);
    let losses = head.loss(&features(), &batch(targets), &mut Pass::train(&mut rng)).unwrap();
    losses.iter().map(|(name, loss)| (name, loss.to_scalar().unwrap())).collect()
}

#[test]
fn taps_are_those_of_the_papers() {
    assert_eq!(default_taps(12), [3, 5, 7, 11]);
    assert_eq!(default_taps(24), [7, 11, 15, 23]);
    assert_eq!(default_taps(6), [0, 2, 3, 5]);
    assert_eq!(default_taps(2), [0, 0, 0, 1]);
}

#[test]
fn options_and_recipes_are_checked() {
    for (options, config, words) in [
        ("stride = 0.0", "", "stride is 0"),
        ("stride = 1.5", "", "stride is 1.5"),
        ("stride = 0.5\nscales = []", "", "scales are []"),
        ("stride = 0.5\nscales = [1.0, 0.0]", "", "scales are [1.0, 0.0]"),
        ("stride = 0.5\nscales = [-1.0]", "", "scales are [-1.0]"),
        ("stride = 0.5\nscales = [inf]", "", "scales are [inf]"),
        ("scales = [0.5]", "", "set `stride`"),
        ("flip = true", "", "set `stride`"),
        ("", "dropout = 1.0", "dropout is 1"),
        ("", "pool_scales = [1, 0]", "pool_scales are [1, 0]"),
        ("", "taps = [1, 2]", "taps are 2 blocks"),
        ("", "channels = 0", "channels is 0"),
        ("", "auxiliary = { weight = 0.0, channels = 8 }", "auxiliary.weight is 0"),
        ("", "class_weight = { \"class 1\" = 0.0 }", "`class 1` is 0"),
        (
            "",
            "class_weight = { sky = 2.0 }",
            "`sky`, which is not one of the classes class 0, class 1, class 2",
        ),
    ] {
        let error = task(options, config).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
    assert!(task("stride = 1.0\nscales = [0.5, 1.0]\nflip = true", "").is_ok());
    assert!(task("strides = 0.5", "").is_err());
    assert!(task("", "auxiliary = { weight = 0.4 }").is_err());
    let far = task("", "taps = [0, 1, 2, 4]").unwrap();
    let error = far.head(&SPEC, Params::new(0, &Device::Cpu).builder()).err().unwrap().to_string();
    assert!(error.contains("four blocks of 0..4"), "{error}");
}

#[test]
fn maps_of_turned_images_are_refused() {
    let source = SourceTransform::new((4, 6));
    assert!(BestClass::new(2, &source).is_ok());
    // Mirrored, of no size, sheared: x' = a·x + b·y + c, y' = d·x + e·y + f.
    for (k, value) in [(0, -1.), (0, 0.), (1, 0.1), (3, -0.1), (4, -1.), (4, 0.)] {
        let mut turned = source;
        turned.geometry.forward[k] = value;
        let error = BestClass::new(2, &turned).err().unwrap().to_string();
        assert!(error.contains("rotates or flips"), "{k}: {error}");
    }
}

#[test]
fn parameters_have_the_names_of_mmsegmentation() -> Result<()> {
    let params = Params::new(0, &Device::Cpu);
    task("", "channels = 6\nauxiliary = { weight = 0.4, channels = 5 }")?.head(&SPEC, params.builder())?;
    for (name, shape) in [
        ("fpn1.1.running_mean", vec![8]),
        ("fpn2.0.weight", vec![8, 8, 2, 2]),
        ("decode_head.psp_modules.3.1.conv.weight", vec![6, 8, 1, 1]),
        ("decode_head.psp_modules.0.1.bn.running_var", vec![6]),
        ("decode_head.bottleneck.conv.weight", vec![6, 8 + 4 * 6, 3, 3]),
        ("decode_head.lateral_convs.2.conv.weight", vec![6, 8, 1, 1]),
        ("decode_head.fpn_convs.2.bn.weight", vec![6]),
        ("decode_head.fpn_bottleneck.conv.weight", vec![6, 24, 3, 3]),
        ("decode_head.conv_seg.weight", vec![3, 6, 1, 1]),
        ("auxiliary_head.convs.0.conv.weight", vec![5, 8, 3, 3]),
        ("auxiliary_head.conv_seg.bias", vec![3]),
    ] {
        let parameter = params.get(name).unwrap_or_else(|| panic!("no `{name}`"));
        assert_eq!(parameter.var.dims(), shape, "{name}");
    }
    for name in ["decode_head.bottleneck.conv.bias", "decode_head.lateral_convs.3.conv.weight"] {
        assert!(params.get(name).is_none(), "{name}");
    }
    Ok(())
}

/// The classifiers start near 0: every loss starts near the logarithm of the number of classes.
#[test]
fn losses_start_at_chance_and_ignored_pixels_count_as_the_rule_says() {
    let half = |rest: u16| (0..64).map(|i| if i < 32 { i % 3 } else { rest }).collect::<Vec<u16>>();
    let auxiliary = "\nauxiliary = { weight = 0.5, channels = 8 }";
    let chance = 3f32.ln();
    for (average, share) in [("all", 0.5), ("valid", 1.)] {
        let found = losses(&format!("average = \"{average}\"{auxiliary}"), [half(IGNORE), half(IGNORE)]);
        assert_eq!(found.iter().map(|(name, _)| *name).collect::<Vec<_>>(), ["cross_entropy", "auxiliary"]);
        assert!((found[0].1 - share * chance).abs() < 0.05, "{average}: {found:?}");
        assert!((found[1].1 - 0.5 * share * chance).abs() < 0.05, "{average}: {found:?}");
    }
    assert_eq!(losses("average = \"valid\"", [vec![IGNORE; 64], vec![IGNORE; 64]]), [("cross_entropy", 0.)]);
}

#[test]
fn a_target_is_the_mask_of_its_entry() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.png");
    std::fs::write(&path, Raster::new(1, 2, vec![2, 0]).to_png(&[0, 1, 2], &[]).unwrap()).unwrap();
    let encoding =
        crate::data::LabelEncoding::Ids(crate::data::LabelTable::new([(0, IGNORE), (1, 0), (2, 1)]).unwrap());
    let mask = RasterFile { path, encoding: std::sync::Arc::new(encoding) };
    let entry = |annotation| Entry {
        id: SampleId::new("x/1.png"),
        image: crate::data::ImageRef::File("x/1.png".into()),
        annotation,
    };
    let task = task("", "").unwrap();
    let target = task.target(&entry(Annotation::Raster(mask))).unwrap();
    assert_eq!(target.source().labels, [1, IGNORE]);
    assert_eq!(task.perfect(&target).labels, [1, 0]);
    use crate::data::Geometric;
    assert!(target.fits((1, 2)).is_ok());
    let error = target.fits((2, 2)).unwrap_err();
    assert!(error.contains("m.png` has 1x2 pixels, but the image has 2x2"), "{error}");
    assert!(task.target(&entry(Annotation::None)).unwrap_err().to_string().contains("x/1.png"));
}

/// A stand-in for a network: the logits of a pixel are a function of the pixel, at the full size of the window.
fn pixelwise(images: &Tensor) -> candle_core::Result<Tensor> {
    Tensor::cat(&[images.i((.., 0..1))?, images.i((.., 1..2))?, (images.i((.., 2..3))? * 1.5)?], 1)
}

fn best(image: &Tensor) -> Vec<u16> {
    let values = pixelwise(image).unwrap().squeeze(0).unwrap().argmax(0).unwrap();
    values.flatten_all().unwrap().to_vec1::<u32>().unwrap().into_iter().map(|k| k as u16).collect()
}

#[test]
fn windows_of_a_pixelwise_network_change_nothing() {
    for (size, window, stride) in [
        ((13, 9), (4, 4), 0.7),
        ((4, 4), (4, 4), 1.),
        ((3, 11), (4, 6), 0.5),
        ((1, 1), (8, 8), 0.3),
        ((9, 20), (8, 8), 0.01),
    ] {
        let image = noise(&[1, 3, size.0, size.1], 1);
        let options = SegmentationOptions { stride: Some(stride), ..SegmentationOptions::default() };
        let found = options.slide(&image, &SourceTransform::new(size), window, 3, &pixelwise).unwrap();
        assert_eq!((found.size(), found.labels), (size, best(&image)), "{size:?} by {window:?}, {stride}");
    }
}

#[test]
fn a_mirrored_view_of_a_pixelwise_network_changes_nothing() {
    let image = noise(&[1, 3, 7, 10], 2);
    let options = SegmentationOptions { stride: Some(0.5), flip: true, scales: vec![1., 1.] };
    let found = options.slide(&image, &SourceTransform::new((7, 10)), (4, 4), 3, &pixelwise).unwrap();
    assert_eq!(found.labels, best(&image));
}

/// A step from class 0 to class 1 stays where it is in every view, and at twice the size.
#[test]
fn labels_come_back_to_the_source_from_every_scale() {
    let (h, w) = (12, 16);
    let step: Vec<f32> = (0..3 * h * w)
        .map(|i| match (i / (h * w), i % w < w / 2) {
            (0, true) | (1, false) => 1.,
            _ => 0.,
        })
        .collect();
    let image = Tensor::from_vec(step, (1, 3, h, w), &Device::Cpu).unwrap();
    let whole = Geometry::crop_resize((24, 32), 0., 0., 24., 32., (h, w));
    let source_transform = SourceTransform { source: (24, 32), geometry: whole };
    for scales in [vec![1.], vec![0.5, 1., 1.75]] {
        let options = SegmentationOptions { stride: Some(0.67), flip: scales.len() > 1, scales };
        let found = options.slide(&image, &source_transform, (8, 8), 3, &pixelwise).unwrap();
        let expected: Vec<u16> = (0..24 * 32).map(|i| u16::from(i % 32 >= 16)).collect();
        assert_eq!(found.labels, expected, "{:?}", options.scales);
    }
}

#[test]
fn padding_of_the_protocol_is_not_part_of_the_source() {
    // A source of 2×2 in the upper left of an input of 4×4.
    let geometry = Geometry::crop_resize((2, 2), 0., 0., 4., 4., (4, 4));
    let source_transform = SourceTransform { source: (2, 2), geometry };
    let logits = noise(&[1, 3, 4, 4], 5);
    let found = inference::whole(&logits, &[source_transform], (4, 4)).unwrap();
    let inside = logits.narrow(2, 0, 2).unwrap().narrow(3, 0, 2).unwrap().squeeze(0).unwrap();
    let expected = inside.contiguous().unwrap().argmax(0).unwrap().flatten_all().unwrap();
    let expected: Vec<u16> = expected.to_vec1::<u32>().unwrap().into_iter().map(|k| k as u16).collect();
    assert_eq!(found[0].labels, expected);
    let mirrored = SourceTransform { source: (4, 4), geometry: Geometry::flip((4, 4)) };
    assert!(inference::whole(&logits, &[mirrored], (4, 4)).unwrap_err().to_string().contains("flips"));
}

#[test]
fn logits_that_are_not_numbers_are_an_error() {
    let broken = |images: &Tensor| pixelwise(images)? * f64::NAN;
    let options = SegmentationOptions { stride: Some(0.5), ..SegmentationOptions::default() };
    let image = noise(&[1, 3, 4, 4], 6);
    let error =
        options.slide(&image, &SourceTransform::new((4, 4)), (4, 4), 3, &broken).unwrap_err().to_string();
    assert!(error.contains("not finite"), "{error}");
}

#[test]
fn views_without_room_are_refused() {
    let options = SegmentationOptions { stride: Some(1.), flip: true, ..SegmentationOptions::default() };
    let image = Tensor::zeros((1, 3, 4, 4), candle_core::DType::F32, &Device::Cpu).unwrap();
    let image = image.broadcast_as((1, 3, 4, 4)).unwrap();
    let classes = (1 << 28) / 16 + 1;
    let error = options
        .slide(&image, &SourceTransform::new((4, 4)), (4, 4), classes, &pixelwise)
        .unwrap_err()
        .to_string();
    assert!(error.contains("1 GiB"), "{error}");
}
