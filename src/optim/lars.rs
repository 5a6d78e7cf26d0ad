//! LARS (arXiv:1708.03888) in the form MoCo v3 and MAE use for linear probing (arXiv:2111.06377
//! Table 10): the trust ratio and the weight decay only touch tensors of two or more dimensions.

use super::groups::matched;
use super::sgd::Momentum;
use super::storage::norms;
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

    /// trust·‖p‖ / ‖scale·gradient + decay·p‖ of every parameter, and 1 where either norm is 0, the tensor has one
    /// dimension or there is no gradient.
    fn ratios(&self, gradients: &Gradients, scale: f64) -> Result<Vec<f64>> {
        let gradients = matched(&self.parameters.slots, gradients)?;
        let pairs = self.parameters.slots.iter().zip(gradients).map(|(slot, gradient)| {
            let gradient = gradient.filter(|_| slot.parameter.var.rank() > 1);
            (slot.parameter.var.as_tensor(), gradient, [scale as f32, slot.weight_decay as f32])
        });
        let ratio = |[weights, updates]: [f64; 2]| match weights > 0. && updates > 0. {
            true => self.trust * weights / updates,
            false => 1.,
        };
        Ok(norms(&pairs.collect::<Vec<_>>())?.into_iter().map(|norms| norms.map_or(1., ratio)).collect())
    }
}

impl Optimizer for Lars {
    fn step(&mut self, gradients: &Gradients, step: Step) -> Result<()> {
        let (lr, ratios) = (step.lr, self.ratios(gradients, step.scale)?);
        let rule = |i: usize| Momentum::new(&self.parameters.slots[i], self.momentum, ratios[i], lr);
        self.parameters.step(gradients, step, rule)
    }

    fn state(&self) -> Vec<(String, Tensor)> {
        self.parameters.state().collect()
    }

    fn load_state(&mut self, saved: &dyn Fn(&str) -> Option<Tensor>) -> Result<()> {
        self.parameters.load_state(saved, "lars")
    }
}
