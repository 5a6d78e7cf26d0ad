//! [`Pipeline`]: a list of operations as a recipe or an evaluation protocol has it, then normalisation, then erasing.

use super::super::{Geometric, Image, Prepared, Sample, Size};
use super::color::ColorJitter;
use super::crop::{Flip, RandomCrop, RandomResizedCrop};
use super::error::AugmentError;
use super::input::ModelInput;
use super::photometric::Photometric;
use super::rand_augment::RandAugment;
use super::resize::{CenterCrop, Resize, ResizeShort};
use super::scale::{FixedSizeCrop, Pad, ResizeLongest, ResizeScale};
use super::scene::{ResizeWithin, SceneCrop};
use super::{Prepare, Transform, erase};
use crate::config::{AugmentOp, Erase, Normalize};
use crate::rng::Rng;

/// Decoded sample in, normalised pixels out.
#[derive(Clone, Debug)]
pub struct Pipeline {
    steps: Vec<Step>,
    /// Of the steps, as in a recipe.
    names: Vec<&'static str>,
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
    ) -> Result<Self, AugmentError> {
        let input = ModelInput::new(normalize, input, channels)?;
        if let Some(erase) = erase {
            erase::check(erase)?;
        }
        let steps = ops.iter().map(|op| Step::new(op, &input)).collect::<Result<_, _>>()?;
        let names = ops.iter().map(AugmentOp::name).collect();
        // (byte / 255 − mean) / std, rounded at each operation as PyTorch rounds it.
        let table = |(mean, std): (f32, f32)| std::array::from_fn(|byte| (byte as f32 / 255. - mean) / std);
        let tables = input.statistics.iter().copied().map(table).collect();
        Ok(Self { steps, names, erase: erase.cloned(), tables, input: Some(input.size) })
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
            return Err(format!(
                "the pipeline [{}] ends with {}x{} but the model's input is {}x{}: end it with resize, center_crop \
                 or random_resized_crop",
                self.names.join(", "),
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
    fn new(op: &AugmentOp, input: &ModelInput) -> Result<Self, AugmentError> {
        Ok(match *op {
            AugmentOp::RandomResizedCrop { size, scale, ratio, interpolation, single_draw } => {
                let size = input.or_size(size)?;
                Self::RandomResizedCrop(
                    RandomResizedCrop { size, scale, ratio, interpolation, single_draw }.checked()?,
                )
            }
            AugmentOp::RandomCrop { size, padding, reflect } => {
                Self::RandomCrop(RandomCrop { size: input.or_size(size)?, padding, reflect })
            }
            AugmentOp::Flip { p } => Self::Flip(Flip { p }.checked()?),
            AugmentOp::Resize { size, interpolation } => {
                Self::Resize(Resize { size: input.or_size(size)?, interpolation })
            }
            AugmentOp::ResizeShort { size, crop_ratio, margin_up_to, interpolation } => {
                Self::ResizeShort(ResizeShort::new(input, size, crop_ratio, margin_up_to, interpolation)?)
            }
            AugmentOp::CenterCrop { size } => Self::CenterCrop(CenterCrop { size: input.or_size(size)? }),
            AugmentOp::ResizeScale { size, scale, interpolation } => {
                let size = input.or_size(size)?;
                Self::ResizeScale(ResizeScale { size, scale, interpolation }.checked()?)
            }
            AugmentOp::FixedSizeCrop { size, ref fill } => {
                let fill = input.colour("fixed_size_crop: fill", fill.as_deref())?;
                Self::FixedSizeCrop(FixedSizeCrop { size: input.or_size(size)?, fill })
            }
            AugmentOp::ResizeLongest { size, interpolation } => {
                Self::ResizeLongest(ResizeLongest::new(input, size, interpolation)?)
            }
            AugmentOp::Pad { size, ref fill } => {
                let fill = input.colour("pad: fill", fill.as_deref())?;
                Self::Pad(Pad { size: input.or_size(size)?, fill })
            }
            AugmentOp::ColorJitter { brightness, contrast, saturation, hue } => {
                Self::ColorJitter(ColorJitter { brightness, contrast, saturation, hue }.checked()?)
            }
            AugmentOp::RandAugment { layers, magnitude, magnitude_std, p, interpolation } => {
                let magnitude = (magnitude, magnitude_std);
                Self::RandAugment(RandAugment::new(input, layers, magnitude, p, interpolation)?)
            }
            AugmentOp::ResizeWithin { short, long, scale, interpolation } => {
                Self::ResizeWithin(ResizeWithin::new(input, short, long, scale, interpolation)?)
            }
            AugmentOp::SceneCrop { size, class_share } => {
                let (size, fill) = (input.or_size(size)?, input.mean_colour());
                Self::SceneCrop(SceneCrop { size, class_share, fill }.checked()?)
            }
            AugmentOp::Photometric { brightness, contrast, saturation, hue } => {
                Self::Photometric(Photometric { brightness, contrast, saturation, hue }.checked()?)
            }
        })
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
