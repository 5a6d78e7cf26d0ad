//! DINOv3, and DINOv2 with the SwiGLU of ViT-g/14 (`scripts/golden/dinov3.py`): models compute the same as in transformers and
//! timm at every size of images, learn the same, and keep their weights through files.

use crate::key_mappings::{heads, largest_difference};
use crate::program::{Sandbox, fixture, repository};
use anyhow::{Context as _, Result};
use bench::config::{MlpKind, ModelConfig, ResizePositions, parse};
use bench::models::{Backbone as _, BackboneUsage, Vit};
use bench::nn::{Params, Pass};
use bench::ops::{Precision, backward};
use bench::rng::Rng;
use bench::weights::{
    Contents, LoadReport, Program, WeightFile, convert_weights, inspect_weights, load_backbone,
};
use candle_core::{DType, Device, Tensor};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// The keys that make a ViT a DINOv3.
const DINOV3: &str = "norm_eps = 1e-5\nabsolute_positions = false\nrope_base = 100\nlayer_scale = 1e-5\nregisters = 4\n\
                      key_bias = false\n";
const SWIGLU: &str = "mlp = \"swiglu\"\nmlp_ratio = 6\n";

/// Of features up to 60: a few units in the last place of f32.
const TOLERANCE: f32 = 1e-4;

fn golden(name: &str) -> PathBuf {
    repository().join("tests/golden/dialects").join(format!("{name}.safetensors"))
}

fn tensors(name: &str) -> Result<HashMap<String, Tensor>> {
    Ok(candle_core::safetensors::load(golden(name), &Device::Cpu)?)
}

/// The model of the golden files for images of some size.
fn model(image: [usize; 2], gated: bool) -> ModelConfig {
    let sizes = format!("image = {image:?}\npatch = 4\nwidth = 32\ndepth = 2\nheads = 2\n{DINOV3}");
    parse(&(sizes + if gated { SWIGLU } else { "" }), "test").unwrap()
}

/// The model of DINOv2 with a SwiGLU.
fn giant(image: [usize; 2], registers: usize) -> ModelConfig {
    let sizes = "patch = 4\nwidth = 16\ndepth = 2\nheads = 2\nlayer_scale = 1e-5\nmlp = \"swiglu\"\n";
    let model: ModelConfig =
        parse(&format!("image = {image:?}\nregisters = {registers}\n{sizes}"), "test").unwrap();
    let kernel = if registers > 0 { ResizePositions::Antialias } else { ResizePositions::Bicubic };
    ModelConfig { resize_positions: kernel, ..model }
}

fn load_in(
    path: &Path,
    model: &ModelConfig,
    precision: Precision,
    frozen: usize,
) -> Result<(Vit, Params, LoadReport)> {
    let params = Params::new(0, &Device::Cpu).computing_in(precision);
    let usage = BackboneUsage { final_norm: true, frozen, ..BackboneUsage::default() };
    let vit = Vit::new(model, usage, params.builder())?;
    let report = load_backbone(&params, &WeightFile::open(path)?.read(&Device::Cpu)?, model, None)?;
    Ok((vit, params, report))
}

fn load(path: &Path, model: &ModelConfig) -> Result<(Vit, Params, LoadReport)> {
    load_in(path, model, Precision::F32, 0)
}

/// The largest difference of the class feature and of the outputs of blocks from what `name` expects for images of a `size`.
fn errors(vit: &Vit, expected: &HashMap<String, Tensor>, name: &str, size: &str) -> Result<f32> {
    let features = vit.forward(&expected[&format!("images.{size}")], &[0, 1], &mut Pass::Eval)?;
    let class = expected[&format!("{name}.{size}")].narrow(1, 0, 1)?.squeeze(1)?;
    let mut worst = largest_difference(&features.cls.context("no class feature")?, &class)?;
    for (i, found) in features.taps.iter().enumerate() {
        let Some(whole) = expected.get(&format!("{name}.{size}.{i}")) else { continue };
        let patches = found.dim(1)?;
        worst = worst.max(largest_difference(found, &whole.narrow(1, whole.dim(1)? - patches, patches)?)?);
    }
    Ok(worst)
}

