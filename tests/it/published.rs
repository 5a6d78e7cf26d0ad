//! Reference values for published weights: those in the tests of transformers, on the image 000000039769 of COCO.
//!
//! `cargo test --release -- --ignored published` compares them if the files are available: weights as
//! `$BENCH_WEIGHTS/<owner>/<name>/model.safetensors` (or `pytorch_model.bin`) or on the Hugging Face Hub, images as
//! `<name>.png` or `<name>.jpg` in `$BENCH_WEIGHTS` or `$BENCH_DATA/coco/val2017`. Missing files are skipped, with a
//! line that says so. A JPEG has the pixels that Pillow reads.
//!
//! The values are from `tests/models/{vit,vit_mae,beit}` of transformers and from its converters for MAE and BEiT.

mod noise;

use anyhow::{Result, ensure};
use bench::config::{DvaeSizes, ModelConfig, Operation, parse};
use bench::data::augment::{Augmentations, Pipeline, PrepareSample as _};
use bench::data::{DatasetInfo, Image, Sample, SampleId};
use bench::kinds::segmentation::SegmentationTask;
use bench::models::dvae::{Encoder, Tokenizer};
use bench::models::{Backbone as _, BackboneSpec, BackboneUsage, Vit};
use bench::nn::{Params, Pass, patchify};
use bench::pretrain::{Beit, BeitOptions, MaeOptions, MaskedAutoencoder, PatchMask};
use bench::rng::Rng;
use bench::task::{Head as _, Task as _};
use bench::weights::{Hub, HubError, HubFile, WeightFile, load_backbone, load_exact, load_model};
use candle_core::{D, Device, IndexOp as _, Tensor};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Named tensors of a file.
type Tensors = Vec<(String, Tensor)>;

struct Slice {
    repository: &'static str,
    image: &'static str,
    /// Beside the sizes of [`model`].
    model: String,
    compute: fn(&ModelConfig, &Tensors, &Tensor) -> Result<Vec<f32>>,
    expected: Vec<f32>,
    tolerance: f32,
}

/// Folders that may hold weights and images.
struct Places {
    folders: Vec<PathBuf>,
    hub: bool,
}

impl Places {
    fn of_environment() -> Self {
        let folder = |name: &str| std::env::var_os(name).map(PathBuf::from);
        let coco = folder("BENCH_DATA").map(|data| data.join("coco/val2017"));
        Self { folders: folder("BENCH_WEIGHTS").into_iter().chain(coco).collect(), hub: true }
    }

    /// The first of these files that exists.
    fn find(&self, names: &[String]) -> Option<PathBuf> {
        self.folders
            .iter()
            .flat_map(|folder| names.iter().map(|name| folder.join(name)))
            .find(|path| path.is_file())
    }

    /// The weights of a repository, or the reason why they are missing.
    fn weights(&self, repository: &str) -> Result<std::result::Result<PathBuf, String>> {
        let names = ["model.safetensors", "pytorch_model.bin"].map(|file| format!("{repository}/{file}"));
        if let Some(path) = self.find(&names) {
            return Ok(Ok(path));
        }
        let absent = format!("no `{}` below $BENCH_WEIGHTS", names.join("` or `"));
        if !self.hub {
            return Ok(Err(absent));
        }
        match Hub::new(bench::cli::hub_settings(false))?
            .fetch(&HubFile::parse(&format!("hub:{repository}"))?, &|_, _| ())
        {
            Ok(found) => Ok(Ok(found.path)),
            Err(error @ (HubError::Damaged { .. } | HubError::Disk { .. })) => Err(error.into()),
            Err(error) => Ok(Err(format!("{absent}, and {error}"))),
        }
    }

    fn image(&self, name: &str) -> std::result::Result<PathBuf, String> {
        let names = ["png", "jpg"].map(|ending| format!("{name}.{ending}"));
        let absent =
            || format!("no `{}` in $BENCH_WEIGHTS or $BENCH_DATA/coco/val2017", names.join("` or `"));
        self.find(&names).ok_or_else(absent)
    }
}

