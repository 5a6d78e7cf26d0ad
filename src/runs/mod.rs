//! From a request to a finished run: resolve it, lock its folder, run it, and write the record.
//!
//! [`prepare`] finds every error in a request before anything is written. A failure after that is a failed run, and its
//! record says so. Each stage adds facts and copies none: a [`Request`] becomes a [`Resolved`], which becomes a
//! [`PreparedRun`] together with its [`Data`] and its folder. The engine receives it as
//! [`RunInputs`].

mod command;
mod device;
mod dry_run;
mod initial;
mod machine;
pub mod own;
mod peers;
mod prepare;
mod repeat;
mod resolve;
mod trained;
pub mod verify;

pub use command::command_line;
pub use device::{default_dtype, open_device};
pub use dry_run::{MemoryEstimate, RunEstimate, dry_run};
pub use initial::{InitialWeights, NoWeights, find_weights, fitting_models};
pub use peers::newest_pretraining;
pub use prepare::{Data, PreparedRun, Start, index, prepare, prepare_resolved};
pub use repeat::{resolve, resolve_config, resolve_finished};
pub use resolve::{Awaited, DEFAULT_MODEL, Request, Resolved, resolve_for_plan, stage_of};
pub use trained::{TrainedModel, trained};

use crate::config::{Choice, Dtype, Library, Operation, RunConfig};
use crate::data::{DataError, Dataset};
use crate::engine::{
    Control, Event, HELD_OUT_LOSS, IndexedSplits, Outcome, Plan, RunInputs, Session, TrainOptions, Unscored,
};
use crate::record::{
    Build, Environment, EvaluationRecord, InitRecord, RunRecord, RunStore, Scores, Status, Throughput,
    TokenizerRecord, file_hash,
};
use crate::registry::{Registry, manifest};
use crate::task::Manifest;
use crate::weights::{Fetched, Hub, HubError, HubFile, HubSettings};
use anyhow::Result;
use candle_core::Device;
use std::path::PathBuf;
use std::time::Instant;

/// The environment of runs: everything that does not depend on the request.
pub struct RunContext<'a> {
    /// The registered kinds, objectives, formats, operations and backbones.
    pub registry: &'a Registry,
    /// Named files.
    pub library: &'a Library,
    /// The folder of all runs.
    pub store: &'a RunStore,
    /// `$BENCH_DATA`: the folder of all data sets.
    pub bench_data: Option<PathBuf>,
    /// The device of all tensors.
    pub device: Device,
    /// The device as records name it: `cpu`, `cuda:1`.
    pub device_name: String,
    /// Loader threads.
    pub workers: usize,
    /// The sources of the program, for records.
    pub build: Build,
    /// Receives events, and says whether to stop.
    pub control: Control<'a>,
    /// Address, cache and token of the Hugging Face Hub.
    pub hub: HubSettings,
}

impl RunContext<'_> {
    /// Models and recipes by name, with `--set` as typed.
    pub fn choice<'c>(&'c self, overrides: &'c [String]) -> Choice<'c> {
        Choice { library: self.library, owners: self.registry.components(), overrides }
    }

    /// The manifest of the task `name`, which may also be a path.
    ///
    /// # Errors
    /// See [`manifest`].
    pub fn manifest(&self, name: &str) -> Result<Manifest> {
        manifest(self.library, self.registry.components(), name)
    }

    /// The data set `name`, which may also be a path.
    ///
    /// # Errors
    /// An unknown data set, a manifest that its formats refuse.
    pub fn dataset(&self, name: &str) -> Result<Dataset, DataError> {
        Dataset::load(self.library, name, &self.registry.components().formats)
    }

    /// The inputs of the engine for a run without initial weights or tokenizer.
    pub fn inputs<'r>(
        &'r self,
        config: &'r RunConfig,
        splits: &'r IndexedSplits,
        protocol: &'r [Operation],
    ) -> RunInputs<'r> {
        RunInputs {
            config,
            splits,
            protocol,
            init: None,
            tokenizer: None,
            components: self.registry.components(),
            device: &self.device,
            workers: self.workers,
            control: &self.control,
        }
    }

    /// Downloads a file from the Hub unless it is in the cache, and reports progress.
    fn fetch(&self, file: &HubFile) -> Result<Fetched, HubError> {
        let observer = self.control.observer;
        let found = Hub::new(self.hub.clone())?
            .fetch(file, &|done, total| observer.event(&Event::Fetching { done, total }))?;
        if let Some(reason) = &found.stale {
            observer.event(&Event::Note(&format!("{}: using the cached copy: {reason}", found.reference)));
        }
        Ok(found)
    }

    fn environment(&self, dtype: Dtype) -> Environment {
        Environment {
            version: self.build.version.clone(),
            commit: self.build.commit.clone(),
            dirty: self.build.dirty,
            device: self.device_name.clone(),
            dtype: dtype.as_str().into(),
            world_size: 1,
            threads: rayon::current_num_threads(),
            jpeg_decoder: None,
            sources: self.build.sources.clone(),
            versions: self.build.versions.clone(),
            processor: Some(machine::processor(&self.device_name)),
        }
    }
}

