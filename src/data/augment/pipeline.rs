//! [`Pipeline`]: a list of operations as a recipe or an evaluation protocol has it, then normalisation, then erasing.

use super::super::{Geometric, Image, Prepared, Sample, Size};
use super::color::ColorJitter;
use super::crop::{Flip, RandomCrop, RandomResizedCrop};
use super::photometric::Photometric;
use super::rand_augment::{FULL, RandAugment};
use super::resize::{CenterCrop, Resize, ResizeShort};
use super::scale::{FixedSizeCrop, Pad, ResizeLongest, ResizeScale};
use super::scene::{ResizeWithin, SceneCrop};
use super::{Prepare, Transform, erase};
use crate::config::{AugmentOp, Erase, Interpolation, Normalize};
use crate::rng::Rng;
use rand_distr::Normal;

/// Decoded sample in, normalised pixels out.
#[derive(Clone, Debug)]
pub struct Pipeline {
    steps: Vec<Step>,
    erase: Option<Erase>,
    /// For each channel, the normalised value of every byte.
    tables: Vec<[f32; 256]>,
    /// The size that images must end with; any when absent.
    input: Option<Size>,
}

impl Pipeline {
    /// `input` is the model's [height, width], which operations without a size take over; `channels` is 1 or 3.
    ///
    /// # Errors
    /// An operation or a number that cannot work, by name.
    pub fn new(
        ops: &[AugmentOp],
        erase: Option<&Erase>,
        normalize: &Normalize,
        input: [usize; 2],
        channels: usize,
    ) -> Result<Self, String> {
        if ![1, 3].contains(&channels) {
            return Err(format!("images have 1 or 3 channels, not {channels}"));
        }
        for (what, values) in [("mean", &normalize.mean), ("std", &normalize.std)] {
            if ![1, channels].contains(&values.len()) {
                let n = values.len();
                return Err(format!("normalize: {what} has {n} values, the images have {channels} channels"));
            }
        }
        if let Some(std) = normalize.std.iter().find(|std| !(**std > 0. && std.is_finite())) {
            return Err(format!("normalize: std is {std}, expected more than 0"));
        }
        if let Some(Erase { p, area, ratio }) = erase {
            probability("erase: p", *p)?;
            range("erase: area", *area)?;
            range("erase: ratio", *ratio)?;
        }
        let statistics: Vec<_> = (0..channels).map(|c| normalize.channel(c)).collect();
        let input = (input[0], input[1]);
        let steps = ops.iter().map(|op| Step::new(op, input, &statistics)).collect::<Result<_, _>>()?;
        // (byte / 255 − mean) / std, rounded at each operation as PyTorch rounds it.
        let table = |(mean, std): (f32, f32)| std::array::from_fn(|byte| (byte as f32 / 255. - mean) / std);
        let tables = statistics.into_iter().map(table).collect();
        Ok(Self { steps, erase: erase.cloned(), tables, input: Some(input) })
    }

    /// The same for a model that takes images in the size that the operations leave them.
    pub fn of_any_size(self) -> Self {
        Self { input: None, ..self }
    }

    /// [H, W, C] bytes -> [C, H, W] normalised. Looking up is exact and as fast as the arithmetic in vectors, whose
    /// bytes would have to be gathered with the same stride.
    fn normalized(&self, image: &Image) -> Vec<f32> {
        let c = image.channels;
        let mut pixels = Vec::with_capacity(image.data.len());
        for (channel, table) in self.tables.iter().enumerate() {
            pixels.extend(image.data[channel..].iter().step_by(c).map(|byte| table[usize::from(*byte)]));
        }
        pixels
    }
}

impl<T: Geometric + Send> Prepare<T> for Pipeline {
    fn prepare(&self, mut sample: Sample<T>, rng: &mut Rng) -> Result<Prepared<T>, String> {
        let (channels, expected) = (sample.image.channels, self.tables.len());
        if channels != expected {
            return Err(format!("the image has {channels} channels, but the model's input has {expected}"));
        }
        self.steps.iter().try_for_each(|step| step.apply(&mut sample, rng))?;
        let size = sample.image.size();
        if let Some(input) = self.input.filter(|input| *input != size) {
            let names: Vec<_> = self.steps.iter().map(Step::name).collect();
            return Err(format!(
                "the pipeline [{}] ends with {}x{} but the model's input is {}x{}: end it with resize, center_crop \
                 or random_resized_crop",
                names.join(", "),
                size.0,
                size.1,
                input.0,
                input.1
            ));
        }
        let mut pixels = self.normalized(&sample.image);
        if let Some(rect) = self.erase.as_ref().and_then(|erase| erase::draw(erase, size, rng)) {
            erase::fill(&mut pixels, size, rect, rng);
        }
        let shape = (channels, size.0, size.1);
        Ok(Prepared { id: sample.id, pixels, shape, frame: sample.frame, target: sample.target })
    }
}

