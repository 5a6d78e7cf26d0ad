//! Weight files of timm and related programs (`scripts/golden/timm_dialects.py`): logits and features are the same as in
//! timm, and files that are exported for timm have the names and shapes of the source.

use crate::key_mappings::{BEIT, heads, largest_difference};
use crate::program::{Sandbox, repository};
use anyhow::Result;
use bench::config::ModelConfig;
use bench::models::{Backbone as _, BackboneUsage, Vit};
use bench::nn::{LayerNorm, Linear, Params, Pass};
use bench::weights::{Program, WeightFile, convert_weights, load_backbone, load_exact};
use candle_core::{DType, Device, Tensor};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

fn golden(name: &str) -> PathBuf {
    repository().join("tests/golden/dialects/timm").join(name)
}

fn expected() -> Result<HashMap<String, Tensor>> {
    Ok(candle_core::safetensors::load(golden("expected.safetensors"), &Device::Cpu)?)
}

/// The model of `scripts/golden/timm_dialects.py`.
fn model(more: &str) -> ModelConfig {
    let sizes = "image = [24, 24]\npatch = 4\nwidth = 8\ndepth = 2\nheads = 2\nnorm_eps = 1e-6\n";
    bench::config::parse(&format!("{sizes}{more}decoder = {{ width = 8, depth = 1, heads = 2 }}\n"), "test")
        .unwrap()
}

const LAYER_SCALE: &str = "layer_scale = 0.3\n";

/// The logits of a classifier whose file must hold exactly its tensors: on the class token, or on `mean` patches.
fn logits(path: &Path, model: &ModelConfig, mean: bool) -> Result<Tensor> {
    let params = Params::new(0, &Device::Cpu);
    let vit =
        Vit::new(model, BackboneUsage { final_norm: !mean, ..BackboneUsage::default() }, params.builder())?;
    let head = Linear::new(8, 5, params.builder().pp("head"))?;
    let norm = mean.then(|| LayerNorm::new(8, 1e-6, params.builder().pp("fc_norm"))).transpose()?;
    load_exact(&params, &WeightFile::open(path)?.read(&Device::Cpu)?)?;
    let features = vit.forward(&expected()?["images"], &[1], &mut Pass::Eval)?;
    let pooled = match norm {
        Some(norm) => norm.forward(&features.taps[0].mean(1)?)?,
        None => features.cls.unwrap(),
    };
    Ok(head.forward(&pooled)?)
}

#[test]
fn classifiers_compute_what_timm_computes() -> Result<()> {
    let expected = expected()?;
    for (file, golden_logits, more, mean) in [
        ("vit.safetensors", "vit", "", false),
        ("vit_avg.safetensors", "vit_avg", "", true),
        ("deit.pth", "deit", "", false),
        ("deit3.safetensors", "deit3", LAYER_SCALE, false),
        ("deit3_fair.pth", "deit3", LAYER_SCALE, false),
        ("beit.safetensors", "beit", BEIT, true),
        ("augreg.npz", "vit", "", false),
        ("augreg_compressed.npz", "vit", "", false),
        ("moco_v3_linear.pth", "vit", "", false),
    ] {
        let found = logits(&golden(file), &model(more), mean)?;
        let error = largest_difference(&found, &expected[&format!("{golden_logits}.logits")])?;
        assert!(error < 1e-4, "{file}: {error}");
    }
    Ok(())
}

#[test]
fn backbones_are_found_beside_projectors_and_other_encoders() -> Result<()> {
    let expected = expected()?;
    for (name, title, others) in [
        (
            "moco_v3.pth",
            "MoCo v3 or DINO",
            ["momentum_encoder.cls_token", "base_encoder.head.1.running_mean"],
        ),
        ("dino.pth", "MoCo v3 or DINO", ["head.mlp.0.weight", "head.last_layer.weight_v"]),
        (
            "dinov2_train.pth",
            "DINO's teacher",
            ["student.backbone.cls_token", "teacher.dino_head.mlp.0.bias"],
        ),
    ] {
        let (file, params, model) =
            (WeightFile::open(&golden(name))?, Params::new(0, &Device::Cpu), model(""));
        assert!(file.source_program().is_some_and(|found| found.starts_with(title)), "{name}");
        assert!(others.iter().all(|name| file.unread().iter().any(|n| n == name)), "{:?}", file.unread());
        let options = BackboneUsage { final_norm: true, ..BackboneUsage::default() };
        let vit = Vit::new(&model, options, params.builder())?;
        let report = load_backbone(&params, &file.read(&Device::Cpu)?, &model, None)?;
        assert_eq!((report.loaded, report.left_out), (params.all().len(), vec![]));
        let class = vit.forward(&expected["images"], &[], &mut Pass::Eval)?.cls.unwrap();
        let error = largest_difference(&class, &expected["vit.class"])?;
        assert!(error < 1e-4, "{name}: {error}");
    }
    Ok(())
}

