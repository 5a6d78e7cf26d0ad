//! Mode and randomness of one forward pass travel together.

use crate::rng::Rng;
use candle_core::{Result, Tensor};
use rand::Rng as _;

/// One forward pass: training draws from a generator, evaluation draws nothing.
#[derive(Debug)]
pub enum Pass<'a> {
    Train { rng: &'a mut Rng },
    Eval,
}

impl Pass<'_> {
    pub fn is_train(&self) -> bool {
        matches!(self, Self::Train { .. })
    }
}

/// Stochastic depth (arXiv:1603.09382), per sample: in training, drops the residual branch `x`
/// ([B, …]) with probability `rate` and scales survivors by 1/(1 − rate).
pub fn drop_path(x: &Tensor, rate: f64, pass: &mut Pass) -> Result<Tensor> {
    let Pass::Train { rng } = pass else { return Ok(x.clone()) };
    if rate == 0. {
        return Ok(x.clone());
    }
    let keep = 1. - rate;
    let batch = x.dim(0)?;
    let scale: Vec<f32> =
        (0..batch).map(|_| if rng.random::<f64>() < keep { (1. / keep) as f32 } else { 0. }).collect();
    let mut shape = vec![1; x.rank()];
    shape[0] = batch;
    x.broadcast_mul(&Tensor::from_vec(scale, shape, x.device())?.to_dtype(x.dtype())?)
}