/// The data of a request, as [`index`] returns them, or the error that says that they are not on this machine. Their absence
/// does not hide an unknown option of the task or of its head.
///
/// # Errors
/// Any other error of [`index`].
pub fn index_if_there(context: &RunContext, resolved: &Resolved) -> Result<Result<Data, DataError>> {
    let error = match index(context, resolved) {
        Ok(data) => return Ok(Ok(data)),
        Err(error) => error,
    };
    if !matches!(error.downcast_ref(), Some(DataError::Missing { .. })) {
        return Err(error);
    }
    if let Some(manifest) = &resolved.manifest {
        let training = resolved.config.recipe.head();
        context.registry.check_options(manifest, (&training, &resolved.recipe_origin))?;
    }
    Ok(Err(error.downcast()?))
}

impl PreparedRun {
    /// Runs to the end or until a request to stop, and writes the record in both cases.
    ///
    /// # Errors
    /// Any error that ends the run; the record contains it.
    pub fn run(self, context: &RunContext, max_steps: Option<usize>) -> Result<RunRecord> {
        let began = Instant::now();
        let mut record = self.first_record(context, max_steps)?;
        self.folder.write_record(&record)?; // if the run is killed, its record says that it was interrupted
        let inputs = self.resolved.inputs(context, &self.data.splits);
        let options = TrainOptions { folder: &self.folder, resume: self.resume, max_steps };
        let result = match &self.data.task {
            Some(task) => task.train(&inputs, options),
            None => Session::pretraining(&inputs).and_then(|session| session.train(options)),
        };
        let before = self.earlier.as_ref().map_or(0., |earlier| earlier.throughput.wall_seconds);
        let wall = before + began.elapsed().as_secs_f64();
        record.throughput.wall_seconds = wall;
        record.throughput.peak_memory_mb = peak_memory_mb();
        match result {
            Ok(outcome) => {
                fill(&mut record, outcome);
                if record.status != Status::Interrupted {
                    record.weights_hash = Some(file_hash(&self.folder.weights())?);
                }
                self.folder.write_record(&record)?;
                if record.status == Status::Finished {
                    let _ = std::fs::remove_file(self.folder.state()); // the file may not exist
                }
                Ok(record)
            }
            Err(error) => {
                if !context.control.stopped() {
                    record.status = Status::Failed;
                    record.error = Some(format!("{error:#}"));
                }
                if let Some(Unscored { weights, steps }) = error.downcast_ref() {
                    record.weights_hash = file_hash(weights).ok();
                    record.steps_done = *steps as u64;
                }
                // A full disk must not hide the first error.
                let _ = self.folder.write_record(&record);
                Err(error)
            }
        }
    }

