//! What is written is read back; what does not fit is refused with the reason.

use super::*;
use crate::config::{DecoderConfig, ModelConfig, ResizePositions};
use crate::models::{BackboneUsage, Vit};
use crate::nn::{Linear, Params, pos_embed::Bicubic};
use candle_core::{DType, Device, Result, Tensor};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The model of `mae_gray`, and with other arguments that of `mae_square`.
fn model(image: [usize; 2], channels: usize, patch: usize, width: usize, depth: usize) -> ModelConfig {
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

fn build(model: &ModelConfig, final_norm: bool) -> Result<Params> {
    let params = Params::new(0, &Device::Cpu);
    Vit::new(model, BackboneUsage { final_norm, ..BackboneUsage::default() }, params.builder())?;
    Ok(params)
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden").join(name)
}

fn read(path: &Path) -> Vec<(String, Tensor)> {
    WeightFile::open(path).unwrap().read(&Device::Cpu).unwrap()
}

/// The weights of `mae_square` under their own names.
fn square_weights() -> Vec<(String, Tensor)> {
    read(&with_state_dict(&golden("mae_square.safetensors"), Some("weights")))
}

fn values(t: &Tensor) -> Vec<f32> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn what_is_saved_is_read_back_in_order() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("model.safetensors");
    let params = build(&model([4, 8], 1, 2, 8, 2), true)?;
    let notes = BTreeMap::from([("run".to_string(), "a \"quoted\" id".to_string())]);
    save(&path, &params, &notes).unwrap();
    let first = std::fs::read(&path)?;
    save(&path, &params, &notes).unwrap();
    assert_eq!(first, std::fs::read(&path)?, "the same values give the same bytes");
    assert_eq!(std::fs::read_dir(folder.path())?.count(), 1, "no temporary file stays");
    let file = WeightFile::open(&path).unwrap();
    assert_eq!(file.metadata()["run"], "a \"quoted\" id");
    assert_eq!(file.metadata()["format"], "pt");
    let tensors = file.read(&Device::Cpu).unwrap();
    let expected = params.all();
    assert_eq!(
        tensors.iter().map(|(name, _)| name).collect::<Vec<_>>(),
        expected.iter().map(|p| &p.name).collect::<Vec<_>>()
    );
    let other = Params::new(1, &Device::Cpu);
    Vit::new(
        &model([4, 8], 1, 2, 8, 2),
        BackboneUsage { final_norm: true, ..BackboneUsage::default() },
        other.builder(),
    )?;
    load_exact(&other, &tensors).unwrap();
    for (a, b) in expected.iter().zip(other.all()) {
        assert_eq!(values(&a.var), values(&b.var), "{}", a.name);
    }
    let inspection = inspect_weights(&path).unwrap();
    assert_eq!(
        (inspection.contents, inspection.program),
        (Contents::Encoder, Some("facebookresearch/mae, timm"))
    );
    assert_eq!(inspection.written_by.unwrap(), concat!("bench ", env!("CARGO_PKG_VERSION")));
    assert_eq!(inspection.hash, blake3::hash(&first).to_hex().to_string());
    assert_eq!(inspection.parameters, params.count());
    Ok(())
}

#[test]
fn all_kinds_of_numbers_survive() -> Result<()> {
    let path = tempfile::tempdir()?.keep().join("state.safetensors");
    let line = Tensor::new(&[1f32, 2., 3.], &Device::Cpu)?;
    let types = [DType::F32, DType::F64, DType::F16, DType::BF16, DType::U8, DType::U32, DType::I64];
    let tensors: Vec<_> =
        types.iter().map(|t| Ok((format!("{t:?}"), line.to_dtype(*t)?))).collect::<Result<_>>()?;
    save_tensors(&path, &tensors, &BTreeMap::new()).unwrap();
    for ((name, tensor), dtype) in read(&path).iter().zip(types) {
        assert_eq!((name, tensor.dtype()), (&format!("{dtype:?}"), dtype));
        assert_eq!(values(&tensor.to_dtype(DType::F32)?), [1., 2., 3.]);
    }
    let twice = [("a".to_string(), line.clone()), ("a".to_string(), line)];
    assert!(save_tensors(&path, &twice, &BTreeMap::new()).unwrap_err().to_string().contains("`a`"));
    std::fs::remove_dir_all(path.parent().unwrap())?;
    Ok(())
}

