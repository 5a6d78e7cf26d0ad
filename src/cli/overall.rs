//! [`Overall`]: the progress of all runs of a suite, as one line.

use super::output::duration;
use crate::record::RunRecord;
use crate::suite::{Current, Forecast, PlannedItem, Standing, TimeEstimate, Work};
use std::time::{Duration, Instant};

/// Where a suite is, and how long it will take.
pub(super) struct Overall {
    forecast: Forecast,
    /// For each run, its work and whether it was finished before.
    runs: Vec<(Work, bool)>,
    /// Index of the run that is being made.
    index: usize,
    began: Instant,
    /// Shares of its steps that were done when it was started, and that are done now.
    before: f64,
    done: f64,
}

impl Overall {
    /// Before the first run; `forecast` has the times of runs that were finished earlier.
    pub(super) fn new(planned: &[PlannedItem], forecast: Forecast) -> Self {
        let finished = |item: &PlannedItem| matches!(item.standing, Standing::Done { .. });
        let runs = planned.iter().map(|item| (item.work.clone(), finished(item))).collect();
        Self { forecast, runs, index: 0, began: Instant::now(), before: 0., done: 0. }
    }

    /// The run `index` begins.
    pub(super) fn begin(&mut self, index: usize) {
        (self.index, self.began, self.before, self.done) = (index, Instant::now(), 0., 0.);
    }

    /// Its training loop starts after `done` of `end` steps.
    pub(super) fn started(&mut self, done: usize, end: usize) {
        self.step(done, end);
        self.before = self.done;
    }

    /// `done` of `end` steps are done.
    pub(super) fn step(&mut self, done: usize, end: usize) {
        self.done = done as f64 / end.max(1) as f64;
    }

    /// The run that was being made has ended.
    pub(super) fn end(&mut self, record: &RunRecord) {
        if self.runs.get(self.index).is_some_and(|(_, finished)| !finished) {
            self.forecast.add(record);
        }
    }

    /// `run 4 of 9, 2 m 10 s left`
    pub(super) fn line(&self) -> String {
        let current =
            Current { elapsed: self.began.elapsed().as_secs_f64(), before: self.before, done: self.done };
        let later: Vec<Work> =
            self.runs.iter().skip(self.index + 1).filter(|run| !run.1).map(|run| run.0.clone()).collect();
        let left =
            self.runs.get(self.index).and_then(|(work, _)| self.forecast.left((work, current), &later));
        line(&self.place(), left)
    }

    /// `run 4 of 9, already done`
    pub(super) fn line_of_finished(&self) -> String {
        format!("{}, already done", self.place())
    }

    /// `run 4 of 9`
    pub(super) fn place(&self) -> String {
        format!("run {} of {}", self.index + 1, self.runs.len())
    }
}

fn line(place: &str, left: Option<TimeEstimate>) -> String {
    format!("{place}, {}", left.map_or("time left not known yet".into(), time_left))
}

/// `2 m 10 s left`; `about 2 m 10 s left` for an estimate from runs that are not similar.
pub(super) fn time_left(left: TimeEstimate) -> String {
    let about = if left.rough { "about " } else { "" };
    format!("{about}{} left", duration(Duration::from_secs_f64(left.seconds.max(0.))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_says_which_run_it_is_and_how_long_the_others_take() {
        assert_eq!(
            line("run 4 of 9", Some(TimeEstimate { seconds: 130., rough: false })),
            "run 4 of 9, 2 m 10 s left"
        );
        assert_eq!(
            line("run 2 of 9", Some(TimeEstimate { seconds: 9.7, rough: true })),
            "run 2 of 9, about 9 s left"
        );
        assert_eq!(line("run 1 of 9", None), "run 1 of 9, time left not known yet");
    }

    #[test]
    fn finished_runs_count_as_done_and_take_no_time() {
        let work = |subject: &str| Work { subject: subject.into(), how: "x".into(), pixels: Some(10.) };
        let record = serde_json::from_value(serde_json::json!({
            "schema": 2, "id": "r", "stage": "transfer", "command": "bench", "task": "a", "dataset": "d",
            "dataset_fingerprint": "f", "model": "m", "recipe": "x", "config_hash": "c", "seed": 0,
            "init": { "source": "scratch", "label": "scratch" },
            "environment": { "version": "0", "dirty": false, "device": "cpu", "dtype": "f32", "world_size": 1, "threads": 1 },
            "throughput": { "wall_seconds": 100.0, "images_per_second": 1.0 },
            "steps_planned": 1, "steps_done": 1, "status": "finished"
        }));
        let record: RunRecord = record.unwrap();
        let forecast = Forecast::of([&record], "cpu");
        let of_record = Work { how: "transfer x m ".into(), ..work("a") };
        let run = |finished| (of_record.clone(), finished);
        let runs = vec![run(true), run(false), run(true), run(false)];
        let mut overall = Overall { forecast, runs, index: 0, began: Instant::now(), before: 0., done: 0. };
        assert_eq!(overall.line_of_finished(), "run 1 of 4, already done");
        overall.end(&record);
        overall.begin(1);
        assert_eq!(overall.line(), "run 2 of 4, 3 m 20 s left");
        overall.started(0, 10);
        overall.step(5, 10);
        assert_eq!(overall.line(), "run 2 of 4, 3 m 19 s left", "the clock says more than the steps");
        overall.begin(3);
        overall.started(5, 10);
        assert_eq!(overall.line(), "run 4 of 4, 50 s left", "resumed at its half");
        assert_eq!(Forecast::of([&record], "cuda:0").whole(&of_record), None, "of another device");
    }
}
