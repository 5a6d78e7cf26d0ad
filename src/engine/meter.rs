//! Means of losses between two lines of the log. Part of the saved state, so that a resumed run logs the same
//! means.

use serde::{Deserialize, Serialize};

/// Sums since the last line.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Meter {
    sums: Vec<(String, f64)>,
    steps: u64,
}

impl Meter {
    /// Adds the losses of one step.
    pub fn add(&mut self, losses: &[(&'static str, f64)]) {
        for (name, value) in losses {
            match self.sums.iter_mut().find(|(n, _)| n == name) {
                Some((_, sum)) => *sum += value,
                None => self.sums.push((name.to_string(), *value)),
            }
        }
        self.steps += 1;
    }

    /// Returns the mean of each loss and resets the sums.
    pub fn take(&mut self) -> Vec<(String, f64)> {
        let Self { sums, steps } = std::mem::take(self);
        sums.into_iter().map(|(name, sum)| (name, sum / steps.max(1) as f64)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::Meter;

    #[test]
    fn means_survive_a_round_trip() {
        let mut meter = Meter::default();
        meter.add(&[("a", 0.1), ("b", 2.)]);
        let mut meter: Meter = serde_json::from_str(&serde_json::to_string(&meter).unwrap()).unwrap();
        meter.add(&[("a", 0.2), ("b", 4.)]);
        assert_eq!(meter.take(), [("a".into(), (0.1 + 0.2) / 2.), ("b".into(), 3.)]);
        assert_eq!(meter, Meter::default());
    }
}
