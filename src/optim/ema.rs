//! Exponential moving average of all values of a model, running statistics included.

use super::storage::{overwrite, read, restore, write, zip};
use crate::nn::Parameter;
use candle_core::{Result, Tensor, TensorId};
use rayon::prelude::*;
use std::collections::{HashMap, HashSet};

/// Averages e of parameters p: e = d·e + (1 − d)·p at every update, which is part of the optimiser's
/// step ([`super::Step`]).
pub struct Ema {
    decay: f64,
    pairs: Vec<(Parameter, Tensor)>,
    /// Indices of the variables in `pairs`.
    places: HashMap<TensorId, usize>,
}

impl Ema {
    /// Starts at the current values of `params`, which should be all parameters of the model, including buffers.
    pub fn new(params: &[Parameter], decay: f64) -> Result<Self> {
        let pair = |p: &Parameter| Ok((p.clone(), p.var.as_detached_tensor().force_contiguous()?));
        let places = params.iter().enumerate().map(|(i, p)| (p.var.id(), i)).collect();
        Ok(Self { decay, pairs: params.iter().map(pair).collect::<Result<_>>()?, places })
    }

    /// d and 1 − d.
    pub(super) fn weights(&self) -> [f32; 2] {
        [self.decay as f32, (1. - self.decay) as f32]
    }

    /// The average of `parameter`, if it is averaged.
    pub(super) fn average(&self, parameter: &Parameter) -> Option<&Tensor> {
        self.places.get(&parameter.var.id()).map(|place| &self.pairs[*place].1)
    }

    /// Updates the averages of all parameters except the `updated` ones.
    pub(super) fn update_others(&mut self, updated: &HashSet<TensorId>) -> Result<()> {
        let [keep, take] = self.weights();
        let others = self.pairs.par_iter().filter(|(p, _)| !updated.contains(&p.var.id()));
        others.try_for_each(|(p, average)| {
            if !average.device().is_cpu() {
                let live = p.var.as_detached_tensor();
                let sum = ((average * f64::from(keep))? + (live * f64::from(take))?)?;
                return overwrite(average, &sum);
            }
            read(p.var.as_tensor(), |live| {
                write(average, |average| zip(average, live, |e, p| *e = keep * *e + take * p))
            })
        })
    }

    /// Swaps averages and current values; a second call undoes the first.
    pub fn swap(&mut self) -> Result<()> {
        self.pairs.iter().try_for_each(|(p, average)| {
            let live = p.var.as_tensor();
            if !average.device().is_cpu() {
                let before = live.force_contiguous()?.detach();
                overwrite(live, average)?;
                return overwrite(average, &before);
            }
            write(live, |live| {
                write(average, |average| {
                    live.swap_with_slice(average);
                    Ok(())
                })
            })
        })
    }

    /// Overwrites the current values with the averages.
    pub fn apply(&mut self) -> Result<()> {
        self.pairs.iter().try_for_each(|(p, average)| overwrite(p.var.as_tensor(), average))
    }

    /// (parameter name, average): views of live state.
    pub fn state(&self) -> Vec<(String, Tensor)> {
        self.pairs.iter().map(|(p, average)| (p.name.clone(), average.clone())).collect()
    }

    /// Loads saved averages by parameter name.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape.
    pub fn load_state(&mut self, saved: &dyn Fn(&str) -> Option<Tensor>) -> Result<()> {
        self.pairs.iter().try_for_each(|(p, average)| restore(average, &p.name, saved, "ema"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};

    #[test]
    fn averages_swap_and_survive_a_restart() {
        let var = Var::new(&[1f32, 2.], &Device::Cpu).unwrap();
        let params = [Parameter { name: "norm.running_mean".into(), var: var.clone(), trainable: false }];
        let mut ema = Ema::new(&params, 0.75).unwrap();
        var.set(&Tensor::new(&[5f32, -2.], &Device::Cpu).unwrap()).unwrap();
        ema.update_others(&HashSet::new()).unwrap();
        let live = || var.to_vec1::<f32>().unwrap();
        assert_eq!(ema.state()[0].1.to_vec1::<f32>().unwrap(), [2., 1.]);
        assert_eq!(live(), [5., -2.]);
        ema.swap().unwrap();
        assert_eq!(live(), [2., 1.]);
        ema.swap().unwrap();
        assert_eq!(live(), [5., -2.]);

        let saved = ema.state();
        let mut other = Ema::new(&params, 0.75).unwrap();
        other.load_state(&|name| saved.iter().find(|(n, _)| n == name).map(|(_, t)| t.clone())).unwrap();
        other.apply().unwrap();
        assert_eq!(live(), [2., 1.]);
        let error = other.load_state(&|_| None).unwrap_err().to_string();
        assert!(error.contains("ema: no tensor `norm.running_mean`"), "{error}");
    }
}
