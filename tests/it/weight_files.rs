//! Weights as people have them: in folders of several kinds, with other names around those of the model, beside an average.

use crate::program::{Sandbox, repository, small_transfer};
use anyhow::Result;
use candle_core::{DType, Device, Tensor};
use std::collections::{BTreeMap, HashMap};

const MODEL: &str = "image = [24, 24]\npatch = 4\nwidth = 8\ndepth = 2\nheads = 2\nnorm_eps = 1e-6\n\
                     decoder = { width = 8, depth = 1, heads = 2 }\n";

/// A sandbox with the model of the golden files of timm, and a transfer to it that takes one step.
fn sandbox() -> (Sandbox, String) {
    let sandbox = Sandbox::new();
    sandbox.write("mine/configs/models/vit_golden.toml", MODEL);
    let line = format!("{} --include mine --model vit_golden --max-steps 1", small_transfer());
    (sandbox, line)
}

fn timm(name: &str) -> std::path::PathBuf {
    repository().join("tests/golden/dialects/timm").join(name)
}

fn backbone() -> Result<BTreeMap<String, Tensor>> {
    let tensors = candle_core::safetensors::load(timm("vit.safetensors"), &Device::Cpu)?;
    Ok(tensors.into_iter().filter(|(name, _)| !name.starts_with("head.")).collect())
}

#[test]
fn a_folder_is_read_by_one_rule() -> Result<()> {
    let (sandbox, transfer) = sandbox();
    std::fs::create_dir(sandbox.path("bin"))?;
    let error = sandbox.fails(2, &format!("{transfer} --init bin --out a"));
    assert!(error.contains("`pytorch_model.bin`"), "{error}");
    std::fs::copy(timm("deit.pth"), sandbox.path("bin/other.pth"))?;
    for line in ["inspect bin".to_string(), format!("{transfer} --init bin --out a")] {
        let error = sandbox.fails(2, &line);
        assert!(error.contains("other.pth"), "{error}");
    }
    std::fs::rename(sandbox.path("bin/other.pth"), sandbox.path("bin/pytorch_model.bin"))?;
    assert!(sandbox.ok("inspect bin").contains("pytorch_model.bin (pth"));
    sandbox.ok(&format!("{transfer} --init bin --out a"));

    // An index of one file in the format of PyTorch.
    std::fs::create_dir(sandbox.path("parts"))?;
    let part = "pytorch_model-00001-of-00001.bin";
    std::fs::copy(timm("deit.pth"), sandbox.path("parts").join(part))?;
    let names = candle_core::pickle::PthTensors::new(timm("deit.pth"), Some("model"))?;
    let map: BTreeMap<&String, &str> = names.tensor_infos().keys().map(|name| (name, part)).collect();
    let text = serde_json::json!({ "weight_map": map }).to_string();
    sandbox.write("parts/pytorch_model.bin.index.json", &text);
    assert!(sandbox.ok("inspect parts").contains("encoder and classifier"));
    sandbox.ok(&format!("{transfer} --init parts --out b"));
    Ok(())
}

#[test]
fn prefixes_counters_and_averages_are_told_and_read() -> Result<()> {
    let (sandbox, transfer) = sandbox();
    let mut tensors: HashMap<String, Tensor> = HashMap::new();
    for (name, tensor) in backbone()? {
        tensors.insert(format!("ema_model.module.{name}"), (&tensor * 2.)?);
        tensors.insert(format!("model.{name}"), tensor);
    }
    tensors.insert("n_averaged".into(), Tensor::zeros((), DType::I64, &Device::Cpu)?);
    candle_core::safetensors::save(&tensors, sandbox.path("last.safetensors"))?;
    let shown = sandbox.ok("inspect last.safetensors");
    for line in ["state dict  model", "choose it with last.safetensors#ema_model.module", "n_averaged"] {
        assert!(shown.contains(line), "no `{line}` in\n{shown}");
    }
    let shown = sandbox.ok("inspect last.safetensors#ema_model.module");
    assert!(shown.contains("state dict  ema_model.module"), "{shown}");
    sandbox.ok(&format!("{transfer} --init last.safetensors --out a"));
    sandbox.ok(&format!("{transfer} --init last.safetensors#ema_model.module --out b"));
    let record = std::fs::read_to_string(sandbox.path("b/run.json"))?;
    assert!(record.contains("last.safetensors#ema_model.module"), "{record}");
    for (key, factor) in [("model", 1.), ("ema_model.module", 2.)] {
        let out = format!("{}.safetensors", key.replace('.', "_"));
        sandbox.ok(&format!("convert last.safetensors#{key} --to fair --heads 2 --out {out}"));
        let found = candle_core::safetensors::load(sandbox.path(&out), &Device::Cpu)?;
        let source = backbone()?;
        let expected = (&source["cls_token"] * factor)?;
        let error = crate::key_mappings::largest_difference(&found["cls_token"], &expected)?;
        assert_eq!((found.len(), error), (source.len(), 0.));
    }
    let error = sandbox.fails(2, "inspect last.safetensors#swa");
    assert!(error.contains("no state dict `swa`") && error.contains("`ema_model.module`"), "{error}");
    Ok(())
}

