//! Gradients of a list of parameters, in its order: collecting, accumulating, their norm.
//!
//! A live candle `GradStore` keeps the forward graph alive; collecting detaches the gradients, so that the memory of
//! the graph is freed before the optimiser's step.

use super::storage::{overwrite, read, sums_of_squares, write, zip};
use crate::nn::Parameter;
#[cfg(feature = "cuda")]
use crate::ops::cuda::optimizer::{self, Update};
use candle_core::{Result, Tensor, backprop::GradStore, bail};
use rayon::prelude::*;

/// Gradients by name of the parameter; a parameter on which the loss does not depend has none. Arithmetic is in place.
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

    /// Number of parameters, with or without a gradient.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no parameter.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Multiplies the gradient of each parameter by `factor(name)`. A factor of 0 gives zeros, even for NaN; the
    /// optimiser still applies momentum and weight decay to such a parameter, unlike to one without a gradient
    /// ([`Gradients::remove`]).
    ///
    /// # Errors
    /// When a gradient is not contiguous f32.
    pub fn scale(&mut self, factor: impl Fn(&str) -> f64 + Sync) -> Result<()> {
        self.0.par_iter_mut().try_for_each(|(name, gradient)| {
            let (Some(gradient), factor) = (gradient, factor(name)) else { return Ok(()) };
            if factor == 1. {
                return Ok(());
            }
            if !gradient.device().is_cpu() {
                let scaled = if factor == 0. { gradient.zeros_like() } else { &*gradient * factor };
                return overwrite(gradient, &scaled?);
            }
            write(gradient, |values| {
                let scaled = |value: f32| if factor == 0. { 0. } else { value * factor as f32 };
                values.iter_mut().for_each(|value| *value = scaled(*value));
                Ok(())
            })
        })
    }

    /// Removes the gradients of the parameters for which `chosen` is true: the optimiser does not change them in this
    /// step (`p.grad = None` in PyTorch).
    pub fn remove(&mut self, chosen: impl Fn(&str) -> bool) {
        self.0.iter_mut().filter(|(name, _)| chosen(name)).for_each(|(_, gradient)| *gradient = None);
    }

    /// Adds the gradients of another pass over the same parameters.
    ///
    /// # Errors
    /// The gradients belong to other parameters.
    pub fn add(&mut self, other: Self) -> Result<()> {
        if !self.0.iter().map(|(name, _)| name).eq(other.0.iter().map(|(name, _)| name)) {
            bail!("gradients of different parameters cannot be added");
        }
        self.0.par_iter_mut().zip(other.0).try_for_each(|((_, sum), (_, more))| {
            match (&mut *sum, more) {
                (Some(sum), Some(more)) if !more.device().is_cpu() => *sum = (&*sum + &more)?,
                (Some(sum), Some(more)) => {
                    read(&more, |more| write(sum, |sum| zip(sum, more, |d, s| *d += s)))?
                }
                (None, more) => *sum = more,
                (Some(_), None) => {}
            }
            Ok(())
        })
    }

    /// Euclidean norm of all gradients together, accumulated in f64: the same bits for any number of threads.
    ///
    /// # Errors
    /// When a gradient is not contiguous f32.
    pub fn norm(&self) -> Result<f64> {
        Ok(self.squares()?.into_iter().flatten().sum::<f64>().sqrt())
    }

    /// Euclidean norm of the gradient of each parameter, by name and in the order of the parameters; `None` for a
    /// parameter without a gradient.
    ///
    /// # Errors
    /// When a gradient is not contiguous f32.
    pub fn norms(&self) -> Result<Vec<(&str, Option<f64>)>> {
        let norms = self.squares()?.into_iter().map(|square| square.map(f64::sqrt));
        Ok(self.iter().map(|(name, _)| name).zip(norms).collect())
    }

    /// Sum of the squares of each gradient.
    fn squares(&self) -> Result<Vec<Option<f64>>> {
        #[cfg(feature = "cuda")]
        if self.iter().any(|(_, gradient)| gradient.is_some_and(|gradient| gradient.device().is_cuda())) {
            let numbers = [1., 0., 0., 0., 0., 0., 0., 0.];
            let update = |value| Update { value, gradient: None, running: &[], average: None, numbers };
            let updates: Vec<Update> = self.iter().filter_map(|(_, gradient)| gradient.map(update)).collect();
            let mut squares = optimizer::squares(&updates)?.into_iter();
            return Ok(self.iter().map(|(_, gradient)| gradient.and_then(|_| squares.next())).collect());
        }
        let square = |(_, gradient): &(String, Option<Tensor>)| {
            let sum = |gradient: &Tensor| read(gradient, |g| Ok(sums_of_squares(g, g, |g, _| [g])[0]));
            gradient.as_ref().map(sum).transpose()
        };
        self.0.par_iter().map(square).collect()
    }

    /// Whether no gradient holds NaN or an infinity.
    pub fn all_finite(&self) -> Result<bool> {
        // The square of a finite f32 is finite in f64, and so is any sum of them that fits in memory.
        Ok(self.norm()?.is_finite())
    }
}

