//! The mode of a forward pass, with its random numbers and the progress of the run.

use crate::rng::Rng;
use rand::Rng as _;

/// The mode of a forward pass: training draws random numbers, evaluation draws none.
#[derive(Debug)]
pub enum Pass<'a> {
    /// A forward pass of training.
    Train {
        /// Source of all random numbers of the pass.
        rng: &'a mut Rng,
        /// Completed share of the run, 0 to 1.
        progress: f64,
        /// Epochs done, including the fraction of the current one.
        epoch: f64,
    },
    /// A forward pass of evaluation.
    Eval,
}

impl<'a> Pass<'a> {
    /// A training pass at the start of a run.
    pub fn train(rng: &'a mut Rng) -> Self {
        Self::Train { rng, progress: 0., epoch: 0. }
    }

    /// Whether this is a pass of training.
    pub fn is_train(&self) -> bool {
        matches!(self, Self::Train { .. })
    }
}

/// Stochastic depth (arXiv:1603.09382), per sample: the factors of a residual branch for each of `batch` samples in
/// training, 0 with probability `rate` and 1/(1 − rate) otherwise. `None` in evaluation and for a rate of 0.
pub fn drop_path(batch: usize, rate: f64, pass: &mut Pass) -> Option<Vec<f32>> {
    let Pass::Train { rng, .. } = pass else { return None };
    let keep = 1. - rate;
    let mut scale = || if rng.random::<f64>() < keep { (1. / keep) as f32 } else { 0. };
    (rate > 0.).then(|| (0..batch).map(|_| scale()).collect())
}
