//! `bench` with one more kind of task, `depth`: the distance of every pixel from the camera, from a single image.
//!
//! The head predicts the logarithm of the depth of every pixel and is trained with the scale-invariant loss of Eigen et al.
//! (arXiv:1406.2283). Scores are those of that paper: `abs_rel`, `rmse` and `delta1`, each the mean over images.

use anyhow::{bail, ensure};
use bench::prelude::*;
use candle_core::{DType, Error, Tensor};
use candle_nn::VarBuilder;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::process::ExitCode;

fn main() -> ExitCode {
    bench::cli::main(Registry::builtin().with::<Depth>())
}

/// `[options]` of a task: the evaluation protocol.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Options {
    /// Pixels that are farther away, in metres, are neither trained on nor scored: 10 for NYU Depth v2, 80 for KITTI.
    max_depth: f64,
}

/// `[transfer.head]` of a recipe: how the head is trained.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct HeadConfig {
    /// λ of the scale-invariant loss: 0 is the mean squared error of the logarithm; 1 ignores the scale of the scene.
    #[serde(default = "half")]
    lambda: f64,
}

fn half() -> f64 {
    0.5
}

/// A task of the kind: its protocol and the configuration of its head.
#[derive(Clone, Copy)]
struct Depth {
    max_depth: f64,
    lambda: f64,
}

impl Task for Depth {
    const KIND: &'static str = "depth";
    type Options = Options;
    type HeadConfig = HeadConfig;
    type Target = DenseTarget;
    type Prediction = DenseMap;
    type Head = DepthHead;

    fn new(options: Options, config: HeadConfig, _: &DatasetInfo) -> anyhow::Result<Self> {
        let (Options { max_depth }, HeadConfig { lambda }) = (options, config);
        ensure!(max_depth > 0., "max_depth is {max_depth}, expected a number above 0");
        ensure!((0. ..=1.).contains(&lambda), "transfer.head.lambda is {lambda}, expected 0 to 1");
        Ok(Self { max_depth, lambda })
    }

    fn scores(&self) -> &[ScoreSpec] {
        &[
            ScoreSpec { name: "abs_rel", unit: Unit::Plain, better: Better::Lower },
            ScoreSpec { name: "rmse", unit: Unit::Plain, better: Better::Lower },
            ScoreSpec { name: "delta1", unit: Unit::Percent, better: Better::Higher },
        ]
    }

    fn target(&self, entry: &Entry) -> anyhow::Result<DenseTarget> {
        match &entry.annotation {
            Annotation::DenseMap(file) => Ok(DenseTarget::new(file.read()?, Some(file.clone()))),
            _ => bail!("`{}` has no depth map; use the format `dense_maps`", entry.id),
        }
    }

    fn head(&self, spec: &BackboneSpec, params: VarBuilder) -> Result<DepthHead, Error> {
        Ok(DepthHead {
            taps: vec![spec.depth - 1],
            patch: spec.patch,
            norm: LayerNorm::new(spec.width, 1e-6, params.pp("depth_norm"))?,
            log_depth: Linear::new(spec.width, spec.patch.pow(2), params.pp("log_depth"))?,
            task: *self,
        })
    }

    fn metric(&self) -> Box<dyn Metric<Target = DenseTarget, Prediction = DenseMap>> {
        Box::new(DepthErrors { max_depth: self.max_depth, images: vec![] })
    }

    fn perfect(&self, target: &DenseTarget) -> DenseMap {
        target.source().clone()
    }
}

/// A linear map of the last block's tokens to the logarithm of the depth of each pixel of a patch.
struct DepthHead {
    taps: Vec<usize>,
    patch: usize,
    norm: LayerNorm,
    log_depth: Linear,
    task: Depth,
}

impl DepthHead {
    /// The logarithm of the depth in metres. [B, H, W]
    fn forward(&self, features: &Features) -> Result<Tensor, Error> {
        let patches = self.log_depth.forward(&self.norm.forward(&features.taps[0])?)?; // [B, N, p·p]
        unpatchify(&patches, self.patch, features.grid)?.squeeze(1)
    }
}

