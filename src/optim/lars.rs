//! LARS (arXiv:1708.03888) in the form MoCo v3 and MAE use for linear probing (arXiv:2111.06377
//! Table 10): the trust ratio and the weight decay only touch tensors of two or more dimensions.

use super::sgd::Momentum;
use super::storage::sums_of_squares;
use super::update::Tracked;
use super::{Gradients, Optimizer, Slot, Step};
use candle_core::{Result, Tensor};

pub struct Lars {
    /// With momentum buffers.
    parameters: Tracked<1>,
    momentum: f64,
    trust: f64,
}

impl Lars {
    /// `trust` scales the ratio ‖p‖ / ‖gradient‖.
    pub fn new(mut slots: Vec<Slot>, momentum: f64, trust: f64) -> Result<Self> {
        for slot in slots.iter_mut().filter(|slot| slot.parameter.var.rank() <= 1) {
            slot.weight_decay = 0.;
        }
        Ok(Self { parameters: Tracked::new(slots, ["mu"])?, momentum, trust })
    }

    /// trust·‖p‖ / ‖scale·gradient + decay·p‖, and 1 where either norm is 0 or the tensor has one
    /// dimension.
    fn ratio(&self, slot: &Slot, p: &[f32], gradient: &[f32], scale: f64) -> f64 {
        if slot.parameter.var.rank() <= 1 {
            return 1.;
        }
        let (scale, decay) = (scale as f32, slot.weight_decay as f32);
        let [weights, updates] =
            sums_of_squares(p, gradient, |p, g| [p, g * scale + decay * p]).map(f64::sqrt);
        if weights > 0. && updates > 0. { self.trust * weights / updates } else { 1. }
    }
}

impl Optimizer for Lars {
    fn step(&mut self, gradients: &Gradients, step: Step) -> Result<()> {
        let (lr, scale) = (step.lr, step.scale);
        let rule = |i: usize, p: &[f32], gradient: &[f32]| {
            let slot = &self.parameters.slots[i];
            Momentum::new(slot, self.momentum, self.ratio(slot, p, gradient, scale), lr)
        };
        self.parameters.step(gradients, step, rule)
    }

    fn state(&self) -> Vec<(String, Tensor)> {
        self.parameters.state().collect()
    }

    fn load_state(&mut self, saved: &dyn Fn(&str) -> Option<Tensor>) -> Result<()> {
        self.parameters.load_state(saved, "lars")
    }
}
