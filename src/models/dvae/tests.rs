//! Values and tokens equal those of PyTorch (`scripts/golden/dvae.py`); sizes are those of the released files.

use super::*;
use crate::nn::test_tolerance;
use crate::nn::{Params, parameter_shapes};
use candle_core::{Device, safetensors};
use std::collections::HashMap;

fn golden() -> HashMap<String, Tensor> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/dvae.safetensors");
    safetensors::load(path, &Device::Cpu).unwrap()
}

const SMALL: DvaeSizes =
    DvaeSizes { vocabulary: 19, hidden: 8, groups: 3, blocks: 2, embedding: 6, channels: 3 };

/// A model with the weights of the golden file.
fn model(golden: &HashMap<String, Tensor>) -> Result<Tokenizer> {
    let params = Params::new(0, &Device::Cpu);
    let encoder = Encoder::new(&SMALL, params.builder().pp("encoder"))?;
    let decoder = Decoder::new(&SMALL, params.builder().pp("decoder"))?;
    for p in params.all() {
        p.var.set(&golden[&p.name])?;
    }
    let weights = golden.keys().filter(|key| key.contains(".blocks."));
    assert_eq!(params.all().len(), weights.count(), "every tensor of the reference is used");
    Ok(Tokenizer { sizes: SMALL, encoder, decoder: Some(decoder) })
}

#[test]
fn encoder_and_decoder_equal_the_reference() -> Result<()> {
    let golden = golden();
    let model = model(&golden)?;
    let logits = model.encoder.forward(&golden["x"])?;
    assert!(test_tolerance::absolute(&logits, &golden["logits"]) < 1e-4);
    let tokens = logits.argmax(1)?.to_dtype(candle_core::DType::I64)?;
    assert_eq!(tokens.flatten_all()?.to_vec1::<i64>()?, golden["tokens"].flatten_all()?.to_vec1::<i64>()?);
    let decoder = model.decoder.as_ref().unwrap();
    assert!(test_tolerance::absolute(&decoder.forward(&golden["z"])?, &golden["out"]) < 1e-4);
    assert!(test_tolerance::absolute(&decoder.image(&golden["z"])?, &golden["image"]) < 1e-4);
    Ok(())
}

#[test]
fn parameters_are_those_of_the_released_files() -> Result<()> {
    let sizes = DvaeSizes::default();
    let encoder = parameter_shapes(|vb| Encoder::new(&sizes, vb))?;
    let decoder = parameter_shapes(|vb| Decoder::new(&sizes, vb))?;
    let count = |shapes: &[(String, candle_core::Shape)]| -> usize {
        shapes.iter().map(|(_, shape)| shape.elem_count()).sum()
    };
    assert_eq!((encoder.len(), count(&encoder)), (74, 53_786_240));
    assert_eq!((decoder.len(), count(&decoder)), (76, 43_829_766));
    let names: Vec<&str> = encoder.iter().map(|(name, _)| name.as_str()).collect();
    for name in
        ["blocks.input.w", "blocks.group_2.block_1.id_path.w", "blocks.group_4.block_2.res_path.conv_4.b"]
    {
        assert!(names.contains(&name), "{name}");
    }
    Ok(())
}

#[test]
fn pixels_come_back() -> Result<()> {
    let x = Tensor::from_vec(vec![0f32, 0.25, 0.5, 1.], (1, 1, 2, 2), &Device::Cpu)?;
    assert!(test_tolerance::absolute(&unmap_pixels(&map_pixels(&x)?)?, &x) < 1e-6);
    let normalize = Normalize { mean: vec![0.4], std: vec![0.2] };
    assert!(test_tolerance::absolute(&denormalized(&normalized(&x, &normalize)?, &normalize)?, &x) < 1e-6);
    Ok(())
}

#[test]
fn one_token_per_cell_of_any_grid() -> Result<()> {
    let model = model(&golden())?;
    let normalize = Normalize::imagenet(3);
    for (side, grid) in [(16, (4, 4)), (28, (4, 4)), (8, (4, 2))] {
        let images = Tensor::zeros((2, 3, side, side), candle_core::DType::F32, &Device::Cpu)?;
        let tokens = model.tokens(&images, &normalize, grid)?;
        assert_eq!(tokens.len(), 2 * grid.0 * grid.1);
        let tokens = Tensor::new(tokens, &Device::Cpu)?;
        assert_eq!(model.draw(&tokens, grid, (side, side), &normalize)?.dims(), [2, 3, side, side]);
    }
    let blind = Tokenizer { decoder: None, ..model };
    let error =
        blind.draw(&Tensor::zeros(16, candle_core::DType::U32, &Device::Cpu)?, (4, 4), (8, 8), &normalize);
    assert!(error.unwrap_err().to_string().contains("has no decoder"));
    Ok(())
}
