//! Gradients reach everything that learns; values and gradients equal PyTorch (`scripts/golden/mae.py`).

use super::*;
use crate::config::{self, ReconstructionTarget};
use crate::nn::Params;
use crate::nn::test_tolerance;
use crate::rng::Rng;
use candle_core::Device;
use std::collections::HashMap;

fn model(image: [usize; 2], channels: usize) -> ModelConfig {
    ModelConfig {
        image,
        channels,
        patch: 4,
        width: 16,
        depth: 2,
        heads: 2,
        mlp_ratio: 4.,
        mlp: crate::config::MlpKind::Gelu,
        norm_eps: 1e-6,
        normalize: None,
        absolute_positions: true,
        resize_positions: config::ResizePositions::default(),
        relative_positions: false,
        rope_base: None,
        layer_scale: None,
        registers: 0,
        key_bias: true,
        backbone: "vit".into(),
        options: toml::Table::new(),
        decoder: config::DecoderConfig { width: 8, depth: 1, heads: 2 },
    }
}

fn recipe() -> MaeOptions {
    MaeOptions {
        mask_ratio: 0.75,
        mask: MaskKind::Random,
        target: ReconstructionTarget::NormPixel,
        tokenizer: None,
        cache_tokens: false,
        loss_on: LossPatches::Masked,
        mask_tokens_in_encoder: false,
        decoder: None,
    }
}

fn images(shape: (usize, usize, usize, usize)) -> Result<Tensor> {
    let mut rng = Rng::new(0, "test images", &[]);
    let count = shape.0 * shape.1 * shape.2 * shape.3;
    let values: Vec<f32> = (0..count).map(|_| rand::Rng::random_range(&mut rng, -2f32..2.)).collect();
    Tensor::from_vec(values, shape, &Device::Cpu)
}

#[test]
fn every_trainable_parameter_learns_in_every_variant() -> Result<()> {
    let variants = [
        ([16, 16], 3, recipe()),
        ([16, 24], 1, recipe()),
        (
            [24, 16],
            4,
            MaeOptions { target: ReconstructionTarget::Pixel, loss_on: LossPatches::All, ..recipe() },
        ),
        ([16, 16], 3, MaeOptions { mask_tokens_in_encoder: true, ..recipe() }),
        ([32, 32], 3, MaeOptions { target: ReconstructionTarget::Pca, mask: MaskKind::Grid, ..recipe() }),
        ([32, 16], 3, MaeOptions { mask: MaskKind::Block, mask_ratio: 0.5, ..recipe() }),
    ];
    for (image, channels, mae) in variants {
        let params = Params::new(0, &Device::Cpu);
        let objective = MaskedAutoencoder::new(&model(image, channels), &mae, None, params.builder())?;
        params.set_trainable(|name| objective.learns(name));
        let images = images((4, channels, image[0], image[1]))?;
        assert_eq!(objective.needs_fit()?, mae.target == ReconstructionTarget::Pca);
        objective.fit(&images)?;
        let mut rng = Rng::new(0, "test mask", &[]);
        let mask = objective.sampler().sample(4, &mut rng)?;
        let loss = objective.loss(&images, &mask, &mut Pass::train(&mut rng))?;
        assert!(loss.to_scalar::<f32>()?.is_finite());
        let gradients = ops::backward(&loss)?;
        for p in params.trainable() {
            let gradient = gradients.get(&p.var).expect(&p.name).sqr()?.sum_all()?.to_scalar::<f32>()?;
            assert!(gradient > 0. && gradient.is_finite(), "{mae:?}: `{}` has gradient {gradient}", p.name);
        }
        let frozen = params.all().into_iter().filter(|p| !p.trainable).collect::<Vec<_>>();
        assert!(frozen.iter().all(|p| gradients.get(&p.var).is_none()), "{mae:?}");
        assert_eq!(frozen.len(), if mae.target == ReconstructionTarget::Pca { 4 } else { 2 });
        let picture = objective.reconstruct(&images, mask)?;
        assert_eq!(picture.prediction.dims(), images.dims());
    }
    Ok(())
}

#[test]
fn evaluation_masks_depend_on_the_sample_alone() -> Result<()> {
    let params = Params::new(0, &Device::Cpu);
    let objective = MaskedAutoencoder::new(&model([16, 16], 3), &recipe(), None, params.builder())?;
    let images = images((3, 3, 16, 16))?;
    let loss = |range: std::ops::Range<usize>| -> Result<f32> {
        let batch = Batch {
            ids: range.clone().map(|i| crate::data::SampleId::new(format!("sample {i}"))).collect(),
            images: images.narrow(0, range.start, range.len())?,
            views: vec![],
            source_transforms: vec![],
            targets: vec![(); range.len()],
        };
        objective.losses(&batch, &mut Pass::Eval)?.total()?.to_scalar()
    };
    let (whole, parts) = (loss(0..3)?, (loss(0..1)? + loss(1..2)? + loss(2..3)?) / 3.);
    assert!((whole - parts).abs() < 1e-5, "{whole} {parts}");
    Ok(())
}