#[test]
fn a_training_checkpoint_of_pytorch_is_unwrapped() -> Result<()> {
    let path = golden("mae_nested.pth");
    let inspection = inspect_weights(&path).unwrap();
    assert_eq!((inspection.format, inspection.contents), ("pth", Contents::EncoderAndDecoder));
    let guess = InferredVit {
        width: 8,
        depth: 1,
        mlp_hidden: 32,
        gated: false,
        patch: 2,
        channels: 1,
        positions: 8,
        rotary: false,
        registers: 0,
        decoder: Some((4, 1)),
        classes: None,
    };
    assert_eq!(inspection.model, Some(guess));
    let model = model([4, 8], 1, 2, 8, 1);
    let params = build(&model, true)?;
    let report = load_backbone(&params, &read(&path), &model, None).unwrap();
    assert_eq!(report.loaded, params.all().len());
    assert_eq!(report.resized, None);
    assert!(report.left_out.contains(&"decoder_pred.bias".to_string()));
    let expected = candle_core::safetensors::load(golden("mae_gray.safetensors"), &Device::Cpu)?;
    for p in params.all() {
        assert_eq!(values(&p.var), values(&expected[&format!("weights.{}", p.name)]), "{}", p.name);
    }
    Ok(())
}

#[test]
fn positions_are_resized_and_a_head_is_left_alone() -> Result<()> {
    let model = model([36, 20], 3, 4, 16, 2); // 9×5 patches; the file has 6×6
    let params = build(&model, false)?;
    Linear::new(16, 10, params.builder().pp("head"))?;
    let head = values(&params.get("head.weight").unwrap().var);
    let report = load_backbone(&params, &square_weights(), &model, None).unwrap();
    assert_eq!(report.resized, Some(((6, 6), (9, 5))));
    assert_eq!(report.loaded, params.all().len() - 2);
    assert!(report.left_out.contains(&"norm.weight".to_string()));
    assert_eq!(values(&params.get("head.weight").unwrap().var), head);
    let table = params.get("pos_embed").unwrap().var;
    let source = square_weights().into_iter().find(|(name, _)| name == "pos_embed").unwrap().1;
    let expected = crate::nn::pos_embed::resize(&source, (6, 6), (9, 5), Bicubic::Plain)?;
    assert_eq!(values(&table), values(&expected));
    Ok(())
}

#[test]
fn positions_of_images_that_are_no_squares_are_resized_where_their_grid_is_known() -> Result<()> {
    let wide = model([8, 16], 3, 4, 16, 2); // 2×4 patches
    let source = build(&wide, true)?;
    let tensors: Vec<_> = source.all().into_iter().map(|p| (p.name, p.var.as_tensor().clone())).collect();
    let table = source.get("pos_embed").unwrap().var;
    // As many positions, in another order.
    let tall = model([16, 8], 3, 4, 16, 2);
    let params = build(&tall, true)?;
    let report = load_backbone(&params, &tensors, &tall, Some((2, 4))).unwrap();
    assert_eq!(report.resized, Some(((2, 4), (4, 2))));
    let expected = crate::nn::pos_embed::resize(&table, (2, 4), (4, 2), Bicubic::Plain)?;
    assert_eq!(values(&params.get("pos_embed").unwrap().var), values(&expected));
    let (long, square) = (build(&model([8, 24], 3, 4, 16, 2), true)?, model([12, 12], 3, 4, 16, 2));
    let tensors: Vec<_> = long.all().into_iter().map(|p| (p.name, p.var.as_tensor().clone())).collect();
    let error = load_backbone(&build(&square, true)?, &tensors, &square, None).unwrap_err().to_string();
    assert!(error.contains("13 positions are not a square grid"), "{error}");
    Ok(())
}

