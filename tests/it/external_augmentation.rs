//! An augmentation of another crate, written with the prelude alone: named in a recipe, checked with it, applied by the
//! threads of the loader.

use crate::program::{Sandbox, fixture};
use bench::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Images that were inverted, and those of them whose thread computes with subnormal numbers.
static APPLIED: AtomicUsize = AtomicUsize::new(0);
static SUBNORMAL: AtomicUsize = AtomicUsize::new(0);

/// Inverts the bright pixels of a share of the images, as BYOL does.
struct Solarize(SolarizeOptions);

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct SolarizeOptions {
    /// Levels from this one up are inverted.
    threshold: u8,
    /// Share of the images.
    #[serde(default = "always")]
    p: f64,
}

fn always() -> f64 {
    1.
}

impl Transform for Solarize {
    fn apply(&self, sample: &mut SampleMut, rng: &mut Rng) -> Result<(), String> {
        if rng.random_bool(self.0.p) {
            for level in sample.image.data.iter_mut().filter(|level| **level >= self.0.threshold) {
                *level = 255 - *level;
            }
            APPLIED.fetch_add(1, Ordering::Relaxed);
            SUBNORMAL.fetch_add(usize::from(!bench::process::flushes_subnormals()), Ordering::Relaxed);
        }
        Ok(())
    }
}

impl Augmentation for Solarize {
    const OP: &'static str = "solarize_bright";
    const RANDOM: bool = true;
    type Options = SolarizeOptions;

    fn new(options: SolarizeOptions, _: &ModelInput) -> Result<Self, AugmentError> {
        if (0. ..=1.).contains(&options.p) {
            return Ok(Self(options));
        }
        let found = options.p.to_string();
        Err(AugmentError::Unexpected { what: "solarize_bright.p", found, expected: "0 to 1" })
    }
}

const RECIPE: &str = r#"
default_model = "vit_tiny_test"
epochs = 1
batch = 4
augment = [{ op = "resize" }, { op = "solarize_bright", threshold = 128 }]
[optim]
name = "adamw"
base_lr = 0.001
betas = [0.9, 0.95]
weight_decay = 0.05
[schedule]
name = "constant"
[pretrain]
objective = "mae"
mask_ratio = 0.75
mask = "random"
target = "norm_pixel"
loss_on = "masked"
"#;

#[test]
fn an_augmentation_of_another_crate_is_applied_by_the_loader() {
    let sandbox = Sandbox::new();
    sandbox.write("mine/configs/pretrain/bright.toml", RECIPE);
    let registry = Registry::builtin().with_augmentation::<Solarize>();
    let path = |name: &str| sandbox.path(name).display().to_string();
    let (include, data, out) = (path("mine"), fixture("shapes"), path("run"));
    let run = |registry: &Registry, recipe: &str| {
        let mut args = vec!["bench", "pretrain", "--dataset", "shapes", "--recipe", recipe];
        args.extend(["--include", &include, "--data", &data, "--workers", "2", "--out", &out]);
        bench::cli::run(registry, args)
    };
    for (wrong, options) in [("value", "threshold = 128, p = 2.0"), ("key", "threshold = 128, level = 2")] {
        let recipe = RECIPE.replace("threshold = 128", options);
        sandbox.write(&format!("mine/configs/pretrain/{wrong}.toml"), &recipe);
        assert_eq!(run(&registry, wrong), 2, "a wrong {wrong}");
    }
    assert_eq!(run(&Registry::builtin(), "bright"), 2, "an operation that is not registered");
    assert!(!sandbox.path("run").exists(), "nothing is written for a wrong request");
    assert_eq!(run(&registry, "bright"), 0);
    assert!(APPLIED.load(Ordering::Relaxed) >= 4);
    assert_eq!(SUBNORMAL.load(Ordering::Relaxed), 0, "threads of the loader flush subnormal numbers");
    let config = std::fs::read_to_string(sandbox.path("run/config.toml")).unwrap();
    assert!(config.contains("p = 1.0"), "defaults are written out:\n{config}");
    let twice = registry.with_augmentation::<Solarize>();
    assert_eq!(bench::cli::run(&twice, ["bench", "recipe", "list"]), 2);
}
