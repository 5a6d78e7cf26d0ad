//! Milliseconds of the operators of dense prediction, forward and with the backward pass, at the sizes of detection,
//! segmentation and convolutional backbones. candle has no correct gradient for most of them; PyTorch's times come from
//! the same shapes. `cargo bench --bench vision`.

use bench::ops;
use candle_core::{CpuStorage, CustomOp1, DType, Device, Layout, Result, Shape, Tensor, Var};
use std::time::{Duration, Instant};

/// The computation on the inputs.
type Run<'a> = &'a dyn Fn(&[Var]) -> Result<Tensor>;

fn main() -> Result<()> {
    bench::process::prepare_process();
    println!("{} threads{:>33}{:>18}", rayon::current_num_threads(), "forward ms", "with backward ms");
    let pyramid = [var(&[2, 256, 64, 64])?];
    let stem = [var(&[8, 64, 112, 112])?, var(&[64])?, var(&[64])?];
    let maps = [pyramid[0].clone(), var(&[256])?, var(&[256])?];
    row("resize_nearest 2x256x64 to 128", &pyramid, &|v| ops::resize_nearest(&v[0], (128, 128)))?;
    row("resize_bilinear 2x256x64 to 128", &pyramid, &|v| ops::resize_bilinear(&v[0], (128, 128)))?;
    row("resize_bicubic 2x256x64 to 128", &pyramid, &|v| ops::resize_bicubic(&v[0], (128, 128)))?;
    let logits = [var(&[2, 150, 128, 128])?];
    row("resize_bilinear 2x150x128 to 512", &logits, &|v| ops::resize_bilinear(&v[0], (512, 512)))?;
    row("max_pool2d 8x64x112, 3/2/1", &stem[..1], &|v| ops::max_pool2d(&v[0], 3, 2, 1))?;
    row("avg_pool2d 8x64x112, 2/2", &stem[..1], &|v| ops::avg_pool2d(&v[0], (2, 2), (2, 2)))?;
    let last = [var(&[2, 768, 32, 32])?];
    row("adaptive_avg_pool2d 2x768x32 to 6", &last, &|v| ops::adaptive_avg_pool2d(&v[0], (6, 6)))?;
    row("batch_norm 8x64x112", &stem, &|v| Ok(ops::batch_norm(&v[0], Some((&v[1], &v[2])), 1e-5)?.0))?;
    row("group_norm 8x64x112, 32 groups", &stem, &|v| ops::group_norm(&v[0], 32, &v[1], &v[2], 1e-5))?;
    row("layer_norm2d 2x256x64", &maps, &|v| ops::layer_norm2d(&v[0], &v[1], &v[2], 1e-6))?;
    let targets = classes(&[2, 128, 128], 150)?;
    row("cross_entropy 2x150x128x128", &logits, &|v| ops::cross_entropy(&v[0], &targets, Some(255), 0.))?;
    let targets = classes(&[600], 8192)?;
    row("cross_entropy 600x8192", &[var(&[600, 8192])?], &|v| ops::cross_entropy(&v[0], &targets, None, 0.))?;
    let fine = [var(&[1, 256, 256, 256])?];
    let held = boxes(512, 1, 16., 112.)?;
    for side in [7, 14] {
        for ratio in [0, 2] {
            let name = format!("roi_align 512 boxes, 256x256x256, {side}/{ratio}");
            row(&name, &fine, &|v| ops::roi_align(&v[0], &held, (side, side), 0.25, ratio))?;
        }
    }
    let held = boxes(512, 2, 112., 448.)?;
    row("roi_align 512 boxes, 2x256x64x64, 7/0", &pyramid, &|v| {
        ops::roi_align(&v[0], &held, (7, 7), 1. / 16., 0)
    })?;
    let (held, scores) = (boxes(2000, 1, 16., 400.)?.narrow(1, 1, 4)?, var(&[2000])?);
    let time = fastest(|| ops::nms(&held, &scores, 0.7))?;
    println!("{:<42}{:>10.2}", "nms of 2000 boxes", millis(time));
    Ok(())
}

/// A variable with values of the usual size.
fn var(shape: &[usize]) -> Result<Var> {
    let count = shape.iter().product::<usize>() as f32;
    Var::from_tensor(&Tensor::arange(0f32, count, &Device::Cpu)?.sin()?.reshape(shape)?.to_dtype(DType::F32)?)
}

fn classes(shape: &[usize], classes: usize) -> Result<Tensor> {
    let count: usize = shape.iter().product();
    Tensor::from_vec((0..count).map(|i| (i * 7919 % classes) as u32).collect(), shape, &Device::Cpu)
}

/// Boxes in an image of 1024 pixels, with sides from `smallest` to `largest`, spread evenly over
/// places, logarithms of sizes and ratios from 1/2 to 2 by the golden ratio and its like.
fn boxes(count: usize, images: usize, smallest: f64, largest: f64) -> Result<Tensor> {
    const LIMIT: f64 = 1024.;
    let spread = |i: usize, step: f64| (i as f64 * step).fract();
    let rows = (0..count).flat_map(|i| {
        let width = smallest * (largest / smallest).powf(spread(i, 0.819_172_5));
        let height = width * 4f64.powf(spread(i, 0.671_043_6) - 0.5);
        let (x, y) = (LIMIT * spread(i, 0.549_700_5), LIMIT * spread(i, 0.450_299_5));
        let edge = |centre: f64, reach: f64| (centre + reach).clamp(0., LIMIT) as f32;
        let (left, top) = (edge(x, -width / 2.), edge(y, -height / 2.));
        [(i % images) as f32, left, top, edge(x, width / 2.), edge(y, height / 2.)]
    });
    Tensor::from_vec(rows.collect::<Vec<_>>(), (count, 5), &Device::Cpu)
}

fn row(name: &str, inputs: &[Var], run: Run) -> Result<()> {
    let constants: Vec<Var> = inputs.iter().map(|v| Var::from_tensor(&v.detach())).collect::<Result<_>>()?;
    let forward = fastest(|| run(&constants))?;
    let seed = run(&constants)?.ones_like()?;
    let both = fastest(|| ops::backward(&run(inputs)?.apply_op1(Probe(seed.clone()))?))?;
    println!("{name:<42}{:>10.2}{:>18.2}", millis(forward), millis(both));
    Ok(())
}

/// A loss that costs almost nothing to compute, in place of the rest of a model.
struct Probe(Tensor);

impl CustomOp1 for Probe {
    fn name(&self) -> &'static str {
        "probe"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok((CpuStorage::F32(vec![0.]), Shape::from(())))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, _: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(self.0.clone()))
    }
}

/// The fastest of many runs.
fn fastest<T>(run: impl Fn() -> Result<T>) -> Result<Duration> {
    let (start, mut best) = (Instant::now(), Duration::MAX);
    while start.elapsed() < Duration::from_secs(1) {
        let begin = Instant::now();
        let output = run()?;
        best = best.min(begin.elapsed());
        drop(output);
    }
    Ok(best)
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
