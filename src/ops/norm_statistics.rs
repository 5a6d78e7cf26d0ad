//! Normalisation of sets of planes, the images of single channels, by the mean and variance of each
//! set: what batch and group normalisation share.
//!
//! The moments of each plane are computed in two passes while it is in the cache, and the moments of a set are merged
//! in f64. Both passes over the tensor are then one multiply-add a value.

use super::autograd::deliver;
use super::fresh::to_overwrite;
use super::simd::{Kernel, sum, sum2, vectorized};
use super::storage::{argument, for_rows, for_rows_costing, values};
use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};

/// A tensor [B, C, size] of B·C planes.
#[derive(Clone, Copy, Debug)]
pub(super) struct ChannelMaps {
    pub(super) channels: usize,
    pub(super) size: usize,
}

/// Mean and biased variance.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct MeanAndVariance {
    pub(super) mean: f64,
    pub(super) var: f64,
}

impl ChannelMaps {
    /// Moments of `sets` sets of planes of `x`; 0 for a set without values.
    pub(super) fn moments(
        self,
        x: &[f32],
        sets: usize,
        set_of: impl Fn(usize) -> usize,
    ) -> Vec<MeanAndVariance> {
        let size = self.size;
        let mut planes = vec![[0f32; 2]; x.len() / size]; // mean, Σ (x − mean)²
        for_rows_costing(size, &mut planes, 1, |range, planes| {
            vectorized(Own { x: &x[range.start * size..range.end * size], size, planes });
        });
        let (mut moments, mut counts) = (vec![MeanAndVariance::default(); sets], vec![0f64; sets]);
        for (plane, [mean, _]) in planes.iter().enumerate() {
            moments[set_of(plane)].mean += f64::from(*mean);
            counts[set_of(plane)] += 1.;
        }
        for (moment, &count) in moments.iter_mut().zip(&counts) {
            moment.mean /= count.max(1.);
        }
        for (plane, [mean, squares]) in planes.iter().enumerate() {
            let moment = &mut moments[set_of(plane)];
            moment.var += f64::from(*squares) / size as f64 + (f64::from(*mean) - moment.mean).powi(2);
        }
        for (moment, count) in moments.iter_mut().zip(counts) {
            moment.var /= count.max(1.);
        }
        moments
    }
}

/// (x − mean)·scale·weight + bias, with mean and scale of the plane's set and weight and bias of its
/// channel.
pub(super) struct NormalizeOp<F> {
    pub(super) name: &'static str,
    pub(super) planes: ChannelMaps,
    pub(super) set_of: F,
    /// Mean and 1/sqrt(var + eps) of each set.
    pub(super) sets: Vec<(f32, f32)>,
    /// Whether the moments were computed from x, so that the gradient also flows through them.
    pub(super) own_moments: bool,
}

impl<F: Fn(usize) -> usize + Send + Sync> NormalizeOp<F> {
    /// Runs the operator on contiguous f32 tensors.
    pub(super) fn new(
        name: &'static str,
        planes: ChannelMaps,
        set_of: F,
        moments: &[MeanAndVariance],
        eps: f64,
        own_moments: bool,
    ) -> Self {
        let set = |m: &MeanAndVariance| (m.mean as f32, (1. / (m.var + eps).sqrt()) as f32);
        Self { name, planes, set_of, sets: moments.iter().map(set).collect(), own_moments }
    }

    fn set(&self, plane: usize) -> (f32, f32) {
        self.sets[(self.set_of)(plane)]
    }
}

