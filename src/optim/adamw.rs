//! AdamW (arXiv:1711.05101), step for step as PyTorch's: decoupled decay first, bias correction of
//! both moments, ε outside the square root.

use super::update::{Rule, Tracked};
use super::{Gradients, Optimizer, ParamGroup, Step};
use candle_core::{Device, Result, Tensor, bail};

/// AdamW with a step count and moments for each parameter.
pub struct AdamW {
    /// The parameters, with running means of the gradient and of its square.
    parameters: Tracked<2>,
    /// Number of steps of each parameter.
    steps: Vec<i64>,
    betas: [f64; 2],
    eps: f64,
}

impl AdamW {
    /// `betas` are the decay rates of the two moments, `eps` the ε beside the square root.
    ///
    /// # Errors
    /// Memory for the moments cannot be allocated.
    pub fn new(groups: Vec<ParamGroup>, betas: [f64; 2], eps: f64) -> Result<Self> {
        let steps = vec![0; groups.len()];
        Ok(Self { parameters: Tracked::new(groups, ["exp_avg", "exp_avg_sq"])?, steps, betas, eps })
    }
}

impl Optimizer for AdamW {
    fn step(&mut self, gradients: &Gradients, step: Step) -> Result<()> {
        let (lr, decay) = (step.lr, step.weight_decay_scale);
        let rule = |i: usize| {
            let group = &self.parameters.groups[i];
            let weight_decay = group.weight_decay * decay;
            Update::new(self.betas, self.eps, lr * group.lr_scale, weight_decay, self.steps[i] + 1)
        };
        self.parameters.step(gradients, step, rule)?;
        for (steps, (_, gradient)) in self.steps.iter_mut().zip(gradients.iter()) {
            *steps += i64::from(gradient.is_some());
        }
        Ok(())
    }

    fn state(&self) -> Vec<(String, Tensor)> {
        let steps =
            Tensor::new(&self.steps[..], &Device::Cpu).expect("a slice always has the shape of its length");
        self.parameters.state().chain([("step".to_string(), steps)]).collect()
    }

    fn load_state(&mut self, saved: &dyn Fn(&str) -> Option<Tensor>) -> Result<()> {
        let Some(steps) = saved("step") else { bail!("adamw: no tensor `step` in the saved state") };
        let steps = steps.to_vec1::<i64>()?;
        if steps.len() != self.steps.len() {
            bail!("adamw: saved `step` counts {} parameters, expected {}", steps.len(), self.steps.len());
        }
        self.parameters.load_state(saved, "adamw")?;
        self.steps = steps;
        Ok(())
    }
}

/// The scalars of one parameter's step.
#[derive(Clone, Copy)]
struct Update {
    keep: f32,
    betas: [f32; 2],
    complements: [f32; 2],
    step_size: f32,
    /// 1 / sqrt(bias correction of the second moment).
    second_scale: f32,
    eps: f32,
}

impl Update {
    fn new(betas: [f64; 2], eps: f64, lr: f64, weight_decay: f64, step: i64) -> Self {
        let correction = betas.map(|beta| 1. - beta.powf(step as f64));
        Self {
            keep: (1. - lr * weight_decay) as f32,
            betas: betas.map(|beta| beta as f32),
            complements: betas.map(|beta| (1. - beta) as f32),
            step_size: (lr / correction[0]) as f32,
            second_scale: correction[1].sqrt().recip() as f32,
            eps: eps as f32,
        }
    }
}

impl Rule<2> for Update {
    #[inline(always)]
    fn apply(self, p: f32, g: f32, [m, v]: [f32; 2]) -> (f32, [f32; 2]) {
        let m = m * self.betas[0] + g * self.complements[0];
        let v = v * self.betas[1] + g * g * self.complements[1];
        (p * self.keep - self.step_size * (m / (v.sqrt() * self.second_scale + self.eps)), [m, v])
    }

    const KERNEL: &'static str = "adamw";

    fn numbers(self) -> [f32; 8] {
        let ([b1, b2], [c1, c2]) = (self.betas, self.complements);
        [self.keep, b1, b2, c1, c2, self.step_size, self.second_scale, self.eps]
    }
}
