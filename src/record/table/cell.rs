//! Computes one cell: a number from the runs of a row and column, with footnotes for its readers.

use super::content::Estimate;
use super::draft::Draft;
use super::error::TableError;
use super::spec::{Column, Key};
use super::statistics::{self, Run};
use crate::record::today::FRAMES;
use crate::record::{RunRecord, Score, Status};
use std::collections::{BTreeMap, BTreeSet};

/// The cell of `runs` in `column`; if the column asks for the best, the best of the runs that differ in overrides.
///
/// # Errors
/// Runs that differ in properties over which a cell must not average.
pub(super) fn measure_column(runs: &[&RunRecord], column: &Column) -> Result<Draft, TableError> {
    if !column.best {
        return measure(runs, column);
    }
    agree(runs, column)?;
    let mut candidates: BTreeMap<String, Vec<&RunRecord>> = BTreeMap::new();
    for run in runs {
        candidates.entry(Key::Overrides.of_run(run)).or_default().push(run);
    }
    let several = candidates.len();
    let mut best = Draft::default();
    let mut highest = f64::NEG_INFINITY;
    for (overrides, runs) in &candidates {
        let mut draft = measure(runs, column)?;
        let mean = draft.value.as_ref().map_or(f64::NEG_INFINITY, |value| value.mean);
        if mean > highest || best.value.is_none() {
            if several > 1 && draft.value.is_some() {
                draft.note(format!("best of {several}: {overrides}"));
            }
            (best, highest) = (draft, mean);
        }
    }
    Ok(best)
}

/// The cell of `runs` in `column`: mean and standard deviation over pre-trainings or runs.
///
/// Of several runs with the same seed and initial weights, only one counts: a finished one, and of these the last by id.
/// Unfinished runs count only if no run is finished.
///
/// # Errors
/// Runs that differ in properties over which a cell must not average.
fn measure(runs: &[&RunRecord], column: &Column) -> Result<Draft, TableError> {
    agree(runs, column)?;
    let mut draft = Draft::default();
    let mut scored: Vec<(&RunRecord, Score)> = Vec::new();
    for run in runs {
        match column.score.as_ref().or(run.primary.as_ref()).and_then(|name| run.scores.get(name)) {
            Some(score) => scored.push((run, score)),
            None => draft.note(missing(run, column)),
        }
    }
    let finished = scored.iter().filter(|(run, _)| run.status == Status::Finished).count();
    if finished > 0 && finished < scored.len() {
        draft.note(format!(
            "left out: {}",
            count(scored.len() - finished, "run that did not finish", "runs that did not finish")
        ));
        scored.retain(|(run, _)| run.status == Status::Finished);
    }
    let all = scored.len();
    let mut by_seed: BTreeMap<_, (&RunRecord, Score)> = BTreeMap::new();
    let rank = |run: &RunRecord| (!run.environment.dirty, run.steps_done, run.id.clone());
    for (run, score) in scored {
        let kept = by_seed.entry((run.seed, run.init.hash.clone())).or_insert((run, score));
        if rank(run) > rank(kept.0) {
            *kept = (run, score);
        }
    }
    if by_seed.len() < all {
        let left = all - by_seed.len();
        draft.note(format!(
            "left out: {} of the same seed and weights",
            count(left, "other run", "other runs")
        ));
    }
    let kept: Vec<_> = by_seed.into_values().collect();
    for (run, _) in &kept {
        remark(run, &mut draft);
    }
    draft.target = kept.first().and_then(|(run, _)| run.init.target);
    let shown = |(run, score): &(&RunRecord, Score)| {
        let dependent = run.marks.iter().any(|mark| mark == FRAMES);
        let stderr = score.stderr.filter(|_| !dependent);
        Run { stderr, ..Run::new(run, *score) }
    };
    draft.runs = kept.iter().map(shown).collect();
    draft.value = statistics::estimate(&draft.runs);
    if let ([run], Some(value)) = (draft.runs.as_slice(), &mut draft.value) {
        value.evaluation = run.stderr;
    }
    let inits: BTreeSet<_> = kept.iter().filter_map(|(run, _)| run.init.hash.as_ref()).collect();
    let pretrainings = draft.value.as_ref().and_then(|value| value.pretrainings).unwrap_or(inits.len());
    if inits.len() > pretrainings {
        let seeds = count(pretrainings, "pre-training seed", "pre-training seeds");
        draft.note(format!("{} different initial weights from {seeds}", inits.len()));
    }
    Ok(draft)
}