/// The values of a slice, or the reason why it is skipped.
fn values(slice: &Slice, places: &Places) -> Result<std::result::Result<Vec<f32>, String>> {
    let image = match places.image(slice.image) {
        Ok(path) => path,
        Err(reason) => return Ok(Err(reason)),
    };
    let weights = match places.weights(slice.repository)? {
        Ok(path) => path,
        Err(reason) => return Ok(Err(reason)),
    };
    let model: ModelConfig = parse(&slice.model, slice.repository)?;
    let tensors = WeightFile::open(&weights)?.read(&Device::Cpu)?;
    (slice.compute)(&model, &tensors, &pixels(&image, &model)?).map(Ok)
}

/// Returns true if the slice was compared, false if it was skipped.
fn check(slice: &Slice, places: &Places) -> Result<bool> {
    // Past the capture of tests: a skipped comparison must not look like one that was made.
    let say = |text: String| writeln!(std::io::stderr(), "published {}: {text}", slice.repository);
    let found = match values(slice, places)? {
        Ok(found) => found,
        Err(reason) => {
            say(format!("skipped: {reason}"))?;
            return Ok(false);
        }
    };
    ensure!(found.len() == slice.expected.len(), "{}: {} values", slice.repository, found.len());
    let errors = || found.iter().zip(&slice.expected).map(|(found, expected)| (found - expected).abs());
    let largest = errors().fold(0f32, f32::max);
    ensure!(
        errors().all(|error| error <= slice.tolerance), // which NaN is not
        "{}: {found:?}, published {:?}: they differ by {largest:e}",
        slice.repository,
        slice.expected
    );
    say(format!("within {largest:e} of the published values"))?;
    Ok(true)
}

/// `model`'s input [1, C, H, W]: the image scaled as Pillow does bilinearly, normalised.
fn pixels(path: &Path, model: &ModelConfig) -> Result<Tensor> {
    let resize: Operation = parse("op = \"resize\"\ninterpolation = \"bilinear\"", "published")?;
    let text = anyhow::Error::msg::<String>;
    let pipeline = Pipeline::new(
        &Augmentations::builtin(),
        &[resize],
        None,
        &model.normalize(),
        model.image,
        model.channels,
    )?;
    let sample = Sample::new(SampleId::new("image"), Image::open(path, model.channels)?, ());
    let prepared = pipeline.prepare(sample, &mut Rng::new(0, "published", &[])).map_err(text)?;
    let (channels, height, width) = prepared.shape;
    Ok(Tensor::from_vec(prepared.pixels, (1, channels, height, width), &Device::Cpu)?)
}

/// The first three channels of the first three tokens of [1, N, C].
fn corner(tokens: &Tensor) -> Result<Vec<f32>> {
    Ok(tokens.squeeze(0)?.narrow(0, 0, 3)?.narrow(1, 0, 3)?.flatten_all()?.to_vec1()?)
}

/// Three logits of [1, classes], and the largest one's class.
fn three(logits: &Tensor) -> Result<Vec<f32>> {
    let class = logits.argmax(D::Minus1)?.to_vec1::<u32>()?[0];
    let mut values = logits.squeeze(0)?.narrow(0, 0, 3)?.to_vec1()?;
    values.push(class as f32);
    Ok(values)
}

fn named<'a>(tensors: &'a Tensors, name: &str) -> Result<&'a Tensor> {
    let found = tensors.iter().find(|(known, _)| known == name);
    found.map(|(_, tensor)| tensor).ok_or_else(|| anyhow::anyhow!("the weights lack `{name}`"))
}

fn classified(features: &Tensor, tensors: &Tensors) -> Result<Vec<f32>> {
    let logits = features.matmul(&named(tensors, "head.weight")?.t()?)?;
    three(&logits.broadcast_add(named(tensors, "head.bias")?)?)
}

fn backbone(model: &ModelConfig, tensors: &Tensors, final_norm: bool) -> Result<Vit> {
    let params = Params::new(0, &Device::Cpu);
    let vit = Vit::new(model, BackboneUsage { final_norm, ..BackboneUsage::default() }, params.builder())?;
    load_backbone(&params, tensors, model, None)?;
    Ok(vit)
}

