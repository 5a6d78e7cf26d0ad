//! GFLOP/s of the convolutions of `bench::ops`, compared with candle's, at the sizes of feature pyramids, of the heads
//! of detectors and of UperNet: forward, and forward and backward (three times the work). `cargo bench --bench conv`;
//! an argument selects the lines that contain it, and `--own` leaves out candle. `scripts/pytorch/conv.py` measures
//! PyTorch at the same sizes.
//!
//! The work is that of sums over taps. The first lines print the rates of multiply-adds on registers of this machine;
//! 3×3 convolutions of stride 1 can exceed them, because they take a quarter of the multiplications.

use bench::ops::{self, Precision, ProductKernel};
use candle_core::{DType, Device, Result, Tensor, Var};
use std::time::{Duration, Instant};

/// Name, batch, channels in and out, height and width, kernel, stride, padding; padding `None`: transposed.
type Case = (&'static str, usize, [usize; 2], usize, usize, usize, Option<usize>);

const CASES: [Case; 12] = [
    ("3x3 pyramid", 1, [256, 256], 64, 3, 1, Some(1)),
    ("3x3 residual", 8, [64, 64], 56, 3, 1, Some(1)),
    ("3x3 narrow", 8, [24, 24], 48, 3, 1, Some(1)),
    ("3x3 UperNet small", 8, [192, 48], 48, 3, 1, Some(1)),
    ("1x1 lateral", 1, [768, 256], 64, 1, 1, Some(0)),
    ("3x3 stride 2", 1, [256, 256], 64, 3, 2, Some(1)),
    ("7x7 stem", 4, [3, 64], 224, 7, 2, Some(3)),
    ("7x7 dVAE", 1, [64, 64], 56, 7, 1, Some(3)),
    ("3x3 mask head", 64, [256, 256], 14, 3, 1, Some(1)),
    ("3x3 box head", 128, [128, 128], 7, 3, 1, Some(1)),
    ("3x3 UperNet", 1, [3072, 768], 64, 3, 1, Some(1)),
    ("2x2 transposed", 1, [256, 256], 64, 2, 2, None),
];

fn main() -> Result<()> {
    bench::process::prepare_process();
    let selected = std::env::args().skip(1).find(|argument| !argument.starts_with('-')).unwrap_or_default();
    let own_only = std::env::args().any(|argument| argument == "--own");
    let threads = rayon::current_num_threads();
    println!("{threads} threads; GFLOP/s, forward / forward and backward");
    for (name, precision) in [("f32", Precision::F32), ("bf16", Precision::Bf16)] {
        if let Some(limit) = ProductKernel::of(precision).limit() {
            println!("  at most {:.0} by multiply-adds in {name}", limit * threads as f64);
        }
    }
    println!("{:<18}{:>18}{:>18}{:>18}", "", "candle f32", "bench f32", "bench bf16");
    for case in CASES.iter().filter(|case| case.0.contains(&selected)) {
        let (name, batch, [channels, out], size, kernel, stride, padding) = *case;
        let (x, bias) = (var(&[batch, channels, size, size])?, var(&[out])?);
        let weight = var(&match padding {
            Some(_) => [out, channels, kernel, kernel],
            None => [channels, out, kernel, kernel],
        })?;
        let own = |precision| {
            move |x: &Tensor, weight: &Tensor, bias: &Tensor| match padding {
                Some(padding) => ops::conv2d(x, weight, Some(bias), stride, padding, precision),
                None => ops::conv_transpose2d(x, weight, Some(bias), stride, precision),
            }
        };
        let candle = |x: &Tensor, weight: &Tensor, bias: &Tensor| {
            let y = match padding {
                Some(padding) => x.conv2d(weight, padding, stride, 1, 1)?,
                None => x.conv_transpose2d(weight, 0, 0, stride, 1)?,
            };
            y.broadcast_add(&bias.reshape((1, (), 1, 1))?)
        };
        let side = padding.map_or(size, |padding| (size + 2 * padding - kernel) / stride + 1);
        let flops = 2. * (batch * side * side * kernel * kernel * channels * out) as f64;
        let inputs = [x, weight, bias];
        let slow = flops > 5e10 || own_only;
        let candle = if slow { None } else { Some(measure(&inputs, flops, candle)?) };
        let single = measure(&inputs, flops, own(Precision::F32))?;
        let half = measure(&inputs, flops, own(Precision::Bf16))?;
        println!("{name:<18}{:>18}{single:>18}{half:>18}", candle.unwrap_or_else(|| "-".into()));
    }
    Ok(())
}

fn measure(
    [x, weight, bias]: &[Var; 3],
    flops: f64,
    run: impl Fn(&Tensor, &Tensor, &Tensor) -> Result<Tensor>,
) -> Result<String> {
    let forward = fastest(|| run(x, weight, bias).map(drop))?;
    let both = fastest(|| bench::ops::backward(&run(x, weight, bias)?).map(drop))?;
    let rate = |flops: f64, time: Duration| flops / time.as_secs_f64() * 1e-9;
    Ok(format!("{:.0} / {:.0}", rate(flops, forward), rate(3. * flops, both)))
}

/// A variable with values of the usual size.
fn var(shape: &[usize]) -> Result<Var> {
    let count = shape.iter().product::<usize>() as u32;
    let wave = Tensor::arange(0u32, count, &Device::Cpu)?.to_dtype(DType::F32)?.sin()?;
    Var::from_tensor(&(wave * 0.05)?.reshape(shape)?)
}

/// The fastest of several runs.
fn fastest(run: impl Fn() -> Result<()>) -> Result<Duration> {
    let (start, mut best) = (Instant::now(), Duration::MAX);
    while start.elapsed() < Duration::from_secs(1) {
        let begin = Instant::now();
        run()?;
        best = best.min(begin.elapsed());
    }
    Ok(best)
}
