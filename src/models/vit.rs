//! Plain vision transformer (ViT, arXiv:2010.11929), as encoder of MAE and as backbone of transfer.
//!
//! Parameter names are those of the FAIR checkpoints (facebookresearch/mae `models_vit.py`), which timm
//! shares. The input size is fixed when the model is built: positions are resized when weights are
//! loaded ([`crate::weights`]), not in the forward pass.

use super::cost::vit_gmacs;
use super::{Backbone, BackboneKind, BackboneSpec, BackboneUsage, Features, NoOptions, WeightMatching};
use crate::config::{AttentionConfig, ModelConfig, RelativePosition, VIT};
use crate::nn::{
    AttentionPattern, Block, BlockConfig, LayerNorm, Pass, PatchEmbed, RelativePositionBias, patchify,
    pos_embed,
};
use crate::ops::no_grad;
use candle_core::{Result, Tensor};
use candle_nn::{Init, VarBuilder};

/// The relative positions that belong to a model of BEiT, where a recipe does not choose others.
fn relative_positions_of(config: &ModelConfig, pretrains: bool) -> Option<AttentionConfig> {
    let relative_position = match pretrains {
        true => RelativePosition::Shared,
        false => RelativePosition::PerBlock,
    };
    config.relative_positions.then(|| AttentionConfig { relative_position, ..AttentionConfig::default() })
}

/// Patch embedding, class token, registers, positions, blocks and, on demand, the final norm.
#[derive(Clone, Debug)]
pub struct Vit {
    spec: BackboneSpec,
    /// Input channels, height and width.
    input: (usize, usize, usize),
    grid: (usize, usize),
    patch_embed: PatchEmbed,
    cls_token: Option<Tensor>, // [1, 1, C]
    registers: Option<Tensor>, // [1, R, C]
    /// [1, 1 + N, C]
    pos_embed: Option<Tensor>,
    blocks: Vec<Block>,
    norm: Option<LayerNorm>,
    frozen: usize,
}

impl Vit {
    /// # Errors
    /// A `config` of another backbone or with invalid values, windows together with a class token or registers, or a
    /// parameter that the builder lacks.
    pub fn new(config: &ModelConfig, usage: BackboneUsage, vb: VarBuilder) -> Result<Self> {
        config.check().and_then(|()| check_sizes(config)).map_err(candle_core::Error::msg)?;
        let ModelConfig { patch, width, depth, channels, .. } = *config;
        let token = Init::Randn { mean: 0., stdev: 0.02 };
        let attention = usage.attention.or_else(|| relative_positions_of(config, usage.pretrains));
        let class = attention.as_ref().is_none_or(AttentionConfig::keeps_class_token);
        if usage.final_norm && !class {
            candle_core::bail!(
                "ViT: the head reads the class token, which windowed attention and decomposed positions do not support"
            );
        }
        let registers = if class { config.registers } else { 0 };
        if registers > 0 && attention.is_some() {
            candle_core::bail!(
                "ViT: registers cannot be combined with relative positions: leave `transfer.attention` out, or set windows \
                 (which leave them out with the class token)"
            );
        }
        let cls_token = class.then(|| vb.get_with_hints((1, 1, width), "cls_token", token)).transpose()?;
        let registers =
            (registers > 0).then(|| vb.get_with_hints((1, registers, width), "register_tokens", token));
        let positions = || pos_embed::parameter("pos_embed", width, config.grid(), &vb);
        let pos_embed = config.absolute_positions.then(positions).transpose()?;
        let patch_embed = PatchEmbed::new(channels, patch, width, vb.pp("patch_embed"))?;
        let block = |i: usize| {
            let drop_path = usage.drop_path * i as f64 / (depth.max(2) - 1) as f64;
            Block::new(block_config(config, width, config.heads, drop_path), vb.pp("blocks").pp(i))
        };
        let mut blocks: Vec<Block> = (0..depth).map(block).collect::<Result<_>>()?;
        if let Some(attention) = &attention {
            let patterns = attention_patterns(attention, config, &vb)?;
            blocks = blocks
                .into_iter()
                .zip(patterns)
                .map(|(block, pattern)| block.with_attention(pattern))
                .collect();
        }
        Ok(Self {
            spec: BackboneSpec { width, depth, patch },
            input: (channels, config.image[0], config.image[1]),
            grid: config.grid(),
            cls_token,
            registers: registers.transpose()?,
            pos_embed,
            patch_embed,
            blocks,
            norm: match usage.final_norm {
                true => Some(LayerNorm::new(width, config.norm_eps, vb.pp("norm"))?),
                false => None,
            },
            frozen: usage.frozen,
        })
    }

    /// `images` [B, C, H, W] -> [B, N, p·p·C].
    ///
    /// # Errors
    /// When the images do not have the size that the model was built for.
    pub fn patches(&self, images: &Tensor) -> Result<Tensor> {
        let (_, channels, height, width) = images.dims4()?;
        let (c, h, w) = self.input;
        if (channels, height, width) != self.input {
            candle_core::bail!(
                "ViT: expected images of {c}×{h}×{w} (channels, height, width), got {channels}×{height}×{width}; \
                 set `image` and `channels` of the model, positions are resized when weights are loaded"
            );
        }
        patchify(images, self.spec.patch)
    }