/// Predictions of MAE for the patches that `noise` leaves visible.
fn reconstructed(
    model: &ModelConfig,
    tensors: &Tensors,
    images: &Tensor,
    noise: Vec<f32>,
) -> Result<Vec<f32>> {
    let options: MaeOptions = parse(
        "mask_ratio = 0.75\nmask = \"random\"\ntarget = \"pixel\"\nloss_on = \"masked\"\n",
        "published",
    )?;
    let params = Params::new(0, &Device::Cpu);
    let objective = MaskedAutoencoder::new(model, &options, None, params.builder())?;
    load_exact(&params, tensors)?;
    let mask = PatchMask::from_noise(&[noise], objective.sampler().kept())?;
    corner(&objective.predict(&patchify(images, model.patch)?, &mask, &mut Pass::Eval)?)
}

fn mae_numpy(model: &ModelConfig, tensors: &Tensors, images: &Tensor) -> Result<Vec<f32>> {
    let (rows, columns) = model.grid();
    reconstructed(model, tensors, images, noise::numpy(2, rows * columns))
}

fn mae_torch(model: &ModelConfig, tensors: &Tensors, images: &Tensor) -> Result<Vec<f32>> {
    let (rows, columns) = model.grid();
    reconstructed(model, tensors, images, noise::torch(2, rows * columns))
}

fn class_token(model: &ModelConfig, tensors: &Tensors, images: &Tensor) -> Result<Vec<f32>> {
    let features = backbone(model, tensors, true)?.forward(images, &[], &mut Pass::Eval)?;
    let class = features.cls.ok_or_else(|| anyhow::anyhow!("no class feature"))?;
    classified(&class, tensors)
}

fn tokens(model: &ModelConfig, tensors: &Tensors, images: &Tensor) -> Result<Vec<f32>> {
    let vit = backbone(model, tensors, true)?;
    let x = vit.with_positions(&vit.embed(&vit.patches(images)?)?)?;
    let normed = vit.encode(x, &mut Pass::Eval)?;
    corner(&normed.ok_or_else(|| anyhow::anyhow!("no final norm"))?)
}

/// BEiT's classifier: the mean of the patches, normalised.
fn pooled(model: &ModelConfig, tensors: &Tensors, images: &Tensor) -> Result<Vec<f32>> {
    let features = backbone(model, tensors, false)?.forward(images, &[model.depth - 1], &mut Pass::Eval)?;
    let mean = features.taps[0].mean(1)?; // [1, C]
    let centred = mean.broadcast_sub(&mean.mean_keepdim(1)?)?;
    let deviation = (centred.sqr()?.mean_keepdim(1)? + model.norm_eps)?.sqrt()?;
    let normed = centred.broadcast_div(&deviation)?.broadcast_mul(named(tensors, "fc_norm.weight")?)?;
    classified(&normed.broadcast_add(named(tensors, "fc_norm.bias")?)?, tensors)
}

/// The first three rows and columns of the logits of three classes [1, K, h, w], of UperNet on BEiT.
fn segmented(model: &ModelConfig, tensors: &Tensors, images: &Tensor) -> Result<Vec<f32>> {
    let (classes, beside) =
        (named(tensors, "decode_head.conv_seg.bias")?, named(tensors, "auxiliary_head.conv_seg.weight")?);
    let names = (0..classes.dim(0)?).map(|k| k.to_string()).collect();
    let training = format!("dropout = 0.0\nauxiliary = {{ weight = 0.4, channels = {} }}\n", beside.dim(1)?);
    let task = SegmentationTask::new(
        Default::default(),
        parse(&training, "published")?,
        &DatasetInfo { classes: names, ..DatasetInfo::default() },
    )?;
    let params = Params::new(0, &Device::Cpu);
    let vit = Vit::new(model, BackboneUsage::default(), params.builder())?;
    let (width, depth, patch) = (model.width, model.depth, model.patch);
    let head = task.head(&BackboneSpec { width, depth, patch }, params.builder())?;
    load_model(&params, tensors, model)?;
    let logits = head.logits(&vit.forward(images, head.taps(), &mut Pass::Eval)?)?;
    Ok(logits.i((0, ..3, ..3, ..3))?.flatten_all()?.to_vec1()?)
}

