//! What random draws give, how targets move, what is refused.

use super::super::{Geometric, Geometry, Image, Sample, SampleId, Size};
use super::color::{Adjustment, ColorJitter};
use super::crop::{Flip, RandomCrop, RandomResizedCrop};
use super::mix::{Draw, Mix, mix_batch};
use super::point::equalize;
use super::rand_augment::{Op, RandAugment};
use super::resample::{Rect, resize};
use super::resize::{CenterCrop, Resize};
use super::scale::{FixedSizeCrop, Pad, ResizeLongest, ResizeScale};
use super::scene::ResizeWithin;
use super::{Augmentation, Augmentations, ModelInput, Pipeline, PrepareSample, SampleMut, Transform, erase};
use crate::config::{Erase, Interpolation, Normalize, Operation, parse};
use crate::rng::Rng;
use candle_core::{Device, Tensor};
use proptest::prelude::*;
use rand_distr::Normal;

const DRAWS: u64 = 4000;
const BICUBIC: Interpolation = Interpolation::Bicubic;

fn rng(k: u64) -> Rng {
    Rng::new(7, "augment", &[k])
}

/// A target that is a place in the image.
#[derive(Clone, Copy, Debug)]
struct Point(f64, f64);

impl Geometric for Point {
    fn apply(&mut self, geometry: &Geometry) {
        (self.0, self.1) = geometry.point(self.0, self.1);
    }
}

/// A bright spot, five pixels wide, on black; the target is its centre of mass.
fn spot((height, width): Size, (y, x): (usize, usize)) -> Sample<Point> {
    let mut image = Image::new(height, width, 1, vec![0; height * width]);
    for (dy, row) in [(0, [20, 60, 80, 60, 20]), (1, [60, 160, 200, 160, 60]), (2, [80, 200, 255, 200, 80])] {
        for y in [y - 2 + dy, y + 2 - dy] {
            image.data[y * width + x - 2..y * width + x + 3].copy_from_slice(&row);
        }
    }
    Sample::new(SampleId::new("spot"), image, Point(x as f64 + 0.5, y as f64 + 0.5))
}

/// Centre of mass of the pixels.
fn centre(image: &Image) -> Point {
    let (mut total, mut sx, mut sy) = (0., 0., 0.);
    for (i, byte) in image.data.iter().enumerate() {
        let weight = f64::from(*byte);
        total += weight;
        sx += weight * ((i % image.width) as f64 + 0.5);
        sy += weight * ((i / image.width) as f64 + 0.5);
    }
    Point(sx / total, sy / total)
}

fn moves_its_target(step: &dyn Transform, what: &dyn std::fmt::Debug) {
    for k in 0..20 {
        let mut sample = spot((60, 80), (28, 37));
        let start = sample.target;
        step.apply(&mut SampleMut::of(&mut sample), &mut rng(k)).unwrap();
        let (target, found) = (sample.target, centre(&sample.image));
        let moved = sample.source_transform.geometry.point(start.0, start.1);
        assert_eq!(moved, (target.0, target.1), "{what:?}: the source transform knows");
        let distance = (target.0 - found.0).hypot(target.1 - found.1);
        assert!(distance < 0.3, "{what:?}: target {target:?}, pixels {found:?}");
        assert_eq!(sample.source_transform.geometry.to, sample.image.size());
    }
}

#[test]
fn targets_move_with_the_pixels() {
    moves_its_target(&Flip { p: 0.5 }, &"flip");
    moves_its_target(&Resize { size: (90, 70), interpolation: BICUBIC }, &"resize");
    moves_its_target(&CenterCrop { size: (41, 101) }, &"center_crop");
    for reflect in [false, true] {
        moves_its_target(&RandomCrop { size: (58, 79), padding: 3, reflect }, &"random_crop");
    }
    let (scale, ratio) = ([0.9, 1.], [1.2, 1.4]);
    let crop = RandomResizedCrop { size: (50, 50), scale, ratio, interpolation: BICUBIC, single_draw: false };
    moves_its_target(&crop, &"random_resized_crop");
    let interpolation = Interpolation::Bilinear;
    moves_its_target(&ResizeScale { size: (90, 70), scale: [0.7, 1.9], interpolation }, &"resize_scale");
    moves_its_target(&ResizeLongest { size: 77, interpolation }, &"resize_longest");
    for size in [(58, 78), (57, 99), (88, 90)] {
        moves_its_target(&FixedSizeCrop { size, fill: vec![0] }, &"fixed_size_crop");
    }
    moves_its_target(&Pad { size: (60, 99), fill: vec![0] }, &"pad");
    for index in [3, 11, 12, 13, 14] {
        for (negative, interpolation) in [(false, BICUBIC), (true, Interpolation::Bilinear)] {
            let op = Op::new(index, 5., negative);
            let mut sample = spot((60, 80), (28, 37));
            op.apply(&mut SampleMut::of(&mut sample), interpolation, &[0]).unwrap();
            let (target, found) = (sample.target, centre(&sample.image));
            assert!((target.0 - found.0).hypot(target.1 - found.1) < 0.3, "{op:?}: {target:?}, {found:?}");
            assert!((target.0 - 37.5).hypot(target.1 - 28.5) > 0.5, "{op:?} does not move");
        }
    }
}

