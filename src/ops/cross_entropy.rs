//! Softmax cross-entropy against class indices.
//!
//! The largest logit and the sum of exponentials of every position are kept from the forward pass,
//! so that the backward pass computes each probability once.

use super::autograd::{ApplyOp, deliver};
#[cfg(feature = "cuda")]
use super::cuda;
use super::simd::{Kernel, exp, max, sum, vectorized};
use super::storage::{argument, for_columns, for_rows_costing, fused, values};
use candle_core::{CpuStorage, CustomOp1, DType, Device, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

/// Positions per task when classes are not adjacent in memory.
const BLOCK: usize = 128;

/// Cross-entropy against class indices, −Σ q·log softmax(logits) over classes, mean over the positions whose target is
/// not `ignore`; q is 1 − smoothing at the target plus smoothing/K at each of the K classes (arXiv:1512.00567, as
/// PyTorch's `label_smoothing`).
///
/// `logits` [N, K] and `targets` u32 `[N]`, or [B, K, H, W] and u32 [B, H, W]. Without a position that
/// counts, the loss is 0 and so is its gradient (PyTorch: NaN). Targets are read on the host, so leave them in host
/// memory even if the logits are on another device; only without `ignore`, those on a CUDA device stay there.
///
/// # Errors
/// For a target that is neither a class nor `ignore`. If the targets stay on a device, the loss is NaN instead.
pub fn cross_entropy(
    logits: &Tensor,
    targets: &Tensor,
    ignore: Option<u32>,
    smoothing: f64,
) -> Result<Tensor> {
    checked_cross_entropy(logits, targets, ignore, smoothing, vec![])
}

/// [`cross_entropy`] without smoothing, weighted by class: Σ w·loss / Σ w, as with PyTorch's `weight`. `weights` `[K]`.
pub fn weighted_cross_entropy(
    logits: &Tensor,
    targets: &Tensor,
    ignore: Option<u32>,
    weights: &[f32],
) -> Result<Tensor> {
    if logits.rank() < 2 || weights.len() != logits.dim(1)? {
        bail!("cross_entropy: {} weights, logits {:?}", weights.len(), logits.shape());
    }
    checked_cross_entropy(logits, targets, ignore, 0., weights.to_vec())
}

fn checked_cross_entropy(
    logits: &Tensor,
    targets: &Tensor,
    ignore: Option<u32>,
    smoothing: f64,
    weights: Vec<f32>,
) -> Result<Tensor> {
    let (b, k, positions, expected) = match *logits.dims() {
        [n, k] => (n, k, 1, vec![n]),
        [b, k, h, w] => (b, k, h * w, vec![b, h, w]),
        _ => bail!("cross_entropy: logits {:?}, expected [N, K] or [B, K, H, W]", logits.shape()),
    };
    if targets.dims() != expected || targets.dtype() != DType::U32 {
        let (logits, dtype, targets) = (logits.shape(), targets.dtype(), targets.shape());
        bail!("cross_entropy: logits {logits:?}, targets {dtype:?} {targets:?}, expected U32 {expected:?}");
    }
    if !(0. ..=1.).contains(&smoothing) {
        bail!("cross_entropy: smoothing {smoothing} is not in 0..=1");
    }
    #[cfg(feature = "cuda")]
    if cuda::fused(&[logits])
        && targets.device().is_cuda()
        && ignore.is_none()
        && weights.is_empty()
        && targets.elem_count() > 0
    {
        let total = targets.elem_count() as f64;
        return cuda::cross_entropy(
            logits,
            targets.contiguous()?,
            (b, k, positions),
            vec![],
            total,
            smoothing,
        );
    }
    let targets = targets.to_device(&Device::Cpu)?.flatten_all()?.to_vec1::<u32>()?;
    let counts = |target: u32| Some(target) != ignore;
    if let Some(i) = targets.iter().position(|&target| counts(target) && target as usize >= k) {
        bail!("cross_entropy: target {} at position {i} of {expected:?}, logits of {k} classes", targets[i]);
    }
    let classes: Vec<u32> =
        targets.into_iter().map(|target| if counts(target) { target } else { IGNORED }).collect();
    let targets = Targets::new((b, k, positions), classes, weights, smoothing as f32);
    #[cfg(feature = "cuda")]
    if cuda::fused(&[logits]) {
        let Targets { shape, classes, weights, total, smoothing } = targets;
        let classes = Tensor::new(classes, logits.device())?;
        return cuda::cross_entropy(logits, classes, shape, weights, total, f64::from(smoothing));
    }
    if !fused(&[logits]) {
        return targets.composed(logits);
    }
    let logits = logits.contiguous()?;
    let norms = {
        let (guard, layout) = logits.storage_and_layout();
        targets.norms(values(&guard, layout)?)
    };
    logits.apply1(CrossEntropy { targets, norms })
}

/// Marks ignored positions; no class has this index.
const IGNORED: u32 = u32::MAX;

/// The targets of the B·P positions of logits [B, K, P].
pub(super) struct Targets {
    pub shape: (usize, usize, usize),
    /// The class at each position, or [`IGNORED`].
    pub classes: Vec<u32>,
    /// One weight per class; if there are none, all classes have weight 1.
    pub weights: Vec<f32>,
    /// Total weight of all positions that count; 1 if none does.
    pub total: f64,
    pub smoothing: f32,
}

impl Targets {
    fn new(shape: (usize, usize, usize), classes: Vec<u32>, weights: Vec<f32>, smoothing: f32) -> Self {
        let counted = classes.iter().filter(|class| **class != IGNORED);
        let total: f64 = counted.map(|class| f64::from(weight(&weights, *class))).sum();
        Self { shape, classes, weights, total: if total > 0. { total } else { 1. }, smoothing }
    }

    /// The loss of candle's operators, for other devices and types.
    fn composed(&self, logits: &Tensor) -> Result<Tensor> {
        let (b, k, positions) = self.shape;
        let log_p = candle_nn::ops::log_softmax(&logits.reshape((b, k, positions))?, 1)?;
        let mut weights = vec![0f64; b * k * positions];
        for (i, &target) in self.classes.iter().enumerate().filter(|(_, class)| **class != IGNORED) {
            let at = |class: usize| (i / positions * k + class) * positions + i % positions;
            let share = f64::from(weight(&self.weights, target)) / self.total;
            (0..k).for_each(|class| weights[at(class)] = f64::from(self.smoothing) / k as f64 * share);
            weights[at(target as usize)] += (1. - f64::from(self.smoothing)) * share;
        }
        let weights = Tensor::from_vec(weights, (b, k, positions), logits.device())?;
        (log_p * weights.to_dtype(logits.dtype())?)?.sum_all()?.neg()
    }

    fn norms(&self, logits: &[f32]) -> Vec<Norm> {
        let (_, k, positions) = self.shape;
        let smoothed = self.smoothing > 0.;
        let mut norms = vec![Norm::default(); self.classes.len()];
        if k == 0 || norms.is_empty() {
            return norms;
        }
        if positions == 1 {
            for_rows_costing(k, &mut norms, 1, |rows, norms| {
                vectorized(RowNorms { logits: &logits[rows.start * k..rows.end * k], k, smoothed, norms });
            });
            return norms;
        }
        let images = norms.par_chunks_mut(positions).zip(logits.par_chunks(k * positions));
        images.for_each(|(norms, logits)| {
            norms.par_chunks_mut(BLOCK).enumerate().for_each(|(i, norms)| {
                vectorized(BlockNorms { logits, positions, first: i * BLOCK, smoothed, norms });
            });
        });
        norms
    }
}

/// Normaliser of the softmax at one position.
#[derive(Clone, Copy, Default)]
struct Norm {
    largest: f32,
    /// Σ exp(x − largest)
    sum: f32,
    /// Σ (x − largest), with smoothing alone.
    shifted: f32,
}

/// Factors of the gradient: `softmax`·softmax − `target`·\[class is the target\] − `rest`.
#[derive(Clone, Copy)]
struct Factors {
    softmax: f32,
    target: f32,
    rest: f32,
}

/// The weight of `class`; 1 where no weights are given.
#[inline(always)]
fn weight(weights: &[f32], class: u32) -> f32 {
    weights.get(class as usize).copied().unwrap_or(1.)
}

struct CrossEntropy {
    targets: Targets,
    norms: Vec<Norm>,
}

impl CustomOp1 for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross_entropy"
    }

    fn cpu_fwd(&self, logits: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let logits = argument(logits, layout)?;
        let Targets { shape: (_, k, positions), ref classes, ref weights, total, smoothing } = self.targets;
        let mut sum_of_losses = 0f64;
        for (i, (&target, norm)) in classes.iter().zip(&self.norms).enumerate() {
            if target != IGNORED {
                let logit = logits[(i / positions * k + target as usize) * positions + i % positions];
                let mut loss =
                    f64::from(norm.sum.ln()) - f64::from((1. - smoothing) * (logit - norm.largest));
                if smoothing > 0. {
                    loss -= f64::from(smoothing) / k as f64 * f64::from(norm.shifted);
                }
                sum_of_losses += f64::from(weight(weights, target)) * loss;
            }
        }
        Ok((CpuStorage::F32(vec![(sum_of_losses / total) as f32]), Shape::from(())))
    }

    fn bwd(&self, logits: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let Targets { shape: (_, k, positions), ref classes, ref weights, total, smoothing } = self.targets;
        let (guard, layout) = logits.storage_and_layout();
        let held = values(&guard, layout)?;
        let scale = grad.to_scalar::<f32>()? / total as f32;
        let factors =
            Factors { softmax: scale, target: scale * (1. - smoothing), rest: scale * smoothing / k as f32 };
        let mut gradient = vec![0f32; held.len()];
        if positions == 1 {
            for_rows_costing(k, &mut gradient, k, |rows, gradient| {
                vectorized(RowGradient {
                    logits: &held[rows.start * k..rows.end * k],
                    targets: &classes[rows.clone()],
                    weights,
                    norms: &self.norms[rows],
                    factors,
                    gradient,
                });
            });
        } else if !gradient.is_empty() {
            let images = gradient.par_chunks_mut(k * positions).zip(held.par_chunks(k * positions));
            images.enumerate().for_each(|(image, (gradient, logits))| {
                for_columns(gradient, positions, BLOCK, |columns, gradient| {
                    let span = image * positions + columns.start..image * positions + columns.end;
                    vectorized(BlockGradient {
                        logits,
                        positions,
                        first: columns.start,
                        targets: &classes[span.clone()],
                        weights,
                        norms: &self.norms[span],
                        factors,
                        gradient,
                    });
                });
            });
        }
        let gradient = Tensor::from_vec(gradient, logits.shape(), logits.device())?;
        Ok(deliver(logits, gradient))
    }
}