#[test]
fn features_are_those_of_transformers_at_every_size_of_images() -> Result<()> {
    let expected = tensors("dinov3_expected")?;
    for (file, name, gated, left_out) in [
        ("dinov3", "dinov3", false, vec!["mask_token"]),
        ("dinov3_plus", "dinov3_plus", true, vec!["mask_token"]),
        ("dinov3_original", "dinov3_plus", true, vec!["mask_token", "rope_periods"]),
        ("dinov3_timm", "dinov3", false, vec![]),
        ("dinov3_timm_plus", "dinov3_timm_plus", true, vec![]),
    ] {
        for image in [[24, 24], [40, 40], [16, 36], [32, 12]] {
            let size = format!("{}x{}", image[0], image[1]);
            let model = model(image, gated);
            for frozen in [0, 2] {
                let (vit, params, report) = load_in(&golden(file), &model, Precision::F32, frozen)?;
                assert_eq!((report.loaded, report.new, report.resized), (params.all().len(), 0, None));
                assert_eq!(report.left_out, left_out, "{file}");
                let error = errors(&vit, &expected, name, &size)?;
                assert!(error < TOLERANCE, "{file} {size}: {error}");
            }
            let (vit, ..) = load_in(&golden(file), &model, Precision::Bf16, 0)?;
            let error = errors(&vit, &expected, name, &size)?;
            // Of features up to 46: operands are rounded by 2⁻⁹, and two blocks add up.
            assert!(error > 0. && error < 2.3, "{file} {size} in bf16: {error}");
        }
    }
    Ok(())
}

#[test]
fn a_swiglu_of_dinov2_is_that_of_transformers_and_timm() -> Result<()> {
    let expected = tensors("dinov2_giant_expected")?;
    for (file, name, registers, title) in [
        ("dinov2_giant", "dinov2_giant", 0, "Hugging Face DINOv2"),
        ("dinov2_giant_registers", "dinov2_giant_registers", 3, "Hugging Face DINOv2"),
        ("dinov2_giant_original", "dinov2_giant_registers", 3, "DINOv2"),
        ("dinov2_giant_timm", "dinov2_giant_registers", 3, "timm with layer scale (DeiT III, DINOv2)"),
    ] {
        for image in [[24, 24], [16, 36]] {
            let (vit, params, report) = load(&golden(file), &giant(image, registers))?;
            assert_eq!(report.loaded, params.all().len(), "{file}");
            let error = errors(&vit, &expected, name, &format!("{}x{}", image[0], image[1]))?;
            assert!(error < TOLERANCE, "{file} {image:?}: {error}");
        }
        let found = inspect_weights(&golden(file))?;
        assert_eq!((found.program, &found.contents), (Some(title), &Contents::Encoder));
        let guess = found.model.context("no ViT")?;
        assert_eq!(
            (guess.gated, guess.mlp_hidden, guess.rotary, guess.registers),
            (true, 48, false, registers)
        );
        assert!(guess.to_string().ends_with("SwiGLU"), "{guess}");
    }
    // One block a chunk, and the names within the library.
    let folder = tempfile::tempdir()?;
    let renamed = |from: &str, rename: &dyn Fn(&str) -> String| -> Result<PathBuf> {
        let path = folder.path().join("renamed.safetensors");
        let tensors: HashMap<_, _> = tensors(from)?.into_iter().map(|(name, t)| (rename(&name), t)).collect();
        candle_core::safetensors::save(&tensors, &path)?;
        Ok(path)
    };
    let chunk = |name: &str| match name.strip_prefix("blocks.").and_then(|rest| rest.split_once('.')) {
        Some((block, rest)) => format!("blocks.0.{block}.{rest}"),
        None => name.to_string(),
    };
    let (vit, ..) = load(&renamed("dinov2_giant_original", &chunk)?, &giant([24, 24], 3))?;
    assert!(errors(&vit, &expected, "dinov2_giant_registers", "24x24")? < TOLERANCE);
    let mut within: HashMap<String, Tensor> = HashMap::new();
    for (name, tensor) in tensors("dinov2_giant")? {
        let rows = tensor.dim(0)? / 2;
        match name.contains("weights_in") {
            true => {
                within.insert(
                    name.replace("weights_in", "gate_proj"),
                    tensor.narrow(0, 0, rows)?.contiguous()?,
                );
                within.insert(
                    name.replace("weights_in", "up_proj"),
                    tensor.narrow(0, rows, rows)?.contiguous()?,
                );
            }
            false => drop(within.insert(name.replace("weights_out", "down_proj"), tensor)),
        }
    }
    let path = folder.path().join("within.safetensors");
    candle_core::safetensors::save(&within, &path)?;
    let (vit, ..) = load(&path, &giant([24, 24], 0))?;
    assert!(errors(&vit, &expected, "dinov2_giant", "24x24")? < TOLERANCE);
    Ok(())
}

