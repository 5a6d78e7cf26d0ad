//! Cost of a ViT: multiply-accumulates of a forward pass, from the formula of the literature. Only matrix products
//! count; training is about three times as much, and a multiply-accumulate is two floating-point operations.

use crate::config::{DecoderConfig, MlpKind, ModelConfig};

/// GMAC of one image through the whole encoder.
pub(super) fn vit_gmacs(config: &ModelConfig) -> f64 {
    let (h, w) = config.grid();
    encoder_gmacs(config, 1 + config.registers + h * w)
}

/// GMAC of one image through MAE with a ViT: (encoder on the visible patches, decoder). The patch embedding is
/// counted for all patches, as in the reference implementation; ours embeds only the visible ones.
pub fn mae_gmacs(config: &ModelConfig, decoder: &DecoderConfig, mask_ratio: f64) -> (f64, f64) {
    let (h, w) = config.grid();
    let (all, visible) = (1 + h * w, 1 + ((h * w) as f64 * (1. - mask_ratio)) as usize);
    let outer = visible * config.width + all * config.patch.pow(2) * config.channels;
    let blocks = decoder.depth as f64 * block_macs(decoder.width, config, all);
    (encoder_gmacs(config, visible + config.registers), (blocks + (decoder.width * outer) as f64) / 1e9)
}

/// Cost when `tokens` tokens pass through the blocks and all patches through the embedding.
fn encoder_gmacs(config: &ModelConfig, tokens: usize) -> f64 {
    let (h, w) = config.grid();
    let embedding = h * w * config.patch.pow(2) * config.channels * config.width;
    let blocks = config.depth as f64 * block_macs(config.width, config, tokens);
    (blocks + embedding as f64) / 1e9
}

/// qkv and proj 4·D²·T, MLP 2·H·D·T with hidden width H or 3·H·D·T if it is gated, scores and their use 2·T²·D.
fn block_macs(width: usize, config: &ModelConfig, tokens: usize) -> f64 {
    let (d, t) = (width as f64, tokens as f64);
    let mlp = match config.mlp {
        MlpKind::Gelu => 2. * config.mlp_ratio * d,
        MlpKind::Swiglu => 3. * config.mlp_hidden(width) as f64,
    };
    (4. * d + mlp) * d * t + 2. * t * t * d
}