#[test]
fn a_student_alone_is_read_and_gives_way_to_its_teacher() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("student.safetensors");
    let tensors = candle_core::safetensors::load(golden("vit.safetensors"), &Device::Cpu)?;
    let below = tensors.iter().filter(|(name, _)| !name.starts_with("head."));
    let student: HashMap<_, _> =
        below.map(|(name, tensor)| (format!("_orig_mod.student.backbone.{name}"), tensor.clone())).collect();
    candle_core::safetensors::save(&student, &path)?;
    let file = WeightFile::open(&path)?;
    assert_eq!(file.source_program(), Some("DINO's student"));
    let read: HashMap<_, _> = file.read(&Device::Cpu)?.into_iter().collect();
    assert_eq!(largest_difference(&read["norm.weight"], &tensors["norm.weight"])?, 0.);
    Ok(())
}

#[test]
fn what_is_written_for_timm_has_its_names_and_shapes() -> Result<()> {
    let folder = tempfile::tempdir()?;
    for (file, source, notes) in [
        ("vit.safetensors", "vit.safetensors", 0),
        ("vit_avg.safetensors", "vit_avg.safetensors", 0),
        ("beit.safetensors", "beit.safetensors", 0),
        ("deit3.safetensors", "deit3.safetensors", 1),
        ("deit3_fair.pth", "deit3.safetensors", 1),
        ("augreg.npz", "vit.safetensors", 0),
        ("augreg_compressed.npz", "vit.safetensors", 0),
    ] {
        let out = folder.path().join(file).with_extension("timm.safetensors");
        let done = convert_weights(&golden(file), Program::Timm, &out, &heads())?;
        assert_eq!((&done.left_out, done.notes.len()), (&vec![], notes), "{file}: {:?}", done.notes);
        let source = candle_core::safetensors::load(golden(source), &Device::Cpu)?;
        let written = candle_core::safetensors::load(&out, &Device::Cpu)?;
        assert_eq!(source.len(), written.len(), "{file}");
        for (name, tensor) in &source {
            let found = written.get(name).unwrap_or_else(|| panic!("{file}: no `{name}`"));
            assert_eq!(largest_difference(tensor, found)?, 0., "{file}: {name}");
        }
    }
    Ok(())
}

#[test]
fn a_class_position_that_counts_is_kept_and_relative_positions_are_refused() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut tensors = WeightFile::open(&golden("deit3.safetensors"))?.read(&Device::Cpu)?;
    let source = folder.path().join("source.safetensors");
    let save = |tensors: &[(String, Tensor)]| {
        candle_core::safetensors::save(&tensors.iter().cloned().collect::<HashMap<_, _>>(), &source)
    };
    let positions = tensors.iter_mut().find(|(name, _)| name == "pos_embed").unwrap();
    positions.1 = (&positions.1 + 1.)?;
    save(&tensors)?;
    let out = folder.path().join("timm.safetensors");
    let done = convert_weights(&source, Program::Timm, &out, &heads())?;
    assert_eq!(done.notes, Vec::<String>::new());
    assert_eq!(candle_core::safetensors::load(&out, &Device::Cpu)?["pos_embed"].dims(), [1, 37, 8]);
    let table = Tensor::zeros((124, 2), DType::F32, &Device::Cpu)?;
    tensors.push(("blocks.0.attn.relative_position_bias_table".into(), table));
    save(&tensors)?;
    let two = folder.path().join("two.safetensors");
    let error = convert_weights(&source, Program::Timm, &two, &heads()).unwrap_err().to_string();
    assert!(error.contains("no parameter for `blocks.0.attn.relative_position_bias_table`"), "{error}");
    Ok(())
}

#[test]
fn an_archive_of_numpy_is_inspected_and_converted() {
    let sandbox = Sandbox::new();
    let source = golden("augreg.npz");
    let source = source.to_str().unwrap();
    let shown = sandbox.ok(&format!("inspect {source}"));
    assert!(shown.contains("(npz, ") && shown.contains("google-research/vision_transformer"), "{shown}");
    sandbox.ok(&format!("convert {source} --to fair --heads 2 --out fair.safetensors"));
    let shown = sandbox.ok("inspect fair.safetensors");
    assert!(shown.contains("encoder and classifier") && shown.contains("head        5 classes"), "{shown}");
    let shown = sandbox.ok(&format!("inspect {}", golden("moco_v3.pth").display()));
    assert!(shown.contains("not read    ") && shown.contains("and 61 more"), "{shown}");
}