    fn first_record(&self, context: &RunContext, max_steps: Option<usize>) -> Result<RunRecord> {
        let Resolved { config, manifest, init, tokenizer, .. } = &self.resolved;
        let run = &config.run;
        let steps = max_steps.into_iter().flat_map(|most| ["--max-steps".to_string(), most.to_string()]);
        let tokenizer = tokenizer.as_ref().zip(run.tokenizer_hash.as_ref());
        Ok(RunRecord {
            schema: RunRecord::SCHEMA,
            id: self.folder.id(),
            stage: run.stage.as_str().into(),
            command: command_line(self.resolved.command.iter().cloned().chain(steps)),
            task: run.task.clone(),
            task_version: manifest.as_ref().map(|manifest| manifest.version),
            task_hash: self.task_hash.clone(),
            dataset: run.dataset.clone(),
            dataset_fingerprint: self.fingerprint.clone(),
            data: Some(self.files.clone()),
            model: run.model.clone(),
            recipe: run.recipe.clone(),
            config_hash: config.hash()?,
            config: Some(config.to_json()?),
            files_hash: config.files_hash()?,
            overrides: run.overrides.clone(),
            seed: run.seed,
            init: InitRecord {
                source: run.init.clone(),
                label: run.init_label.clone(),
                hash: run.init_hash.clone(),
                run: init.run.clone(),
                seed: init.seed,
                target: init.target,
                trained: init.trained.clone(),
            },
            tokenizer: tokenizer.map(|(tokenizer, hash)| TokenizerRecord {
                source: tokenizer.source.clone(),
                hash: hash.clone(),
                run: tokenizer.run.clone(),
            }),
            weights_hash: None,
            environment: context.environment(run.dtype),
            throughput: Throughput::default(),
            steps_planned: Plan::new(&config.recipe, self.data.splits.train.len())
                .map_or(0, |plan| plan.steps as u64),
            steps_done: self.earlier.as_ref().map_or(0, |earlier| earlier.steps_done),
            skipped: 0,
            primary: self.primary(),
            evaluation: match manifest {
                Some(manifest) => Some(self.evaluation(manifest)?),
                None => self.held_out(),
            },
            scores: Scores::default(),
            losses: Default::default(),
            status: Status::Interrupted,
            error: None,
            notes: self.caveats.clone(),
            data_notes: self.data.notes.clone(),
            marks: vec![],
        })
    }

    /// The name of the primary score.
    fn primary(&self) -> Option<String> {
        match &self.data.task {
            Some(task) => Some(task.primary().name.to_string()),
            None => (!self.data.splits.eval.is_empty()).then(|| HELD_OUT_LOSS.name.to_string()),
        }
    }

    /// What a pre-training with held-out images is scored on.
    fn held_out(&self) -> Option<EvaluationRecord> {
        let split = "held out".to_string();
        let best_on = (self.resolved.config.recipe.eval_epochs > 0).then(|| split.clone());
        let role = self.resolved.config.run.report;
        (!self.data.splits.eval.is_empty()).then_some(EvaluationRecord {
            split,
            role,
            times: 0,
            best_on,
            best: None,
        })
    }

    /// The splits that the run is scored and chosen on, before any evaluation.
    fn evaluation(&self, manifest: &Manifest) -> Result<EvaluationRecord> {
        let config = &self.resolved.config;
        let role = config.run.report;
        let split = manifest.split(role)?.to_string();
        let chosen = match &manifest.splits.select {
            Some(select) if !self.data.splits.select.is_empty() => select,
            _ => &split,
        };
        let best_on = (config.recipe.eval_epochs > 0).then(|| chosen.clone());
        Ok(EvaluationRecord { split, role, times: 0, best_on, best: None })
    }
}

fn fill(record: &mut RunRecord, outcome: Outcome) {
    record.status = outcome.status;
    record.steps_planned = outcome.steps_planned as u64;
    record.steps_done = outcome.steps_done as u64;
    record.skipped = outcome.skipped;
    record.scores = outcome.scores;
    if let Some(evaluation) = &mut record.evaluation {
        evaluation.times = outcome.evaluations;
        evaluation.best = outcome.best.filter(|_| evaluation.best_on.is_some());
    }
    record.losses = outcome.losses;
    record.notes.extend(outcome.notes);
    let seconds = outcome.training.as_secs_f64();
    if seconds > 0. {
        record.throughput.images_per_second = outcome.images as f64 / seconds;
    }
}

/// Peak resident memory of this process so far in MiB, if the operating system reports it.
fn peak_memory_mb() -> Option<f64> {
    // SAFETY: `getrusage` fills the struct that it is given; a zeroed one is a valid value.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        (libc::getrusage(libc::RUSAGE_SELF, &mut usage) == 0).then_some(usage)?
    };
    let unit = if cfg!(target_os = "macos") { 1024. * 1024. } else { 1024. };
    Some(usage.ru_maxrss as f64 / unit)
}