impl<F: Fn(usize) -> usize + Send + Sync> CustomOp3 for NormalizeOp<F> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let ChannelMaps { channels, size } = self.planes;
        if weight_layout.dims() != [channels] || bias_layout.dims() != [channels] {
            let (x, weight, bias) = (x_layout.shape(), weight_layout.shape(), bias_layout.shape());
            bail!("{}: x {x:?}, weight {weight:?}, bias {bias:?}", self.name);
        }
        let x = argument(x, x_layout)?;
        let (weight, bias) = (argument(weight, weight_layout)?, argument(bias, bias_layout)?);
        let mut y = to_overwrite(x.len());
        for_rows(&mut y, size, |planes, y| {
            for (plane, y) in planes.zip(y.chunks_exact_mut(size)) {
                let ((mean, scale), channel) = (self.set(plane), plane % channels);
                let x = &x[plane * size..][..size];
                vectorized(Affine { x, mean, slope: scale * weight[channel], offset: bias[channel], y });
            }
        });
        Ok((CpuStorage::F32(y), x_layout.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let ChannelMaps { channels, size } = self.planes;
        let grad = grad.contiguous()?;
        let (x_guard, x_layout) = x.storage_and_layout();
        let (weight_guard, weight_layout) = weight.storage_and_layout();
        let (grad_guard, grad_layout) = grad.storage_and_layout();
        let (x_values, grads) = (values(&x_guard, x_layout)?, values(&grad_guard, grad_layout)?);
        let weights = values(&weight_guard, weight_layout)?;

        let mut sums = vec![[0f32; 2]; x_values.len() / size]; // Σ g, Σ g·(x − mean) of each plane
        for_rows_costing(2 * size, &mut sums, 1, |planes, sums| {
            for (plane, sums) in planes.zip(sums) {
                let span = plane * size..(plane + 1) * size;
                let (x, grad) = (&x_values[span.clone()], &grads[span]);
                *sums = vectorized(Slopes { x, grad, mean: self.set(plane).0 });
            }
        });
        let dx = if x.track_op() {
            let shares = self.shares(&sums, weights);
            let mut dx = to_overwrite(x_values.len());
            for_rows(&mut dx, size, |planes, dx| {
                for (plane, dx) in planes.zip(dx.chunks_exact_mut(size)) {
                    let span = plane * size..(plane + 1) * size;
                    let (mean, scale) = self.set(plane);
                    let (average, slope) = shares[(self.set_of)(plane)];
                    vectorized(InputGradient {
                        x: &x_values[span.clone()],
                        grad: &grads[span],
                        mean,
                        factors: [scale * weights[plane % channels], scale * average, scale * slope],
                        dx,
                    });
                }
            });
            deliver(x, Tensor::from_vec(dx, x.shape(), x.device())?)
        } else {
            None
        };
        let affine = |like: &Tensor, term: &dyn Fn(usize, [f32; 2]) -> f32| {
            if !like.track_op() {
                return Ok(None);
            }
            let mut totals = vec![0f64; channels];
            for (plane, &sums) in sums.iter().enumerate() {
                totals[plane % channels] += f64::from(term(plane, sums));
            }
            let totals: Vec<f32> = totals.into_iter().map(|total| total as f32).collect();
            Tensor::from_vec(totals, like.shape(), like.device()).map(|totals| deliver(like, totals))
        };
        let weight_grad = affine(weight, &|plane, [_, slope]| slope * self.set(plane).1)?;
        Ok((dx, weight_grad, affine(bias, &|_, [total, _]| total)?))
    }
}

impl<F: Fn(usize) -> usize> NormalizeOp<F> {
    /// The terms of the gradient through the moments of each set: mean(g·w) and
    /// scale²·mean(g·w·(x − mean)).
    fn shares(&self, sums: &[[f32; 2]], weights: &[f32]) -> Vec<(f32, f32)> {
        let mut totals = vec![[0f64; 3]; self.sets.len()]; // of g·w, of g·w·(x − mean), count
        if self.own_moments {
            for (plane, [total, slope]) in sums.iter().enumerate() {
                let w = f64::from(weights[plane % self.planes.channels]);
                let set = &mut totals[(self.set_of)(plane)];
                set[0] += w * f64::from(*total);
                set[1] += w * f64::from(*slope);
                set[2] += self.planes.size as f64;
            }
        }
        let share = |([total, slope, count], (_, scale)): ([f64; 3], &(f32, f32))| {
            let count = count.max(1.);
            ((total / count) as f32, (slope / count * f64::from(*scale).powi(2)) as f32)
        };
        totals.into_iter().zip(&self.sets).map(share).collect()
    }
}

/// Mean and Σ (x − mean)² of each plane.
struct Own<'a> {
    x: &'a [f32],
    size: usize,
    planes: &'a mut [[f32; 2]],
}

impl Kernel for Own<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for (own, x) in self.planes.iter_mut().zip(self.x.chunks_exact(self.size)) {
            let mean = sum(x, |x| x) / self.size as f32;
            *own = [mean, sum(x, |x| (x - mean) * (x - mean))];
        }
    }
}

/// (x − mean)·slope + offset.
struct Affine<'a> {
    x: &'a [f32],
    mean: f32,
    slope: f32,
    offset: f32,
    y: &'a mut [f32],
}

impl Kernel for Affine<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for (y, &x) in self.y.iter_mut().zip(self.x) {
            *y = (x - self.mean) * self.slope + self.offset;
        }
    }
}

/// Σ g and Σ g·(x − mean).
struct Slopes<'a> {
    x: &'a [f32],
    grad: &'a [f32],
    mean: f32,
}

impl Kernel for Slopes<'_> {
    type Output = [f32; 2];

    #[inline(always)]
    fn run(self) -> [f32; 2] {
        [sum(self.grad, |g| g), sum2(self.grad, self.x, |g, x| g * (x - self.mean))]
    }
}

/// a·g − b − c·(x − mean).
struct InputGradient<'a> {
    x: &'a [f32],
    grad: &'a [f32],
    mean: f32,
    factors: [f32; 3],
    dx: &'a mut [f32],
}

impl Kernel for InputGradient<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let [a, b, c] = self.factors;
        for (dx, (&x, &g)) in self.dx.iter_mut().zip(self.x.iter().zip(self.grad)) {
            *dx = a * g - b - c * (x - self.mean);
        }
    }
}
