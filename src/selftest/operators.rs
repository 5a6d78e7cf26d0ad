//! Compares values and gradients of every operator on a device with the CPU, for odd sizes.

use super::{Check, relative_error};
use crate::data::augment::{Mix, mix_batch};
use crate::nn::patchify;
use crate::ops::{self, AttentionBias, AttentionWeights, AttentionWindow, Branch, MlpWeights, Precision};
use crate::rng::Rng;
use candle_core::{DType, Device, Result, Tensor, Var};
use rand_distr::{Distribution, StandardNormal};
use std::num::NonZeroUsize;

/// Largest relative error of f32.
const F32: f64 = 1e-4;
/// Largest relative error of bf16, which keeps 8 bits.
const BF16: f64 = 2e-2;

type Run = Box<dyn Fn(&[Tensor], Precision) -> Result<Tensor>>;

/// An operator with inputs of some shapes, which all get gradients.
struct Case {
    name: &'static str,
    shapes: Vec<Vec<usize>>,
    detail: &'static str,
    /// Whether it multiplies matrices, so that bf16 is another computation.
    multiplies: bool,
    run: Run,
}

/// Compares the operators whose name contains `only` on `device` with the CPU, and passes each comparison to `tell`.
pub fn operators(device: &Device, only: &str, tell: &mut dyn FnMut(&Check)) {
    for case in cases().iter().filter(|case| case.name.contains(only)) {
        tell(&case.check(device, Precision::F32, "f32", F32));
        if case.multiplies {
            tell(&case.check(device, Precision::Bf16, "bf16", BF16));
        }
    }
}

/// Whether new memory of `device` is filled with NaN, as the emulator does, so that a value that no kernel writes is
/// seen.
pub fn poisoned(device: &Device) -> Result<bool> {
    // SAFETY: reading memory that nothing wrote is the question.
    let empty = unsafe { Tensor::empty(7, DType::F32, device)? };
    Ok(empty.to_vec1::<f32>()?.iter().all(|x| x.is_nan()))
}

impl Case {
    fn check(&self, device: &Device, precision: Precision, dtype: &'static str, limit: f64) -> Check {
        let shapes: Vec<String> = self.shapes.iter().map(|shape| format!("{shape:?}")).collect();
        let space = if self.detail.is_empty() { "" } else { " " };
        let mut check = Check {
            name: self.name.into(),
            detail: format!("{}{space}{}", shapes.join(" "), self.detail),
            dtype,
            error: f64::NAN,
            gradient_error: Some(f64::NAN),
            limit,
            failure: None,
        };
        match self
            .evaluate(&Device::Cpu, Precision::F32)
            .and_then(|e| Ok((e, self.evaluate(device, precision)?)))
        {
            Ok((expected, found)) => {
                check.error = relative_error(&found.0, &expected.0);
                let errors =
                    found.1.iter().zip(&expected.1).map(|(found, expected)| relative_error(found, expected));
                check.gradient_error =
                    Some(errors.fold(0., |most, e| if e > most || e.is_nan() { e } else { most }));
            }
            Err(error) => check.failure = error.to_string().lines().next().map(String::from),
        }
        check
    }

    /// Values, and gradients of Σ values·probe for every input.
    fn evaluate(&self, device: &Device, precision: Precision) -> Result<(Vec<f64>, Vec<Vec<f64>>)> {
        let inputs = (0..).zip(&self.shapes).map(|(i, shape)| Var::from_tensor(&random(shape, i, device)?));
        let vars = inputs.collect::<Result<Vec<_>>>()?;
        let tensors: Vec<Tensor> = vars.iter().map(|var| var.as_tensor().clone()).collect();
        let out = (self.run)(&tensors, precision)?;
        let probe = random(out.dims(), 99, device)?;
        let store = ops::backward(&(&out * probe)?.sum_all()?)?;
        let gradient = |(i, var): (usize, &Var)| match store.get(var) {
            Some(gradient) => values(gradient),
            None => candle_core::bail!("input {i} gets no gradient"),
        };
        Ok((values(&out)?, vars.iter().enumerate().map(gradient).collect::<Result<_>>()?))
    }
}

