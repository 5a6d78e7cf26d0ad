//! Losses of one forward pass by name, and metrics that are logged beside them.

use candle_core::{Result, Tensor};
use std::fmt;
use std::sync::Arc;

/// Ordered (name, scalar tensor) pairs whose sum is minimised, and metrics that are logged beside them.
#[derive(Clone, Debug, Default)]
pub struct Losses {
    losses: Vec<(&'static str, Tensor)>,
    metrics: Vec<(&'static str, LossMetric)>,
}

/// A metric of a step: a number, or how it is computed from tensors.
#[derive(Clone)]
pub struct LossMetric(Arc<dyn Fn() -> Result<f64> + Send + Sync>);

impl LossMetric {
    /// Its value. Reading a tensor waits for the device.
    ///
    /// # Errors
    /// The device fails.
    pub fn value(&self) -> Result<f64> {
        (self.0)()
    }
}

impl fmt::Debug for LossMetric {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("LossMetric")
    }
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
        self.metrics.push((name, LossMetric(Arc::new(move || Ok(value)))));
        self
    }

    /// Adds a number that is logged and not minimised. `read` computes it from tensors, which the closure keeps
    /// (detached, so that it does not keep the graph behind them): it is called when all of the step has been queued on
    /// the device, so that the device does not wait for the host.
    pub fn with_metric_of(
        mut self,
        name: &'static str,
        read: impl Fn() -> Result<f64> + Send + Sync + 'static,
    ) -> Self {
        self.metrics.push((name, LossMetric(Arc::new(read))));
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

    /// Names and metrics, in the order in which they were added.
    pub fn metrics(&self) -> impl Iterator<Item = (&'static str, &LossMetric)> {
        self.metrics.iter().map(|(name, metric)| (*name, metric))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn metrics_of_tensors_are_read_when_they_are_asked_for() -> Result<()> {
        static READ: AtomicUsize = AtomicUsize::new(0);
        let right = Tensor::new(3f32, &Device::Cpu)?;
        let share = move || {
            READ.fetch_add(1, Ordering::Relaxed);
            Ok(f64::from(right.to_scalar::<f32>()?) / 4.)
        };
        let losses = Losses::new().with_metric("temperature", 0.5).with_metric_of("accuracy", share);
        assert_eq!(READ.load(Ordering::Relaxed), 0);
        let found = losses.metrics().map(|(name, metric)| Ok((name, metric.value()?)));
        assert_eq!(found.collect::<Result<Vec<_>>>()?, [("temperature", 0.5), ("accuracy", 0.75)]);
        assert_eq!(READ.load(Ordering::Relaxed), 1);
        Ok(())
    }
}
