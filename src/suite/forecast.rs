//! [`Forecast`]: how long unfinished runs will take, from the time that finished ones took.

use crate::config::{RunConfig, Stage};
use crate::record::{RunRecord, Status};

/// What is known of the cost of a run before it starts.
#[derive(Clone, Debug, PartialEq)]
pub struct Work {
    /// Name of the task, or of the data set for pre-training.
    pub subject: String,
    /// What determines the time of a run together with the subject: stage, recipe, model and overrides, but not the seed and
    /// the initial weights.
    pub how: String,
    /// Number of pixels that the whole run trains on: images of every epoch × pixels of the model's input. `None` if the
    /// size of its data is unknown.
    pub pixels: Option<f64>,
}

impl Work {
    /// The work of a run with this configuration that trains on `images` images in all of its epochs together.
    pub fn new(config: &RunConfig, images: Option<usize>) -> Self {
        let run = &config.run;
        let subject = run.task.as_ref().unwrap_or(&run.dataset);
        let [height, width] = config.model.image;
        Self {
            subject: subject.clone(),
            how: how(run.stage, &run.recipe, &run.model, &run.overrides),
            pixels: images.map(|images| (images * height * width) as f64),
        }
    }

    /// The work of a finished run; `None` for another record.
    fn of(record: &RunRecord) -> Option<Self> {
        if record.status != Status::Finished {
            return None;
        }
        let config =
            record.config.clone().and_then(|config| serde_json::from_value::<RunConfig>(config).ok());
        let pixels = config.map(|config| {
            let [height, width] = config.model.image;
            (record.steps_done as usize * config.recipe.batch * height * width) as f64
        });
        let stage = if record.stage == Stage::Pretrain.as_str() { Stage::Pretrain } else { Stage::Transfer };
        Some(Self {
            subject: record.task.clone().unwrap_or_else(|| record.dataset.clone()),
            how: how(stage, &record.recipe, &record.model, &record.overrides),
            pixels,
        })
    }
}

/// Overrides that name a tokenizer contain the id of its run, which says nothing about time.
fn how(stage: Stage, recipe: &str, model: &str, overrides: &[String]) -> String {
    let overrides = overrides.iter().filter(|set| !set.starts_with("pretrain.tokenizer="));
    let overrides: Vec<&str> = overrides.map(String::as_str).collect();
    format!("{} {recipe} {model} {}", stage.as_str(), overrides.join(" "))
}

/// A time in the future.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TimeEstimate {
    /// Seconds.
    pub seconds: f64,
    /// Whether it contains runs of which no similar one has been finished, so that their time follows from their size alone.
    pub rough: bool,
}

impl TimeEstimate {
    fn plus(self, other: Self) -> Self {
        Self { seconds: self.seconds + other.seconds, rough: self.rough || other.rough }
    }
}

/// The run that is being made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Current {
    /// Seconds since it was started or resumed.
    pub elapsed: f64,
    /// Share of its steps that were done when it was started or resumed: 0 to 1.
    pub before: f64,
    /// Share of its steps that are done.
    pub done: f64,
}

/// Share of a run after which its own pace is known.
const PACED: f64 = 0.05;

/// The times of finished runs.
#[derive(Clone, Debug, Default)]
pub struct Forecast {
    finished: Vec<(Work, f64)>,
}

