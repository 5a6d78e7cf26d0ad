//! Plain vision transformer (ViT, arXiv:2010.11929), as encoder of MAE and as backbone of transfer.
//!
//! Parameter names are those of the FAIR checkpoints (facebookresearch/mae `models_vit.py`), which timm
//! shares. The input size is fixed when the model is built: positions are resized when weights are
//! loaded ([`crate::weights`]), not in the forward pass.

mod blocks;

pub(crate) use blocks::block_config;

use self::blocks::attention_patterns;
use super::cost::vit_gmacs;
use super::{Backbone, BackboneKind, BackboneSpec, BackboneUsage, Features, NoOptions, WeightMatching};
use crate::config::{AttentionConfig, ModelConfig, RelativePosition, VIT};
use crate::nn::{Block, LayerNorm, Pass, PatchEmbed, patchify, pos_embed};
use crate::ops::{self, SHARED_TOKEN, index_select, no_grad, place_tokens};
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
        let relative = |attention: &AttentionConfig| attention.relative_position != RelativePosition::None;
        if registers > 0 && attention.as_ref().is_some_and(relative) {
            candle_core::bail!(
                "ViT: registers cannot be combined with relative positions: set `transfer.attention.relative_position` to \
                 \"none\", or set windows (which leave registers out with the class token)"
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
        if attention.is_some() || config.rope_base.is_some() {
            let before = if class { 1 + config.registers } else { 0 };
            let patterns = attention_patterns(&attention.unwrap_or_default(), config, before, &vb)?;
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
        let (batch, n, _) = tokens.dims3()?;
        match &self.pos_embed {
            Some(positions) => {
                let patches = (0..batch).flat_map(|_| 0..n as u32).collect::<Vec<_>>();
                self.with_positions_of(tokens, &patches, positions)
            }
            None => self.with_class_token(tokens, None),
        }
    }

    /// Like [`Vit::with_positions`], for `tokens` [B, n, C] of the `patches` `[B·n]` and given `positions` [1, 1 + N, C].
    pub fn with_positions_of(&self, tokens: &Tensor, patches: &[u32], positions: &Tensor) -> Result<Tensor> {
        let (batch, n, _) = tokens.dims3()?;
        if let (Some(class), None) = (&self.cls_token, &self.registers) {
            let (mut rows, mut places) = (Vec::new(), Vec::new());
            for (sample, patches) in patches.chunks(n.max(1)).enumerate() {
                rows.extend(
                    std::iter::once(SHARED_TOKEN).chain((sample * n) as u32..((sample + 1) * n) as u32),
                );
                places.extend(std::iter::once(0).chain(patches.iter().map(|patch| patch + 1)));
            }
            return place_tokens(tokens, class, positions, rows, places);
        }
        let places: Vec<u32> = patches.iter().map(|patch| patch + 1).collect();
        let of_patches = index_select(positions, &places)?.reshape((batch, n, ()))?;
        self.with_class_token(&(tokens + of_patches)?, Some(positions))
    }

    /// Puts the class token, with its row of `positions`, and registers before `tokens` [B, n, C] -> [B, 1 + R + n, C].
    /// Without a class token, returns the tokens alone.
    fn with_class_token(&self, tokens: &Tensor, positions: Option<&Tensor>) -> Result<Tensor> {
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

    /// Runs the blocks and the final norm on `x` [B, 1 + R + n, C] (with positions) -> [B, 1 + n, C]. `None` without a
    /// final norm.
    pub fn encode(&self, x: Tensor, pass: &mut Pass) -> Result<Option<Tensor>> {
        let (_, x) = self.run_blocks(x, &[], pass)?;
        let normed = |norm: &LayerNorm| self.without_registers(self.unless_frozen(norm.forward(&x)?));
        self.norm.as_ref().map(normed).transpose()
    }

    /// `normed`, the result of the final norm, which is a constant if all blocks are frozen.
    fn unless_frozen(&self, normed: Tensor) -> Tensor {
        if self.frozen >= self.spec.depth { normed.detach() } else { normed }
    }

    /// Runs the blocks on `x` [B, 1 + R + n, C] (with positions). Returns the outputs [B, 1 + n, C] of the blocks `taps`,
    /// and that of the last block [B, 1 + R + n, C]. Without a final norm, blocks after the last tap do not run.
    fn run_blocks(&self, mut x: Tensor, taps: &[usize], pass: &mut Pass) -> Result<(Vec<Tensor>, Tensor)> {
        let depth = self.spec.depth;
        if let Some(tap) = taps.iter().find(|tap| **tap >= depth) {
            candle_core::bail!("ViT: tap {tap} does not exist, blocks are 0..{depth}");
        }
        let last = if self.norm.is_some() { depth } else { taps.iter().max().map_or(0, |tap| tap + 1) };
        let mut after = vec![None; depth]; // only requested outputs are kept
        let mut start = 0;
        while start < last {
            // Up to the next block whose output is read, or to the last frozen one.
            let end =
                (start..last).find(|i| taps.contains(i) || i + 1 == self.frozen).map_or(last, |i| i + 1);
            let blocks = |x: &Tensor, pass: &mut Pass| {
                self.blocks[start..end].iter().try_fold(x.clone(), |x, block| block.forward(&x, pass))
            };
            // Frozen blocks are not regularised: they run as in evaluation, without drop path.
            x = match start < self.frozen {
                true => no_grad(|| blocks(&x, &mut Pass::Eval))?.detach(),
                false => ops::chain(&x, |x| blocks(x, pass))?,
            };
            after[end - 1] =
                taps.contains(&(end - 1)).then(|| self.without_registers(x.clone())).transpose()?;
            start = end;
        }
        Ok((taps.iter().filter_map(|tap| after[*tap].clone()).collect(), x))
    }
}

/// The first tokens of sequences `x` [B, N, C] -> [B, C].
fn class_tokens(x: &Tensor) -> Result<Tensor> {
    let (batch, n, _) = x.dims3()?;
    index_select(x, &(0..batch).map(|sample| (sample * n) as u32).collect::<Vec<_>>())
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
    if let Some(base) = config.rope_base {
        let channels = config.width / config.heads;
        if !(base.is_finite() && base > 0.) {
            return Err(format!("rope_base is {base}, expected a positive number"));
        }
        if !channels.is_multiple_of(4) {
            return Err(format!(
                "rope_base: {channels} channels in a head (width / heads) are not a multiple of 4"
            ));
        }
        if config.relative_positions {
            return Err("rope_base and relative_positions cannot be combined".into());
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
        let (n, grid) = (tokens.dim(1)?, self.grid);
        // Of the normed tokens only that of the class is read.
        if let (Some(norm), []) = (&self.norm, taps) {
            let class = |tokens: &Tensor| {
                let (_, x) = self.run_blocks(self.with_positions(tokens)?, &[], pass)?;
                norm.forward(&class_tokens(&x)?)
            };
            let class = ops::chain(&tokens, class)?;
            return Ok(Features { taps: vec![], cls: Some(self.unless_frozen(class)), grid });
        }
        let (taps, x) = self.run_blocks(self.with_positions(&tokens)?, taps, pass)?;
        let class = self.norm.as_ref().map(|norm| norm.forward(&class_tokens(&x)?)).transpose()?;
        let taps = taps.iter().map(|tap| tap.narrow(1, tap.dim(1)? - n, n)).collect::<Result<_>>()?;
        Ok(Features { taps, cls: class.map(|class| self.unless_frozen(class)), grid })
    }

    fn layer_of(&self, parameter: &str) -> usize {
        layer_of(parameter, self.spec.depth)
    }
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

#[cfg(test)]
mod tests;
