//! Distilled DeiT, archives of big_vision, and pickles of detectron2 (`scripts/golden/weight_formats.py`): models compute the same
//! as in timm and transformers, and what a model here cannot be is refused by name.

use crate::key_mappings::{heads, largest_difference};
use crate::program::{Sandbox, repository, small_transfer};
use anyhow::Result;
use bench::config::{AttentionConfig, GlobalBlocks, ModelConfig, RelativePosition};
use bench::models::{Backbone as _, BackboneUsage, Features, Vit};
use bench::nn::{Linear, Params, Pass};
use bench::weights::{
    Contents, LoadReport, Program, WeightFile, convert_weights, inspect_weights, load_backbone, load_exact,
    load_model,
};
use candle_core::{Device, Tensor};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

fn dialects() -> PathBuf {
    repository().join("tests/golden/dialects")
}

fn golden(name: &str) -> PathBuf {
    dialects().join("formats").join(name)
}

fn load(path: &Path) -> Result<HashMap<String, Tensor>> {
    Ok(candle_core::safetensors::load(path, &Device::Cpu)?)
}

fn images() -> Result<Tensor> {
    Ok(load(&dialects().join("timm/expected.safetensors"))?["images"].clone())
}

const SIZES: &str = "image = [24, 24]\npatch = 4\nwidth = 8\ndepth = 2\nheads = 2\nnorm_eps = 1e-6\n";

/// The model of `scripts/golden/weight_formats.py`.
fn model(more: &str) -> ModelConfig {
    let decoder = "decoder = { width = 8, depth = 1, heads = 2 }\n";
    bench::config::parse(&format!("{SIZES}{more}{decoder}"), "test").unwrap()
}

/// The features of a backbone with the weights at `path`.
fn features(path: &Path, model: &ModelConfig, usage: BackboneUsage) -> Result<(Features, LoadReport)> {
    let params = Params::new(0, &Device::Cpu);
    let (final_norm, taps) = (usage.final_norm, [model.depth - 1]);
    let vit = Vit::new(model, usage, params.builder())?;
    let report = load_backbone(&params, &WeightFile::open(path)?.read(&Device::Cpu)?, model, None)?;
    let taps: &[usize] = if final_norm { &[] } else { &taps };
    Ok((vit.forward(&images()?, taps, &mut Pass::Eval)?, report))
}

fn class_feature(path: &Path, model: &ModelConfig) -> Result<(Tensor, LoadReport)> {
    let usage = BackboneUsage { final_norm: true, ..BackboneUsage::default() };
    let (features, report) = features(path, model, usage)?;
    Ok((features.cls.unwrap(), report))
}

#[test]
fn a_distillation_token_is_a_register() -> Result<()> {
    let expected = load(&golden("expected.safetensors"))?;
    let model = model("registers = 1\n");
    for (path, name, title) in [
        (dialects().join("timm/deit_distilled.safetensors"), "deit_distilled", "facebookresearch/deit, timm"),
        (golden("deit_distilled_hf.safetensors"), "deit_distilled_hf", "Hugging Face DeiT"),
    ] {
        let (found, report) = class_feature(&path, &model)?;
        let error = largest_difference(&found, &expected[&format!("{name}.class")])?;
        assert!(error < 1e-4, "{name}: {error}");
        assert_eq!((report.left_out.len(), report.resized, report.no_class_position), (4, None, false));
        let found = inspect_weights(&path)?;
        assert!(found.program.is_some_and(|program| program.starts_with(title)), "{:?}", found.program);
        assert_eq!((found.contents, found.uses.len()), (Contents::Distilled, 1));
        let vit = found.model.unwrap();
        assert_eq!((vit.registers, vit.square_grid(), vit.classes), (1, Some((6, 6)), Some(5)));
    }
    // Both tokens and both heads: the mean of two logits, as timm computes it.
    let path = dialects().join("timm/deit_distilled.safetensors");
    let tensors: HashMap<_, _> = WeightFile::open(&path)?.read(&Device::Cpu)?.into_iter().collect();
    let logits = |head: &str, token: &str| -> Result<Tensor> {
        let weight = tensors[&format!("{head}.weight")].t()?;
        Ok(expected[token].matmul(&weight)?.broadcast_add(&tensors[&format!("{head}.bias")])?)
    };
    let (class, distillation) =
        (logits("head", "deit_distilled.class")?, logits("head_dist", "deit_distilled.distillation")?);
    let timm = load(&dialects().join("timm/expected.safetensors"))?;
    let error = largest_difference(&((class + distillation)? / 2.)?, &timm["deit_distilled.logits"])?;
    assert!(error < 1e-4, "{error}");
    // The classifier on the class token alone would predict something else.
    let params = Params::new(0, &Device::Cpu);
    Vit::new(&model, BackboneUsage { final_norm: true, ..BackboneUsage::default() }, params.builder())?;
    Linear::new(8, 5, params.builder().pp("head"))?;
    let error = load_exact(&params, &tensors.into_iter().collect::<Vec<_>>()).unwrap_err().to_string();
    assert!(error.contains("`head_dist.") && error.contains("the model does not have"), "{error}");
    Ok(())
}