/// Training computes the gradients of PyTorch, and one for every weight.
#[test]
fn gradients_of_all_weights_are_those_of_pytorch() -> Result<()> {
    let expected = tensors("dinov3_expected")?;
    let gradients: HashMap<String, Tensor> =
        WeightFile::open(&golden("dinov3_gradients"))?.read(&Device::Cpu)?.into_iter().collect();
    let seed = &expected["seed"];
    let seed = Tensor::cat(&[seed.narrow(1, 0, 1)?, seed.narrow(1, 5, seed.dim(1)? - 5)?], 1)?;
    for (precision, tolerance) in [(Precision::F32, 1e-4), (Precision::Bf16, 0.1)] {
        let (vit, params, _) = load_in(&golden("dinov3_plus"), &model([16, 36], true), precision, 0)?;
        let mut rng = Rng::new(0, "test", &[]);
        let tokens = vit.embed(&vit.patches(&expected["images.16x36"])?)?;
        let x = vit.encode(vit.with_positions(&tokens)?, &mut Pass::train(&mut rng))?.context("no norm")?;
        let store = backward(&(x * &seed)?.sum_all()?)?;
        for p in params.all() {
            let found = store.get(&p.var).with_context(|| format!("{} has no gradient", p.name))?;
            let expected = &gradients[&p.name];
            let largest = expected.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>()?;
            let error = largest_difference(found, &expected.reshape(found.shape())?)? / largest;
            assert!(largest > 1e-3 && error < tolerance, "{precision:?}, {}: {error} of {largest}", p.name);
        }
    }
    Ok(())
}

