//! Configuration of what happens to an image between decoding and the model.

use super::{SquareOrSize, Tag, Tagged, optional_size};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Resampling filter, with Pillow's definitions (antialiased when shrinking).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Interpolation {
    /// The nearest pixel.
    Nearest,
    /// A triangle over 2 pixels.
    Bilinear,
    /// A cubic with a = −0.5 over 4 pixels (in affine warps a = −1, as in Pillow).
    #[default]
    Bicubic,
    /// A windowed sinc over 6 pixels.
    Lanczos,
}

/// The key `op` of the tables of [`Operation`].
#[derive(Debug)]
pub struct OperationKey;

impl Tag for OperationKey {
    const KEY: &'static str = "op";
}

/// One operation of an augmentation pipeline or of an evaluation protocol: `{ op = "flip", p = 0.5 }`.
/// [`Augmentations`](crate::data::augment::Augmentations) has the operations and their options.
pub type Operation = Tagged<OperationKey>;

/// `[[views]]` of a recipe: further views of every training image, for objectives that compare views. Each is made from
/// the same decoded image as the first view (`augment` of the recipe), with random numbers of its own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct View {
    /// How many views are made in this way, at least 1.
    #[serde(default = "one")]
    pub count: usize,
    /// [height, width] of these views in pixels; that of the model's input when absent.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "optional_size")]
    #[schemars(with = "Option<SquareOrSize>")]
    pub image: Option<[usize; 2]>,
    /// Applied in order to the decoded image.
    #[serde(default)]
    pub augment: Vec<Operation>,
}

fn one() -> usize {
    1
}

/// Random erasing after normalisation, timm mode `pixel`: one rectangle of per-pixel normal noise.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Erase {
    /// Probability that an image is erased.
    pub p: f64,
    /// Area relative to the image.
    #[serde(default = "erase_area")]
    pub area: [f64; 2],
    /// Height / width, log-uniform.
    #[serde(default = "erase_ratio")]
    pub ratio: [f64; 2],
}

fn erase_area() -> [f64; 2] {
    [0.02, 1. / 3.]
}
fn erase_ratio() -> [f64; 2] {
    [0.3, 1. / 0.3]
}

/// (pixel/255 − mean) / std, one value per channel (a single value serves all channels).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Normalize {
    /// Means, with pixels from 0 to 1.
    pub mean: Vec<f32>,
    /// Standard deviations, more than 0.
    pub std: Vec<f32>,
}

impl Normalize {
    /// ImageNet's statistics for 3 channels; their averages for any other number.
    pub fn imagenet(channels: usize) -> Self {
        match channels {
            3 => Self { mean: vec![0.485, 0.456, 0.406], std: vec![0.229, 0.224, 0.225] },
            _ => Self { mean: vec![0.449], std: vec![0.226] },
        }
    }

    /// Mean and standard deviation of channel `c`.
    pub fn channel(&self, c: usize) -> (f32, f32) {
        let pick = |values: &[f32]| values[if values.len() == 1 { 0 } else { c }];
        (pick(&self.mean), pick(&self.std))
    }
}
