//! Losses of single values against constants: logistic and smooth L1.
//!
//! candle's compositions are infinite at extreme logits, or give a gradient where the slope is 0.

use super::autograd::{ApplyOp, deliver};
#[cfg(feature = "cuda")]
use super::cuda;
use super::fresh::to_overwrite;
use super::simd::{Kernel, exp, sum2, vectorized};
use super::storage::{argument, for_rows, fused, sum_rows, values};
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};

/// Binary cross-entropy, −t·log σ(x) − (1 − t)·log(1 − σ(x)). `logits`, `targets` and `weights` have one shape; without
/// weights their mean, with weights Σ weight·loss. 0 for no values. Targets, in 0..=1, and weights
/// are constants (an error otherwise).
pub fn binary_cross_entropy_with_logits(
    logits: &Tensor,
    targets: &Tensor,
    weights: Option<&Tensor>,
) -> Result<Tensor> {
    total("binary_cross_entropy_with_logits", Logistic, logits, targets, weights)
}

/// Smooth L1 loss: d²/(2·beta) for |d| < beta and |d| − beta/2 beyond, with d = prediction − target
/// (arXiv:1504.08083); beta 0 is the L1 loss, whose slope at 0 is 0. Shapes, mean and weights as in
/// [`binary_cross_entropy_with_logits`].
pub fn smooth_l1(
    prediction: &Tensor,
    target: &Tensor,
    weights: Option<&Tensor>,
    beta: f64,
) -> Result<Tensor> {
    if beta.is_nan() || beta < 0. {
        bail!("smooth_l1: beta {beta} is negative");
    }
    total("smooth_l1", SmoothL1 { beta: beta as f32 }, prediction, target, weights)
}

/// A loss of x against t.
trait PointwiseLoss: Copy + Send + Sync + 'static {
    /// The kernel for CUDA devices, and its parameter.
    #[cfg(feature = "cuda")]
    fn kernel(self) -> (&'static str, f32);
    fn loss(self, x: f32, t: f32) -> f32;
    /// Its derivative by x.
    fn slope(self, x: f32, t: f32) -> f32;
    /// The losses by candle's operators, for other devices and types.
    fn composed(self, x: &Tensor, t: &Tensor) -> Result<Tensor>;
}

#[derive(Clone, Copy)]
struct Logistic;

impl PointwiseLoss for Logistic {
    #[cfg(feature = "cuda")]
    fn kernel(self) -> (&'static str, f32) {
        ("logistic_loss", 0.)
    }

    #[inline(always)]
    fn loss(self, x: f32, t: f32) -> f32 {
        // log σ(x) = min(x, 0) − log(1 + exp(−|x|)). The exp of this crate never returns 0, which makes no difference
        // after adding 1.
        let positive = if x < 0. { 0. } else { x };
        positive - x * t + log_1p(exp(-x.abs()))
    }

    #[inline(always)]
    fn slope(self, x: f32, t: f32) -> f32 {
        let small = exp(-x.abs());
        let sigmoid = if x < 0. { small } else { 1. } / (1. + small);
        sigmoid - t
    }

    fn composed(self, x: &Tensor, t: &Tensor) -> Result<Tensor> {
        let last = x.rank();
        let both = Tensor::stack(&[x, &x.zeros_like()?], last)?;
        let shares = Tensor::stack(&[t, &(1. - t)?], last)?;
        (candle_nn::ops::log_softmax(&both, last)? * shares)?.sum(last)?.neg()
    }
}

/// ln(1 + x) for x in 0..=1, to 1e-7.
#[inline(always)]
fn log_1p(x: f32) -> f32 {
    // ln(1 + x) = 2·artanh(z), z = x/(2 + x) ≤ 1/3; the series to z¹³ leaves 2e-9.
    let z = x / (2. + x);
    let s = z * z;
    let p = 1. / 13.;
    let p = p * s + 1. / 11.;
    let p = p * s + 1. / 9.;
    let p = p * s + 1. / 7.;
    let p = p * s + 1. / 5.;
    let p = p * s + 1. / 3.;
    2. * z * (p * s + 1.)
}