/// BEiT's tokens of an image that is masked altogether.
fn masked(model: &ModelConfig, tensors: &Tensors, images: &Tensor) -> Result<Vec<f32>> {
    let vocabulary = named(tensors, "lm_head.bias")?.dim(0)?;
    let sizes =
        DvaeSizes { vocabulary, hidden: 4, groups: 1, blocks: 1, embedding: 1, channels: model.channels };
    let encoder = Encoder::new(&sizes, Params::new(0, &Device::Cpu).builder())?; // gives no target here
    let tokenizer = Arc::new(Tokenizer { sizes, encoder, decoder: None });
    let params = Params::new(0, &Device::Cpu);
    let options = BeitOptions { masked: 1, tokenizer: None };
    let objective = Beit::new(model, &options, 0., tokenizer, params.builder())?;
    load_exact(&params, tensors)?;
    let (rows, columns) = model.grid();
    let masks = [vec![true; rows * columns]];
    corner(&objective.logits(images, &masks, &[0, 1, 2], &mut Pass::Eval)?.unsqueeze(0)?)
}

const CATS: &str = "000000039769";
const FOX: &str = "fox";
/// Image 0 of the data set hf-internal-testing/fixtures_ade20k.
const STREET: &str = "fixtures_ade20k";
/// Statistics of ViT and BEiT.
const HALF: &str = "normalize = { mean = [0.5, 0.5, 0.5], std = [0.5, 0.5, 0.5] }\n";
const BEIT: &str =
    "absolute_positions = false\nrelative_positions = true\nlayer_scale = 0.1\nkey_bias = false\n";

/// A model of transformers, whose norms have ε 1e-12.
fn model(side: usize, patch: usize, (width, depth, heads): (usize, usize, usize), more: &str) -> String {
    format!(
        "image = [{side}, {side}]\npatch = {patch}\nwidth = {width}\ndepth = {depth}\nheads = {heads}\n\
         norm_eps = 1e-12\n{more}"
    )
}

const SMALL: (usize, usize, usize) = (384, 12, 6);
const BASE: (usize, usize, usize) = (768, 12, 12);
const LARGE: (usize, usize, usize) = (1024, 24, 16);
const HUGE: (usize, usize, usize) = (1280, 32, 16);

fn compare(slice: &Slice) {
    if let Err(error) = check(slice, &Places::of_environment()) {
        panic!("{error:#}");
    }
}

fn mae(repository: &'static str, patch: usize, sizes: (usize, usize, usize), expected: [f32; 9]) {
    let (image, compute): (_, fn(&ModelConfig, &Tensors, &Tensor) -> _) = (FOX, mae_torch);
    let (model, expected) = (model(224, patch, sizes, ""), expected.to_vec());
    compare(&Slice { repository, image, model, compute, expected, tolerance: 1e-4 });
}

#[test]
#[ignore = "needs published weights in BENCH_WEIGHTS or on the Hub: `cargo test --release -- --ignored published`"]
fn mae_on_cats() {
    compare(&Slice {
        repository: "facebook/vit-mae-base",
        image: CATS,
        model: model(224, 16, BASE, ""),
        compute: mae_numpy,
        expected: vec![-0.0548, -1.7023, -0.9325, 0.3721, -0.5670, -0.2233, 0.8235, -1.3878, -0.3524],
        tolerance: 1e-4,
    });
}

#[test]
#[ignore = "needs published weights in BENCH_WEIGHTS or on the Hub: `cargo test --release -- --ignored published`"]
fn mae_on_a_fox() {
    let base = [-0.9192, -0.8481, -1.1259, -1.1349, -1.0034, -1.2599, -1.1757, -1.0429, -1.2726];
    let large = [-0.7309, -0.7128, -1.0169, -1.0161, -0.9058, -1.1878, -1.0478, -0.9411, -1.1911];
    let huge = [-1.1599, -0.9199, -1.2221, -1.1952, -0.9269, -1.2307, -1.2143, -0.9337, -1.2262];
    mae("facebook/vit-mae-base", 16, BASE, base);
    mae("facebook/vit-mae-large", 16, LARGE, large);
    mae("facebook/vit-mae-huge", 14, HUGE, huge);
}

