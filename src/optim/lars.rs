//! LARS (arXiv:1708.03888) in the form MoCo v3 and MAE use for linear probing (arXiv:2111.06377
//! Table 10): the trust ratio and the weight decay only touch tensors of two or more dimensions.

use super::sgd::momentum_step;
use super::storage::{read, restore, same_length, sum_of_squares};
use super::{Gradients, Optimizer, Slot, groups::matched};
use candle_core::{Result, Tensor};

pub struct Lars {
    slots: Vec<Slot>,
    /// Momentum buffers.
    buffers: Vec<Tensor>,
    momentum: f64,
    trust: f64,
}

impl Lars {
    /// `trust` scales the ratio ‖p‖ / ‖gradient‖.
    pub fn new(mut slots: Vec<Slot>, momentum: f64, trust: f64) -> Result<Self> {
        for slot in slots.iter_mut().filter(|slot| slot.parameter.var.rank() <= 1) {
            slot.weight_decay = 0.;
        }
        let buffers = slots.iter().map(|slot| slot.parameter.var.zeros_like()).collect::<Result<_>>()?;
        Ok(Self { slots, buffers, momentum, trust })
    }

    /// trust·‖p‖ / ‖gradient + decay·p‖, and 1 where either norm is 0 or the tensor has one dimension.
    fn ratio(&self, slot: &Slot, gradient: &Tensor) -> Result<f64> {
        let p = slot.parameter.var.as_tensor();
        if p.rank() <= 1 {
            return Ok(1.);
        }
        let decay = slot.weight_decay as f32;
        let (weights, updates) = read(p, |p| {
            let updates = read(gradient, |g| {
                same_length(p.len(), g.len())?;
                if decay == 0. {
                    return Ok(sum_of_squares(g));
                }
                let decayed: Vec<f32> = g.iter().zip(p).map(|(g, p)| g + decay * p).collect();
                Ok(sum_of_squares(&decayed))
            })?;
            Ok((sum_of_squares(p).sqrt(), updates.sqrt()))
        })?;
        Ok(if weights > 0. && updates > 0. { self.trust * weights / updates } else { 1. })
    }
}

impl Optimizer for Lars {
    fn step(&mut self, gradients: &Gradients, lr: f64) -> Result<()> {
        for ((slot, gradient), buffer) in matched(&self.slots, gradients)?.zip(&self.buffers) {
            let Some(gradient) = gradient else { continue };
            let ratio = self.ratio(slot, gradient)?;
            momentum_step(slot, gradient, buffer, self.momentum, ratio, lr)?;
        }
        Ok(())
    }

    fn state(&self) -> Vec<(String, Tensor)> {
        let named =
            |(slot, buffer): (&Slot, &Tensor)| (format!("{}.mu", slot.parameter.name), buffer.clone());
        self.slots.iter().zip(&self.buffers).map(named).collect()
    }

    fn load_state(&mut self, saved: &dyn Fn(&str) -> Option<Tensor>) -> Result<()> {
        let mut pairs = self.slots.iter().zip(&self.buffers);
        pairs.try_for_each(|(slot, buffer)| {
            restore(buffer, &format!("{}.mu", slot.parameter.name), saved, "lars")
        })
    }
}