/// The norms of rows of `k` logits.
struct RowNorms<'a> {
    logits: &'a [f32],
    k: usize,
    smoothed: bool,
    norms: &'a mut [Norm],
}

impl Kernel for RowNorms<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for (norms, logits) in self.norms.iter_mut().zip(self.logits.chunks_exact(self.k)) {
            let largest = max(logits);
            let shifted = if self.smoothed { sum(logits, |x| x - largest) } else { 0. };
            *norms = Norm { largest, sum: sum(logits, |x| exp(x - largest)), shifted };
        }
    }
}

/// The gradient of each row, times the weight of its class; 0 in ignored rows.
struct RowGradient<'a> {
    logits: &'a [f32],
    targets: &'a [u32],
    /// One weight per class, or none.
    weights: &'a [f32],
    norms: &'a [Norm],
    factors: Factors,
    gradient: &'a mut [f32],
}

impl Kernel for RowGradient<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let k = self.logits.len() / self.targets.len().max(1);
        let rows = self.gradient.chunks_exact_mut(k).zip(self.logits.chunks_exact(k));
        for ((gradient, logits), (&target, norm)) in rows.zip(self.targets.iter().zip(self.norms)) {
            if target == IGNORED {
                continue;
            }
            let weight = weight(self.weights, target);
            let scale = weight * self.factors.softmax / norm.sum;
            let rest = weight * self.factors.rest;
            for (g, &x) in gradient.iter_mut().zip(logits) {
                *g = scale * exp(x - norm.largest) - rest;
            }
            gradient[target as usize] -= weight * self.factors.target;
        }
    }
}

