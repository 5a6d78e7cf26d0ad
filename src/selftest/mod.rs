//! Whether this program computes on a device what it computes on the CPU: one binary carried to a machine proves itself.
//!
//! [`operators`] compares values and gradients of every operator, [`training`] whole runs. The reference are the f32
//! kernels of the CPU, which the tests compare with f64 and with PyTorch.

mod operators;
mod training;

pub use operators::{operators, poisoned};
pub use training::training;

use serde::Serialize;

/// One comparison.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// What is compared: an operator, a run.
    pub name: String,
    /// Sizes, or what is special.
    pub detail: String,
    pub dtype: &'static str,
    /// Of the values: ‖found − expected‖ / ‖expected‖.
    pub error: f64,
    /// The same of gradients, the worst of all inputs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gradient_error: Option<f64>,
    /// What both must stay below.
    pub limit: f64,
    /// Why it could not be compared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

impl Check {
    pub fn passed(&self) -> bool {
        let below = |error: f64| error <= self.limit;
        self.failure.is_none() && below(self.error) && self.gradient_error.is_none_or(below)
    }
}

/// ‖found − expected‖ / ‖expected‖; not a number where one of the found values is none.
fn relative_error(found: &[f64], expected: &[f64]) -> f64 {
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
    let difference = norm(&mut found.iter().zip(expected).map(|(found, expected)| found - expected));
    difference / norm(&mut expected.iter().copied()).max(f64::MIN_POSITIVE)
}
