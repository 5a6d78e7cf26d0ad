//! A complete external kind of task, which uses only `bench::prelude` (and candle, schemars, serde and anyhow). It predicts
//! a number for each image.

use crate::program::{Sandbox, fixture};
use anyhow::Result;
use bench::prelude::*;
use candle_core::Tensor;
use candle_nn::VarBuilder;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

struct Brightness {
    offset: f32,
}

#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Options {
    offset: f32,
}

#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct HeadConfig {}

/// The target: a synthetic number that depends on the class.
#[derive(Clone)]
struct Level(f32);

impl Geometric for Level {
    fn apply(&mut self, _: &Geometry) {}
}

struct LevelHead {
    taps: Vec<usize>,
    linear: Linear,
}

impl Head for LevelHead {
    type Target = Level;
    type Prediction = f32;

    fn taps(&self) -> &[usize] {
        &self.taps
    }

    fn loss(&self, features: &Features, batch: &Batch<Level>, _: &mut Pass) -> candle_core::Result<Losses> {
        let found = self.linear.forward(&features.taps[0].mean(1)?)?.squeeze(1)?;
        let wanted: Vec<f32> = batch.targets.iter().map(|level| level.0).collect();
        let wanted = Tensor::new(wanted, found.device())?;
        Ok(Losses::of("squared_error", (found - wanted)?.sqr()?.mean_all()?))
    }

    fn predict(&self, features: &Features, _: &[SourceTransform]) -> candle_core::Result<Vec<f32>> {
        self.linear.forward(&features.taps[0].mean(1)?)?.squeeze(1)?.to_vec1()
    }
}

#[derive(Default)]
struct MeanError {
    sum: f64,
    count: usize,
}

impl Metric for MeanError {
    type Target = Level;
    type Prediction = f32;

    fn update(&mut self, _: &SampleId, prediction: f32, target: &Level) -> Result<(), MetricError> {
        self.sum += f64::from((prediction - target.0).abs());
        self.count += 1;
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Scores, MetricError> {
        let mut scores = Scores::default();
        scores.insert("mae", self.sum / self.count as f64, None);
        Ok(scores)
    }
}

impl Task for Brightness {
    const KIND: &'static str = "brightness";
    type Options = Options;
    type HeadConfig = HeadConfig;
    type Target = Level;
    type Prediction = f32;
    type Head = LevelHead;

    fn new(options: Options, _: HeadConfig, _: &DatasetInfo) -> Result<Self> {
        Ok(Self { offset: options.offset })
    }

    fn scores(&self) -> &[ScoreSpec] {
        &[ScoreSpec { name: "mae", unit: Unit::Plain, better: Better::Lower }]
    }

    fn target(&self, entry: &Entry) -> Result<Level> {
        match entry.annotation {
            Annotation::Label(label) => Ok(Level(self.offset + label as f32 / 10.)),
            _ => anyhow::bail!("`{}` has no label", entry.id),
        }
    }

    fn head(&self, backbone: &BackboneSpec, params: VarBuilder) -> candle_core::Result<LevelHead> {
        let linear = Linear::new(backbone.width, 1, params.pp("level"))?;
        Ok(LevelHead { taps: vec![backbone.depth - 1], linear })
    }

    fn metric(&self) -> Box<dyn Metric<Target = Level, Prediction = f32>> {
        Box::<MeanError>::default()
    }

    fn perfect(&self, target: &Level) -> f32 {
        target.0
    }
}

const TASK: &str = r#"
name = "levels"
version = 1
kind = "brightness"
dataset = "shapes"
primary = "mae"
recipe = "levels"
[splits]
train = "train"
eval = "val"
[options]
offset = 3.0
[[eval]]
op = "resize"
"#;

const RECIPE: &str = r#"
default_model = "vit_tiny_test"
epochs = 30
batch = 5
[optim]
name = "adamw"
base_lr = 0.2
betas = [0.9, 0.99]
weight_decay = 0.0
[schedule]
name = "constant"
[[augment]]
op = "resize"
[transfer]
tune = "all"
"#;

#[test]
fn an_external_kind_has_the_whole_program() {
    let sandbox = Sandbox::new();
    sandbox.write("mine/tasks/levels/task.toml", TASK);
    sandbox.write("mine/configs/transfer/levels.toml", RECIPE);
    let registry = Registry::builtin().with::<Brightness>();
    let path = |name: &str| sandbox.path(name).display().to_string();
    let bench = |words: &[&str]| {
        let include = path("mine");
        let mut args = vec!["bench"];
        args.extend(words);
        args.extend(["--include", include.as_str()]);
        bench::cli::run(&registry, args)
    };
    let (data, runs) = (fixture("shapes"), path("runs"));
    let transfer = [
        "transfer",
        "--task",
        "levels",
        "--init",
        "scratch",
        "--data",
        &data,
        "--runs",
        &runs,
        "--workers",
        "1",
    ];
    assert_eq!(bench(&transfer), 0);

    let record = std::fs::read_to_string(sandbox.only_run("runs").join("run.json")).unwrap();
    let record: serde_json::Value = serde_json::from_str(&record).unwrap();
    let mae = record["scores"]["mae"]["value"].as_f64().unwrap();
    assert!(mae < 1., "learnt nothing: mean error {mae} of levels from 3 to 4");
    assert_eq!((record["primary"].as_str(), record["task"].as_str()), (Some("mae"), Some("levels")));

    let id = record["id"].as_str().unwrap();
    assert_eq!(bench(&["eval", id, "--data", &data, "--runs", &runs]), 0);
    assert_eq!(bench(&["task", "check", "levels"]), 0);
    // Without the kind, the same manifest is refused.
    let builtin = Registry::builtin();
    let include = path("mine");
    assert_eq!(bench::cli::run(&builtin, ["bench", "task", "check", "levels", "--include", &include]), 2);
}

#[test]
fn a_kind_is_registered_once() {
    let registry = Registry::empty().with::<Brightness>().with::<Brightness>();
    let error = registry.check().unwrap_err().to_string();
    assert!(error.contains("kind `brightness`: is registered twice"), "{error}");
    assert_eq!(bench::cli::run(&registry, ["bench", "task", "list"]), 2);
}