fn values(tensor: &Tensor) -> Result<Vec<f64>> {
    Ok(tensor.flatten_all()?.to_vec1::<f32>()?.into_iter().map(f64::from).collect())
}

/// Normal values, the same on every device: of deviation 1, and as a matrix [out, in] of 1/√in, as weights have it.
fn random(shape: &[usize], stream: u64, device: &Device) -> Result<Tensor> {
    let mut rng = Rng::new(0, "selftest", &[stream]);
    let scale = if shape.len() == 2 { (shape[1] as f32).powf(-0.5) } else { 1. };
    let normal = (0..shape.iter().product()).map(|_| StandardNormal.sample(&mut rng));
    Tensor::from_vec(normal.map(|x: f32| scale * x).collect(), shape, device)
}

fn case(
    name: &'static str,
    shapes: &[&[usize]],
    detail: &'static str,
    run: impl Fn(&[Tensor]) -> Result<Tensor> + 'static,
) -> Case {
    let shapes = shapes.iter().map(|shape| shape.to_vec()).collect();
    Case { name, shapes, detail, multiplies: false, run: Box::new(move |t, _| run(t)) }
}

fn product(
    name: &'static str,
    shapes: &[&[usize]],
    detail: &'static str,
    run: impl Fn(&[Tensor], Precision) -> Result<Tensor> + 'static,
) -> Case {
    let shapes = shapes.iter().map(|shape| shape.to_vec()).collect();
    Case { name, shapes, detail, multiplies: true, run: Box::new(run) }
}

fn cases() -> Vec<Case> {
    [transformer(), losses(), convolutions(), vision()].into_iter().flatten().collect()
}