/// One operation, checked and with its sizes filled in.
#[derive(Clone, Debug)]
enum Step {
    RandomResizedCrop(RandomResizedCrop),
    RandomCrop(RandomCrop),
    Flip(Flip),
    Resize(Resize),
    ResizeShort(ResizeShort),
    CenterCrop(CenterCrop),
    ResizeScale(ResizeScale),
    FixedSizeCrop(FixedSizeCrop),
    ResizeLongest(ResizeLongest),
    Pad(Pad),
    ColorJitter(ColorJitter),
    RandAugment(RandAugment),
    ResizeWithin(ResizeWithin),
    SceneCrop(SceneCrop),
    Photometric(Photometric),
}

impl Step {
    fn new(op: &AugmentOp, input: Size, statistics: &[(f32, f32)]) -> Result<Self, String> {
        let size = |size: Option<[usize; 2]>| match size {
            Some([h, w]) if h == 0 || w == 0 => Err(format!("size [{h}, {w}] of an operation is empty")),
            Some([h, w]) => Ok((h, w)),
            None => Ok(input),
        };
        Ok(match *op {
            AugmentOp::RandomResizedCrop { size: to, scale, ratio, interpolation, single_draw } => {
                range("random_resized_crop: scale", scale)?;
                range("random_resized_crop: ratio", ratio)?;
                let size = size(to)?;
                Self::RandomResizedCrop(RandomResizedCrop { size, scale, ratio, interpolation, single_draw })
            }
            AugmentOp::RandomCrop { size: to, padding, reflect } => {
                Self::RandomCrop(RandomCrop { size: size(to)?, padding, reflect })
            }
            AugmentOp::Flip { p } => {
                probability("flip: p", p)?;
                Self::Flip(Flip { p })
            }
            AugmentOp::Resize { size: to, interpolation } => {
                Self::Resize(Resize { size: size(to)?, interpolation })
            }
            AugmentOp::ResizeShort { size, crop_ratio, margin_up_to, interpolation } => {
                let size = short_side(input, size, crop_ratio, margin_up_to)?;
                Self::ResizeShort(ResizeShort { size, interpolation })
            }
            AugmentOp::CenterCrop { size: to } => Self::CenterCrop(CenterCrop { size: size(to)? }),
            AugmentOp::ResizeScale { size: to, scale, interpolation } => {
                range("resize_scale: scale", scale)?;
                Self::ResizeScale(ResizeScale { size: size(to)?, scale, interpolation })
            }
            AugmentOp::FixedSizeCrop { size: to, ref fill } => {
                let fill = colour("fixed_size_crop: fill", fill.as_deref(), statistics)?;
                Self::FixedSizeCrop(FixedSizeCrop { size: size(to)?, fill })
            }
            AugmentOp::ResizeLongest { size: to, interpolation } => match to {
                Some(0) => return Err("resize_longest: size is 0".into()),
                _ => {
                    let size = to.unwrap_or(input.0.max(input.1));
                    Self::ResizeLongest(ResizeLongest { size, interpolation })
                }
            },
            AugmentOp::Pad { size: to, ref fill } => {
                Self::Pad(Pad { size: size(to)?, fill: colour("pad: fill", fill.as_deref(), statistics)? })
            }
            AugmentOp::ColorJitter { brightness, contrast, saturation, hue } => {
                let most = [
                    ("brightness", brightness, f64::MAX),
                    ("contrast", contrast, f64::MAX),
                    ("saturation", saturation, f64::MAX),
                    ("hue", hue, 0.5),
                ];
                if let Some((name, x, most)) = most.iter().find(|(_, x, most)| !(0. ..=*most).contains(x)) {
                    let limit = if *most < 1. { " to 0.5" } else { " or more" };
                    return Err(format!("color_jitter: {name} is {x}, expected 0{limit}"));
                }
                Self::ColorJitter(ColorJitter { brightness, contrast, saturation, hue })
            }
            AugmentOp::RandAugment { layers, magnitude, magnitude_std, p, interpolation } => {
                probability("rand_augment: p", p)?;
                if !(0. ..=FULL).contains(&magnitude) {
                    return Err(format!("rand_augment: magnitude is {magnitude}, expected 0 to {FULL}"));
                }
                if interpolation == Interpolation::Lanczos {
                    return Err(
                        "rand_augment: interpolation is lanczos, expected nearest, bilinear or bicubic"
                            .into(),
                    );
                }
                let magnitude = match Normal::new(magnitude, magnitude_std) {
                    Ok(normal) if magnitude_std >= 0. => normal,
                    _ => {
                        return Err(format!(
                            "rand_augment: magnitude_std is {magnitude_std}, expected 0 or more"
                        ));
                    }
                };
                let fill = mean_colour(statistics);
                Self::RandAugment(RandAugment { layers, p, magnitude, interpolation, fill })
            }
            AugmentOp::ResizeWithin { short, long, scale, interpolation } => {
                range("resize_within: scale", scale)?;
                let short = short.unwrap_or(input.0.min(input.1));
                let long = long.unwrap_or(4 * short);
                if short == 0 || long < short {
                    return Err(format!(
                        "resize_within: short is {short}, long {long}, expected 0 < short ≤ long"
                    ));
                }
                Self::ResizeWithin(ResizeWithin { short, long, scale, interpolation })
            }
            AugmentOp::SceneCrop { size: to, class_share } => {
                probability("scene_crop: class_share", class_share)?;
                Self::SceneCrop(SceneCrop { size: size(to)?, class_share, fill: mean_colour(statistics) })
            }
            AugmentOp::Photometric { brightness, contrast, saturation, hue } => {
                range("photometric: contrast", contrast)?;
                range("photometric: saturation", saturation)?;
                if !(0. ..=255.).contains(&brightness) || !(0..=90).contains(&hue) {
                    return Err(format!(
                        "photometric: brightness is {brightness}, hue {hue}; expected 0 to 255 and 0 to 90"
                    ));
                }
                Self::Photometric(Photometric { brightness, contrast, saturation, hue })
            }
        })
    }