/// The norms of a block of positions of an image [K, P].
struct BlockNorms<'a> {
    logits: &'a [f32],
    positions: usize,
    first: usize,
    smoothed: bool,
    norms: &'a mut [Norm],
}

impl Kernel for BlockNorms<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let count = self.norms.len();
        let classes = || self.logits.chunks_exact(self.positions).map(|class| &class[self.first..][..count]);
        let (mut largest, mut sums, mut shifted) = ([f32::NEG_INFINITY; BLOCK], [0f32; BLOCK], [0f32; BLOCK]);
        for logits in classes() {
            for (largest, &x) in largest.iter_mut().zip(logits) {
                *largest = if x > *largest { x } else { *largest };
            }
        }
        for logits in classes() {
            for ((sum, &x), largest) in sums.iter_mut().zip(logits).zip(&largest) {
                *sum += exp(x - largest);
            }
            if self.smoothed {
                for ((shifted, &x), largest) in shifted.iter_mut().zip(logits).zip(&largest) {
                    *shifted += x - largest;
                }
            }
        }
        for (norms, (largest, (sum, shifted))) in
            self.norms.iter_mut().zip(largest.into_iter().zip(sums.into_iter().zip(shifted)))
        {
            *norms = Norm { largest, sum, shifted };
        }
    }
}

