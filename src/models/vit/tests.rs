//! The ViT against PyTorch (`scripts/golden/mae.py`) and against candle-transformers.

use super::*;
use crate::config::{AttentionConfig, DecoderConfig, GlobalBlocks, RelativePosition, ResizePositions};
use crate::nn::Params;
use crate::nn::test_tolerance;
use crate::rng::Rng;
use candle_core::{DType, Device};
use candle_transformers::models::vit as reference;
use std::collections::HashMap;

fn config(image: [usize; 2], channels: usize, patch: usize, width: usize, depth: usize) -> ModelConfig {
    ModelConfig {
        image,
        channels,
        patch,
        width,
        depth,
        heads: 2,
        mlp_ratio: 4.,
        mlp: crate::config::MlpKind::Gelu,
        norm_eps: 1e-6,
        normalize: None,
        absolute_positions: true,
        resize_positions: ResizePositions::default(),
        relative_positions: false,
        rope_base: None,
        layer_scale: None,
        registers: 0,
        key_bias: true,
        backbone: "vit".into(),
        options: toml::Table::new(),
        decoder: DecoderConfig::default(),
    }
}

#[test]
fn features_equal_pytorch() -> Result<()> {
    for (name, config) in [("square", config([24, 24], 3, 4, 16, 2)), ("gray", config([4, 8], 1, 2, 8, 1))] {
        let path = format!("{}/../tests/golden/mae_{name}.safetensors", env!("CARGO_MANIFEST_DIR"));
        let golden = candle_core::safetensors::load(path, &Device::Cpu)?;
        let params = Params::new(0, &Device::Cpu);
        let vit = Vit::new(
            &config,
            BackboneUsage { drop_path: 0.5, final_norm: true, ..BackboneUsage::default() },
            params.builder(),
        )?;
        for p in params.all() {
            p.var.set(&golden[&format!("weights.{}", p.name)])?;
        }
        let taps: Vec<usize> = (0..config.depth).rev().collect();
        let features = vit.forward(&golden["images"], &taps, &mut Pass::Eval)?;
        assert_eq!(features.grid, config.grid());
        for (tap, found) in taps.iter().zip(&features.taps) {
            let error = test_tolerance::relative(found, &golden[&format!("features.{tap}")]);
            assert!(error < 1e-5, "{name}, block {tap}: {error}");
        }
        let error = test_tolerance::relative(&features.cls.expect("final norm"), &golden["cls"]);
        assert!(error < 1e-5, "{name}, class token: {error}");
    }
    Ok(())
}

