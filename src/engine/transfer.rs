//! A transfer run: building, training and evaluating a backbone with a head. Generic over the kind of task.

use super::batches::Source;
use super::evaluate::{Evaluated, evaluate};
use super::features::{CachedFeatures, OnFeatures};
use super::metadata::TransferMetadata;
use super::observer::Event;
use super::predict::{Pictures, Predicted, draw_predictions, predict};
use super::session::{Session, StageParts};
use super::train::{Evaluation, Outcome, TrainOptions, Unscored};
use super::{LoaderSpec, Plan, RunInputs, Speed, SpeedOptions, TaskModel};
use crate::data::loader::Loader;
use crate::data::{DatasetInfo, Entry};
use crate::draw::Drawing;
use crate::metrics::Findings;
use crate::nn::{Params, Pass};
use crate::ops::no_grad;
use crate::pretrain::Objective;
use crate::record::{RunFolder, ScoreSpec, Scores, write_atomic};
use crate::task::{DrawOptions, Head, Task};
use crate::weights::{self, WeightFile, load_exact, load_initial, load_model};
use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

impl<'a, T: Task> Session<'a, TaskModel<T>> {
    /// A head on a backbone, with parameters as their layers draw them; training loads the initial weights.
    ///
    /// # Errors
    /// See [`TaskModel::build`].
    pub fn transfer(task: &Arc<T>, run: &'a RunInputs<'a>) -> Result<Self> {
        let (params, model) = TaskModel::build(task, run, run.init)?;
        Ok(Self { run, params, model })
    }

    /// The model of a run of this configuration, with its trained weights, which are at `path`.
    ///
    /// # Errors
    /// Weights that do not fit.
    pub fn trained(task: &Arc<T>, run: &'a RunInputs<'a>, path: &Path) -> Result<Self> {
        let (params, model) = TaskModel::build(task, run, Some(path))?;
        let file = WeightFile::open(path)?;
        let tensors = file.read(run.device)?;
        let loaded = match file.source_program() {
            None => load_exact(&params, &tensors),
            Some(_) => load_model(&params, &tensors, &run.config.model),
        };
        loaded.with_context(|| {
            format!("weights `{}` do not fit run `{}`", path.display(), run.config.run.recipe)
        })?;
        let mut session = Self { run, params, model };
        if session.model.head.fits() {
            session.fit()?;
        }
        Ok(session)
    }

    /// Trains (or fits) and evaluates, and leaves `model.safetensors` with backbone and head in the folder of
    /// the run. `primary` decides which weights are the best.
    ///
    /// # Errors
    /// Initial weights that do not fit, and errors of the training loop or of the evaluation.
    pub fn train(mut self, info: &DatasetInfo, primary: ScoreSpec, options: TrainOptions) -> Result<Outcome> {
        let (run, folder) = (self.run, options.folder);
        let (model, backbones) = (&run.config.model, &run.components.backbones);
        let label = (!backbones.trainable(model)?)
            .then(|| format!("backbone `{}`: frozen, not trainable here", model.backbone));
        let metadata = TransferMetadata { config: run.config.clone(), dataset: info.clone() }.add(run)?;
        if self.model.head.fits() {
            self.initialize()?;
            self.fit()?;
            weights::save(&folder.weights(), &self.params, &metadata)?;
            let unscored = || Unscored { weights: folder.weights(), steps: 0 };
            let found = self.evaluate().with_context(unscored)?;
            let mut outcome = Outcome::fitted(save_findings(found, folder, &run.splits.eval)?);
            outcome.notes.extend(label);
            return Ok(outcome);
        }
        let plan = self.plan()?;
        let run_evaluation = || save_findings(self.evaluate()?, folder, &run.splits.eval);
        let choose = || -> Result<Scores> { Ok(self.evaluate_on(&run.splits.select)?.findings.scores) };
        let select: Option<&dyn Fn() -> Result<Scores>> =
            if run.splits.select.is_empty() { None } else { Some(&choose) };
        let task = &self.model.task;
        let train = |source: &dyn Source<T::Target>,
                     objective: &dyn Objective<Target = T::Target>,
                     initialize: &dyn Fn() -> Result<()>| {
            let parts = StageParts {
                source,
                objective,
                mix: &|batch, rng| task.mix(batch, rng),
                initialize,
                evaluation: Some(Evaluation { run: &run_evaluation, select, primary }),
                metadata: &metadata,
            };
            self.run_loop(parts, options)
        };
        if !run.transfer()?.cached_features {
            let loader = self.train_loader()?;
            let note = accumulated_norms(&self.params, &plan);
            note.iter().for_each(|note| run.control.tell(Event::Note(note)));
            let mut outcome = train(&loader, &self.model, &|| self.initialize())?;
            outcome.notes.extend(note.into_iter().chain(label));
            return Ok(outcome);
        }
        ensure!(
            !task.any_size(),
            "cached_features needs images of one size, but the evaluation images of this task differ in size"
        );
        self.initialize()?; // the features need the weights, also when the head is resumed
        let unaugmented = self.eval_loader(run.splits.train.clone())?;
        let cached = CachedFeatures::compute(&self.model, &unaugmented, plan.micro_batch, run)?;
        let on_features = OnFeatures { head: &self.model.head, layout: cached.layout() };
        let mut outcome = train(&cached, &on_features, &|| Ok(()))?;
        outcome.notes.extend(label);
        outcome.notes.push("cached features: computed once, without augmentation".into());
        Ok(outcome)
    }

