//! Weight files of transformers (`scripts/golden/dialects.py`): models compute the same as there, and are exported with the
//! same tensor names.

use crate::program::{Sandbox, fixture, repository, small_pretrain, small_transfer};
use anyhow::Result;
use bench::config::{DvaeSizes, ModelConfig};
use bench::models::dvae::{Encoder, Tokenizer};
use bench::models::{Backbone as _, BackboneUsage, Vit};
use bench::nn::{LayerNorm, Linear, Params, Pass, patchify};
use bench::pretrain::{Beit, BeitOptions, MaeOptions, MaskedAutoencoder, PatchMask};
use bench::weights::{CheckpointHints, Program, WeightFile, convert_weights, load_backbone, load_exact};
use candle_core::{Device, Tensor};
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

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

pub const BEIT: &str =
    "absolute_positions = false\nrelative_positions = true\nlayer_scale = 0.3\nkey_bias = false\n";

pub fn heads() -> CheckpointHints {
    CheckpointHints { heads: Some(2), ..CheckpointHints::default() }
}

/// NaN if any value is.
pub fn largest_difference(a: &Tensor, b: &Tensor) -> Result<f32> {
    let differences = (a - b)?.abs()?.flatten_all()?.to_vec1::<f32>()?.into_iter();
    Ok(differences.fold(0., |most, d| if d > most || d.is_nan() { d } else { most }))
}

/// The class feature of the file `name`, and its tensors.
fn class_feature(name: &str, model: &ModelConfig) -> Result<(Tensor, HashMap<String, Tensor>)> {
    let tensors = WeightFile::open(&golden(name))?.read(&Device::Cpu)?;
    let params = Params::new(0, &Device::Cpu);
    let options = BackboneUsage { final_norm: true, ..BackboneUsage::default() };
    let vit = Vit::new(model, options, params.builder())?;
    load_backbone(&params, &tensors, model, None)?;
    let features = vit.forward(&expected()?["images"], &[], &mut Pass::Eval)?;
    Ok((features.cls.unwrap(), tensors.into_iter().collect()))
}

fn mae() -> MaeOptions {
    let text = "mask_ratio = 0.75\nmask = \"random\"\ntarget = \"norm_pixel\"\nloss_on = \"masked\"\n";
    bench::config::parse(text, "test").unwrap()
}

