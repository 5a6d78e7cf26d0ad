//! Initial weights: finds the weights that `--init` names, and checks that they fit the model.

use super::{RunContext, newest_pretraining};
use crate::config::{
    Catalogue, Choice, KnownBackbone, MlpKind, ModelConfig, Normalize, ReconstructionTarget, RunConfig,
    SCRATCH, Stage, VIT, read,
};
use crate::record::{InitTraining, RunFolder, Status, StoreError};
use crate::weights::{
    HUB, HfConfig, HubError, HubFile, InferredVit, WeightFile, metadata, split_state_dict, weight_files,
    weights_in, with_state_dict,
};
use anyhow::{Context, Result, anyhow, bail, ensure};
use std::path::{Path, PathBuf};

/// The flag that names the initial weights.
pub(super) const INIT: &str = "--init";

/// Weights that are not there, or not yet.
#[derive(Debug, thiserror::Error)]
pub enum NoWeights {
    /// The name means nothing.
    #[error("{key} {name}: neither {scratch}a file or folder, nor a run in `{}`{nearest}", root.display())]
    Unknown {
        /// The flag or argument that names the weights.
        key: String,
        /// What it says.
        name: String,
        /// Mentions `scratch` where it is allowed.
        scratch: &'static str,
        /// Folder of all runs.
        root: PathBuf,
        /// Similar ids of runs, as the end of the message.
        nearest: String,
    },
    /// A path at which nothing is.
    #[error("{key} {name}: no such file or folder{hint}")]
    NoFile {
        /// The flag or argument that names the weights.
        key: String,
        /// What it says.
        name: String,
        /// What may have been meant.
        hint: String,
    },
    /// A run that has not written weights.
    #[error("run `{id}` has no weights yet (`{}`); finish it first", path.display())]
    Unwritten {
        /// Id of the run.
        id: String,
        /// The file that it will write.
        path: PathBuf,
    },
    /// A run that is not finished.
    #[error("run `{id}` is not finished; continue it with --resume")]
    Unfinished {
        /// Id of the run.
        id: String,
    },
}

/// Whether `error` says that weights can exist later although they do not exist now: a run is not finished, the Hub does
/// not answer, or a file is not there. A name that has no extension is not the name of a file.
pub(super) fn can_be_awaited(error: &anyhow::Error) -> bool {
    match (error.downcast_ref(), error.downcast_ref()) {
        (Some(NoWeights::Unknown { .. }), _) => false,
        (Some(NoWeights::NoFile { key, name, .. }), _) => {
            key != INIT && Path::new(name).extension().is_some()
        }
        (Some(_), _) => true,
        (_, Some(HubError::Reference { .. } | HubError::Client(_))) => false,
        (_, hub) => hub.is_some(),
    }
}

/// Initial weights: their file and what is known about them.
pub struct InitialWeights {
    /// The value of `--init`: `scratch`, a run, a file or a reference to the Hub.
    pub source: String,
    /// A short label for tables.
    pub label: String,
    /// The file; `None` for random weights.
    pub path: Option<PathBuf>,
    /// The run that trained them.
    pub run: Option<String>,
    /// Configuration of the run that trained them.
    pub config: Option<PathBuf>,
    /// The model that the catalogue gives for them.
    pub model: Option<String>,
    /// The target of their pre-training, if known.
    pub target: Option<ReconstructionTarget>,
    /// The training summary of the run that trained them.
    pub trained: Option<InitTraining>,
    /// Seed of the run that trained them, if it has a record.
    pub seed: Option<u64>,
    /// blake3 of the file by the record of the run that trained them.
    pub recorded: Option<String>,
    /// Normalization of their training images, if the catalogue gives it.
    pub normalize: Option<Normalize>,
}

impl InitialWeights {
    /// Random weights.
    pub fn scratch() -> Self {
        Self::labelled(SCRATCH.into(), SCRATCH.into())
    }

    /// Weights about which nothing else is known yet.
    fn labelled(source: String, label: String) -> Self {
        Self {
            source,
            label,
            path: None,
            run: None,
            config: None,
            model: None,
            target: None,
            trained: None,
            seed: None,
            recorded: None,
            normalize: None,
        }
    }

    /// Weights of the catalogue.
    fn known(source: String, known: &KnownBackbone) -> Self {
        Self {
            model: known.model.clone(),
            target: known.target,
            normalize: known.normalize.clone(),
            ..Self::labelled(source, known.init.clone())
        }
    }

    pub(super) fn of_run(context: &RunContext, folder: &RunFolder, source: String) -> Result<Self> {
        let id = folder.id();
        let config: RunConfig = read(&folder.config())?;
        ensure!(folder.weights().is_file(), NoWeights::Unwritten { id, path: folder.weights() });
        let objectives = &context.registry.components().objectives;
        let table = config.recipe.pretrain.as_ref();
        let facts = table.map(|table| objectives.facts(table, &config.model)).transpose()?;
        let target = facts.and_then(|facts| facts.target);
        let record = folder.record().is_file().then(|| folder.read_record()).transpose()?;
        Ok(Self {
            path: Some(folder.weights()),
            run: Some(id),
            config: Some(folder.config()),
            target,
            trained: record.as_ref().map(InitTraining::of),
            seed: record.as_ref().map(|record| record.seed),
            recorded: record.and_then(|record| record.weights_hash),
            ..Self::labelled(source, config.recipe.label.unwrap_or(config.run.recipe))
        })
    }

