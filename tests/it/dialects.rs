//! Files as transformers saves them (`scripts/golden/dialects.py`) compute here what they compute there, and are written
//! back in the same names.

use crate::program::{Ground, repository};
use anyhow::Result;
use bench::config::{Mae, ModelConfig};
use bench::models::{Backbone as _, Vit, VitOptions};
use bench::nn::{Params, Pass, patchify};
use bench::pretrain::{Mask, MaskedAutoencoder};
use bench::weights::{Program, WeightFile, convert, load_backbone, load_exact};
use candle_core::{Device, Tensor};
use std::collections::HashMap;
use std::path::PathBuf;

fn golden(name: &str) -> PathBuf {
    repository().join("tests/golden/dialects").join(format!("{name}.safetensors"))
}

fn expected() -> Result<HashMap<String, Tensor>> {
    Ok(candle_core::safetensors::load(golden("expected"), &Device::Cpu)?)
}

/// The model of `scripts/golden/dialects.py`.
fn model(more: &str) -> ModelConfig {
    let sizes = "image = [24, 24]\npatch = 4\nwidth = 16\ndepth = 2\nheads = 2\nnorm_eps = 1e-6\n";
    let decoder = "decoder = { width = 8, depth = 1, heads = 2 }\n";
    bench::config::parse(&format!("{sizes}{more}{decoder}"), "test").unwrap()
}

const BEIT: &str =
    "absolute_positions = false\nrelative_positions = true\nlayer_scale = 0.3\nkey_bias = false\n";

fn largest_difference(a: &Tensor, b: &Tensor) -> Result<f32> {
    Ok((a - b)?.abs()?.flatten_all()?.max(0)?.to_scalar()?)
}

/// The class feature of the file `name`, and its tensors.
fn class_feature(name: &str, model: &ModelConfig) -> Result<(Tensor, HashMap<String, Tensor>)> {
    let tensors = WeightFile::open(&golden(name))?.read(&Device::Cpu)?;
    let params = Params::new(0, &Device::Cpu);
    let options = VitOptions { final_norm: true, ..VitOptions::default() };
    let vit = Vit::new(model, options, params.builder())?;
    load_backbone(&params, &tensors, model, None)?;
    let features = vit.forward(&expected()?["images"], &[], &mut Pass::Eval)?;
    Ok((features.cls.unwrap(), tensors.into_iter().collect()))
}

fn mae() -> Mae {
    let text = "mask_ratio = 0.75\nmask = \"random\"\ntarget = \"norm_pixel\"\nloss_on = \"masked\"\n";
    bench::config::parse(text, "test").unwrap()
}

#[test]
fn vit_mae_loses_what_transformers_loses() -> Result<()> {
    let (params, expected) = (Params::new(0, &Device::Cpu), expected()?);
    let objective = MaskedAutoencoder::new(&model(""), &mae(), None, params.builder())?;
    load_exact(&params, &WeightFile::open(&golden("vit_mae"))?.read(&Device::Cpu)?)?;
    let mask = Mask::from_noise(&expected["noise"].to_vec2()?, objective.sampler().kept())?;
    let loss = objective.loss(&expected["images"], &mask, &mut Pass::Eval)?.reshape(1)?;
    let error = largest_difference(&loss, &expected["vit_mae.loss"])?;
    assert!(error < 1e-4, "{error}");
    let (prediction, logits) = (
        objective.predict(&patchify(&expected["images"], 4)?, &mask, &mut Pass::Eval)?,
        &expected["vit_mae.logits"],
    );
    let error = largest_difference(&prediction, logits)?;
    assert!(error < 1e-4, "{error}");
    Ok(())
}

#[test]
fn vit_and_beit_compute_what_transformers_computes() -> Result<()> {
    let expected = expected()?;
    let (class, tensors) = class_feature("vit", &model(""))?;
    let logits = class.matmul(&tensors["head.weight"].t()?)?.broadcast_add(&tensors["head.bias"])?;
    let error = largest_difference(&logits, &expected["vit.logits"])?;
    assert!(error < 1e-4, "ViT: {error}");
    for name in ["beit", "beit_model"] {
        let (class, _) = class_feature(name, &model(BEIT))?;
        let error = largest_difference(&class, &expected[&format!("{name}.class")])?;
        assert!(error < 1e-4, "{name}: {error}");
    }
    Ok(())
}