fn transformer() -> Vec<Case> {
    let attention = |b: usize, n: usize, heads: usize, d: usize| {
        product("attention", &[&[b, n, 3 * heads * d]], "", move |t, p| ops::attention(&t[0], heads, None, p))
    };
    let mlp = |b: usize, n: usize, c: usize, h: usize, scale: Option<Vec<f32>>| {
        let detail = if scale.is_some() { "scaled" } else { "" };
        let shapes: [&[usize]; 7] = [&[b, n, c], &[c], &[c], &[h, c], &[h], &[c, h], &[c]];
        product("mlp_branch", &shapes, detail, move |t, precision| {
            let weights = MlpWeights { norm: (&t[1], &t[2]), fc1: (&t[3], &t[4]), fc2: (&t[5], &t[6]) };
            ops::mlp_branch(&t[0], &weights, &Branch { eps: 1e-6, precision, scale: scale.as_deref() })
        })
    };
    let attended = |b: usize, n: usize, c: usize, heads: usize, scale: Option<Vec<f32>>| {
        let detail = if scale.is_some() { "scaled" } else { "" };
        let shapes: [&[usize]; 7] = [&[b, n, c], &[c], &[c], &[3 * c, c], &[3 * c], &[c, c], &[c]];
        product("attention_branch", &shapes, detail, move |t, precision| {
            let weights =
                AttentionWeights { norm: (&t[1], &t[2]), qkv: (&t[3], &t[4]), proj: (&t[5], &t[6]) };
            let branch = Branch { eps: 1e-6, precision, scale: scale.as_deref() };
            ops::attention_branch(&t[0], &weights, heads, &branch)
        })
    };
    // 9×9 tokens of 48 channels, and the rows of a table with or without the class token's.
    let windowed = |detail: &'static str, side: Option<usize>, table: Option<(usize, bool)>| {
        let class = table.is_some_and(|(_, class)| class);
        let tokens = if class { 3 * 9 + 1 } else { 9 * 9 };
        let rows = table.map_or(1, |(rows, _)| rows);
        let shapes: [&[usize]; 8] =
            [&[2, tokens, 48], &[48], &[48], &[144, 48], &[144], &[48, 48], &[48], &[rows, 3]];
        product("attention_branch", &shapes, detail, move |t, precision| {
            let weights =
                AttentionWeights { norm: (&t[1], &t[2]), qkv: (&t[3], &t[4]), proj: (&t[5], &t[6]) };
            let branch = Branch { eps: 1e-6, precision, scale: Some(&[1.5, 0.5]) };
            let grid = if class { (3, 9) } else { (9, 9) };
            let window = AttentionWindow { grid, side, table: table.map(|_| &t[7]), rotary: None };
            let out = ops::windowed_attention_branch(&t[0], &weights, 3, &window, &branch)?;
            match table {
                Some(_) => Ok(out),
                None => out.broadcast_add(&t[7].sum_all()?), // every input gets a gradient
            }
        })
    };
    vec![
        product("linear", &[&[3, 7, 20], &[12, 20], &[12]], "", |t, p| {
            ops::linear(&t[0], &t[1], Some(&t[2]), p)
        }),
        product("linear", &[&[5, 9], &[3, 9]], "no bias", |t, p| ops::linear(&t[0], &t[1], None, p)),
        product("linear", &[&[130, 96], &[64, 96], &[64]], "", |t, p| {
            ops::linear(&t[0], &t[1], Some(&t[2]), p)
        }),
        case("layer_norm", &[&[5, 13, 50], &[50], &[50]], "", |t| ops::layer_norm(&t[0], &t[1], &t[2], 1e-6)),
        case("layer_norm", &[&[300, 192], &[192], &[192]], "", |t| {
            ops::layer_norm(&t[0], &t[1], &t[2], 1e-6)
        }),
        case("gelu", &[&[3, 77]], "", |t| ops::gelu(&t[0])),
        case("relu", &[&[5, 52]], "", |t| ops::relu(&t[0])),
        case("swiglu", &[&[3, 7, 76]], "", |t| ops::swiglu(&t[0])),
        product("rotary_attention", &[&[2, 33, 96]], "", |t, p| {
            let angles: Vec<f64> = (0..33 * 8).map(|i| (f64::from(i) * 0.37).sin() * 7.).collect();
            let rotary = ops::Rotary::new(&angles, 8, 33, t[0].device())?;
            ops::rotary_attention(&t[0], 2, &rotary, p)
        }),
        attention(2, 1, 1, 5),
        attention(2, 50, 3, 64),
        attention(1, 197, 2, 64),
        attention(3, 33, 2, 32),
        attention(2, 65, 2, 80),
        attention(1, 70, 1, 128),
        attention(2, 17, 3, 11),
        product("attention", &[&[2, 65, 96], &[2, 65, 65]], "table of relative positions", |t, p| {
            ops::attention(&t[0], 2, Some(&AttentionBias::Table(t[1].clone())), p)
        }),
        product("attention", &[&[2, 13, 24], &[38, 2]], "offsets of a grid and a class token", |t, p| {
            let bias = AttentionBias::Relative { table: t[1].clone(), grid: (3, 4), class: true };
            ops::attention(&t[0], 2, Some(&bias), p)
        }),
        product("attention", &[&[3, 100, 72], &[361, 3]], "offsets of a grid", |t, p| {
            let bias = AttentionBias::Relative { table: t[1].clone(), grid: (10, 10), class: false };
            ops::attention(&t[0], 3, Some(&bias), p)
        }),
        product(
            "attention",
            &[&[2, 196, 96], &[2, 2, 196, 14], &[2, 2, 196, 14]],
            "window, decomposed",
            |t, p| {
                let bias = AttentionBias::Decomposed { rows: t[1].clone(), columns: t[2].clone() };
                ops::attention(&t[0], 2, Some(&bias), p)
            },
        ),
        mlp(2, 5, 12, 31, None),
        mlp(3, 50, 96, 384, Some(vec![0., 1.5, 2.])),
        attended(2, 7, 40, 5, None),
        attended(3, 50, 96, 3, Some(vec![0., 1.5, 2.])),
        windowed("windows of 4, table", Some(4), Some((49, false))),
        windowed("table and class token", None, Some((5 * 17 + 3, true))),
        windowed("windows of 5", Some(5), None),
        product(
            "attention_branch",
            &[&[2, 7, 40], &[120, 40], &[40], &[40, 40], &[40], &[40]],
            "layer scale",
            |t, precision| {
                // As BEiT: keys without bias, a factor for every channel.
                let device = t[0].device();
                let norm = (Tensor::ones(40, DType::F32, device)?, Tensor::zeros(40, DType::F32, device)?);
                let bias = Tensor::cat(&[&t[2], &t[2].zeros_like()?.detach(), &t[4]], 0)?;
                let (weight, offset) = (t[3].broadcast_mul(&t[5].unsqueeze(1)?)?, (&t[4] * &t[5])?);
                let qkv = (&t[1], &bias);
                let weights = AttentionWeights { norm: (&norm.0, &norm.1), qkv, proj: (&weight, &offset) };
                ops::attention_branch(&t[0], &weights, 5, &Branch { eps: 1e-6, precision, scale: None })
            },
        ),
        product(
            "mlp_branch",
            &[&[2, 5, 12], &[31, 12], &[31], &[12, 31], &[12]],
            "layer scale",
            |t, precision| {
                let device = t[0].device();
                let norm = (Tensor::ones(12, DType::F32, device)?, Tensor::zeros(12, DType::F32, device)?);
                let weight = t[3].broadcast_mul(&t[4].unsqueeze(1)?)?;
                let (fc1, fc2) = ((&t[1], &t[2]), (&weight, &t[4]));
                let weights = MlpWeights { norm: (&norm.0, &norm.1), fc1, fc2 };
                ops::mlp_branch(&t[0], &weights, &Branch { eps: 1e-6, precision, scale: None })
            },
        ),
        product(
            "attention",
            &[&[1, 130, 48], &[1, 1, 130, 13], &[1, 1, 130, 10]],
            "grid of 13×10, decomposed",
            |t, p| {
                let bias = AttentionBias::Decomposed { rows: t[1].clone(), columns: t[2].clone() };
                ops::attention(&t[0], 1, Some(&bias), p)
            },
        ),
        case("patchify", &[&[2, 3, 8, 12]], "", |t| {
            &t[0].reshape((2, 6, 48))? * patchify(&t[0].detach(), 4)? // with a gradient
        }),
        case("partition_windows", &[&[2, 9, 11, 6]], "", |t| ops::partition_windows(&t[0], 4)),
        case("merge_windows", &[&[12, 16, 6]], "", |t| ops::merge_windows(&t[0], 4, (7, 11))),
        case("index_select", &[&[9, 20]], "one row 200 times", |t| {
            let rows: Vec<u32> = (0..300).map(|i| if i % 3 == 0 { i % 9 } else { 4 }).collect();
            ops::index_select(&t[0], &rows)
        }),
    ]
}