    /// ε of layer norms, if a `config.json` of transformers next to the weights gives it.
    pub fn norm_eps(&self, model: &ModelConfig) -> Result<Option<f64>> {
        let Some(path) = &self.path else { return Ok(None) };
        let Some(described) = HfConfig::beside(path)? else { return Ok(None) };
        described.eps_for(model).map_err(|reason| anyhow!("weights `{}`: {reason}", path.display()))
    }

    /// blake3 of the file in hexadecimal; `None` for random weights.
    ///
    /// # Errors
    /// A file that cannot be read, or that is not the one which the record of its run describes.
    pub fn hash(&self) -> Result<Option<String>> {
        let Some(path) = &self.path else { return Ok(None) };
        let hash = WeightFile::open(path)?.hash();
        if let Some(recorded) = self.recorded.as_ref().filter(|recorded| **recorded != hash) {
            bail!(
                "`{}` is not the file of weights that the record of run `{}` describes: its blake3 hash is {}…, not {}…. Make \
                 the run again, or name the file by its path to take it as it is",
                path.display(),
                self.run.as_deref().unwrap_or(&self.source),
                &hash[..8],
                recorded.get(..8).unwrap_or(recorded)
            );
        }
        Ok(Some(hash))
    }

    /// Name and sizes of the model to which the weights belong, if the weights contain them.
    pub fn model(&self, choice: &Choice) -> Result<Option<(String, ModelConfig)>> {
        if let Some(path) = &self.config {
            let config: RunConfig = read(path)?;
            return Ok(Some((config.run.model, config.model)));
        }
        let Some(path) = &self.path else { return Ok(None) };
        let file = WeightFile::open(path)?;
        match (file.metadata().get(metadata::MODEL_NAME), file.model()?) {
            (Some(name), Some(model)) => Ok(Some((name.clone(), model))),
            _ => match &self.model {
                Some(name) => {
                    let plain = Choice { overrides: &[], ..*choice };
                    Ok(Some((name.clone(), plain.model(name, None)?)))
                }
                None => Ok(None),
            },
        }
    }
}

/// The weights that `--init` names or, without the flag, the newest finished pre-training run.
pub(super) fn initial(
    context: &RunContext,
    stage: Stage,
    init: Option<&str>,
    notes: &mut Vec<String>,
) -> Result<InitialWeights> {
    match (init, stage) {
        (Some(SCRATCH), _) | (None, Stage::Pretrain) => Ok(InitialWeights::scratch()),
        (Some(name), _) => find(context, INIT, name),
        (None, Stage::Transfer) => {
            let Some(record) = newest_pretraining(context)? else {
                bail!(
                    "which weights? There is no finished pre-training of a backbone in `{}`. Give --init scratch, a run, or a \
                     weights file, or run `bench pretrain` first",
                    context.store.root().display()
                )
            };
            notes.push(format!("--init {}: the newest finished pre-training run", record.id));
            InitialWeights::of_run(context, &context.store.find(&record.id)?, record.id)
        }
    }
}

/// The weights file that a run id, a run's folder or a path names; errors call it by the flag or argument `key`.
pub fn find_weights(context: &RunContext, key: &str, name: &str) -> Result<PathBuf> {
    find(context, key, name)?.path.with_context(|| format!("`{name}` has no weights"))
}

