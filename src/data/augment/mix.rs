//! Mixup (arXiv:1710.09412) and cutmix (arXiv:1905.04899) of a batch with its reverse, as timm's `Mixup` in mode `batch`.
//!
//! Programs that train on several devices mix on each of them, with a λ for the images of that device. `group` does the
//! same on one device.
//!
//! Deviation: a batch or group of odd size is allowed; its middle sample mixes with itself.

use crate::rng::Rng;
use candle_core::{Device, Result, Tensor};
use rand::Rng as _;
use rand_distr::{Beta, Distribution};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::num::NonZeroUsize;

/// Options of mixup and cutmix. An α of 0 turns the method off.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Mix {
    /// α of mixup's Beta(α, α).
    #[serde(default)]
    pub mixup: f64,
    /// α of cutmix's.
    #[serde(default)]
    pub cutmix: f64,
    /// Probability that a group is mixed.
    #[serde(default = "one")]
    pub prob: f64,
    /// Probability of cutmix when both methods are on.
    #[serde(default = "half")]
    pub switch_prob: f64,
    /// Number of consecutive images that are mixed with each other, with one λ: the batch of one device in the reference.
    /// The whole micro-batch when absent; the last group of a micro-batch may be smaller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<NonZeroUsize>,
}

fn one() -> f64 {
    1.
}
fn half() -> f64 {
    0.5
}

/// The mixing of one group.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Draw {
    Nothing,
    Mixup {
        lambda: f64,
    },
    /// Rows `y` and columns `x` come from the partner.
    Cutmix {
        y: (usize, usize),
        x: (usize, usize),
    },
}

impl Mix {
    pub(super) fn draw(&self, (height, width): (usize, usize), rng: &mut Rng) -> Result<Draw> {
        if rng.random::<f64>() >= self.prob || (self.mixup <= 0. && self.cutmix <= 0.) {
            return Ok(Draw::Nothing);
        }
        let cut = match (self.mixup > 0., self.cutmix > 0.) {
            (true, true) => rng.random::<f64>() < self.switch_prob,
            (_, cutmix) => cutmix,
        };
        let alpha = if cut { self.cutmix } else { self.mixup };
        let lambda = Beta::new(alpha, alpha).map_err(candle_core::Error::wrap)?.sample(rng);
        if !cut {
            return Ok(Draw::Mixup { lambda });
        }
        let centre = (rng.random_range(0..height), rng.random_range(0..width));
        Ok(Draw::cutmix((height, width), lambda, centre))
    }
}

impl Draw {
    /// The rectangle around `centre` (y, x) that covers 1 − `lambda` of the image before it is cut at the border.
    pub(super) fn cutmix((height, width): (usize, usize), lambda: f64, centre: (usize, usize)) -> Self {
        let ratio = (1. - lambda).sqrt();
        let side = |length: usize, centre: usize| {
            let half = (length as f64 * ratio) as usize / 2;
            (centre.saturating_sub(half), (centre + half).min(length))
        };
        Self::Cutmix { y: side(height, centre.0), x: side(width, centre.1) }
    }

    /// The share of the own image, whose size is (height, width).
    fn lambda(self, (height, width): (usize, usize)) -> f64 {
        match self {
            Self::Nothing => 1.,
            Self::Mixup { lambda } => lambda,
            Self::Cutmix { y, x } => 1. - ((y.1 - y.0) * (x.1 - x.0)) as f64 / (height * width) as f64,
        }
    }
}

/// Mixes `images` [B, C, H, W] (f32) of each group with those of the group in reverse order, and makes soft targets
/// [B, `classes`] (f32) with smoothing folded in: 1 − s + s/K on, s/K off. Images stay on their device; targets are in host
/// memory.
///
/// # Errors
/// A number of labels other than the number of images, a label that is not below `classes`, or an α that is not a
/// number.
pub fn mix_batch(
    images: &Tensor,
    labels: &[u32],
    classes: usize,
    smoothing: f64,
    mix: &Mix,
    rng: &mut Rng,
) -> Result<(Tensor, Tensor)> {
    let (batch, _, height, width) = images.dims4()?;
    let group = mix.group.map_or(batch.max(1), NonZeroUsize::get);
    let draws: Vec<Draw> =
        (0..batch.div_ceil(group)).map(|_| mix.draw((height, width), rng)).collect::<Result<_>>()?;
    apply(images, labels, classes, smoothing, (group, &draws))
}