#[test]
fn files_are_recognized_and_written_again() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let expected = tensors("dinov3_expected")?;
    for (file, name, title, gated, programs) in [
        ("dinov3", "dinov3", "Hugging Face DINOv3", false, ["dinov3", "dinov3_timm"]),
        ("dinov3_plus", "dinov3_plus", "Hugging Face DINOv3", true, ["dinov3_plus", ""]),
        ("dinov3_original", "dinov3_plus", "facebookresearch/dinov3", true, ["dinov3_plus", ""]),
        ("dinov3_timm", "dinov3", "timm's Eva (DINOv3)", false, ["", "dinov3_timm"]),
        ("dinov3_timm_plus", "dinov3_timm_plus", "timm's Eva (DINOv3)", true, ["", ""]),
    ] {
        let found = inspect_weights(&golden(file))?;
        assert_eq!((found.program, &found.contents), (Some(title), &Contents::Encoder), "{file}");
        let guess = found.model.context("no ViT")?;
        let found = (guess.rotary, guess.gated, guess.mlp_hidden, guess.positions, guess.registers);
        assert_eq!(found, (true, gated, 128, 0, 4), "{file}");
        assert!(guess.to_string().contains("rotary positions, 4 registers"), "{guess}");
        let same = [(Program::HuggingFace, programs[0]), (Program::Timm, programs[1])];
        for (program, same) in same {
            let out = folder.path().join(format!("{file}_{program:?}/model.safetensors"));
            std::fs::create_dir(out.parent().context("no folder")?)?;
            let done = convert_weights(&golden(file), program, &out, &heads())?;
            let written = candle_core::safetensors::load(&out, &Device::Cpu)?;
            if !same.is_empty() {
                let source = tensors(same)?;
                assert_eq!(written.len(), source.len(), "{file}: {:?}", written.keys());
                for (key, tensor) in &source {
                    assert_eq!(largest_difference(tensor, &written[key])?, 0., "{key}");
                }
            }
            let (vit, ..) = load(&out, &model([16, 36], gated))?;
            assert!(errors(&vit, &expected, name, "16x36")? < TOLERANCE, "{file} to {program:?}");
            if let Some(config) = done.config {
                let config: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(config)?)?;
                assert_eq!(config["architectures"][0], "DINOv3ViTModel");
                assert_eq!((&config["use_gated_mlp"], &config["rope_theta"]), (&gated.into(), &100.0.into()));
                assert_eq!((&config["num_register_tokens"], &config["key_bias"]), (&4.into(), &false.into()));
                assert_eq!(
                    (&config["intermediate_size"], &config["layer_norm_eps"]),
                    (&128.into(), &1e-5.into())
                );
            } else {
                assert!(done.notes.iter().any(|note| note.contains("_qkvb")), "{:?}", done.notes);
            }
        }
        let fair =
            convert_weights(&golden(file), Program::Fair, &folder.path().join("x.safetensors"), &heads());
        assert!(fair.unwrap_err().to_string().contains("no rotary positions"));
    }
    for (file, ratio) in [("dinov2_giant", 4), ("dinov2_giant_registers", 4)] {
        let out = folder.path().join(file).join("model.safetensors");
        std::fs::create_dir(out.parent().context("no folder")?)?;
        let done = convert_weights(&golden(file), Program::HuggingFace, &out, &heads())?;
        let (written, source) = (candle_core::safetensors::load(&out, &Device::Cpu)?, tensors(file)?);
        assert_eq!(written.len(), source.len());
        for (key, tensor) in &source {
            assert_eq!(largest_difference(tensor, &written[key])?, 0., "{key}");
        }
        let config = std::fs::read_to_string(done.config.context("no config")?)?;
        let config: serde_json::Value = serde_json::from_str(&config)?;
        assert_eq!((&config["use_swiglu_ffn"], &config["mlp_ratio"]), (&true.into(), &ratio.into()));
    }
    Ok(())
}

/// Names within transformers 5, and weights below `backbone.`.
#[test]
fn other_spellings_are_read() -> Result<()> {
    let (folder, expected) = (tempfile::tempdir()?, tensors("dinov3_expected")?);
    let path = folder.path().join("renamed.safetensors");
    for (file, gated, from, to) in [
        ("dinov3", false, "layer.", "model.layer."),
        ("dinov3_plus", true, "layer.", "model.layer."),
        ("dinov3_original", true, "", "backbone."),
    ] {
        let name = if gated { "dinov3_plus" } else { "dinov3" };
        let rename = |name: String| match name.strip_prefix(from) {
            Some(rest) => format!("{to}{rest}"),
            None => name,
        };
        let renamed: HashMap<_, _> = tensors(file)?.into_iter().map(|(name, t)| (rename(name), t)).collect();
        candle_core::safetensors::save(&renamed, &path)?;
        let (vit, ..) = load(&path, &model([40, 40], gated))?;
        assert!(errors(&vit, &expected, name, "40x40")? < TOLERANCE, "{file}");
    }
    Ok(())
}