#[test]
fn vit_mae_loses_what_transformers_loses() -> Result<()> {
    let (params, expected) = (Params::new(0, &Device::Cpu), expected()?);
    let objective = MaskedAutoencoder::new(&model(""), &mae(), None, params.builder())?;
    load_exact(&params, &WeightFile::open(&golden("vit_mae"))?.read(&Device::Cpu)?)?;
    let mask = PatchMask::from_noise(&expected["noise"].to_vec2()?, objective.sampler().kept())?;
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
fn beit_predicts_the_tokens_that_transformers_predicts() -> Result<()> {
    let (params, expected) = (Params::new(0, &Device::Cpu), expected()?);
    let sizes = DvaeSizes { vocabulary: 23, hidden: 8, groups: 2, blocks: 1, embedding: 4, channels: 3 };
    let encoder = Encoder::new(&sizes, Params::new(1, &Device::Cpu).builder())?;
    let tokenizer = Arc::new(Tokenizer { sizes, encoder, decoder: None });
    let beit = BeitOptions { masked: 14, tokenizer: None };
    let objective = Beit::new(&model(BEIT), &beit, 0., tokenizer, params.builder())?;
    load_exact(&params, &WeightFile::open(&golden("beit"))?.read(&Device::Cpu)?)?;
    let masked = |row: &Vec<f32>| row.iter().map(|noise| *noise > 0.6).collect();
    let masks: Vec<Vec<bool>> = expected["noise"].to_vec2()?.iter().map(masked).collect();
    let rows: Vec<u32> = (0..72).collect();
    let logits = objective.logits(&expected["images"], &masks, &rows, &mut Pass::Eval)?;
    let error = largest_difference(&logits, &expected["beit.logits"].reshape((72, 23))?)?;
    assert!(error < 1e-4, "{error}");
    Ok(())
}

#[test]
fn beit_predicts_the_classes_that_transformers_predicts() -> Result<()> {
    let (params, expected, model) = (Params::new(0, &Device::Cpu), expected()?, model(BEIT));
    let vit = Vit::new(&model, BackboneUsage::default(), params.builder())?;
    let norm = LayerNorm::new(16, 1e-6, params.builder().pp("fc_norm"))?;
    let head = Linear::new(16, 5, params.builder().pp("head"))?;
    load_exact(&params, &WeightFile::open(&golden("beit_class"))?.read(&Device::Cpu)?)?;
    let tokens = vit.forward(&expected["images"], &[1], &mut Pass::Eval)?.taps.remove(0);
    let logits = head.forward(&norm.forward(&tokens.mean(1)?)?)?;
    let error = largest_difference(&logits, &expected["beit_class.logits"])?;
    assert!(error < 1e-4, "{error}");
    Ok(())
}

#[test]
fn what_is_read_is_written_in_the_same_names() -> Result<()> {
    let folder = tempfile::tempdir()?;
    for (name, kind) in [
        ("vit_mae", "ViTMAEForPreTraining"),
        ("vit", "ViTForImageClassification"),
        ("beit", "BeitForMaskedImageModeling"),
        ("beit_class", "BeitForImageClassification"),
    ] {
        let out = folder.path().join(name).join("model.safetensors");
        std::fs::create_dir(out.parent().unwrap())?;
        let done = convert_weights(&golden(name), Program::HuggingFace, &out, &heads())?;
        assert_eq!(done.left_out, Vec::<String>::new());
        // Decoder names are those of transformers 4, which version 5 also loads.
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
        assert_eq!((&config["image_size"], &config["num_attention_heads"]), (&24.into(), &2.into()));
        let error =
            convert_weights(&golden(name), Program::HuggingFace, &out, &heads()).unwrap_err().to_string();
        assert!(error.contains("already exists"), "{error}");
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
    assert!(error.contains("`blocks.1.attn.qkv.weight` cannot be made from"), "{error}");
    let error = write(&|t| drop(t.insert("vit.encoder.extra".into(), one.clone())))?;
    assert!(error.contains("`vit.encoder.extra` is not a known tensor of"), "{error}");
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
    let error = convert_weights(&source, Program::HuggingFace, &out, &heads()).unwrap_err().to_string();
    assert!(error.contains("has no parameter for `fc_norm.weight`") && !out.exists(), "{error}");
    Ok(())
}

#[test]
fn several_files_with_an_index_are_one_model() -> Result<()> {
    let sandbox = Sandbox::new();
    let folder = sandbox.path("sharded");
    std::fs::create_dir(&folder)?;
    let tensors: BTreeMap<_, _> =
        candle_core::safetensors::load(golden("vit"), &Device::Cpu)?.into_iter().collect();
    let file = |i: usize| format!("model-0000{}-of-00002.safetensors", i + 1);
    let mut map = serde_json::Map::new();
    for i in 0..2 {
        let part: HashMap<_, _> = tensors
            .iter()
            .enumerate()
            .filter(|(at, _)| at % 2 == i)
            .map(|(_, (n, t))| (n.clone(), t.clone()))
            .collect();
        map.extend(part.keys().map(|name| (name.clone(), file(i).into())));
        candle_core::safetensors::save(&part, folder.join(file(i)))?;
    }
    let index = folder.join("model.safetensors.index.json");
    let write = |map: &serde_json::Map<String, serde_json::Value>| {
        std::fs::write(&index, serde_json::json!({ "metadata": {}, "weight_map": map }).to_string())
    };
    write(&map)?;
    let found: HashMap<_, _> = WeightFile::open(&index)?.read(&Device::Cpu)?.into_iter().collect();
    for (name, tensor) in WeightFile::open(&golden("vit"))?.read(&Device::Cpu)? {
        assert_eq!(largest_difference(&tensor, &found[&name])?, 0., "{name}");
    }
    let hash = WeightFile::open(&index)?.hash();
    assert!(sandbox.ok("inspect sharded").contains(&hash));
    sandbox.ok("convert sharded --to fair --heads 2 --out fair.safetensors");

    let name = "vit.layernorm.bias".to_string();
    let (before, refused) = (map.clone(), |map: &_| -> Result<String> {
        write(map)?;
        Ok(WeightFile::open(&index).err().map(|error| error.to_string()).unwrap_or_default())
    });
    map.insert(name.clone(), "../elsewhere.safetensors".into());
    assert!(refused(&map)?.contains("`../elsewhere.safetensors` is not a file beside the index"));
    map.insert(name.clone(), "absent.safetensors".into());
    assert!(refused(&map)?.contains("absent.safetensors"));
    map.remove(&name);
    assert!(refused(&map)?.contains("holds `vit.layernorm.bias`, contrary"));
    map = before;
    map.insert("vit.more".into(), file(0).into());
    assert!(refused(&map)?.contains("lacks `vit.more`, contrary"));
    std::fs::write(&index, "{}")?;
    assert!(WeightFile::open(&index).err().unwrap().to_string().contains("not an index of tensors"));
    Ok(())
}

/// Heads, epsilon and the target of the decoder come from `config.json` beside the weights, from options, or from
/// assumptions that are reported.
#[test]
fn what_a_file_does_not_tell_is_taken_from_its_config_or_assumed_aloud() -> Result<()> {
    let sandbox = Sandbox::new();
    for folder in ["hf", "one", "two", "three", "four"] {
        std::fs::create_dir(sandbox.path(folder))?;
    }
    std::fs::copy(golden("vit_mae"), sandbox.path("hf/model.safetensors"))?;
    let shown = sandbox.ok("convert hf --to hf --heads 2 --out one/model.safetensors");
    for assumed in
        ["ε 1e-6 (--norm-eps)", "a decoder with 1 attention heads", "normalized per patch", "three quarters"]
    {
        assert!(shown.contains(assumed), "{shown}\nlacks: {assumed}");
    }
    let described = |text: &str| std::fs::write(sandbox.path("hf/config.json"), text);
    let config = r#"{ "model_type": "vit_mae", "hidden_size": 16, "num_attention_heads": 2, "layer_norm_eps": 1e-12,
        "decoder_num_attention_heads": 4, "norm_pix_loss": false, "mask_ratio": 0.6 }"#;
    described(config)?;
    let shown = sandbox.ok("convert hf --to hf --out two/model.safetensors");
    assert!(!shown.contains("assumed"), "{shown}");
    let written: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(sandbox.path("two/config.json"))?)?;
    for (key, value) in serde_json::from_str::<serde_json::Map<_, _>>(config)? {
        assert_eq!(written[&key], value, "{key}");
    }
    let error = sandbox.fails(2, "convert hf --to hf --heads 4 --out three/model.safetensors");
    assert!(error.contains("heads: 4 was requested, but config.json beside the weights says 2"), "{error}");
    described("{ \"model_type\": \"vit_mae\", \"hidden_size\": \"wide\" }")?;
    let error = sandbox.fails(2, "convert hf --to hf --out three/model.safetensors");
    assert!(error.contains("config.json") && error.contains("wide"), "{error}");
    described("{ \"architecture\": \"vit_base_patch16_224\" }")?;
    sandbox.ok("convert hf --to hf --heads 2 --out four/model.safetensors");
    Ok(())
}

