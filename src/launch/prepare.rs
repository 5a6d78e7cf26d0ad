//! The checks before a run: data there and readable as the task wants it, folder free. Nothing is written before
//! the last of them has passed.

use super::{Request, Resolved, Site, resolve};
use crate::config::{ReconstructionTarget, RunConfig, Stage, read};
use crate::data::{Dataset, DatasetInfo, Entry, Index};
use crate::record::{InitTraining, RunFolder, RunRecord, Status, write_atomic};
use crate::registry::AnyTask;
use crate::task::Manifest;
use anyhow::{Result, bail, ensure};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Keys that a message about another run names.
const DIFFERENCES: usize = 5;

/// A run that can start, in a folder that it holds.
pub struct Prepared {
    pub config: RunConfig,
    pub manifest: Option<Manifest>,
    pub task: Option<AnyTask>,
    pub task_hash: Option<String>,
    pub train: Arc<Vec<Entry>>,
    pub eval: Arc<Vec<Entry>>,
    pub fingerprint: String,
    pub init: Option<PathBuf>,
    pub init_run: Option<String>,
    /// What the initial weights were trained to predict.
    pub init_target: Option<ReconstructionTarget>,
    pub init_trained: Option<InitTraining>,
    pub tokenizer: Option<PathBuf>,
    pub folder: RunFolder,
    pub resume: bool,
    /// The record of this run up to now, where it goes on.
    pub earlier: Option<RunRecord>,
    /// What weakens its numbers from the start: incomplete data, weights whose training was cut short.
    pub caveats: Vec<String>,
}

/// What a request comes to.
pub enum Start {
    Ready(Box<Prepared>),
    /// A finished run of the same configuration.
    Done(Box<RunRecord>),
}

/// The data of a run.
pub struct Data {
    pub task: Option<AnyTask>,
    pub train: Arc<Vec<Entry>>,
    pub eval: Arc<Vec<Entry>>,
    /// What a user might not expect of the folders: files that are ignored.
    pub notes: Vec<String>,
    /// Splits that do not have the images that their manifest counts.
    pub incomplete: Vec<String>,
}

/// Finds and reads the index of the data, and makes the task that reads it.
pub fn index(site: &Site, resolved: &Resolved) -> Result<Data> {
    let Resolved { config, manifest, dataset, .. } = resolved;
    let root = dataset.root(config.run.data.as_deref(), site.bench_data.as_deref())?;
    let ignored = |split: &str, index: &Index| {
        let (images, ignored) = (index.entries.len(), &index.ignored);
        let note = || format!("data set `{}`, split `{split}`: {images} images; {ignored}", dataset.name);
        (!ignored.is_empty()).then(note)
    };
    let incomplete = |split: &str, index: &Index| {
        let expected = dataset.splits.get(split)?.count?;
        let images = index.entries.len();
        (images != expected)
            .then(|| format!("split `{split}` has {images} images, the manifest says {expected}"))
    };
    let train = dataset.index(&root, &config.run.split)?;
    let mut missing = Vec::from_iter(incomplete(&config.run.split, &train));
    let mut notes = Vec::from_iter(ignored(&config.run.split, &train));
    let Some(manifest) = manifest else {
        let (train, eval) = (Arc::new(train.entries), Arc::default());
        return Ok(Data { task: None, train, eval, notes, incomplete: missing });
    };
    let info = dataset.info(&train);
    let task = task(site, config, manifest, &info)?;
    let eval = dataset.index(&root, &manifest.splits.eval)?;
    let found = dataset.info(&eval);
    ensure!(
        info.classes == found.classes,
        "data set `{}`: the classes of split `{}` are not those of `{}`",
        dataset.name,
        manifest.splits.eval,
        config.run.split
    );
    task.check(&config.run.split, &train.entries)?;
    task.check(&manifest.splits.eval, &eval.entries)?;
    notes.extend(ignored(&manifest.splits.eval, &eval));
    missing.extend(incomplete(&manifest.splits.eval, &eval));
    let (train, eval) = (Arc::new(train.entries), Arc::new(eval.entries));
    Ok(Data { task: Some(task), train, eval, notes, incomplete: missing })
}

fn task(site: &Site, config: &RunConfig, manifest: &Manifest, info: &DatasetInfo) -> Result<AnyTask> {
    let training = config.recipe.transfer.as_ref().map(|transfer| transfer.head.clone()).unwrap_or_default();
    site.registry.task(manifest, &training, info)
}

/// Resolves and checks a request, and takes the folder of the run. Writes `config.toml`.
///
/// # Errors
/// Everything that is wrong with a request: the exit code of the program is then 2.
pub fn prepare(
    site: &Site,
    stage: Stage,
    request: &Request,
    out: Option<&Path>,
    resume: bool,
    tell: &dyn Fn(&str),
) -> Result<Start> {
    let resolved = resolve(site, stage, request)?;
    resolved.notes.iter().for_each(|note| tell(note));
    let path = match out {
        Some(path) => path.to_path_buf(),
        None => site.store.path(&resolved.config.id()?),
    };
    if let Some(record) = earlier(&path, &resolved.config)?
        && record.status == Status::Finished
    {
        return Ok(Start::Done(Box::new(record)));
    }
    let data = index(site, &resolved)?;
    let cut_short = resolved.init_trained.as_ref().and_then(InitTraining::cut_short);
    let cut_short = cut_short.map(|steps| format!("initial weights: {steps}"));
    let caveats: Vec<String> = data.incomplete.iter().cloned().chain(cut_short).collect();
    data.notes.iter().chain(&caveats).for_each(|note| tell(note));
    // The loop would refuse too, but only after the folder is taken.
    crate::engine::Plan::new(&resolved.config.recipe, data.train.len())?;
    let exists = path.join("config.toml").is_file();
    let folder = match (exists, resume) {
        (true, true) => RunFolder::open(&path)?,
        (true, false) => {
            RunFolder::open(&path)?; // in use by another process: says so
            bail!(
                "an unfinished run of this configuration lies in `{}`; continue it with --resume, or choose another \
                 folder with --out",
                path.display()
            )
        }
        (false, _) => RunFolder::create(&path)?,
    };
    let fingerprint = Dataset::fingerprint(&[data.train.as_slice(), data.eval.as_slice()].concat());
    let earlier = exists.then(|| folder.read_record().ok()).flatten();
    if let Some(earlier) = &earlier {
        ensure!(
            earlier.dataset_fingerprint == fingerprint,
            "the images or annotations of `{}` are not those with which the run in `{}` began; give it the same data, or \
             begin anew in another folder with --out",
            earlier.dataset,
            path.display()
        );
    }
    if !exists {
        write_atomic(&folder.config(), resolved.config.to_toml()?.as_bytes())?;
    }
    let task_hash = match &resolved.manifest {
        Some(manifest) => {
            let (text, _) = site.library.text(&format!("tasks/{}/task.toml", manifest.name))?;
            Some(blake3::hash(text.as_bytes()).to_hex().to_string())
        }
        None => None,
    };
    Ok(Start::Ready(Box::new(Prepared {
        config: resolved.config,
        manifest: resolved.manifest,
        task: data.task,
        task_hash,
        train: data.train,
        eval: data.eval,
        fingerprint,
        init: resolved.init,
        init_run: resolved.init_run,
        init_target: resolved.init_target,
        init_trained: resolved.init_trained,
        tokenizer: resolved.tokenizer,
        folder,
        resume,
        earlier,
        caveats,
    })))
}

/// The record of the run in `path`, where there is one; a run of another configuration is an error.
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
