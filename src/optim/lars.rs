//! LARS (arXiv:1708.03888) in the form MoCo v3 and MAE use for linear probing (arXiv:2111.06377
//! Table 10): the trust ratio and the weight decay apply only to tensors of two or more dimensions.

use super::groups::matched;
use super::sgd::Momentum;
use super::storage::norms;
use super::update::Tracked;
use super::{Gradients, Optimizer, ParamGroup, Step};
use candle_core::{Result, Tensor};

/// LARS with momentum.
pub struct Lars {
    /// The parameters, with their momentum buffers.
    parameters: Tracked<1>,
    momentum: f64,
    trust: f64,
}

impl Lars {
    /// `trust` is the factor of the ratio ‖p‖ / ‖gradient‖.
    ///
    /// # Errors
    /// Memory for the momentum buffers cannot be allocated.
    pub fn new(mut groups: Vec<ParamGroup>, momentum: f64, trust: f64) -> Result<Self> {
        for group in groups.iter_mut().filter(|group| group.parameter.var.rank() <= 1) {
            group.weight_decay = 0.;
        }
        Ok(Self { parameters: Tracked::new(groups, ["mu"])?, momentum, trust })
    }

    /// trust·‖p‖ / ‖scale·gradient + weight decay·p‖ of every parameter, whose weight decay `decay` multiplies; 1 where
    /// either norm is 0, the tensor has one dimension or there is no gradient.
    fn ratios(&self, gradients: &Gradients, scale: f64, decay: f64) -> Result<Vec<f64>> {
        let gradients = matched(&self.parameters.groups, gradients)?;
        let pairs = self.parameters.groups.iter().zip(gradients).map(|(group, gradient)| {
            let gradient = gradient.filter(|_| group.parameter.var.rank() > 1);
            (group.parameter.var.as_tensor(), gradient, [scale as f32, (group.weight_decay * decay) as f32])
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
        let (lr, decay) = (step.lr, step.weight_decay_scale);
        let ratios = self.ratios(gradients, step.scale, decay)?;
        let rule = |i: usize| Momentum::new(&self.parameters.groups[i], self.momentum, ratios[i], lr, decay);
        self.parameters.step(gradients, step, rule)
    }

    fn state(&self) -> Vec<(String, Tensor)> {
        self.parameters.state().collect()
    }

    fn load_state(&mut self, saved: &dyn Fn(&str) -> Option<Tensor>) -> Result<()> {
        self.parameters.load_state(saved, "lars")
    }
}