#[test]
fn a_run_tells_what_its_weights_do_not() -> Result<()> {
    let sandbox = Sandbox::new();
    sandbox.ok(&format!("{} --set pretrain.mask_ratio=0.5 --set pretrain.target=pixel", small_pretrain()));
    let run = sandbox.only_run("runs");
    let shown = sandbox.ok(&format!("convert {} --to hf --out model.safetensors", run.display()));
    assert!(!shown.contains("assumed"), "{shown}");
    let config: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(sandbox.path("config.json"))?)?;
    let found = ["mask_ratio", "norm_pix_loss", "num_attention_heads", "decoder_num_attention_heads"];
    assert_eq!(serde_json::json!(found.map(|key| &config[key])), serde_json::json!([0.5, false, 2, 2]));
    let line = format!("convert {} --to hf --mask-ratio 0.75 --out other.safetensors", run.display());
    std::fs::remove_file(sandbox.path("config.json"))?;
    let error = sandbox.fails(2, &line);
    assert!(error.contains("mask_ratio: 0.75 was requested, but the run of the weights says 0.5"), "{error}");
    Ok(())
}

#[test]
fn a_converted_classifier_keeps_its_classes_and_predicts() -> Result<()> {
    let sandbox = Sandbox::new();
    let pool = "--set transfer.head.pool=cls"; // transformers has no other
    sandbox.ok(&format!("{} --model vit_tiny_test --init scratch {pool}", small_transfer()));
    let run = sandbox.only_run("runs");
    let images = format!("{}/val/images", fixture("shapes"));
    let predicted = |weights: &str, out: &str| -> Result<Vec<(String, String)>> {
        sandbox.ok(&format!("predict --weights {weights} --out {out} {images}"));
        let table = std::fs::read_to_string(sandbox.path(&format!("{out}/labels.csv")))?;
        let best = table.lines().skip(1).map(|line| line.split(',').collect::<Vec<_>>());
        Ok(best.filter(|row| row[1] == "1").map(|row| (row[0].to_string(), row[3].to_string())).collect())
    };
    let expected = predicted(&run.display().to_string(), "seen")?;
    assert_eq!(expected.len(), 11);
    for to in ["fair", "timm", "hf"] {
        sandbox.ok(&format!("convert {} --to {to} --out {to}/model.safetensors", run.display()));
        assert_eq!(predicted(&format!("{to}/model.safetensors"), &format!("seen_{to}"))?, expected, "{to}");
    }
    let config: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(sandbox.path("hf/config.json"))?)?;
    let first = config["id2label"]["0"].as_str().unwrap();
    assert!(!first.starts_with("LABEL"), "{config}");
    assert_eq!(config["label2id"][first], 0);
    Ok(())
}