proptest! {
    #[test]
    fn a_random_resized_crop_lies_inside_and_fills_the_result(
        height in 1usize..90, width in 1usize..90, least in 0.05f64..1., single_draw: bool, seed: u64,
    ) {
        let (scale, ratio) = ([least, 1.], [3. / 4., 4. / 3.]);
        let step = RandomResizedCrop { size: (8, 6), scale, ratio, interpolation: BICUBIC, single_draw };
        let rect = step.draw((height, width), &mut rng(seed));
        prop_assert!(rect.height >= 1 && rect.top + rect.height <= height, "{:?}", rect);
        prop_assert!(rect.width >= 1 && rect.left + rect.width <= width, "{:?}", rect);
        let image = Image::new(height, width, 3, vec![9; height * width * 3]);
        let mut sample = Sample::new(SampleId::new("crop"), image, ());
        step.apply(&mut SampleMut::of(&mut sample), &mut rng(seed)).unwrap();
        prop_assert_eq!(&sample.image, &Image::new(8, 6, 3, vec![9; 8 * 6 * 3]));
        let geometry = sample.source_transform.geometry;
        for (corner, expected) in [
            ((rect.left, rect.top), (0., 0.)),
            ((rect.left + rect.width, rect.top + rect.height), (6., 8.)),
        ] {
            let (x, y) = geometry.point(corner.0 as f64, corner.1 as f64);
            prop_assert!((x - expected.0).abs() < 1e-9 && (y - expected.1).abs() < 1e-9);
        }
    }

    #[test]
    fn two_flips_are_none(height in 1usize..9, width in 1usize..9, grey: bool, seed: u64) {
        let channels = if grey { 1 } else { 3 };
        let mut data = vec![0; height * width * channels];
        rand::RngCore::fill_bytes(&mut rng(seed), &mut data);
        let image = Image::new(height, width, channels, data);
        let mut sample = Sample::new(SampleId::new("flip"), image.clone(), Point(0.25, 0.5));
        Flip { p: 1. }.apply(&mut SampleMut::of(&mut sample), &mut rng(0)).unwrap();
        prop_assert_eq!(&sample.image.data[..channels], &image.data[(width - 1) * channels..width * channels]);
        Flip { p: 1. }.apply(&mut SampleMut::of(&mut sample), &mut rng(0)).unwrap();
        prop_assert_eq!(&sample.image, &image);
        prop_assert_eq!((sample.target.0, sample.target.1), (0.25, 0.5));
        prop_assert_eq!(sample.source_transform.geometry, Geometry::identity((height, width)));
    }

    #[test]
    fn one_colour_stays_one_colour(
        from in (1usize..40, 1usize..40), to in (1usize..40, 1usize..40), value: u8, filter in 0usize..4,
    ) {
        let filters = [Interpolation::Nearest, Interpolation::Bilinear, BICUBIC, Interpolation::Lanczos];
        let image = Image::new(from.0, from.1, 1, vec![value; from.0 * from.1]);
        let scaled = resize(&image, Rect::whole(from), to, filters[filter]).unwrap();
        prop_assert_eq!(scaled, Image::new(to.0, to.1, 1, vec![value; to.0 * to.1]));
    }
}

