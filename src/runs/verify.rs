//! [`Verifier`]: makes the runs of records again, and compares what comes out with what the records say.
//!
//! A program of the same sources and versions on a processor of the same family computes the same bytes, so the hash of the weights
//! and every score must be equal there ([`Basis::Bytes`]). Elsewhere sums are added in another order, training takes another path
//! after some steps, and the scores must agree within a tolerance ([`Basis::Scores`]).

mod compare;

pub use compare::{Basis, Comparison, Pair, compare};

use super::initial::{INIT, InitialWeights, find};
use super::{RunContext, Start, prepare_resolved, resolve_config};
use crate::config::{RunConfig, SCRATCH};
use crate::record::{RunFolder, RunRecord, RunStore};
use crate::rng::Rng;
use anyhow::{Result, ensure};
use rand::seq::SliceRandom;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Outcome of making a run again.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// The run came out as the record says.
    Verified(Comparison),
    /// It came out otherwise; the comparison says in what.
    Differs(Comparison),
    /// It ended with an error.
    Failed(String),
    /// It cannot be made here: the reason, and what to do.
    NotVerifiable(String),
}

/// Makes runs again.
pub struct Verifier<'a> {
    context: &'a RunContext<'a>,
    /// Receives the folders of the repeated runs.
    out: RunStore,
    data: Option<PathBuf>,
    /// Hash of the weights of repeated runs, by id.
    made: BTreeMap<String, String>,
}

impl<'a> Verifier<'a> {
    /// Repeated runs are written to `out` and continue there if they were interrupted. `data` is the root of the data set; by
    /// default it is searched as for any run.
    pub fn new(context: &'a RunContext<'a>, out: RunStore, data: Option<PathBuf>) -> Self {
        Self { context, out, data, made: BTreeMap::new() }
    }

    /// Makes the run of `record` again and compares. It starts from the weights that the record names by their hash, or from those
    /// of a run that this verifier has repeated.
    ///
    /// # Errors
    /// A request to stop, and files that cannot be written. An error of the repeated run is a verdict.
    pub fn verify(&mut self, record: &RunRecord) -> Result<Verdict> {
        let (resolved, same_start) = match self.resolve(record) {
            Ok(found) => found,
            Err(reason) => return Ok(Verdict::NotVerifiable(reason)),
        };
        let path = self.out.path(&record.id);
        let tell = |_: &str| ();
        let made = match prepare_resolved(self.context, resolved, Some(&path), true, &tell) {
            Err(error) => return Ok(Verdict::NotVerifiable(format!("{error:#}"))),
            Ok(Start::Done(made)) => {
                ensure!(
                    made.environment.sources == self.context.build.sources,
                    "`{}` was made by another program; remove the folder, or choose another one",
                    path.display()
                );
                *made
            }
            Ok(Start::Ready(prepared)) => {
                if prepared.fingerprint != record.dataset_fingerprint
                    || record.data.as_ref().is_some_and(|data| *data != prepared.files)
                {
                    return Ok(Verdict::NotVerifiable(format!(
                        "the images or annotations of data set `{}` here are not those of the record; \
                         datasets/{0}/README.md says where to get them",
                        record.dataset
                    )));
                }
                match prepared.run(self.context, None) {
                    Ok(made) => made,
                    Err(error) if self.context.control.stopped() => return Err(error),
                    Err(error) => return Ok(Verdict::Failed(format!("{error:#}"))),
                }
            }
        };
        ensure!(!self.context.control.stopped(), "stopped");
        self.made.extend(made.weights_hash.clone().map(|hash| (record.id.clone(), hash)));
        let comparison = compare(record, &made, same_start);
        Ok(if comparison.agrees() { Verdict::Verified(comparison) } else { Verdict::Differs(comparison) })
    }