fn losses() -> Vec<Case> {
    let classes = |count: u32, of: u32| (0..count).map(move |i| i * 7 % of).collect::<Vec<u32>>();
    vec![
        case("patch_mse", &[&[3, 10, 27]], "", |t| {
            let device = t[0].device();
            let weights = random(&[3, 10], 5, device)?.abs()?;
            ops::patch_mse(&t[0], &random(&[3, 10, 27], 6, device)?, &weights)
        }),
        case("softmax_cross_entropy", &[&[9, 21]], "soft targets", |t| {
            ops::softmax_cross_entropy(&t[0], &random(&[9, 21], 5, t[0].device())?.abs()?)
        }),
        case("cross_entropy", &[&[50, 37]], "smoothing 0.1", move |t| {
            ops::cross_entropy(&t[0], &Tensor::new(classes(50, 37), t[0].device())?, Some(3), 0.1)
        }),
        case("cross_entropy", &[&[2, 5, 6, 7]], "pixels, one class ignored", move |t| {
            let targets = Tensor::new(classes(84, 5), t[0].device())?.reshape((2, 6, 7))?;
            ops::cross_entropy(&t[0], &targets, Some(4), 0.)
        }),
        case("cross_entropy", &[&[2, 5, 6, 7]], "pixels, classes weigh", move |t| {
            let targets = Tensor::new(classes(84, 5), t[0].device())?.reshape((2, 6, 7))?;
            ops::weighted_cross_entropy(&t[0], &targets, Some(4), &[0.1, 1., 2., 0.5, 1.])
        }),
        case("binary_cross_entropy", &[&[11, 3]], "", |t| {
            let targets = random(&[11, 3], 5, t[0].device())?.gt(0.)?.to_dtype(DType::F32)?;
            ops::binary_cross_entropy_with_logits(&t[0], &targets, None)
        }),
        case("cross_entropy", &[&[50, 37]], "targets in host memory", move |t| {
            ops::cross_entropy(&t[0], &Tensor::new(classes(50, 37), &Device::Cpu)?, None, 0.)
        }),
        case("cross_entropy", &[&[50, 37]], "targets on the device", move |t| {
            ops::cross_entropy(&t[0], &Tensor::new(classes(50, 37), t[0].device())?, None, 0.1)
        }),
        case("binary_cross_entropy", &[&[13, 5]], "weights, large logits", |t| {
            let targets = random(&[13, 5], 5, t[0].device())?.gt(0.)?.to_dtype(DType::F32)?;
            let weights = random(&[13, 5], 6, t[0].device())?.abs()?;
            ops::binary_cross_entropy_with_logits(&(&t[0] * 200.)?, &targets, Some(&weights))
        }),
        case("smooth_l1", &[&[11, 4]], "L1, weights", |t| {
            let weights = random(&[11, 4], 6, t[0].device())?.abs()?;
            ops::smooth_l1(&t[0], &random(&[11, 4], 5, t[0].device())?, Some(&weights), 0.)
        }),
        case("smooth_l1", &[&[11, 4]], "", |t| {
            ops::smooth_l1(&t[0], &random(&[11, 4], 5, t[0].device())?, None, 1. / 9.)
        }),
    ]
}

