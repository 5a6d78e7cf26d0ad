//! Shows the events of the training loop: progress bars on a terminal, plain lines elsewhere.

use super::output::duration;
use super::overall::Overall;
use crate::engine::{Event, Observer, Plan};
use crate::record::{RunRecord, Score, Scores};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Interval between two plain lines.
const LINE_INTERVAL: Duration = Duration::from_secs(15);
/// Maximum number of characters in a line of scores.
const LINE_WIDTH: usize = 100;

/// Writes progress to standard error.
pub(super) struct Screen {
    terminal: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The current work, and its bar on a terminal.
    work: Option<Work>,
    bar: Option<ProgressBar>,
    training: Option<Training>,
    /// The progress of all runs, if there are several.
    overall: Option<Overall>,
    /// When the last plain line was printed.
    line: Option<Instant>,
}

/// The training loop since it was started or resumed.
struct Training {
    plan: Plan,
    /// Number of steps done at that time, and the step at which it will stop.
    from: usize,
    end: usize,
    began: Instant,
    /// Exponential moving average of the loss, for display.
    loss: Option<f64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    Train,
    Evaluate,
    Predict,
    Fetch,
}

impl Work {
    fn template(self) -> &'static str {
        match self {
            Self::Train => "{bar:24} {pos}/{len} steps · {msg}",
            Self::Evaluate => "{bar:24} {pos}/{len} images · evaluating",
            Self::Predict => "{bar:24} {pos}/{len} images · predicting",
            Self::Fetch => "{bar:24} {bytes}/{total_bytes} · {bytes_per_sec} · {eta} left",
        }
    }
}

impl State {
    /// Shows that `done` of `total` is done: in the bar of this work or, without a terminal, as `line` at intervals and when
    /// training ends.
    fn show(&mut self, terminal: bool, work: Work, (done, total): (u64, u64), line: impl FnOnce() -> String) {
        if self.work != Some(work) {
            self.clear();
            self.work = Some(work);
            self.bar = terminal.then(|| bar(work, total, self.overall.is_some()));
            self.line.get_or_insert_with(Instant::now);
        }
        if let (Some(bar), Some(overall)) = (&self.bar, &self.overall) {
            bar.set_prefix(overall.line());
        }
        match &self.bar {
            Some(bar) => bar.set_position(done),
            None if (work, done) == (Work::Train, total)
                || self.line.is_none_or(|line| line.elapsed() >= LINE_INTERVAL) =>
            {
                self.line = Some(Instant::now());
                eprintln!("{}", line());
            }
            None => {}
        }
    }

    fn clear(&mut self) {
        self.work = None;
        self.bar.take().iter().for_each(ProgressBar::finish_and_clear);
    }
}

/// A bar, below the line of all runs if there are several.
fn bar(work: Work, length: u64, several: bool) -> ProgressBar {
    let above = if several { "{prefix}\n" } else { "" };
    let template = format!("{above}{}", work.template());
    let style = ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::stderr_with_hz(8)).with_style(style)
}

impl Screen {
    pub(super) fn new() -> Self {
        Self { terminal: std::io::stderr().is_terminal(), state: Mutex::default() }
    }

    /// Prints a line that a bar does not overwrite.
    pub(super) fn say(&self, line: &str) {
        match &self.state().bar {
            Some(bar) => bar.suspend(|| eprintln!("{line}")),
            None => eprintln!("{line}"),
        }
    }

    /// Removes the bar.
    pub(super) fn clear(&self) {
        self.state().clear();
    }

    /// From now on the runs of `overall` are made.
    pub(super) fn several(&self, overall: Overall) {
        self.state().overall = Some(overall);
    }

    /// The run `index` of several begins, or is `finished` already.
    pub(super) fn begin(&self, index: usize, title: &str, finished: bool) {
        let mut state = self.state();
        state.clear();
        let Some(overall) = &mut state.overall else { return };
        overall.begin(index);
        // On a terminal, the time left stands above the bar and changes.
        let line = match (finished, self.terminal) {
            (true, _) => overall.line_of_finished(),
            (false, true) => overall.place(),
            (false, false) => overall.line(),
        };
        drop(state);
        self.say(&format!("{line}: {title}"));
    }