    /// Scores of the current weights on the reported split.
    ///
    /// # Errors
    /// An unreadable image, or a request to stop, because part of a split has no score.
    pub fn evaluate(&self) -> Result<Evaluated> {
        self.evaluate_on(&self.run.splits.eval)
    }

    pub(super) fn evaluate_on(&self, entries: &Arc<Vec<Entry>>) -> Result<Evaluated> {
        let loader = self.eval_loader(entries.clone())?;
        let [height, width] = self.run.config.model.image;
        let TaskModel { task, backbone, head } = &self.model;
        let (input, total) = ((height, width), entries.len());
        evaluate(task.as_ref(), backbone.as_ref(), head, input, &loader, total, self.run.control)
    }

    /// Predicts `pictures`: all of them, or those before a request to stop.
    ///
    /// # Errors
    /// Files that cannot be written; an unreadable image is counted instead.
    pub fn predict(&self, pictures: &Pictures) -> Result<Predicted> {
        predict(&self.model, self.run, pictures)
    }

    /// Draws the predictions for `entries`, in their order; none if the kind draws nothing.
    ///
    /// # Errors
    /// Images that cannot be read, and predictions that do not fit them.
    pub fn draw(&self, entries: &Arc<Vec<Entry>>, how: &DrawOptions) -> Result<Vec<Drawing>> {
        draw_predictions(&self.model, self.run, entries, how)
    }

    /// Measures training.
    ///
    /// # Errors
    /// Fits a head that is not trained by gradient descent.
    pub fn speed(&self, options: SpeedOptions) -> Result<Speed> {
        let recipe = &self.run.config.run.recipe;
        ensure!(
            !self.model.head.fits(),
            "recipe `{recipe}` fits its head in one pass and has no training steps"
        );
        let task = &self.model.task;
        self.measure(&self.model, &|batch, rng| task.mix(batch, rng), &self.train_loader()?, options)
    }

    /// Fills the backbone from the initial weights, if there are any.
    fn initialize(&self) -> Result<()> {
        let run = self.run;
        let (backbones, model) = (&run.components.backbones, &run.config.model);
        let built_from_weights = !backbones.trainable(model)?;
        let Some(path) = run.init.filter(|_| !built_from_weights) else { return Ok(()) };
        let file = WeightFile::open(path)?;
        // Weights of this program contain their model.
        let grid = file.model()?.map(|model| model.grid());
        let tensors = file.read(run.device)?;
        let report = load_initial(backbones, &self.params, &tensors, model, grid).with_context(|| {
            format!("weights `{}` do not fit model `{}`", path.display(), run.config.run.model)
        })?;
        let mut note = format!("loaded the {} tensors of the backbone", report.loaded);
        let unusable = file.unusable().iter().map(|tensor| tensor.name.clone());
        let left_out: Vec<String> = report.left_out.iter().cloned().chain(unusable).collect();
        if !left_out.is_empty() {
            note += &format!("; ignored {}", ignored(&left_out));
        }
        if report.new > 0 {
            note += &format!(", {} of relative positions are new", report.new);
        }
        if let Some((from, to)) = report.resized {
            note += &format!(", positions resized from {}×{} to {}×{}", from.0, from.1, to.0, to.1);
        }
        if report.no_class_position {
            note += ", the class token has no position in the file (zero here)";
        }
        if let Some((from, to)) = report.patches {
            note += &format!(", patches resized from {from} to {to} pixels");
        }
        run.control.tell(Event::Note(&note));
        if let Some(note) = file.choice_of_state_dict() {
            run.control.tell(Event::Note(&note));
        }
        Ok(())
    }