#[test]
fn what_is_outside_of_an_image_is_not_resized() {
    let image = Image::new(4, 6, 1, (0..24).collect());
    let resized = |top, left, height, width, to| {
        resize(&image, Rect { top, left, height, width }, to, Interpolation::Nearest)
    };
    assert_eq!(resized(1, 2, 3, 4, (3, 4)).unwrap().data, [8, 9, 10, 11, 14, 15, 16, 17, 20, 21, 22, 23]);
    for (top, left, height, width, to) in [
        (2, 2, 3, 4, (3, 4)),
        (1, 3, 3, 4, (3, 4)),
        (1, 2, 0, 4, (3, 4)),
        (1, 2, 3, 0, (3, 4)),
        (1, 2, 3, 4, (0, 4)),
        (1, 2, 3, 4, (3, 0)),
    ] {
        let error = resized(top, left, height, width, to).unwrap_err();
        assert!(error.contains(&format!("({top}, {left}) of an image of 4x6")), "{error}");
    }
}

#[test]
fn sizes_of_detectors_by_hand() {
    let interpolation = Interpolation::Bilinear;
    let jitter = ResizeScale { size: (1024, 1024), scale: [0.1, 2.], interpolation };
    // 480×640 fits 1024×1024 at 1.6, a tenth of it at 0.16: 76.8 and 102.4.
    assert_eq!(jitter.target((480, 640), 1.), (768, 1024));
    assert_eq!(jitter.target((480, 640), 0.1), (77, 102));
    assert_eq!(jitter.target((1, 640), 0.1), (1, 102));
    let longest = ResizeLongest { size: 1024, interpolation };
    // 427 · 1.6 = 683.2; 375 · 2.048 = 768.
    assert_eq!(longest.target((427, 640)), (683, 1024));
    assert_eq!(longest.target((500, 375)), (1024, 768));
    assert_eq!(longest.target((3000, 1)), (1024, 1));
    let crop = FixedSizeCrop { size: (512, 512), fill: vec![0] };
    assert_eq!(crop.corner((768, 1024), 0.5), (128, 256));
    assert_eq!(crop.corner((300, 1024), 0.999), (0, 511));
}

#[test]
fn padding_has_its_colour_and_is_known() {
    let image = || Image::new(2, 3, 3, vec![9; 2 * 3 * 3]);
    let padded = |step: &dyn Transform, seed| {
        let mut sample = Sample::new(SampleId::new("a"), image(), ());
        step.apply(&mut SampleMut::of(&mut sample), &mut rng(seed)).unwrap();
        sample
    };
    let sample = padded(&Pad { size: (3, 5), fill: vec![1, 2, 3] }, 0);
    assert_eq!(sample.image.size(), (3, 5));
    assert_eq!(sample.image.data[2 * 3..5 * 3], [9, 9, 9, 1, 2, 3, 1, 2, 3]);
    assert_eq!(sample.image.data[10 * 3..11 * 3], [1, 2, 3]);
    assert_eq!(sample.source_transform.shown(), [0., 0., 3., 2.]);
    let mut sample = padded(&FixedSizeCrop { size: (4, 2), fill: vec![7; 3] }, 1);
    assert_eq!((sample.image.size(), &sample.image.data[3 * 2 * 2..]), ((4, 2), &[7; 12][..]));
    assert_eq!(sample.source_transform.shown(), [0., 0., 2., 2.]);
    Flip { p: 1. }.apply(&mut SampleMut::of(&mut sample), &mut rng(0)).unwrap();
    assert_eq!(sample.source_transform.shown(), [0., 0., 2., 2.]);
    let mut sample = Sample::new(SampleId::new("a"), image(), ());
    let pad = Pad { size: (9, 2), fill: vec![0; 3] };
    let error = pad.apply(&mut SampleMut::of(&mut sample), &mut rng(0)).unwrap_err();
    assert_eq!(error, "pad to 9x2 pixels, but the image has 2x3");

    // Without a colour the padding becomes 0 by normalisation, up to the rounding of a byte.
    let sample = Sample::new(SampleId::new("a"), Image::new(8, 8, 3, vec![255; 192]), ());
    let prepared = pipeline(&["op = 'pad'"]).unwrap().prepare(sample, &mut rng(0)).unwrap();
    assert!(prepared.pixels[63].abs() < 0.01 && prepared.pixels[0] > 2., "{}", prepared.pixels[63]);
    let error = pipeline(&["op = 'pad'\nfill = [1, 2]"]).unwrap_err();
    assert_eq!(error, "pad: fill has 2 values, but the images have 3 channels");
    let scale = "op = 'resize_scale'\nscale = [2, 0.1]";
    assert_eq!(pipeline(&[scale]).unwrap_err(), "resize_scale: scale is [2, 0.1], expected 0 < low ≤ high");
}

