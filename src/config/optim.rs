//! `[optim]` and `[schedule]` of a recipe: the optimiser, and its learning rate over time.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The optimisers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OptimName {
    /// AdamW (arXiv:1711.05101).
    Adamw,
    /// Stochastic gradient descent with momentum.
    Sgd,
    /// LARS (arXiv:1708.03888), for linear probes.
    Lars,
}

/// The optimiser. Its peak learning rate is base_lr · batch / 256, or `lr`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Optim {
    /// Which optimiser.
    pub name: OptimName,
    /// Learning rate at an effective batch of 256.
    pub base_lr: f64,
    /// Peak learning rate, whatever the batch, instead of `base_lr`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lr: Option<f64>,
    /// AdamW's β1, β2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub betas: Option<[f64; 2]>,
    /// AdamW's ε.
    #[serde(default = "adam_eps")]
    pub eps: f64,
    /// Momentum of SGD and LARS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub momentum: Option<f64>,
    /// LARS's trust coefficient.
    #[serde(default = "trust")]
    pub trust: f64,
    /// Weight decay at the beginning of the run; for all of it when `weight_decay_end` is absent.
    pub weight_decay: f64,
    /// Weight decay at the end of the run, which it reaches along half a cosine; constant when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight_decay_end: Option<f64>,
    /// Layer-wise lr decay: lr scale = layer_decay^(depth + 1 − layer). 1 = off.
    #[serde(default = "one")]
    pub layer_decay: f64,
    /// Which parameters are exempt from weight decay.
    #[serde(default, skip_serializing_if = "Exempt::is_usual")]
    pub exempt: Exempt,
    /// Further parameters that are exempt from weight decay, by exact name.
    #[serde(default)]
    pub no_decay: Vec<String>,
}

impl Optim {
    pub(super) fn check(&self) -> Result<(), String> {
        positive("optim.base_lr", self.base_lr)?;
        positive("optim.lr", self.lr.unwrap_or(1.))?;
        positive("optim.layer_decay", self.layer_decay)?;
        if let Some(end) = self.weight_decay_end {
            if !(end.is_finite() && end >= 0.) {
                return Err(format!("optim.weight_decay_end is {end}, expected 0 or more"));
            }
            if self.weight_decay <= 0. {
                return Err("optim.weight_decay_end needs a weight_decay above 0 to start from".into());
            }
        }
        match self.betas.iter().flatten().find(|beta| !(0. ..1.).contains(*beta)) {
            Some(beta) => Err(format!("optim.betas holds {beta}, expected 0 ≤ β < 1")),
            None => Ok(()),
        }
    }
}

/// Which parameters are exempt from weight decay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Exempt {
    /// Tensors of one dimension and biases: MAE, BEiT, timm.
    #[default]
    OneDimensional,
    /// Weights and biases of norms: detectron2, but for the channel-wise layer norms of ViTDet.
    Norms,
    /// Weights and biases of the norms in the blocks of the backbone: detectron2's ViTDet. The norms of its pyramid and
    /// heads are not of a class that detectron2 exempts.
    BlockNorms,
    /// No parameters are exempt: all are decayed.
    Nothing,
}

impl Exempt {
    fn is_usual(&self) -> bool {
        *self == Self::OneDimensional
    }
}

/// How the learning rate decays after warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleName {
    /// Half a cosine down to `min_lr`.
    Cosine,
    /// Multiplied by `gamma` at each of `milestones`.
    Step,
    /// (1 − progress)^`power` down to `min_lr`.
    Polynomial,
    /// Constant: the peak after warm-up.
    Constant,
}

/// Learning rate over time, per step: linear warm-up, then decay.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// Which decay.
    pub name: ScheduleName,
    /// Length of warm-up in epochs.
    #[serde(default)]
    pub warmup_epochs: f64,
    /// Learning rate at the first step of warm-up.
    #[serde(default)]
    pub warmup_from: f64,
    /// The same relative to the peak, instead of `warmup_from`: detectron2's `warmup_factor`, mmsegmentation's
    /// `warmup_ratio`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warmup_ratio: Option<f64>,
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
        match self.warmup_ratio {
            Some(_) if self.warmup_from != 0. => {
                Err("schedule.warmup_from and schedule.warmup_ratio exclude each other".into())
            }
            Some(ratio) if !(0. ..=1.).contains(&ratio) => {
                Err(format!("schedule.warmup_ratio is {ratio}, expected 0 to 1"))
            }
            _ => Ok(()),
        }
    }
}

