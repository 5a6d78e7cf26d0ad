//! [`Pipeline`]: a list of operations as the recipe or the evaluation protocol has it, then normalisation.

use super::super::{Geometric, Image, Prepared, Sample, Size};
use super::color::ColorJitter;
use super::crop::{Flip, RandomCrop, RandomResizedCrop};
use super::rand_augment::RandAugment;
use super::resize::{CenterCrop, Resize, ResizeShort};
use super::{Prepare, Transform, erase};
use crate::config::{AugmentOp, Erase, Normalize};
use crate::rng::Rng;

/// Decoded sample in, normalised pixels out.
pub struct Pipeline {
    ops: Vec<AugmentOp>,
    erase: Option<Erase>,
    /// For each channel, the value of every byte.
    table: Vec<[f32; 256]>,
    /// The mean of each channel as a byte: what RandAugment fills with.
    fill: Vec<u8>,
    input: Size,
}

impl Pipeline {
    /// `input` is the model's height and width, which operations without a size take over.
    ///
    /// # Errors
    /// Numbers that cannot work, by operation.
    pub fn new(
        ops: &[AugmentOp],
        erase: Option<&Erase>,
        normalize: &Normalize,
        input: [usize; 2],
        channels: usize,
    ) -> Result<Self, String> {
        ops.iter().try_for_each(check)?;
        let table = (0..channels).map(|c| {
            let (mean, std) = normalize.channel(c);
            std::array::from_fn(|byte| (byte as f32 / 255. - mean) / std)
        });
        let fill = (0..channels).map(|c| (normalize.channel(c).0 * 255.).round() as u8).collect();
        let input = (input[0], input[1]);
        Ok(Self { ops: ops.to_vec(), erase: erase.cloned(), table: table.collect(), fill, input })
    }

    fn transform<T: Geometric>(&self, op: &AugmentOp) -> Box<dyn Transform<T>> {
        let size = |size: &Option<[usize; 2]>| size.map_or(self.input, |[h, w]| (h, w));
        match *op {
            AugmentOp::RandomResizedCrop { size: ref s, scale, ratio, interpolation, single_draw } => {
                Box::new(RandomResizedCrop { size: size(s), scale, ratio, interpolation, single_draw })
            }
            AugmentOp::RandomCrop { size: ref s, padding, reflect } => {
                Box::new(RandomCrop { size: size(s), padding, reflect })
            }
            AugmentOp::Flip { p } => Box::new(Flip { p }),
            AugmentOp::Resize { size: ref s, interpolation } => {
                Box::new(Resize { size: size(s), interpolation })
            }
            AugmentOp::ResizeShort { size, crop_ratio, margin_up_to, interpolation } => {
                Box::new(ResizeShort { size: self.short_side(size, crop_ratio, margin_up_to), interpolation })
            }
            AugmentOp::CenterCrop { size: ref s } => Box::new(CenterCrop { size: size(s) }),
            AugmentOp::ColorJitter { brightness, contrast, saturation, hue } => {
                Box::new(ColorJitter { brightness, contrast, saturation, hue })
            }
            AugmentOp::RandAugment { layers, magnitude, magnitude_std, p, interpolation } => {
                let fill = self.fill.clone();
                Box::new(RandAugment { layers, magnitude, magnitude_std, p, interpolation, fill })
            }
        }
    }

    /// The side that `resize_short` scales to.
    fn short_side(&self, size: Option<usize>, crop_ratio: Option<f64>, margin_up_to: Option<usize>) -> usize {
        let input = self.input.0.max(self.input.1);
        match (size, crop_ratio) {
            (Some(size), _) => size,
            (None, Some(ratio)) if margin_up_to.is_none_or(|most| input <= most) => {
                (input as f64 / ratio) as usize
            }
            _ => input,
        }
    }

    /// [H, W, C] bytes -> [C, H, W] normalised.
    fn normalized(&self, image: &Image) -> Vec<f32> {
        let c = image.channels;
        let mut pixels = Vec::with_capacity(image.data.len());
        for (channel, table) in self.table.iter().enumerate().take(c) {
            pixels.extend(image.data[channel..].iter().step_by(c).map(|byte| table[*byte as usize]));
        }
        pixels
    }
}

/// What can be said about an operation without an image.
fn check(op: &AugmentOp) -> Result<(), String> {
    let range = |what: &str, [lo, hi]: [f64; 2], least: f64| match lo > least && lo <= hi && hi.is_finite() {
        true => Ok(()),
        false => Err(format!("{what} [{lo}, {hi}]: expected {least} < low ≤ high")),
    };
    match *op {
        AugmentOp::RandomResizedCrop { scale, ratio, .. } => {
            range("random_resized_crop: scale", scale, 0.)?;
            range("random_resized_crop: ratio", ratio, 0.)
        }
        AugmentOp::ColorJitter { brightness, contrast, saturation, hue } => {
            let factors = [brightness, contrast, saturation];
            if factors.iter().any(|x| !(*x >= 0. && x.is_finite())) || !(0. ..=0.5).contains(&hue) {
                return Err("color_jitter: expected factors of at least 0 and 0 ≤ hue ≤ 0.5".into());
            }
            Ok(())
        }
        AugmentOp::RandAugment { magnitude, magnitude_std, p, .. } => {
            let fits = (0. ..=10.).contains(&magnitude) && magnitude_std >= 0. && (0. ..=1.).contains(&p);
            let error = "rand_augment: expected 0 ≤ magnitude ≤ 10, magnitude_std ≥ 0, 0 ≤ p ≤ 1";
            if fits { Ok(()) } else { Err(error.into()) }
        }
        AugmentOp::Flip { p } if !(0. ..=1.).contains(&p) => Err(format!("flip: p is {p}, expected 0 to 1")),
        AugmentOp::ResizeShort { size: Some(_), crop_ratio: Some(_), .. } => {
            Err("resize_short: give `size` or `crop_ratio`, not both".into())
        }
        AugmentOp::ResizeShort { crop_ratio: Some(ratio), .. } if !(ratio > 0. && ratio <= 1.) => {
            Err(format!("resize_short: crop_ratio is {ratio}, expected 0 < crop_ratio ≤ 1"))
        }
        _ => Ok(()),
    }
}

impl<T: Geometric + Send> Prepare<T> for Pipeline {
    fn prepare(&self, mut sample: Sample<T>, rng: &mut Rng) -> Result<Prepared<T>, String> {
        for op in &self.ops {
            self.transform(op).apply(&mut sample, rng)?;
        }
        let (size, (h, w)) = (sample.image.size(), self.input);
        if size != self.input {
            return Err(format!(
                "the operations end with an image of {}×{}, but the model's input is {h}×{w}; end them with resize, \
                 center_crop, random_crop or random_resized_crop",
                size.0, size.1
            ));
        }
        let mut pixels = self.normalized(&sample.image);
        if let Some(rect) = self.erase.as_ref().and_then(|e| erase::draw(e, size, rng)) {
            erase::fill(&mut pixels, size, rect, rng);
        }
        let shape = (sample.image.channels, h, w);
        Ok(Prepared { id: sample.id, pixels, shape, frame: sample.frame, target: sample.target })
    }
}
