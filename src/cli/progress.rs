//! The loop's events on the screen: bars on a terminal, plain lines elsewhere.

use crate::engine::{Event, Observer, Plan};
use crate::record::Scores;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Between two plain lines.
const LINE_INTERVAL: Duration = Duration::from_secs(15);

/// Draws to standard error.
pub struct Screen {
    terminal: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    bar: Option<ProgressBar>,
    plan: Option<Plan>,
    /// Step and time at which the loop began or went on.
    began: Option<(usize, Instant)>,
    /// Mean loss of late, for the eye.
    loss: Option<f64>,
    line: Option<Instant>,
    evaluating: bool,
    fetching: bool,
}

impl Screen {
    pub fn new() -> Self {
        Self { terminal: std::io::stderr().is_terminal(), state: Mutex::default() }
    }

    /// A line that a bar does not overwrite.
    pub fn say(&self, line: &str) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match &state.bar {
            Some(bar) if self.terminal => bar.suspend(|| eprintln!("{line}")),
            _ => eprintln!("{line}"),
        }
    }

    /// Takes the bar away.
    pub fn clear(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bar) = state.bar.take() {
            bar.finish_and_clear();
        }
    }

    fn bar(&self, state: &mut State, length: usize, template: &str) {
        if let Some(old) = state.bar.take() {
            old.finish_and_clear();
        }
        if self.terminal {
            let style =
                ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
            let target = ProgressDrawTarget::stderr_with_hz(8);
            state.bar = Some(ProgressBar::with_draw_target(Some(length as u64), target).with_style(style));
        }
    }
}

const TRAIN: &str = "{bar:24} {pos}/{len} steps · {msg}";
const PREDICT: &str = "{bar:24} {pos}/{len} images · predicting";
const EVALUATE: &str = "{bar:24} {pos}/{len} images · evaluating";
const FETCH: &str = "{bar:24} {bytes}/{total_bytes} · {bytes_per_sec} · {eta} left";

impl Observer for Screen {
    fn event(&self, event: &Event) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::Started { plan, done } => {
                *state = State {
                    plan: Some(**plan),
                    began: Some((*done, Instant::now())),
                    line: Some(Instant::now()),
                    ..State::default()
                };
                self.bar(&mut state, plan.steps, TRAIN);
                if *done > 0 {
                    drop(state);
                    self.say(&format!("going on after step {done}"));
                }
            }
            Event::Step { done, lr, losses } => {
                if state.evaluating {
                    state.evaluating = false;
                    let steps = state.plan.map_or(0, |plan| plan.steps);
                    self.bar(&mut state, steps, TRAIN);
                }
                let total: f64 = losses.iter().map(|(_, value)| value).sum();
                let loss = state.loss.map_or(total, |old| 0.95 * old + 0.05 * total);
                state.loss = Some(loss);
                let message = message(&state, *done, *lr, loss);
                if let Some(bar) = &state.bar {
                    bar.set_position(*done as u64);
                    bar.set_message(message);
                } else if state.line.is_none_or(|line| line.elapsed() >= LINE_INTERVAL)
                    || state.plan.is_some_and(|plan| plan.steps == *done)
                {
                    state.line = Some(Instant::now());
                    let steps = state.plan.map_or(0, |plan| plan.steps);
                    eprintln!("step {done}/{steps} · {message}");
                }
            }
            Event::Evaluating { done, total } | Event::Predicting { done, total } => {
                let predicting = matches!(event, Event::Predicting { .. });
                if !state.evaluating {
                    state.evaluating = true;
                    let template = if predicting { PREDICT } else { EVALUATE };
                    self.bar(&mut state, *total, template);
                }
                if let Some(bar) = &state.bar {
                    bar.set_position(*done as u64);
                }
            }
            Event::Fetching { done, total } => {
                if !state.fetching {
                    state.fetching = true;
                    self.bar(&mut state, *total as usize, FETCH);
                }
                if let Some(bar) = &state.bar {
                    bar.set_position(*done);
                } else if state.line.is_none_or(|line| line.elapsed() >= LINE_INTERVAL) {
                    state.line = Some(Instant::now());
                    eprintln!("fetching: {:.1} of {:.1} MB", *done as f64 / 1e6, *total as f64 / 1e6);
                }
                if done == total {
                    state.fetching = false;
                    state.line = None;
                    state.bar.take().iter().for_each(ProgressBar::finish_and_clear);
                }
            }
            Event::Evaluated { step, scores } => {
                drop(state);
                self.say(&format!("step {step}: {}", describe(scores)));
            }
            Event::Skipped { id } => {
                drop(state);
                self.say(&format!("skipped unreadable image `{id}`"));
            }
            Event::Note(note) => {
                drop(state);
                self.say(note);
            }
            Event::Saved { .. } => (),
        }
    }
}

/// `top1 46.60 ± 1.58, top5 …`
pub fn describe(scores: &Scores) -> String {
    let one = |(name, score): (&String, &crate::record::Score)| match score.stderr {
        Some(stderr) => format!("{name} {:.2} ± {stderr:.2}", score.value),
        None => format!("{name} {:.2}", score.value),
    };
    scores.0.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// `epoch 3.1/100 · loss 0.612 · lr 1.5e-3 · 2310 img/s · 4m12s left`
fn message(state: &State, done: usize, lr: f64, loss: f64) -> String {
    let (Some(plan), Some((from, began))) = (state.plan, state.began) else { return String::new() };
    let seconds = began.elapsed().as_secs_f64().max(1e-9);
    let rate = (done - from) as f64 / seconds;
    let left = Duration::from_secs_f64((plan.steps - done) as f64 / rate.max(1e-9));
    format!(
        "epoch {:.1}/{} · loss {loss:.4} · lr {lr:.2e} · {:.0} img/s · {} left",
        done as f64 / plan.steps_per_epoch as f64,
        plan.epochs,
        rate * plan.batch as f64,
        duration(left)
    )
}

/// `2h05m`, `4m12s`, `9s`.
pub fn duration(duration: Duration) -> String {
    let s = duration.as_secs();
    match (s / 86_400, s / 3600, s / 60) {
        (0, 0, 0) => format!("{s}s"),
        (0, 0, minutes) => format!("{minutes}m{:02}s", s % 60),
        (0, hours, minutes) => format!("{hours}h{:02}m", minutes % 60),
        (days, hours, _) => format!("{days}d{:02}h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::duration;
    use std::time::Duration;

    #[test]
    fn durations_read_well() {
        let shown = [9, 252, 7500, 180_000].map(|s| duration(Duration::from_secs(s)));
        assert_eq!(shown, ["9s", "4m12s", "2h05m", "2d02h"]);
    }
}