    /// As in a recipe.
    fn name(&self) -> &'static str {
        match self {
            Self::RandomResizedCrop(_) => "random_resized_crop",
            Self::RandomCrop(_) => "random_crop",
            Self::Flip(_) => "flip",
            Self::Resize(_) => "resize",
            Self::ResizeShort(_) => "resize_short",
            Self::CenterCrop(_) => "center_crop",
            Self::ResizeScale(_) => "resize_scale",
            Self::FixedSizeCrop(_) => "fixed_size_crop",
            Self::ResizeLongest(_) => "resize_longest",
            Self::Pad(_) => "pad",
            Self::ColorJitter(_) => "color_jitter",
            Self::RandAugment(_) => "rand_augment",
            Self::ResizeWithin(_) => "resize_within",
            Self::SceneCrop(_) => "scene_crop",
            Self::Photometric(_) => "photometric",
        }
    }
}

impl<T: Geometric> Transform<T> for Step {
    fn apply(&self, sample: &mut Sample<T>, rng: &mut Rng) -> Result<(), String> {
        match self {
            Self::RandomResizedCrop(step) => step.apply(sample, rng),
            Self::RandomCrop(step) => step.apply(sample, rng),
            Self::Flip(step) => step.apply(sample, rng),
            Self::Resize(step) => step.apply(sample, rng),
            Self::ResizeShort(step) => step.apply(sample, rng),
            Self::CenterCrop(step) => step.apply(sample, rng),
            Self::ResizeScale(step) => step.apply(sample, rng),
            Self::FixedSizeCrop(step) => step.apply(sample, rng),
            Self::ResizeLongest(step) => step.apply(sample, rng),
            Self::Pad(step) => step.apply(sample, rng),
            Self::ColorJitter(step) => step.apply(sample, rng),
            Self::RandAugment(step) => step.apply(sample, rng),
            Self::ResizeWithin(step) => step.apply(sample, rng),
            Self::SceneCrop(step) => step.apply(sample, rng),
            Self::Photometric(step) => step.apply(sample, rng),
        }
    }
}

/// The mean of each channel as a byte; saturates, as timm's min(255, round(255 · mean)) does.
fn mean_colour(statistics: &[(f32, f32)]) -> Vec<u8> {
    statistics.iter().map(|(mean, _)| (255. * f64::from(*mean)).round_ties_even() as u8).collect()
}

/// One byte per channel: `fill`, or the mean.
fn colour(what: &str, fill: Option<&[u8]>, statistics: &[(f32, f32)]) -> Result<Vec<u8>, String> {
    let channels = statistics.len();
    match fill {
        None => Ok(mean_colour(statistics)),
        Some([byte]) => Ok(vec![*byte; channels]),
        Some(bytes) if bytes.len() == channels => Ok(bytes.to_vec()),
        Some(bytes) => Err(format!("{what} has {} values, the images have {channels} channels", bytes.len())),
    }
}

/// The side that `resize_short` scales to: `size`, or the longer side of the input with a margin around it.
fn short_side(
    input: Size,
    size: Option<usize>,
    crop_ratio: Option<f64>,
    margin_up_to: Option<usize>,
) -> Result<usize, String> {
    let input = input.0.max(input.1);
    match (size, crop_ratio) {
        (Some(_), Some(_)) => Err("resize_short: give `size` or `crop_ratio`, not both".into()),
        (Some(0), _) => Err("resize_short: size is 0".into()),
        (Some(size), _) => Ok(size),
        (_, Some(ratio)) if !(ratio > 0. && ratio <= 1.) => {
            Err(format!("resize_short: crop_ratio is {ratio}, expected more than 0, at most 1"))
        }
        (_, Some(ratio)) if margin_up_to.is_none_or(|most| input <= most) => {
            Ok((input as f64 / ratio) as usize)
        }
        _ => Ok(input),
    }
}

fn probability(what: &str, p: f64) -> Result<(), String> {
    (0. ..=1.).contains(&p).then_some(()).ok_or_else(|| format!("{what} is {p}, expected 0 to 1"))
}

/// A range of positive numbers.
fn range(what: &str, [low, high]: [f64; 2]) -> Result<(), String> {
    let right = low > 0. && low <= high && high.is_finite();
    right.then_some(()).ok_or_else(|| format!("{what} is [{low}, {high}], expected 0 < low ≤ high"))
}
