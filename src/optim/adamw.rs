//! AdamW (arXiv:1711.05101), step for step as PyTorch's: decoupled decay first, bias correction of
//! both moments, ε outside the square root.

use super::storage::{CHUNK, read, restore, same_length, write};
use super::{Gradients, Optimizer, Slot, groups::matched};
use candle_core::{Device, Result, Tensor, bail};
use rayon::prelude::*;

pub struct AdamW {
    slots: Vec<Slot>,
    moments: Vec<Moments>,
    /// Steps that each parameter has taken.
    steps: Vec<i64>,
    betas: [f64; 2],
    eps: f64,
}

/// Running means of a gradient and of its square.
struct Moments {
    first: Tensor,
    second: Tensor,
}

impl AdamW {
    pub fn new(slots: Vec<Slot>, betas: [f64; 2], eps: f64) -> Result<Self> {
        let zeros = |slot: &Slot| {
            Ok(Moments { first: slot.parameter.var.zeros_like()?, second: slot.parameter.var.zeros_like()? })
        };
        let moments = slots.iter().map(zeros).collect::<Result<_>>()?;
        Ok(Self { steps: vec![0; slots.len()], slots, moments, betas, eps })
    }
}

impl Optimizer for AdamW {
    fn step(&mut self, gradients: &Gradients, lr: f64) -> Result<()> {
        let pairs = matched(&self.slots, gradients)?;
        for (((slot, gradient), moments), steps) in pairs.zip(&self.moments).zip(&mut self.steps) {
            let Some(gradient) = gradient else { continue };
            *steps += 1;
            let update = Update::new(self.betas, self.eps, lr * slot.lr_scale, slot.weight_decay, *steps);
            read(gradient, |g| {
                write(slot.parameter.var.as_tensor(), |p| {
                    write(&moments.first, |m| write(&moments.second, |v| update.apply(p, m, v, g)))
                })
            })?;
        }
        Ok(())
    }

    fn state(&self) -> Vec<(String, Tensor)> {
        let moments = self.slots.iter().zip(&self.moments).flat_map(|(slot, m)| {
            let name = &slot.parameter.name;
            [(format!("{name}.exp_avg"), m.first.clone()), (format!("{name}.exp_avg_sq"), m.second.clone())]
        });
        let steps =
            Tensor::new(&self.steps[..], &Device::Cpu).expect("a slice always has the shape of its length");
        moments.chain([("step".to_string(), steps)]).collect()
    }

    fn load_state(&mut self, saved: &dyn Fn(&str) -> Option<Tensor>) -> Result<()> {
        let Some(steps) = saved("step") else { bail!("adamw: no tensor `step` in the saved state") };
        let steps = steps.to_vec1::<i64>()?;
        if steps.len() != self.slots.len() {
            bail!("adamw: saved `step` counts {} parameters, expected {}", steps.len(), self.slots.len());
        }
        for (slot, moments) in self.slots.iter().zip(&self.moments) {
            let name = &slot.parameter.name;
            restore(&moments.first, &format!("{name}.exp_avg"), saved, "adamw")?;
            restore(&moments.second, &format!("{name}.exp_avg_sq"), saved, "adamw")?;
        }
        self.steps = steps;
        Ok(())
    }
}

/// The scalars of one parameter's step.
struct Update {
    keep: f32,
    betas: [f32; 2],
    complements: [f32; 2],
    step_size: f32,
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
            second_scale: correction[1].sqrt() as f32,
            eps: eps as f32,
        }
    }

    fn apply(&self, p: &mut [f32], m: &mut [f32], v: &mut [f32], g: &[f32]) -> Result<()> {
        same_length(p.len(), g.len())?;
        if p.len() <= CHUNK {
            self.chunk(p, m, v, g);
            return Ok(());
        }
        p.par_chunks_mut(CHUNK)
            .zip(m.par_chunks_mut(CHUNK))
            .zip(v.par_chunks_mut(CHUNK))
            .zip(g.par_chunks(CHUNK))
            .for_each(|(((p, m), v), g)| self.chunk(p, m, v, g));
        Ok(())
    }

    fn chunk(&self, p: &mut [f32], m: &mut [f32], v: &mut [f32], g: &[f32]) {
        for (((p, m), v), &g) in p.iter_mut().zip(m).zip(v).zip(g) {
            *m = *m * self.betas[0] + g * self.complements[0];
            *v = *v * self.betas[1] + g * g * self.complements[1];
            *p = *p * self.keep - self.step_size * (*m / (v.sqrt() / self.second_scale + self.eps));
        }
    }
}