#[test]
fn a_distilled_model_is_used_by_its_name() -> Result<()> {
    let sandbox = Sandbox::new();
    let path = dialects().join("timm/deit_distilled.safetensors");
    let path = path.display();
    let decoder = "decoder = { width = 8, depth = 1, heads = 2 }\n";
    sandbox.write("mine/configs/models/plain.toml", &format!("{SIZES}{decoder}"));
    sandbox.write("mine/configs/models/distilled.toml", &format!("{SIZES}registers = 1\n{decoder}"));
    let shown = sandbox.ok(&format!("inspect {path} --include mine"));
    assert!(shown.contains("distilled DeiT") && shown.contains("configs     distilled\n"), "{shown}");
    let transfer = format!("{} --include mine --max-steps 1 --init {path}", small_transfer());
    let error = sandbox.fails(2, &format!("{transfer} --model plain --out a"));
    assert!(error.contains("1 registers") && error.contains("Give --model distilled"), "{error}");
    sandbox.ok(&format!("{transfer} --model distilled --out b"));
    Ok(())
}

#[test]
fn registers_are_written_for_timm_and_refused_for_transformers() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let source = dialects().join("timm/deit_distilled.safetensors");
    let out = folder.path().join("timm.safetensors");
    let done = convert_weights(&source, Program::Timm, &out, &heads())?;
    assert_eq!(done.left_out, ["head_dist.bias", "head_dist.weight"]);
    assert!(
        done.notes.iter().any(|note| note.contains("reg_tokens=1, no_embed_class=True")),
        "{:?}",
        done.notes
    );
    let written = load(&out)?;
    assert_eq!((written["pos_embed"].dims(), written["reg_token"].dims()), (&[1, 36, 8][..], &[1, 1, 8][..]));
    assert_eq!(WeightFile::open(&out)?.source_program(), Some("timm with registers"));
    let (found, _) = class_feature(&out, &model("registers = 1\n"))?;
    let error = largest_difference(&found, &load(&golden("expected.safetensors"))?["deit_distilled.class"])?;
    assert!(error < 1e-4, "{error}");
    // DINOv2: as timm has it.
    let out = folder.path().join("dinov2.safetensors");
    convert_weights(&dialects().join("dinov2_registers.safetensors"), Program::Timm, &out, &heads())?;
    let (written, timm) = (load(&out)?, load(&dialects().join("dinov2_timm.safetensors"))?);
    assert_eq!(written.len(), timm.len());
    for (name, tensor) in &timm {
        assert!(largest_difference(tensor, &written[name])? < 1e-6, "{name}");
    }
    let out = folder.path().join("hf.safetensors");
    let error = convert_weights(&source, Program::HuggingFace, &out, &heads()).unwrap_err().to_string();
    assert!(error.contains("no ViT with registers"), "{error}");
    Ok(())
}