/// The factor that reduces gradients of norm `norm` to the norm `max`: max / (norm + 1e-6), at most 1, as in PyTorch's
/// `clip_grad_norm_`.
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
    fn gradients_of_named_parameters_are_scaled_zeroed_or_removed() {
        let params = [parameter("a", &[1., 2.]), parameter("b", &[1.]), parameter("c", &[f32::NAN])];
        let loss = params.iter().map(|p| (p.var.as_tensor() * 3.).unwrap().sum_all().unwrap());
        let loss = loss.reduce(|a, b| (a + b).unwrap()).unwrap();
        let mut found = Gradients::collect(&mut loss.backward().unwrap(), &params).unwrap();
        assert_eq!(found.norms().unwrap()[1..], [("b", Some(3.)), ("c", Some(3.))]);
        found
            .scale(|name| match name {
                "a" => 0.5,
                "b" => 0.,
                _ => 1.,
            })
            .unwrap();
        let norms = [("a", Some(4.5f64.sqrt())), ("b", Some(0.)), ("c", Some(3.))];
        assert_eq!(found.norms().unwrap(), norms);
        assert_eq!((first(&found), found.norm().unwrap()), (vec![1.5, 1.5], 13.5f64.sqrt()));
        found.remove(|name| name == "b");
        assert_eq!((found.missing(), found.norms().unwrap()[1]), (vec!["b"], ("b", None)));
    }

    /// As where a frozen layer has no gradient in PyTorch: 0·∞ would be NaN.
    #[test]
    fn a_factor_of_0_clears_what_is_not_finite() {
        let params = [parameter("a", &[1., 2., 3.])];
        let mut store = params[0].var.sqr().unwrap().sum_all().unwrap().backward().unwrap();
        let bad = Tensor::new(&[f32::NAN, f32::INFINITY, 1.], &Device::Cpu).unwrap();
        store.insert(&params[0].var, bad);
        let mut found = Gradients::collect(&mut store, &params).unwrap();
        found.scale(|_| 0.).unwrap();
        assert_eq!(first(&found), [0.; 3]);
    }

    #[test]
    fn clipping_shortens_to_the_limit_alone() {
        let norm = gradients(&[parameter("a", &[0.; 4])], 1.5).norm().unwrap();
        assert_eq!(norm, 3.);
        assert_eq!(clip_factor(norm, 10.), 1.);
        assert!((clip_factor(norm, 1.) * norm - 1.).abs() < 1e-6);
        // Where the constant beside the norm counts: 2e-7 / (3e-6 + 1e-6).
        assert!((clip_factor(3e-6, 2e-7) - 0.05).abs() < 1e-12);
        assert_eq!(clip_factor(0., 1e-7), 0.1);
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
