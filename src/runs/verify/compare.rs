//! Compares a record with the record of the same run made again.

use crate::record::{RunRecord, Score};

/// Half the width of the tolerance of a score in standard errors of a difference.
const WIDTH: f64 = 3.;
/// Tolerance of a score without a standard error, in the unit of the score.
const POINTS: f64 = 3.;
/// Tolerance of a training loss, as a part of it.
const LOSS: f64 = 0.05;

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Basis {
    /// The hash of the weights and every digit of every score.
    Bytes,
    /// The scores, or without scores the training losses, within a tolerance.
    Scores,
}

/// A number by the record, and by the repeated run.
#[derive(Clone, Debug, PartialEq)]
pub struct Pair {
    /// Name of the score or of the loss.
    pub name: String,
    /// The value in the record; `None` if it has none.
    pub recorded: Option<f64>,
    /// The value of the repeated run; `None` if it has none.
    pub made: Option<f64>,
    /// Greatest difference that counts as agreement.
    pub tolerance: f64,
}

impl Pair {
    /// Whether both values are there and differ by no more than the tolerance.
    pub fn agrees(&self) -> bool {
        match (self.recorded, self.made) {
            (Some(a), Some(b)) => (a - b).abs() <= self.tolerance,
            _ => false,
        }
    }
}

/// A record beside the repeated run.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// What was required to agree.
    pub basis: Basis,
    /// Why not the bytes: differences of program, processor and start. Empty if they were required.
    pub because: Vec<String>,
    /// Whether the weights have the same hash.
    pub same_weights: bool,
    /// Whether all scores are equal to the last digit.
    pub same_scores: bool,
    /// All scores, or the losses of a run without scores.
    pub pairs: Vec<Pair>,
}

impl Comparison {
    /// Whether the repeated run came out as the record says.
    pub fn agrees(&self) -> bool {
        let same = self.same_weights && self.same_scores;
        match self.basis {
            Basis::Bytes => same,
            Basis::Scores => same || self.pairs.iter().all(Pair::agrees),
        }
    }
}

/// Compares `record` with `made`, the same run made again. `same_start` says whether it started from the same bytes.
///
/// The tolerance of a score is 3 standard errors of the difference between two evaluations (3·√2 times the standard error in the
/// record), or 3 points if the record has none; that of a loss is 5 %.
pub fn compare(record: &RunRecord, made: &RunRecord, same_start: bool) -> Comparison {
    let because = differences(record, made, same_start);
    let pairs = if record.scores.is_empty() { losses(record, made) } else { scores(record, made) };
    Comparison {
        basis: if because.is_empty() { Basis::Bytes } else { Basis::Scores },
        because,
        same_weights: record.weights_hash.is_some() && record.weights_hash == made.weights_hash,
        same_scores: record.scores == made.scores,
        pairs,
    }
}

/// In what the two runs differ, so that other bytes are expected.
fn differences(record: &RunRecord, made: &RunRecord, same_start: bool) -> Vec<String> {
    let (then, now) = (&record.environment, &made.environment);
    let mut found = vec![];
    let mut differ = |same: bool, what: String| found.extend((!same).then_some(what));
    differ(then.sources.is_some() && then.sources == now.sources, "other sources".into());
    for (name, version) in &then.versions {
        let other = now.versions.get(name).map_or("unknown", String::as_str);
        differ(version == other, format!("{name} {other}, not {version}"));
    }
    let family = |processor: &Option<crate::record::Processor>| {
        processor
            .as_ref()
            .map_or("unknown".to_string(), |p| format!("{} ({})", p.family, p.features.join(" ")))
    };
    let (a, b) = (family(&then.processor), family(&now.processor));
    differ(a == b, format!("processor {b}, not {a}"));
    let on_cpu = then.device == "cpu" && now.device == "cpu";
    differ(on_cpu, "a CUDA device does not add in a fixed order".into());
    differ(then.jpeg_decoder == now.jpeg_decoder, "another JPEG decoder".into());
    differ(same_start, "initial weights that were made again and have other bytes".into());
    found
}

fn scores(record: &RunRecord, made: &RunRecord) -> Vec<Pair> {
    let tolerance = |score: &Score| score.stderr.map_or(POINTS, |e| WIDTH * 2f64.sqrt() * e);
    let pair = |(name, score): (&String, &Score)| Pair {
        name: name.clone(),
        recorded: Some(score.value),
        made: made.scores.get(name).map(|score| score.value),
        tolerance: tolerance(score),
    };
    let missing = made.scores.0.iter().filter(|(name, _)| record.scores.get(name).is_none());
    let extra = missing.map(|(name, score)| Pair {
        name: name.clone(),
        recorded: None,
        made: Some(score.value),
        tolerance: tolerance(score),
    });
    record.scores.0.iter().map(pair).chain(extra).collect()
}

/// The gradient norm is not a loss; it varies from step to step.
fn losses(record: &RunRecord, made: &RunRecord) -> Vec<Pair> {
    let losses = record.losses.iter().filter(|(name, _)| *name != "grad_norm");
    let pair = |(name, loss): (&String, &f64)| Pair {
        name: name.clone(),
        recorded: Some(*loss),
        made: made.losses.get(name).copied(),
        tolerance: LOSS * loss.abs(),
    };
    losses.map(pair).collect()
}

#[cfg(test)]
mod tests;
