//! Gradients of a list of parameters, in its order: collecting, accumulating, their norm.
//!
//! A live candle `GradStore` keeps the forward graph alive; collecting detaches, so that the
//! graph's memory is free before the optimiser steps.

use super::storage::{overwrite, read, sums_of_squares, write, zip};
use crate::nn::Parameter;
#[cfg(feature = "cuda")]
use crate::ops::cuda::optimizer::{self, Update};
use candle_core::{Result, Tensor, backprop::GradStore, bail};
use rayon::prelude::*;

/// One optional gradient a parameter. Arithmetic is in place.
#[derive(Debug)]
pub struct Gradients(Vec<(String, Option<Tensor>)>);

impl Gradients {
    /// Takes the gradients of `params` out of `store`, detached from the graph. A parameter that
    /// the loss does not depend on has none: see [`Gradients::missing`].
    pub fn collect(store: &mut GradStore, params: &[Parameter]) -> Result<Self> {
        let take = |p: &Parameter| {
            let gradient = store.remove(p.var.as_tensor()).map(|g| g.detach().contiguous()).transpose()?;
            Ok((p.name.clone(), gradient))
        };
        params.iter().map(take).collect::<Result<_>>().map(Self)
    }

    /// (name of the parameter, gradient), in the order of the parameters.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Option<&Tensor>)> {
        self.0.iter().map(|(name, gradient)| (name.as_str(), gradient.as_ref()))
    }

    /// Names of the parameters without gradient.
    pub fn missing(&self) -> Vec<&str> {
        self.iter().filter(|(_, gradient)| gradient.is_none()).map(|(name, _)| name).collect()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds the gradients of another pass over the same parameters.
    pub fn add(&mut self, other: Self) -> Result<()> {
        if !self.0.iter().map(|(name, _)| name).eq(other.0.iter().map(|(name, _)| name)) {
            bail!("gradients of different parameters cannot be added");
        }
        self.0.par_iter_mut().zip(other.0).try_for_each(|((_, sum), (_, more))| {
            match (&sum, more) {
                (Some(sum), Some(more)) if !more.device().is_cpu() => overwrite(sum, &(sum + &more)?)?,
                (Some(sum), Some(more)) => {
                    read(&more, |more| write(sum, |sum| zip(sum, more, |d, s| *d += s)))?
                }
                (None, more) => *sum = more,
                (Some(_), None) => {}
            }
            Ok(())
        })
    }

    /// Euclidean norm of all gradients together, accumulated in f64: the same bits for any number
    /// of threads.
    pub fn norm(&self) -> Result<f64> {
        #[cfg(feature = "cuda")]
        if self.iter().any(|(_, gradient)| gradient.is_some_and(|gradient| gradient.device().is_cuda())) {
            let numbers = [1., 0., 0., 0., 0., 0., 0., 0.];
            let update = |value| Update { value, gradient: None, running: &[], average: None, numbers };
            let updates: Vec<Update> = self.iter().filter_map(|(_, gradient)| gradient.map(update)).collect();
            return Ok(optimizer::squares(&updates)?.iter().sum::<f64>().sqrt());
        }
        let squares = |(_, gradient): &(String, Option<Tensor>)| match gradient {
            Some(gradient) => read(gradient, |g| Ok(sums_of_squares(g, g, |g, _| [g])[0])),
            None => Ok(0.),
        };
        let sums: Vec<f64> = self.0.par_iter().map(squares).collect::<Result<_>>()?;
        Ok(sums.iter().sum::<f64>().sqrt())
    }

    /// Whether no gradient holds NaN or an infinity.
    pub fn all_finite(&self) -> Result<bool> {
        // The square of a finite f32 is finite in f64, and so is any sum of them that fits in memory.
        Ok(self.norm()?.is_finite())
    }
}

/// What gradients of this norm are multiplied by so that it is at most `max`: max / (norm + 1e-6)
/// when that is below 1, as PyTorch's `clip_grad_norm_`.
pub fn clip_factor(norm: f64, max: f64) -> f64 {
    (max / (norm + 1e-6)).min(1.)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};

    fn parameter(name: &str, values: &[f32]) -> Parameter {
        let var = Var::from_slice(values, values.len(), &Device::Cpu).unwrap();
        Parameter { name: name.into(), var, trainable: true }
    }

    /// Gradients of Σ a·factor; `b` gets none.
    fn gradients(params: &[Parameter], factor: f64) -> Gradients {
        let loss = (params[0].var.as_tensor() * factor).unwrap().sum_all().unwrap();
        Gradients::collect(&mut loss.backward().unwrap(), params).unwrap()
    }

    fn first(gradients: &Gradients) -> Vec<f32> {
        gradients.iter().next().unwrap().1.unwrap().to_vec1().unwrap()
    }

    #[test]
    fn missing_gradients_are_named_and_sums_are_elementwise() {
        let params = [parameter("a", &[1., 2.]), parameter("b", &[1.])];
        let mut sum = gradients(&params, 3.);
        assert_eq!(sum.missing(), ["b"]);
        sum.add(gradients(&params, 1.)).unwrap();
        assert_eq!(first(&sum), [4., 4.]);
        assert!(sum.add(gradients(&params[..1], 1.)).is_err());
    }

    #[test]
    fn clipping_shortens_to_the_limit_alone() {
        let norm = gradients(&[parameter("a", &[0.; 4])], 1.5).norm().unwrap();
        assert_eq!(norm, 3.);
        assert_eq!(clip_factor(norm, 10.), 1.);
        assert!((clip_factor(norm, 1.) * norm - 1.).abs() < 1e-6);
    }

    #[test]
    fn the_norm_has_the_same_bits_for_any_number_of_threads() {
        let values: Vec<f32> = (0..100_003).map(|i| (i as f32 * 0.1).sin()).collect();
        let params = [parameter("a", &values), parameter("b", &values[..77])];
        let loss = params.iter().map(|p| p.var.sqr().unwrap().sum_all().unwrap());
        let loss = loss.reduce(|a, b| (a + b).unwrap()).unwrap();
        let gradients = Gradients::collect(&mut loss.backward().unwrap(), &params).unwrap();
        let with = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| gradients.norm().unwrap().to_bits())
        };
        assert_eq!([2, 3, 5].map(with), [with(1); 3]);
    }

    #[test]
    fn one_bad_value_among_many_is_seen() {
        let many = [parameter("a", &vec![1.; 40_000])];
        let mut store = many[0].var.sqr().unwrap().sum_all().unwrap().backward().unwrap();
        let mut bad = vec![f32::MAX; 40_000];
        store.insert(&many[0].var, Tensor::new(&bad[..], &Device::Cpu).unwrap());
        assert!(Gradients::collect(&mut store, &many).unwrap().all_finite().unwrap());
        for value in [f32::NAN, f32::INFINITY] {
            bad[39_999] = value;
            store.insert(&many[0].var, Tensor::new(&bad[..], &Device::Cpu).unwrap());
            assert!(!Gradients::collect(&mut store, &many).unwrap().all_finite().unwrap());
        }
    }
}