    /// The run of several that was begun has ended.
    pub(super) fn end(&self, record: &RunRecord) {
        let mut state = self.state();
        state.clear();
        state.overall.iter_mut().for_each(|overall| overall.end(record));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn started(&self, plan: Plan, from: usize, end: usize) {
        let mut state = self.state();
        state.clear();
        let began = Instant::now();
        state.line = Some(began);
        state.training = Some(Training { plan, from, end, began, loss: None });
        state.overall.iter_mut().for_each(|overall| overall.started(from, end));
        drop(state);
        if from > 0 {
            self.say(&format!("continuing after step {from}"));
        }
    }

    fn step(&self, done: usize, lr: f64, losses: &[(&'static str, f64)]) {
        let mut state = self.state();
        let Some(training) = &mut state.training else { return };
        let message = training.message(done, lr, losses.iter().map(|(_, value)| value).sum());
        let end = training.end;
        state.overall.iter_mut().for_each(|overall| overall.step(done, end));
        state.show(self.terminal, Work::Train, (done as u64, end as u64), || {
            format!("step {done}/{end} · {message}")
        });
        if let Some(bar) = &state.bar {
            bar.set_message(message);
        }
    }

    fn images(&self, work: Work, (done, total): (usize, usize)) {
        let what = if work == Work::Predict { "predicted" } else { "evaluated" };
        let line = || format!("{what} {done} of {total} images");
        self.state().show(self.terminal, work, (done as u64, total as u64), line);
    }

    fn fetching(&self, done: u64, total: u64) {
        let mut state = self.state();
        let line = || format!("downloading: {:.1} of {:.1} MB", done as f64 / 1e6, total as f64 / 1e6);
        state.show(self.terminal, Work::Fetch, (done, total), line);
        if done == total {
            state.clear();
        }
    }
}

impl Observer for Screen {
    fn event(&self, event: &Event) {
        match *event {
            Event::Started { plan, done, end } => self.started(*plan, done, end),
            Event::Step { done, lr, losses } => self.step(done, lr, losses),
            Event::Evaluating { done, total } => self.images(Work::Evaluate, (done, total)),
            Event::Predicting { done, total } => self.images(Work::Predict, (done, total)),
            Event::Fetching { done, total } => self.fetching(done, total),
            Event::Evaluated { step, scores } => {
                let shown = self::scores(scores, None);
                self.say(&format!("step {step}: {}", listed(&shown, 4)));
            }
            Event::Skipped { id } => self.say(&format!("skipped unreadable image `{id}`")),
            Event::Note(note) => self.say(note),
            // Saved, and events that this screen does not know.
            _ => (),
        }
    }
}

impl Training {
    /// `epoch 3.1/100 · loss 0.612 · lr 1.5e-3 · 2310 img/s · 4 m 12 s left`
    fn message(&mut self, done: usize, lr: f64, total: f64) -> String {
        let loss = self.loss.map_or(total, |old| 0.95 * old + 0.05 * total);
        self.loss = Some(loss);
        let rate = (done - self.from) as f64 / self.began.elapsed().as_secs_f64().max(1e-9);
        let left = Duration::from_secs_f64((self.end - done) as f64 / rate.max(1e-9));
        format!(
            "epoch {:.1}/{} · loss {loss:.4} · lr {lr:.2e} · {:.0} img/s · {} left",
            done as f64 / self.plan.steps_per_epoch as f64,
            self.plan.epochs,
            rate * self.plan.batch as f64,
            duration(left)
        )
    }
}

/// Formats each score, the one named `primary` first: `top1 46.60 ± 1.58 (primary)`. A score of −1 means that the data
/// has no such case, as in COCO.
pub(super) fn scores(scores: &Scores, primary: Option<&str>) -> Vec<String> {
    let is_primary = |name: &String| Some(name.as_str()) == primary;
    let mark = |name: &String| if is_primary(name) && scores.0.len() > 1 { " (primary)" } else { "" };
    let one = |(name, score): (&String, &Score)| match score {
        Score { value: -1., .. } => format!("{name} –{}", mark(name)),
        Score { value, stderr: Some(stderr), .. } => format!("{name} {value:.2} ± {stderr:.2}{}", mark(name)),
        Score { value, stderr: None, .. } => format!("{name} {value:.2}{}", mark(name)),
    };
    let (first, others): (Vec<_>, Vec<_>) = scores.0.iter().partition(|(name, _)| is_primary(name));
    first.into_iter().chain(others).map(one).collect()
}

/// Joins words with commas and breaks the text into lines of a readable length; all but the first are indented by
/// `indent` spaces.
pub(super) fn listed(words: &[String], indent: usize) -> String {
    let (mut text, mut width) = (String::new(), indent);
    for (i, word) in words.iter().enumerate() {
        let length = word.chars().count() + 2;
        let separator = match i {
            0 => String::new(),
            _ if width + length > LINE_WIDTH => {
                width = indent;
                format!(",\n{:indent$}", "")
            }
            _ => ", ".into(),
        };
        text += &separator;
        text += word;
        width += length;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_primary_score_comes_first_and_lines_break() {
        let mut found = Scores::default();
        for (name, value) in [("box_ap", 31.2), ("box_ap_small", -1.), ("mask_ap", 29.)] {
            found.insert(name, value, None);
        }
        let words = scores(&found, Some("mask_ap"));
        assert_eq!(words, ["mask_ap 29.00 (primary)", "box_ap 31.20", "box_ap_small –"]);
        let lines = listed(&[&words[..], &words, &words].concat(), 4);
        assert_eq!(lines.lines().count(), 2, "{lines}");
        assert!(lines.lines().all(|line| line.chars().count() <= LINE_WIDTH) && lines.contains(",\n    "));
    }
}
