//! Gradients of a list of parameters, in its order: collecting, accumulating, clipping.
//!
//! A live candle `GradStore` keeps the forward graph alive; collecting detaches, so that the
//! graph's memory is free before the optimiser steps.

use super::storage::{map, read, sum_of_squares, write, zip};
use crate::nn::Parameter;
use candle_core::{Result, Tensor, backprop::GradStore, bail};

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
        for ((_, sum), (_, more)) in self.0.iter_mut().zip(other.0) {
            match (&sum, more) {
                (Some(sum), Some(more)) => {
                    read(&more, |more| write(sum, |sum| zip(sum, more, |d, s| *d += s)))?
                }
                (None, more) => *sum = more,
                (Some(_), None) => {}
            }
        }
        Ok(())
    }

    /// Multiplies every gradient by `factor`.
    pub fn scale(&mut self, factor: f64) -> Result<()> {
        let factor = factor as f32;
        for gradient in self.0.iter().filter_map(|(_, gradient)| gradient.as_ref()) {
            write(gradient, |values| {
                map(values, |x| *x *= factor);
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Euclidean norm of all gradients together, accumulated in f64.
    pub fn norm(&self) -> Result<f64> {
        let squares = |gradient| read(gradient, |values| Ok(sum_of_squares(values)));
        let total = self.0.iter().filter_map(|(_, g)| g.as_ref()).map(squares).sum::<Result<f64>>()?;
        Ok(total.sqrt())
    }

    /// Scales all gradients by max / (norm + 1e-6) when that is below 1, as PyTorch's
    /// `clip_grad_norm_`. Returns the norm before clipping.
    pub fn clip(&mut self, max: f64) -> Result<f64> {
        let norm = self.norm()?;
        let factor = max / (norm + 1e-6);
        if factor < 1. {
            self.scale(factor)?;
        }
        Ok(norm)
    }

    /// Whether no gradient holds NaN or an infinity.
    pub fn all_finite(&self) -> Result<bool> {
        // The square of a finite f32 is finite in f64, and so is any sum of them that fits in memory.
        Ok(self.norm()?.is_finite())
    }
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
        sum.scale(0.5).unwrap();
        assert_eq!(first(&sum), [2., 2.]);
        assert!(sum.add(gradients(&params[..1], 1.)).is_err());
    }

    #[test]
    fn clipping_keeps_the_direction_and_reports_the_norm_before() {
        let params = [parameter("a", &[0.; 4])];
        let mut clipped = gradients(&params, 1.5);
        assert_eq!(clipped.clip(10.).unwrap(), 3.);
        assert_eq!(first(&clipped), [1.5; 4]);
        assert_eq!(clipped.clip(1.).unwrap(), 3.);
        assert!((clipped.norm().unwrap() - 1.).abs() < 1e-6);
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