/// The weights that `name` refers to; errors call it by the flag or argument `key`.
pub(super) fn find(context: &RunContext, key: &str, name: &str) -> Result<InitialWeights> {
    let (place, key_of_dict) = split_state_dict(name);
    if name.starts_with(HUB) {
        let found = context.fetch(&HubFile::parse(place)?)?;
        let source =
            with_state_dict(Path::new(&found.reference.to_string()), key_of_dict).display().to_string();
        let initial = match Catalogue::load(context.library)?.find(&found.reference.repository()) {
            Some(known) => InitialWeights::known(source, known),
            None => InitialWeights::labelled(source, found.reference.name.replace('.', "_")),
        };
        return Ok(InitialWeights { path: Some(with_state_dict(&found.path, key_of_dict)), ..initial });
    }
    let path = Path::new(place);
    if path.is_dir() {
        let folder = RunFolder::at(path);
        if folder.config().is_file() && key_of_dict.is_none() {
            return InitialWeights::of_run(context, &folder, name.into());
        }
        let Some(weights) = weights_in(path) else {
            bail!(
                "{key} {name}: the folder contains neither a run (no config.toml) nor weights ({})",
                weight_files(path)
            )
        };
        let weights = with_state_dict(&weights, key_of_dict);
        let label = path.file_name().unwrap_or_default().to_string_lossy().replace('.', "_");
        return Ok(InitialWeights { path: Some(weights), ..InitialWeights::labelled(name.into(), label) });
    }
    if path.is_file() || path.is_symlink() {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().replace('.', "_");
        let stem = key_of_dict.map_or(stem.clone(), |key| format!("{stem}_{}", key.replace('.', "_")));
        let file_name = path.file_name().unwrap_or_default().to_string_lossy();
        let path = with_state_dict(path, key_of_dict);
        let file = WeightFile::open(&path)?;
        let catalogue = Catalogue::load(context.library)?;
        let known = catalogue.find_file(&file_name, file.source_program()).filter(|_| key_of_dict.is_none());
        let initial = match known {
            Some(known) => InitialWeights::known(name.into(), known),
            None => InitialWeights::labelled(name.into(), stem),
        };
        let run = file.metadata().get(metadata::RUN).cloned();
        return Ok(InitialWeights { path: Some(path), run, ..initial });
    }
    let folder = context.store.find(name).map_err(|error| match error {
        StoreError::Unknown { .. } if looks_like_a_path(name) => anyhow!(missing_path(key, name)),
        StoreError::Unknown { root, known, .. } => {
            let scratch = if key == INIT { "`scratch`, nor " } else { "" };
            let (key, name) = (key.into(), name.into());
            anyhow!(NoWeights::Unknown { key, name, scratch, root, nearest: known })
        }
        error => anyhow!(error).context(format!("{key} {name}")),
    })?;
    if folder.record().is_file() {
        let record = folder.read_record()?;
        let usable = matches!(record.status, Status::Finished | Status::Truncated);
        // Trained weights whose scores could not be computed can be evaluated, but not be trained from.
        let trained = key != INIT && record.weights_hash.is_some();
        ensure!(usable || trained, NoWeights::Unfinished { id: record.id });
    }
    InitialWeights::of_run(context, &folder, folder.id())
}

/// Whether a name that is no run was meant as a path: it has folders, or the ending of a file.
fn looks_like_a_path(name: &str) -> bool {
    let endings = ["bin", "ckpt", "npz", "pkl", "pt", "pth", "safetensors"];
    let ending = Path::new(name).extension().and_then(|ending| ending.to_str());
    name.contains(['/', '\\'])
        || ending.is_some_and(|ending| endings.contains(&ending.to_lowercase().as_str()))
}

/// Says that there is no file; `owner/name` may be a repository of the Hub.
fn missing_path(key: &str, name: &str) -> NoWeights {
    let repository = name.split('/').count() == 2
        && !name.starts_with(['.', '/', '~'])
        && !Path::new(name).parent().is_some_and(Path::is_dir);
    let hint = if repository {
        format!("; for a repository of the Hugging Face Hub write {HUB}{name}")
    } else {
        String::new()
    };
    NoWeights::NoFile { key: key.into(), name: name.into(), hint }
}

/// Compares the sizes implied by the tensors of a file with those of the model.
pub(super) fn fits(choice: &Choice, path: &Path, name: &str, model: &ModelConfig) -> Result<()> {
    if model.backbone != VIT {
        return Ok(());
    }
    let file = WeightFile::open(path)?;
    file.check_usable()?;
    let Some(guess) = InferredVit::of(file.entries()) else { return Ok(()) }; // loading reports them
    // Patches of another size are resized.
    let found = [guess.width, guess.depth, guess.channels, guess.registers];
    let expected = [model.width, model.depth, model.channels, model.registers];
    let gated = model.mlp == MlpKind::Swiglu;
    if found == expected && gated == guess.gated {
        return Ok(());
    }
    let hint = match fitting_models(choice, &guess)?.as_slice() {
        names if names.is_empty() || names.iter().any(|fitting| fitting == name) => String::new(),
        names => format!(". Give --model {}", names.join(" or ")),
    };
    bail!(
        "weights `{}` belong to another model: {guess}; `{name}` is {} wide, {} deep, patch {}, {} channels, \
         {} registers, {}{hint}",
        path.display(),
        model.width,
        model.depth,
        model.patch,
        model.channels,
        model.registers,
        if gated { "SwiGLU" } else { "GELU" }
    )
}

/// Models of the library that have the sizes `guess`.
pub fn fitting_models(choice: &Choice, guess: &InferredVit) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let choice = Choice { overrides: &[], ..*choice };
    for name in choice.library.list("configs/models") {
        let model = choice.model(&name, None)?;
        let sizes = [model.width, model.depth, model.patch, model.channels, model.registers];
        let kinds = (model.absolute_positions, model.mlp == MlpKind::Swiglu, model.rope_base.is_some());
        if model.backbone == VIT
            && sizes == [guess.width, guess.depth, guess.patch, guess.channels, guess.registers]
            && kinds == (guess.positions > 0, guess.gated, guess.rotary)
        {
            found.push(name);
        }
    }
    Ok(found)
}
