//! Milliseconds of an optimiser step over 47 million parameters in 200 tensors, with 1 and 2
//! threads: alone, with clipping of the gradient norm, and with the moving average besides. Below each line
//! stands the limit: the time to copy as many bytes as must be read and written.
//! `cargo bench --bench optim`; `scripts/pytorch/optim.py` is the same in PyTorch.

#[path = "limits/copies.rs"]
mod copies;

use bench::config::{Optim, OptimName};
use bench::nn::Parameter;
use bench::optim::{Ema, Gradients, Step, build_optimizer, clip_factor, param_groups};
use candle_core::{Device, Tensor, Var};
use copies::copy_seconds;
use std::error::Error;
use std::time::{Duration, Instant};

/// 100 matrices and 100 biases.
const SHAPES: [&[usize]; 2] = [&[612, 768], &[768]];
const PAIRS: usize = 100;
const RUNS: usize = 10;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> Result<()> {
    bench::process::prepare_process();
    let params = parameters()?;
    let count: usize = params.iter().map(|p| p.var.elem_count()).sum();
    println!("{count} parameters in {} tensors, fastest of {RUNS}, ms", params.len());
    println!("{:>16}{:>9}{:>9}{:>9}{:>9}{:>9}", "threads", "norm", "step", "+ clip", "+ EMA", "all");
    for name in [OptimName::Adamw, OptimName::Sgd, OptimName::Lars] {
        for threads in [1, 2] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
            pool.install(|| row(name, &params, threads))?;
        }
    }
    Ok(())
}

fn parameters() -> Result<Vec<Parameter>> {
    let shapes = (0..2 * PAIRS).map(|i| (i, SHAPES[i % 2]));
    let parameter = |(i, shape): (usize, &[usize])| {
        Ok(Parameter { name: format!("p{i}"), var: Var::from_tensor(&wave(shape)?)?, trainable: true })
    };
    shapes.map(parameter).collect()
}

fn wave(shape: &[usize]) -> Result<Tensor> {
    let count = shape.iter().product::<usize>() as f32;
    Ok((Tensor::arange(0f32, count, &Device::Cpu)?.sin()? * 0.05)?.reshape(shape)?)
}

fn row(name: OptimName, params: &[Parameter], threads: usize) -> Result<()> {
    let adam = name == OptimName::Adamw;
    let optim = Optim {
        name,
        base_lr: 1e-4,
        lr: None,
        betas: adam.then_some([0.9, 0.95]),
        eps: 1e-8,
        momentum: (!adam).then_some(0.9),
        trust: 1e-3,
        weight_decay: 0.05,
        weight_decay_end: None,
        layer_decay: 1.,
        exempt: Default::default(),
        no_decay: vec![],
    };
    let mut optimizer = build_optimizer(&optim, param_groups(params, &optim, &|_| 0, 0))?;
    let mut ema = Ema::new(params, 0.999)?;
    let mut store = params[0].var.sum_all()?.backward()?;
    for p in params {
        store.insert(&p.var, wave(p.var.dims())?);
    }
    let gradients = Gradients::collect(&mut store, params)?;
    let scale = |gradients: &Gradients| Ok(clip_factor(gradients.norm()?, 1.));
    let norm = time(|| scale(&gradients).map(|_| ()))?;
    let mut step = |scale, ema: Option<&mut Ema>| -> Result<()> {
        Ok(optimizer.step(&gradients, Step { lr: 1e-4, scale, weight_decay_scale: 1., ema })?)
    };
    let plain = time(|| step(1., None))?;
    let clip = time(|| step(scale(&gradients)?, None))?;
    let average = time(|| step(1., Some(&mut ema)))?;
    let all = time(|| step(scale(&gradients)?, Some(&mut ema)))?;
    let times = [norm, plain, clip, average, all].map(|time| time.as_secs_f64());
    // Gradients, values and running values: all are read, and all but the gradients are written.
    let running = optimizer_state(name);
    let step = 1 + 2 * (1 + running);
    // LARS reads values and gradients for its norms before.
    let step = if name == OptimName::Lars { step + 2 } else { step };
    let count: usize = params.iter().map(|p| p.var.elem_count()).sum();
    let limits = [1, step, 1 + step, step + 2, 1 + step + 2].map(|passes| copy_seconds(4 * passes * count));
    let line = |title: String, values: [String; 5]| {
        println!("{title:<16}{}", values.map(|value| format!("{value:>9}")).concat());
    };
    line(
        format!("{:<8}{threads:>8}", format!("{name:?}").to_lowercase()),
        times.map(|t| format!("{:.1}", t * 1e3)),
    );
    line("  limit".into(), limits.map(|t| format!("{:.1}", t * 1e3)));
    let reached = std::array::from_fn(|i| format!("{:.0}%", 100. * limits[i] / times[i]));
    line("  reached".into(), reached);
    Ok(())
}

/// Running values for each value of a parameter.
fn optimizer_state(name: OptimName) -> usize {
    match name {
        OptimName::Adamw => 2,
        OptimName::Sgd | OptimName::Lars => 1,
    }
}

/// The fastest of many runs.
fn time(mut run: impl FnMut() -> Result<()>) -> Result<Duration> {
    let mut best = Duration::MAX;
    for _ in 0..RUNS {
        let begin = Instant::now();
        run()?;
        best = best.min(begin.elapsed());
    }
    Ok(best)
}
