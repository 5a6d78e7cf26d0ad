//! Stochastic gradient descent with momentum, as PyTorch's: weight decay joins the gradient, no
//! dampening, no Nesterov.

use super::storage::{read, restore, write, zip};
use super::{Gradients, Optimizer, Slot, groups::matched};
use candle_core::{Result, Tensor};

pub struct Sgd {
    slots: Vec<Slot>,
    /// Momentum buffers.
    buffers: Vec<Tensor>,
    momentum: f64,
}

impl Sgd {
    pub fn new(slots: Vec<Slot>, momentum: f64) -> Result<Self> {
        let buffers = slots.iter().map(|slot| slot.parameter.var.zeros_like()).collect::<Result<_>>()?;
        Ok(Self { slots, buffers, momentum })
    }
}

impl Optimizer for Sgd {
    fn step(&mut self, gradients: &Gradients, lr: f64) -> Result<()> {
        for ((slot, gradient), buffer) in matched(&self.slots, gradients)?.zip(&self.buffers) {
            let Some(gradient) = gradient else { continue };
            momentum_step(slot, gradient, buffer, self.momentum, 1., lr)?;
        }
        Ok(())
    }

    fn state(&self) -> Vec<(String, Tensor)> {
        let named = |(slot, buffer): (&Slot, &Tensor)| {
            (format!("{}.momentum_buffer", slot.parameter.name), buffer.clone())
        };
        self.slots.iter().zip(&self.buffers).map(named).collect()
    }

    fn load_state(&mut self, saved: &dyn Fn(&str) -> Option<Tensor>) -> Result<()> {
        let mut pairs = self.slots.iter().zip(&self.buffers);
        pairs.try_for_each(|(slot, buffer)| {
            restore(buffer, &format!("{}.momentum_buffer", slot.parameter.name), saved, "sgd")
        })
    }
}

/// buffer = momentum·buffer + q·(gradient + decay·p); p −= lr·buffer.
pub(super) fn momentum_step(
    slot: &Slot,
    gradient: &Tensor,
    buffer: &Tensor,
    momentum: f64,
    q: f64,
    lr: f64,
) -> Result<()> {
    let (momentum, q, decay) = (momentum as f32, q as f32, slot.weight_decay as f32);
    let lr = (lr * slot.lr_scale) as f32;
    let p = slot.parameter.var.as_tensor();
    read(gradient, |g| {
        write(buffer, |buffer| {
            // Two passes, because the buffer needs p before it moves.
            zip(buffer, g, |b, g| *b = *b * momentum + q * g)?;
            write(p, |p| {
                if decay != 0. {
                    zip(buffer, p, |b, p| *b += q * decay * p)?;
                }
                zip(p, buffer, |p, b| *p -= lr * b)
            })
        })
    })
}
