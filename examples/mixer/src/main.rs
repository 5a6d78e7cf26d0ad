//! `bench` with one more backbone, `mixer`: MLP-Mixer (arXiv:2105.01601), which mixes tokens and channels with multilayer
//! perceptrons and has no attention.
//!
//! Parameters have the names of timm's `mixer_b16_224` and its relatives, so that `--init` reads their weights by name.

use bench::prelude::*;
use candle_core::{Result, Tensor, bail};
use candle_nn::VarBuilder;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::process::ExitCode;

fn main() -> ExitCode {
    bench::cli::main(Registry::builtin().with_backbone::<Mixer>())
}

/// `[options]` of a model file.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// Hidden width of the MLP that mixes tokens: half of `width` in the paper's models.
    token_hidden: usize,
    /// Hidden width of the MLP that mixes channels: four times `width` in the paper's models.
    channel_hidden: usize,
}

/// ε of every norm, as in timm.
const EPS: f64 = 1e-6;

/// `fc2`(gelu(`fc1`(x))) along the last dimension.
struct Perceptron {
    fc1: Linear,
    fc2: Linear,
}

impl Perceptron {
    fn new(size: usize, hidden: usize, params: VarBuilder) -> Result<Self> {
        let fc1 = Linear::new(size, hidden, params.pp("fc1"))?;
        Ok(Self { fc1, fc2: Linear::new(hidden, size, params.pp("fc2"))? })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.fc2.forward(&ops::gelu(&self.fc1.forward(x)?)?)
    }
}

/// x + `mlp_tokens`(`norm1`(x)ᵀ)ᵀ, then x + `mlp_channels`(`norm2`(x)).
struct Block {
    norm1: LayerNorm,
    mlp_tokens: Perceptron,
    norm2: LayerNorm,
    mlp_channels: Perceptron,
    drop_path: f64,
}

impl Block {
    /// `x` [B, N, C] -> [B, N, C].
    fn forward(&self, x: &Tensor, pass: &mut Pass) -> Result<Tensor> {
        let columns = self.norm1.forward(x)?.transpose(1, 2)?.contiguous()?; // [B, C, N]
        let mixed = self.mlp_tokens.forward(&columns)?.transpose(1, 2)?.contiguous()?;
        let x = (x + self.dropped(mixed, pass)?)?;
        let mixed = self.mlp_channels.forward(&self.norm2.forward(&x)?)?;
        &x + self.dropped(mixed, pass)?
    }

    /// `branch` [B, N, C] with stochastic depth.
    fn dropped(&self, branch: Tensor, pass: &mut Pass) -> Result<Tensor> {
        let batch = branch.dim(0)?;
        match drop_path(batch, self.drop_path, pass) {
            Some(factors) => {
                branch.broadcast_mul(&Tensor::from_vec(factors, (batch, 1, 1), branch.device())?)
            }
            None => Ok(branch),
        }
    }
}

/// Patch embedding, blocks and, on demand, the final norm.
pub struct Mixer {
    spec: BackboneSpec,
    grid: (usize, usize),
    stem: PatchEmbed,
    blocks: Vec<Block>,
    norm: Option<LayerNorm>,
    frozen: usize,
}

impl Backbone for Mixer {
    fn spec(&self) -> &BackboneSpec {
        &self.spec
    }

    /// The class feature is the mean of the tokens after the final norm, from which the paper classifies images.
    fn forward(&self, images: &Tensor, taps: &[usize], pass: &mut Pass) -> Result<Features> {
        let patches = patchify(images, self.spec.patch)?; // [B, N, p·p·C]
        let count = self.grid.0 * self.grid.1;
        if patches.dim(1)? != count {
            bail!("mixer: expected images of {count} patches, got {}", patches.dim(1)?);
        }
        let mut x = self.stem.forward(&patches)?;
        let mut after = Vec::with_capacity(self.blocks.len());
        for (i, block) in self.blocks.iter().enumerate() {
            x = match i < self.frozen {
                true => ops::no_grad(|| block.forward(&x, &mut Pass::Eval))?.detach(),
                false => block.forward(&x, pass)?,
            };
            after.push(x.clone());
        }
        let mut cls = self.norm.as_ref().map(|norm| norm.forward(&x)?.mean(1)).transpose()?;
        if self.frozen >= self.blocks.len() {
            cls = cls.map(|cls| cls.detach());
        }
        let tap = |tap: &usize| match after.get(*tap) {
            Some(tokens) => Ok(tokens.clone()),
            None => bail!("mixer: block {tap} does not exist; blocks are 0 to {}", after.len() - 1),
        };
        Ok(Features { taps: taps.iter().map(tap).collect::<Result<_>>()?, cls, grid: self.grid })
    }

    fn layer_of(&self, parameter: &str) -> usize {
        let mut parts = parameter.split('.');
        match (parts.next(), parts.next().map(str::parse::<usize>)) {
            (Some("stem"), _) => 0,
            (Some("blocks"), Some(Ok(block))) => block + 1,
            _ => self.spec.depth + 1,
        }
    }
}

impl BackboneKind for Mixer {
    const NAME: &'static str = "mixer";
    type Options = Options;

    fn check(_: &ModelConfig, options: &Options) -> std::result::Result<(), String> {
        let Options { token_hidden, channel_hidden } = *options;
        for (key, value) in [("token_hidden", token_hidden), ("channel_hidden", channel_hidden)] {
            if value == 0 {
                return Err(format!("options.{key} is 0, expected at least 1"));
            }
        }
        Ok(())
    }

    fn build(
        config: &ModelConfig,
        options: &Options,
        usage: BackboneUsage,
        vb: VarBuilder<'static>,
        _: Option<&[(String, Tensor)]>,
    ) -> Result<Box<dyn Backbone>> {
        let ModelConfig { patch, width, depth, channels, .. } = *config;
        let grid = config.grid();
        let block = |i: usize| {
            let params = vb.pp("blocks").pp(i);
            Ok(Block {
                norm1: LayerNorm::new(width, EPS, params.pp("norm1"))?,
                mlp_tokens: Perceptron::new(grid.0 * grid.1, options.token_hidden, params.pp("mlp_tokens"))?,
                norm2: LayerNorm::new(width, EPS, params.pp("norm2"))?,
                mlp_channels: Perceptron::new(width, options.channel_hidden, params.pp("mlp_channels"))?,
                drop_path: usage.drop_path * i as f64 / (depth.max(2) - 1) as f64,
            })
        };
        Ok(Box::new(Self {
            spec: BackboneSpec { width, depth, patch },
            grid,
            stem: PatchEmbed::new(channels, patch, width, vb.pp("stem"))?,
            blocks: (0..depth).map(block).collect::<Result<_>>()?,
            norm: usage.final_norm.then(|| LayerNorm::new(width, EPS, vb.pp("norm"))).transpose()?,
            frozen: usage.frozen,
        }))
    }

    fn gmacs(config: &ModelConfig, options: &Options) -> Option<f64> {
        let (tokens, width) = (config.grid().0 * config.grid().1, config.width);
        let stem = tokens * width * config.channels * config.patch * config.patch;
        let block = 2 * tokens * width * (options.token_hidden + options.channel_hidden);
        Some((stem + config.depth * block) as f64 * 1e-9)
    }
}
