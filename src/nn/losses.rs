//! Named losses of one step.

use candle_core::{Result, Tensor};

/// Ordered (name, scalar tensor) pairs; what is minimised is their sum.
#[derive(Clone, Debug, Default)]
pub struct Losses(Vec<(&'static str, Tensor)>);

impl Losses {
    pub fn new() -> Self {
        Self::default()
    }
    /// A single loss.
    pub fn of(name: &'static str, loss: Tensor) -> Self {
        Self(vec![(name, loss)])
    }
    /// Adds a scalar under a name.
    pub fn with(mut self, name: &'static str, loss: Tensor) -> Self {
        self.0.push((name, loss));
        self
    }
    /// The sum of all losses, a scalar.
    pub fn total(&self) -> Result<Tensor> {
        let mut parts = self.0.iter().map(|(_, loss)| loss);
        let Some(first) = parts.next() else { candle_core::bail!("an objective returned no losses") };
        parts.try_fold(first.clone(), |sum, loss| sum + loss)
    }
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &Tensor)> {
        self.0.iter().map(|(name, loss)| (*name, loss))
    }
}
