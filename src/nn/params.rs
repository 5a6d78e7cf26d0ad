//! [`Params`]: ordered, named, seeded trainable variables behind candle's `VarBuilder`.

use crate::ops::Precision;
use crate::rng::Rng;
use candle_core::{DType, Device, Result, Shape, Tensor, Var};
use candle_nn::{Init, VarBuilder, var_builder::SimpleBackend};
use rand_distr::{Distribution, Normal, Uniform};
use std::sync::{Arc, Mutex, MutexGuard};

/// Prefix of the names of a teacher's parameters.
pub(super) const TEACHER: &str = "teacher.";

/// One variable of a model.
#[derive(Clone, Debug)]
pub struct Parameter {
    /// Its name, also in files of weights: `blocks.0.norm1.weight`.
    pub name: String,
    /// Its values, f32.
    pub var: Var,
    /// Whether the optimiser updates it. Buffers (running statistics, fixed positions) and frozen weights are not
    /// updated.
    pub trainable: bool,
}

/// All variables of a model, in order of creation. Cloning shares them.
///
/// Initial values are a function of (seed, name, shape), so they do not depend on the order in which
/// layers are built. Creating two parameters with the same name is an error.
#[derive(Clone)]
pub struct Params {
    seed: u64,
    device: Device,
    precision: Precision,
    list: Arc<Mutex<Vec<Parameter>>>,
}

impl Params {
    /// No parameters yet. Initial values depend on `seed`.
    pub fn new(seed: u64, device: &Device) -> Self {
        Self { seed, device: device.clone(), precision: Precision::F32, list: Arc::default() }
    }

    /// The same parameters for layers that compute in `precision`.
    pub fn computing_in(self, precision: Precision) -> Self {
        Self { precision, ..self }
    }

    /// The builder that creates parameters here, in f32. Its dtype is the one that layers compute in.
    pub fn builder(&self) -> VarBuilder<'static> {
        VarBuilder::from_backend(Box::new(self.clone()), self.precision.dtype(), self.device.clone())
    }

    /// The seed of the initial values.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The device of all parameters.
    pub fn device(&self) -> &Device {
        &self.device
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Parameter>> {
        self.list.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// All parameters in order of creation.
    pub fn all(&self) -> Vec<Parameter> {
        self.lock().clone()
    }

    /// The parameters that the optimiser updates, in order of creation.
    pub fn trainable(&self) -> Vec<Parameter> {
        self.lock().iter().filter(|p| p.trainable).cloned().collect()
    }

    /// The parameter of this name, if there is one.
    pub fn get(&self, name: &str) -> Option<Parameter> {
        self.lock().iter().find(|p| p.name == name).cloned()
    }

    /// Decides for every parameter whether it is trained. Running statistics, fitted targets and teachers never are.
    pub fn set_trainable(&self, decide: impl Fn(&str) -> bool) {
        for p in self.lock().iter_mut() {
            p.trainable = !is_buffer(&p.name) && decide(&p.name);
        }
    }

    /// Number of values, trainable or not.
    pub fn count(&self) -> usize {
        self.lock().iter().map(|p| p.var.elem_count()).sum()
    }
}

/// State that is saved with the weights but never learnt: running statistics, and what is fitted once to
/// make the targets of pre-training (everything under `target.`), and a teacher that is a moving average (`teacher.`).
fn is_buffer(name: &str) -> bool {
    matches!(name.rsplit('.').next(), Some("running_mean" | "running_var"))
        || ["target.", TEACHER].iter().any(|prefix| name.starts_with(prefix))
}

impl SimpleBackend for Params {
    fn get(&self, shape: Shape, name: &str, init: Init, _: DType, device: &Device) -> Result<Tensor> {
        if self.get(name).is_some() {
            candle_core::bail!("parameter `{name}` is created twice");
        }
        let values = draw(&init, &shape, &mut Rng::new(self.seed, name, &[]))?;
        let tensor = match values {
            Some(values) => Tensor::from_vec(values, shape, device)?,
            None => Tensor::zeros(shape, DType::F32, device)?,
        };
        let var = Var::from_tensor(&tensor)?;
        let tensor = var.as_tensor().clone();
        self.lock().push(Parameter { name: name.to_string(), var, trainable: !is_buffer(name) });
        Ok(tensor)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> Result<Tensor> {
        match self.get(name) {
            Some(p) => Ok(p.var.as_tensor().clone()),
            None => candle_core::bail!("no parameter `{name}`"),
        }
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.get(name).is_some()
    }
}

/// Values of an initialisation; `None` for zeros.
fn draw(init: &Init, shape: &Shape, rng: &mut Rng) -> Result<Option<Vec<f32>>> {
    let count = shape.elem_count();
    let sample = |d: &mut dyn FnMut() -> f64| (0..count).map(|_| d() as f32).collect::<Vec<_>>();
    let bad = |e: &dyn std::fmt::Display| candle_core::Error::Msg(format!("initialisation: {e}"));
    Ok(match init {
        Init::Const(0.) => None,
        Init::Const(value) => Some(vec![*value as f32; count]),
        Init::Randn { mean, stdev } => {
            let d = Normal::new(*mean, *stdev).map_err(|e| bad(&e))?;
            Some(sample(&mut || d.sample(rng)))
        }
        Init::Uniform { lo, up } => {
            let d = Uniform::new(*lo, *up).map_err(|e| bad(&e))?;
            Some(sample(&mut || d.sample(rng)))
        }
        Init::Kaiming { .. } => {
            candle_core::bail!("Kaiming initialisation must be implemented by the layer that needs it")
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_depend_on_name_and_seed_only_and_names_are_unique() -> Result<()> {
        let randn = Init::Randn { mean: 0., stdev: 1. };
        let make = |seed, names: &[&str]| -> Result<Vec<f32>> {
            let params = Params::new(seed, &Device::Cpu);
            for name in names {
                params.builder().get_with_hints(3, name, randn)?;
            }
            params.get("b").unwrap().var.to_vec1()
        };
        assert_eq!(make(0, &["a", "b"])?, make(0, &["b", "a"])?);
        assert_ne!(make(0, &["b"])?, make(1, &["b"])?);
        let error = make(0, &["b", "b"]).unwrap_err().to_string();
        assert!(error.contains("`b` is created twice"), "{error}");
        Ok(())
    }
}
