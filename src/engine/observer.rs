//! Events that the training loop reports, and the flag that stops it. The loop itself prints nothing.

use super::Plan;
use crate::record::Scores;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// An event of a run.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// The loop starts or continues after `done` steps, and will stop after `end`.
    Started {
        /// Number of steps and batches of the run.
        plan: &'a Plan,
        /// Steps done before.
        done: usize,
        /// The step after which the loop stops.
        end: usize,
    },
    /// A step has ended; `done` steps are complete.
    Step {
        /// Steps done.
        done: usize,
        /// Learning rate of the step.
        lr: f64,
        /// Losses by name, means over the micro-batches.
        losses: &'a [(&'static str, f64)],
    },
    /// `done` of `total` images have been predicted or, for a fitted head, read.
    Evaluating {
        /// Images done.
        done: usize,
        /// Images of the split.
        total: usize,
    },
    /// `done` of `total` images have been predicted, without computing scores.
    Predicting {
        /// Images done.
        done: usize,
        /// Images to predict.
        total: usize,
    },
    /// `done` of `total` bytes of a file have been downloaded.
    Fetching {
        /// Bytes received.
        done: u64,
        /// Bytes of the file.
        total: u64,
    },
    /// The weights after `step` steps have been evaluated.
    Evaluated {
        /// Steps done.
        step: usize,
        /// The scores.
        scores: &'a Scores,
    },
    /// An unreadable image was replaced, as the recipe allows.
    Skipped {
        /// The sample that could not be read.
        id: &'a str,
    },
    /// A file of weights has been written.
    Saved {
        /// The file.
        path: &'a Path,
    },
    /// A remark about the run, printed on a line of its own.
    Note(&'a str),
}

/// Watches a run.
pub trait Observer: Sync {
    /// Called for every event, in order, from the thread of the run.
    fn event(&self, event: &Event);
}

/// Watches nothing.
pub struct Silent;

impl Observer for Silent {
    fn event(&self, _: &Event) {}
}

/// The stop flag and the event observer of a run.
pub struct Control<'a> {
    /// Set by the caller to request a stop: the loop finishes its step, saves its state, and ends as
    /// interrupted.
    pub stop: &'a AtomicBool,
    /// Receives the events of the run.
    pub observer: &'a dyn Observer,
}

impl Control<'_> {
    /// Whether a stop has been requested.
    pub fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Passes an event to the observer.
    pub fn tell(&self, event: Event) {
        self.observer.event(&event);
    }
}
