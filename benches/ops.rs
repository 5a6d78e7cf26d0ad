//! Milliseconds of each operator of `bench::ops`, forward and backward, beside the same composition
//! of candle's operators, at the sizes of a ViT-S/16 block: 8 images, 50 tokens (MAE's encoder at a
//! mask ratio of 0.75) and 197 tokens (fine-tuning). `cargo bench --bench ops`.

use bench::ops::{self, AttentionWeights, Branch, MlpWeights, Precision::F32};
use candle_core::{D, DType, Device, Result, Tensor, Var};
use std::time::{Duration, Instant};

const BATCH: usize = 8;
const WIDTH: usize = 384;
const HEADS: usize = 6;

/// Inputs and what is computed from them.
type Run<'a> = &'a dyn Fn(&[Var]) -> Result<Tensor>;

fn main() -> Result<()> {
    bench::process::prepare_process();
    println!("{} threads, {BATCH} images, width {WIDTH}", rayon::current_num_threads());
    for tokens in [50, 197] {
        println!("\n{tokens} tokens{:>24}{:>11}{:>8}", "candle ms", "bench ms", "ratio");
        let x = var(&[BATCH, tokens, WIDTH])?;
        let hidden = var(&[BATCH, tokens, 4 * WIDTH])?;
        let qkv = var(&[BATCH, tokens, 3 * WIDTH])?;
        let (w, b) = (var(&[4 * WIDTH, WIDTH])?, var(&[4 * WIDTH])?);
        let affine = [var(&[WIDTH])?, var(&[WIDTH])?];
        let inputs = [x.clone(), w, b];
        compare("linear", &inputs, &|v| stock::linear(&v[0], &v[1], &v[2]), &|v| {
            ops::linear(&v[0], &v[1], Some(v[2].as_tensor()), F32)
        })?;
        let inputs = [x.clone(), affine[0].clone(), affine[1].clone()];
        compare("layer_norm", &inputs, &|v| stock::layer_norm(&v[0], &v[1], &v[2]), &|v| {
            ops::layer_norm(&v[0], &v[1], &v[2], 1e-6)
        })?;
        compare("gelu", &[hidden], &|v| v[0].gelu_erf(), &|v| ops::gelu(&v[0]))?;
        compare("attention", &[qkv], &|v| stock::attention(&v[0]), &|v| {
            ops::attention(&v[0], HEADS, None, F32)
        })?;
        let mut inputs = vec![x];
        for shape in BLOCK {
            inputs.push(var(shape)?);
        }
        compare("block", &inputs, &stock_block, &fused_block)?;
    }
    Ok(())
}

/// norm1, qkv, proj, norm2, fc1, fc2: weight and bias each.
const BLOCK: [&[usize]; 12] = [
    &[WIDTH],
    &[WIDTH],
    &[3 * WIDTH, WIDTH],
    &[3 * WIDTH],
    &[WIDTH, WIDTH],
    &[WIDTH],
    &[WIDTH],
    &[WIDTH],
    &[4 * WIDTH, WIDTH],
    &[4 * WIDTH],
    &[WIDTH, 4 * WIDTH],
    &[WIDTH],
];

fn fused_block(v: &[Var]) -> Result<Tensor> {
    let pair = |i: usize| (v[i].as_tensor(), v[i + 1].as_tensor());
    let branch = Branch { eps: 1e-6, precision: F32, scale: None };
    let attention = AttentionWeights { norm: pair(1), qkv: pair(3), proj: pair(5) };
    let x = ops::attention_branch(&v[0], &attention, HEADS, &branch)?;
    ops::mlp_branch(&x, &MlpWeights { norm: pair(7), fc1: pair(9), fc2: pair(11) }, &branch)
}

fn stock_block(v: &[Var]) -> Result<Tensor> {
    let linear = |x: &Tensor, i: usize| stock::linear(x, &v[i], &v[i + 1]);
    let y = linear(&stock::layer_norm(&v[0], &v[1], &v[2])?, 3)?;
    let x = (v[0].as_tensor() + linear(&stock::attention(&y)?, 5)?)?;
    let y = linear(&stock::layer_norm(&x, &v[7], &v[8])?, 9)?.gelu_erf()?;
    x + linear(&y, 11)?
}

/// The same computation with candle's operators.
mod stock {
    use super::*;

    pub fn linear(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
        let (b, n, _) = x.dims3()?;
        let y = x.flatten_to(1)?.matmul(&weight.t()?)?.broadcast_add(bias)?;
        y.reshape((b, n, ()))
    }

    pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
        let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
        let std = (centred.sqr()?.mean_keepdim(D::Minus1)? + 1e-6)?.sqrt()?;
        centred.broadcast_div(&std)?.broadcast_mul(weight)?.broadcast_add(bias)
    }

    pub fn attention(qkv: &Tensor) -> Result<Tensor> {
        let (b, n, c3) = qkv.dims3()?;
        let (c, d) = (c3 / 3, c3 / 3 / HEADS);
        let part = |i: usize| -> Result<Tensor> {
            qkv.narrow(D::Minus1, i * c, c)?.reshape((b, n, HEADS, d))?.transpose(1, 2)?.contiguous()
        };
        let (q, k, v) = (part(0)?, part(1)?, part(2)?); // [B, h, N, d]
        let scores = (q.matmul(&k.t()?.contiguous()?)? * (d as f64).powf(-0.5))?;
        let p = candle_nn::ops::softmax(&scores, D::Minus1)?;
        p.matmul(&v)?.transpose(1, 2)?.reshape((b, n, c))
    }
}

/// A variable with values of the usual size.
fn var(shape: &[usize]) -> Result<Var> {
    let count = shape.iter().product::<usize>() as f32;
    let wave = Tensor::arange(0f32, count, &Device::Cpu)?.sin()?;
    Var::from_tensor(&(wave * 0.05)?.reshape(shape)?.to_dtype(DType::F32)?)
}

fn compare(name: &str, inputs: &[Var], candle: Run, own: Run) -> Result<()> {
    let (candle, own) = (time(inputs, candle)?, time(inputs, own)?);
    println!("{name:<16}{:>17.3}{:>11.3}{:>8.1}", millis(candle), millis(own), millis(candle) / millis(own));
    Ok(())
}

/// The fastest of many runs, forward and backward.
fn time(inputs: &[Var], run: Run) -> Result<Duration> {
    let start = Instant::now();
    let mut best = Duration::MAX;
    while start.elapsed() < Duration::from_secs(2) {
        let begin = Instant::now();
        ops::backward(&run(inputs)?.sum_all()?)?;
        best = best.min(begin.elapsed());
    }
    Ok(best)
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