/// The curve of a [`Ramp`] between its two values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RampName {
    /// Constant: the value `from` throughout.
    Constant,
    /// Along a straight line.
    Linear,
    /// Along half a cosine.
    Cosine,
}

/// A number that changes during training, such as a temperature or the momentum of a teacher:
/// `{ name = "linear", from = 0.04, to = 0.07, epochs = 30 }`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Ramp {
    /// Which curve.
    pub name: RampName,
    /// Value at the beginning.
    pub from: f64,
    /// Value at the end, which it keeps after that; absent for `constant`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<f64>,
    /// Length in epochs; the whole run when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epochs: Option<f64>,
}

impl Ramp {
    /// A constant.
    pub fn constant(value: f64) -> Self {
        Self { name: RampName::Constant, from: value, to: None, epochs: None }
    }

    /// Half a cosine over the whole run.
    pub fn cosine(from: f64, to: f64) -> Self {
        Self { name: RampName::Cosine, from, to: Some(to), epochs: None }
    }

    /// The value after `epoch` epochs, when the share `progress` (0 to 1) of the run is over.
    pub fn at(&self, progress: f64, epoch: f64) -> f64 {
        let x = self.epochs.map_or(progress, |epochs| epoch / epochs).clamp(0., 1.);
        let to = self.to.unwrap_or(self.from);
        match self.name {
            RampName::Constant => self.from,
            RampName::Linear => self.from + (to - self.from) * x,
            RampName::Cosine => to + (self.from - to) * 0.5 * (1. + (std::f64::consts::PI * x).cos()),
        }
    }

    /// Checks the values; `key` names the ramp in messages.
    ///
    /// # Errors
    /// A number that is not finite, `epochs` that is not positive, `to` missing or set for a constant.
    pub fn check(&self, key: &str) -> Result<(), String> {
        if let Some(value) = [Some(self.from), self.to].into_iter().flatten().find(|value| !value.is_finite())
        {
            return Err(format!("{key} holds {value}, expected a number"));
        }
        if let Some(epochs) = self.epochs {
            positive(&format!("{key}.epochs"), epochs)?;
        }
        match (self.name, self.to, self.epochs) {
            (RampName::Constant, None, None) => Ok(()),
            (RampName::Constant, ..) => Err(format!("{key}: a constant has neither `to` nor `epochs`")),
            (_, None, _) => Err(format!("{key} needs the key `to`")),
            _ => Ok(()),
        }
    }
}

