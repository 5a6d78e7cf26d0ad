//! Weight files of whole segmentation and detection models of other programs (`scripts/golden/dense_dialects.py`).

use crate::key_mappings::largest_difference;
use crate::program::{Sandbox, fixture, repository};
use anyhow::Result;
use bench::config::{AttentionConfig, GlobalBlocks, ModelConfig, RelativePosition};
use bench::data::{Batch, DatasetInfo, Raster, SampleId, SourceTransform};
use bench::kinds::{detection, segmentation};
use bench::models::{Backbone as _, BackboneSpec, BackboneUsage, Vit};
use bench::nn::{Params, Pass};
use bench::task::{Head as _, Task as _};
use bench::weights::{Contents, WeightFile, inspect_weights, load_backbone, load_exact, load_model};
use candle_core::{DType, Device, Tensor};
use std::collections::HashMap;
use std::path::PathBuf;

fn golden(name: &str) -> PathBuf {
    repository().join("tests/golden/dialects/dense").join(name)
}

fn expected() -> Result<HashMap<String, Tensor>> {
    Ok(candle_core::safetensors::load(golden("expected.safetensors"), &Device::Cpu)?)
}

fn model(depth: usize, more: &str) -> ModelConfig {
    let sizes =
        format!("image = [48, 48]\npatch = 8\nwidth = 8\ndepth = {depth}\nheads = 2\nnorm_eps = 1e-6\n");
    let decoder = "decoder = { width = 8, depth = 1, heads = 2 }\n";
    bench::config::parse(&format!("{sizes}{more}{decoder}"), "test").unwrap()
}

const BEIT: &str = "relative_positions = true\nlayer_scale = 0.3\nkey_bias = false\n";

fn classes(count: usize) -> DatasetInfo {
    DatasetInfo { classes: (0..count).map(|k| k.to_string()).collect(), ..DatasetInfo::default() }
}

