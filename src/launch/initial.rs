//! Initial weights: what `--init` names, what is known of it, and whether it fits.

use super::Site;
use crate::config::{
    Catalogue, Choice, ConfigError, Library, ModelConfig, Normalize, Pretrain, ReconstructionTarget,
    RunConfig, SCRATCH, Stage, read,
};
use crate::data::augment::Augmentations;
use crate::record::{InitTraining, RunFolder, Status};
use crate::weights::{HUB, HfConfig, HubFile, InferredVit, WeightFile, notes, weights_in};
use anyhow::{Context, Result, anyhow, bail, ensure};
use std::path::{Path, PathBuf};

/// The flag that names them.
pub(super) const INIT: &str = "--init";

/// Initial weights.
pub(super) struct Initial {
    pub source: String,
    pub label: String,
    pub path: Option<PathBuf>,
    pub run: Option<String>,
    /// Configuration of the run that made them.
    pub config: Option<PathBuf>,
    /// The model that the catalogue names.
    pub model: Option<String>,
    pub target: Option<ReconstructionTarget>,
    /// How the run that made them was trained.
    pub trained: Option<InitTraining>,
    /// Statistics of the inputs that they have seen, where the catalogue names them.
    pub normalize: Option<Normalize>,
}

impl Initial {
    pub fn scratch() -> Self {
        Self::labelled(SCRATCH.into(), SCRATCH.into())
    }

    /// Weights of which nothing else is known yet.
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
            normalize: None,
        }
    }

    fn of_run(folder: &RunFolder, source: String) -> Result<Self> {
        let id = folder.id();
        let config: RunConfig = read(&folder.config())?;
        ensure!(
            folder.weights().is_file(),
            "run `{id}` has no weights yet (`{}`); finish it first",
            folder.weights().display()
        );
        Ok(Self {
            path: Some(folder.weights()),
            run: Some(id),
            config: Some(folder.config()),
            target: config.recipe.pretrain.as_ref().and_then(Pretrain::target),
            trained: folder.read_record().ok().map(|record| InitTraining::of(&record)),
            ..Self::labelled(source, config.recipe.label.unwrap_or(config.run.recipe))
        })
    }

    /// ε of layer norms, where a `config.json` of transformers beside the weights says it.
    pub fn norm_eps(&self, model: &ModelConfig) -> Result<Option<f64>> {
        let Some(path) = &self.path else { return Ok(None) };
        let Some(described) = HfConfig::beside(path)? else { return Ok(None) };
        described.eps_for(model).map_err(|reason| anyhow!("weights `{}`: {reason}", path.display()))
    }

    pub fn hash(&self) -> Result<Option<String>> {
        Ok(self.path.as_ref().map(|path| WeightFile::open(path).map(|file| file.hash())).transpose()?)
    }

    /// Name and sizes of the model that the weights belong to, where they say so.
    pub fn model(&self, library: &Library) -> Result<Option<(String, ModelConfig)>> {
        if let Some(path) = &self.config {
            let config: RunConfig = read(path)?;
            return Ok(Some((config.run.model, config.model)));
        }
        let Some(path) = &self.path else { return Ok(None) };
        let file = WeightFile::open(path)?;
        match (file.metadata().get(notes::MODEL_NAME), file.model()?) {
            (Some(name), Some(model)) => Ok(Some((name.clone(), model))),
            _ => match &self.model {
                Some(name) => Ok(Some((
                    name.clone(),
                    Choice { library, overrides: &[], owner: &Augmentations::builtin() }.model(name, None)?,
                ))),
                None => Ok(None),
            },
        }
    }
}

/// The weights that `--init` names, or the obvious ones.
pub(super) fn initial(
    site: &Site,
    stage: Stage,
    init: Option<&str>,
    notes: &mut Vec<String>,
) -> Result<Initial> {
    match (init, stage) {
        (Some(SCRATCH), _) | (None, Stage::Pretrain) => Ok(Initial::scratch()),
        (Some(name), _) => find(site, INIT, name),
        (None, Stage::Transfer) => {
            let newest = site.store.newest_finished(Stage::Pretrain.as_str(), |_| true)?;
            let Some(record) = newest else {
                bail!(
                    "which weights? There is no finished pre-training run in `{}`. Give --init scratch, a run, or a \
                     weights file, or run `bench pretrain` first",
                    site.store.root().display()
                )
            };
            notes.push(format!("--init {}: the newest finished pre-training run", record.id));
            Initial::of_run(&site.store.find(&record.id)?, record.id)
        }
    }
}

