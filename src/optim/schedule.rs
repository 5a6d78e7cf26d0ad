//! Learning rate at a step: linear warm-up, then cosine, step, polynomial or no decay. Weight decay at a step.
//!
//! Evaluated at every step with fractional epochs, as MAE's `lr_sched.py` does (arXiv:2111.06377
//! §A.1), not once an epoch.

use crate::config::{Optim, Ramp, Schedule, ScheduleName};
use std::f64::consts::PI;

/// Learning rate over a run.
#[derive(Clone, Debug)]
pub struct LrSchedule {
    schedule: Schedule,
    lr: f64,
    steps_per_epoch: f64,
    /// Length of the run in epochs.
    epochs: f64,
}

impl LrSchedule {
    /// `lr` is the peak, already scaled by the batch; steps are those of the optimiser.
    pub fn new(schedule: &Schedule, lr: f64, steps_per_epoch: usize, total_steps: usize) -> Self {
        let steps_per_epoch = steps_per_epoch.max(1) as f64;
        Self { schedule: schedule.clone(), lr, steps_per_epoch, epochs: total_steps as f64 / steps_per_epoch }
    }

    /// Learning rate of the step with this index, from 0.
    pub fn at(&self, step: usize) -> f64 {
        let Schedule { warmup_epochs: warmup, min_lr, ref milestones, gamma, power, .. } = self.schedule;
        let epoch = step as f64 / self.steps_per_epoch;
        if epoch < warmup {
            let from = self.schedule.warmup_ratio.map_or(self.schedule.warmup_from, |ratio| ratio * self.lr);
            return from + (self.lr - from) * epoch / warmup;
        }
        let decay = |remaining: f64| min_lr + (self.lr - min_lr) * remaining;
        match self.schedule.name {
            ScheduleName::Constant => self.lr,
            ScheduleName::Cosine => decay(0.5 * (1. + (PI * self.after_warmup(epoch)).cos())),
            ScheduleName::Polynomial => decay((1. - self.after_warmup(epoch)).powf(power)),
            ScheduleName::Step => {
                let passed = milestones.iter().filter(|&&m| epoch >= m * self.epochs).count();
                (0..passed).fold(self.lr, |lr, _| lr * gamma)
            }
        }
    }

    /// Share of the epochs after warm-up that has passed, 0 to 1.
    fn after_warmup(&self, epoch: f64) -> f64 {
        let span = self.epochs - self.schedule.warmup_epochs;
        if span > 0. { ((epoch - self.schedule.warmup_epochs) / span).min(1.) } else { 1. }
    }
}

/// Weight decay over a run, as a factor of that of the recipe: `weight_decay` to `weight_decay_end` along half a cosine
/// (DINO, arXiv:2104.14294; facebookresearch/dino `utils.py`, `cosine_scheduler`), or constant.
#[derive(Clone, Debug)]
pub struct WeightDecaySchedule {
    start: f64,
    ramp: Option<Ramp>,
    total_steps: usize,
}

impl WeightDecaySchedule {
    /// The schedule of `optim` for a run of `total_steps` steps of the optimiser.
    pub fn new(optim: &Optim, total_steps: usize) -> Self {
        let start = optim.weight_decay;
        let ramp = optim.weight_decay_end.map(|end| Ramp::cosine(start, end));
        Self { start, ramp, total_steps: total_steps.max(1) }
    }