/// [`RowGradient`] of a block of positions of an image [K, P].
struct BlockGradient<'a> {
    logits: &'a [f32],
    positions: usize,
    first: usize,
    targets: &'a [u32],
    /// One weight per class, or none.
    weights: &'a [f32],
    norms: &'a [Norm],
    factors: Factors,
    gradient: Vec<&'a mut [f32]>,
}

impl Kernel for BlockGradient<'_> {
    type Output = ();

    #[inline(always)]
    fn run(mut self) {
        let (mut largest, mut scales, mut rests) = ([0f32; BLOCK], [0f32; BLOCK], [0f32; BLOCK]);
        let positions = largest.iter_mut().zip(scales.iter_mut().zip(&mut rests));
        for ((largest, (scale, rest)), (&target, norm)) in positions.zip(self.targets.iter().zip(self.norms))
        {
            if target != IGNORED {
                let weight = weight(self.weights, target);
                *largest = norm.largest;
                *scale = weight * self.factors.softmax / norm.sum;
                *rest = weight * self.factors.rest;
            }
        }
        let classes = self.logits.chunks_exact(self.positions).map(|class| &class[self.first..]);
        for (gradient, logits) in self.gradient.iter_mut().zip(classes) {
            let position = largest.iter().zip(scales.iter().zip(&rests));
            for ((g, &x), (largest, (&scale, rest))) in gradient.iter_mut().zip(logits).zip(position) {
                let value = scale * exp(x - largest) - rest;
                *g = if scale == 0. { 0. } else { value };
            }
        }
        for (i, &target) in self.targets.iter().enumerate().filter(|(_, target)| **target != IGNORED) {
            self.gradient[target as usize][i] -= weight(self.weights, target) * self.factors.target;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::gradient_check;
    use candle_core::Var;

    /// Targets of a tensor of `shape` under `k` classes, every fifth of them 255.
    fn targets(shape: &[usize], k: usize) -> Tensor {
        let count: usize = shape.iter().product();
        let target = |i: usize| if i % 5 == 3 { 255 } else { (i * 7 % k) as u32 };
        Tensor::from_vec((0..count).map(target).collect::<Vec<_>>(), shape, &Device::Cpu).unwrap()
    }

    #[test]
    fn values_and_gradients() {
        for smoothing in [0., 0.1, 1.] {
            for (n, k) in [(1, 1), (5, 10), (9, 37)] {
                let targets = targets(&[n], k);
                let loss = |t: &[Tensor]| cross_entropy(&t[0], &targets, Some(255), smoothing);
                gradient_check::operator(&[gradient_check::random(&[n, k], 0)], loss, 1e-6);
                gradient_check::operator(&[gradient_check::random(&[k, n], 0)], |t| loss(&[t[0].t()?]), 1e-6);
            }
            for [b, k, h, w] in [[2, 3, 4, 5], [1, 7, 1, 1], [2, 2, 9, 15]] {
                let targets = targets(&[b, h, w], k);
                let loss = |t: &[Tensor]| cross_entropy(&t[0], &targets, Some(255), smoothing);
                gradient_check::operator(&[gradient_check::random(&[b, k, h, w], 0)], loss, 1e-6);
            }
        }
    }

    #[test]
    fn classes_weigh() {
        let weights = [0.25, 1., 3., 0.5];
        // By the definition: each position by the weight of its class, over all weights.
        let expected = |logits: &Tensor, targets: &Tensor| -> Result<Tensor> {
            let rows = logits.flatten_from(2)?.transpose(1, 2)?.reshape(((), 4))?;
            let classes = targets.flatten_all()?.to_vec1::<u32>()?;
            let own = |i: usize| if classes[i / 4] as usize == i % 4 { weights[i % 4] } else { 0. };
            let own: Vec<f32> = (0..classes.len() * 4).map(own).collect();
            let total: f32 = own.iter().sum();
            let log_p = candle_nn::ops::log_softmax(&rows, 1)?;
            (log_p * Tensor::from_vec(own, rows.shape(), &Device::Cpu)?)?.sum_all()? / f64::from(-total)
        };
        for [b, k, h, w] in [[3, 4, 5, 2], [2, 4, 13, 11], [6, 4, 1, 1]] {
            let targets = targets(&[b, h, w], k);
            let loss = |t: &[Tensor]| weighted_cross_entropy(&t[0], &targets, Some(255), &weights);
            let x = gradient_check::random(&[b, k, h, w], 0);
            gradient_check::operator(std::slice::from_ref(&x), loss, 1e-6);
            let single = gradient_check::single(&x);
            let found = loss(std::slice::from_ref(&single)).unwrap();
            let difference = (found - expected(&single, &targets).unwrap()).unwrap();
            assert!(difference.abs().unwrap().to_scalar::<f32>().unwrap() < 1e-6);
        }
        // Rows [N, K] are maps of one position.
        let rows = gradient_check::single(&gradient_check::random(&[6, 4], 0));
        let loss = |x: &Tensor, shape: &[usize]| {
            let loss = weighted_cross_entropy(x, &targets(shape, 4), Some(255), &weights).unwrap();
            loss.to_scalar::<f32>().unwrap()
        };
        let maps = loss(&rows.reshape((6, 4, 1, 1)).unwrap(), &[6, 1, 1]);
        assert!((loss(&rows, &[6]) - maps).abs() < 1e-6);
        let x = gradient_check::single(&gradient_check::random(&[2, 3], 0));
        let targets = Tensor::new(&[0u32, 2], &Device::Cpu).unwrap();
        let error = weighted_cross_entropy(&x, &targets, None, &weights).unwrap_err().to_string();
        assert!(error.contains("4 weights, logits [2, 3]"), "{error}");
    }

    #[test]
    fn one_hot_targets_give_the_same() {
        let logits = gradient_check::single(&gradient_check::random(&[4, 6], 0));
        let targets = Tensor::new(&[5u32, 0, 2, 2], &Device::Cpu).unwrap();
        let one_hot = candle_nn::encoding::one_hot(targets.clone(), 6, 1f32, 0f32).unwrap();
        let soft = crate::ops::softmax_cross_entropy(&logits, &one_hot).unwrap();
        let hard = cross_entropy(&logits, &targets, None, 0.).unwrap();
        assert!((soft - hard).unwrap().abs().unwrap().to_scalar::<f32>().unwrap() < 1e-6);
    }

    #[test]
    fn ignored_positions_have_no_part() {
        for shape in [&[2, 3][..], &[1, 3, 2, 1]] {
            let x = Var::from_tensor(&Tensor::full(f32::NAN, shape, &Device::Cpu).unwrap()).unwrap();
            let targets =
                Tensor::full(255u32, &[&shape[..1], &shape[2..]].concat()[..], &Device::Cpu).unwrap();
            let loss = cross_entropy(&x, &targets, Some(255), 0.1).unwrap();
            assert_eq!(loss.to_scalar::<f32>().unwrap(), 0.);
            let gradient = loss.backward().unwrap().remove(&x).unwrap().flatten_all().unwrap();
            assert_eq!(gradient.to_vec1::<f32>().unwrap(), [0.; 6]);
        }
        let none = gradient_check::single(&gradient_check::random(&[0, 3], 0));
        let targets = Tensor::zeros(0, DType::U32, &Device::Cpu).unwrap();
        assert_eq!(cross_entropy(&none, &targets, None, 0.).unwrap().to_scalar::<f32>().unwrap(), 0.);
    }

    #[test]
    fn extreme_logits_stay_finite() {
        let x = Var::from_tensor(&Tensor::new(&[[3e38f32, -3e38, f32::NEG_INFINITY]], &Device::Cpu).unwrap());
        let (x, target) = (x.unwrap(), Tensor::new(&[0u32], &Device::Cpu).unwrap());
        let loss = cross_entropy(&x, &target, None, 0.).unwrap();
        assert_eq!(loss.to_scalar::<f32>().unwrap(), 0.);
        let gradient = loss.backward().unwrap().remove(&x).unwrap().to_vec2::<f32>().unwrap();
        assert!(gradient[0].iter().all(|g| g.abs() < 1e-30), "{gradient:?}");
    }

    #[test]
    fn the_bits_do_not_depend_on_the_number_of_threads() {
        let targets = targets(&[2, 40, 50], 19);
        let loss = |t: &[Tensor]| cross_entropy(&t[0], &targets, Some(255), 0.1);
        gradient_check::threads(&[gradient_check::random(&[2, 19, 40, 50], 0)], loss);
    }

    #[test]
    fn wrong_targets_are_refused() {
        let x = gradient_check::single(&gradient_check::random(&[2, 3], 0));
        let error = |targets: &Tensor| cross_entropy(&x, targets, Some(255), 0.).unwrap_err().to_string();
        let outside = error(&Tensor::new(&[0u32, 3], &Device::Cpu).unwrap());
        assert!(outside.contains("target 3 at position 1"), "{outside}");
        let long = error(&Tensor::new(&[0u32, 1, 2], &Device::Cpu).unwrap());
        assert!(long.contains("logits [2, 3], targets U32 [3]"), "{long}");
        assert!(error(&Tensor::new(&[0f32, 1.], &Device::Cpu).unwrap()).contains("F32"));
    }
}
