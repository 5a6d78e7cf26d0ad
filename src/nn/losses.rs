//! Losses of one forward pass by name, and metrics that are logged beside them.

use candle_core::{Result, Tensor};

/// Ordered (name, scalar tensor) pairs whose sum is minimised, and metrics that are logged beside them.
#[derive(Clone, Debug, Default)]
pub struct Losses {
    losses: Vec<(&'static str, Tensor)>,
    metrics: Vec<(&'static str, f64)>,
}

impl Losses {
    /// No losses yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A single loss, a scalar, under a name.
    pub fn of(name: &'static str, loss: Tensor) -> Self {
        Self::new().with(name, loss)
    }

    /// Adds a loss, a scalar, under a name.
    pub fn with(mut self, name: &'static str, loss: Tensor) -> Self {
        self.losses.push((name, loss));
        self
    }

    /// Adds a number that is logged and not minimised.
    pub fn with_metric(mut self, name: &'static str, value: f64) -> Self {
        self.metrics.push((name, value));
        self
    }

    /// The sum of all losses, a scalar.
    ///
    /// # Errors
    /// When there is no loss.
    pub fn total(&self) -> Result<Tensor> {
        let mut parts = self.losses.iter().map(|(_, loss)| loss);
        let Some(first) = parts.next() else { candle_core::bail!("an objective returned no losses") };
        parts.try_fold(first.clone(), |sum, loss| sum + loss)
    }

    /// Names and losses, in the order in which they were added.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &Tensor)> {
        self.losses.iter().map(|(name, loss)| (*name, loss))
    }

    /// Names and values of the metrics, in the order in which they were added.
    pub fn metrics(&self) -> impl Iterator<Item = (&'static str, f64)> {
        self.metrics.iter().copied()
    }
}