#[test]
fn class_feature_equals_candle_transformers() -> Result<()> {
    let (width, depth) = (16, 3);
    let config = ModelConfig { norm_eps: 1e-12, ..config([32, 32], 3, 8, width, depth) };
    let params = Params::new(3, &Device::Cpu);
    let vit =
        Vit::new(&config, BackboneUsage { final_norm: true, ..BackboneUsage::default() }, params.builder())?;
    let mut rng = Rng::new(0, "test", &[]);
    let mut noise = |dims: &[usize]| {
        let count: usize = dims.iter().product();
        let values = (0..count).map(|_| rand::Rng::random_range(&mut rng, -0.4f32..0.4)).collect();
        Tensor::from_vec(values, dims, &Device::Cpu)
    };
    let mut theirs = HashMap::new();
    for p in params.all() {
        p.var.set(&(p.var.as_detached_tensor() + noise(p.var.dims())?)?)?;
        let (name, value) = (p.name.as_str(), p.var.as_detached_tensor());
        if let Some((block, kind)) = name.split_once(".attn.qkv.") {
            let layer = block.replace("blocks.", "vit.encoder.layer.");
            for (i, part) in ["query", "key", "value"].iter().enumerate() {
                let rows = value.narrow(0, i * width, width)?;
                theirs.insert(format!("{layer}.attention.attention.{part}.{kind}"), rows);
            }
            continue;
        }
        let renamed = [
            ("blocks.", "vit.encoder.layer."),
            ("attn.proj.", "attention.output.dense."),
            ("mlp.fc1.", "intermediate.dense."),
            ("mlp.fc2.", "output.dense."),
            (".norm1.", ".layernorm_before."),
            (".norm2.", ".layernorm_after."),
            ("patch_embed.proj.", "vit.embeddings.patch_embeddings.projection."),
            ("cls_token", "vit.embeddings.cls_token"),
            ("pos_embed", "vit.embeddings.position_embeddings"),
        ];
        let mut new = if name.starts_with("norm.") { format!("vit.layer{name}") } else { name.to_string() };
        renamed.iter().for_each(|(from, to)| {
            if new.starts_with(from) || !matches!(*from, "pos_embed" | "cls_token") {
                new = new.replace(from, to);
            }
        });
        theirs.insert(new, value);
    }
    theirs.insert("classifier.weight".into(), Tensor::eye(width, DType::F32, &Device::Cpu)?);
    theirs.insert("classifier.bias".into(), Tensor::zeros(width, DType::F32, &Device::Cpu)?);
    let sizes = reference::Config {
        hidden_size: width,
        num_hidden_layers: depth,
        num_attention_heads: config.heads,
        intermediate_size: 4 * width,
        hidden_act: candle_nn::Activation::Gelu,
        layer_norm_eps: config.norm_eps,
        image_size: 32,
        patch_size: 8,
        num_channels: 3,
        qkv_bias: true,
    };
    let theirs = VarBuilder::from_tensors(theirs, DType::F32, &Device::Cpu);
    let images = noise(&[2, 3, 32, 32])?;
    let expected = reference::Model::new(&sizes, width, theirs)?.forward(&images)?;
    let found = vit.forward(&images, &[], &mut Pass::Eval)?.cls.expect("final norm");
    let error = test_tolerance::relative(&found, &expected);
    assert!(error < 1e-5, "{error}");
    Ok(())
}

#[test]
fn layers_follow_the_order_of_the_forward_pass() {
    let layers = [
        ("cls_token", 0),
        ("pos_embed", 0),
        ("patch_embed.proj.weight", 0),
        ("blocks.0.norm1.weight", 1),
        ("blocks.11.mlp.fc2.bias", 12),
        ("norm.weight", 13),
        ("fc_norm.weight", 13),
        ("head.weight", 13),
    ];
    for (name, layer) in layers {
        assert_eq!(layer_of(name, 12), layer, "{name}");
    }
}

#[test]
fn a_final_norm_is_what_makes_a_class_feature() -> Result<()> {
    let config = config([16, 16], 3, 8, 8, 2);
    let params = Params::new(0, &Device::Cpu);
    let vit = Vit::new(&config, BackboneUsage::default(), params.builder())?;
    assert!(params.get("norm.weight").is_none());
    let images = Tensor::ones((1, 3, 16, 16), DType::F32, &Device::Cpu)?;
    let features = vit.forward(&images, &[1], &mut Pass::Eval)?;
    assert!(features.cls.is_none());
    assert_eq!(features.taps[0].dims(), [1, 4, 8]);
    let error = vit.forward(&images, &[2], &mut Pass::Eval).unwrap_err().to_string();
    assert!(error.contains("tap 2 does not exist, blocks are 0..2"), "{error}");
    let larger = Tensor::ones((1, 3, 24, 16), DType::F32, &Device::Cpu)?;
    let error = vit.forward(&larger, &[1], &mut Pass::Eval).unwrap_err().to_string();
    assert!(error.contains("expected images of 3×16×16") && error.contains("got 3×24×16"), "{error}");
    Ok(())
}

