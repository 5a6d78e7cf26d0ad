//! The optimisers against PyTorch: `scripts/golden/optim.py`.

use super::*;
use crate::config::{Schedule, ScheduleName};
use crate::nn::Parameter;
use candle_core::{Device, Var};
use std::collections::HashMap;

const NAMES: [&str; 6] = [
    "pos_embed",
    "blocks.0.attn.qkv.weight",
    "blocks.0.attn.qkv.bias",
    "blocks.0.norm1.weight",
    "head.weight",
    "head.bias",
];
const STEPS: usize = 100;

struct Golden(HashMap<String, Tensor>);

impl Golden {
    fn read() -> Self {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/optim.safetensors");
        Self(candle_core::safetensors::load(path, &Device::Cpu).unwrap())
    }

    fn params(&self) -> Vec<Parameter> {
        let parameter = |name: &str| Parameter {
            name: name.into(),
            var: Var::from_tensor(&self.0[&format!("initial.{name}")]).unwrap(),
            trainable: true,
        };
        NAMES.map(parameter).into()
    }

    /// The recorded gradients of one step, as those of Σ p·gradient.
    fn gradients(&self, params: &[Parameter], step: usize) -> Gradients {
        let term = |p: &Parameter| {
            let gradient = self.0[&format!("gradient.{}", p.name)].get(step).unwrap();
            (p.var.as_tensor() * gradient).unwrap().sum_all().unwrap()
        };
        let loss = params.iter().map(term).reduce(|a, b| (a + b).unwrap()).unwrap();
        Gradients::collect(&mut loss.backward().unwrap(), params).unwrap()
    }

    fn learning_rates(&self) -> Vec<f64> {
        self.0["learning_rate"].to_vec1().unwrap()
    }
}

fn config(name: OptimName) -> Optim {
    let adam = name == OptimName::Adamw;
    Optim {
        name,
        base_lr: 0.02,
        betas: adam.then_some([0.9, 0.95]),
        eps: 1e-8,
        momentum: (!adam).then_some(0.9),
        trust: 1e-3,
        weight_decay: 0.05,
        layer_decay: 0.65,
        no_decay: vec!["pos_embed".into()],
    }
}