/// Model, recipe and golden values of a case.
fn golden(
    name: &str,
    target: ReconstructionTarget,
) -> Result<(ModelConfig, MaeOptions, HashMap<String, Tensor>)> {
    let path = format!("{}/../tests/golden/mae_{name}.safetensors", env!("CARGO_MANIFEST_DIR"));
    let golden = candle_core::safetensors::load(path, &Device::Cpu)?;
    let (model, mask_ratio) = match name {
        "square" => (model([24, 24], 3), 0.75),
        _ => {
            let decoder = config::DecoderConfig { width: 4, depth: 1, heads: 1 };
            (ModelConfig { patch: 2, width: 8, depth: 1, decoder, ..model([4, 8], 1) }, 0.5)
        }
    };
    Ok((model, MaeOptions { mask_ratio, target, ..recipe() }, golden))
}

#[test]
fn loss_and_every_gradient_equal_pytorch() -> Result<()> {
    for (name, target, word) in [
        ("square", ReconstructionTarget::NormPixel, "norm_pixel"),
        ("square", ReconstructionTarget::Pixel, "pixel"),
        ("gray", ReconstructionTarget::NormPixel, "norm_pixel"),
        ("gray", ReconstructionTarget::Pixel, "pixel"),
    ] {
        let (model, mae, golden) = golden(name, target)?;
        let params = Params::new(0, &Device::Cpu);
        let objective = MaskedAutoencoder::new(&model, &mae, None, params.builder())?;
        params.set_trainable(|name| objective.learns(name));
        for p in params.all() {
            p.var.set(&golden[&format!("weights.{}", p.name)])?;
        }
        let images = &golden["images"];
        let mask = PatchMask::from_noise(&golden["noise"].to_vec2()?, objective.sampler().kept())?;
        assert_eq!(test_tolerance::relative(&mask.removed(&Device::Cpu)?, &golden["mask"]), 0.);
        let prediction = objective.predict(&patchify(images, model.patch)?, &mask, &mut Pass::Eval)?;
        let error = test_tolerance::relative(&prediction, &golden["prediction"]);
        assert!(error < 1e-5, "{name}: prediction {error}");
        let loss = objective.loss(images, &mask, &mut Pass::Eval)?;
        let error = test_tolerance::relative(&loss.reshape(1)?, &golden[&format!("loss.{word}")].reshape(1)?);
        assert!(error < 1e-5, "{name}, {word}: loss {error}");
        let gradients = ops::backward(&loss)?;
        for p in params.trainable() {
            let expected = &golden[&format!("gradient.{word}.{}", p.name)];
            let error = test_tolerance::relative(gradients.get(&p.var).expect(&p.name), expected);
            assert!(error < 1e-4, "{name}, {word}: gradient of `{}` {error}", p.name);
        }
    }
    Ok(())
}

/// With the truth as prediction, every target gives the truth back (PCA: when all directions are kept).
#[test]
fn targets_are_undone_by_decoding() -> Result<()> {
    for target in [ReconstructionTarget::Pixel, ReconstructionTarget::NormPixel, ReconstructionTarget::Pca] {
        let params = Params::new(0, &Device::Cpu);
        let objective = MaskedAutoencoder::new(
            &model([32, 32], 3),
            &MaeOptions { target, ..recipe() },
            None,
            params.builder(),
        )?;
        let images = images((4, 3, 32, 32))?;
        objective.fit(&images)?;
        let patches = patchify(&images, 4)?;
        let targets = objective.target.encode(&patches)?;
        let error = test_tolerance::relative(&objective.target.decode(&targets, &patches)?, &patches);
        assert!(error < 1e-5, "{target:?}: {error}"); // 48 values per patch, fewer than 96 coefficients
    }
    Ok(())
}

#[test]
fn parameter_counts_are_those_of_the_reference_checkpoints() -> Result<()> {
    let size = |patch, width, depth, heads| ModelConfig {
        patch,
        width,
        depth,
        heads,
        decoder: config::DecoderConfig::default(),
        ..model([224, 224], 3)
    };
    for (size, total, without_positions) in [
        (size(16, 768, 12, 12), 111_907_840, 111_655_680),
        (size(16, 1024, 24, 16), 329_541_888, 329_239_296),
        (size(14, 1280, 32, 16), 657_074_508, 656_613_964),
    ] {
        let shapes = crate::nn::parameter_shapes(|vb| MaskedAutoencoder::new(&size, &recipe(), None, vb))?;
        let count = |learning: bool| -> usize {
            let counted = shapes.iter().filter(|(name, _)| !learning || !is_position_table(name));
            counted.map(|(_, shape)| shape.elem_count()).sum()
        };
        assert_eq!((count(false), count(true)), (total, without_positions));
    }
    Ok(())
}

#[test]
fn an_unfitted_pca_is_an_error() -> Result<()> {
    let params = Params::new(0, &Device::Cpu);
    let mae = MaeOptions { target: ReconstructionTarget::Pca, ..recipe() };
    let objective = MaskedAutoencoder::new(&model([16, 16], 3), &mae, None, params.builder())?;
    let images = images((1, 3, 16, 16))?;
    let mask = objective.sampler().sample(1, &mut Rng::new(0, "test", &[]))?;
    let error = objective.loss(&images, &mask, &mut Pass::Eval).unwrap_err().to_string();
    assert!(error.contains("not fitted"), "{error}");
    Ok(())
}
