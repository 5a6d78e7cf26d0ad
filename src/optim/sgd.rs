//! Stochastic gradient descent with momentum, as in PyTorch: weight decay is added to the gradient, without dampening
//! and Nesterov momentum.

use super::update::{Rule, Tracked};
use super::{Gradients, Optimizer, ParamGroup, Step};
use candle_core::{Result, Tensor};

/// SGD with momentum.
pub struct Sgd {
    /// The parameters, with their momentum buffers.
    parameters: Tracked<1>,
    momentum: f64,
}

impl Sgd {
    /// `momentum` is 0 for plain SGD.
    ///
    /// # Errors
    /// Memory for the momentum buffers cannot be allocated.
    pub fn new(groups: Vec<ParamGroup>, momentum: f64) -> Result<Self> {
        Ok(Self { parameters: Tracked::new(groups, ["momentum_buffer"])?, momentum })
    }
}

impl Optimizer for Sgd {
    fn step(&mut self, gradients: &Gradients, step: Step) -> Result<()> {
        let (lr, decay) = (step.lr, step.weight_decay_scale);
        let rule = |i: usize| Momentum::new(&self.parameters.groups[i], self.momentum, 1., lr, decay);
        self.parameters.step(gradients, step, rule)
    }

    fn state(&self) -> Vec<(String, Tensor)> {
        self.parameters.state().collect()
    }

    fn load_state(&mut self, saved: &dyn Fn(&str) -> Option<Tensor>) -> Result<()> {
        self.parameters.load_state(saved, "sgd")
    }
}

/// buffer = momentum·buffer + q·(gradient + decay·p); p −= lr·buffer.
#[derive(Clone, Copy)]
pub(super) struct Momentum {
    momentum: f32,
    q: f32,
    /// q·decay
    decay: f32,
    lr: f32,
}

impl Momentum {
    /// `decay` multiplies the weight decay of the group.
    pub fn new(group: &ParamGroup, momentum: f64, q: f64, lr: f64, decay: f64) -> Self {
        Self {
            momentum: momentum as f32,
            q: q as f32,
            decay: (q * (group.weight_decay * decay)) as f32,
            lr: (lr * group.lr_scale) as f32,
        }
    }
}

impl Rule<1> for Momentum {
    #[inline(always)]
    fn apply(self, p: f32, g: f32, [buffer]: [f32; 1]) -> (f32, [f32; 1]) {
        let buffer = buffer * self.momentum + self.q * g + self.decay * p;
        (p - self.lr * buffer, [buffer])
    }

    const KERNEL: &'static str = "momentum";

    fn numbers(self) -> [f32; 8] {
        [self.momentum, self.q, self.decay, self.lr, 0., 0., 0., 0.]
    }
}