#[test]
fn positions_without_one_for_the_class_token_are_read() -> Result<()> {
    for (image, known) in [([24, 24], None), ([36, 20], None), ([12, 12], Some((6, 6)))] {
        let model = model(image, 3, 4, 16, 2);
        let mut tensors = square_weights();
        let table = tensors.iter_mut().find(|(name, _)| name == "pos_embed").unwrap();
        let patches = table.1.narrow(1, 1, 36)?;
        table.1 = patches.contiguous()?;
        let params = build(&model, true)?;
        let report = load_backbone(&params, &tensors, &model, known).unwrap();
        assert!(report.no_class_position);
        assert_eq!(report.resized, (image != [24, 24]).then_some(((6, 6), model.grid())));
        let with_zero = patches.pad_with_zeros(1, 1, 0)?;
        let expected = match image {
            [24, 24] => with_zero,
            _ => crate::nn::pos_embed::resize(&with_zero, (6, 6), model.grid(), Bicubic::Plain)?,
        };
        assert_eq!(values(&params.get("pos_embed").unwrap().var), values(&expected));
    }
    // 16 rows are 4×4 patches for a model of them, and 3×5 patches with a class token for a model of those.
    let wide = model([12, 20], 3, 4, 16, 2);
    let tensors: Vec<_> =
        build(&wide, true)?.all().into_iter().map(|p| (p.name, p.var.as_tensor().clone())).collect();
    assert!(!load_backbone(&build(&wide, true)?, &tensors, &wide, None).unwrap().no_class_position);
    let square = model([16, 16], 3, 4, 16, 2);
    assert!(load_backbone(&build(&square, true)?, &tensors, &square, None).unwrap().no_class_position);
    let report = load_backbone(&build(&square, true)?, &tensors, &square, Some((3, 5))).unwrap();
    assert_eq!((report.no_class_position, report.resized), (false, Some(((3, 5), (4, 4)))));
    Ok(())
}

#[test]
fn what_lies_beside_a_backbone_is_left_out_and_what_may_change_its_features_is_refused() -> Result<()> {
    let model = model([24, 24], 3, 4, 16, 2);
    let one = Tensor::zeros(3, DType::F32, &Device::Cpu)?;
    for beside in [
        "queue",
        "projector.0.weight",
        "proj_head.weight",
        "criterion.center",
        "logit_scale",
        "fc.bias",
        "classifier.weight",
        "train_acc.total",
        "normalize_mean",
        "head2.weight",
    ] {
        let mut tensors = square_weights();
        tensors.push((beside.into(), one.clone()));
        let report = load_backbone(&build(&model, true)?, &tensors, &model, None).unwrap();
        assert!(report.left_out.iter().any(|name| name == beside), "{beside}");
    }
    for inside in
        ["norm_pre.weight", "blocks.0.gate", "reg_token", "patch_embed.norm.weight", "rope.freqs", "prompt"]
    {
        let mut tensors = square_weights();
        tensors.push((inside.into(), one.clone()));
        let error = load_backbone(&build(&model, true)?, &tensors, &model, None).unwrap_err().to_string();
        assert!(error.contains(inside), "{error}");
    }
    Ok(())
}

#[test]
fn a_file_of_another_network_is_described_by_its_tensors() -> Result<()> {
    let model = model([24, 24], 3, 4, 16, 2);
    let zero = Tensor::zeros(1, DType::F32, &Device::Cpu)?;
    let tensors: Vec<_> = (0..7).map(|i| (format!("features.{i}.weight"), zero.clone())).collect();
    let error = load_backbone(&build(&model, true)?, &tensors, &model, None).unwrap_err().to_string();
    assert!(error.contains("`features.0.weight`") && error.contains("and 2 more"), "{error}");
    Ok(())
}

