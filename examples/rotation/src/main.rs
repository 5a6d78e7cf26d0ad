//! `bench` with one more objective of pre-training, `rotation`: predict by which multiple of 90° an image was rotated
//! (RotNet, arXiv:1803.07728).
//!
//! It works with every backbone that can be trained: it uses only the features of the backbone. Images must be square,
//! so that they keep their size when they are rotated.

use bench::prelude::*;
use candle_core::{D, DType, Result, Tensor, bail};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::process::ExitCode;

fn main() -> ExitCode {
    bench::cli::main(Registry::builtin().with_objective::<Rotation>())
}

/// Number of rotations that are distinguished: 0°, 90°, 180° and 270°.
const ROTATIONS: usize = 4;

/// The keys of `[pretrain]` other than `objective`.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// How many of the four rotations of an image a step sees, 1 to 4. They are drawn at random without repetition. The paper
    /// uses all four.
    #[serde(default = "all_rotations")]
    rotations_per_image: usize,
    /// Standard deviation of the initial weights of the classifier.
    #[serde(default = "init_std")]
    init_std: f64,
}

fn all_rotations() -> usize {
    ROTATIONS
}

fn init_std() -> f64 {
    0.01
}

/// A backbone with a linear classifier of rotations.
pub struct Rotation {
    backbone: Box<dyn Backbone>,
    classifier: Linear,
    per_image: usize,
}

impl Rotation {
    /// One vector for each image of `images` [B, C, H, W]: the class feature, or the mean of the patch tokens after the last
    /// block if the backbone has no class feature. [B, width]
    fn pooled(&self, images: &Tensor, pass: &mut Pass) -> Result<Tensor> {
        let last = self.backbone.spec().depth - 1;
        let Features { taps, cls, .. } = self.backbone.forward(images, &[last], pass)?;
        cls.map_or_else(|| taps[0].mean(1), Ok)
    }

    /// The rotations of an image: random ones in training; the first ones in evaluation, which draws no numbers.
    fn choose(&self, pass: &mut Pass) -> Vec<usize> {
        let mut rotations: Vec<usize> = (0..ROTATIONS).collect();
        if let Pass::Train { rng, .. } = pass {
            for i in 0..self.per_image {
                rotations.swap(i, rng.random_range(i..ROTATIONS));
            }
        }
        rotations.truncate(self.per_image);
        rotations
    }
}

/// `images` [B, C, S, S] rotated counterclockwise by `quarters` times 90°.
fn rotate(images: &Tensor, quarters: usize) -> Result<Tensor> {
    match quarters {
        0 => Ok(images.clone()),
        1 => images.transpose(2, 3)?.contiguous()?.flip(&[2]),
        2 => images.flip(&[2, 3]),
        3 => images.flip(&[2])?.transpose(2, 3)?.contiguous(),
        _ => bail!("an image cannot be rotated by {quarters} quarters of a turn: expected 0 to 3"),
    }
}

impl Objective for Rotation {
    type Target = ();

    fn losses(&self, batch: &Batch<()>, pass: &mut Pass) -> Result<Losses> {
        let (mut images, mut labels) = (vec![], vec![]);
        for i in 0..batch.len() {
            let image = batch.images.narrow(0, i, 1)?;
            for rotation in self.choose(pass) {
                images.push(rotate(&image, rotation)?);
                labels.push(rotation);
            }
        }
        let images = Tensor::cat(&images, 0)?;
        let one_hot =
            |label: &usize| (0..ROTATIONS).map(|class| f32::from(u8::from(class == *label))).collect();
        let targets: Vec<Vec<f32>> = labels.iter().map(one_hot).collect();
        let targets = Tensor::new(targets, images.device())?; // [B, 4]
        let logits = self.classifier.forward(&self.pooled(&images, pass)?)?; // [B, 4]
        let correct =
            logits.detach().argmax(D::Minus1)?.eq(&targets.argmax(D::Minus1)?)?.to_dtype(DType::F32)?;
        let loss = ops::softmax_cross_entropy(&logits, &targets)?;
        // Read when the whole step has been queued, so that a GPU does not wait for the host.
        let accuracy = move || Ok(f64::from(correct.mean_all()?.to_scalar::<f32>()?));
        Ok(Losses::of("rotation", loss).with_metric_of("rotation_accuracy", accuracy))
    }

    fn layer_of(&self, parameter: &str) -> usize {
        self.backbone.layer_of(parameter)
    }
}

impl Pretraining for Rotation {}

impl PretrainObjective for Rotation {
    const NAME: &'static str = "rotation";
    type Options = Options;

    fn new(options: &Options, inputs: &ObjectiveInputs) -> Result<Self> {
        let [height, width] = inputs.model.image;
        if height != width {
            bail!(
                "objective `rotation` needs square images, but `image` of the model is [{height}, {width}]"
            );
        }
        let (width, std) = (inputs.model.width, options.init_std);
        Ok(Self {
            backbone: inputs.backbone(true)?,
            // Named like a classifier, so that transfer leaves it out when it loads the weights of a ViT.
            classifier: Linear::with_std(width, ROTATIONS, std, inputs.builder().pp("head"))?,
            per_image: options.rotations_per_image,
        })
    }

    fn check(options: &Options, _: &RecipeFacts) -> std::result::Result<(), String> {
        let Options { rotations_per_image: count, init_std } = options;
        if !(1..=ROTATIONS).contains(count) {
            return Err(format!("pretrain.rotations_per_image is {count}, expected 1 to {ROTATIONS}"));
        }
        if !(*init_std > 0. && init_std.is_finite()) {
            return Err(format!("pretrain.init_std is {init_std}, expected a number above 0"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn rotations_are_counterclockwise() {
        let image = Tensor::arange(0f32, 4., &Device::Cpu).unwrap().reshape((1, 1, 2, 2)).unwrap();
        let turned = |quarters| {
            let rotated = rotate(&image, quarters).unwrap();
            rotated.flatten_all().unwrap().to_vec1::<f32>().unwrap()
        };
        assert_eq!(turned(0), [0., 1., 2., 3.]);
        assert_eq!(turned(1), [1., 3., 0., 2.]);
        assert_eq!(turned(2), [3., 2., 1., 0.]);
        assert_eq!(turned(3), [2., 0., 3., 1.]);
        assert!(rotate(&image, 4).is_err());
    }
}