#[test]
fn epsilon_and_heads_of_a_config_beside_the_weights_count() {
    let sandbox = Sandbox::new();
    let config = |heads: usize, eps: &str| {
        let text = format!(
            "{{ \"model_type\": \"vit\", \"hidden_size\": 16, \"num_attention_heads\": {heads}, \
             \"layer_norm_eps\": {eps} }}"
        );
        sandbox.write("hf/config.json", &text)
    };
    config(2, "0.002");
    std::fs::copy(golden("vit"), sandbox.path("hf/model.safetensors")).unwrap();
    let text = "image = [24, 24]\npatch = 4\nwidth = 16\ndepth = 2\nheads = 2\n\
                decoder = { width = 8, depth = 1, heads = 2 }\n";
    sandbox.write("mine/configs/models/vit_golden.toml", text);
    let show = "config show transfer --include mine --task shapes_classification --init hf --model vit_golden --recipe finetune";
    let shown = sandbox.ok(show);
    assert!(shown.contains("norm_eps = 0.002"), "{shown}");
    let plain = std::fs::read_to_string(sandbox.path("hf/config.json")).unwrap();
    sandbox
        .write("hf/config.json", &format!("{{ \"model_type\": \"upernet\", \"backbone_config\": {plain} }}"));
    assert_eq!(sandbox.ok(show), shown, "the backbone of a UperNet");
    let shown = sandbox.ok(&format!("{show} --set model.norm_eps=0.003"));
    assert!(shown.contains("norm_eps = 0.003"), "{shown}");
    config(4, "0.002");
    let error = sandbox.fails(2, show);
    assert!(error.contains("width 16 with 4 attention heads; the model has width 16 and 2"), "{error}");
}

#[test]
fn inspect_and_convert_from_the_command_line() {
    let sandbox = Sandbox::new();
    let source = golden("vit_mae");
    let source = source.to_str().unwrap();
    let shown = sandbox.ok(&format!("inspect {source}"));
    assert!(shown.contains("Hugging Face ViT") && shown.contains("width 16, depth 2"), "{shown}");
    let error = sandbox.fails(2, &format!("convert {source} --to timm --out timm.safetensors"));
    assert!(error.contains("--heads"), "{error}");
    sandbox.ok(&format!("convert {source} --to timm --heads 2 --out timm.safetensors"));
    let shown = sandbox.ok("inspect timm.safetensors");
    assert!(shown.contains("facebookresearch/mae, timm") && !shown.contains("decoder "), "{shown}");
}