fn convolutions() -> Vec<Case> {
    let conv = |x: [usize; 4], out: usize, kernel: usize, stride: usize, padding: usize| {
        let shapes: [&[usize]; 3] = [&x, &[out, x[1], kernel, kernel], &[out]];
        product("conv2d", &shapes, if stride > 1 { "strided" } else { "" }, move |t, p| {
            ops::conv2d(&t[0], &t[1], Some(&t[2]), stride, padding, p)
        })
    };
    vec![
        conv([2, 5, 9, 11], 7, 3, 1, 1),
        conv([1, 16, 13, 10], 24, 1, 1, 0),
        conv([2, 3, 17, 19], 8, 7, 2, 3),
        conv([2, 6, 12, 8], 4, 2, 2, 0),
        product("conv2d", &[&[1, 4, 6, 6], &[5, 4, 3, 3]], "no bias", |t, p| {
            ops::conv2d(&t[0], &t[1], None, 1, 1, p)
        }),
        product("conv_transpose2d", &[&[2, 6, 5, 7], &[6, 4, 2, 2], &[4]], "", |t, p| {
            ops::conv_transpose2d(&t[0], &t[1], Some(&t[2]), 2, p)
        }),
    ]
}

/// `images` mixed by mixup or cutmix, connected to `images` so that they have a gradient.
fn mixed(images: &Tensor, mixup: f64, cutmix: f64, group: Option<NonZeroUsize>) -> Result<Tensor> {
    let mix = Mix { mixup, cutmix, prob: 1., switch_prob: 0., group };
    let (mixed, _) =
        mix_batch(&images.detach(), &[0, 1, 2, 3, 4], 5, 0.1, &mix, &mut Rng::new(1, "mix", &[]))?;
    images * mixed
}

