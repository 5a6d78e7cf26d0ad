//! The checks before a run: the data exist and suit the task, and the folder is free. Nothing is written before all
//! checks have passed.

use super::{Request, Resolved, RunContext, index_if_there, resolve};
use crate::config::{Recipe, Reported, RunConfig, Stage, read};
use crate::data::{Dataset, Entry, Index, content, readable};
use crate::engine::{IndexedSplits, Plan};
use crate::record::{DataRecord, InitTraining, RunFolder, RunRecord, Status, task_hash, write_atomic};
use crate::registry::AnyTask;
use anyhow::{Result, bail, ensure};
use std::path::Path;
use std::sync::Arc;

/// Number of keys that a message about another run lists.
const DIFFERENCES: usize = 5;

/// The share of the images that an epoch may leave over without a remark is one in this number.
const MOST_DROPPED: usize = 10;

/// Caveat of a run that was resumed after files of its data set had changed.
const OTHER_FILES: &str = "resumed after images or masks had changed: its first steps saw other files";

/// A run that can start, with its locked folder.
pub struct PreparedRun {
    /// The resolved request.
    pub resolved: Resolved,
    /// On which data.
    pub data: Data,
    /// Hash of the task's manifest.
    pub task_hash: Option<String>,
    /// Fingerprint of the data: distinguishes data sets of the same name.
    pub fingerprint: String,
    /// Hash of the files of the data.
    pub files: DataRecord,
    /// The folder for results.
    pub folder: RunFolder,
    /// Whether to continue from saved state.
    pub resume: bool,
    /// The record of this run so far, if it is continued.
    pub earlier: Option<RunRecord>,
    /// Warnings that apply from the start, such as incomplete data or weights whose training was stopped early.
    pub caveats: Vec<String>,
}

/// Outcome of preparing a request.
pub enum Start {
    /// The run can start.
    Ready(Box<PreparedRun>),
    /// There is a finished run of the same configuration.
    Done(Box<RunRecord>),
}

/// The indexed data of a run.
pub struct Data {
    /// The task that reads the data; `None` in pre-training.
    pub task: Option<AnyTask>,
    /// The entries.
    pub splits: IndexedSplits,
    /// What was left out of the data, or understood in a way of which the user should know.
    pub notes: Vec<String>,
    /// Warnings about splits whose number of images differs from the one in their manifest.
    pub incomplete: Vec<String>,
}

/// Indexes the data, and builds the task that reads it.
pub fn index(context: &RunContext, resolved: &Resolved) -> Result<Data> {
    let Resolved { config, manifest, dataset, .. } = resolved;
    let root = dataset.root(config.run.data.as_deref(), context.bench_data.as_deref())?;
    let remarks = |split: &str, index: &Index| -> Vec<String> {
        let place = format!("data set `{}`, split `{split}`", dataset.name);
        let (images, ignored) = (index.entries.len(), &index.ignored);
        let ignored = (!ignored.is_empty()).then(|| format!("{place}: {images} images; {ignored}"));
        let notes = index.notes.iter().map(|note| format!("{place}: {note}"));
        ignored.into_iter().chain(notes).collect()
    };
    let incomplete = |split: &str, index: &Index| {
        let expected = dataset.splits.get(split)?.count?;
        let images = index.entries.len();
        (images != expected)
            .then(|| format!("split `{split}` has {images} images, the manifest says {expected}"))
    };
    let train = dataset.index(&root, &config.run.split)?;
    let mut missing = Vec::from_iter(incomplete(&config.run.split, &train));
    let mut notes = remarks(&config.run.split, &train);
    let Some(manifest) = manifest else {
        let (entries, held_out) = hold_out(train.entries, config.recipe.held_out)?;
        let splits =
            IndexedSplits { train: Arc::new(entries), eval: Arc::new(held_out), ..IndexedSplits::default() };
        return Ok(Data { task: None, splits, notes, incomplete: missing });
    };
    let info = dataset.info(&train);
    let training = config.recipe.head();
    let task = context.registry.task(manifest, (&training, &resolved.recipe_origin), &info)?;
    task.check(&config.run.split, &train.entries)?;
    let chooses = config.recipe.eval_epochs > 0 && config.run.report == Reported::Eval;
    let apart = manifest.splits.tune.is_none();
    let select = manifest.splits.select.as_deref().filter(|_| chooses && apart);
    let mut scored = vec![];
    for split in std::iter::once(manifest.split(config.run.report)?).chain(select) {
        let found = dataset.index_scored(&root, split, (&config.run.split, &info.classes))?;
        task.check(split, &found.entries)?;
        notes.extend(remarks(split, &found));
        missing.extend(incomplete(split, &found));
        scored.push(Arc::new(found.entries));
    }
    let mut scored = scored.into_iter();
    let splits = IndexedSplits {
        train: Arc::new(train.entries),
        eval: scored.next().unwrap_or_default(),
        select: scored.next().unwrap_or_default(),
    };
    Ok(Data { task: Some(task), splits, notes, incomplete: missing })
}

