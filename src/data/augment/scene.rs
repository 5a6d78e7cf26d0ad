//! Scaling and cropping of images with a label for every pixel: mmsegmentation's `Resize` (keep ratio), `RandomCrop`
//! and `Pad`.
//!
//! Deviations: images are scaled by Pillow's bilinear filter, which averages when it shrinks, where mmsegmentation's
//! (OpenCV) picks neighbours; labels take the nearest pixel by its centre, where OpenCV takes it by its corner. Padding
//! is the mean colour in bytes, where mmsegmentation pads with 0 after normalising: the two agree within half a level.

use super::super::{Geometric, Size};
use super::error::{AugmentError, expect, probability, range};
use super::input::ModelInput;
use super::resize::scale;
use super::scale::{bilinear, place};
use super::transform::{Augmentation, SampleMut, Transform};
use crate::config::{Interpolation, SquareOrSize, optional_size};
use crate::rng::Rng;
use rand::Rng as _;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// mmsegmentation's keep-ratio resize: the largest size that fits into `short` × `long` pixels in either orientation,
/// times a factor drawn from `scale`. `short` defaults to the shorter side of the input, `long` to four times that.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ResizeWithinOptions {
    /// Largest length of the shorter side in pixels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    short: Option<usize>,
    /// Largest length of the longer side in pixels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    long: Option<usize>,
    /// Lowest and highest factor.
    #[serde(default = "same")]
    scale: [f64; 2],
    #[serde(default = "bilinear")]
    interpolation: Interpolation,
}

fn same() -> [f64; 2] {
    [1., 1.]
}

/// Scales so that the image just fits into `short` × `long` pixels, whatever its orientation, times a random factor.
#[derive(Clone, Debug)]
pub(super) struct ResizeWithin {
    pub short: usize,
    pub long: usize,
    pub scale: [f64; 2],
    pub interpolation: Interpolation,
}

impl Augmentation for ResizeWithin {
    const OP: &'static str = "resize_within";
    const RANDOM: bool = true;
    type Options = ResizeWithinOptions;

    fn new(options: Self::Options, input: &ModelInput) -> Result<Self, AugmentError> {
        let ResizeWithinOptions { short, long, scale, interpolation } = options;
        range("resize_within: scale", scale)?;
        let short = short.unwrap_or(input.shorter_side());
        let long = long.unwrap_or(4 * short);
        let found = format!("{short}, long {long}");
        expect(short > 0 && long >= short, "resize_within: short", found, "0 < short ≤ long")?;
        Ok(Self { short, long, scale, interpolation })
    }
}

impl ResizeWithin {
    /// The size of an image of (`height`, `width`) pixels at a factor.
    pub(super) fn target(&self, (height, width): Size, factor: f64) -> Size {
        let side = |pixels: usize| (pixels as f64 * factor).trunc();
        let (low, high) = (height.min(width) as f64, height.max(width) as f64);
        let ratio = (side(self.long) / high).min(side(self.short) / low);
        let scaled = |pixels: usize| ((pixels as f64 * ratio + 0.5) as usize).max(1);
        (scaled(height), scaled(width))
    }
}

impl Transform for ResizeWithin {
    fn apply(&self, sample: &mut SampleMut, rng: &mut Rng) -> Result<(), String> {
        let [low, high] = self.scale;
        let factor = if low < high { rng.random_range(low..=high) } else { low };
        let to = self.target(sample.image.size(), factor);
        scale(sample, to, self.interpolation)
    }
}

/// mmsegmentation's `RandomCrop` and `Pad`: a crop at a random position, drawn again up to ten times while one class
/// covers `class_share` (its `cat_max_ratio`) of the labelled pixels or more. Smaller images are padded at the right
/// and at the bottom with the mean colour, their labels with ignored pixels.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SceneCropOptions {
    /// [height, width] of the result; that of the model's input when absent.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "optional_size")]
    #[schemars(with = "Option<SquareOrSize>")]
    size: Option<[usize; 2]>,
    /// With 1, the first crop is taken.
    #[serde(default = "all")]
    class_share: f64,
}

fn all() -> f64 {
    1.
}

/// A crop of `size` at a random position. A smaller image is taken whole and padded on the right and at the bottom.
#[derive(Clone, Debug)]
pub(super) struct SceneCrop {
    pub size: Size,
    /// A crop is drawn again while one class covers at least this share of the labelled pixels; with 1 the first draw
    /// is taken.
    pub class_share: f64,
    /// One byte per channel.
    pub fill: Vec<u8>,
}

/// Number of draws, of which the last is always taken.
const TRIES: usize = 10;

impl Augmentation for SceneCrop {
    const OP: &'static str = "scene_crop";
    const RANDOM: bool = true;
    type Options = SceneCropOptions;

    fn new(options: Self::Options, input: &ModelInput) -> Result<Self, AugmentError> {
        let SceneCropOptions { size, class_share } = options;
        let (size, fill) = (input.or_size(size)?, input.mean_colour());
        probability("scene_crop: class_share", class_share)?;
        Ok(Self { size, class_share, fill })
    }
}

impl SceneCrop {
    /// (top, left) of a crop.
    fn corner(&self, image: Size, rng: &mut Rng) -> (usize, usize) {
        let place = |have: usize, want: usize, rng: &mut Rng| rng.random_range(0..=have.saturating_sub(want));
        (place(image.0, self.size.0, rng), place(image.1, self.size.1, rng))
    }

