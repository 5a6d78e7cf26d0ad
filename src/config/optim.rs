//! `[optim]` and `[schedule]` of a recipe: the optimiser, and its learning rate over time.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OptimName {
    Adamw,
    Sgd,
    Lars,
}

/// The optimiser. lr = base_lr · batch / 256.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Optim {
    pub name: OptimName,
    /// Learning rate at an effective batch of 256.
    pub base_lr: f64,
    /// AdamW's β1, β2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub betas: Option<[f64; 2]>,
    /// AdamW's ε.
    #[serde(default = "adam_eps")]
    pub eps: f64,
    /// SGD and LARS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub momentum: Option<f64>,
    /// LARS's trust coefficient.
    #[serde(default = "trust")]
    pub trust: f64,
    pub weight_decay: f64,
    /// Layer-wise lr decay: lr scale = layer_decay^(depth + 1 − layer). 1 = off.
    #[serde(default = "one")]
    pub layer_decay: f64,
    /// What weight decay spares.
    #[serde(default, skip_serializing_if = "Exempt::is_usual")]
    pub exempt: Exempt,
    /// Parameters that it spares besides, by exact name.
    #[serde(default)]
    pub no_decay: Vec<String>,
}

impl Optim {
    pub(super) fn check(&self) -> Result<(), String> {
        positive("optim.base_lr", self.base_lr)?;
        positive("optim.layer_decay", self.layer_decay)?;
        match self.betas.iter().flatten().find(|beta| !(0. ..1.).contains(*beta)) {
            Some(beta) => Err(format!("optim.betas holds {beta}, expected 0 ≤ β < 1")),
            None => Ok(()),
        }
    }
}

/// Which parameters weight decay spares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Exempt {
    /// Tensors of one dimension and biases: MAE, BEiT, timm.
    #[default]
    OneDimensional,
    /// Weights and biases of norms: detectron2.
    Norms,
    Nothing,
}

impl Exempt {
    fn is_usual(&self) -> bool {
        *self == Self::OneDimensional
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleName {
    Cosine,
    Step,
    Polynomial,
    Constant,
}

/// Learning rate over time, per step: linear warm-up, then decay.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    pub name: ScheduleName,
    #[serde(default)]
    pub warmup_epochs: f64,
    /// Learning rate at the first step of warm-up.
    #[serde(default)]
    pub warmup_from: f64,
    /// Learning rate at the end (not scaled by the batch).
    #[serde(default)]
    pub min_lr: f64,
    /// `step`: fractions of the run after which lr is multiplied by `gamma`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub milestones: Vec<f64>,
    /// `step`: the factor at each milestone.
    #[serde(default = "tenth")]
    pub gamma: f64,
    /// `polynomial`: the exponent.
    #[serde(default = "one")]
    pub power: f64,
}

impl Schedule {
    pub(super) fn check(&self) -> Result<(), String> {
        let warmup = self.warmup_epochs;
        if !(warmup.is_finite() && warmup >= 0.) {
            return Err(format!("schedule.warmup_epochs is {warmup}, expected 0 or more"));
        }
        Ok(())
    }
}

/// Refuses a `value` of `key` that is not positive and finite.
pub(super) fn positive(key: &str, value: f64) -> Result<(), String> {
    if value.is_finite() && value > 0. {
        return Ok(());
    }
    Err(format!("{key} is {value}, expected a positive number"))
}

fn adam_eps() -> f64 {
    1e-8
}
fn trust() -> f64 {
    1e-3
}
fn one() -> f64 {
    1.
}
fn tenth() -> f64 {
    0.1
}