#[test]
#[ignore = "needs published weights in BENCH_WEIGHTS or on the Hub: `cargo test --release -- --ignored published`"]
fn vit_and_dino_on_cats() {
    compare(&Slice {
        repository: "google/vit-base-patch16-224",
        image: CATS,
        model: model(224, 16, BASE, HALF),
        compute: |model, tensors, images| Ok(class_token(model, tensors, images)?[..3].to_vec()),
        expected: vec![-0.2744, 0.8215, -0.0836],
        tolerance: 1e-4,
    });
    compare(&Slice {
        repository: "facebook/dino-vits8",
        image: CATS,
        model: model(480, 8, SMALL, ""),
        compute: tokens,
        expected: vec![4.2325, 4.3882, -6.6678, 4.5372, 1.8933, -6.7355, 4.4454, 0.8514, -5.8747],
        tolerance: 1e-3,
    });
}

#[test]
#[ignore = "needs published weights in BENCH_WEIGHTS or on the Hub: `cargo test --release -- --ignored published`"]
fn beit_predicts_tokens_of_cats() {
    compare(&Slice {
        repository: "microsoft/beit-base-patch16-224-pt22k",
        image: CATS,
        model: model(224, 16, BASE, &format!("{BEIT}{HALF}")),
        compute: masked,
        expected: vec![-3.2437, 0.5072, -13.9174, -3.2456, 0.4948, -13.9401, -3.2033, 0.5121, -13.8550],
        tolerance: 1e-2,
    });
}

#[test]
#[ignore = "needs published weights in BENCH_WEIGHTS or on the Hub: `cargo test --release -- --ignored published`"]
fn beit_classifies_cats() {
    for (repository, side, sizes, expected, tolerance) in [
        ("microsoft/beit-base-patch16-224", 224, BASE, [-1.2385, -1.0987, -1.0108, 281.], 1e-4),
        ("microsoft/beit-large-patch16-224-pt22k-ft22k", 224, LARGE, [1.6881, -0.2787, 0.5901, 2396.], 1e-4),
        ("microsoft/beit-base-patch16-224-pt22k-ft22k", 224, BASE, [2.2288, 2.4671, 0.7395, 2397.], 1e-3),
        ("microsoft/beit-base-patch16-384", 384, BASE, [-1.5303, -0.9484, -0.3147, 761.], 1e-3),
        ("microsoft/beit-large-patch16-224", 224, LARGE, [0.4610, -0.0928, 0.2086, 761.], 1e-3),
        ("microsoft/beit-large-patch16-384", 384, LARGE, [-0.5122, 0.5117, -0.2113, 761.], 1e-3),
        ("microsoft/beit-large-patch16-512", 512, LARGE, [-0.3062, 0.7261, 0.4852, 761.], 1e-3),
    ] {
        let (model, expected) = (model(side, 16, sizes, &format!("{BEIT}{HALF}")), expected.to_vec());
        compare(&Slice { repository, image: CATS, model, compute: pooled, expected, tolerance });
    }
}

#[test]
#[ignore = "needs published weights in BENCH_WEIGHTS or on the Hub: `cargo test --release -- --ignored published`"]
fn beit_segments_a_street() {
    let base = [
        -4.8960, -2.3688, -3.0355, -2.8478, -0.9836, -1.7418, -2.9449, -1.3332, -2.1456, // class 0
        -5.8081, -3.4124, -4.1006, -3.8561, -2.2081, -3.0323, -3.8365, -2.4601, -3.3669, // 1
        -0.0309, 3.9868, 4.0540, 2.9640, 4.6877, 4.9976, 3.2081, 4.7690, 4.9942, // 2
    ];
    let large = [
        -4.3305, -2.3049, -3.0161, -2.9591, -1.5305, -2.2251, -3.4198, -1.8004, -2.9062, // class 0
        -5.8922, -3.7435, -4.3978, -4.2063, -2.7872, -3.4755, -4.2791, -3.1874, -4.1681, // 1
        0.9895, 4.3467, 4.7663, 4.2476, 5.6830, 6.1518, 4.5550, 6.2495, 6.5154, // 2
    ];
    for (repository, sizes, expected, tolerance) in [
        ("microsoft/beit-base-finetuned-ade-640-640", BASE, base, 1e-4),
        ("microsoft/beit-large-finetuned-ade-640-640", LARGE, large, 1e-3),
    ] {
        let (model, expected) = (model(640, 16, sizes, &format!("{BEIT}{HALF}")), expected.to_vec());
        compare(&Slice { repository, image: STREET, model, compute: segmented, expected, tolerance });
    }
}

