//! A network of candle-transformers as a frozen backbone: k-NN and a linear probe, and what it is not for.

use crate::program::{Sandbox, fixture, repository};
use candle_core::{Device, Tensor};
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
    assert!(error.contains("give its weights to --init"), "{error}");
    assert!(sandbox.ok("model show resnet50").contains("frozen, needs weights"));
}