#[test]
fn weights_of_another_model_are_refused_for_a_reason() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("model.safetensors");
    let remove = |tensors: &mut HashMap<String, Tensor>, name: &str| {
        tensors.remove(name).map(drop).context("no such tensor")
    };
    let refused = |change: &dyn Fn(&mut HashMap<String, Tensor>) -> Result<()>, model: &ModelConfig| {
        let mut changed = tensors("dinov3_original")?;
        change(&mut changed)?;
        candle_core::safetensors::save(&changed, &path)?;
        Ok::<_, anyhow::Error>(load(&path, model).err().context("it was loaded")?.to_string())
    };
    let gated = model([24, 24], true);
    // The mask is what keeps the bias of the keys out.
    let error = refused(&|t| remove(t, "blocks.1.attn.qkv.bias_mask"), &gated)?;
    assert!(error.contains("blocks.1.attn.qkv.bias") && error.contains("keys have a bias"), "{error}");
    let error = refused(&|_| Ok(()), &ModelConfig { rope_base: Some(10000.), ..gated.clone() })?;
    assert!(error.contains("`rope_base` 10000 with 16 channels") && error.contains("3.1"), "{error}");
    let error = refused(&|_| Ok(()), &ModelConfig { rope_base: None, ..gated.clone() })?;
    assert!(error.contains("the model has none") && error.contains("`rope_base`"), "{error}");
    let error = refused(&|_| Ok(()), &ModelConfig { heads: 1, ..gated.clone() })?;
    assert!(error.contains("32 channels in a head"), "{error}");
    let error = refused(&|_| Ok(()), &model([24, 24], false))?;
    assert!(error.contains("blocks.0.mlp.fc1.weight") && error.contains("SwiGLU"), "{error}");
    let error = refused(&|t| remove(t, "blocks.0.mlp.w2.bias"), &gated)?;
    assert!(error.contains("blocks.0.mlp.w1.bias"), "{error}");
    // Training leaves a bias of 0 where the mask is lost.
    let mut plain = tensors("dinov3_original")?;
    for i in 0..2 {
        let bias = plain.remove(&format!("blocks.{i}.attn.qkv.bias")).context("no bias")?;
        let mask = plain.remove(&format!("blocks.{i}.attn.qkv.bias_mask")).context("no mask")?;
        plain.insert(format!("blocks.{i}.attn.qkv.bias"), (bias * mask)?);
    }
    candle_core::safetensors::save(&plain, &path)?;
    let (vit, ..) = load(&path, &gated)?;
    assert!(errors(&vit, &tensors("dinov3_expected")?, "dinov3_plus", "24x24")? < TOLERANCE);
    Ok(())
}

#[test]
fn models_of_the_library_have_the_published_sizes() -> Result<()> {
    let (library, owners) = (bench::config::Library::default(), bench::components::Components::builtin());
    let choice = bench::config::Choice { library: &library, owners: &owners, overrides: &[] };
    for (name, millions, hidden) in [
        ("dinov3_s16", 21.6, 1536),
        ("dinov3_s16plus", 28.7, 1536),
        ("dinov3_b16", 85.7, 3072),
        ("dinov3_l16", 303.1, 4096),
        ("dinov2_g14", 1134.8, 4096),
        ("dinov2_g14_reg", 1134.8, 4096),
    ] {
        let model = choice.model(name, None)?;
        let count = bench::models::Backbones::builtin().parameter_count(&model)? as f64 / 1e6;
        assert!((count - millions).abs() < 0.06, "{name}: {count} million parameters");
        assert_eq!(model.mlp_hidden(model.width), hidden, "{name}");
        let rotary = name.starts_with("dinov3");
        assert_eq!((model.rope_base.is_some(), model.absolute_positions), (rotary, !rotary), "{name}");
        assert_eq!(model.mlp == MlpKind::Swiglu, !name.starts_with("dinov3") || name.ends_with("plus"));
    }
    Ok(())
}

/// A sandbox with the model of the golden files, and one of its kind for images of 32 pixels.
fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new();
    let golden = format!("image = [24, 24]\npatch = 4\nwidth = 32\ndepth = 2\nheads = 2\n{DINOV3}{SWIGLU}");
    sandbox.write("mine/configs/models/golden.toml", &golden);
    let small = format!("image = [32, 32]\npatch = 8\nwidth = 32\ndepth = 4\nheads = 2\n{DINOV3}{SWIGLU}");
    sandbox.write("mine/configs/models/small.toml", &small);
    sandbox
}

/// What `bench` says to a command that must fail.
fn refused(sandbox: &Sandbox, line: &str) -> String {
    let output = sandbox.run(line);
    assert!(!output.status.success(), "bench {line}");
    crate::program::stderr(&output)
}