#[test]
fn the_single_draw_is_clamped_where_the_other_draws_again() {
    let step = |single_draw| RandomResizedCrop {
        size: (8, 8),
        scale: [0.08, 1.],
        ratio: [3. / 4., 4. / 3.],
        interpolation: BICUBIC,
        single_draw,
    };
    // An area of 1000 at 4/3 is 36.5 wide and 27.4 high, in an image of 10×100.
    assert_eq!(step(true).shape((10, 100), 1., 4. / 3.), Some((10, 37)));
    assert_eq!(step(false).shape((10, 100), 1., 4. / 3.), None);
}

/// `found` of `DRAWS` within four standard deviations of a binomial.
fn frequent(found: u64, p: f64, what: &str) {
    let (mean, deviation) = (DRAWS as f64 * p, (DRAWS as f64 * p * (1. - p)).sqrt());
    assert!((found as f64 - mean).abs() <= 4. * deviation, "{what}: {found}, expected {mean} ± {deviation}");
}

/// Fails unless the values lie evenly in low..=high.
fn covers(values: &[f64], low: f64, high: f64) {
    for part in 0..4 {
        let (from, to) =
            (low + (high - low) * f64::from(part) / 4., low + (high - low) * f64::from(part + 1) / 4.);
        let found = values.iter().filter(|value| (from..=to).contains(value)).count() as f64;
        assert!(
            (found / values.len() as f64 - 0.25).abs() < 0.04,
            "{found} of {} in {from}..{to}",
            values.len()
        );
    }
}

#[test]
fn factors_and_places_are_drawn_evenly() {
    let (interpolation, scale) = (Interpolation::Bilinear, [0.5, 1.5]);
    // The width of the result, and where the left edge of the image lies in it.
    let drawn = |step: &dyn Transform| -> (Vec<f64>, Vec<f64>) {
        let one = |k| {
            let image = Image::new(2, 400, 1, vec![0; 2 * 400]);
            let mut sample = Sample::new(SampleId::new("strip"), image, Point(0., 0.));
            step.apply(&mut SampleMut::of(&mut sample), &mut rng(k)).unwrap();
            (sample.image.width as f64, sample.target.0)
        };
        (0..DRAWS).map(one).unzip()
    };
    covers(&drawn(&ResizeScale { size: (400, 400), scale, interpolation }).0, 200., 600.);
    covers(&drawn(&ResizeWithin { short: 400, long: 400, scale, interpolation }).0, 200., 600.);
    covers(&drawn(&FixedSizeCrop { size: (2, 100), fill: vec![0] }).1, -300., 0.);
    let crop = RandomCrop { size: (2, 100), padding: 0, reflect: false };
    covers(&drawn(&crop).1, -300., 0.);
}

#[test]
fn rand_augment_draws_every_operation_alike() {
    let magnitude = Normal::new(9., 0.5).unwrap();
    let step = RandAugment { layers: 2, p: 0.5, magnitude, interpolation: BICUBIC, fill: vec![0] };
    let (mut both, mut rotations, mut contrasts, mut left) = (0, Vec::new(), 0, 0);
    for k in 0..DRAWS {
        let ops = step.draw(&mut rng(k));
        both += u64::from(ops.len() == 2);
        for op in ops {
            match op {
                Op::Rotate(degrees) => rotations.push(degrees),
                Op::AutoContrast => contrasts += 1,
                Op::TranslateX(part) => left += u64::from(part < 0.),
                Op::Brightness(factor) => assert!((0.1..=0.4).contains(&factor) || factor >= 1.6, "{factor}"),
                _ => {}
            }
        }
    }
    frequent(both, 0.25, "both layers");
    frequent(contrasts, 1. / 15., "autocontrast");
    frequent(rotations.len() as u64, 1. / 15., "rotate");
    frequent(left, 1. / 30., "translate to the left");
    assert!(rotations.iter().all(|d| (20. ..=30.).contains(&d.abs())), "{rotations:?}");
    let mean = rotations.iter().map(|d| d.abs()).sum::<f64>() / rotations.len() as f64;
    // 27° with a deviation of 1.5°, a little less for the clipped tail.
    assert!((mean - 27.).abs() < 0.4, "{mean}");
}