#[test]
fn drop_path_rises_linearly_and_is_off_in_evaluation() -> Result<()> {
    let config = config([16, 16], 3, 8, 8, 3);
    let params = Params::new(0, &Device::Cpu);
    let vit = Vit::new(
        &config,
        BackboneUsage { drop_path: 1., final_norm: false, ..BackboneUsage::default() },
        params.builder(),
    )?;
    let images = Tensor::ones((1, 3, 16, 16), DType::F32, &Device::Cpu)?;
    let mut rng = Rng::new(0, "test", &[]);
    let train = vit.forward(&images, &[0, 1, 2], &mut Pass::train(&mut rng))?.taps;
    let eval = vit.forward(&images, &[0, 1, 2], &mut Pass::Eval)?.taps;
    assert_eq!(test_tolerance::relative(&train[0], &eval[0]), 0., "the first block is never dropped");
    assert_eq!(
        test_tolerance::relative(&train[2], &train[1]),
        0.,
        "the last block is always dropped at rate 1"
    );
    assert!(test_tolerance::relative(&eval[2], &eval[1]) > 0.01);
    Ok(())
}

#[test]
fn frozen_blocks_run_without_drop_path() -> Result<()> {
    let config = config([16, 16], 3, 8, 8, 4);
    let images = Tensor::ones((1, 3, 16, 16), DType::F32, &Device::Cpu)?;
    let taps = |frozen: usize, train: bool| -> Result<Vec<Tensor>> {
        let usage = BackboneUsage { drop_path: 1., frozen, ..BackboneUsage::default() };
        let vit = Vit::new(&config, usage, Params::new(0, &Device::Cpu).builder())?;
        let mut rng = Rng::new(0, "test", &[]);
        let mut pass = if train { Pass::train(&mut rng) } else { Pass::Eval };
        Ok(vit.forward(&images, &[0, 1, 2, 3], &mut pass)?.taps)
    };
    let eval = taps(0, false)?;
    let same = |a: &Tensor, b: &Tensor| test_tolerance::relative(a, b) == 0.;
    for frozen in [2, 3, 4] {
        let train = taps(frozen, true)?;
        assert!(train.iter().zip(&eval).take(frozen).all(|(a, b)| same(a, b)), "{frozen} frozen blocks");
        // The last block is always dropped at rate 1, if it is trained.
        assert_eq!(same(&train[3], &train[2]), frozen < 4, "{frozen} frozen blocks");
    }
    Ok(())
}

/// Windows that are padded, a class token where there are none, and every kind of relative positions: features and the
/// gradients of all weights (`scripts/golden/reach.py`).
#[test]
fn windows_and_relative_positions_equal_pytorch() -> Result<()> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/reach.safetensors");
    let golden = candle_core::safetensors::load(path, &Device::Cpu)?;
    let config = config([8, 10], 3, 2, 8, 3);
    for (name, window, relative_position) in [
        ("decomposed", Some(3), RelativePosition::Decomposed),
        ("shared", Some(3), RelativePosition::Shared),
        ("per_block", None, RelativePosition::PerBlock),
    ] {
        let golden = |key: &str| &golden[&format!("{name}.{key}")];
        let attention =
            AttentionConfig { window, global_blocks: GlobalBlocks::List(vec![1]), relative_position };
        let params = Params::new(0, &Device::Cpu);
        let options = BackboneUsage { attention: Some(attention), ..BackboneUsage::default() };
        let vit = Vit::new(&config, options, params.builder())?;
        for p in params.all() {
            p.var.set(golden(&format!("weights.{}", p.name)))?;
        }
        let features = vit.forward(golden("images"), &[0, 1, 2], &mut Pass::Eval)?;
        for (i, found) in features.taps.iter().enumerate() {
            let error = test_tolerance::relative(found, golden(&format!("features.{i}")));
            assert!(error < 1e-5, "{name}, block {i}: {error}");
        }
        let loss = (&features.taps[2] * golden("seed"))?.sum_all()?;
        let gradients = crate::ops::backward(&loss)?;
        for p in params.all() {
            let found = gradients.get(&p.var).unwrap_or_else(|| panic!("{name}: {} has no gradient", p.name));
            let error = test_tolerance::relative(found, golden(&format!("gradient.{}", p.name)));
            assert!(error < 1e-4, "{name}, gradient of {}: {error}", p.name);
        }
    }
    Ok(())
}

