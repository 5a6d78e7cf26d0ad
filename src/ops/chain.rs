//! Operators that follow one another as one node of candle's graph.
//!
//! For every node, candle sets a tensor of the size of its input to zero, adds the gradient to it, and does both on one
//! thread, although most inputs have a single gradient. In a [`chain`], every operator passes its gradient directly to
//! the one before it.

use super::delivery::{deliver_kept, records};
use super::profile::Timed;
use super::storage::fused;
use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, CustomOp3, InplaceOp1, Layout, Result, Shape, Tensor, TensorId, bail,
};
use std::cell::RefCell;
use std::sync::{Arc, Mutex, PoisonError};

/// An operator of a chain, with its inputs.
enum Link {
    One(Arc<Box<dyn CustomOp1 + Send + Sync>>, Tensor),
    Two(Arc<Box<dyn CustomOp2 + Send + Sync>>, [Tensor; 2]),
    Three(Arc<Box<dyn CustomOp3 + Send + Sync>>, [Tensor; 3]),
}

/// A chain of which operators are being applied.
struct Growing {
    /// The result of the last operator.
    end: TensorId,
    links: Vec<Link>,
}

thread_local! {
    static GROWING: RefCell<Option<Growing>> = const { RefCell::new(None) };
}

/// `f` of `x`, an f32 tensor on the CPU. If `f` applies operators of this crate one after another, each to the result of
/// the one before and to variables or constants, they become one node; otherwise the graph is that of `f`. The gradients
/// are the same. Nothing but the caller may use the result of `f`, whose values move to that of the chain. A chain within a
/// chain becomes a part of it.
///
/// # Errors
/// The errors of `f`.
pub fn chain(x: &Tensor, f: impl FnOnce(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
    let inner = GROWING.with_borrow(|growing| growing.as_ref().is_some_and(|outer| outer.end == x.id()));
    if inner || !fused(&[x]) || !records([x]) {
        return f(x);
    }
    let outer = GROWING.replace(Some(Growing { end: x.id(), links: vec![] }));
    let result = f(x);
    let grown = GROWING.replace(outer);
    let result = result?;
    match grown {
        Some(Growing { end, links }) if end == result.id() && links.len() > 1 => {
            let (values, shape) = (Moved::default(), result.shape().clone());
            result.inplace_op1(&values)?;
            x.apply_op1(Chain { links: Mutex::new(links), values, shape })
        }
        _ => Ok(result),
    }
}

/// Adds an operator to the growing chain if `x` is its end and the `others` end the graph.
fn extend(x: &Tensor, others: &[&Tensor], result: &Tensor, link: impl FnOnce() -> Link) {
    GROWING.with_borrow_mut(|growing| {
        if let Some(Growing { end, links }) = growing
            && *end == x.id()
            && others.iter().all(|other| other.is_variable() || !other.track_op())
        {
            links.push(link());
            *end = result.id();
        }
    });
}

/// Applies an operator that takes part in a backward pass.
pub(super) fn apply1(x: &Tensor, op: impl CustomOp1 + Send + Sync + 'static) -> Result<Tensor> {
    let op: Arc<Box<dyn CustomOp1 + Send + Sync>> = Arc::new(Box::new(Timed(op)));
    let result = x.apply_op1_arc(op.clone())?;
    extend(x, &[], &result, || Link::One(op, x.clone()));
    Ok(result)
}

/// See [`apply1`].
pub(super) fn apply2(
    x: &Tensor,
    second: &Tensor,
    op: impl CustomOp2 + Send + Sync + 'static,
) -> Result<Tensor> {
    let op: Arc<Box<dyn CustomOp2 + Send + Sync>> = Arc::new(Box::new(Timed(op)));
    let result = x.apply_op2_arc(second, op.clone())?;
    extend(x, &[second], &result, || Link::Two(op, [x.clone(), second.clone()]));
    Ok(result)
}

/// See [`apply1`].
pub(super) fn apply3(
    x: &Tensor,
    second: &Tensor,
    third: &Tensor,
    op: impl CustomOp3 + Send + Sync + 'static,
) -> Result<Tensor> {
    let op: Arc<Box<dyn CustomOp3 + Send + Sync>> = Arc::new(Box::new(Timed(op)));
    let result = x.apply_op3_arc(second, third, op.clone())?;
    extend(x, &[second, third], &result, || Link::Three(op, [x.clone(), second.clone(), third.clone()]));
    Ok(result)
}

impl Link {
    /// The gradient of the first input, from that of the result; gradients of the others are delivered.
    fn backward(&self, result: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let delivered = |input: &Tensor, gradient: Option<Tensor>| match gradient {
            Some(gradient) => deliver_kept(input, gradient),
            None => Ok(()),
        };
        match self {
            Self::One(op, x) => op.bwd(x, result, grad),
            Self::Two(op, [x, second]) => {
                let (of_x, of_second) = op.bwd(x, second, result, grad)?;
                delivered(second, of_second)?;
                Ok(of_x)
            }
            Self::Three(op, [x, second, third]) => {
                let (of_x, of_second, of_third) = op.bwd(x, second, third, result, grad)?;
                delivered(second, of_second)?;
                delivered(third, of_third)?;
                Ok(of_x)
            }
        }
    }

    fn input(&self) -> &Tensor {
        match self {
            Self::One(_, x) | Self::Two(_, [x, ..]) | Self::Three(_, [x, ..]) => x,
        }
    }
}

/// Takes the values out of a tensor.
#[derive(Default)]
struct Moved(Mutex<Vec<f32>>);

impl Moved {
    fn replace(&self, values: Vec<f32>) -> Vec<f32> {
        std::mem::replace(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner), values)
    }
}

