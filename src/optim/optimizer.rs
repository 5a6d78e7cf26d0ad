//! The [`Optimizer`] trait and the arguments of a step.

use super::{Ema, Gradients};
use candle_core::{Result, Tensor};

/// The arguments of one step of an optimiser.
pub struct Step<'a> {
    /// Learning rate, which each parameter's `lr_scale` multiplies.
    pub lr: f64,
    /// Multiplies all gradients: the mean over micro-batches, and [`super::clip_factor`].
    pub scale: f64,
    /// Multiplies the weight decay of every group: 1 without a schedule, else [`super::WeightDecaySchedule::scale_at`].
    pub weight_decay_scale: f64,
    /// Moving average that is updated with the new values of all its parameters.
    pub ema: Option<&'a mut Ema>,
}

/// Updates parameters from gradients. The order of parameters is fixed at construction.
pub trait Optimizer: Send {
    /// Updates all parameters. A parameter without a gradient is not changed.
    ///
    /// # Errors
    /// When `gradients` belong to other parameters; nothing is changed then.
    fn step(&mut self, gradients: &Gradients, step: Step) -> Result<()>;

    /// Named tensors that, together with the parameters, suffice to continue the run exactly. They are views of live
    /// state: the next step changes them.
    fn state(&self) -> Vec<(String, Tensor)>;

    /// Loads saved state, by the names of [`Optimizer::state`].
    ///
    /// # Errors
    /// When a tensor is missing or has another shape or dtype.
    fn load_state(&mut self, saved: &dyn Fn(&str) -> Option<Tensor>) -> Result<()>;
}