#[test]
fn colour_jitter_draws_from_its_ranges_in_every_order() {
    let step = ColorJitter { brightness: 0.4, contrast: 1.5, saturation: 0., hue: 0.1 };
    let (mut first, mut values) = ([0; 3], [vec![], vec![], vec![]]);
    for k in 0..DRAWS {
        let drawn = step.draw(&mut rng(k));
        assert_eq!(drawn.len(), 3, "saturation is off");
        for adjustment in &drawn {
            match *adjustment {
                Adjustment::Brightness(factor) => values[0].push(factor),
                Adjustment::Contrast(factor) => values[1].push(factor),
                Adjustment::Saturation(_) => panic!("saturation is off"),
                Adjustment::Hue(turn) => values[2].push(turn),
            }
        }
        match drawn[0] {
            Adjustment::Brightness(_) => first[0] += 1,
            Adjustment::Contrast(_) => first[1] += 1,
            _ => first[2] += 1,
        }
    }
    first.iter().for_each(|n| frequent(*n, 1. / 3., "first"));
    for (values, [low, high]) in values.iter().zip([[0.6, 1.4], [0., 2.5], [-0.1, 0.1]]) {
        covers(values, low, high);
    }
}

/// Shares of the area and logarithms of the aspect are uniform where every rectangle fits, and so are its places.
#[test]
fn rectangles_have_all_shares_aspects_and_places() {
    let size = (200, 300);
    let crop = RandomResizedCrop {
        size: (8, 8),
        scale: [0.05, 0.3],
        ratio: [0.5, 2.],
        interpolation: BICUBIC,
        single_draw: false,
    };
    let erase = Erase { p: 1., area: [0.05, 0.3], ratio: [0.5, 2.] };
    let draws: [&dyn Fn(u64) -> Rect; 2] =
        [&|k| crop.draw(size, &mut rng(k)), &|k| erase::draw(&erase, size, &mut rng(k)).unwrap()];
    for draw in draws {
        let rects: Vec<Rect> = (0..DRAWS).map(draw).collect();
        let values = |of: &dyn Fn(&Rect) -> f64| rects.iter().map(of).collect::<Vec<_>>();
        covers(&values(&|rect| (rect.height * rect.width) as f64 / 60_000.), 0.05, 0.3);
        let limit = 2f64.ln();
        covers(&values(&|rect| (rect.height as f64 / rect.width as f64).ln()), -limit, limit);
        covers(&values(&|rect| rect.top as f64 / (200 - rect.height) as f64), 0., 1.);
        covers(&values(&|rect| rect.left as f64 / (300 - rect.width) as f64), 0., 1.);
    }
}

#[test]
fn erasing_covers_its_share_with_noise() {
    let config = Erase { p: 0.25, area: [0.02, 1. / 3.], ratio: [0.3, 1. / 0.3] };
    let (size, mut erased) = ((64, 64), 0);
    for k in 0..DRAWS {
        let Some(rect) = erase::draw(&config, size, &mut rng(k)) else { continue };
        erased += 1;
        let part = (rect.height * rect.width) as f64 / (64. * 64.);
        assert!((0.015..0.36).contains(&part), "{rect:?}");
        assert!(rect.top + rect.height <= 64 && rect.left + rect.width <= 64, "{rect:?}");
    }
    frequent(erased, 0.25, "erased");
    let mut pixels = vec![100f32; 3 * 64 * 64];
    let rect = Rect { top: 10, left: 20, height: 30, width: 40 };
    erase::fill(&mut pixels, size, rect, &mut rng(0));
    let noise: Vec<f32> = pixels.iter().copied().filter(|p| *p != 100.).collect();
    assert_eq!(noise.len(), 3 * 30 * 40);
    assert!([10 * 64 + 20, 2 * 4096 + 39 * 64 + 59].iter().all(|i| pixels[*i] != 100.));
    let mean = noise.iter().sum::<f32>() / noise.len() as f32;
    let variance = noise.iter().map(|n| (n - mean).powi(2)).sum::<f32>() / noise.len() as f32;
    assert!(mean.abs() < 0.07 && (variance - 1.).abs() < 0.1, "{mean} {variance}");
}

#[test]
fn a_crop_that_never_fits_is_the_largest_central_one() {
    let crop = RandomResizedCrop {
        size: (8, 8),
        scale: [0.2, 1.],
        ratio: [3. / 4., 4. / 3.],
        interpolation: BICUBIC,
        single_draw: false,
    };
    for (size, (top, left, height, width)) in [
        ((100, 100), (0, 0, 100, 100)),
        ((90, 110), (0, 0, 90, 110)),
        ((120, 100), (0, 0, 120, 100)),
        ((200, 60), (60, 0, 80, 60)),
        ((60, 200), (0, 60, 60, 80)),
        ((1, 500), (0, 249, 1, 1)),
        ((500, 1), (249, 0, 1, 1)),
    ] {
        assert_eq!(crop.central(size), Rect { top, left, height, width }, "{size:?}");
    }
}