    /// Tokens of patches [B, n, p·p·C], without positions -> [B, n, C].
    pub fn embed(&self, patches: &Tensor) -> Result<Tensor> {
        self.patch_embed.forward(patches)
    }

    /// Patches per column and row.
    pub fn grid(&self) -> (usize, usize) {
        self.grid
    }

    /// [1, 1 + N, C]; the first row belongs to the class token.
    ///
    /// # Errors
    /// When the model has no absolute positions.
    pub fn positions(&self) -> Result<&Tensor> {
        match &self.pos_embed {
            Some(positions) => Ok(positions),
            None => candle_core::bail!("ViT: the model has no absolute positions (`absolute_positions`)"),
        }
    }

    /// Adds positions to `tokens` [B, N, C] of all patches, if the model has any, and puts class token and registers,
    /// if any, before them -> [B, 1 + R + N, C].
    pub fn with_positions(&self, tokens: &Tensor) -> Result<Tensor> {
        match &self.pos_embed {
            Some(positions) => {
                let n = tokens.dim(1)?;
                let tokens = tokens.broadcast_add(&positions.narrow(1, 1, n)?)?;
                self.with_class_token(&tokens, Some(positions))
            }
            None => self.with_class_token(tokens, None),
        }
    }

    /// Puts the class token, with its row of `positions`, and registers before `tokens` [B, n, C] -> [B, 1 + R + n, C].
    /// Without a class token, returns the tokens alone.
    pub fn with_class_token(&self, tokens: &Tensor, positions: Option<&Tensor>) -> Result<Tensor> {
        let Some(class) = &self.cls_token else { return Ok(tokens.clone()) };
        let (batch, _, width) = tokens.dims3()?;
        let class = match positions {
            Some(positions) => (class + positions.narrow(1, 0, 1)?)?, // [1, 1, C]
            None => class.clone(),
        };
        let mut parts = vec![class.broadcast_as((batch, 1, width))?];
        if let Some(registers) = &self.registers {
            parts.push(registers.broadcast_as((batch, registers.dim(1)?, width))?);
        }
        parts.push(tokens.clone());
        Tensor::cat(&parts, 1)
    }

    /// `x` [B, 1 + R + n, C] without the registers -> [B, 1 + n, C].
    fn without_registers(&self, x: Tensor) -> Result<Tensor> {
        let Some(registers) = &self.registers else { return Ok(x) };
        let first = 1 + registers.dim(1)?;
        Tensor::cat(&[x.narrow(1, 0, 1)?, x.narrow(1, first, x.dim(1)? - first)?], 1)
    }

    /// Runs the blocks and the final norm on `x` [B, 1 + R + n, C] (with positions). Without a final norm, blocks
    /// after the last tap do not run.
    pub fn encode(&self, mut x: Tensor, taps: &[usize], pass: &mut Pass) -> Result<Encoded> {
        let depth = self.spec.depth;
        if let Some(tap) = taps.iter().find(|tap| **tap >= depth) {
            candle_core::bail!("ViT: tap {tap} does not exist, blocks are 0..{depth}");
        }
        let last = if self.norm.is_some() { depth } else { taps.iter().max().map_or(0, |tap| tap + 1) };
        let mut after = vec![None; depth]; // only requested outputs are kept
        for (i, block) in self.blocks[..last].iter().enumerate() {
            x = match i < self.frozen {
                true => no_grad(|| block.forward(&x, pass))?.detach(),
                false => block.forward(&x, pass)?,
            };
            after[i] = taps.contains(&i).then(|| self.without_registers(x.clone())).transpose()?;
        }
        let taps = taps.iter().filter_map(|tap| after[*tap].clone()).collect();
        let mut normed =
            self.norm.as_ref().map(|norm| self.without_registers(norm.forward(&x)?)).transpose()?;
        if self.frozen >= depth {
            normed = normed.map(|x| x.detach());
        }
        Ok(Encoded { taps, normed })
    }
}

/// The output of [`Vit::encode`]; the class token comes first, registers are left out.
#[derive(Clone, Debug)]
pub struct Encoded {
    /// After the requested blocks. [B, 1 + n, C]
    pub taps: Vec<Tensor>,
    /// After the last block and the final norm; `None` without a final norm. [B, 1 + n, C]
    pub normed: Option<Tensor>,
}

/// Checks the keys of a model file that only a ViT has.
fn check_sizes(config: &ModelConfig) -> std::result::Result<(), String> {
    if config.backbone != VIT {
        return Err(format!("a ViT is needed here, but the model has `backbone = \"{}\"`", config.backbone));
    }
    let decoder = &config.decoder;
    for (what, width, heads) in
        [("width", config.width, config.heads), ("decoder.width", decoder.width, decoder.heads)]
    {
        if heads == 0 || width == 0 || width % heads != 0 {
            return Err(format!("{what} {width} is not a multiple of heads {heads}"));
        }
        if width % 4 != 0 && config.absolute_positions {
            return Err(format!("{what} {width} is not a multiple of 4 (sin-cos positions)"));
        }
    }
    match config.layer_scale {
        Some(scale) if !scale.is_finite() => Err("layer_scale is not a finite number".into()),
        _ => Ok(()),
    }
}

