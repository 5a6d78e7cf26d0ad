//! Batch normalisation, with the statistics of the batch or with given ones.

use super::autograd::ApplyOp;
#[cfg(feature = "cuda")]
use super::cuda;
use super::norm_statistics::{ChannelMaps, MeanAndVariance, NormalizeOp};
use super::storage::{fused, values};
use candle_core::{Result, Tensor, bail};

/// Mean and biased variance of every channel, `[C]` each. They are constants.
#[derive(Clone, Debug)]
pub struct Moments {
    /// `[C]`
    pub mean: Tensor,
    /// Biased: the divisor is the number of values. `[C]`
    pub var: Tensor,
}

/// Batch normalisation (arXiv:1502.03167), (x − mean)/sqrt(var + eps)·weight + bias of every channel with the mean and
/// the biased variance over the batch and the pixels; returns these moments too. `x` [B, C] or [B, C, H, W]; `affine`
/// is weight and bias, `[C]` each. The gradient goes through the moments; a channel without values has moments 0.
pub fn batch_norm(x: &Tensor, affine: Option<(&Tensor, &Tensor)>, eps: f64) -> Result<(Tensor, Moments)> {
    normalize(x, None, affine, eps)
}

/// [`batch_norm`] with given moments, as in evaluation and in a frozen layer.
pub fn batch_norm_with(
    x: &Tensor,
    moments: &Moments,
    affine: Option<(&Tensor, &Tensor)>,
    eps: f64,
) -> Result<Tensor> {
    Ok(normalize(x, Some(moments), affine, eps)?.0)
}

fn normalize(
    x: &Tensor,
    given: Option<&Moments>,
    affine: Option<(&Tensor, &Tensor)>,
    eps: f64,
) -> Result<(Tensor, Moments)> {
    let channels = match *x.dims() {
        [_, c] | [_, c, _, _] => c,
        _ => bail!("batch_norm: x {:?}, expected [B, C] or [B, C, H, W]", x.shape()),
    };
    let per_channel = affine.iter().flat_map(|(weight, bias)| [*weight, *bias]);
    for t in per_channel.clone().chain(given.iter().flat_map(|m| [&m.mean, &m.var])) {
        if t.dims() != [channels] {
            bail!("batch_norm: x {:?}, a statistic or parameter {:?}", x.shape(), t.shape());
        }
    }
    #[cfg(feature = "cuda")]
    if per_channel.clone().chain([x]).all(|t| cuda::fused(&[t])) && x.elem_count() > 0 {
        return on_device(x, given, affine, eps);
    }
    if !per_channel.chain([x]).all(|t| fused(&[t])) {
        return composed(x, given, affine, eps);
    }
    if x.rank() == 2 {
        // One value per plane: the transpose is one image of C planes.
        let (y, moments) = normalize(&x.t()?.unsqueeze(0)?.unsqueeze(3)?, given, affine, eps)?;
        return Ok((y.squeeze(3)?.squeeze(0)?.t()?, moments));
    }
    let planes = ChannelMaps { channels, size: (x.dim(2)? * x.dim(3)?).max(1) };
    let (x, set_of) = (x.contiguous()?, move |plane: usize| plane % channels);
    let moments: Vec<MeanAndVariance> = match given {
        Some(Moments { mean, var }) => {
            let (mean, var) = (doubles(mean)?, doubles(var)?);
            mean.into_iter().zip(var).map(|(mean, var)| MeanAndVariance { mean, var }).collect()
        }
        None => {
            let (guard, layout) = x.storage_and_layout();
            planes.moments(values(&guard, layout)?, channels, set_of)
        }
    };
    let op = NormalizeOp::new("batch_norm", planes, set_of, &moments, eps, given.is_none());
    let y = match affine {
        Some((weight, bias)) => x.apply3(&weight.contiguous()?, &bias.contiguous()?, op)?,
        None => x.apply3(
            &Tensor::ones(channels, x.dtype(), x.device())?,
            &Tensor::zeros(channels, x.dtype(), x.device())?,
            op,
        )?,
    };
    let tensor = |value: fn(&MeanAndVariance) -> f64| {
        Tensor::from_vec(moments.iter().map(|m| value(m) as f32).collect(), channels, x.device())
    };
    let moments = match given {
        Some(moments) => moments.clone(),
        None => Moments { mean: tensor(|m| m.mean)?, var: tensor(|m| m.var)? },
    };
    Ok((y, moments))
}

fn doubles(t: &Tensor) -> Result<Vec<f64>> {
    t.to_dtype(candle_core::DType::F64)?.to_vec1()
}

/// Batch normalisation by kernels of a CUDA device.
#[cfg(feature = "cuda")]
fn on_device(
    x: &Tensor,
    given: Option<&Moments>,
    affine: Option<(&Tensor, &Tensor)>,
    eps: f64,
) -> Result<(Tensor, Moments)> {
    let c = x.dim(1)?;
    let map = if x.rank() == 2 { x.unsqueeze(2)?.unsqueeze(3)? } else { x.clone() };
    let moments = match given {
        Some(moments) => moments.clone(),
        None => {
            let (mean, var) = cuda::moments(&map, cuda::Sets::Channels)?;
            Moments { mean, var }
        }
    };
    let constant = |value: f32| Tensor::full(value, c, x.device());
    let (weight, bias) = match affine {
        Some((weight, bias)) => (weight.clone(), bias.clone()),
        None => (constant(1.)?, constant(0.)?),
    };
    let at = (&moments.mean, &moments.var);
    let y = cuda::normalize(&map, at, (&weight, &bias), eps, cuda::Sets::Channels, given.is_none())?;
    Ok((y.reshape(x.shape())?, moments))
}

