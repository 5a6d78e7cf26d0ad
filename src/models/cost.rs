//! What a ViT costs: multiply-accumulates of a forward pass, from the formula of the literature. Only matrix products
//! count; training is about three times as much, and a multiply-accumulate is two floating-point operations.

use crate::config::{DecoderConfig, ModelConfig};

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
    let blocks = decoder.depth as f64 * block_macs(decoder.width, config.mlp_ratio, all);
    (encoder_gmacs(config, visible + config.registers), (blocks + (decoder.width * outer) as f64) / 1e9)
}

/// `tokens` go through the blocks, all patches through the embedding.
fn encoder_gmacs(config: &ModelConfig, tokens: usize) -> f64 {
    let (h, w) = config.grid();
    let embedding = h * w * config.patch.pow(2) * config.channels * config.width;
    let blocks = config.depth as f64 * block_macs(config.width, config.mlp_ratio, tokens);
    (blocks + embedding as f64) / 1e9
}

/// qkv and proj 4·D²·T, MLP 2·ratio·D²·T, scores and their use 2·T²·D.
fn block_macs(width: usize, mlp_ratio: f64, tokens: usize) -> f64 {
    let (d, t) = (width as f64, tokens as f64);
    (4. + 2. * mlp_ratio) * d * d * t + 2. * t * t * d
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;
    use crate::models::{BackboneUsage, Backbones, Vit};
    use crate::nn::{LayerNorm, Linear, parameter_shapes};
    use candle_core::Result;

    fn load(name: &str) -> ModelConfig {
        let path = format!("{}/configs/models/{name}.toml", env!("CARGO_MANIFEST_DIR"));
        parse(&std::fs::read_to_string(&path).unwrap(), path).unwrap()
    }

    /// Numbers of the reference checkpoints, which agree with those that mmpretrain prints.
    #[test]
    fn sizes_are_those_of_the_paper() -> Result<()> {
        for (name, count, classifier, encoder, mae) in [
            ("vit_b16", 85_798_656, 86_567_656, 17.56, 9.78),
            ("vit_l16", 303_301_632, 304_326_632, 61.55, 20.76),
            ("vit_h14", 630_764_800, 632_045_800, 167.29, 48.56),
        ] {
            let config = load(name);
            assert_eq!(Backbones::builtin().parameter_count(&config)?, count, "{name}");
            // Mean pooling: `fc_norm` takes the place of `norm`.
            let shapes = parameter_shapes(|vb| {
                Vit::new(&config, BackboneUsage::default(), vb.clone())?;
                LayerNorm::new(config.width, config.norm_eps, vb.pp("fc_norm"))?;
                Linear::new(config.width, 1000, vb.pp("head"))
            })?;
            let values: usize = shapes.iter().map(|(_, shape)| shape.elem_count()).sum();
            assert_eq!(values, classifier, "{name} with 1000 classes");
            assert!((vit_gmacs(&config) - encoder).abs() < 0.006, "{name}: {}", vit_gmacs(&config));
            let (visible, decoder) = mae_gmacs(&config, &config.decoder, 0.75);
            assert!((visible + decoder - mae).abs() < 0.015, "{name}: {visible} + {decoder}");
        }
        Ok(())
    }

    #[test]
    fn every_model_file_can_be_built() -> Result<()> {
        let folder = format!("{}/configs/models", env!("CARGO_MANIFEST_DIR"));
        let mut built = 0;
        for file in std::fs::read_dir(folder)? {
            let path = file?.path();
            let name = path.file_stem().unwrap().to_str().unwrap();
            let config = load(name);
            let backbones = Backbones::builtin();
            backbones.check_model(&config).unwrap();
            if backbones.trainable(&config).unwrap() {
                assert!(backbones.parameter_count(&config)? > 0, "{name}");
            }
            built += 1;
        }
        assert!(built >= 8, "{built} model files");
        Ok(())
    }
}
