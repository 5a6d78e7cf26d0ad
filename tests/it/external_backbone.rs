//! Backbones beside the ViT: a frozen network of candle-transformers with k-NN and a linear probe, and one of another crate.

use crate::program::{Sandbox, fixture, repository};
use bench::config::ModelConfig;
use bench::models::{Backbone, BackboneKind, BackboneSpec, BackboneUsage, Backbones, Features, NoOptions};
use bench::nn::{Linear, Params, Pass};
use bench::ops::adaptive_avg_pool2d;
use bench::weights::load_initial;
use candle_core::{Device, Tensor};
use candle_nn::VarBuilder;
use std::collections::{BTreeMap, HashMap};

/// Random weights of a ResNet-18 in the names of torchvision.
fn weights(sandbox: &Sandbox) -> String {
    let shapes = std::fs::read_to_string(repository().join("tests/golden/external.json")).unwrap();
    let shapes: BTreeMap<String, BTreeMap<String, Vec<usize>>> = serde_json::from_str(&shapes).unwrap();
    let random = |(name, shape): (&String, &Vec<usize>)| {
        let fan_in: usize = shape[1..].iter().product();
        let (mean, deviation) = match shape.len() {
            1 if name.ends_with("weight") || name.ends_with("var") => (1., 0.),
            1 => (0., 0.),
            _ => (0., (2. / fan_in as f32).sqrt()),
        };
        (name.clone(), Tensor::randn(mean, deviation, shape.as_slice(), &Device::Cpu).unwrap())
    };
    let mut tensors: HashMap<String, Tensor> = shapes["resnet18"].iter().map(random).collect();
    tensors.insert(
        "fc.weight".into(),
        Tensor::zeros((1000, 512), candle_core::DType::F32, &Device::Cpu).unwrap(),
    );
    let path = sandbox.path("resnet18.safetensors");
    candle_core::safetensors::save(&tensors, &path).unwrap();
    path.display().to_string()
}

fn transfer(recipe: &str) -> String {
    format!(
        "transfer --task shapes_classification --data {} --model resnet18 --set model.image=[64,64] \
         --set epochs=2 --set batch=5 --workers 2 {recipe}",
        fixture("shapes")
    )
}

#[test]
fn an_external_network_serves_probes_and_says_that_it_is_frozen() {
    let sandbox = Sandbox::new();
    let init = weights(&sandbox);
    let linear = "--recipe linear_demo --set schedule.warmup_epochs=0";
    for (runs, recipe) in [("knn", "--recipe knn"), ("linear", linear)] {
        sandbox.ok(&transfer(&format!("{recipe} --init {init} --runs {runs}")));
        let run = sandbox.only_run(runs);
        let record = std::fs::read_to_string(run.join("run.json")).unwrap();
        assert!(record.contains("frozen, not trainable here") && record.contains("\"top1\""), "{record}");
        let id = run.file_name().unwrap().to_str().unwrap();
        sandbox.ok(&format!("eval {id} --runs {runs} --data {}", fixture("shapes")));
    }
    let error = sandbox.fails(2, &transfer(&format!("--recipe finetune_demo --init {init}")));
    assert!(error.contains("resnet18") && error.contains("not trainable here"), "{error}");
    let error = sandbox.fails(1, &transfer(&format!("{linear} --init scratch")));
    assert!(error.contains("pass its weights with --init"), "{error}");
    assert!(sandbox.ok("model show resnet50").contains("frozen, needs weights"));
}

/// A backbone as another crate would write it: one linear map of the mean colour of each patch.
struct PatchMean {
    spec: BackboneSpec,
    map: Linear,
}

impl Backbone for PatchMean {
    fn spec(&self) -> &BackboneSpec {
        &self.spec
    }

    fn forward(&self, images: &Tensor, taps: &[usize], _: &mut Pass) -> candle_core::Result<Features> {
        let (_, _, h, w) = images.dims4()?;
        let grid = (h / self.spec.patch, w / self.spec.patch);
        let means = adaptive_avg_pool2d(images, grid)?.flatten_from(2)?; // [B, C, N]
        let tokens = self.map.forward(&means.transpose(1, 2)?.contiguous()?)?;
        Ok(Features { taps: vec![tokens; taps.len()], cls: None, grid })
    }

    fn layer_of(&self, _: &str) -> usize {
        1
    }
}

impl BackboneKind for PatchMean {
    const NAME: &'static str = "patch_mean";
    type Options = NoOptions;

    fn build(
        config: &ModelConfig,
        _: &NoOptions,
        _: BackboneUsage,
        vb: VarBuilder<'static>,
        _: Option<&[(String, Tensor)]>,
    ) -> candle_core::Result<Box<dyn Backbone>> {
        let ModelConfig { width, depth, patch, channels, .. } = *config;
        let spec = BackboneSpec { width, depth, patch };
        Ok(Box::new(Self { spec, map: Linear::new(channels, width, vb.pp("map"))? }))
    }
}

#[test]
fn a_backbone_of_another_crate_takes_its_initial_weights_by_name() {
    let model: ModelConfig = bench::config::parse(
        "image = [8, 8]\npatch = 4\nwidth = 2\ndepth = 1\nbackbone = \"patch_mean\"",
        "model",
    )
    .unwrap();
    let backbones = Backbones::builtin().with::<PatchMean>();
    let params = Params::new(0, &Device::Cpu);
    let head = Linear::with_std(2, 2, 0.01, params.builder().pp("head")).unwrap();
    let backbone = backbones.build(&model, BackboneUsage::default(), params.builder(), None).unwrap();
    let ones = |shape: &[usize]| Tensor::ones(shape, candle_core::DType::F32, &Device::Cpu).unwrap();
    let mut tensors = vec![
        ("map.weight".to_string(), ones(&[2, 3])),
        ("map.bias".to_string(), ones(&[2])),
        ("head.weight".to_string(), ones(&[5, 2])),
    ];
    let report = load_initial(&backbones, &params, &tensors, &model, None).unwrap();
    assert_eq!((report.loaded, report.left_out), (2, vec!["head.weight".to_string()]));
    let features = backbone.forward(&ones(&[1, 3, 8, 8]), &[0], &mut Pass::Eval).unwrap();
    let tokens = features.taps[0].flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert_eq!(tokens, [4.; 8], "the mean colour 1 of three channels, and the bias");
    assert_eq!(head.forward(&features.taps[0]).unwrap().dims(), [1, 4, 2]);

    tensors[1].1 = ones(&[3]);
    let error = load_initial(&backbones, &params, &tensors, &model, None).unwrap_err().to_string();
    assert!(error.contains("`map.bias` has shape [3] in the weights and [2] in the model"), "{error}");
    tensors.remove(1);
    let error = load_initial(&backbones, &params, &tensors, &model, None).unwrap_err().to_string();
    assert!(error.contains("the model needs `map.bias`"), "{error}");
}