#[derive(Clone, Copy)]
struct SmoothL1 {
    beta: f32,
}

impl PointwiseLoss for SmoothL1 {
    #[cfg(feature = "cuda")]
    fn kernel(self) -> (&'static str, f32) {
        ("smooth_l1_loss", self.beta)
    }

    #[inline(always)]
    fn loss(self, x: f32, t: f32) -> f32 {
        let d = (x - t).abs();
        if d < self.beta { 0.5 * d * d / self.beta } else { d - 0.5 * self.beta }
    }

    #[inline(always)]
    fn slope(self, x: f32, t: f32) -> f32 {
        let d = x - t;
        let sign = if d == 0. { d } else { 1f32.copysign(d) };
        let sign = if d.is_nan() { d } else { sign };
        if d.abs() < self.beta { d / self.beta } else { sign }
    }

    fn composed(self, x: &Tensor, t: &Tensor) -> Result<Tensor> {
        let (d, beta) = ((x - t)?, f64::from(self.beta));
        let linear = ((&d * d.detach().sign()?)? - 0.5 * beta)?;
        if beta == 0. {
            return Ok(linear);
        }
        d.detach().abs()?.lt(beta)?.where_cond(&(d.sqr()? / (2. * beta))?, &linear)
    }
}

fn total<L: PointwiseLoss>(
    name: &'static str,
    loss: L,
    x: &Tensor,
    targets: &Tensor,
    weights: Option<&Tensor>,
) -> Result<Tensor> {
    let constants = || [Some(targets), weights].into_iter().flatten();
    if constants().any(|t| t.dims() != x.dims() || t.dtype() != x.dtype()) {
        let weights = weights.map(Tensor::shape);
        bail!("{name}: values {:?}, targets {:?}, weights {weights:?}", x.shape(), targets.shape());
    }
    if constants().any(Tensor::track_op) {
        bail!("{name}: targets or weights depend on variables, but get no gradient; detach them");
    }
    let share = if weights.is_some() { 1. } else { 1. / x.elem_count().max(1) as f64 };
    if !fused(&[x]) {
        if x.elem_count() == 0 {
            return x.sum_all();
        }
        #[cfg(feature = "cuda")]
        if cuda::fused(&[x]) && constants().all(|t| t.device().is_cuda()) {
            return cuda::pointwise_loss(name, loss.kernel(), x, (targets, weights), share as f32);
        }
        let losses = loss.composed(x, targets)?;
        let losses = if let Some(weights) = weights { (losses * weights)? } else { losses };
        return losses.sum_all()? * share;
    }
    let held = |t: &Tensor| t.flatten_all()?.to_vec1::<f32>();
    let weights = weights.map(held).transpose()?;
    x.contiguous()?.apply1(Total { name, loss, targets: held(targets)?, weights, share: share as f32 })
}

/// share·Σ weight·loss.
struct Total<L> {
    name: &'static str,
    loss: L,
    targets: Vec<f32>,
    weights: Option<Vec<f32>>,
    share: f32,
}

impl<L: PointwiseLoss> CustomOp1 for Total<L> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = argument(x, layout)?;
        let sums = sum_rows(x.len(), 1, |rows, sums| {
            let weights = self.weights.as_ref().map(|weights| &weights[rows.clone()]);
            let (x, targets) = (&x[rows.clone()], &self.targets[rows]);
            sums[0] += vectorized(Losses { loss: self.loss, x, targets, weights });
        });
        Ok((CpuStorage::F32(vec![sums[0] * self.share]), Shape::from(())))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let scale = self.share * grad.to_scalar::<f32>()?;
        let (guard, layout) = x.storage_and_layout();
        let held = values(&guard, layout)?;
        let mut gradient = to_overwrite(held.len());
        for_rows(&mut gradient, 1, |rows, gradient| {
            let weights = self.weights.as_ref().map(|weights| &weights[rows.clone()]);
            let (x, targets) = (&held[rows.clone()], &self.targets[rows]);
            vectorized(Gradient { loss: self.loss, x, targets, weights, scale, gradient });
        });
        Tensor::from_vec(gradient, x.shape(), x.device()).map(|gradient| deliver(x, gradient))
    }
}

