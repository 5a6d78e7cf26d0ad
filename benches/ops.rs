//! Milliseconds of each operator of a transformer block, forward and backward, at the sizes of a ViT-S/16: 8 images,
//! 50 tokens (MAE's encoder at a mask ratio of 0.75) and 197 tokens (fine-tuning). `cargo bench --bench ops`.
//!
//! Beside each time stand that of the same composition of candle's operators, and the limit: the larger of two times,
//! to copy as many bytes as the operator reads and writes, and to do its arithmetic at the rate of multiply-adds that
//! use nothing but registers. Both are measured here. Products count two operations for each multiply-add; other
//! arithmetic counts the instructions for a value, each of which takes the place of a multiply-add.

#[path = "limits/copies.rs"]
mod copies;
#[path = "limits/rates.rs"]
mod rates;

use bench::ops::Precision::{self, Bf16, F32};
use bench::ops::{self, AttentionWeights, Branch, MlpWeights};
use candle_core::{D, DType, Device, Result, Tensor, Var};
use copies::copy_seconds;
use rates::Rates;
use std::time::{Duration, Instant};

const BATCH: usize = 8;
const WIDTH: usize = 384;
const HEADS: usize = 6;
/// Instructions of eˣ, and of the normal distribution beyond that (`src/ops/simd.rs`, `src/ops/gelu.rs`).
const EXP: usize = 16;
const NORMAL: usize = 20;

/// Inputs and what is computed from them.
type Run<'a> = &'a dyn Fn(&[Var]) -> Result<Tensor>;

/// The same for a precision.
type OwnRun<'a> = &'a dyn Fn(&[Var], Precision) -> Result<Tensor>;

const BOTH: &[Precision] = &[F32, Bf16];

/// What an operator needs at least, forward and backward.
#[derive(Clone, Copy, Default)]
struct Work {
    /// Bytes read and written if every tensor is read and written once in each pass.
    bytes: usize,
    /// Operations of matrix products.
    products: usize,
    /// Other instructions for single values, in f32.
    other: usize,
}

impl Work {
    /// `passes` tensors of `values` f32 are read or written, with `each` instructions for a value.
    fn elementwise(values: usize, passes: usize, each: usize) -> Self {
        Self { bytes: 4 * passes * values, products: 0, other: values * each }
    }

    /// x·Wᵀ + b and its three gradients: x, W and the gradient are read twice; y, dx, dW are written.
    fn linear(rows: usize, width: usize, out: usize) -> Self {
        let values = 3 * rows * width + 3 * rows * out + 3 * width * out;
        Self { bytes: 4 * values, products: 6 * rows * width * out, other: 2 * rows * out }
    }

    /// Two products forward; five backward, of which the first gives the probabilities again.
    fn attention(tokens: usize) -> Self {
        let scores = BATCH * HEADS * tokens * tokens;
        let values = BATCH * tokens * WIDTH;
        // Forward: scale, maximum, difference, sum, division. Backward besides: the gradient of the softmax.
        let other = scores * (2 * (EXP + 5) + 4);
        Self { bytes: 4 * values * (3 + 1 + 3 + 1 + 3), products: 14 * scores * WIDTH / HEADS, other }
    }

    fn layer_norm(values: usize) -> Self {
        Self::elementwise(values, 5, 8 + 20)
    }

    fn gelu(values: usize) -> Self {
        Self::elementwise(values, 5, 2 * (EXP + NORMAL) + 5)
    }

    /// The arithmetic of a whole block; x is read twice, its gradient once, and y and dx are written.
    fn block(tokens: usize) -> Self {
        let rows = BATCH * tokens;
        let parts = [
            Self::layer_norm(2 * rows * WIDTH),
            Self::linear(rows, WIDTH, 3 * WIDTH),
            Self::attention(tokens),
            Self::linear(rows, WIDTH, WIDTH),
            Self::linear(rows, WIDTH, 4 * WIDTH),
            Self::gelu(rows * 4 * WIDTH),
            Self::linear(rows, 4 * WIDTH, WIDTH),
        ];
        let weights = 12 * WIDTH * WIDTH;
        Self {
            bytes: 4 * (5 * rows * WIDTH + 3 * weights),
            products: parts.iter().map(|part| part.products).sum(),
            other: parts.iter().map(|part| part.other).sum(),
        }
    }

