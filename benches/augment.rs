//! Microseconds of one thread from a decoded 500×375 image to the normalised input of a ViT at 224, for the pipelines
//! of pre-training, fine-tuning and evaluation. `cargo bench --bench augment`; with a folder of JPEG files
//! (`cargo bench --bench augment -- FOLDER`) decoding, and pre-training's whole way from a file, besides.

use bench::config::{Erase, Normalize, Operation, parse};
use bench::data::augment::{Augmentations, Pipeline, PrepareSample};
use bench::data::{Image, Sample, SampleId};
use bench::rng::Rng;
use rand::RngCore;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::Instant;

const RUNS: u64 = 500;
const PASSES: usize = 12;

fn main() -> Result<(), String> {
    bench::process::prepare_process();
    let mut data = vec![0; 375 * 500 * 3];
    Rng::new(0, "bench", &[]).fill_bytes(&mut data);
    let image = Image::new(375, 500, 3, data);
    let crop = |least: f64| operation(&format!("op = \"random_resized_crop\"\nscale = [{least}, 1.0]"));
    let flip = operation("op = \"flip\"\np = 0.5")?;
    let rand_augment = operation("op = \"rand_augment\"\nmagnitude = 9\nmagnitude_std = 0.5")?;
    let short = operation("op = \"resize_short\"\ncrop_ratio = 0.875")?;
    let center = operation("op = \"center_crop\"")?;
    let erase = Erase { p: 0.25, area: [0.02, 1. / 3.], ratio: [0.3, 1. / 0.3] };

    println!("{:>40}{:>10}", "median µs", "mean µs");
    time("crop, flip (pre-training)", &[crop(0.2)?, flip.clone()], None, &image)?;
    time("crop, flip, RandAugment, erase", &[crop(0.08)?, flip.clone(), rand_augment], Some(&erase), &image)?;
    time("resize, centre crop (evaluation)", &[short, center], None, &image)?;
    match std::env::args().skip(1).find(|argument| !argument.starts_with('-')) {
        Some(folder) => files(Path::new(&folder), &[crop(0.2)?, flip]),
        None => Ok(()),
    }
}

fn operation(text: &str) -> Result<Operation, String> {
    parse(text, "bench").map_err(|e| e.to_string())
}

/// The fastest of many passes over the files of a folder.
fn files(folder: &Path, ops: &[Operation]) -> Result<(), String> {
    let listed = std::fs::read_dir(folder).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let mut paths: Vec<_> = listed.map_err(|e| e.to_string())?.into_iter().map(|file| file.path()).collect();
    paths.sort();
    let pipeline =
        Pipeline::new(&Augmentations::builtin(), ops, None, &Normalize::imagenet(3), [224, 224], 3)
            .map_err(|e| e.to_string())?;
    let open = |path: &Path| Image::open(path, 3).map_err(|e| e.to_string());
    let decode = |path: &Path, _| {
        black_box(open(path)?);
        Ok(())
    };
    let whole = |path: &Path, run| {
        let sample = Sample::new(SampleId::new("bench"), open(path)?, 0u32);
        black_box(pipeline.prepare(sample, &mut Rng::new(0, "augment", &[run]))?);
        Ok(())
    };
    println!("\n{} files{:>40}{:>12}", paths.len(), "fastest µs", "images/s");
    pass("decode", &paths, decode)?;
    pass("decode, crop, flip, normalise", &paths, whole)
}

fn pass(
    name: &str,
    paths: &[PathBuf],
    part: impl Fn(&Path, u64) -> Result<(), String>,
) -> Result<(), String> {
    let mut best = f64::INFINITY;
    for _ in 0..PASSES {
        let start = Instant::now();
        (0..).zip(paths).try_for_each(|(run, path)| part(path, run))?;
        best = best.min(start.elapsed().as_secs_f64() / paths.len() as f64);
    }
    println!("{name:<32}{:>12.0}{:>12.0}", best * 1e6, 1. / best);
    Ok(())
}

fn time(name: &str, ops: &[Operation], erase: Option<&Erase>, image: &Image) -> Result<(), String> {
    let pipeline =
        Pipeline::new(&Augmentations::builtin(), ops, erase, &Normalize::imagenet(3), [224, 224], 3)
            .map_err(|e| e.to_string())?;
    let mut times = Vec::new();
    for run in 0..RUNS {
        let sample = Sample::new(SampleId::new("bench"), image.clone(), 0u32);
        let mut rng = Rng::new(0, "augment", &[run]);
        let start = Instant::now();
        black_box(pipeline.prepare(sample, &mut rng)?);
        times.push(start.elapsed().as_secs_f64() * 1e6);
    }
    times.sort_by(f64::total_cmp);
    let mean = times.iter().sum::<f64>() / times.len() as f64;
    println!("{name:<32}{:>7.0}{mean:>10.0}", times[times.len() / 2]);
    Ok(())
}
