//! What happens to an image between decoding and the model, as data.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Resampling filter, with Pillow's definitions (antialiased when shrinking).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Interpolation {
    Nearest,
    Bilinear,
    #[default]
    Bicubic,
    Lanczos,
}

/// One step of augmentation or of an evaluation protocol. Sizes are [height, width] and default to
/// the model's input size.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub enum AugmentOp {
    /// torchvision `RandomResizedCrop`; with `single_draw`, the BYOL-style variant of MAE's linear
    /// probe (one draw, clamped to the image: `util/crop.py`).
    RandomResizedCrop {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        size: Option<[usize; 2]>,
        /// Area of the crop relative to the image.
        scale: [f64; 2],
        /// Width / height of the crop, log-uniform.
        #[serde(default = "rrc_ratio")]
        ratio: [f64; 2],
        #[serde(default)]
        interpolation: Interpolation,
        #[serde(default)]
        single_draw: bool,
    },
    /// A crop of the target size at a random place, after padding with zeros or reflection.
    RandomCrop {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        size: Option<[usize; 2]>,
        #[serde(default)]
        padding: usize,
        #[serde(default)]
        reflect: bool,
    },
    /// Left-right mirror with probability `p`.
    Flip { p: f64 },
    /// Scales both sides to exactly `size`.
    Resize {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        size: Option<[usize; 2]>,
        #[serde(default)]
        interpolation: Interpolation,
    },
    /// Scales the shorter side to `size`, or to input size / `crop_ratio`. Above an input of
    /// `margin_up_to` pixels there is no margin (ratio 1), as in MAE's evaluation.
    ResizeShort {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        size: Option<usize>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        crop_ratio: Option<f64>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        margin_up_to: Option<usize>,
        #[serde(default)]
        interpolation: Interpolation,
    },
    /// torchvision `CenterCrop` (zero padding when the image is smaller).
    CenterCrop {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        size: Option<[usize; 2]>,
    },
    /// Large-scale jitter (detectron2 `ResizeScale`): keeps the aspect; the image fits `size` times a factor drawn
    /// uniformly from `scale`.
    ResizeScale {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        size: Option<[usize; 2]>,
        /// Lowest and highest factor.
        scale: [f64; 2],
        #[serde(default = "bilinear")]
        interpolation: Interpolation,
    },
    /// Cuts `size` at a random place of a larger image, and pads a smaller one at the bottom and on the right
    /// (detectron2 `FixedSizeCrop`).
    FixedSizeCrop {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        size: Option<[usize; 2]>,
        /// Byte of each channel in the padding: one for all, or one per channel; the mean colour of `normalize`, which
        /// becomes 0, when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        fill: Option<Vec<u8>>,
    },
    /// Scales the longer side to `size` (the longer one of the model's input when absent), keeping the aspect.
    ResizeLongest {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        size: Option<usize>,
        #[serde(default = "bilinear")]
        interpolation: Interpolation,
    },
    /// Pads at the bottom and on the right to `size`; a larger image is an error.
    Pad {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        size: Option<[usize; 2]>,
        /// As in `fixed_size_crop`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        fill: Option<Vec<u8>>,
    },
    /// torchvision `ColorJitter`: factors in [1−x, 1+x] (hue: ±x of a turn), in random order.
    ColorJitter { brightness: f64, contrast: f64, saturation: f64, hue: f64 },
    /// mmsegmentation's keep-ratio resize: the largest size that fits into `short` × `long` pixels in either orientation,
    /// times a factor drawn from `scale`. `short` defaults to the shorter side of the input, `long` to four times that.
    ResizeWithin {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        short: Option<usize>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        long: Option<usize>,
        #[serde(default = "same")]
        scale: [f64; 2],
        #[serde(default = "bilinear")]
        interpolation: Interpolation,
    },
    /// mmsegmentation's `RandomCrop` and `Pad`: a crop at a random place, drawn up to ten times more while one class
    /// covers `class_share` (its `cat_max_ratio`) of the labelled pixels or more. Smaller images are padded at the right
    /// and at the bottom with the mean colour, their labels with ignored pixels.
    SceneCrop {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        size: Option<[usize; 2]>,
        #[serde(default = "all")]
        class_share: f64,
    },
    /// mmsegmentation's `PhotoMetricDistortion`: each adjustment with probability ½. `brightness` is in levels of 255,
    /// `hue` in steps of 2°, both up or down; the others are ranges of factors.
    Photometric {
        #[serde(default = "levels")]
        brightness: f64,
        #[serde(default = "factors")]
        contrast: [f64; 2],
        #[serde(default = "factors")]
        saturation: [f64; 2],
        #[serde(default = "turn")]
        hue: i32,
    },
    /// timm RandAugment, increasing set `inc1`: `layers` ops, each with probability `p`, at magnitude
    /// Normal(`magnitude`, `magnitude_std`) clipped to [0, 10]. `rand-m9-mstd0.5-inc1` is layers 2, magnitude 9, std 0.5, p 0.5.
    RandAugment {
        #[serde(default = "two")]
        layers: usize,
        magnitude: f64,
        #[serde(default)]
        magnitude_std: f64,
        #[serde(default = "half")]
        p: f64,
        #[serde(default)]
        interpolation: Interpolation,
    },
}

impl AugmentOp {
    /// As in a recipe: its `op`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::RandomResizedCrop { .. } => "random_resized_crop",
            Self::RandomCrop { .. } => "random_crop",
            Self::Flip { .. } => "flip",
            Self::Resize { .. } => "resize",
            Self::ResizeShort { .. } => "resize_short",
            Self::CenterCrop { .. } => "center_crop",
            Self::ResizeScale { .. } => "resize_scale",
            Self::FixedSizeCrop { .. } => "fixed_size_crop",
            Self::ResizeLongest { .. } => "resize_longest",
            Self::Pad { .. } => "pad",
            Self::ColorJitter { .. } => "color_jitter",
            Self::ResizeWithin { .. } => "resize_within",
            Self::SceneCrop { .. } => "scene_crop",
            Self::Photometric { .. } => "photometric",
            Self::RandAugment { .. } => "rand_augment",
        }
    }

    /// Whether it draws at random.
    pub fn is_random(&self) -> bool {
        !matches!(
            self,
            Self::Resize { .. }
                | Self::ResizeShort { .. }
                | Self::ResizeLongest { .. }
                | Self::CenterCrop { .. }
                | Self::Pad { .. }
        )
    }
}

fn rrc_ratio() -> [f64; 2] {
    [3. / 4., 4. / 3.]
}
fn same() -> [f64; 2] {
    [1., 1.]
}
fn bilinear() -> Interpolation {
    Interpolation::Bilinear
}
fn all() -> f64 {
    1.
}
fn levels() -> f64 {
    32.
}
fn factors() -> [f64; 2] {
    [0.5, 1.5]
}
fn turn() -> i32 {
    18
}
fn two() -> usize {
    2
}
fn half() -> f64 {
    0.5
}

/// Random erasing after normalisation, timm mode `pixel`: one rectangle of per-pixel normal noise.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Erase {
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
    pub mean: Vec<f32>,
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