fn optimizer(name: OptimName, params: &[Parameter]) -> Box<dyn Optimizer> {
    let layer_of = |name: &str| match name.split('.').next() {
        Some("pos_embed") => 0,
        Some("blocks") => 1,
        _ => 2,
    };
    let optim = config(name);
    build(&optim, slots(params, &optim, &layer_of, 2)).unwrap()
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// Largest difference over the largest value.
fn relative_error(found: &[f32], expected: &[f32]) -> f32 {
    let largest = expected.iter().fold(0f32, |m, x| m.max(x.abs()));
    found.iter().zip(expected).fold(0f32, |m, (a, b)| m.max((a - b).abs())) / largest
}

fn agrees_with_pytorch(name: OptimName, label: &str) {
    let golden = Golden::read();
    let params = golden.params();
    let mut optimizer = optimizer(name, &params);
    for (step, lr) in golden.learning_rates().into_iter().enumerate() {
        optimizer.step(&golden.gradients(&params, step), lr).unwrap();
        for p in &params {
            let Some(expected) = golden.0.get(&format!("{label}.{}.{}", step + 1, p.name)) else { continue };
            // Both compute in f32, in another order: the difference grows slowly with the steps.
            let error = relative_error(&values(&p.var), &values(expected));
            assert!(error < 1e-5, "{label}, step {}, {}: {error:e}", step + 1, p.name);
        }
    }
    let moved =
        relative_error(&values(&params[1].var), &values(&golden.0["initial.blocks.0.attn.qkv.weight"]));
    assert!(moved > 1e-3, "the test moves the weights: {moved:e}");
}

#[test]
fn adamw_agrees_with_pytorch() {
    agrees_with_pytorch(OptimName::Adamw, "adamw");
}

#[test]
fn sgd_agrees_with_pytorch() {
    agrees_with_pytorch(OptimName::Sgd, "sgd");
}

#[test]
fn lars_agrees_with_its_formula_in_pytorch() {
    agrees_with_pytorch(OptimName::Lars, "lars");
}

#[test]
fn the_cosine_is_that_of_the_reference() {
    let schedule = Schedule {
        name: ScheduleName::Cosine,
        warmup_epochs: 3.,
        warmup_from: 0.,
        min_lr: 1e-4,
        milestones: vec![],
        gamma: 0.1,
        power: 1.,
    };
    let schedule = LrSchedule::new(&schedule, 0.02, 5, STEPS);
    for (step, expected) in Golden::read().learning_rates().into_iter().enumerate() {
        assert!((schedule.at(step) - expected).abs() < 1e-15, "step {step}");
    }
}

#[test]
fn a_resumed_run_has_the_same_bits() {
    let golden = Golden::read();
    let rates = golden.learning_rates();
    for name in [OptimName::Adamw, OptimName::Sgd, OptimName::Lars] {
        let run = |params: &[Parameter], optimizer: &mut dyn Optimizer, from: usize, to: usize| {
            for (step, &lr) in rates.iter().enumerate().take(to).skip(from) {
                optimizer.step(&golden.gradients(params, step), lr).unwrap();
            }
            params.iter().map(|p| values(&p.var)).collect::<Vec<_>>()
        };
        let (through, stopped) = (golden.params(), golden.params());
        let expected = run(&through, &mut *optimizer(name, &through), 0, STEPS);

        let mut first = optimizer(name, &stopped);
        run(&stopped, &mut *first, 0, 40);
        let saved = first.state();
        let mut second = optimizer(name, &stopped);
        let lookup = |name: &str| saved.iter().find(|(n, _)| n == name).map(|(_, t)| t.clone());
        second.load_state(&lookup).unwrap();
        assert_eq!(run(&stopped, &mut *second, 40, STEPS), expected, "{name:?}");
        let error = second.load_state(&|_| None).unwrap_err().to_string();
        assert!(error.contains("in the saved state"), "{error}");
    }
}

#[test]
fn large_tensors_are_updated_like_small_ones() {
    // Three chunks and a rest, against the same values in pieces below one chunk.
    let count = 3 * storage::CHUNK + 77;
    let wave = |i: usize, f: f32| (i as f32 * f).sin();
    let whole: Vec<f32> = (0..count).map(|i| wave(i, 0.1)).collect();
    let gradient: Vec<f32> = (0..count).map(|i| wave(i, 0.7)).collect();
    let step = |values: &[f32], gradient: &[f32]| {
        let var = Var::from_slice(values, values.len(), &Device::Cpu).unwrap();
        let params = [Parameter { name: "w".into(), var, trainable: true }];
        let mut store = params[0].var.sum_all().unwrap().backward().unwrap();
        store.insert(&params[0].var, Tensor::new(gradient, &Device::Cpu).unwrap());
        let gradients = Gradients::collect(&mut store, &params).unwrap();
        optimizer(OptimName::Adamw, &params).step(&gradients, 0.1).unwrap();
        self::values(&params[0].var)
    };
    let pieces: Vec<f32> =
        whole.chunks(1000).zip(gradient.chunks(1000)).flat_map(|(v, g)| step(v, g)).collect();
    assert_eq!(step(&whole, &gradient), pieces);
}

#[test]
fn a_parameter_without_gradient_stays_and_foreign_gradients_are_refused() {
    let golden = Golden::read();
    let params = golden.params();
    let mut optimizer = optimizer(OptimName::Adamw, &params);
    let loss = params[0].var.sum_all().unwrap();
    let gradients = Gradients::collect(&mut loss.backward().unwrap(), &params).unwrap();
    assert_eq!(gradients.missing().len(), 5);
    optimizer.step(&gradients, 0.1).unwrap();
    assert_eq!(values(&params[4].var), values(&golden.0["initial.head.weight"]));
    assert_ne!(values(&params[0].var), values(&golden.0["initial.pos_embed"]));
    let fewer = golden.gradients(&params[1..], 0);
    assert!(optimizer.step(&fewer, 0.1).unwrap_err().to_string().contains("6 parameters got 5"));
}

#[test]
fn keys_of_another_optimiser_are_refused() {
    let error = |optim: &Optim| build(optim, vec![]).err().map(|e| e.to_string()).unwrap_or_default();
    let mut adamw = config(OptimName::Adamw);
    adamw.momentum = Some(0.9);
    assert!(error(&adamw).contains("does not read the key `momentum`"));
    let mut sgd = config(OptimName::Sgd);
    sgd.momentum = None;
    assert!(error(&sgd).contains("needs the key `momentum`"));
}