/// `of` − `minus`, with the notes of both: the mean of paired runs or, for the numbers of others, the difference of the two.
pub(super) fn difference(of: &Draft, minus: &Draft) -> Draft {
    let (Some(a), Some(b)) = (&of.value, &minus.value) else { return Draft::default() };
    let mut draft = Draft { notes: of.notes.clone(), ..Draft::default() }; // marks stand beside the two numbers
    minus.notes.iter().for_each(|text| draft.note(text));
    match statistics::difference(&of.runs, &minus.runs) {
        Some(found) => {
            found.notes.into_iter().for_each(|text| draft.note(text));
            draft.value = Some(found.estimate);
        }
        None => {
            let spread = a.variance().zip(b.variance()).map(|(a, b)| (a + b).sqrt());
            draft.value = Some(Estimate { spread, n: a.n.min(b.n), ..Estimate::exact(a.mean - b.mean) });
        }
    }
    draft
}

/// Checks that the runs differ at most in seed, weight file and machine.
fn agree(runs: &[&RunRecord], column: &Column) -> Result<(), TableError> {
    for pair in runs.windows(2) {
        if pair[0].files_hash != pair[1].files_hash {
            let runs = format!("`{}` and `{}`", pair[0].id, pair[1].id);
            return Err(TableError::SameName { column: column.title.clone(), runs });
        }
        for key in [Key::Stage, Key::Task, Key::Dataset, Key::Split, Key::Model, Key::Recipe, Key::Init] {
            let values = [key.of_run(pair[0]), key.of_run(pair[1])];
            if values[0] != values[1] {
                return Err(TableError::Mixed {
                    column: column.title.clone(),
                    key: key.name(),
                    runs: format!("`{}` and `{}`", pair[0].id, pair[1].id),
                    values: format!("`{}`, `{}`", values[0], values[1]),
                });
            }
        }
    }
    Ok(())
}

fn missing(run: &RunRecord, column: &Column) -> String {
    match (run.status, &column.score) {
        (Status::Failed, _) => format!("failed after {}", steps(run)),
        (Status::Interrupted, _) => format!("unfinished: {}", steps(run)),
        (_, Some(score)) => {
            let known: Vec<_> = run.scores.0.keys().map(String::as_str).collect();
            let known = if known.is_empty() { "none".to_string() } else { known.join(", ") };
            format!("no score `{score}`; there is: {known}")
        }
        (_, None) => "no primary score".into(),
    }
}

fn remark(run: &RunRecord, draft: &mut Draft) {
    match run.status {
        Status::Finished => {}
        Status::Truncated => draft.note(format!("truncated: {}", steps(run))),
        Status::Interrupted => draft.note(format!("unfinished: {}", steps(run))),
        Status::Failed => draft.note(format!("failed after {}", steps(run))),
    }
    if run.environment.dirty {
        draft.note("built from a tree with uncommitted changes");
    }
    if run.environment.dtype != "f32" {
        draft.note(format!("matrix products in {}", run.environment.dtype));
    }
    if run.skipped > 0 {
        draft.note(format!(
            "skipped: {}",
            count(run.skipped as usize, "unreadable image", "unreadable images")
        ));
    }
    run.evaluation.iter().filter_map(|evaluation| evaluation.caveat()).for_each(|note| draft.note(note));
    run.notes.iter().for_each(|note| draft.note(note));
    for mark in &run.marks {
        if !draft.marks.contains(mark) {
            draft.marks.push(mark.clone());
        }
    }
}

fn steps(run: &RunRecord) -> String {
    format!("{} of {} steps", run.steps_done, run.steps_planned)
}

pub(super) fn count(n: usize, one: &str, several: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { several })
}