/// UperNet on BEiT, in the names of transformers (two models), of mmsegmentation and of unilm: losses and labels.
#[test]
fn segmenters_compute_what_transformers_computes() -> Result<()> {
    let expected = expected()?;
    for (file, name, depth) in [
        ("upernet.safetensors", "upernet", 4),
        ("unilm.pth", "upernet", 4),
        ("mmseg.pth", "upernet", 4),
        ("beit.safetensors", "beit", 5),
    ] {
        let (params, model) = (Params::new(0, &Device::Cpu), model(depth, BEIT));
        let training = "taps = [0, 1, 2, 3]\ndropout = 0.0\nchannels = 8\n\
                        auxiliary = { weight = 0.4, channels = 6 }\n";
        let task = segmentation::SegmentationTask::new(
            segmentation::SegmentationOptions::default(),
            bench::config::parse(training, "test")?,
            &classes(5),
        )?;
        let head = task.head(&BackboneSpec { width: 8, depth, patch: 8 }, params.builder())?;
        let vit = Vit::new(&model, BackboneUsage::default(), params.builder())?;
        load_exact(&params, &WeightFile::open(&golden(file))?.read(&Device::Cpu)?)?;
        let features = vit.forward(&expected["images"], head.taps(), &mut Pass::Eval)?;

        let labels: Vec<Vec<u8>> = expected["labels"].flatten_from(1)?.to_vec2()?;
        let raster = |labels: &Vec<u8>| Raster::new(48, 48, labels.iter().map(|k| u16::from(*k)).collect());
        let batch = Batch {
            ids: vec![SampleId::new("0"), SampleId::new("1")],
            images: expected["images"].clone(),
            views: vec![],
            source_transforms: vec![SourceTransform::new((48, 48)); 2],
            targets: labels.iter().map(|l| segmentation::SegmentationTarget::new(raster(l), None)).collect(),
        };
        let losses = head.loss(&features, &batch, &mut Pass::Eval)?;
        for ((_, loss), part) in losses.iter().zip(["decode", "auxiliary"]) {
            let error = largest_difference(&loss.reshape(1)?, &expected[&format!("{name}.{part}")])?;
            assert!(error < 1e-4, "{file}, {part}: {error}");
        }
        let labels: Vec<Vec<u8>> = expected[&format!("{name}.labels")].flatten_from(1)?.to_vec2()?;
        let margin: Vec<Vec<f32>> = expected[&format!("{name}.margin")].flatten_from(1)?.to_vec2()?;
        for (i, found) in head.predict(&features, &batch.source_transforms)?.iter().enumerate() {
            let pairs = found.labels.iter().zip(&labels[i]).zip(&margin[i]);
            let wrong = pairs.filter(|((a, b), margin)| **a != u16::from(**b) && **margin > 1e-4).count();
            assert_eq!(wrong, 0, "{file}, image {i}");
        }
    }
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

fn detector(params: &Params) -> Result<(Vit, detection::DetectionHead)> {
    let training = "pyramid = \"simple\"\nfpn_norm = \"layer\"\nhead_norm = \"layer\"\nchannels = 8\n\
                    rpn_convs = 2\nbox_convs = 4\nbox_width = 16\nmask_convs = 4\n";
    let task = detection::DetectionTask::new(
        detection::DetectionOptions::default(),
        bench::config::parse(training, "test")?,
        &classes(3),
    )?;
    let head = task.head(&BackboneSpec { width: 8, depth: 4, patch: 8 }, params.builder())?;
    Ok((Vit::new(&model(4, ""), windowed(), params.builder())?, head))
}

/// Every tensor of detectron2's ViTDet is loaded, and the backbone computes the same as that of transformers, with position
/// embeddings of another grid.
#[test]
fn vitdet_is_read_whole() -> Result<()> {
    let (params, expected) = (Params::new(0, &Device::Cpu), expected()?);
    let (vit, head) = detector(&params)?;
    let file = WeightFile::open(&golden("vitdet.pth"))?;
    assert_eq!((file.source_program(), file.unread().len()), (Some("detectron2's ViTDet"), 0));
    load_model(&params, &file.read(&Device::Cpu)?, &model(4, ""))?;
    let features = vit.forward(&expected["images"], head.taps(), &mut Pass::Eval)?;
    let map = features.taps[0].transpose(1, 2)?.reshape((2, 8, 6, 6))?;
    let error = largest_difference(&map, &expected["vitdet.map"])?;
    assert!(error < 1e-4, "{error}");

    // Tensors with equal shapes are not swapped.
    let source = candle_core::pickle::PthTensors::new(golden("vitdet.pth"), Some("model"))?;
    for (theirs, ours) in [
        ("proposal_generator.rpn_head.conv.conv1.weight", "rpn.head.conv.1.0.weight"),
        ("roi_heads.box_head.conv3.weight", "roi_heads.box_head.2.0.weight"),
        ("roi_heads.box_head.conv4.norm.bias", "roi_heads.box_head.3.1.bias"),
        ("roi_heads.mask_head.mask_fcn2.norm.weight", "roi_heads.mask_head.1.1.weight"),
        ("roi_heads.mask_head.mask_fcn1.weight", "roi_heads.mask_head.0.0.weight"),
        ("backbone.simfp_4.1.weight", "pyramid.simfp_4.1.weight"),
    ] {
        let (found, theirs) = (params.get(ours).unwrap().var, source.get(theirs)?.unwrap());
        assert_eq!(largest_difference(&found, &theirs)?, 0., "{ours}");
    }
    Ok(())
}

#[test]
fn heads_are_left_out_of_a_backbone_and_strange_tensors_are_named() -> Result<()> {
    let params = Params::new(0, &Device::Cpu);
    let (file, model) = (WeightFile::open(&golden("vitdet.pth"))?, model(4, ""));
    let vit = Vit::new(&model, windowed(), params.builder())?;
    let mut tensors = file.read(&Device::Cpu)?;
    let report = load_backbone(&params, &tensors, &model, None)?;
    assert_eq!((report.loaded, report.new, report.resized), (params.all().len(), 0, Some(((4, 4), (6, 6)))));
    assert!(report.left_out.iter().any(|name| name == "roi_heads.box_head.5.weight"));
    let features = vit.forward(&expected()?["images"], &[3], &mut Pass::Eval)?;
    let map = features.taps[0].transpose(1, 2)?.reshape((2, 8, 6, 6))?;
    assert!(largest_difference(&map, &expected()?["vitdet.map"])? < 1e-4);

    // A cascade has three box heads, which are not read.
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("cascade.safetensors");
    let source = candle_core::pickle::PthTensors::new(golden("vitdet.pth"), Some("model"))?;
    let mut cascade = HashMap::new();
    for name in source.tensor_infos().keys() {
        cascade.insert(name.replace("box_head.", "box_head.0."), source.get(name)?.unwrap());
    }
    candle_core::safetensors::save(&cascade, &path)?;
    let file = WeightFile::open(&path)?;
    assert!(
        file.unread().iter().any(|name| name == "roi_heads.box_head.0.fc1.weight"),
        "{:?}",
        file.unread()
    );
    let params = Params::new(0, &Device::Cpu);
    Vit::new(&model, windowed(), params.builder())?;
    assert_eq!(load_backbone(&params, &file.read(&Device::Cpu)?, &model, None)?.loaded, params.all().len());
    tensors.retain(|(name, _)| name != "rpn.head.cls_logits.bias");
    tensors.push(("surplus".into(), Tensor::zeros(1, DType::F32, &Device::Cpu)?));
    let whole = Params::new(0, &Device::Cpu);
    detector(&whole)?;
    let error = load_model(&whole, &tensors, &model).unwrap_err().to_string();
    assert!(error.contains("`surplus`"), "{error}");
    tensors.pop();
    let error = load_model(&whole, &tensors, &model).unwrap_err().to_string();
    assert!(error.contains("needs `rpn.head.cls_logits.bias`"), "{error}");
    Ok(())
}

#[test]
fn whole_models_are_inspected() -> Result<()> {
    assert_eq!(inspect_weights(&golden("mmseg.pth"))?.contents, Contents::Segmenter);
    assert_eq!(inspect_weights(&golden("upernet.safetensors"))?.contents, Contents::Segmenter);
    let found = inspect_weights(&golden("vitdet.pth"))?;
    assert_eq!((found.contents, found.model.unwrap().width), (Contents::Detector, 8));
    let sandbox = Sandbox::new();
    let error = sandbox
        .fails(2, &format!("convert {} --to hf --out model.safetensors", golden("vitdet.pth").display()));
    assert!(error.contains("detector") && error.contains("only a ViT with a class token"), "{error}");
    Ok(())
}

/// Weights with the names of other programs give the same scores as those of the run.
#[test]
fn a_run_is_evaluated_with_weights_in_the_names_of_others() -> Result<()> {
    let (sandbox, data) = (Sandbox::new(), fixture("shapes"));
    sandbox.ok(&format!(
        "transfer --task shapes_segmentation --model vit_tiny_test --recipe upernet_demo --init scratch --set epochs=1 --set batch=2 \
         --set schedule.warmup_epochs=0 --workers 2 --data {data}"
    ));
    let run = sandbox.only_run("runs");
    let tensors = candle_core::safetensors::load(run.join("model.safetensors"), &Device::Cpu)?;
    let renamed: HashMap<_, _> = tensors
        .into_iter()
        .map(|(name, tensor)| match name.contains("_head.") {
            true => (name, tensor),
            false => (format!("backbone.{name}"), tensor),
        })
        .collect();
    candle_core::safetensors::save(&renamed, sandbox.path("unilm.safetensors"))?;
    assert!(sandbox.ok("inspect unilm.safetensors").contains("microsoft/unilm's UperNet"));
    let line = format!("eval {} --data {data} --json", run.display());
    let scores = |line: &str| -> Result<serde_json::Value> {
        Ok(serde_json::from_str::<serde_json::Value>(&sandbox.ok(line))?["scores"].clone())
    };
    assert_eq!(scores(&line)?, scores(&format!("{line} --weights unilm.safetensors"))?);
    let error = sandbox.fails(1, &format!("{line} --weights {}", golden("mmseg.pth").display()));
    assert!(error.contains("do not fit run"), "{error}");
    Ok(())
}
