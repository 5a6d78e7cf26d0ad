//! Group normalisation.

use super::autograd::ApplyOp;
#[cfg(feature = "cuda")]
use super::cuda;
use super::norm_statistics::{ChannelMaps, NormalizeOp};
use super::storage::{fused, values};
use candle_core::{Result, Tensor, bail};

/// Group normalisation (arXiv:1803.08494): normalises each of `groups` groups of adjacent channels of each image by its
/// mean and biased variance, then scales and shifts the channels. `x` [B, C, H, W]; `weight`, `bias` `[C]`.
pub fn group_norm(x: &Tensor, groups: usize, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    let (b, c, h, w) = x.dims4()?;
    if groups == 0 || c % groups != 0 || weight.dims() != [c] || bias.dims() != [c] {
        let (x, weight, bias) = (x.shape(), weight.shape(), bias.shape());
        bail!("group_norm: x {x:?}, {groups} groups, weight {weight:?}, bias {bias:?}");
    }
    #[cfg(feature = "cuda")]
    if cuda::fused(&[x, weight, bias]) && x.elem_count() > 0 {
        let sets = cuda::Sets::Groups(c / groups);
        let (mean, var) = cuda::moments(x, sets)?;
        return cuda::normalize(x, (&mean, &var), (weight, bias), eps, sets, true);
    }
    if !fused(&[x, weight, bias]) {
        let grouped = x.reshape((b, groups, c / groups * h * w))?;
        let centred = grouped.broadcast_sub(&grouped.mean_keepdim(2)?)?;
        let std = (centred.sqr()?.mean_keepdim(2)? + eps)?.sqrt()?;
        let y = centred.broadcast_div(&std)?.reshape((b, c, h, w))?;
        return y.broadcast_mul(&weight.reshape((c, 1, 1))?)?.broadcast_add(&bias.reshape((c, 1, 1))?);
    }
    let (planes, each) = (ChannelMaps { channels: c, size: (h * w).max(1) }, c / groups);
    let (x, set_of) = (x.contiguous()?, move |plane: usize| plane / each);
    let moments = {
        let (guard, layout) = x.storage_and_layout();
        planes.moments(values(&guard, layout)?, b * groups, set_of)
    };
    let op = NormalizeOp::new("group_norm", planes, set_of, &moments, eps, true);
    x.apply3(&weight.contiguous()?, &bias.contiguous()?, op)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::gradient_check;

    #[test]
    fn values_and_gradients() {
        for (shape, groups) in [([2, 6, 3, 5], 3), ([1, 4, 2, 2], 1), ([3, 4, 7, 1], 4)] {
            let c = shape[1];
            let inputs = [
                gradient_check::random(&shape, 0),
                gradient_check::random(&[c], 1),
                gradient_check::random(&[c], 2),
            ];
            gradient_check::operator(&inputs, |t| group_norm(&t[0], groups, &t[1], &t[2], 1e-3), 4e-6);
        }
        let inputs = [
            gradient_check::random(&[5, 3, 4, 2], 0),
            gradient_check::random(&[4], 1),
            gradient_check::random(&[4], 2),
        ];
        let strided = |t: &[Tensor]| group_norm(&t[0].transpose(1, 2)?, 2, &t[1], &t[2], 1e-3);
        gradient_check::operator(&inputs, strided, 4e-6);
    }

    #[test]
    fn an_empty_batch_stays_empty() {
        let inputs = [
            gradient_check::random(&[0, 4, 3, 3], 0),
            gradient_check::random(&[4], 1),
            gradient_check::random(&[4], 2),
        ];
        gradient_check::empty(&inputs, |t| group_norm(&t[0], 2, &t[1], &t[2], 1e-5));
    }

    #[test]
    fn the_bits_do_not_depend_on_the_number_of_threads() {
        let inputs = [
            gradient_check::random(&[3, 8, 40, 40], 0),
            gradient_check::random(&[8], 1),
            gradient_check::random(&[8], 2),
        ];
        gradient_check::threads(&inputs, |t| group_norm(&t[0], 4, &t[1], &t[2], 1e-5));
    }

    #[test]
    fn wrong_shapes_are_refused() {
        let [x, w] = [gradient_check::random(&[2, 6, 2, 2], 0), gradient_check::random(&[6], 1)]
            .map(|t| gradient_check::single(&t));
        let error = group_norm(&x, 4, &w, &w, 1e-5).unwrap_err().to_string();
        assert!(error.contains("group_norm: x [2, 6, 2, 2], 4 groups"), "{error}");
    }
}