#[test]
fn a_run_keeps_the_model_in_its_files() -> Result<()> {
    let sandbox = sandbox();
    let transfer = format!(
        "transfer --include mine --task shapes_classification --data {} --set batch=5 --workers 2 --max-steps 1 \
         --set schedule.warmup_epochs=0 --model golden --init {}",
        fixture("shapes"),
        golden("dinov3_plus").display()
    );
    for (recipe, runs) in [("finetune_demo", "tuned"), ("linear_demo", "frozen"), ("knn", "neighbours")] {
        let line = format!("{transfer} --recipe {recipe} --runs {runs}");
        let line = if recipe == "knn" {
            line.replace(" --set schedule.warmup_epochs=0", "").replace(" --max-steps 1", "")
        } else {
            line
        };
        sandbox.ok(&line);
        let run = sandbox.only_run(runs);
        let weights = run.join("model.safetensors");
        let config = std::fs::read_to_string(run.join("config.toml"))?;
        assert!(config.contains("rope_base = 100.0") && config.contains("mlp = \"swiglu\""), "{config}");
        if !weights.is_file() {
            continue;
        }
        let file = WeightFile::open(&weights)?;
        let model = file.model()?.context("no model in the metadata")?;
        assert_eq!((model.rope_base, model.mlp, model.registers), (Some(100.), MlpKind::Swiglu, 4));
        let shown = sandbox.ok(&format!("inspect {}", weights.display()));
        assert!(shown.contains("rotary positions, 4 registers, SwiGLU"), "{shown}");
        let id = run.file_name().context("no name")?.to_string_lossy().into_owned();
        sandbox.ok(&format!("eval {id} --include mine --runs {runs} --data {}", fixture("shapes")));
    }
    // Frozen weights are those of the file, and a run's own weights start another.
    let frozen = sandbox.only_run("frozen").join("model.safetensors");
    let kept: HashMap<String, Tensor> = WeightFile::open(&frozen)?.read(&Device::Cpu)?.into_iter().collect();
    for (name, tensor) in WeightFile::open(&golden("dinov3_plus"))?.read(&Device::Cpu)? {
        if let Some(kept) = kept.get(&name) {
            assert_eq!(largest_difference(&kept.to_dtype(DType::F32)?, &tensor)?, 0., "{name}");
        }
    }
    let tuned = sandbox.only_run("tuned").join("model.safetensors");
    let again = transfer.replace(&golden("dinov3_plus").display().to_string(), &tuned.display().to_string());
    sandbox.ok(&format!("{again} --recipe linear_demo --runs again"));
    let plain = format!("{again} --recipe linear_demo --set model.mlp=gelu --runs other");
    let error = refused(&sandbox, &plain);
    assert!(error.contains("SwiGLU") && error.contains("GELU"), "{error}");
    // Masked autoencoding hides patches from the encoder.
    let pretrain = format!(
        "pretrain --include mine --dataset shapes --data {} --model small --recipe mae_demo --set batch=4 \
         --set epochs=2 --set schedule.warmup_epochs=0 --set model.absolute_positions=true",
        fixture("shapes")
    );
    let error = refused(&sandbox, &pretrain);
    assert!(error.contains("`rope_base`"), "{error}");
    Ok(())
}

#[test]
fn detection_and_segmentation_train_on_rotary_positions() {
    let sandbox = sandbox();
    const NONE: &str = "--set transfer.attention.relative_position=none";
    for (task, recipe, more) in [
        ("shapes_detection", "maskrcnn_demo", NONE.to_string()),
        ("shapes_detection", "maskrcnn_demo", format!("{NONE} --set transfer.attention.window=3")),
        ("shapes_segmentation", "upernet_demo", String::new()),
        ("shapes_segmentation", "upernet_demo", "--set model.image=[32,64]".to_string()),
    ] {
        let runs = format!("runs{}", more.len() + task.len());
        let line = format!(
            "transfer --include mine --task {task} --data {} --model small --recipe {recipe} --init scratch --set epochs=1 \
             --set batch=2 --set schedule.warmup_epochs=0 --workers 2 --max-steps 2 --runs {runs} {more}",
            fixture("shapes")
        );
        sandbox.ok(&line);
        if more.starts_with(NONE) {
            let error = refused(&sandbox, &line.replace(NONE, "").replace(&runs, "refused"));
            assert!(error.contains("relative_position` to \"none\""), "{error}");
        }
    }
}