impl Forecast {
    /// The times of the finished runs among `records` that were made on `device`.
    pub fn of<'a>(records: impl IntoIterator<Item = &'a RunRecord>, device: &str) -> Self {
        let mut forecast = Self::default();
        let here = records.into_iter().filter(|record| record.environment.device == device);
        here.for_each(|record| forecast.add(record));
        forecast
    }

    /// Adds the time of a run, if it is finished.
    pub fn add(&mut self, record: &RunRecord) {
        let seconds = record.throughput.wall_seconds;
        if let Some(work) = Work::of(record).filter(|_| seconds > 0.) {
            self.finished.push((work, seconds));
        }
    }

    /// The time of a whole run: the mean of runs with the same subject, recipe, model and overrides; without any, by the
    /// time per pixel of runs with the same subject or, without any, of all runs. `None` if nothing is known.
    pub fn whole(&self, work: &Work) -> Option<TimeEstimate> {
        let same: Vec<f64> = self
            .finished
            .iter()
            .filter(|(other, _)| (&other.subject, &other.how) == (&work.subject, &work.how))
            .map(|(_, seconds)| *seconds)
            .collect();
        if !same.is_empty() {
            return Some(TimeEstimate {
                seconds: same.iter().sum::<f64>() / same.len() as f64,
                rough: false,
            });
        }
        let by_size = |similar: &dyn Fn(&Work) -> bool| {
            let sizes = self.finished.iter().filter(|(other, _)| similar(other));
            let sizes: Vec<(f64, f64)> =
                sizes.filter_map(|(other, seconds)| Some((other.pixels?, *seconds))).collect();
            let (pixels, seconds) =
                sizes.iter().fold((0., 0.), |sum, (pixels, seconds)| (sum.0 + pixels, sum.1 + seconds));
            (pixels > 0.).then(|| seconds / pixels)
        };
        let rate = by_size(&|other| other.subject == work.subject).or_else(|| by_size(&|_| true))?;
        Some(TimeEstimate { seconds: rate * work.pixels?, rough: true })
    }

    /// The time that the rest of the run `current` and the whole runs `later` will take. `None` as long as no run is
    /// finished, and if nothing is known about one of them.
    pub fn left(&self, (work, current): (&Work, Current), later: &[Work]) -> Option<TimeEstimate> {
        if self.finished.is_empty() {
            return None;
        }
        let Current { elapsed, before, done } = current;
        let paced = (done - before >= PACED).then(|| elapsed / (done - before));
        let known = self.whole(work);
        let own = match (known, paced) {
            // The time after the last step, in which the run is evaluated, is part of the known time.
            (Some(known), _) if !known.rough => {
                let steps = (1. - done) * known.seconds;
                let rest = (1. - before) * known.seconds - elapsed;
                TimeEstimate { seconds: steps.max(rest), rough: false }
            }
            (_, Some(pace)) => TimeEstimate { seconds: (1. - done) * pace, rough: true },
            (Some(known), None) => TimeEstimate { seconds: (1. - done) * known.seconds, rough: true },
            (None, None) => return None,
        };
        // Runs of the same kind as this one take as long as it does.
        let like_this = |other: &Work| (&other.subject, &other.how) == (&work.subject, &work.how);
        let whole = |other: &Work| match paced {
            Some(pace) if own.rough && like_this(other) => Some(TimeEstimate { seconds: pace, rough: true }),
            _ => self.whole(other),
        };
        later.iter().try_fold(own, |sum, work| Some(sum.plus(whole(work)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn work(subject: &str, how: &str, pixels: f64) -> Work {
        Work { subject: subject.into(), how: how.into(), pixels: Some(pixels) }
    }

    fn exact(seconds: f64) -> Option<TimeEstimate> {
        Some(TimeEstimate { seconds, rough: false })
    }

    fn rough(seconds: f64) -> Option<TimeEstimate> {
        Some(TimeEstimate { seconds, rough: true })
    }

    const START: Current = Current { elapsed: 0., before: 0., done: 0. };

    #[test]
    fn runs_take_as_long_as_similar_ones() {
        let mut forecast = Forecast::default();
        assert_eq!(forecast.whole(&work("a", "x", 10.)), None, "nothing is known");
        forecast.finished = vec![
            (work("a", "x", 10.), 20.),
            (work("a", "x", 10.), 30.),
            (work("a", "y", 10.), 100.),
            (work("b", "z", 70.), 50.),
        ];
        assert_eq!(forecast.whole(&work("a", "x", 10.)), exact(25.));
        assert_eq!(forecast.whole(&work("a", "new", 10.)), rough(50.), "150 s for 30 pixels");
        assert_eq!(forecast.whole(&work("new", "x", 10.)), rough(20.), "200 s for 100 pixels");
        let unknown = Work { pixels: None, ..work("a", "new", 0.) };
        assert_eq!(forecast.whole(&unknown), None);
        assert_eq!(forecast.whole(&Work { pixels: None, ..work("a", "x", 0.) }), exact(25.));
    }

    #[test]
    fn nothing_is_said_before_a_run_is_finished() {
        let half = Current { elapsed: 30., before: 0., done: 0.5 };
        assert_eq!(Forecast::default().left((&work("a", "x", 1.), half), &[]), None);
    }

    #[test]
    fn the_time_left_is_that_of_this_run_and_of_later_ones() {
        let (x, y) = (work("a", "x", 10.), work("a", "y", 10.));
        let forecast = Forecast { finished: vec![(x.clone(), 40.)] };
        let left = |current, later: &[Work]| forecast.left((&x, current), later);
        assert_eq!(left(START, &[]), exact(40.));
        assert_eq!(left(START, &[x.clone(), x.clone()]), exact(120.));
        assert_eq!(left(START, &[x.clone(), y.clone()]), rough(120.), "y is as large as x");
        assert_eq!(
            left(Current { elapsed: 10., before: 0., done: 0.25 }, std::slice::from_ref(&x)),
            exact(70.)
        );
        // A slow machine: the steps tell more than the clock.
        assert_eq!(left(Current { elapsed: 40., before: 0., done: 0.25 }, &[]), exact(30.));
        // All steps are done after 30 of 40 seconds: the rest is evaluation.
        assert_eq!(left(Current { elapsed: 30., before: 0., done: 1. }, &[]), exact(10.));
        assert_eq!(left(Current { elapsed: 60., before: 0., done: 1. }, &[]), exact(0.));
        // Resumed at its half.
        assert_eq!(left(Current { elapsed: 0., before: 0.5, done: 0.5 }, &[]), exact(20.));
    }

    #[test]
    fn a_run_of_a_new_kind_is_judged_by_its_own_pace() {
        let (known, new) = (work("a", "x", 10.), work("b", "y", 10.));
        let forecast = Forecast { finished: vec![(known, 40.)] };
        let left = |current, later: &[Work]| forecast.left((&new, current), later);
        assert_eq!(left(START, &[]), rough(40.), "by its size");
        let tenth = Current { elapsed: 10., before: 0., done: 0.125 };
        assert_eq!(left(tenth, &[]), rough(70.), "80 seconds for all of it");
        assert_eq!(left(tenth, std::slice::from_ref(&new)), rough(150.), "and for the next one");
    }
}