    /// One pass over the training split, without augmentation, for a head that is fitted.
    fn fit(&mut self) -> Result<()> {
        let loader = self.eval_loader(self.run.splits.train.clone())?;
        let (mut done, total) = (0, self.run.splits.train.len());
        for loaded in loader.epoch(0, 0) {
            let batch = loaded?.batch;
            let TaskModel { backbone, head, .. } = &mut self.model;
            let forward = || backbone.forward(&batch.images, head.taps(), &mut Pass::Eval);
            let features = no_grad(forward)?;
            head.fit(&features, &batch)?;
            done += batch.len();
            self.run.control.tell(Event::Evaluating { done, total });
            ensure!(!self.run.control.stopped(), "stopped after {done} of {total} images");
        }
        Ok(())
    }

    fn train_loader(&self) -> Result<Loader<T::Target>> {
        self.task_loader(LoaderSpec::training(self.run))
    }

    /// Loads `entries` in order, by the evaluation protocol of the task.
    fn eval_loader(&self, entries: Arc<Vec<Entry>>) -> Result<Loader<T::Target>> {
        self.task_loader(LoaderSpec::evaluation(self.run, entries, self.model.task.any_size()))
    }

    fn task_loader(&self, spec: LoaderSpec) -> Result<Loader<T::Target>> {
        let task = self.model.task.clone();
        let target = Arc::new(move |entry: &Entry| task.target(entry).map_err(|e| format!("{e:#}")));
        self.run.loader(spec, target)
    }
}

/// `22 tensors (decoder 20, head 2)`: tensors of a file that a backbone does not have, by the first part of their names.
fn ignored(names: &[String]) -> String {
    let mut parts: BTreeMap<&str, usize> = BTreeMap::new();
    for name in names {
        *parts.entry(name.split(['.', '_']).next().unwrap_or(name)).or_default() += 1;
    }
    let count = format!("{} {}", names.len(), if names.len() == 1 { "tensor" } else { "tensors" });
    let parts: Vec<String> = parts.into_iter().map(|(part, count)| format!("{part} {count}")).collect();
    format!("{count} ({})", parts.join(", "))
}

/// Writes the scores of each class and the report, if the kind has any, to the folder of the run, and returns the overall
/// scores. `entries` are those that were evaluated.
fn save_findings(found: Evaluated, folder: &RunFolder, entries: &[Entry]) -> Result<Scores> {
    let Findings { scores, by_class, report } = found.findings;
    let context = |path: &Path| format!("cannot write `{}`", path.display());
    if !by_class.0.is_empty() {
        let text = serde_json::to_string_pretty(&by_class)? + "\n";
        let path = folder.by_class();
        write_atomic(&path, text.as_bytes()).with_context(|| context(&path))?;
    }
    if let Some(report) = report {
        let path = folder.report();
        std::fs::create_dir_all(&path).with_context(|| context(&path))?;
        report.write(&path, entries)?;
    }
    Ok(scores)
}

/// Warns that batch norms see one micro-batch at a time where a batch is accumulated from several.
fn accumulated_norms(params: &Params, plan: &Plan) -> Option<String> {
    let batch_norm = params.all().iter().any(|p| p.name.ends_with("running_mean"));
    (batch_norm && plan.micro_batch < plan.batch).then(|| {
        format!(
            "batch norm: statistics of {} images, not of the batch of {}; a norm of layers or groups does not depend \
             on it",
            plan.micro_batch, plan.batch
        )
    })
}