    /// A crop that no class dominates, if one is found; otherwise the last one drawn.
    pub(super) fn draw(&self, image: Size, target: &dyn Geometric, rng: &mut Rng) -> (usize, usize) {
        let (height, width) = (self.size.0.min(image.0), self.size.1.min(image.1));
        let mut corner = self.corner(image, rng);
        if self.class_share < 1. {
            for _ in 0..TRIES {
                let share = target.largest_share([corner.0, corner.1, height, width]);
                if share.is_none_or(|share| share < self.class_share) {
                    break;
                }
                corner = self.corner(image, rng);
            }
        }
        corner
    }
}

impl Transform for SceneCrop {
    fn apply(&self, sample: &mut SampleMut, rng: &mut Rng) -> Result<(), String> {
        let corner = self.draw(sample.image.size(), sample.target(), rng);
        place(sample, corner, self.size, &self.fill);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::{Geometry, Image, Sample, SampleId};
    use super::*;

    /// Classes of a picture: left of `at` the first, right of it the second.
    #[derive(Clone)]
    struct Halves {
        at: usize,
        seen: Option<Geometry>,
    }

    impl Geometric for Halves {
        fn apply(&mut self, geometry: &Geometry) {
            self.seen = Some(*geometry);
        }

        fn largest_share(&self, [_, left, _, width]: [usize; 4]) -> Option<f64> {
            let first = self.at.saturating_sub(left).min(width);
            Some(first.max(width - first) as f64 / width as f64)
        }
    }

    fn within(short: usize, long: usize, scale: [f64; 2]) -> ResizeWithin {
        ResizeWithin { short, long, scale, interpolation: Interpolation::Bilinear }
    }

    #[test]
    fn sizes_are_those_of_mmcv() {
        // mmcv.imrescale with (2048, 512) and its multiples.
        for (image, factor, expected) in [
            ((512, 683), 1., (512, 683)),
            ((364, 500), 1., (512, 703)),
            ((300, 400), 0.5, (256, 341)),
            ((256, 2000), 1., (262, 2048)),
            ((2000, 256), 1., (2048, 262)),
            ((512, 683), 1.237, (633, 844)),
            ((1, 1), 1., (512, 512)),
            ((1, 5000), 1., (1, 2048)),
        ] {
            assert_eq!(within(512, 2048, [1., 1.]).target(image, factor), expected, "{image:?}, {factor}");
        }
    }

    #[test]
    fn sides_follow_from_the_shorter_one_and_the_input() {
        let step = |short, long| {
            let options =
                ResizeWithinOptions { short, long, scale: same(), interpolation: Interpolation::Bilinear };
            let input = ModelInput { size: (96, 128), statistics: vec![(0., 1.); 3] };
            ResizeWithin::new(options, &input).map(|step| (step.short, step.long))
        };
        assert_eq!(step(Some(512), None).unwrap(), (512, 2048));
        assert_eq!(step(None, None).unwrap(), (96, 384));
        assert_eq!(step(None, Some(128)).unwrap(), (96, 128));
        assert!(step(Some(100), Some(99)).is_err() && step(Some(0), None).is_err());
    }

    fn sample(height: usize, width: usize, at: usize) -> Sample<Halves> {
        let data = (0..height * width).map(|i| (i % 251) as u8).collect();
        Sample::new(SampleId::new("s"), Image::new(height, width, 1, data), Halves { at, seen: None })
    }

    #[test]
    fn scales_are_drawn_from_their_range() {
        let step = within(20, 80, [0.5, 2.0]);
        let mut heights = vec![];
        for k in 0..300 {
            let mut sample = sample(20, 30, 0);
            step.apply(&mut SampleMut::of(&mut sample), &mut Rng::new(0, "augment", &[k])).unwrap();
            heights.push(sample.image.height);
        }
        let mean = heights.iter().sum::<usize>() as f64 / 300.;
        assert!(heights.iter().all(|h| (10..=40).contains(h)) && (mean - 25.).abs() < 1.5, "{mean}");
    }

    #[test]
    fn crops_prefer_classes_that_share_them() {
        let crop = |class_share| SceneCrop { size: (8, 10), class_share, fill: vec![0] };
        let count = |class_share| {
            let shared = |k: &u64| {
                let mut rng = Rng::new(0, "augment", &[*k]);
                let target = Halves { at: 20, seen: None };
                let (_, left) = crop(class_share).draw((20, 100), &target, &mut rng);
                target.largest_share([0, left, 8, 10]).is_some_and(|share| share < 0.75)
            };
            (0..400).filter(shared).count()
        };
        // 5 of 91 places are shared; eleven draws find one with 1 − (1 − 5/91)¹¹ = 46 %.
        let (once, often) = (count(1.), count(0.75));
        assert!((5..45).contains(&once) && (145..225).contains(&often), "{once}, {often}");
    }

    #[test]
    fn a_smaller_image_is_padded_below_and_right_and_a_larger_one_cut() {
        let crop = SceneCrop { size: (4, 5), class_share: 1., fill: vec![7] };
        let mut small = sample(2, 3, 0);
        crop.apply(&mut SampleMut::of(&mut small), &mut Rng::new(0, "augment", &[])).unwrap();
        assert_eq!(small.image.data, [0, 1, 2, 7, 7, 3, 4, 5, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7]);
        assert_eq!(small.target.seen.unwrap().point(1., 1.), (1., 1.));
        let mut large = sample(9, 12, 0);
        crop.apply(&mut SampleMut::of(&mut large), &mut Rng::new(0, "augment", &[])).unwrap();
        let (left, top) = large.target.seen.unwrap().inverse().unwrap().point(0., 0.);
        assert_eq!(large.image.data[0], (top as usize * 12 + left as usize) as u8);
        assert_eq!(large.image.size(), (4, 5));
    }
}
