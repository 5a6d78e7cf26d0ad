//! What the loop tells whoever watches, and how it is told to stop. The loop itself prints nothing.

use super::Plan;
use crate::record::Scores;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// What happens during a run.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// The loop starts or continues after `done` steps, and will stop after `end`.
    Started {
        plan: &'a Plan,
        done: usize,
        end: usize,
    },
    /// `done` steps are done.
    Step {
        done: usize,
        lr: f64,
        losses: &'a [(&'static str, f64)],
    },
    /// `done` of `total` images are predicted (or, for a fitted head, taken in).
    Evaluating {
        done: usize,
        total: usize,
    },
    /// `done` of `total` images are predicted, without scores.
    Predicting {
        done: usize,
        total: usize,
    },
    /// `done` of `total` bytes of a file are here.
    Fetching {
        done: u64,
        total: u64,
    },
    Evaluated {
        step: usize,
        scores: &'a Scores,
    },
    /// An unreadable image was replaced, as the recipe allows.
    Skipped {
        id: &'a str,
    },
    Saved {
        path: &'a Path,
    },
    /// A fact about the run worth a line.
    Note(&'a str),
}

/// Watches a run.
pub trait Observer: Sync {
    fn event(&self, event: &Event);
}

/// Watches nothing.
pub struct Silent;

impl Observer for Silent {
    fn event(&self, _: &Event) {}
}

/// The two ways in which a run and its surroundings talk.
pub struct Control<'a> {
    /// Set from outside: the loop finishes its step, saves, and ends as interrupted.
    pub stop: &'a AtomicBool,
    pub observer: &'a dyn Observer,
}

impl Control<'_> {
    pub fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    pub fn tell(&self, event: Event) {
        self.observer.event(&event);
    }
}
