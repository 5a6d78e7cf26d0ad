//! The blocks of a ViT: their sizes, and the windows and positions of their attention.

use crate::config::{AttentionConfig, MlpKind, ModelConfig, RelativePosition};
use crate::nn::{AttentionPattern, BlockConfig, RelativePositionBias, RotaryGrid, rotary_of_grid};
use candle_core::Result;
use candle_nn::VarBuilder;

/// Attention windows, rotations and relative position biases of each block. Tables that blocks share are `rel_pos_bias.*` (BEiT's
/// name) for the global blocks and `window_rel_pos_bias.*` for the windowed ones. `before` is the number of tokens before the
/// patches.
pub(super) fn attention_patterns(
    attention: &AttentionConfig,
    config: &ModelConfig,
    before: usize,
    vb: &VarBuilder,
) -> Result<Vec<AttentionPattern>> {
    let (depth, grid, heads) = (config.depth, config.grid(), config.heads);
    attention.check(depth).map_err(candle_core::Error::msg)?;
    if config.rope_base.is_some() && attention.relative_position != RelativePosition::None {
        candle_core::bail!(
            "ViT: a model with `rope_base` rotates queries and keys instead of relative positions: set \
             `transfer.attention.relative_position` to \"none\""
        );
    }
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
    let rotary = [None, attention.window].map(|window| {
        let rotations = |base| {
            let before = if window.is_some() { 0 } else { before };
            let of = RotaryGrid { grid, before, window, channels: config.width / heads, base };
            rotary_of_grid(of, vb.device())
        };
        config.rope_base.map(rotations).transpose()
    });
    let [global_rotary, windowed_rotary] = rotary;
    let rotary = [global_rotary?, windowed_rotary?];
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
        Ok(AttentionPattern { grid, window, relative, rotary: rotary[usize::from(window.is_some())].clone() })
    };
    windows.into_iter().enumerate().map(pattern).collect()
}

/// The block of a model at another width (the decoder's) or its own.
pub(crate) fn block_config(config: &ModelConfig, width: usize, heads: usize, drop_path: f64) -> BlockConfig {
    let (hidden, gated) = (config.mlp_hidden(width), config.mlp == MlpKind::Swiglu);
    let ModelConfig { norm_eps, layer_scale, key_bias, .. } = *config;
    BlockConfig { width, heads, hidden, gated, norm_eps, drop_path, layer_scale, key_bias }
}