    /// The configuration of a record with its weights, and whether these are the bytes that the record names.
    ///
    /// # Errors
    /// Why the run cannot be made here.
    fn resolve(&self, record: &RunRecord) -> Result<(super::Resolved, bool), String> {
        let commit = record.environment.made_by();
        let Some(config) = &record.config else {
            return Err(format!(
                "made by {commit}, before records held configurations; make the run again (`{}`) and publish it",
                record.command
            ));
        };
        let mut config: RunConfig = serde_json::from_value(config.clone()).map_err(|error| {
            format!(
                "this program cannot read its configuration ({error}); build the program at commit {commit}"
            )
        })?;
        config.run.data.clone_from(&self.data);
        let (mut init, mut tokenizer, mut same_start) = (InitialWeights::scratch(), None, true);
        if config.run.init != SCRATCH {
            let hash = record.init.hash.as_deref().unwrap_or_default();
            let found =
                self.weights("initial weights", &record.init.source, record.init.run.as_deref(), hash)?;
            same_start &= found.1 == hash;
            (init, config.run.init_hash) = (found.0, Some(found.1));
        }
        if let Some(needed) = &record.tokenizer {
            let found = self.weights("tokenizer", &needed.source, needed.run.as_deref(), &needed.hash)?;
            same_start &= found.1 == needed.hash;
            config.run.tokenizer_hash = Some(found.1);
            tokenizer = Some(found.0);
        }
        let origin = format!("record `{}`", record.id);
        let resolved = resolve_config(self.context, config, (init, tokenizer), (origin, vec![]));
        Ok((resolved.map_err(|error| format!("{error:#}"))?, same_start))
    }

    /// Finds weights by their hash: those of a repeated run, of a run in the folder of runs, or at the place that the record names.
    /// Weights of a repeated run may have another hash. Returns the hash, too.
    fn weights(
        &self,
        what: &str,
        source: &str,
        run: Option<&str>,
        hash: &str,
    ) -> Result<(InitialWeights, String), String> {
        let of_run = |store: &RunStore, run: &str| {
            InitialWeights::of_run(self.context, &RunFolder::at(store.path(run)), source.into())
        };
        if let Some((run, made)) = run.and_then(|run| self.made.get_key_value(run)) {
            let found = of_run(&self.out, run).map_err(|error| format!("{error:#}"))?;
            return Ok((found, made.clone()));
        }
        let stored = run.and_then(|run| of_run(self.context.store, run).ok());
        let named = || find(self.context, INIT, source);
        let mut reason = "it is not there".to_string();
        for found in stored.map(Ok).into_iter().chain(std::iter::once_with(named)) {
            match found.and_then(|weights| Ok((weights.hash()?, weights))) {
                Ok((Some(found), weights)) if found == hash => return Ok((weights, found)),
                Ok(_) => reason = "other weights are there".into(),
                Err(error) => reason = format!("{error:#}"),
            }
        }
        let remedy = match run {
            Some(run) => format!(
                "name the folder of runs that holds `{run}` with --runs, or verify that run in the same call, which makes \
                 the weights again"
            ),
            None => "put the file where the record names it".into(),
        };
        Err(format!("its {what} `{source}` (blake3 {hash:.8}…) are not on this machine: {reason}; {remedy}"))
    }
}

/// Sorts records so that each comes after the runs whose weights it starts from, as far as these are among them, and otherwise as they
/// were.
pub fn in_order(records: Vec<RunRecord>) -> Vec<RunRecord> {
    let mut left = records;
    let mut sorted: Vec<RunRecord> = vec![];
    while !left.is_empty() {
        let waits = |record: &RunRecord| {
            let tokenizer = record.tokenizer.as_ref().and_then(|tokenizer| tokenizer.run.as_ref());
            let mut before = record.init.run.iter().chain(tokenizer);
            before.any(|run| left.iter().any(|other| other.id == *run && other.id != record.id))
        };
        let (later, now): (Vec<_>, Vec<_>) = left.iter().cloned().partition(waits);
        if now.is_empty() {
            sorted.extend(later); // a circle, which only an edited record has
            break;
        }
        sorted.extend(now);
        left = later;
    }
    sorted
}

/// `count` of the records, or all if there are fewer, drawn by `seed`.
pub fn draw(mut records: Vec<RunRecord>, count: usize, seed: u64) -> Vec<RunRecord> {
    records.shuffle(&mut Rng::new(seed, "verify", &[]));
    records.truncate(count);
    records
}
