//! Distances between the tensors of a test and those of a reference. Compiled for tests only.

use candle_core::{Result, Tensor};

/// The largest absolute value.
pub fn largest(x: &Tensor) -> f32 {
    let value = || -> Result<f32> { x.abs()?.flatten_all()?.max(0)?.to_scalar() };
    value().expect("a tensor of f32 with values")
}

/// The largest absolute difference.
pub fn absolute(found: &Tensor, expected: &Tensor) -> f32 {
    largest(&(found - expected).expect("tensors of the same shape"))
}

/// The largest absolute difference over the largest absolute value expected.
pub fn relative(found: &Tensor, expected: &Tensor) -> f32 {
    absolute(found, expected) / largest(expected)
}