#[test]
fn one_rule_finds_the_weights_of_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    assert_eq!(weights_in(folder.path()), None);
    std::fs::write(path("last.ckpt"), "").unwrap();
    let said = weight_files(folder.path());
    assert!(said.contains("`pytorch_model.bin`") && said.contains("last.ckpt"), "{said}");
    for name in shards::WEIGHTS.iter().rev() {
        std::fs::write(path(name), "").unwrap();
        assert_eq!(weights_in(folder.path()), Some(path(name)));
    }
}

#[test]
fn the_kernel_of_patches_is_resized() -> Result<()> {
    let model = model([36, 24], 3, 6, 16, 2); // 6×4 patches of 6 pixels; the file has 6×6 of 4
    let params = build(&model, false)?;
    let report = load_backbone(&params, &square_weights(), &model, None).unwrap();
    assert_eq!((report.patches, report.resized), (Some((4, 6)), Some(((6, 6), (6, 4)))));
    let name = "patch_embed.proj.weight";
    let source = square_weights().into_iter().find(|(held, _)| held == name).unwrap().1;
    let expected = crate::nn::resize_kernel(&source, 6)?;
    assert_eq!(values(&params.get(name).unwrap().var), values(&expected));
    Ok(())
}

#[test]
fn what_does_not_fit_is_refused_and_nothing_changes() -> Result<()> {
    let good = model([24, 24], 3, 4, 16, 2);
    let file = "a ViT with width 16, depth 2, patch 4, 3 channels, 6×6 positions";
    let without =
        |name: &str| -> Vec<_> { square_weights().into_iter().filter(|(n, _)| n != name).collect() };
    let mut foreign = square_weights();
    foreign.push(("blocks.0.ls1.gamma".into(), Tensor::zeros(16, DType::F32, &Device::Cpu)?));
    let mut ragged = without("pos_embed");
    ragged.push(("pos_embed".into(), Tensor::zeros((1, 8, 16), DType::F32, &Device::Cpu)?));
    let cases = [
        (good.clone(), without("blocks.1.norm2.bias"), vec!["needs `blocks.1.norm2.bias`", file]),
        (good.clone(), without("norm.weight"), vec!["needs `norm.weight`"]),
        (
            model([24, 24], 3, 4, 16, 3),
            square_weights(),
            vec!["needs `blocks.2.norm1.weight`", "and 7 more", file],
        ),
        (model([24, 24], 3, 4, 16, 1), square_weights(), vec!["hold `blocks.1.", "does not have", file]),
        (
            model([24, 24], 3, 4, 32, 2),
            square_weights(),
            vec!["`cls_token` has shape [1, 1, 16]", "[1, 1, 32]", file],
        ),
        (
            model([24, 24], 1, 4, 16, 2),
            square_weights(),
            vec!["`patch_embed.proj.weight` has shape [16, 3, 4, 4]"],
        ),
        (good.clone(), foreign, vec!["`blocks.0.ls1.gamma`", "does not have"]),
        (good, ragged, vec!["`pos_embed`: 8 positions are not a square grid", "6×6"]),
    ];
    for (model, tensors, expected) in cases {
        let params = build(&model, true)?;
        let before: Vec<_> = params.all().iter().map(|p| values(&p.var)).collect();
        let error = load_backbone(&params, &tensors, &model, None).unwrap_err().to_string();
        for part in expected {
            assert!(error.contains(part), "{error}\nlacks: {part}");
        }
        let after: Vec<_> = params.all().iter().map(|p| values(&p.var)).collect();
        assert_eq!(before, after);
    }
    Ok(())
}

#[test]
fn exact_loading_has_no_exceptions() -> Result<()> {
    let model = model([24, 24], 3, 4, 16, 2);
    let error = load_exact(&build(&model, true)?, &square_weights()).unwrap_err().to_string();
    assert!(error.contains("hold `decoder_"), "{error}");
    let encoder: Vec<_> = square_weights()
        .into_iter()
        .filter(|(n, _)| !n.starts_with("decoder_") && n != "mask_token")
        .collect();
    load_exact(&build(&model, true)?, &encoder).unwrap();
    assert!(load_exact(&build(&model, false)?, &encoder).unwrap_err().to_string().contains("`norm."));
    Ok(())
}