/// Σ weight·loss.
struct Losses<'a, L> {
    loss: L,
    x: &'a [f32],
    targets: &'a [f32],
    weights: Option<&'a [f32]>,
}

impl<L: PointwiseLoss> Kernel for Losses<'_, L> {
    type Output = f32;

    #[inline(always)]
    fn run(self) -> f32 {
        let Some(weights) = self.weights else {
            return sum2(self.x, self.targets, |x, t| self.loss.loss(x, t));
        };
        const BLOCK: usize = 256;
        let (mut losses, mut total) = ([0f32; BLOCK], 0.);
        let blocks = self.x.chunks(BLOCK).zip(self.targets.chunks(BLOCK)).zip(weights.chunks(BLOCK));
        for ((x, targets), weights) in blocks {
            for (loss, (&x, &t)) in losses.iter_mut().zip(x.iter().zip(targets)) {
                *loss = self.loss.loss(x, t);
            }
            total += sum2(weights, &losses[..weights.len()], |weight, loss| weight * loss);
        }
        total
    }
}

/// scale·weight·slope.
struct Gradient<'a, L> {
    loss: L,
    x: &'a [f32],
    targets: &'a [f32],
    weights: Option<&'a [f32]>,
    scale: f32,
    gradient: &'a mut [f32],
}

