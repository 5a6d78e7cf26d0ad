//! Named losses of one step.

use candle_core::{Result, Tensor};

/// Ordered (name, scalar tensor) pairs; what is minimised is their sum. Notes are logged beside them.
#[derive(Clone, Debug, Default)]
pub struct Losses {
    losses: Vec<(&'static str, Tensor)>,
    notes: Vec<(&'static str, f64)>,
}

impl Losses {
    pub fn new() -> Self {
        Self::default()
    }
    /// A single loss.
    pub fn of(name: &'static str, loss: Tensor) -> Self {
        Self { losses: vec![(name, loss)], notes: vec![] }
    }
    /// Adds a scalar under a name.
    pub fn with(mut self, name: &'static str, loss: Tensor) -> Self {
        self.losses.push((name, loss));
        self
    }
    /// Adds a number that is logged and not minimised.
    pub fn noting(mut self, name: &'static str, value: f64) -> Self {
        self.notes.push((name, value));
        self
    }
    /// The sum of all losses, a scalar.
    pub fn total(&self) -> Result<Tensor> {
        let mut parts = self.losses.iter().map(|(_, loss)| loss);
        let Some(first) = parts.next() else { candle_core::bail!("an objective returned no losses") };
        parts.try_fold(first.clone(), |sum, loss| sum + loss)
    }
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &Tensor)> {
        self.losses.iter().map(|(name, loss)| (*name, loss))
    }
    /// What is logged and not minimised.
    pub fn notes(&self) -> impl Iterator<Item = (&'static str, f64)> {
        self.notes.iter().copied()
    }
}