impl InplaceOp1 for Moved {
    fn name(&self) -> &'static str {
        "chain"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        match (storage, layout.contiguous_offsets()) {
            (CpuStorage::F32(values), Some((0, end))) if end == values.len() => {
                self.replace(std::mem::take(values));
                Ok(())
            }
            _ => bail!("chain: the last operator does not own its result"),
        }
    }
}

struct Chain {
    /// Empty after the backward pass.
    links: Mutex<Vec<Link>>,
    /// Values and shape of the result, until the chain has them.
    values: Moved,
    shape: Shape,
}

impl CustomOp1 for Chain {
    fn name(&self) -> &'static str {
        "chain"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok((CpuStorage::F32(self.values.replace(vec![])), self.shape.clone()))
    }

    fn bwd(&self, _: &Tensor, result: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let mut links = std::mem::take(&mut *self.links.lock().unwrap_or_else(PoisonError::into_inner));
        if links.is_empty() {
            bail!("chain: a second backward pass through one forward pass");
        }
        let (mut result, mut grad) = (result.clone(), grad.clone());
        while let Some(link) = links.pop() {
            match link.backward(&result, &grad)? {
                Some(of_input) => grad = of_input,
                // The first input is a variable, whose gradient is delivered.
                None => return Ok(None),
            }
            result = link.input().clone();
        }
        Ok(Some(grad))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::{backward, gelu, gradient_check, layer_norm, linear};
    use candle_core::Var;

    fn variables(shapes: &[&[usize]]) -> Vec<Var> {
        let random = |(i, shape): (u64, &&[usize])| gradient_check::single(&gradient_check::random(shape, i));
        (0..).zip(shapes).map(|input| Var::from_tensor(&random(input)).unwrap()).collect()
    }

    /// Gradients of the mean square of `f`, within a chain and without.
    fn gradients(vars: &[Var], f: &dyn Fn(&Tensor) -> Result<Tensor>) -> [Vec<Vec<f32>>; 2] {
        [true, false].map(|chained| {
            let x = (vars[0].as_tensor() * 2.).unwrap();
            let y = if chained { chain(&x, f) } else { f(&x) }.unwrap();
            let store = backward(&y.sqr().unwrap().mean_all().unwrap()).unwrap();
            let gradient = |var: &Var| store.get(var).unwrap().flatten_all().unwrap().to_vec1().unwrap();
            vars.iter().map(gradient).collect()
        })
    }

    #[test]
    fn a_chain_has_the_gradients_of_its_operators_and_one_node() {
        let vars = variables(&[&[5, 4], &[6, 4], &[6], &[6], &[6], &[3, 6]]);
        let f = |x: &Tensor| {
            let y = gelu(&linear(x, &vars[1], Some(&vars[2]), Default::default())?)?;
            linear(&layer_norm(&y, &vars[3], &vars[4], 1e-6)?, &vars[5], None, Default::default())
        };
        let [found, expected] = gradients(&vars, &f);
        assert_eq!(found, expected);
        let x = (vars[0].as_tensor() * 2.).unwrap();
        let y = chain(&x, f).unwrap();
        assert!(y.track_op() && !chain(&x.detach(), |_| Ok(x.detach())).unwrap().track_op());
        let loss = y.sum_all().unwrap();
        backward(&loss).unwrap();
        assert!(backward(&loss).unwrap_err().to_string().contains("second backward pass"), "one node");
    }

    #[test]
    fn a_chain_within_a_chain_is_a_part_of_it() {
        let vars = variables(&[&[5, 4], &[4, 4]]);
        let plain = vars[1].as_tensor();
        let twice = |x: &Tensor| gelu(&linear(x, plain, None, Default::default())?);
        let [found, expected] = gradients(&vars, &|x| twice(&chain(&twice(x)?, twice)?));
        assert_eq!(found, expected);
        let x = (vars[0].as_tensor() * 2.).unwrap();
        let loss = chain(&x, |x| chain(x, twice)?.sqr()?.sum_all()).unwrap();
        backward(&loss).unwrap();
    }

    #[test]
    fn operators_that_make_no_chain_keep_their_graph() {
        let vars = variables(&[&[5, 4], &[4, 4]]);
        let [weight, plain] = [&vars[1], &vars[1]].map(Var::as_tensor);
        let product = |x: &Tensor, weight: &Tensor| linear(x, weight, None, Default::default());
        let through_candle = |x: &Tensor| product(&gelu(&(product(x, plain)? + 1.)?)?, plain);
        let of_both = |x: &Tensor| {
            let y = gelu(x)?;
            product(&y, &(weight * 3.)?)
        };
        let used_twice = |x: &Tensor| {
            let y = gelu(x)?;
            gelu(&product(&y, plain)?)? + y
        };
        for f in [&through_candle as &dyn Fn(&Tensor) -> Result<Tensor>, &of_both, &used_twice] {
            let [found, expected] = gradients(&vars, f);
            assert_eq!(found, expected);
        }
    }
}