/// Mixes groups of `group` images, as `draws` says for each.
pub(super) fn apply(
    images: &Tensor,
    labels: &[u32],
    classes: usize,
    smoothing: f64,
    (group, draws): (usize, &[Draw]),
) -> Result<(Tensor, Tensor)> {
    let (batch, _, height, width) = images.dims4()?;
    if labels.len() != batch {
        candle_core::bail!("{} labels for a batch of {batch} images", labels.len());
    }
    if let Some(label) = labels.iter().find(|label| **label as usize >= classes) {
        candle_core::bail!("label {label}, but there are {classes} classes");
    }
    let (off, on) = (smoothing / classes as f64, 1. - smoothing + smoothing / classes as f64);
    let mut targets = vec![off as f32; batch * classes];
    let of_groups = targets.chunks_mut(group * classes).zip(labels.chunks(group)).zip(draws);
    for ((targets, labels), draw) in of_groups {
        let lambda = draw.lambda((height, width));
        for (row, (mine, other)) in
            targets.chunks_exact_mut(classes).zip(labels.iter().zip(labels.iter().rev()))
        {
            let weight = |k: u32, label: u32| if k == label { on } else { off };
            for &k in [mine, other] {
                row[k as usize] = (lambda * weight(k, *mine) + (1. - lambda) * weight(k, *other)) as f32;
            }
        }
    }
    let mixed = match draws.iter().all(|draw| *draw == Draw::Nothing) {
        true => images.clone(),
        false if images.device().is_cpu() => mixed(images, group, draws)?,
        false => mixed_on_device(images, group, draws)?,
    };
    Ok((mixed, Tensor::from_vec(targets, (batch, classes), &Device::Cpu)?))
}

/// `images` mixed in host memory.
fn mixed(images: &Tensor, group: usize, draws: &[Draw]) -> Result<Tensor> {
    let (_, channels, height, width) = images.dims4()?;
    let own = images.flatten_all()?.to_vec1::<f32>()?;
    let size = channels * height * width;
    let mut pixels = own.clone();
    for ((pixels, own), draw) in pixels.chunks_mut(group * size).zip(own.chunks(group * size)).zip(draws) {
        for (image, partner) in pixels.chunks_exact_mut(size).zip(own.chunks_exact(size).rev()) {
            match *draw {
                Draw::Nothing => {}
                Draw::Mixup { lambda } => {
                    let (keep, take) = (lambda as f32, (1. - lambda) as f32);
                    image.iter_mut().zip(partner).for_each(|(p, q)| *p = keep * *p + take * q);
                }
                Draw::Cutmix { y, x } => {
                    for row in (0..channels).flat_map(|c| (y.0..y.1).map(move |row| c * height + row)) {
                        let part = row * width + x.0..row * width + x.1;
                        image[part.clone()].copy_from_slice(&partner[part]);
                    }
                }
            }
        }
    }
    Tensor::from_vec(pixels, images.shape(), images.device())
}

/// [`mixed`] by operators of the device, so that the images stay there.
pub(super) fn mixed_on_device(images: &Tensor, group: usize, draws: &[Draw]) -> Result<Tensor> {
    let batch = images.dim(0)?;
    let of_group = |(index, draw): (usize, &Draw)| {
        let start = index * group;
        mixed_group(&images.narrow(0, start, group.min(batch - start))?, *draw)
    };
    let groups: Vec<Tensor> = draws.iter().enumerate().map(of_group).collect::<Result<_>>()?;
    match groups.as_slice() {
        [all] => Ok(all.clone()),
        _ => Tensor::cat(&groups, 0),
    }
}

/// One group of [`mixed_on_device`].
fn mixed_group(images: &Tensor, draw: Draw) -> Result<Tensor> {
    let (batch, channels, ..) = images.dims4()?;
    let reversed: Vec<u32> = (0..batch as u32).rev().collect();
    let partners = || images.index_select(&Tensor::new(reversed, images.device())?, 0);
    match draw {
        Draw::Mixup { lambda } => images.affine(lambda, 0.)? + partners()?.affine(1. - lambda, 0.)?,
        Draw::Cutmix { y, x } if y.0 < y.1 && x.0 < x.1 => {
            let patch = partners()?.narrow(2, y.0, y.1 - y.0)?.narrow(3, x.0, x.1 - x.0)?;
            images.slice_assign(&[0..batch, 0..channels, y.0..y.1, x.0..x.1], &patch.contiguous()?)
        }
        Draw::Nothing | Draw::Cutmix { .. } => Ok(images.clone()),
    }
}