#[test]
fn what_is_read_is_written_in_the_same_names() -> Result<()> {
    let folder = tempfile::tempdir()?;
    for (name, kind) in [("vit_mae", "ViTMAEForPreTraining"), ("vit", "ViTForImageClassification")] {
        let out = folder.path().join(name).join("model.safetensors");
        std::fs::create_dir(out.parent().unwrap())?;
        let done = convert(&golden(name), Program::HuggingFace, &out, Some(2))?;
        assert_eq!(done.left_out, Vec::<String>::new());
        // Names of the decoder are those of transformers 4, which 5 reads too.
        let source: HashMap<_, _> = candle_core::safetensors::load(golden(name), &Device::Cpu)?;
        let old = |key: &str| key.replace("decoder_encoder.layer.", "decoder_layers.");
        let written = candle_core::safetensors::load(&out, &Device::Cpu)?;
        assert_eq!(source.len(), written.len(), "{name}");
        for (key, tensor) in &source {
            assert_eq!(largest_difference(tensor, &written[&old(key)])?, 0., "{name}: {key}");
        }
        let config: serde_json::Value =
            serde_json::from_str(&std::fs::read_to_string(done.config.unwrap())?)?;
        assert_eq!((&config["architectures"][0], &config["hidden_size"]), (&kind.into(), &16.into()));
        let error = convert(&golden(name), Program::HuggingFace, &out, Some(2)).unwrap_err().to_string();
        assert!(error.contains("is there already"), "{error}");
    }
    Ok(())
}

#[test]
fn names_that_do_not_fit_together_are_refused() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let write = |change: &dyn Fn(&mut HashMap<String, Tensor>)| -> Result<String> {
        let mut tensors = candle_core::safetensors::load(golden("vit"), &Device::Cpu)?;
        change(&mut tensors);
        let path = folder.path().join("changed.safetensors");
        candle_core::safetensors::save(&tensors, &path)?;
        Ok(WeightFile::open(&path).err().map(|error| error.to_string()).unwrap_or_default())
    };
    let one = Tensor::zeros((16, 16), candle_core::DType::F32, &Device::Cpu)?;
    let query = "vit.encoder.layer.1.attention.attention.query.weight";
    let error = write(&|t| drop(t.remove(query)))?;
    assert!(error.contains("`blocks.1.attn.qkv.weight` cannot be made of"), "{error}");
    let error = write(&|t| drop(t.insert("vit.encoder.extra".into(), one.clone())))?;
    assert!(error.contains("`vit.encoder.extra` has no place"), "{error}");
    let index = "vit.encoder.layer.0.attention.attention.relative_position_bias.relative_position_index";
    assert_eq!(write(&|t| drop(t.insert(index.into(), one.clone())))?, "", "an index is read over");
    let error = write(&|t| drop(t.insert(query.into(), one.narrow(0, 0, 8).unwrap())))?;
    assert!(error.contains("[8, 16]") && error.contains("[16, 16]"), "{error}");
    let error = write(&|t| {
        for name in ["cls_token", "layers.0.ln1.weight", "layers.0.ffn.layers.0.0.weight"] {
            t.insert(format!("backbone.{name}"), one.clone());
        }
    })?;
    assert!(error.contains("Hugging Face ViT") && error.contains("OpenMMLab"), "{error}");
    Ok(())
}

#[test]
fn what_transformers_has_no_place_for_is_not_left_out_in_silence() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut tensors = WeightFile::open(&golden("vit"))?.read(&Device::Cpu)?;
    let norm = tensors.iter().find(|(name, _)| name == "norm.weight").unwrap().1.clone();
    tensors.push(("fc_norm.weight".into(), norm));
    let source = folder.path().join("pooled.safetensors");
    candle_core::safetensors::save(&tensors.into_iter().collect::<HashMap<_, _>>(), &source)?;
    let out = folder.path().join("model.safetensors");
    let error = convert(&source, Program::HuggingFace, &out, Some(2)).unwrap_err().to_string();
    assert!(error.contains("has no place for `fc_norm.weight`") && !out.exists(), "{error}");
    Ok(())
}

#[test]
fn inspect_and_convert_from_the_command_line() {
    let ground = Ground::new();
    let source = golden("vit_mae");
    let source = source.to_str().unwrap();
    let shown = ground.ok(&format!("inspect {source}"));
    assert!(shown.contains("Hugging Face ViT") && shown.contains("width 16, depth 2"), "{shown}");
    let error = ground.fails(2, &format!("convert {source} --to timm --out timm.safetensors"));
    assert!(error.contains("--heads"), "{error}");
    ground.ok(&format!("convert {source} --to timm --heads 2 --out timm.safetensors"));
    let shown = ground.ok("inspect timm.safetensors");
    assert!(shown.contains("MAE encoder (FAIR, timm)") && !shown.contains("decoder "), "{shown}");
}
