//! Gradients on their way from operators to the variables that they belong to, in a backward pass.

use candle_core::{Result, Tensor, bail};
use std::cell::{Cell, RefCell};

/// A variable and a part of its gradient.
pub(super) type Delivery = (Tensor, Tensor);

thread_local! {
    pub(super) static DELIVERIES: RefCell<Option<Vec<Delivery>>> = const { RefCell::new(None) };
    pub(super) static RECORDS: Cell<bool> = const { Cell::new(true) };
}

/// Whether an operator with these inputs takes part in a backward pass.
pub(super) fn records<'a>(inputs: impl IntoIterator<Item = &'a Tensor>) -> bool {
    RECORDS.get() && inputs.into_iter().any(Tensor::track_op)
}

/// Passes on the gradient of an input that candle knows; returns `None` if the input is a variable and [`super::backward`] is
/// running, because [`super::backward`] then adds the gradient.
pub(super) fn deliver(input: &Tensor, gradient: Tensor) -> Option<Tensor> {
    let direct = |deliveries: &mut Option<Vec<Delivery>>| match deliveries {
        Some(deliveries) if input.is_variable() => {
            deliveries.push((input.clone(), gradient));
            None
        }
        _ => Some(gradient),
    };
    DELIVERIES.with_borrow_mut(direct)
}

/// Adds the gradient of a variable that an operator keeps itself; a constant needs none.
///
/// # Errors
/// Called outside [`super::backward`], where the gradient would be lost.
pub(super) fn deliver_kept(input: &Tensor, gradient: Tensor) -> Result<()> {
    if input.track_op() && deliver(input, gradient).is_some() {
        bail!("this graph contains operators that keep their weights; call bench::ops::backward(&loss)");
    }
    Ok(())
}
