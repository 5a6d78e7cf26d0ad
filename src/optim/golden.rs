//! The optimisers against PyTorch: `scripts/golden/optim.py`.

use super::*;
use crate::config::{Optim, OptimName, Schedule, ScheduleName};
use crate::nn::Parameter;
use crate::nn::test_tolerance::greatest;
use candle_core::{Device, Tensor, Var};
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
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/optim.safetensors");
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
        lr: None,
        betas: adam.then_some([0.9, 0.95]),
        eps: 1e-8,
        momentum: (!adam).then_some(0.9),
        trust: 1e-3,
        weight_decay: 0.05,
        weight_decay_end: None,
        layer_decay: 0.65,
        exempt: Default::default(),
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
    build_optimizer(&optim, param_groups(params, &optim, &layer_of, 2)).unwrap()
}

fn at(lr: f64) -> Step<'static> {
    Step { lr, scale: 1., weight_decay_scale: 1., ema: None }
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// Largest difference over the largest value.
fn relative_error(found: &[f32], expected: &[f32]) -> f32 {
    let differences = found.iter().zip(expected).map(|(a, b)| (a - b).abs());
    greatest(differences) / greatest(expected.iter().map(|x| x.abs()))
}

fn agrees_with_pytorch(name: OptimName, label: &str) {
    let golden = Golden::read();
    let params = golden.params();
    let mut optimizer = optimizer(name, &params);
    for (step, lr) in golden.learning_rates().into_iter().enumerate() {
        optimizer.step(&golden.gradients(&params, step), at(lr)).unwrap();
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
        warmup_ratio: None,
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
                optimizer.step(&golden.gradients(params, step), at(lr)).unwrap();
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

/// Three chunks and a rest, a short tensor and an empty one, with gradients.
fn waves() -> (Vec<Parameter>, Gradients) {
    let wave = |i: usize, f: f32| (i as f32 * f).sin();
    let parameter = |(count, name): (usize, &str)| {
        let values: Vec<f32> = (0..count).map(|i| wave(i, 0.1)).collect();
        let var = Var::from_vec(values, count, &Device::Cpu).unwrap();
        Parameter { name: name.into(), var, trainable: true }
    };
    let params = [(3 * storage::CHUNK + 77, "long"), (21, "short"), (0, "empty")].map(parameter);
    let mut store = params[0].var.sum_all().unwrap().backward().unwrap();
    for p in &params {
        let gradient: Vec<f32> = (0..p.var.elem_count()).map(|i| wave(i, 0.7)).collect();
        store.insert(&p.var, Tensor::new(&gradient[..], &Device::Cpu).unwrap());
    }
    let gradients = Gradients::collect(&mut store, &params).unwrap();
    (params.into(), gradients)
}

/// Bits of all parameters and averages after two steps.
fn two_steps(name: OptimName, scale: f64) -> Vec<u32> {
    let (params, gradients) = waves();
    let mut ema = Ema::new(&params, 0.75).unwrap();
    let mut optimizer = optimizer(name, &params);
    for _ in 0..2 {
        optimizer
            .step(&gradients, Step { lr: 0.1, scale, weight_decay_scale: 1., ema: Some(&mut ema) })
            .unwrap();
    }
    let averages = ema.state().into_iter().map(|(_, average)| average);
    let tensors = params.iter().map(|p| p.var.as_tensor().clone()).chain(averages);
    tensors.flat_map(|t| values(&t)).map(f32::to_bits).collect()
}

const ALL: [OptimName; 3] = [OptimName::Adamw, OptimName::Sgd, OptimName::Lars];

/// A step whose weight decay is scaled is one of an optimiser with that weight decay.
#[test]
fn weight_decay_is_scaled_for_one_step() {
    for name in ALL {
        let run = |weight_decay: f64, weight_decay_scale: f64| {
            let (mut params, gradients) = waves();
            params[0].var = Var::from_tensor(&params[0].var.reshape((19, ())).unwrap()).unwrap();
            let mut store = params[0].var.sum_all().unwrap().backward().unwrap();
            for (p, (_, gradient)) in params.iter().zip(gradients.iter()) {
                store.insert(&p.var, gradient.unwrap().reshape(p.var.shape()).unwrap());
            }
            let gradients = Gradients::collect(&mut store, &params).unwrap();
            let optim = Optim { weight_decay, ..config(name) };
            let mut optimizer = build_optimizer(&optim, param_groups(&params, &optim, &|_| 0, 0)).unwrap();
            optimizer.step(&gradients, Step { lr: 0.1, scale: 1., weight_decay_scale, ema: None }).unwrap();
            params.iter().flat_map(|p| values(&p.var)).map(f32::to_bits).collect::<Vec<_>>()
        };
        assert_eq!(run(0.5, 0.25), run(0.125, 1.), "{name:?}");
        assert_ne!(run(0.5, 0.25), run(0.5, 1.), "{name:?}");
    }
}

#[test]
fn a_step_has_the_same_bits_for_any_number_of_threads() {
    for name in ALL {
        let with = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| two_steps(name, 0.3))
        };
        let one = with(1);
        assert!([2, 3, 5].map(with).iter().all(|bits| *bits == one), "{name:?}");
    }
}