/// Fails unless the `value` of `key` is positive and finite.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    fn ramp(text: &str) -> Ramp {
        parse(text, "test").unwrap()
    }

    /// Those of `torch.optim.AdamW` and of LARS (arXiv:1708.03888, `lars.py` of facebookresearch/mae).
    #[test]
    fn what_a_recipe_leaves_out_is_as_in_the_references() {
        let optim: Optim = parse("name = \"adamw\"\nbase_lr = 1.0\nweight_decay = 0.0", "test").unwrap();
        assert_eq!((optim.eps, optim.trust, optim.layer_decay), (1e-8, 1e-3, 1.));
        assert!(optim.exempt.is_usual() && optim.no_decay.is_empty());
        // `torch.optim.lr_scheduler`: gamma of `MultiStepLR`, power of `PolynomialLR`.
        let schedule: Schedule = parse("name = \"step\"", "test").unwrap();
        assert_eq!((schedule.gamma, schedule.power, schedule.warmup_epochs), (0.1, 1., 0.));
    }

    #[test]
    fn warm_up_cannot_be_negative_or_endless() {
        let check = |epochs: &str| {
            let text = format!("name = \"cosine\"\nwarmup_epochs = {epochs}");
            parse::<Schedule>(&text, "test").unwrap().check()
        };
        assert!(check("0.0").is_ok() && check("0.5").is_ok());
        for epochs in ["-1.0", "inf", "nan"] {
            assert!(check(epochs).unwrap_err().contains("warmup_epochs"));
        }
    }

    #[test]
    fn numbers_that_cannot_train_are_named() {
        let check = |key: &str, value: &str| {
            let mut table: toml::Table =
                toml::from_str("name = \"adamw\"\nbase_lr = 1.0\nweight_decay = 0.1").unwrap();
            table.insert(
                key.into(),
                toml::from_str::<toml::Table>(&format!("v = {value}")).unwrap()["v"].clone(),
            );
            parse::<Optim>(&toml::to_string(&table).unwrap(), "test").unwrap().check()
        };
        for (key, value) in [
            ("base_lr", "0.0"),
            ("base_lr", "-1.0"),
            ("base_lr", "inf"),
            ("base_lr", "nan"),
            ("layer_decay", "0.0"),
            ("betas", "[0.9, 1.0]"),
            ("betas", "[-0.1, 0.9]"),
            ("weight_decay_end", "-0.1"),
            ("weight_decay_end", "inf"),
        ] {
            let error = check(key, value).unwrap_err();
            assert!(error.contains(&format!("optim.{key}")), "{key} = {value}: {error}");
        }
        for (key, value) in [("betas", "[0.0, 0.999]"), ("weight_decay_end", "0.0"), ("layer_decay", "0.1")] {
            assert_eq!(check(key, value), Ok(()), "{key} = {value}");
        }
    }

    #[test]
    fn ramps_at_hand_computed_places() {
        let linear = ramp("name = \"linear\"\nfrom = 0.04\nto = 0.07\nepochs = 30");
        for (epoch, expected) in [(0., 0.04), (10., 0.05), (30., 0.07), (99., 0.07)] {
            assert!((linear.at(0.5, epoch) - expected).abs() < 1e-12, "epoch {epoch}");
        }
        let cosine = ramp("name = \"cosine\"\nfrom = 0.996\nto = 1.0");
        for (progress, expected) in [(0., 0.996), (0.5, 0.998), (1., 1.)] {
            assert!((cosine.at(progress, 7.) - expected).abs() < 1e-12, "progress {progress}");
        }
        assert_eq!((cosine.at(1., 0.), cosine), (1., Ramp::cosine(0.996, 1.)));
        assert_eq!(ramp("name = \"constant\"\nfrom = 0.1"), Ramp::constant(0.1));
        assert_eq!(Ramp::constant(0.1).at(0.9, 3.), 0.1);
    }

    #[test]
    fn ramps_that_cannot_work_are_named() {
        let fails = |text: &str| ramp(text).check("objective.temperature").unwrap_err();
        assert!(fails("name = \"linear\"\nfrom = 1.0").contains("objective.temperature needs the key `to`"));
        assert!(fails("name = \"constant\"\nfrom = 1.0\nto = 2.0").contains("a constant has neither"));
        let error = fails("name = \"cosine\"\nfrom = 1.0\nto = 2.0\nepochs = 0.0");
        assert!(error.contains("objective.temperature.epochs is 0"), "{error}");
        assert!(fails("name = \"cosine\"\nfrom = 1.0\nto = inf").contains("inf"));
        assert!(parse::<Ramp>("name = \"linear\"\nfrom = 1.0\nuntil = 2.0", "test").is_err());
    }

    #[test]
    fn warm_up_starts_at_a_rate_or_at_a_ratio() {
        let check = |keys: &str| {
            let schedule: Schedule = parse(&format!("name = \"cosine\"\n{keys}"), "test").unwrap();
            assert_eq!(
                toml::to_string(&schedule).unwrap().contains("ratio"),
                keys.contains("ratio"),
                "{keys}"
            );
            schedule.check()
        };
        assert!(check("warmup_from = 1e-6").is_ok() && check("warmup_ratio = 1e-6").is_ok());
        assert!(check("warmup_from = 1e-6\nwarmup_ratio = 1e-6").unwrap_err().contains("exclude each other"));
        assert!(check("warmup_ratio = 2.0").unwrap_err().contains("schedule.warmup_ratio is 2"));
    }

    #[test]
    fn an_end_of_weight_decay_needs_a_beginning_and_is_not_written_when_absent() {
        let optim = |decay: &str| -> Optim {
            parse(&format!("name = \"adamw\"\nbase_lr = 1.0\n{decay}"), "test").unwrap()
        };
        let plain = optim("weight_decay = 0.05");
        assert!(plain.check().is_ok() && !toml::to_string(&plain).unwrap().contains("weight_decay_end"));
        assert!(optim("weight_decay = 0.05\nweight_decay_end = 0.4").check().is_ok());
        for (decay, part) in [
            ("weight_decay = 0.0\nweight_decay_end = 0.4", "above 0"),
            ("weight_decay = 0.1\nweight_decay_end = -1.0", "-1"),
        ] {
            let error = optim(decay).check().unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }
}