impl Head for DepthHead {
    type Target = DenseTarget;
    type Prediction = DenseMap;

    fn taps(&self) -> &[usize] {
        &self.taps
    }

    /// mean(d²) − λ·mean(d)², where d is the error of the logarithm of a pixel with a depth.
    fn loss(&self, features: &Features, batch: &Batch<DenseTarget>, _: &mut Pass) -> Result<Losses, Error> {
        let found = self.forward(features)?;
        let depths: Vec<f32> = batch.targets.iter().flat_map(DenseTarget::values).collect();
        let depths = Tensor::from_vec(depths, found.dims(), found.device())?;
        let valid = (depths.gt(0f32)? * depths.le(self.task.max_depth as f32)?)?; // 0 for NaN
        let error = (found - valid.where_cond(&depths, &depths.ones_like()?)?.log()?)?;
        let valid = valid.to_dtype(DType::F32)?;
        let count = valid.sum_all()?.clamp(1f32, f32::MAX)?;
        let mean = |values: Tensor| (values * &valid)?.sum_all()? / &count;
        let loss = (mean(error.sqr()?)? - (mean(error)?.sqr()? * self.task.lambda)?)?;
        Ok(Losses::of("scale_invariant", loss))
    }

    fn predict(&self, features: &Features, at: &[SourceTransform]) -> Result<Vec<DenseMap>, Error> {
        let depths = self.forward(features)?.exp()?.to_vec3::<f32>()?;
        Ok(depths.iter().zip(at).map(|(depths, at)| in_source(depths, at)).collect())
    }
}

/// `depths` [H, W] of the model's input, looked up at the centre of each pixel of the source image.
fn in_source(depths: &[Vec<f32>], at: &SourceTransform) -> DenseMap {
    let (height, width) = at.source;
    let depth = |i: usize| {
        let (x, y) = at.geometry.point((i % width) as f64 + 0.5, (i / width) as f64 + 0.5);
        let row = &depths[(y as usize).min(depths.len() - 1)]; // `as` turns negative numbers into 0
        row[(x as usize).min(row.len() - 1)]
    };
    DenseMap::new(height, width, (0..height * width).map(depth).collect())
}

/// Accumulates, for each image, the mean relative error, the root of the mean squared error in metres, and the
/// percentage of pixels whose depth is wrong by a factor below 1.25.
struct DepthErrors {
    max_depth: f64,
    images: Vec<[f64; 3]>,
}

impl Metric for DepthErrors {
    type Target = DenseTarget;
    type Prediction = DenseMap;

    fn update(&mut self, _: &SampleId, found: DenseMap, target: &DenseTarget) -> Result<(), MetricError> {
        let (mut sums, mut count) = ([0.; 3], 0.);
        for (found, depth) in found.values.iter().zip(&target.source().values) {
            let (found, depth) = (f64::from(*found), f64::from(*depth));
            if depth > 0. && depth <= self.max_depth {
                sums[0] += (found - depth).abs() / depth;
                sums[1] += (found - depth).powi(2);
                sums[2] += if (found / depth).max(depth / found) < 1.25 { 100. } else { 0. };
                count += 1.;
            }
        }
        if count > 0. {
            let [relative, squared, close] = sums.map(|sum| sum / count);
            self.images.push([relative, squared.sqrt(), close]);
        }
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Scores, MetricError> {
        if self.images.is_empty() {
            return Err(MetricError::Scoring(format!("no image has a depth up to {} m", self.max_depth)));
        }
        let mut scores = Scores::default();
        for (i, name) in ["abs_rel", "rmse", "delta1"].into_iter().enumerate() {
            let sum: f64 = self.images.iter().map(|errors| errors[i]).sum();
            scores.insert(name, sum / self.images.len() as f64, None);
        }
        Ok(scores)
    }
}