/// The weights file that a run id, a run's folder or a path names; errors call it by the flag or argument `key`.
pub fn find_weights(site: &Site, key: &str, name: &str) -> Result<PathBuf> {
    find(site, key, name)?.path.with_context(|| format!("`{name}` has no weights"))
}

/// What `name`, which follows `key`, names.
pub(super) fn find(site: &Site, key: &str, name: &str) -> Result<Initial> {
    if name.starts_with(HUB) {
        let found = site.fetch(&HubFile::parse(name)?)?;
        let source = found.reference.to_string();
        let initial = match Catalogue::load(site.library)?.find(&found.reference.repository()) {
            Some(known) => Initial {
                model: known.model.clone(),
                target: known.target,
                normalize: known.normalize.clone(),
                ..Initial::labelled(source, known.init.clone())
            },
            None => Initial::labelled(source, found.reference.name.replace('.', "_")),
        };
        return Ok(Initial { path: Some(found.path), ..initial });
    }
    let path = Path::new(name);
    if path.is_dir() {
        let (folder, weights) = (RunFolder::at(path), weights_in(path));
        if folder.config().is_file() {
            return Initial::of_run(&folder, name.into());
        }
        ensure!(
            weights.is_file(),
            "{key} {name}: the folder is neither that of a run (no config.toml) nor of weights (no model.safetensors, no index \
             of one)"
        );
        let label = path.file_name().unwrap_or_default().to_string_lossy().replace('.', "_");
        return Ok(Initial { path: Some(weights), ..Initial::labelled(name.into(), label) });
    }
    if path.is_file() {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().replace('.', "_");
        return Ok(Initial {
            path: Some(path.into()),
            run: WeightFile::open(path)?.metadata().get(notes::RUN).cloned(),
            ..Initial::labelled(name.into(), stem)
        });
    }
    let folder = site.store.find(name).map_err(|e| {
        let scratch = if key == INIT { "`scratch`, nor " } else { "" };
        ConfigError::new(
            format!("{key} {name}"),
            format!("neither {scratch}a file or folder, nor a run: {e}"),
        )
    })?;
    if folder.record().is_file() {
        let record = folder.read_record()?;
        let usable = matches!(record.status, Status::Finished | Status::Truncated);
        ensure!(usable, "run `{}` is not finished; continue it with --resume", record.id);
    }
    Initial::of_run(&folder, folder.id())
}

/// Compares the sizes that the names in a file reveal with those of the model.
pub(super) fn fits(library: &Library, path: &Path, name: &str, model: &ModelConfig) -> Result<()> {
    let file = WeightFile::open(path)?;
    let Some(guess) = InferredVit::of(file.entries()) else { return Ok(()) }; // loading says what they are
    // Patches of another size are resized.
    let found = [guess.width, guess.depth, guess.channels, guess.registers];
    let expected = [model.width, model.depth, model.channels, model.registers];
    if found == expected {
        return Ok(());
    }
    let hint = match fitting_models(library, &guess)?.as_slice() {
        names if names.is_empty() || names.iter().any(|fitting| fitting == name) => String::new(),
        names => format!(". Give --model {}", names.join(" or ")),
    };
    bail!(
        "weights `{}` are those of another model: {guess}; `{name}` is {} wide, {} deep, patch {}, {} channels, \
         {} registers{hint}",
        path.display(),
        model.width,
        model.depth,
        model.patch,
        model.channels,
        model.registers
    )
}

/// Models of the library that have the sizes `guess`.
pub fn fitting_models(library: &Library, guess: &InferredVit) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for name in library.list("configs/models") {
        let model =
            Choice { library, overrides: &[], owner: &Augmentations::builtin() }.model(&name, None)?;
        let sizes = (model.width, model.depth, model.patch, model.channels, model.absolute_positions);
        if sizes == (guess.width, guess.depth, guess.patch, guess.channels, guess.positions > 0) {
            found.push(name);
        }
    }
    Ok(found)
}
