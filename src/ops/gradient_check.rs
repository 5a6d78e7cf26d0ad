//! Gradient checks of operators, compiled for tests only. Each operator works in f64 through candle's own operators,
//! which serve as the reference for its f32 kernels.

use super::Precision;
use super::autograd::backward;
use super::simd::{Instructions, restricted};
use crate::rng::Rng;
use candle_core::{DType, Device, Result, Tensor, Var};
use rand_distr::{Distribution, StandardNormal};

/// Standard normal values in f64.
pub(super) fn random(shape: &[usize], stream: u64) -> Tensor {
    let mut rng = Rng::new(0, "check", &[stream]);
    let count = shape.iter().product();
    let values: Vec<f64> = (0..count).map(|_| StandardNormal.sample(&mut rng)).collect();
    // Values that f32 holds exactly, so that both types see the same inputs.
    let values: Vec<f64> = values.into_iter().map(|x: f64| f64::from(x as f32)).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

pub(super) fn single(tensor: &Tensor) -> Tensor {
    tensor.to_dtype(DType::F32).unwrap()
}

fn values(tensor: &Tensor) -> Vec<f64> {
    tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// Largest difference over the largest value (or 1).
fn error(found: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(1f64, |m, x| m.max(x.abs()));
    greatest(found.iter().zip(expected).map(|(a, b)| (a - b).abs())) / largest
}

/// The largest of values that are not negative; NaN if one is, which the maximum of `f64` passes over.
pub(super) fn greatest(values: impl Iterator<Item = f64>) -> f64 {
    values.fold(0., |most, value| if value > most || value.is_nan() { value } else { most })
}

/// Largest difference over the largest value expected.
pub(super) fn relative_error(found: &Tensor, expected: &Tensor) -> f64 {
    let largest = |t: &Tensor| greatest(values(t).into_iter().map(f64::abs));
    largest(&(found - expected).unwrap()) / largest(expected)
}

/// Output of `f` and the gradients of Σ output·probe for every input.
fn run(inputs: &[Tensor], f: &(dyn Fn(&[Tensor]) -> Result<Tensor> + Sync)) -> (Vec<f64>, Vec<Vec<f64>>) {
    let vars: Vec<Var> = inputs.iter().map(|t| Var::from_tensor(t).unwrap()).collect();
    let tensors: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
    let out = f(&tensors).unwrap();
    let probe = random(out.dims(), 99).to_dtype(out.dtype()).unwrap();
    let store = backward(&(&out * probe).unwrap().sum_all().unwrap()).unwrap();
    let gradient = |(i, v): (usize, &Var)| {
        let gradient = store.get(v).unwrap_or_else(|| panic!("input {i} gets no gradient"));
        assert_eq!(gradient.dims(), v.dims());
        values(gradient)
    };
    (values(&out), vars.iter().enumerate().map(gradient).collect())
}

/// Output and gradients in f32, with the kernels of each instruction set, against f64: `f` of f64 inputs is the
/// composition.
pub(super) fn composition(inputs: &[Tensor], f: impl Fn(&[Tensor]) -> Result<Tensor> + Sync, tolerance: f64) {
    let (expected, expected_gradients) = run(inputs, &f);
    let inputs: Vec<Tensor> = inputs.iter().map(single).collect();
    for most in [Instructions::Avx512, Instructions::Avx2, Instructions::Portable] {
        let (found, gradients) = restricted(most, || run(&inputs, &f));
        let worst = error(&found, &expected);
        assert!(worst < tolerance, "values, {most:?}: {worst:e}");
        for (i, (found, expected)) in gradients.iter().zip(&expected_gradients).enumerate() {
            let worst = error(found, expected);
            assert!(worst < tolerance, "gradient of input {i} against the composition, {most:?}: {worst:e}");
        }
    }
}

/// Output and gradients with operands in bf16 against f64. A rounding is 2⁻⁹ of its value; `products` follow one
/// another on the longest way from an input to an output and back.
pub(super) fn bf16(
    inputs: &[Tensor],
    products: usize,
    f: impl Fn(&[Tensor], Precision) -> Result<Tensor> + Sync,
) {
    composition(inputs, |t| f(t, Precision::Bf16), 6e-3 * products as f64);
}

/// [`composition`], and the f32 gradients against finite differences of the f64 composition.
pub(super) fn operator(inputs: &[Tensor], f: impl Fn(&[Tensor]) -> Result<Tensor> + Sync, tolerance: f64) {
    composition(inputs, &f, tolerance);
    let (_, gradients) = run(&inputs.iter().map(single).collect::<Vec<_>>(), &f);
    let probe = values(&random(f(inputs).unwrap().dims(), 99));
    let loss = |inputs: &[Tensor]| -> f64 {
        values(&f(inputs).unwrap()).iter().zip(&probe).map(|(y, p)| y * p).sum()
    };
    for (i, input) in inputs.iter().enumerate() {
        let point = values(input);
        let slope = |j: usize| {
            let moved = |by: f64| {
                let mut point = point.clone();
                point[j] += by;
                let mut inputs = inputs.to_vec();
                inputs[i] = Tensor::from_vec(point, input.shape(), input.device()).unwrap();
                loss(&inputs)
            };
            const STEP: f64 = 1e-4;
            // Fourth order: the truncation error is below that of f32.
            (8. * (moved(STEP) - moved(-STEP)) - (moved(2. * STEP) - moved(-2. * STEP))) / (12. * STEP)
        };
        let slopes: Vec<f64> = (0..point.len()).map(slope).collect();
        let worst = error(&gradients[i], &slopes);
        assert!(worst < tolerance, "gradient of input {i} against finite differences: {worst:e}");
    }
}

/// Inputs of which one is an empty batch give no values, and gradients of 0, in f32.
pub(super) fn empty(inputs: &[Tensor], f: impl Fn(&[Tensor]) -> Result<Tensor> + Sync) {
    let (found, gradients) = run(&inputs.iter().map(single).collect::<Vec<_>>(), &f);
    assert!(found.is_empty(), "{} values of an empty batch", found.len());
    assert!(gradients.iter().flatten().all(|&g| g == 0.), "an empty batch gives a gradient");
}

/// Outputs and gradients in f32 have the same bits with 1, 2, 3 and 5 threads.
pub(super) fn threads(inputs: &[Tensor], f: impl Fn(&[Tensor]) -> Result<Tensor> + Sync) {
    let inputs: Vec<Tensor> = inputs.iter().map(single).collect();
    let with = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| run(&inputs, &f))
    };
    let one = with(1);
    for threads in [2, 3, 5] {
        assert!(with(threads) == one, "{threads} threads give other bits");
    }
}
