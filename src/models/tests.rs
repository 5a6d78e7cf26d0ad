//! Sizes and cost of the models in `configs/models`.

use super::cost::vit_gmacs;
use super::*;
use crate::config::{ModelConfig, parse};
use crate::nn::{LayerNorm, Linear, parameter_shapes};
use candle_core::Result;

fn load(name: &str) -> ModelConfig {
    let path = format!("{}/../configs/models/{name}.toml", env!("CARGO_MANIFEST_DIR"));
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
    let folder = format!("{}/../configs/models", env!("CARGO_MANIFEST_DIR"));
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
