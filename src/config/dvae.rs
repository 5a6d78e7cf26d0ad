//! Discrete variational autoencoders: their sizes, and the options of `[pretrain] objective = "dvae"`, which trains
//! one.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The sizes of a discrete variational autoencoder (DALL·E, arXiv:2102.12092, appendix A). It makes one token for every
/// square of 2^(groups − 1) pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DvaeSizes {
    /// Size of the code book.
    pub vocabulary: usize,
    /// Channels of the first group; each group has twice as many as the one before.
    pub hidden: usize,
    /// Number of groups of blocks; the resolution changes between groups.
    pub groups: usize,
    /// Residual blocks per group.
    pub blocks: usize,
    /// Channels to which the decoder maps tokens.
    pub embedding: usize,
    /// Channels of the images.
    #[serde(default = "three")]
    pub channels: usize,
}

impl Default for DvaeSizes {
    /// The sizes of the model released by OpenAI.
    fn default() -> Self {
        Self { vocabulary: 8192, hidden: 256, groups: 4, blocks: 2, embedding: 128, channels: 3 }
    }
}

impl DvaeSizes {
    /// Pixels between tokens.
    pub fn stride(&self) -> usize {
        1 << (self.groups - 1)
    }

    /// Channels of group `group`, from 0.
    pub fn width(&self, group: usize) -> usize {
        self.hidden << group
    }

    /// Checks the values.
    ///
    /// # Errors
    /// A message that names the key.
    pub fn check(&self) -> Result<(), String> {
        let Self { vocabulary, hidden, groups, blocks, embedding, channels } = *self;
        if !(1..=8).contains(&groups) {
            return Err(format!("sizes.groups is {groups}, expected 1 to 8"));
        }
        if hidden == 0 || !hidden.is_multiple_of(4) {
            return Err(format!("sizes.hidden is {hidden}, expected a multiple of 4"));
        }
        if vocabulary < 2 {
            return Err(format!("sizes.vocabulary is {vocabulary}, expected at least 2"));
        }
        let counts = [("sizes.blocks", blocks), ("sizes.embedding", embedding), ("sizes.channels", channels)];
        match counts.iter().find(|(_, count)| *count == 0) {
            Some((key, _)) => Err(format!("{key} is 0, expected at least 1")),
            None => Ok(()),
        }
    }
}

/// A number that goes from `from` to `to` along half a cosine over a share of the run and then stays there.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Anneal {
    /// Value at the beginning.
    pub from: f64,
    /// Value at the end.
    pub to: f64,
    /// Share of the run (0 to 1) after which the value is `to`.
    pub until: f64,
}

impl Anneal {
    /// The value after the share `progress` (0 to 1) of the run.
    pub fn at(&self, progress: f64) -> f64 {
        let x = if self.until > 0. { (progress / self.until).min(1.) } else { 1. };
        self.to + (self.from - self.to) * 0.5 * (1. + (std::f64::consts::PI * x).cos())
    }
}

/// Loss of the reconstructed pixels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PixelLoss {
    /// The negative logarithm of a logit-Laplace density, whose location and scale the decoder gives.
    #[default]
    LogitLaplace,
    /// Squared error of the location.
    L2,
}

/// Training of a tokenizer: Gumbel-softmax relaxation of the tokens (arXiv:2102.12092, appendix A.2).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DvaeTraining {
    /// Sizes of the autoencoder.
    #[serde(default)]
    pub sizes: DvaeSizes,
    /// Loss of the reconstructed pixels.
    #[serde(default)]
    pub pixel_loss: PixelLoss,
    /// Temperature of the Gumbel-softmax relaxation.
    pub temperature: Anneal,
    /// Weight of the divergence of the tokens' distribution from the uniform one. Like the loss of pixels it is
    /// divided by the number of values of an image.
    pub kl_weight: Anneal,
    /// Standard deviation of the initial scores of each token over all positions; their mean is 0. The scores are
    /// fitted to training images before the first step, so that all tokens are used. When absent, the initial scores
    /// are those of the randomly drawn layers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initial_spread: Option<f64>,
    /// Weight of the diversity loss of wav2vec 2.0 (arXiv:2006.11477, equation 4), 1 − H(p̄)/ln V with p̄ the mean
    /// distribution over a batch: 0 where all tokens are as likely. OpenAI's recipe does not have this loss.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub diversity: f64,
}

impl DvaeTraining {
    /// Checks the values.
    ///
    /// # Errors
    /// A message that names the key.
    pub fn check(&self) -> Result<(), String> {
        let Self { sizes, temperature, kl_weight, initial_spread, diversity, .. } = self;
        if initial_spread.is_some_and(|spread| !spread.is_finite() || spread <= 0.) {
            return Err(format!("pretrain.initial_spread is {initial_spread:?}, expected more than 0"));
        }
        if !diversity.is_finite() || *diversity < 0. {
            return Err(format!("pretrain.diversity is {diversity}, expected 0 or more"));
        }
        for (key, anneal) in [("temperature", temperature), ("kl_weight", kl_weight)] {
            let numbers = [anneal.from, anneal.to, anneal.until];
            if numbers.iter().any(|x| !x.is_finite() || *x < 0.) || anneal.until > 1. {
                return Err(format!("pretrain.{key} is {anneal:?}, expected numbers ≥ 0 and until ≤ 1"));
            }
        }
        if temperature.from == 0. || temperature.to == 0. {
            return Err("pretrain.temperature is 0, expected more".into());
        }
        sizes.check().map_err(|error| format!("pretrain.{error}"))
    }
}

fn three() -> usize {
    3
}

fn is_zero(x: &f64) -> bool {
    *x == 0.
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_cosine_then_flat() {
        let anneal = Anneal { from: 1., to: 0.5, until: 0.5 };
        let values = [0., 0.25, 0.5, 0.9].map(|progress| anneal.at(progress));
        assert_eq!(values.map(|x| (1000. * x).round() / 1000.), [1., 0.75, 0.5, 0.5]);
        assert_eq!(Anneal { until: 0., ..anneal }.at(0.), 0.5);
    }

    #[test]
    fn sizes_of_the_released_model() {
        let sizes = DvaeSizes::default();
        assert_eq!((sizes.stride(), sizes.width(3)), (8, 2048));
        assert!(sizes.check().is_ok());
        assert!(DvaeSizes { groups: 0, ..sizes }.check().unwrap_err().contains("groups is 0"));
    }
}