/// The values of Pillow 13.0 for an image of 1,024 pixels, where a level is more than one pixel.
#[test]
fn equalizing_many_pixels_is_pillow_s() {
    for (counts, expected) in
        [([300, 200, 300, 224], [0, 100, 167, 255]), ([510, 255, 200, 59], [0, 170, 255, 255])]
    {
        let pixels = |values: [u8; 4]| -> Vec<u8> {
            counts.iter().zip(values).flat_map(|(count, value)| vec![value; *count]).collect()
        };
        let mut image = Image::new(32, 32, 1, pixels([10, 50, 90, 200]));
        equalize(&mut image);
        assert_eq!(image.data, pixels(expected), "{counts:?}");
    }
}

#[test]
fn mixing_draws_its_methods_as_often_as_asked() {
    let mix = Mix { mixup: 0.8, cutmix: 1., prob: 0.8, switch_prob: 0.25, group: None };
    let (mut none, mut cut, mut low) = (0, 0, 0);
    for k in 0..DRAWS {
        match mix.draw((32, 48), &mut rng(k)).unwrap() {
            Draw::Nothing => none += 1,
            Draw::Mixup { lambda } => low += u64::from(lambda < 0.5),
            Draw::Cutmix { y, x } => {
                cut += 1;
                assert!(y.0 <= y.1 && y.1 <= 32 && x.0 <= x.1 && x.1 <= 48, "{y:?} {x:?}");
            }
        }
    }
    for (mixup, cutmix) in [(0., 0.), (0.8, 0.), (0., 1.)] {
        let mix = Mix { mixup, cutmix, prob: 1., switch_prob: 0.5, group: None };
        for k in 0..20 {
            let drawn = mix.draw((32, 48), &mut rng(k)).unwrap();
            let found = (matches!(drawn, Draw::Mixup { .. }), matches!(drawn, Draw::Cutmix { .. }));
            assert_eq!(found, (mixup > 0., cutmix > 0.), "an α of 0 switches its method off");
        }
    }
    frequent(none, 0.2, "nothing");
    frequent(cut, 0.8 * 0.25, "cutmix");
    frequent(low, 0.8 * 0.75 / 2., "λ below one half");
    let only = Mix { mixup: 0., cutmix: 1., prob: 1., switch_prob: 0., group: None };
    assert!(matches!(only.draw((8, 8), &mut rng(0)).unwrap(), Draw::Cutmix { .. }));
}

#[test]
fn each_group_has_a_lambda_of_its_own() {
    let mix = |group: &str| parse::<Mix>(&format!("mixup = 0.8\n{group}"), "test").unwrap();
    let images = Tensor::arange(0f32, 10., &Device::Cpu).unwrap().reshape((10, 1, 1, 1)).unwrap();
    let labels: Vec<u32> = (0..10).collect();
    // The λ of each image, which is the weight of its own label.
    let lambdas = |mix: &Mix| -> Vec<f32> {
        let (mixed, targets) = mix_batch(&images, &labels, 10, 0., mix, &mut rng(3)).unwrap();
        let targets = targets.to_vec2::<f32>().unwrap();
        let expected: Vec<f32> = targets
            .iter()
            .map(|row| row.iter().zip(0u8..).map(|(weight, k)| weight * f32::from(k)).sum())
            .collect();
        let mixed = mixed.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert!(mixed.iter().zip(&expected).all(|(m, e)| (m - e).abs() < 1e-5), "{mixed:?} {expected:?}");
        targets.iter().enumerate().map(|(k, row)| row[k]).collect()
    };
    let whole = lambdas(&mix(""));
    assert!(whole.iter().all(|lambda| *lambda == whole[0]), "{whole:?}");
    // Groups of four, four and two; the first draws what the whole batch draws.
    let grouped = lambdas(&mix("group = 4"));
    let of_groups: Vec<&[f32]> = grouped.chunks(4).collect();
    assert!(of_groups.iter().all(|group| group.iter().all(|lambda| *lambda == group[0])), "{grouped:?}");
    assert_eq!(grouped[0], whole[0]);
    assert!(grouped[0] != grouped[4] && grouped[4] != grouped[8] && grouped[0] != grouped[8], "{grouped:?}");
    assert_eq!(lambdas(&mix("group = 64")), whole);
    assert!(parse::<Mix>("mixup = 0.8\ngroup = 0", "test").is_err());
    assert!(!toml::to_string(&mix("")).unwrap().contains("group"));
}