    /// Milliseconds to move the bytes, and to do the arithmetic.
    fn limits(self, rates: &Rates, precision: Precision) -> [f64; 2] {
        let products = if precision == F32 { rates.f32 } else { rates.bf16 };
        // A multiply-add is two operations of the measured rate, but one instruction, as an addition is.
        let arithmetic = self.products as f64 / products + 2. * self.other as f64 / rates.f32;
        [1e3 * copy_seconds(self.bytes), 1e3 * arithmetic]
    }
}

fn main() -> Result<()> {
    bench::process::prepare_process();
    let rates = Rates::measure();
    println!("{} threads, {BATCH} images, width {WIDTH}", rayon::current_num_threads());
    println!(
        "multiply-adds: {:.0} GFLOP/s in f32, {:.0} in bf16; copies: {:.0} GB/s of memory",
        rates.f32 / 1e9,
        rates.bf16 / 1e9,
        1e-9 * f64::from(1 << 29) / copy_seconds(1 << 29)
    );
    for tokens in [50, 197] {
        let title = format!("{tokens} tokens");
        println!(
            "\n{title:<16}{:>11}{:>11}{:>8}{:>11}{:>9}",
            "candle ms", "bench ms", "ratio", "limit ms", "reached"
        );
        let rows = BATCH * tokens;
        let x = var(&[BATCH, tokens, WIDTH])?;
        let hidden = var(&[BATCH, tokens, 4 * WIDTH])?;
        let qkv = var(&[BATCH, tokens, 3 * WIDTH])?;
        let (w, b) = (var(&[4 * WIDTH, WIDTH])?, var(&[4 * WIDTH])?);
        let affine = [var(&[WIDTH])?, var(&[WIDTH])?];
        compare(
            &rates,
            "linear",
            BOTH,
            Work::linear(rows, WIDTH, 4 * WIDTH),
            &[x.clone(), w, b],
            &|v| stock::linear(&v[0], &v[1], &v[2]),
            &|v, precision| ops::linear(&v[0], &v[1], Some(v[2].as_tensor()), precision),
        )?;
        let [weight, bias] = affine;
        compare(
            &rates,
            "layer_norm",
            &[F32],
            Work::layer_norm(rows * WIDTH),
            &[x.clone(), weight, bias],
            &|v| stock::layer_norm(&v[0], &v[1], &v[2]),
            &|v, _| ops::layer_norm(&v[0], &v[1], &v[2], 1e-6),
        )?;
        compare(
            &rates,
            "gelu",
            &[F32],
            Work::gelu(rows * 4 * WIDTH),
            &[hidden],
            &|v| v[0].gelu_erf(),
            &|v, _| ops::gelu(&v[0]),
        )?;
        compare(
            &rates,
            "attention",
            BOTH,
            Work::attention(tokens),
            &[qkv],
            &|v| stock::attention(&v[0]),
            &|v, precision| ops::attention(&v[0], HEADS, None, precision),
        )?;
        let mut inputs = vec![x];
        for shape in BLOCK {
            inputs.push(var(shape)?);
        }
        compare(&rates, "block", BOTH, Work::block(tokens), &inputs, &stock_block, &fused_block)?;
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

fn fused_block(v: &[Var], precision: Precision) -> Result<Tensor> {
    let pair = |i: usize| (v[i].as_tensor(), v[i + 1].as_tensor());
    let branch = Branch { eps: 1e-6, precision, scale: None };
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

/// Prints a line for each precision.
fn compare(
    rates: &Rates,
    name: &str,
    precisions: &[Precision],
    work: Work,
    inputs: &[Var],
    candle: Run,
    own: OwnRun,
) -> Result<()> {
    let candle = millis(time(inputs, candle)?);
    for &precision in precisions {
        let name = if precision == Bf16 { format!("{name} bf16") } else { name.to_string() };
        let own = millis(time(inputs, &|v| own(v, precision))?);
        let [memory, arithmetic] = work.limits(rates, precision);
        let (limit, which) =
            if memory > arithmetic { (memory, "memory") } else { (arithmetic, "arithmetic") };
        let (ratio, reached) = (candle / own, 100. * limit / own);
        println!("{name:<16}{candle:>11.3}{own:>11.3}{ratio:>8.1}{limit:>11.3}{reached:>8.0}% of {which}");
    }
    Ok(())
}

/// The fastest of many runs, forward and backward from a gradient of ones.
fn time(inputs: &[Var], run: Run) -> Result<Duration> {
    let start = Instant::now();
    let mut best = Duration::MAX;
    while start.elapsed() < Duration::from_secs(1) {
        let begin = Instant::now();
        ops::backward(&run(inputs)?)?;
        best = best.min(begin.elapsed());
    }
    Ok(best)
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
