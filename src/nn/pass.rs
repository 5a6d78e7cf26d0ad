//! Mode, randomness and progress of one forward pass travel together.

use crate::rng::Rng;
use rand::Rng as _;

/// One forward pass: training draws from a generator, evaluation draws nothing.
#[derive(Debug)]
pub enum Pass<'a> {
    Train {
        rng: &'a mut Rng,
        /// Share of the run that is over, 0 to 1.
        progress: f64,
    },
    Eval,
}

impl<'a> Pass<'a> {
    /// A training pass at the start of a run.
    pub fn train(rng: &'a mut Rng) -> Self {
        Self::Train { rng, progress: 0. }
    }

    pub fn is_train(&self) -> bool {
        matches!(self, Self::Train { .. })
    }
}

/// Stochastic depth (arXiv:1603.09382), per sample: in training, what multiplies a residual branch of each of `batch`
/// samples: 0 with probability `rate`, 1/(1 − rate) otherwise. `None` where nothing is dropped.
pub fn drop_path(batch: usize, rate: f64, pass: &mut Pass) -> Option<Vec<f32>> {
    let Pass::Train { rng, .. } = pass else { return None };
    let keep = 1. - rate;
    let mut scale = || if rng.random::<f64>() < keep { (1. / keep) as f32 } else { 0. };
    (rate > 0.).then(|| (0..batch).map(|_| scale()).collect())
}