/// The operations of these tables.
fn operations(tables: &[&str]) -> Vec<Operation> {
    tables.iter().map(|text| parse(text, "test").unwrap()).collect()
}

fn pipeline(tables: &[&str]) -> Result<Pipeline, String> {
    let (augmentations, operations) = (Augmentations::builtin(), operations(tables));
    Pipeline::new(&augmentations, &operations, None, &Normalize::imagenet(3), [64, 64], 3)
        .map_err(|e| e.to_string())
}

#[test]
fn an_image_of_the_wrong_shape_is_refused() {
    let sample = |h, w, c| Sample::new(SampleId::new("a"), Image::new(h, w, c, vec![0; h * w * c]), 0u32);
    let plain = pipeline(&[]).unwrap();
    let prepared = plain.prepare(sample(64, 64, 3), &mut rng(0)).unwrap();
    assert_eq!((prepared.shape, prepared.pixels.len()), ((3, 64, 64), 3 * 64 * 64));
    let error = plain.prepare(sample(64, 64, 1), &mut rng(0)).unwrap_err();
    assert_eq!(error, "the image has 1 channels, but the model's input has 3");
    let error = pipeline(&["op = 'resize_short'\nsize = 64", "op = 'flip'\np = 0.5"])
        .unwrap()
        .prepare(sample(80, 100, 3), &mut rng(0))
        .unwrap_err();
    assert_eq!(
        error,
        "the pipeline [resize_short, flip] ends with 64x80 but the model's input is 64x64: end it with resize, \
         center_crop or random_resized_crop"
    );
    let error = pipeline(&["op = 'random_crop'\nsize = [64, 64]\npadding = 4"])
        .unwrap()
        .prepare(sample(32, 99, 3), &mut rng(0))
        .unwrap_err();
    assert_eq!(error, "random_crop takes 64x64 pixels, but the image has 32x99 with a padding of 4");
}

#[test]
fn the_margin_of_the_evaluation_ends_where_it_should() {
    let prepared_from = |input: usize, margin_up_to: Option<usize>| {
        let margin = margin_up_to.map_or(String::new(), |pixels| format!("margin_up_to = {pixels}"));
        let short = format!("op = 'resize_short'\ncrop_ratio = 0.875\ninterpolation = 'nearest'\n{margin}");
        let (all, ops) = (Augmentations::builtin(), operations(&[&short, "op = 'center_crop'"]));
        let pipeline = Pipeline::new(&all, &ops, None, &Normalize::imagenet(1), [input; 2], 1).unwrap();
        let image = Image::new(512, 512, 1, vec![0; 512 * 512]);
        let sample = Sample::new(SampleId::new("a"), image, ());
        // The width of the part that the model sees.
        let back =
            pipeline.prepare(sample, &mut rng(0)).unwrap().source_transform.geometry.inverse().unwrap();
        back.point(input as f64, 0.).0 - back.point(0., 0.).0
    };
    assert!((prepared_from(224, Some(224)) - 448.).abs() < 1e-9);
    assert!((prepared_from(448, Some(224)) - 512.).abs() < 1e-9);
    assert!((prepared_from(448, None) - 448.).abs() < 1e-9);
}

