//! Distances between the tensors of a test and those of a reference. Compiled for tests only.
//!
//! A distance is NaN if any value is, so that `distance < tolerance` is false: the maximum of candle and that of `f32` pass over NaN.

use candle_core::{DType, Result, Tensor};

/// The largest absolute value.
pub fn largest(x: &Tensor) -> f32 {
    let values = || -> Result<Vec<f32>> { x.to_dtype(DType::F32)?.flatten_all()?.to_vec1() };
    greatest(values().expect("a tensor of numbers").into_iter().map(f32::abs))
}

/// The largest absolute difference.
pub fn absolute(found: &Tensor, expected: &Tensor) -> f32 {
    largest(&(found - expected).expect("tensors of the same shape"))
}

/// The largest absolute difference over the largest absolute value expected.
pub fn relative(found: &Tensor, expected: &Tensor) -> f32 {
    absolute(found, expected) / largest(expected)
}

/// The largest of values that are not negative; 0 of none.
pub fn greatest<T: Copy + Default + PartialOrd>(values: impl Iterator<Item = T>) -> T {
    let is_nan = |value: T| value.partial_cmp(&value).is_none();
    values.fold(T::default(), |most, value| if value > most || is_nan(value) { value } else { most })
}

#[test]
fn what_is_not_a_number_is_far_from_everything() {
    let tensor = |values: &[f32]| Tensor::new(values, &candle_core::Device::Cpu).unwrap();
    let expected = tensor(&[1., -4., 2.]);
    assert_eq!(absolute(&tensor(&[1., -3., 2.5]), &expected), 1.);
    assert_eq!(relative(&tensor(&[1., -3., 2.5]), &expected), 0.25);
    for values in [[f32::NAN, -4., 2.], [1., -4., f32::NAN], [1., f32::NAN, 9.]] {
        assert!(
            absolute(&tensor(&values), &expected).is_nan() && relative(&tensor(&values), &expected).is_nan()
        );
    }
}