#[test]
fn archives_of_big_vision_compute_what_timm_computes() -> Result<()> {
    let expected = load(&golden("expected.safetensors"))?;
    for (name, classes) in [("big_vision", true), ("big_vision_scan", true), ("sincos", true)] {
        let path = golden(&format!("{name}.npz"));
        let (found, report) = class_feature(&path, &model(""))?;
        let error = largest_difference(&found, &expected[&format!("{name}.class")])?;
        assert!(error < 1e-4, "{name}: {error}");
        assert_eq!((report.left_out.len(), report.no_class_position), (2, name != "sincos"), "{name}");
        let inspection = inspect_weights(&path)?;
        assert_eq!(inspection.program, Some("google-research/big_vision (JAX)"));
        assert_eq!((inspection.contents, classes), (Contents::Classifier, true));
        assert_eq!(inspection.unread, Vec::<String>::new());
    }
    // With its classifier, and written for timm.
    let params = Params::new(0, &Device::Cpu);
    let usage = BackboneUsage { final_norm: true, ..BackboneUsage::default() };
    let vit = Vit::new(&model(""), usage, params.builder())?;
    let head = Linear::new(8, 5, params.builder().pp("head"))?;
    load_model(&params, &WeightFile::open(&golden("big_vision.npz"))?.read(&Device::Cpu)?, &model(""))?;
    let class = vit.forward(&images()?, &[], &mut Pass::Eval)?.cls.unwrap();
    let error = largest_difference(&head.forward(&class)?, &expected["big_vision.logits"])?;
    assert!(error < 1e-4, "{error}");
    let folder = tempfile::tempdir()?;
    let out = folder.path().join("timm.safetensors");
    convert_weights(&golden("big_vision_scan.npz"), Program::Timm, &out, &heads())?;
    let (found, _) = class_feature(&out, &model(""))?;
    assert!(largest_difference(&found, &expected["big_vision_scan.class"])? < 1e-4);
    let error =
        convert_weights(&golden("sincos.npz"), Program::Fair, &out.with_file_name("a.safetensors"), &heads());
    assert!(error.unwrap_err().to_string().contains("with a class token and positions"));
    Ok(())
}

/// SigLIP has no class token, which only models with relative positions or windows do without.
#[test]
fn a_tower_without_a_class_token_is_read_where_none_is_needed() -> Result<()> {
    let path = golden("siglip.npz");
    let inspection = inspect_weights(&path)?;
    assert_eq!((inspection.contents, inspection.tensors), (Contents::ClasslessEncoder, 29));
    for part in ["params/img/MAPHead_0/probe", "params/txt/head.weight", "params/t"] {
        let end = part.trim_start_matches("params/img/");
        assert!(inspection.unread.iter().any(|name| name.ends_with(end)), "{part}: {:?}", inspection.unread);
    }
    let error = class_feature(&path, &model("")).unwrap_err().to_string();
    assert!(error.contains("needs `cls_token`") && error.contains("without a class token"), "{error}");
    let attention = AttentionConfig {
        window: None,
        global_blocks: GlobalBlocks::List(vec![]),
        relative_position: RelativePosition::Decomposed,
    };
    let usage = BackboneUsage { attention: Some(attention), ..BackboneUsage::default() };
    let (found, report) = features(&path, &model(""), usage)?;
    assert_eq!((report.new, report.no_class_position), (4, true));
    let error =
        largest_difference(&found.taps[0], &load(&golden("expected.safetensors"))?["siglip.patches"])?;
    assert!(error < 1e-4, "{error}");
    Ok(())
}

fn windowed() -> BackboneUsage {
    let attention = AttentionConfig {
        window: Some(4),
        global_blocks: GlobalBlocks::List(vec![1, 3]),
        relative_position: RelativePosition::Decomposed,
    };
    BackboneUsage { attention: Some(attention), ..BackboneUsage::default() }
}