/// Divides the images of a pre-training into those that are trained on and `count` that are held out, at equal distances in the order of
/// the split.
fn hold_out(entries: Vec<Entry>, count: usize) -> Result<(Vec<Entry>, Vec<Entry>)> {
    let images = entries.len();
    ensure!(count < images.max(1), "held_out is {count}, but the split has only {images} images");
    let is_held_out = |place: usize| place * count / images != (place + 1) * count / images;
    let (held_out, trained): (Vec<_>, Vec<_>) =
        entries.into_iter().enumerate().partition(|(place, _)| is_held_out(*place));
    let plain = |entries: Vec<(usize, Entry)>| entries.into_iter().map(|(_, entry)| entry).collect();
    Ok((plain(trained), plain(held_out)))
}

/// Resolves and checks a request, and locks the folder of the run. Writes `config.toml`.
///
/// # Errors
/// Any error in the request; the exit code of the program is then 2.
pub fn prepare(
    context: &RunContext,
    stage: Stage,
    request: &Request,
    out: Option<&Path>,
    resume: bool,
    tell: &dyn Fn(&str),
) -> Result<Start> {
    let resolved = resolve(context, stage, request)?;
    prepare_resolved(context, resolved, out, resume, tell)
}

/// [`prepare`] for a request that has been resolved.
///
/// # Errors
/// The errors of [`prepare`].
pub fn prepare_resolved(
    context: &RunContext,
    resolved: Resolved,
    out: Option<&Path>,
    resume: bool,
    tell: &dyn Fn(&str),
) -> Result<Start> {
    resolved.notes.iter().for_each(|note| tell(note));
    let path = match out {
        Some(path) => path.to_path_buf(),
        None => context.store.path(&resolved.config.id()?),
    };
    let done = earlier(&path, &resolved.config)?;
    if let Some(record) = &done {
        same_task(record, &resolved, &path)?;
    }
    if let Some(record) = done
        && record.status == Status::Finished
    {
        // Data by name are taken to be what they were. Data by path may be others with the same name.
        let run = &resolved.config.run;
        if (run.data.is_some() || run.dataset_path.is_some())
            && let Ok(data) = index_if_there(context, &resolved)?
        {
            same_data(&record, &data.splits, &path)?;
        }
        return Ok(Start::Done(Box::new(record)));
    }
    let (data, mut caveats) = check(context, &resolved, tell)?;
    let exists = path.join("config.toml").is_file();
    let folder = match (exists, resume) {
        (true, true) => RunFolder::open(&path)?,
        (true, false) => {
            RunFolder::open(&path)?; // in use by another process: says so
            bail!(
                "an unfinished run of this configuration is in `{}`; continue it with --resume, or choose another \
                 folder with --out",
                path.display()
            )
        }
        (false, _) => RunFolder::create(&path)?,
    };
    let fingerprint = fingerprint(&data.splits);
    let files = content(data.splits.all());
    let earlier = exists.then(|| folder.read_record().ok()).flatten();
    if let Some(earlier) = &earlier {
        same_data(earlier, &data.splits, &path)?;
        // A damaged image may have been repaired meanwhile.
        let other = earlier.data.as_ref().is_some_and(|data| *data != files);
        if other || earlier.notes.iter().any(|note| note == OTHER_FILES) {
            caveats.push(OTHER_FILES.into());
        }
    }
    let text = resolved.config.to_toml()?;
    // A run that is continued may have other paths, and other values of settings that do not change its result.
    if !exists || std::fs::read_to_string(folder.config()).ok().as_ref() != Some(&text) {
        write_atomic(&folder.config(), text.as_bytes())?;
    }
    let task_hash = match &resolved.manifest {
        Some(manifest) => {
            let name = resolved.config.run.task_source().unwrap_or_else(|| manifest.name.clone());
            let file = context.library.file_in_folder("task", &name, "tasks", "task.toml")?;
            Some(task_hash(&file.text, &file.origin)?)
        }
        None => None,
    };
    Ok(Start::Ready(Box::new(PreparedRun {
        resolved,
        data,
        task_hash,
        fingerprint,
        files,
        folder,
        resume,
        earlier,
        caveats,
    })))
}