#[test]
fn broken_files_are_named() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let write = |name: &str, bytes: &[u8]| -> Result<PathBuf> {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes)?;
        Ok(path)
    };
    let safetensors = std::fs::read(golden("mae_gray.safetensors"))?;
    let pth = std::fs::read(golden("mae_nested.pth"))?;
    let mut empty = 2u64.to_le_bytes().to_vec();
    empty.extend(b"{}");
    for (name, bytes, reason) in [
        ("half.safetensors", &safetensors[..safetensors.len() / 2], "truncated or corrupt"),
        ("header.safetensors", &safetensors[..100], "truncated or corrupt"),
        ("half.pth", &pth[..pth.len() / 2], "PyTorch or NumPy zip file cannot be read"),
        ("old.pth", &b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M"[..], "legacy format"),
        ("old.pkl", &b"\x80\x02\x8a\x0al\xfc\x9cF\xf9"[..], "pickle cannot be read"),
        ("readme.pth", &b"hello, this is text"[..], "neither a .safetensors nor"),
        ("nothing", &b""[..], "the file is empty"),
        ("empty.safetensors", &empty[..], "no tensors found"),
    ] {
        let error = WeightFile::open(&write(name, bytes)?).err().expect(name).to_string();
        assert!(error.contains(reason) && error.contains(name), "{error}");
    }
    let error = WeightFile::open(&folder.path().join("absent.pth")).err().expect("absent").to_string();
    assert!(error.contains("absent.pth") && error.contains("No such file"), "{error}");
    Ok(())
}

#[test]
fn names_of_others_are_recognised() {
    let entry = |name: &str| WeightEntry { name: name.into(), shape: vec![1, 1, 8], dtype: DType::F32 };
    let hybrid = [entry("conv_root.weight"), entry("embedding.weight")];
    assert!(Contents::of(&hybrid).to_string().contains("a hybrid of ResNet and ViT"));
    assert_eq!(Contents::of(&[entry("conv1.weight")]), Contents::Unknown);
    assert_eq!(InferredVit::of(&hybrid), None);
}

#[test]
fn relative_positions_are_new_or_taken_and_an_unused_class_token_is_left_out() -> Result<()> {
    use crate::config::{AttentionConfig, RelativePosition};
    let model = model([24, 24], 3, 4, 16, 2);
    let windowed = |seed| -> Result<Params> {
        let params = Params::new(seed, &Device::Cpu);
        let relative_position = RelativePosition::Shared;
        let attention = AttentionConfig { window: Some(3), relative_position, ..AttentionConfig::default() };
        let options = BackboneUsage { attention: Some(attention), ..BackboneUsage::default() };
        Vit::new(&model, options, params.builder())?;
        Ok(params)
    };
    let params = windowed(0)?;
    let report = load_backbone(&params, &square_weights(), &model, None).unwrap();
    assert_eq!((report.new, report.loaded), (1, params.all().len() - 1), "all two blocks are global");
    assert!(report.left_out.contains(&"cls_token".to_string()));
    // Its own weights hold the table, which another run takes.
    let name = "rel_pos_bias.relative_position_bias_table";
    let table = params.get(name).unwrap().var;
    table.set(&table.ones_like()?)?;
    let tensors: Vec<_> = params.all().into_iter().map(|p| (p.name, p.var.as_detached_tensor())).collect();
    let other = windowed(1)?;
    let report = load_backbone(&other, &tensors, &model, None).unwrap();
    assert_eq!((report.new, report.loaded), (0, params.all().len()));
    assert!(values(&other.get(name).unwrap().var).iter().all(|&x| x == 1.));
    Ok(())
}