#[test]
fn weights_in_parts_are_named_with_the_remedy_and_refused() -> Result<()> {
    let (sandbox, transfer) = sandbox();
    let hidden = "blocks.0.mlp.fc1";
    for (file, extra, words) in [
        ("lora", vec![format!("{hidden}.lora_A.default.weight")], "merge_and_unload"),
        ("pruned", vec![format!("{hidden}.weight_orig"), format!("{hidden}.weight_mask")], "prune.remove"),
        ("norm", vec![format!("{hidden}.weight_g"), format!("{hidden}.weight_v")], "remove_weight_norm"),
        ("quantized", vec![format!("{hidden}.weight.absmax")], "dequantize"),
    ] {
        for part in ["", "model."] {
            let named = |(name, tensor): (String, Tensor)| (format!("{part}{name}"), tensor);
            let mut tensors: HashMap<String, Tensor> = backbone()?.into_iter().map(named).collect();
            for name in &extra {
                tensors.insert(format!("{part}{name}"), Tensor::zeros(4, DType::F32, &Device::Cpu)?);
            }
            candle_core::safetensors::save(&tensors, sandbox.path("parts.safetensors"))?;
            let shown = sandbox.ok("inspect parts.safetensors");
            assert!(shown.contains(words) && shown.contains("usable to   nothing"), "{shown}");
            let error = sandbox.fails(2, &format!("{transfer} --init parts.safetensors --out {file}"));
            assert!(error.contains(words) && error.contains("parts.safetensors"), "{error}");
        }
    }
    Ok(())
}

/// What is wrong with a file of weights is said in plain words, with the remedy.
#[test]
fn files_that_are_no_weights_or_are_cut_off_are_named() -> Result<()> {
    let (sandbox, _) = sandbox();
    let inspect = |name: &str, bytes: &[u8], words: &str| {
        std::fs::write(sandbox.path(name), bytes).unwrap();
        let error = sandbox.fails(2, &format!("inspect {name}"));
        assert!(error.contains(name) && error.contains(words), "{error}\nlacks: {words}");
        for foreign in
            ["os error", "EOF", "invalid Zip archive", "MetadataIncompleteBuffer", "failed to fill"]
        {
            assert!(!error.contains(foreign), "{error}");
        }
    };
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n";
    for name in ["a.safetensors", "a.pth", "a.npz", "a.pkl"] {
        inspect(name, pointer, "`git lfs pull`");
        inspect(name, b"<!DOCTYPE html><html></html>", "a web page");
        inspect(name, b"\x1f\x8b\x08\0\0\0\0\0\0\0", "`gunzip`");
        inspect(name, b"", "the file is empty");
        inspect(name, b"\x89HDF\r\n\x1a\n and more", "an HDF5 file");
    }
    for (name, words) in [
        ("vit.safetensors", ["cut off", "cut off"]),
        ("deit.pth", ["cut off", "cut off"]),
        ("augreg.npz", ["cut off", "cut off"]),
        ("augreg_compressed.npz", ["cut off", "cut off"]),
    ] {
        let bytes = std::fs::read(timm(name))?;
        inspect(&format!("half_{name}"), &bytes[..bytes.len() / 2], words[0]);
        inspect(&format!("end_{name}"), &bytes[..bytes.len() - 7], words[1]);
    }
    let folder = repository().join("tests/golden/dialects/formats");
    let pickle = std::fs::read(folder.join("vitdet.pkl"))?;
    inspect("half.pkl", &pickle[..pickle.len() / 2], "cut off");
    // An index whose second file is missing, or is a pointer.
    let map = r#"{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}"#;
    let one =
        |name: &str| HashMap::from([(name.to_string(), Tensor::zeros(1, DType::F32, &Device::Cpu).unwrap())]);
    std::fs::create_dir(sandbox.path("sharded"))?;
    candle_core::safetensors::save(&one("a"), sandbox.path("sharded/model-1.safetensors"))?;
    sandbox.write("sharded/model.safetensors.index.json", map);
    let error = sandbox.fails(2, "inspect sharded");
    for words in
        ["model.safetensors.index.json", "`model-2.safetensors`, which the index lists", "is not there"]
    {
        assert!(error.contains(words), "{error}\nlacks: {words}");
    }
    std::fs::write(sandbox.path("sharded/model-2.safetensors"), pointer)?;
    let error = sandbox.fails(2, "inspect sharded");
    assert!(error.contains("model-2.safetensors") && error.contains("`git lfs pull`"), "{error}");
    sandbox.write("sharded/model.safetensors.index.json", "{\"weight_map\": {\"a\": \"mod");
    let error = sandbox.fails(2, "inspect sharded");
    assert!(error.contains("index.json") && error.contains("cut off"), "{error}");
    Ok(())
}

#[test]
#[cfg(unix)]
fn links_that_lead_nowhere_are_named() {
    let (sandbox, _) = sandbox();
    std::os::unix::fs::symlink("round.safetensors", sandbox.path("round.safetensors")).unwrap();
    std::os::unix::fs::symlink("gone.safetensors", sandbox.path("dangling.safetensors")).unwrap();
    for (name, words) in [("round", "leads back to itself"), ("dangling", "a link to `gone.safetensors`")] {
        let error = sandbox.fails(2, &format!("inspect {name}.safetensors"));
        assert!(error.contains(words) && error.contains(name), "{error}");
    }
}