#[test]
fn averages_and_scaled_gradients_are_those_of_separate_passes() {
    for name in ALL {
        let (params, gradients) = waves();
        let mut scaled = params[0].var.sum_all().unwrap().backward().unwrap();
        for (p, (_, gradient)) in params.iter().zip(gradients.iter()) {
            scaled.insert(&p.var, (gradient.unwrap() * 0.3).unwrap());
        }
        let scaled = Gradients::collect(&mut scaled, &params).unwrap();
        let mut averages: Vec<Vec<f32>> = params.iter().map(|p| values(&p.var)).collect();
        let mut optimizer = optimizer(name, &params);
        for _ in 0..2 {
            optimizer.step(&scaled, at(0.1)).unwrap();
            for (average, p) in averages.iter_mut().zip(&params) {
                let pairs = average.iter_mut().zip(values(&p.var));
                pairs.for_each(|(e, p)| *e = 0.75 * *e + 0.25 * p);
            }
        }
        let expected = params.iter().map(|p| values(&p.var)).chain(averages).flatten();
        assert!(two_steps(name, 0.3).into_iter().eq(expected.map(f32::to_bits)), "{name:?}");
    }
}

#[test]
fn parameters_that_stay_are_averaged_too() {
    let golden = Golden::read();
    let params = golden.params();
    let mut ema = Ema::new(&params, 0.75).unwrap();
    params[1].var.set(&params[1].var.zeros_like().unwrap()).unwrap();
    let loss = params[0].var.sum_all().unwrap();
    let gradients = Gradients::collect(&mut loss.backward().unwrap(), &params).unwrap();
    let step = Step { lr: 0.1, scale: 1., weight_decay_scale: 1., ema: Some(&mut ema) };
    optimizer(OptimName::Sgd, &params).step(&gradients, step).unwrap();
    let initial = |i: usize| values(&golden.0[&format!("initial.{}", NAMES[i])]);
    let average = |i: usize| values(&ema.state()[i].1);
    assert_eq!(average(1), initial(1).iter().map(|x| 0.75 * x).collect::<Vec<_>>());
    assert_eq!(average(2), initial(2));
    let moved = initial(0).into_iter().zip(values(&params[0].var)).map(|(e, p)| 0.75 * e + 0.25 * p);
    assert_eq!(average(0), moved.collect::<Vec<_>>());
}

#[test]
fn a_parameter_without_gradient_stays_and_gradients_of_others_are_refused() {
    let golden = Golden::read();
    let params = golden.params();
    let mut optimizer = optimizer(OptimName::Adamw, &params);
    let loss = params[0].var.sum_all().unwrap();
    let gradients = Gradients::collect(&mut loss.backward().unwrap(), &params).unwrap();
    assert_eq!(gradients.missing().len(), 5);
    optimizer.step(&gradients, at(0.1)).unwrap();
    assert_eq!(values(&params[4].var), values(&golden.0["initial.head.weight"]));
    assert_ne!(values(&params[0].var), values(&golden.0["initial.pos_embed"]));
    let fewer = golden.gradients(&params[1..], 0);
    assert!(optimizer.step(&fewer, at(0.1)).unwrap_err().to_string().contains("6 parameters got 5"));
    let mut store = params[4].var.sum_all().unwrap().backward().unwrap();
    store.insert(&params[4].var, params[5].var.as_tensor().clone());
    let other = Gradients::collect(&mut store, &params).unwrap();
    let error = optimizer.step(&other, at(0.1)).unwrap_err().to_string();
    assert!(error.contains("`head.weight` is") && error.contains("its gradient"), "{error}");
}

/// As in `lars.py` of facebookresearch/mae: where a norm is 0, the gradient is not rescaled.
#[test]
fn lars_steps_from_zero_and_stays_without_a_gradient() {
    let step = |start: [[f32; 2]; 2], slope: f64| {
        let var = Var::from_tensor(&Tensor::new(&start, &Device::Cpu).unwrap()).unwrap();
        let params = [Parameter { name: "head.weight".into(), var: var.clone(), trainable: true }];
        let optim = Optim { weight_decay: 0., ..config(OptimName::Lars) };
        let mut optimizer = build_optimizer(&optim, param_groups(&params, &optim, &|_| 0, 0)).unwrap();
        let loss = (var.as_tensor() * slope).unwrap().sum_all().unwrap();
        let gradients = Gradients::collect(&mut loss.backward().unwrap(), &params).unwrap();
        optimizer.step(&gradients, at(0.5)).unwrap();
        values(&var)
    };
    assert_eq!(step([[0.; 2]; 2], 3.), [-1.5; 4]);
    assert_eq!(step([[2., 0.], [1., -1.]], 0.), [2., 0., 1., -1.]);
}

#[test]
fn keys_of_another_optimiser_are_refused() {
    let error =
        |optim: &Optim| build_optimizer(optim, vec![]).err().map(|e| e.to_string()).unwrap_or_default();
    let mut adamw = config(OptimName::Adamw);
    adamw.momentum = Some(0.9);
    assert!(error(&adamw).contains("does not read the key `momentum`"));
    let mut sgd = config(OptimName::Sgd);
    sgd.momentum = None;
    assert!(error(&sgd).contains("needs the key `momentum`"));
}