/// A slice of a made-up repository: a file of `tests/golden/dialects`.
fn made_up(
    folder: &Path,
    file: &str,
    more: &str,
    compute: fn(&ModelConfig, &Tensors, &Tensor) -> Result<Vec<f32>>,
) -> Slice {
    let golden = crate::program::repository().join("tests/golden/dialects").join(file);
    let place = folder.join("made/up");
    std::fs::create_dir_all(&place).unwrap();
    std::fs::copy(golden, place.join("model.safetensors")).unwrap();
    let picture = image::RgbImage::from_fn(20, 30, |x, y| image::Rgb([10 * x as u8, 8 * y as u8, 100]));
    picture.save(folder.join("made.png")).unwrap();
    let decoder = "decoder = { width = 8, depth = 1, heads = 2 }\n";
    let (side, patch, sizes) =
        if file.starts_with("dense/") { (48, 8, (8, 4, 2)) } else { (24, 4, (16, 2, 2)) };
    let model = model(side, patch, sizes, &format!("{more}{decoder}"));
    Slice { repository: "made/up", image: "made", model, compute, expected: vec![], tolerance: 1e-4 }
}

#[test]
fn what_is_not_there_is_skipped_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let places = Places { folders: vec![folder.path().into()], hub: false };
    let slice = made_up(folder.path(), "vit.safetensors", "", class_token);
    assert!(values(&slice, &places).unwrap().is_ok());
    std::fs::remove_file(folder.path().join("made/up/model.safetensors")).unwrap();
    let reason = values(&slice, &places).unwrap().unwrap_err();
    assert!(
        reason.contains("no `made/up/model.safetensors` or") && reason.contains("BENCH_WEIGHTS"),
        "{reason}"
    );
    std::fs::remove_file(folder.path().join("made.png")).unwrap();
    let reason = values(&slice, &places).unwrap().unwrap_err();
    assert!(reason.contains("no `made.png` or `made.jpg`"), "{reason}");
    assert!(!check(&slice, &places).unwrap());
}

#[test]
fn other_values_than_the_published_ones_fail() {
    type Compute = fn(&ModelConfig, &Tensors, &Tensor) -> Result<Vec<f32>>;
    let cases: [(&str, &str, Compute); 6] = [
        ("vit_mae.safetensors", "", mae_numpy),
        ("vit_mae.safetensors", "", mae_torch),
        ("vit.safetensors", "", class_token),
        ("vit.safetensors", "", tokens),
        ("beit.safetensors", BEIT, masked),
        (
            "dense/upernet.safetensors",
            "relative_positions = true\nlayer_scale = 0.3\nkey_bias = false\n",
            segmented,
        ),
    ];
    for (file, more, compute) in cases {
        let folder = tempfile::tempdir().unwrap();
        let places = Places { folders: vec![folder.path().into()], hub: false };
        let mut slice = made_up(folder.path(), file, more, compute);
        slice.expected = values(&slice, &places).unwrap().unwrap();
        assert!(slice.expected.len() >= 4 && slice.expected.iter().all(|value| value.is_finite()), "{file}");
        assert!(check(&slice, &places).unwrap(), "{file}");
        for wrong in [slice.expected[1] + 2e-4, f32::NAN] {
            let right = std::mem::replace(&mut slice.expected[1], wrong);
            let error = check(&slice, &places).unwrap_err().to_string();
            assert!(error.contains("made/up") && error.contains("they differ by"), "{error}");
            slice.expected[1] = right;
        }
        // Another image, another value.
        image::RgbImage::new(20, 30).save(folder.path().join("made.png")).unwrap();
        let other = values(&slice, &places).unwrap().unwrap();
        assert!(compute as usize == masked as Compute as usize || other != slice.expected, "{file}");
    }
}