fn vision() -> Vec<Case> {
    vec![
        case("batch_norm", &[&[3, 6, 5, 7], &[6], &[6]], "", |t| {
            Ok(ops::batch_norm(&t[0], Some((&t[1], &t[2])), 1e-5)?.0)
        }),
        case("batch_norm", &[&[9, 30]], "rows, no affine", |t| Ok(ops::batch_norm(&t[0], None, 1e-5)?.0)),
        case("batch_norm", &[&[2, 5, 8, 6], &[5], &[5]], "given moments", |t| {
            let var = random(&[5], 6, t[0].device())?.sqr()?;
            let moments = ops::Moments { mean: random(&[5], 5, t[0].device())?, var };
            ops::batch_norm_with(&t[0], &moments, Some((&t[1], &t[2])), 0.1)
        }),
        case("group_norm", &[&[3, 8, 20, 16], &[8], &[8]], "1 group", |t| {
            ops::group_norm(&t[0], 1, &t[1], &t[2], 1e-5)
        }),
        case("group_norm", &[&[2, 12, 5, 7], &[12], &[12]], "4 groups", |t| {
            ops::group_norm(&t[0], 4, &t[1], &t[2], 1e-5)
        }),
        case("layer_norm2d", &[&[2, 12, 5, 7], &[12], &[12]], "", |t| {
            ops::layer_norm2d(&t[0], &t[1], &t[2], 1e-6)
        }),
        case("max_pool2d", &[&[2, 3, 11, 9]], "3×3, stride 2", |t| ops::max_pool2d(&t[0], 3, 2, 1)),
        case("avg_pool2d", &[&[2, 3, 10, 8]], "2×2", |t| ops::avg_pool2d(&t[0], (2, 2), (2, 2))),
        case("adaptive_avg_pool2d", &[&[2, 3, 13, 11]], "to 6×3", |t| {
            ops::adaptive_avg_pool2d(&t[0], (6, 3))
        }),
        case("subsample", &[&[2, 3, 11, 9]], "stride 2", |t| ops::subsample(&t[0], 2)),
        case("resize_nearest", &[&[2, 3, 5, 7]], "to 10×14", |t| ops::resize_nearest(&t[0], (10, 14))),
        case("resize_bilinear", &[&[2, 3, 5, 7]], "to 13×9", |t| ops::resize_bilinear(&t[0], (13, 9))),
        case("resize_bicubic", &[&[2, 3, 14, 14]], "to 9×20", |t| ops::resize_bicubic(&t[0], (9, 20))),
        case("roi_align", &[&[2, 4, 16, 20]], "3 boxes to 7×7", |t| {
            let boxes: [[f32; 5]; 3] =
                [[0., 3., 2., 50., 41.], [1., -8., 5., 30., 90.], [1., 20.5, 20.5, 21., 22.]];
            ops::roi_align(&t[0], &Tensor::new(&boxes, t[0].device())?, (7, 7), 0.25, 2)
        }),
        case("mix_batch", &[&[5, 3, 8, 6]], "mixup", |t| mixed(&t[0], 1., 0., None)),
        case("mix_batch", &[&[5, 3, 8, 6]], "cutmix", |t| mixed(&t[0], 0., 1., None)),
        case("mix_batch", &[&[5, 3, 8, 6]], "mixup, groups of 2", |t| {
            mixed(&t[0], 1., 0., NonZeroUsize::new(2))
        }),
        case("nms", &[&[40, 2]], "boxes of scores", |t| {
            // Which boxes are kept, as a mask on what has a gradient.
            let corner = random(&[40, 2], 5, t[0].device())?.affine(30., 100.)?;
            let boxes = Tensor::cat(&[&corner, &(&corner + 40.)?], 1)?;
            let kept = ops::nms(&boxes, &random(&[40], 6, t[0].device())?, 0.5)?;
            t[0].index_select(&kept, 0)
        }),
    ]
}
