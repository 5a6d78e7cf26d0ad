//! Optimisers, parameter groups, schedules, gradient arithmetic and weight averaging.
//!
//! candle-nn's optimisers know one learning rate for all variables, keep their moments to
//! themselves and allocate several copies of the model in every step. Here a step updates the
//! variables, their moments and their moving average in place, in one pass over memory, every
//! parameter has its own learning-rate scale and weight decay, and all state can be saved and
//! restored exactly. State is f32, on CPU or CUDA.

mod adamw;
mod ema;
mod gradients;
mod groups;
mod lars;
mod schedule;
mod sgd;
mod storage;
mod update;

pub use adamw::AdamW;
pub use ema::Ema;
pub use gradients::{Gradients, clip_factor};
pub use groups::{ParamGroup, param_groups};
pub use lars::Lars;
pub use schedule::{LrSchedule, WeightDecaySchedule};
pub use sgd::Sgd;

use crate::config::{Optim, OptimName};
use candle_core::{Result, Tensor};

/// The arguments of one step of an optimiser.
pub struct Step<'a> {
    /// Learning rate, which each parameter's `lr_scale` multiplies.
    pub lr: f64,
    /// Multiplies all gradients: the mean over micro-batches, and [`clip_factor`].
    pub scale: f64,
    /// Multiplies the weight decay of every group: 1 without a schedule, else [`WeightDecaySchedule::scale_at`].
    pub weight_decay_scale: f64,
    /// Moving average that takes in the new values of all its parameters.
    pub ema: Option<&'a mut Ema>,
}

/// Updates parameters from gradients. The order of parameters is fixed at construction.
pub trait Optimizer: Send {
    /// Updates all parameters. A parameter without a gradient is not changed.
    ///
    /// # Errors
    /// When `gradients` belong to other parameters; nothing is changed then.
    fn step(&mut self, gradients: &Gradients, step: Step) -> Result<()>;

    /// Named tensors that, with the parameters, continue the run exactly. They are views of live
    /// state: the next step changes them.
    fn state(&self) -> Vec<(String, Tensor)>;

    /// Takes over saved state, by the names of [`Optimizer::state`].
    ///
    /// # Errors
    /// When a tensor is missing or has another shape or dtype.
    fn load_state(&mut self, saved: &dyn Fn(&str) -> Option<Tensor>) -> Result<()>;
}

/// Why an optimiser cannot be made of `[optim]`.
#[derive(Debug, thiserror::Error)]
pub enum OptimError {
    /// A key that the optimiser needs is absent.
    #[error("[optim] name = \"{name}\" needs the key `{key}`, which is absent")]
    Missing {
        /// Name of the optimiser.
        name: &'static str,
        /// The key of `[optim]`.
        key: &'static str,
    },
    /// A key that the optimiser does not read is set.
    #[error("[optim] name = \"{name}\" does not read the key `{key}`, which is set")]
    Unused {
        /// Name of the optimiser.
        name: &'static str,
        /// The key of `[optim]`.
        key: &'static str,
    },
    /// Memory for the state cannot be had.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

/// The optimiser that `optim` names, over `groups` (see [`param_groups`]).
///
/// # Errors
/// When a key that the optimiser needs is absent, or one that it does not read is set.
pub fn build_optimizer(
    optim: &Optim,
    groups: Vec<ParamGroup>,
) -> std::result::Result<Box<dyn Optimizer>, OptimError> {
    let name = match optim.name {
        OptimName::Adamw => "adamw",
        OptimName::Sgd => "sgd",
        OptimName::Lars => "lars",
    };
    let (momentum, betas) = (
        optim.momentum.ok_or(OptimError::Missing { name, key: "momentum" }),
        optim.betas.ok_or(OptimError::Missing { name, key: "betas" }),
    );
    match optim.name {
        OptimName::Adamw if momentum.is_ok() => Err(OptimError::Unused { name, key: "momentum" }),
        OptimName::Sgd | OptimName::Lars if betas.is_ok() => Err(OptimError::Unused { name, key: "betas" }),
        OptimName::Adamw => Ok(Box::new(AdamW::new(groups, betas?, optim.eps)?)),
        OptimName::Sgd => Ok(Box::new(Sgd::new(groups, momentum?)?)),
        OptimName::Lars => Ok(Box::new(Lars::new(groups, momentum?, optim.trust)?)),
    }
}

#[cfg(test)]
mod golden;