#[test]
fn pickles_of_detectron2_hold_what_its_checkpoints_hold() -> Result<()> {
    let dense = dialects().join("dense");
    let sizes = "image = [48, 48]\npatch = 8\nwidth = 8\ndepth = 4\nheads = 2\nnorm_eps = 1e-6\n";
    let model: ModelConfig =
        bench::config::parse(&format!("{sizes}decoder = {{ width = 8, depth = 1, heads = 2 }}\n"), "test")?;
    let expected = load(&dense.join("expected.safetensors"))?;
    let checkpoint: HashMap<_, _> =
        WeightFile::open(&dense.join("vitdet.pth"))?.read(&Device::Cpu)?.into_iter().collect();
    for (name, whole) in [("vitdet.pkl", true), ("vitdet_5.pkl", false)] {
        let file = WeightFile::open(&golden(name))?;
        assert_eq!((file.format(), file.state_dict()), ("pkl", "model"));
        assert_eq!(file.source_program(), Some("detectron2's ViTDet"));
        assert_eq!((file.strangers().len(), file.unread().len()), (0, 0));
        let tensors = file.read(&Device::Cpu)?;
        for (name, tensor) in &tensors {
            assert_eq!(largest_difference(tensor, &checkpoint[name])?, 0., "{name}");
        }
        assert_eq!(tensors.len() == checkpoint.len(), whole);
        let params = Params::new(0, &Device::Cpu);
        let vit = Vit::new(&model, windowed(), params.builder())?;
        let report = load_backbone(&params, &tensors, &model, None)?;
        assert_eq!((report.loaded, report.new), (params.all().len(), 0));
        assert_eq!(report.left_out.iter().any(|name| name.starts_with("roi_heads.")), whole);
        let features = vit.forward(&expected["images"], &[3], &mut Pass::Eval)?;
        let map = features.taps[0].transpose(1, 2)?.reshape((2, 8, 6, 6))?;
        assert!(largest_difference(&map, &expected["vitdet.map"])? < 1e-4);
    }
    let contents = |name: &str| -> Result<Contents> { Ok(inspect_weights(&golden(name))?.contents) };
    assert_eq!(
        (contents("vitdet.pkl")?, contents("vitdet_5.pkl")?),
        (Contents::Detector, Contents::ClasslessEncoder)
    );
    let shown = Sandbox::new().ok(&format!("inspect {}", golden("vitdet.pkl").display()));
    assert!(shown.contains("(pkl, ") && shown.contains("state dict  model"), "{shown}");
    Ok(())
}

/// The published file of MoCo v3 is known by its name and its tensors; the golden file has its container.
#[test]
fn a_file_of_the_catalogue_brings_its_label_and_its_model() -> Result<()> {
    let sandbox = Sandbox::new();
    let decoder = "decoder = { width = 8, depth = 1, heads = 2 }\n";
    sandbox.write("mine/configs/models/small.toml", &format!("{SIZES}{decoder}"));
    let known = "model = \"small\"\nprogram = \"MoCo v3 or DINO\"\nlicense = \"x\"\ninit = \"moco_v3\"\ndata = \"x\"\nrows = []\n";
    sandbox.write(
        "mine/configs/catalogue.toml",
        &format!("[[backbone]]\nurl = \"https://example.org/vit-b-300ep.pth.tar\"\n{known}"),
    );
    let shown = sandbox.ok("model list --hub --include mine");
    assert!(
        shown.starts_with("https://example.org/vit-b-300ep.pth.tar") && shown.contains("moco_v3"),
        "{shown}"
    );
    let moco = dialects().join("timm/moco_v3.pth");
    std::fs::copy(&moco, sandbox.path("vit-b-300ep.pth.tar"))?;
    std::fs::copy(&moco, sandbox.path("other.pth.tar"))?;
    std::fs::create_dir(sandbox.path("plain"))?;
    std::fs::copy(dialects().join("timm/deit.pth"), sandbox.path("plain/vit-b-300ep.pth.tar"))?;
    for (init, more, label) in [
        ("vit-b-300ep.pth.tar", "", "moco_v3"),
        ("other.pth.tar", "--model small", "other_pth"),
        ("plain/vit-b-300ep.pth.tar", "--model small", "vit-b-300ep_pth"),
    ] {
        let out = label.replace('-', "_");
        let transfer = small_transfer();
        sandbox.ok(&format!("{transfer} --include mine --max-steps 1 --init {init} {more} --out {out}"));
        let record = std::fs::read_to_string(sandbox.path(&out).join("run.json"))?;
        let record: serde_json::Value = serde_json::from_str(&record)?;
        assert_eq!(record["init"]["label"], label);
    }
    Ok(())
}
