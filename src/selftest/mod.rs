//! Self-test: compares the results of a device with those of the CPU.
//!
//! [`operators`] compares values and gradients of every operator, [`training`] whole runs. The reference is the f32
//! kernels of the CPU, which the tests compare with f64 and with PyTorch.

mod operators;
mod training;

pub use operators::{operators, poisoned};
pub use training::training;

use serde::Serialize;

/// One comparison.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// The operator or run that is compared.
    pub name: String,
    /// Sizes, or the special case.
    pub detail: String,
    /// Precision of the matrix products: `f32` or `bf16`.
    pub dtype: &'static str,
    /// Relative error of the values: ‖found − expected‖ / ‖expected‖.
    pub error: f64,
    /// The largest relative error of the gradients of all inputs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gradient_error: Option<f64>,
    /// The largest error that passes.
    pub limit: f64,
    /// The reason why the comparison failed, if it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

impl Check {
    /// Whether both errors are within the limit.
    pub fn passed(&self) -> bool {
        let below = |error: f64| error <= self.limit;
        self.failure.is_none() && below(self.error) && self.gradient_error.is_none_or(below)
    }
}

/// ‖found − expected‖ / ‖expected‖; NaN if one of the found values is NaN.
fn relative_error(found: &[f64], expected: &[f64]) -> f64 {
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
    let difference = norm(&mut found.iter().zip(expected).map(|(found, expected)| found - expected));
    difference / norm(&mut expected.iter().copied()).max(f64::MIN_POSITIVE)
}