impl BackboneKind for Vit {
    const NAME: &'static str = VIT;
    const ATTENTION: bool = true;
    type Options = NoOptions;

    fn check(config: &ModelConfig, _: &NoOptions) -> std::result::Result<(), String> {
        check_sizes(config)
    }

    fn build(
        config: &ModelConfig,
        _: &NoOptions,
        usage: BackboneUsage,
        vb: VarBuilder<'static>,
        _: Option<&[(String, Tensor)]>,
    ) -> Result<Box<dyn Backbone>> {
        Ok(Box::new(Self::new(config, usage, vb)?))
    }

    fn weight_matching() -> WeightMatching {
        WeightMatching::Vit
    }

    fn gmacs(config: &ModelConfig, _: &NoOptions) -> Option<f64> {
        Some(vit_gmacs(config))
    }
}

impl Backbone for Vit {
    fn spec(&self) -> &BackboneSpec {
        &self.spec
    }

    fn forward(&self, images: &Tensor, taps: &[usize], pass: &mut Pass) -> Result<Features> {
        let tokens = self.embed(&self.patches(images)?)?; // [B, N, C]
        let n = tokens.dim(1)?;
        let x = self.with_positions(&tokens)?;
        let Encoded { taps, normed } = self.encode(x, taps, pass)?;
        Ok(Features {
            taps: taps.iter().map(|tap| tap.narrow(1, tap.dim(1)? - n, n)).collect::<Result<_>>()?,
            cls: normed.map(|x| x.narrow(1, 0, 1)?.squeeze(1)).transpose()?,
            grid: self.grid,
        })
    }

    fn layer_of(&self, parameter: &str) -> usize {
        layer_of(parameter, self.spec.depth)
    }
}

/// Attention windows and relative position biases of each block. Tables that blocks share are `rel_pos_bias.*` (BEiT's
/// name) for the global blocks and `window_rel_pos_bias.*` for the windowed ones.
fn attention_patterns(
    attention: &AttentionConfig,
    config: &ModelConfig,
    vb: &VarBuilder,
) -> Result<Vec<AttentionPattern>> {
    let (depth, grid, heads) = (config.depth, config.grid(), config.heads);
    attention.check(depth).map_err(candle_core::Error::msg)?;
    let class = attention.keeps_class_token();
    let windows: Vec<Option<usize>> = (0..depth).map(|i| attention.window_of(i, depth)).collect();
    let area = |window: Option<usize>| window.map_or(grid, |side| (side, side));
    let table = |window, vb: VarBuilder| RelativePositionBias::table(area(window), class, heads, &vb);
    let shared = attention.relative_position == RelativePosition::Shared;
    let common = |windowed: bool, name: &str| {
        let like = windows.iter().find(|window| window.is_some() == windowed);
        like.filter(|_| shared).map(|window| table(*window, vb.pp(name))).transpose()
    };
    let (global, windowed) = (common(false, "rel_pos_bias")?, common(true, "window_rel_pos_bias")?);
    let pattern = |(i, window): (usize, Option<usize>)| {
        let own = vb.pp("blocks").pp(i).pp("attn");
        let relative = match attention.relative_position {
            RelativePosition::None => RelativePositionBias::None,
            RelativePosition::Shared => {
                let common = if window.is_some() { &windowed } else { &global };
                common.clone().unwrap_or(RelativePositionBias::None)
            }
            RelativePosition::PerBlock => table(window, own)?,
            RelativePosition::Decomposed => {
                RelativePositionBias::decomposed(area(window), config.width / heads, &own)?
            }
        };
        Ok(AttentionPattern { grid, window, relative })
    };
    windows.into_iter().enumerate().map(pattern).collect()
}

/// 0 for class token, registers, positions and patch embedding, i + 1 for block i, depth + 1 for the rest
/// (MAE `util/lr_decay.py`).
pub(crate) fn layer_of(parameter: &str, depth: usize) -> usize {
    let mut parts = parameter.split('.');
    match parts.next() {
        Some("cls_token" | "register_tokens" | "pos_embed" | "patch_embed" | "encoder_mask_token") => 0,
        Some("blocks") => parts.next().and_then(|i| i.parse::<usize>().ok()).map_or(depth + 1, |i| i + 1),
        _ => depth + 1,
    }
}

/// The block of a model at another width (the decoder's) or its own.
pub(crate) fn block_config(config: &ModelConfig, width: usize, heads: usize, drop_path: f64) -> BlockConfig {
    let hidden = (width as f64 * config.mlp_ratio) as usize;
    let ModelConfig { norm_eps, layer_scale, key_bias, .. } = *config;
    BlockConfig { width, heads, hidden, norm_eps, drop_path, layer_scale, key_bias }
}

#[cfg(test)]
mod tests;