/// New relative positions change nothing, but for the class token that windows leave out.
#[test]
fn new_relative_positions_change_nothing() -> Result<()> {
    let config = config([16, 16], 3, 4, 8, 2);
    let images = Tensor::ones((1, 3, 16, 16), DType::F32, &Device::Cpu)?;
    let run = |attention: Option<AttentionConfig>| {
        let params = Params::new(0, &Device::Cpu);
        let vit =
            Vit::new(&config, BackboneUsage { attention, ..BackboneUsage::default() }, params.builder())?;
        vit.forward(&images, &[1], &mut Pass::Eval)?.taps[0].flatten_all()?.to_vec1::<f32>()
    };
    let relative =
        |relative_position| Some(AttentionConfig { relative_position, ..AttentionConfig::default() });
    let plain = run(None)?;
    for kind in [RelativePosition::PerBlock, RelativePosition::Shared] {
        let found = run(relative(kind))?;
        assert!(found.iter().zip(&plain).all(|(a, b)| (a - b).abs() < 1e-6), "{kind:?}");
    }
    let windows = |kind| Some(AttentionConfig { window: Some(2), ..relative(kind).unwrap_or_default() });
    assert_eq!(run(windows(RelativePosition::None))?, run(windows(RelativePosition::Shared))?);
    let options = BackboneUsage {
        attention: windows(RelativePosition::None),
        final_norm: true,
        ..BackboneUsage::default()
    };
    let error = Vit::new(&config, options, Params::new(0, &Device::Cpu).builder()).unwrap_err().to_string();
    assert!(error.contains("class token"), "{error}");
    Ok(())
}

/// Registers are seen by the other tokens, learn, and come out nowhere.
#[test]
fn registers_take_part_and_are_left_out_of_the_features() -> Result<()> {
    let config = ModelConfig { registers: 3, ..config([16, 16], 3, 4, 8, 2) };
    let images = Tensor::ones((2, 3, 16, 16), DType::F32, &Device::Cpu)?;
    let params = Params::new(0, &Device::Cpu);
    let vit =
        Vit::new(&config, BackboneUsage { final_norm: true, ..BackboneUsage::default() }, params.builder())?;
    let before = vit.forward(&images, &[0, 1], &mut Pass::Eval)?;
    assert!(before.taps.iter().all(|tap| tap.dims() == [2, 16, 8]));
    let class = before.cls.unwrap();
    assert_eq!(class.dims(), [2, 8]);
    let gradients = crate::ops::backward(&(class.sqr()?.narrow(1, 0, 3)?.sum_all()?))?;
    let registers = params.get("register_tokens").unwrap().var;
    assert!(gradients.get(&registers).unwrap().abs()?.sum_all()?.to_scalar::<f32>()? > 0.);
    registers.set(&registers.ones_like()?)?;
    let after = vit.forward(&images, &[0, 1], &mut Pass::Eval)?;
    assert!(test_tolerance::relative(&after.taps[0], &before.taps[0]) > 1e-4);
    let narrow = vit.with_positions(&vit.embed(&vit.patches(&images)?)?)?;
    assert_eq!(narrow.dims(), [2, 1 + 3 + 16, 8]);
    assert_eq!(vit.encode(narrow, &mut Pass::Eval)?.unwrap().dims(), [2, 17, 8]);
    Ok(())
}

#[test]
fn registers_go_with_the_class_token_and_have_no_place_beside_relative_positions() -> Result<()> {
    let config = ModelConfig { registers: 3, ..config([16, 16], 3, 4, 8, 2) };
    let build = |attention| -> Result<Params> {
        let params = Params::new(0, &Device::Cpu);
        Vit::new(&config, BackboneUsage { attention, ..BackboneUsage::default() }, params.builder())?;
        Ok(params)
    };
    assert!(build(None)?.get("register_tokens").is_some());
    let windows = AttentionConfig { window: Some(2), ..AttentionConfig::default() };
    let params = build(Some(windows))?;
    assert!(params.get("register_tokens").is_none() && params.get("cls_token").is_none());
    let relative =
        AttentionConfig { relative_position: RelativePosition::PerBlock, ..AttentionConfig::default() };
    let error = build(Some(relative)).err().unwrap().to_string();
    assert!(error.contains("registers cannot be combined with relative positions"), "{error}");
    Ok(())
}