#[test]
fn numbers_that_cannot_work_are_refused() {
    for (table, error) in [
        (
            "op = 'random_resized_crop'\nscale = [0, 1]",
            "random_resized_crop: scale is [0, 1], expected 0 < low ≤ high",
        ),
        (
            "op = 'random_resized_crop'\nscale = [0.1, 1]\nratio = [1.3, 0.7]",
            "random_resized_crop: ratio is [1.3, 0.7], expected 0 < low ≤ high",
        ),
        ("op = 'flip'\np = 1.5", "flip: p is 1.5, expected 0 to 1"),
        ("op = 'resize'\nsize = [0, 9]", "size [0, 9] of an operation is empty"),
        (
            "op = 'color_jitter'\nbrightness = 0.4\ncontrast = 0.4\nsaturation = 0.4\nhue = 0.6",
            "color_jitter: hue is 0.6, expected 0 to 0.5",
        ),
        (
            "op = 'color_jitter'\nbrightness = 0.4\ncontrast = -0.4\nsaturation = 0.4\nhue = 0.1",
            "color_jitter: contrast is -0.4, expected 0 or more",
        ),
        (
            "op = 'color_jitter'\nbrightness = 0.4\ncontrast = 0.4\nsaturation = inf\nhue = 0.1",
            "color_jitter: saturation is inf, expected 0 or more",
        ),
        ("op = 'rand_augment'\nmagnitude = 11", "rand_augment: magnitude is 11, expected 0 to 10"),
        (
            "op = 'rand_augment'\nmagnitude = 9\nmagnitude_std = -1",
            "rand_augment: magnitude_std is -1, expected 0 or more",
        ),
        (
            "op = 'rand_augment'\nmagnitude = 9\ninterpolation = 'lanczos'",
            "rand_augment: interpolation is lanczos, expected nearest, bilinear or bicubic",
        ),
    ] {
        assert_eq!(pipeline(&[table]).unwrap_err(), error);
    }
    assert_eq!(
        Pipeline::new(&Augmentations::builtin(), &[], None, &Normalize::imagenet(3), [8, 8], 1)
            .unwrap_err()
            .to_string(),
        "normalize: mean has 3 values, but the images have 1 channels"
    );
}

/// An operation of another crate: inverts the image and looks at the target.
#[derive(Debug)]
struct Negative {
    within: f64,
}

#[derive(serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct NegativeOptions {
    #[serde(default = "half")]
    share: f64,
}

fn half() -> f64 {
    0.5
}

impl Augmentation for Negative {
    const OP: &'static str = "negative";
    const RANDOM: bool = true;
    type Options = NegativeOptions;

    fn new(options: NegativeOptions, input: &ModelInput) -> Result<Self, super::AugmentError> {
        Ok(Self { within: options.share * input.longer_side() as f64 })
    }
}

impl Transform for Negative {
    fn apply(&self, sample: &mut SampleMut, _: &mut Rng) -> Result<(), String> {
        if sample.target().largest_share([0; 4]).is_some() || self.within < 1. {
            return Err(format!("`{}` is refused", sample.id));
        }
        sample.image.data.iter_mut().for_each(|byte| *byte = 255 - *byte);
        Ok(())
    }
}

#[test]
fn an_operation_from_outside_is_registered_like_a_built_in_one() {
    let augmentations = Augmentations::builtin().with::<Negative>();
    augmentations.check().unwrap();
    let operations = operations(&["op = 'negative'"]);
    assert!(augmentations.is_random(&operations[0]));
    let completed = augmentations.completed(&operations[0]).unwrap();
    assert_eq!(toml::to_string(&completed).unwrap(), "op = \"negative\"\nshare = 0.5\n");
    let build = |size| Pipeline::new(&augmentations, &operations, None, &Normalize::imagenet(1), size, 1);
    let sample = || Sample::new(SampleId::new("a"), Image::new(2, 2, 1, vec![255; 4]), ());
    let prepared = build([2, 2]).unwrap().prepare(sample(), &mut rng(0)).unwrap();
    assert!(prepared.pixels.iter().all(|pixel| *pixel < -1.9), "{:?}", prepared.pixels);
    let error = build([1, 1]).unwrap().prepare(sample(), &mut rng(0)).unwrap_err();
    assert_eq!(error, "`a` is refused");
}

#[test]
fn views_have_their_own_operations_and_sizes() {
    let view = |text: &str| parse::<crate::config::View>(text, "test").unwrap();
    let views = [
        view("augment = [{ op = 'resize' }]"),
        view("count = 2\nimage = [3, 5]\naugment = [{ op = 'resize' }]"),
    ];
    let pipelines = |views: &[crate::config::View]| {
        super::view_pipelines(&Augmentations::builtin(), views, &Normalize::imagenet(1), [4, 4], 1)
    };
    let sample = || Sample::new(SampleId::new("a"), Image::new(8, 8, 1, vec![9; 64]), ());
    let shapes: Vec<_> = pipelines(&views)
        .unwrap()
        .iter()
        .map(|pipeline| pipeline.prepare(sample(), &mut rng(0)).unwrap().shape)
        .collect();
    assert_eq!(shapes, [(1, 4, 4), (1, 3, 5), (1, 3, 5)]);
    let error = pipelines(&[view("count = 0")]).unwrap_err().to_string();
    assert_eq!(error, "views: count is 0, expected at least 1");
    assert!(parse::<crate::config::View>("counts = 2", "test").is_err());
}