impl<L: PointwiseLoss> Kernel for Gradient<'_, L> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for (g, (&x, &t)) in self.gradient.iter_mut().zip(self.x.iter().zip(self.targets)) {
            *g = self.scale * self.loss.slope(x, t);
        }
        for (g, weight) in self.gradient.iter_mut().zip(self.weights.unwrap_or_default()) {
            *g *= weight;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::gradient_check;
    use candle_core::{DType, Device, Var};

    #[test]
    fn values_and_gradients() {
        for shape in [&[1][..], &[3, 7], &[2, 5, 41]] {
            let (targets, weights) = (gradient_check::random(shape, 1), gradient_check::random(shape, 2));
            let unit = candle_nn::ops::sigmoid(&targets).unwrap();
            let like = |t: &Tensor, x: &Tensor| t.to_dtype(x.dtype());
            let inputs = [gradient_check::random(shape, 0)];
            let bce = |t: &[Tensor]| binary_cross_entropy_with_logits(&t[0], &like(&unit, &t[0])?, None);
            gradient_check::operator(&inputs, bce, 2e-6);
            let weighted = |t: &[Tensor]| {
                let weights = like(&weights, &t[0])?;
                binary_cross_entropy_with_logits(&t[0], &like(&unit, &t[0])?, Some(&weights))
            };
            gradient_check::operator(&inputs, weighted, 2e-6);
            for beta in [0., 0.25, 1.] {
                let mean = |t: &[Tensor]| smooth_l1(&t[0], &like(&targets, &t[0])?, None, beta);
                gradient_check::operator(&inputs, mean, 2e-6);
                let weighted = |t: &[Tensor]| {
                    smooth_l1(&t[0], &like(&targets, &t[0])?, Some(&like(&weights, &t[0])?), beta)
                };
                gradient_check::operator(&inputs, weighted, 2e-6);
            }
        }
        let (inputs, targets) = ([gradient_check::random(&[4, 3], 0)], gradient_check::random(&[3, 4], 1));
        gradient_check::operator(
            &inputs,
            |t| smooth_l1(&t[0].t()?, &targets.to_dtype(t[0].dtype())?, None, 1.),
            2e-6,
        );
    }

    /// Loss and gradient at single values.
    fn at(x: f32, loss: impl Fn(&Tensor) -> Result<Tensor>) -> (f32, f32) {
        let x = Var::from_tensor(&Tensor::new(&[x], &Device::Cpu).unwrap()).unwrap();
        let loss = loss(&x).unwrap();
        let gradient = loss.backward().unwrap().remove(&x).unwrap();
        (loss.to_scalar().unwrap(), gradient.to_vec1().unwrap()[0])
    }

    /// In f64, where there is no fused operator, as in f32.
    #[test]
    fn l1_of_equal_values_is_zero() {
        for dtype in [DType::F32, DType::F64] {
            let x =
                Var::from_tensor(&Tensor::new(&[1.5, -2.], &Device::Cpu).unwrap().to_dtype(dtype).unwrap())
                    .unwrap();
            for beta in [0., 0.5] {
                let loss = smooth_l1(&x, &x.as_detached_tensor(), None, beta).unwrap();
                let gradient = loss.backward().unwrap().remove(&x).unwrap().to_dtype(DType::F64).unwrap();
                assert_eq!(
                    loss.to_dtype(DType::F64).unwrap().to_scalar::<f64>().unwrap(),
                    0.,
                    "{dtype:?}, {beta}"
                );
                assert_eq!(gradient.to_vec1::<f64>().unwrap(), [0., 0.], "{dtype:?}, {beta}");
            }
        }
    }

    #[test]
    fn extreme_logits_stay_finite() {
        let target = |t: f32| Tensor::new(&[t], &Device::Cpu).unwrap();
        let bce = |x: f32, t: f32| at(x, |x| binary_cross_entropy_with_logits(x, &target(t), None));
        let near = |found: (f32, f32), expected: (f32, f32)| {
            let close = |a: f32, b: f32| (a - b).abs() <= 1e-6 * b.abs() + 1e-37;
            assert!(close(found.0, expected.0) && close(found.1, expected.1), "{found:?} {expected:?}");
        };
        near(bce(0., 0.), (std::f32::consts::LN_2, 0.5));
        near(bce(1000., 1.), (0., 0.));
        near(bce(-1000., 0.), (0., 0.));
        near(bce(1000., 0.), (1000., 1.));
        near(bce(-3e38, 1.), (3e38, -1.));
        assert!(bce(f32::NAN, 1.).0.is_nan());
    }

    #[test]
    fn the_l1_slope_at_a_tie_is_0() {
        let zero = Tensor::new(&[2f32], &Device::Cpu).unwrap();
        let loss = |x: f32, beta: f64| at(x, |x| smooth_l1(x, &zero, None, beta));
        assert_eq!([loss(2., 0.), loss(1., 0.), loss(2.5, 0.)], [(0., 0.), (1., -1.), (0.5, 1.)]);
        assert_eq!([loss(2., 1.), loss(3., 1.), loss(2.5, 1.)], [(0., 0.), (0.5, 1.), (0.125, 0.5)]);
        assert!(loss(f32::NAN, 0.).1.is_nan());
    }

    #[test]
    fn no_values_cost_nothing() {
        let none = Tensor::zeros(0, DType::F32, &Device::Cpu).unwrap();
        for x in [none.clone(), none.to_dtype(DType::F64).unwrap()] {
            let loss = binary_cross_entropy_with_logits(&x, &x, None).unwrap();
            assert_eq!(loss.to_dtype(DType::F32).unwrap().to_scalar::<f32>().unwrap(), 0.);
        }
    }

    #[test]
    fn the_bits_do_not_depend_on_the_number_of_threads() {
        let targets = gradient_check::single(&gradient_check::random(&[50_000], 1));
        gradient_check::threads(&[gradient_check::random(&[50_000], 0)], |t| {
            smooth_l1(&t[0], &targets, None, 1.)
        });
    }

    #[test]
    fn wrong_arguments_are_refused() {
        let [x, t] = [gradient_check::random(&[2, 3], 0), gradient_check::random(&[3, 2], 1)]
            .map(|t| gradient_check::single(&t));
        let error = smooth_l1(&x, &t, None, 1.).unwrap_err().to_string();
        assert!(error.contains("smooth_l1: values [2, 3], targets [3, 2]"), "{error}");
        assert!(smooth_l1(&x, &x, None, -1.).is_err());
        let variable = Var::from_tensor(&x).unwrap();
        let error = binary_cross_entropy_with_logits(&x, &variable, None).unwrap_err().to_string();
        assert!(error.contains("detach"), "{error}");
    }
}