/// Rotations are those of places in the image, with windows and without; of one patch there are none.
#[test]
fn a_window_of_the_whole_grid_is_global_attention_with_rotations() -> Result<()> {
    let config = ModelConfig { rope_base: Some(100.), ..config([16, 24], 3, 4, 16, 2) };
    let mut rng = Rng::new(0, "test", &[]);
    let noise: Vec<f32> =
        (0..2 * 3 * 16 * 24).map(|_| rand::Rng::random_range(&mut rng, -1f32..1.)).collect();
    let images = Tensor::from_vec(noise, (2, 3, 16, 24), &Device::Cpu)?;
    let run = |config: &ModelConfig, window, blocks: Vec<usize>, images: &Tensor| -> Result<Tensor> {
        let attention = AttentionConfig {
            window: Some(window),
            global_blocks: GlobalBlocks::List(blocks),
            ..AttentionConfig::default()
        };
        let usage = BackboneUsage { attention: Some(attention), ..BackboneUsage::default() };
        let vit = Vit::new(config, usage, Params::new(0, &Device::Cpu).builder())?;
        Ok(vit.forward(images, &[1], &mut Pass::Eval)?.taps.remove(0))
    };
    let square = ModelConfig { image: [16, 16], ..config.clone() };
    let part = images.narrow(3, 0, 16)?.contiguous()?;
    let (windowed, global) = (run(&square, 4, vec![], &part)?, run(&square, 9, vec![0, 1], &part)?);
    assert!(test_tolerance::relative(&windowed, &global) < 1e-6);
    let plain = ModelConfig { rope_base: None, ..square.clone() };
    assert!(test_tolerance::relative(&run(&plain, 4, vec![], &part)?, &global) > 1e-4);
    // Windows of 2 × 2 patches: the same whatever lies outside them.
    let narrow = run(&config, 2, vec![], &images)?; // [2, 24, 16]
    let changed = images.narrow(3, 0, 16)?.pad_with_zeros(3, 0, 8)?;
    let same = run(&config, 2, vec![], &changed)?;
    let rows = |t: &Tensor| t.reshape((2, 4, 6, 16))?.narrow(2, 0, 4)?.contiguous();
    assert_eq!(test_tolerance::relative(&rows(&same)?, &rows(&narrow)?), 0.);
    assert!(test_tolerance::relative(&same, &narrow) > 1e-3);
    Ok(())
}

#[test]
fn rotary_positions_that_make_no_sense_are_refused() {
    let error = |config: ModelConfig, attention| {
        let usage = BackboneUsage { attention, ..BackboneUsage::default() };
        Vit::new(&config, usage, Params::new(0, &Device::Cpu).builder()).unwrap_err().to_string()
    };
    let rotary = |rope_base| ModelConfig { rope_base: Some(rope_base), ..config([16, 16], 3, 4, 16, 1) };
    for base in [0., -1., f64::NAN, f64::INFINITY] {
        assert!(error(rotary(base), None).contains("rope_base is"), "{base}");
    }
    let narrow = ModelConfig { width: 12, ..rotary(100.) };
    assert!(error(narrow, None).contains("6 channels in a head"));
    let both = ModelConfig { relative_positions: true, ..rotary(100.) };
    assert!(error(both, None).contains("rope_base and relative_positions"));
    for relative_position in
        [RelativePosition::Shared, RelativePosition::PerBlock, RelativePosition::Decomposed]
    {
        let attention = AttentionConfig { relative_position, ..AttentionConfig::default() };
        let error = error(rotary(100.), Some(attention));
        assert!(
            error.contains("`rope_base`") && error.contains("`transfer.attention.relative_position`"),
            "{error}"
        );
    }
}