/// Batch normalisation as a composition of candle's operators, for other devices and types.
fn composed(
    x: &Tensor,
    given: Option<&Moments>,
    affine: Option<(&Tensor, &Tensor)>,
    eps: f64,
) -> Result<(Tensor, Moments)> {
    let (b, c) = (x.dim(0)?, x.dim(1)?);
    let flat = x.reshape((b, c, x.elem_count() / (b * c).max(1)))?;
    let per_channel = |t: &Tensor| t.reshape((1, c, 1));
    let (mean, var) = match given {
        Some(Moments { mean, var }) => (per_channel(&mean.detach())?, per_channel(&var.detach())?),
        None => {
            let mean = flat.mean_keepdim((0, 2))?;
            let var = flat.broadcast_sub(&mean)?.sqr()?.mean_keepdim((0, 2))?;
            (mean, var)
        }
    };
    let y = flat.broadcast_sub(&mean)?.broadcast_div(&(&var + eps)?.sqrt()?)?;
    let y = match affine {
        Some((weight, bias)) => y.broadcast_mul(&per_channel(weight)?)?.broadcast_add(&per_channel(bias)?)?,
        None => y,
    };
    let constant = |t: &Tensor| t.detach().flatten_all();
    Ok((y.reshape(x.shape())?, Moments { mean: constant(&mean)?, var: constant(&var)? }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::gradient_check;

    #[test]
    fn values_and_gradients() {
        for shape in [&[5, 3][..], &[2, 3, 4, 5], &[1, 3, 7, 1], &[4, 3, 1, 1]] {
            let inputs = [
                gradient_check::random(shape, 0),
                gradient_check::random(&[3], 1),
                gradient_check::random(&[3], 2),
            ];
            let train = |t: &[Tensor]| Ok(batch_norm(&t[0], Some((&t[1], &t[2])), 1e-3)?.0);
            gradient_check::operator(&inputs, train, 4e-6);
            gradient_check::operator(&inputs[..1], |t| Ok(batch_norm(&t[0], None, 1e-3)?.0), 4e-6);
            let (mean, var) =
                (gradient_check::random(&[3], 3), gradient_check::random(&[3], 4).sqr().unwrap());
            let fixed = |t: &[Tensor]| {
                let moments =
                    Moments { mean: mean.to_dtype(t[0].dtype())?, var: var.to_dtype(t[0].dtype())? };
                batch_norm_with(&t[0], &moments, Some((&t[1], &t[2])), 1e-1)
            };
            gradient_check::operator(&inputs, fixed, 2e-6);
        }
        let inputs = [gradient_check::random(&[4, 3, 2, 5], 0)];
        gradient_check::operator(&inputs, |t| Ok(batch_norm(&t[0].transpose(0, 3)?, None, 1e-3)?.0), 4e-6);
    }

    #[test]
    fn moments_are_those_of_the_batch() {
        let x = gradient_check::random(&[3, 2, 5, 4], 0);
        let x = ((x * 0.1).unwrap() + 100.).unwrap(); // far from 0 beside its spread
        let (_, exact) = batch_norm(&x, None, 0.).unwrap();
        let (_, found) = batch_norm(&gradient_check::single(&x), None, 0.).unwrap();
        let pairs = [(&found.mean, &exact.mean, 1e-5), (&found.var, &exact.var, 1e-6)];
        for (found, exact, tolerance) in pairs {
            let difference = (found.to_dtype(exact.dtype()).unwrap() - exact).unwrap().abs().unwrap();
            let difference = gradient_check::greatest(difference.to_vec1().unwrap().into_iter());
            assert!(difference < tolerance, "{difference}");
        }
    }

    #[test]
    fn an_empty_batch_stays_empty() {
        for shape in [&[0, 3, 4, 5][..], &[0, 3], &[2, 3, 0, 4]] {
            let inputs = [
                gradient_check::random(shape, 0),
                gradient_check::random(&[3], 1),
                gradient_check::random(&[3], 2),
            ];
            gradient_check::empty(&inputs, |t| {
                let (y, moments) = batch_norm(&t[0], Some((&t[1], &t[2])), 1e-5)?;
                assert_eq!((y.dims(), moments.mean.to_vec1::<f32>()?), (shape, vec![0.; 3]));
                Ok(y)
            });
        }
    }

    #[test]
    fn the_bits_do_not_depend_on_the_number_of_threads() {
        let inputs = [
            gradient_check::random(&[3, 8, 40, 40], 0),
            gradient_check::random(&[8], 1),
            gradient_check::random(&[8], 2),
        ];
        gradient_check::threads(&inputs, |t| Ok(batch_norm(&t[0], Some((&t[1], &t[2])), 1e-5)?.0));
    }

    #[test]
    fn wrong_shapes_are_refused() {
        let [x, w] = [gradient_check::random(&[2, 3, 4, 4], 0), gradient_check::random(&[4], 1)]
            .map(|t| gradient_check::single(&t));
        let error = batch_norm(&x, Some((&w, &w)), 1e-5).unwrap_err().to_string();
        assert!(error.contains("[2, 3, 4, 4]") && error.contains("[4]"), "{error}");
        assert!(batch_norm(&x.squeeze(0).unwrap().get(0).unwrap(), None, 1e-5).is_err());
    }
}