/// Indexes the data of a request and makes every check that needs no folder; returns the data, and what the record has to say of
/// the run.
///
/// # Errors
/// Everything for which the run could not start, or not end.
pub(super) fn check(
    context: &RunContext,
    resolved: &Resolved,
    tell: &dyn Fn(&str),
) -> Result<(Data, Vec<String>)> {
    let data = index(context, resolved)?;
    let cut_short = resolved.init.trained.as_ref().and_then(InitTraining::cut_short);
    let cut_short = cut_short.map(|steps| format!("initial weights: {steps}"));
    let caveats: Vec<String> = data.incomplete.iter().cloned().chain(cut_short).collect();
    data.notes.iter().chain(&caveats).for_each(|note| tell(note));
    // The training loop would also fail, but only after the folder is locked.
    let (recipe, images) = (&resolved.config.recipe, data.splits.train.len());
    match &data.task {
        Some(task) => task.check_batches(recipe, images)?,
        None => Plan::check(recipe, images, 1)?,
    }
    ensure!(
        recipe.early_stop.is_none()
            || data.task.is_none()
            || !data.splits.select.is_empty()
            || resolved.config.run.report == Reported::Select,
        "early_stop: this task has no split for choosing (`select` in its `[splits]`), and the reported split must not decide when \
         training ends; add one, or remove early_stop"
    );
    if data.task.as_ref().is_none_or(|task| !task.fits()) {
        left_over(recipe, images).iter().for_each(|remark| tell(remark));
    }
    resolved.inputs(context, &data.splits).check_operations()?;
    if let (Some(task), Some(manifest)) = (&data.task, &resolved.manifest) {
        let (components, model) = (context.registry.components(), &resolved.config.model);
        task.check_protocol(&manifest.eval, components, model, &data.splits.eval)?;
        let scored = data.splits.eval.iter().chain(data.splits.select.iter());
        readable(scored, resolved.config.model.channels).map_err(anyhow::Error::msg)?;
    }
    Ok((data, caveats))
}

/// How many images an epoch leaves over, if they are many.
fn left_over(recipe: &Recipe, images: usize) -> Option<String> {
    let plan = Plan::new(recipe, images).ok()?;
    let dropped = images - plan.steps_per_epoch * plan.batch;
    let steps = if plan.steps_per_epoch == 1 { "step" } else { "steps" };
    let remark = || {
        format!(
            "{images} images at batch {}: {} {steps} an epoch, {dropped} images left over (others in each epoch); a smaller \
             --batch-size uses more of them",
            plan.batch, plan.steps_per_epoch
        )
    };
    (dropped * MOST_DROPPED > images).then(remark)
}

/// What a record states of the images and annotations of a run.
fn fingerprint(splits: &IndexedSplits) -> String {
    Dataset::fingerprint(splits.all())
}

/// Checks that a run in `path` has the data of `record`, which an earlier start of it left there.
fn same_data(record: &RunRecord, splits: &IndexedSplits, path: &Path) -> Result<()> {
    ensure!(
        record.dataset_fingerprint == fingerprint(splits),
        "the images or annotations of `{}` are not those of the run in `{}`; use the same data, or start a new run in \
         another folder with --out",
        record.dataset,
        path.display()
    );
    Ok(())
}

/// Checks that a run in `path` has the evaluation protocol of `record`, which an earlier start of it left there.
fn same_task(record: &RunRecord, resolved: &Resolved, path: &Path) -> Result<()> {
    let (Some(version), Some(manifest)) = (record.task_version, &resolved.manifest) else { return Ok(()) };
    ensure!(
        version == manifest.version,
        "task `{}` has version {} now, and the run in `{}` has version {version}; start a new run in another folder with \
         --out, or evaluate the weights again with `bench eval`",
        manifest.name,
        manifest.version,
        path.display()
    );
    Ok(())
}

/// The record of the run in `path`, if there is one; a run with another configuration is an error.
fn earlier(path: &Path, wanted: &RunConfig) -> Result<Option<RunRecord>> {
    let folder = RunFolder::at(path);
    if folder.config().is_file() {
        let config: RunConfig = read(&folder.config())?;
        if config.hash()? != wanted.hash()? {
            let mut keys = config.differences(wanted)?;
            let more = if keys.len() > DIFFERENCES { ", …" } else { "" };
            keys.truncate(DIFFERENCES);
            bail!(
                "`{}` holds another run (other values of {}{more}); choose another folder with --out",
                path.display(),
                keys.join(", ")
            );
        }
    }
    Ok(if folder.record().is_file() { Some(folder.read_record()?) } else { None })
}