    /// The factor of every group's weight decay at the step with this index, from 0: exactly 1 without a schedule.
    pub fn scale_at(&self, step: usize) -> f64 {
        let progress = step as f64 / self.total_steps as f64;
        self.ramp.as_ref().map_or(1., |ramp| ramp.at(progress, 0.) / self.start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(name: ScheduleName) -> Schedule {
        Schedule {
            name,
            warmup_epochs: 2.,
            warmup_from: 0.,
            warmup_ratio: None,
            min_lr: 0.1,
            milestones: vec![0.5, 0.75],
            gamma: 0.1,
            power: 0.9,
        }
    }

    #[test]
    fn each_decay_at_hand_computed_steps() {
        let at = |name, step| LrSchedule::new(&schedule(name), 1., 4, 40).at(step);
        let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-12, "{a} {b}");
        close(at(ScheduleName::Cosine, 3), 0.375);
        close(at(ScheduleName::Cosine, 8), 1.);
        close(at(ScheduleName::Cosine, 24), 0.55);
        close(at(ScheduleName::Cosine, 40), 0.1);
        close(at(ScheduleName::Polynomial, 24), 0.1 + 0.9 * 0.5f64.powf(0.9));
        close(at(ScheduleName::Step, 19), 1.);
        close(at(ScheduleName::Step, 20), 0.1);
        close(at(ScheduleName::Step, 30), 0.01);
        close(at(ScheduleName::Constant, 39), 1.);
    }

    #[test]
    fn the_end_may_come_within_an_epoch_of_warm_up_and_is_kept() {
        let mut decay = schedule(ScheduleName::Cosine);
        for name in [ScheduleName::Cosine, ScheduleName::Polynomial] {
            decay.name = name;
            // Half an epoch of 8 steps remains after the two of warm-up.
            let lr = LrSchedule::new(&decay, 1., 8, 20);
            assert!((lr.at(16) - 1.).abs() < 1e-12);
            let middle = if name == ScheduleName::Cosine { 0.5 } else { 0.5f64.powf(0.9) };
            assert!((lr.at(18) - (0.1 + 0.9 * middle)).abs() < 1e-12, "{}", lr.at(18));
            assert!([20, 21, 24, 28].iter().all(|step| (lr.at(*step) - 0.1).abs() < 1e-12));
        }
    }

    #[test]
    fn a_run_of_one_step_has_both_ends_of_weight_decay() {
        let text = "name = \"adamw\"\nbase_lr = 1.0\nweight_decay = 0.04\nweight_decay_end = 0.4";
        let schedule = WeightDecaySchedule::new(&crate::config::parse(text, "test").unwrap(), 1);
        assert!((schedule.scale_at(0) - 1.).abs() < 1e-12 && (schedule.scale_at(1) - 10.).abs() < 1e-12);
    }

    #[test]
    fn weight_decay_follows_a_cosine_over_the_whole_run() {
        let optim = |end: &str| {
            let text = format!("name = \"adamw\"\nbase_lr = 1.0\nweight_decay = 0.04\n{end}");
            crate::config::parse::<Optim>(&text, "test").unwrap()
        };
        let constant = WeightDecaySchedule::new(&optim(""), 100);
        assert!([0, 37, 100].iter().all(|step| constant.scale_at(*step) == 1.));
        let rising = WeightDecaySchedule::new(&optim("weight_decay_end = 0.4"), 100);
        let close = |step, expected: f64| {
            let found = 0.04 * rising.scale_at(step);
            assert!((found - expected).abs() < 1e-12, "step {step}: {found}");
        };
        close(0, 0.04);
        close(25, 0.4 - 0.36 * 0.5 * (1. + 0.5f64.sqrt()));
        close(50, 0.22);
        close(100, 0.4);
    }

    #[test]
    fn warm_up_starts_where_it_is_told_and_may_fill_the_run() {
        let mut cosine = schedule(ScheduleName::Cosine);
        (cosine.warmup_from, cosine.warmup_epochs) = (0.2, 10.);
        let lr = LrSchedule::new(&cosine, 1., 4, 40);
        assert_eq!(lr.at(0), 0.2);
        assert!((lr.at(20) - 0.6).abs() < 1e-12);
        assert_eq!(lr.at(40), 0.1);
    }

    #[test]
    fn a_warm_up_may_start_at_a_share_of_the_peak() {
        let mut polynomial = schedule(ScheduleName::Polynomial);
        polynomial.warmup_ratio = Some(0.01);
        for peak in [1., 1e-4] {
            let lr = LrSchedule::new(&polynomial, peak, 4, 40);
            assert_eq!(lr.at(0), 0.01 * peak);
            assert!((lr.at(4) - 0.505 * peak).abs() < 1e-12 * peak, "half of the warm-up: {}", lr.at(4));
        }
    }
}
