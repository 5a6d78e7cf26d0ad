//! The backward pass for the operators of this crate, and forward passes without gradients.
//!
//! candle adds every gradient to a tensor of zeros: three passes over memory for each weight of a model. Within
//! [`backward`], operators of this crate add the gradient of a variable directly. An operator can also have more inputs
//! than the three that candle allows, because it keeps its weights itself.

use super::chain;
use super::delivery::{DELIVERIES, RECORDS};
pub(super) use super::delivery::{deliver, deliver_kept, records};
use super::profile::Timed;
use candle_core::backprop::GradStore;
use candle_core::{CustomOp1, CustomOp2, CustomOp3, Result, Tensor};

/// The gradients of a scalar `loss`, as `loss.backward()` computes them, with less work for the variables that
/// operators of this crate read. A graph allows only one backward pass, because operators free the values that they
/// have kept for it.
///
/// # Errors
/// An operator has no gradient, or the pass runs a second time.
pub fn backward(loss: &Tensor) -> Result<GradStore> {
    let outer = DELIVERIES.replace(Some(vec![]));
    let store = loss.backward();
    let deliveries = DELIVERIES.replace(outer).unwrap_or_default();
    let mut store = store?;
    for (variable, gradient) in deliveries {
        let sum = match store.remove(&variable) {
            Some(before) => (before + gradient)?,
            None => gradient,
        };
        store.insert(&variable, sum);
    }
    Ok(store)
}

/// Runs `forward` without keeping anything for a backward pass, as `torch.no_grad()` does: results of the operators of
/// this crate are constants.
pub fn no_grad<T>(forward: impl FnOnce() -> T) -> T {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            RECORDS.set(self.0);
        }
    }
    let _restore = Restore(RECORDS.replace(false));
    forward()
}

/// candle's `apply_op*` for operators of this crate: the inputs, and the graph behind them, are kept only if the
/// operator takes part in a backward pass.
pub(super) trait ApplyOp {
    fn apply1(&self, op: impl CustomOp1 + Send + Sync + 'static) -> Result<Tensor>;
    fn apply2(&self, second: &Tensor, op: impl CustomOp2 + Send + Sync + 'static) -> Result<Tensor>;
    fn apply3(
        &self,
        second: &Tensor,
        third: &Tensor,
        op: impl CustomOp3 + Send + Sync + 'static,
    ) -> Result<Tensor>;
}

impl ApplyOp for Tensor {
    fn apply1(&self, op: impl CustomOp1 + Send + Sync + 'static) -> Result<Tensor> {
        if records([self]) { chain::apply1(self, op) } else { self.apply_op1_no_bwd(&Timed(op)) }
    }

    fn apply2(&self, second: &Tensor, op: impl CustomOp2 + Send + Sync + 'static) -> Result<Tensor> {
        if records([self, second]) {
            chain::apply2(self, second, op)
        } else {
            self.apply_op2_no_bwd(second, &Timed(op))
        }
    }

    fn apply3(
        &self,
        second: &Tensor,
        third: &Tensor,
        op: impl CustomOp3 + Send + Sync + 'static,
    ) -> Result<Tensor> {
        if records([self, second, third]) {
            chain::apply3(self, second, third, op)
        } else {
            self.apply_op3_no_bwd(second, third, &Timed(op))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::linear;
    use candle_core::{Device, Var};

    fn var(values: &[f32]) -> Var {
        Var::from_slice(values, (1, values.len()), &Device::Cpu).unwrap()
    }

    #[test]
    fn gradients_equal_those_of_candle_also_where_a_variable_is_used_twice() {
        let (x, w) = (var(&[1., 2.]), var(&[3., 4.]));
        let loss = || {
            let y = linear(&x, &w, None, Default::default()).unwrap();
            let twice = linear(&(w.as_tensor() * 2.).unwrap(), &w, None, Default::default()).unwrap();
            (y + twice).unwrap().sum_all().unwrap()
        };
        let (found, expected) = (backward(&loss()).unwrap(), loss().backward().unwrap());
        for v in [&x, &w] {
            let values = |store: &GradStore| store.get(v).unwrap().to_vec2::<f32>().unwrap();
            assert_eq!(values(&found), values(&expected));
        }
    }

    #[test]
    fn nothing_is_recorded_without_gradients_and_the_state_comes_back() {
        let w = var(&[1.]);
        let product = || linear(&w, &w, None, Default::default()).unwrap();
        let inside = no_grad(|| {
            no_grad(|| ());
            product()
        });
        assert!(!inside.track_op());
        assert!(product().track_op());
    }
}
