//! What is asked for, and what it resolves to: defaults are chosen here, in one place.

use super::initial::{INIT, InitialWeights, find, fits, initial};
use super::{RunContext, default_dtype};
use crate::config::{
    ConfigError, Dtype, Library, ModelConfig, Owners, Recipe, Run, RunConfig, SCRATCH, Stage, Tune, read,
};
use crate::data::Dataset;
use crate::engine::{IndexedSplits, RunInputs};
use crate::pretrain::TokenizerUse;
use crate::task::Manifest;
use anyhow::{Result, bail, ensure};
use std::path::{Path, PathBuf};

/// Pre-trains on this data set when nothing else is said.
const DATASET: &str = "imagenet";
/// Pre-trains by this recipe when nothing else is said.
const PRETRAIN_RECIPE: &str = "mae_800";
/// The model when neither the recipe nor the initial weights name one.
const MODEL: &str = "vit_b16";
/// `dataset` of a run on a folder of images that has no manifest.
const FOLDER: &str = "folder";

/// What the flags of the command line, or a line of a suite, ask for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Request {
    /// A resolved configuration to repeat; everything else is then taken from it, but `data`, `seed` and `set`.
    pub config: Option<PathBuf>,
    /// Name or path of the task.
    pub task: Option<String>,
    /// Name or path of the data set, for pre-training without a task.
    pub dataset: Option<String>,
    /// Name or path of the model.
    pub model: Option<String>,
    /// Name or path of the recipe.
    pub recipe: Option<String>,
    /// `scratch`, a run id or folder, a weights file, or `hub:owner/name` of the Hugging Face Hub.
    pub init: Option<String>,
    /// Root of the data set.
    pub data: Option<PathBuf>,
    /// That of `config`, or 0, when absent.
    pub seed: Option<u64>,
    /// That of the device when absent.
    pub dtype: Option<Dtype>,
    /// `--set KEY=VALUE` as typed.
    pub set: Vec<String>,
}

/// A request with every choice made.
pub struct Resolved {
    /// The configuration of the run.
    pub config: RunConfig,
    /// The file of the recipe, for messages.
    pub recipe_origin: String,
    /// The task of a transfer.
    pub manifest: Option<Manifest>,
    /// Where the data is described.
    pub dataset: Dataset,
    /// Initial weights.
    pub init: InitialWeights,
    /// The file that makes tokens for pre-training.
    pub tokenizer: Option<PathBuf>,
    /// Choices made for the user, worth a line on the screen.
    pub notes: Vec<String>,
}

impl Resolved {
    /// What the engine needs of this run.
    pub fn inputs<'r>(&'r self, context: &'r RunContext, splits: &'r IndexedSplits) -> RunInputs<'r> {
        let protocol = self.manifest.as_ref().map_or(&[][..], |manifest| &manifest.eval);
        RunInputs {
            init: self.init.path.as_deref(),
            tokenizer: self.tokenizer.as_deref(),
            ..context.inputs(&self.config, splits, protocol)
        }
    }
}

/// The stage that a request speaks of where the command does not say: that of its configuration; transfer for a task,
/// unless the recipe is one of pre-training; pre-training.
///
/// # Errors
/// A configuration that cannot be read.
pub fn stage_of(library: &Library, request: &Request) -> Result<Stage> {
    if let Some(path) = &request.config {
        return Ok(read::<RunConfig>(path)?.run.stage);
    }
    let folder = format!("configs/{}", Stage::Pretrain.as_str());
    let pretrains = |recipe: &String| library.list(&folder).contains(recipe);
    Ok(match &request.task {
        Some(_) if !request.recipe.as_ref().is_some_and(pretrains) => Stage::Transfer,
        _ => Stage::Pretrain,
    })
}

/// Makes every choice that the request leaves open. Reads no data.
///
/// # Errors
/// Everything that is wrong with the request, and weights that are not there.
pub fn resolve(context: &RunContext, stage: Stage, request: &Request) -> Result<Resolved> {
    match &request.config {
        Some(path) => repeat(context, stage, request, path),
        None => choose(context, stage, request, None),
    }
}

/// The same for a plan: initial weights and tokenizers need not be there yet. Returns what the run waits for, too; its
/// configuration then names random weights in their place.
///
/// # Errors
/// Everything else that is wrong with the request.
pub fn resolve_for_plan(
    context: &RunContext,
    stage: Stage,
    request: &Request,
) -> Result<(Resolved, Vec<String>)> {
    let mut missing = vec![];
    let resolved = choose(context, stage, request, Some(&mut missing))?;
    Ok((resolved, missing))
}

/// Makes every choice. Weights that are not there are an error, or noted in `missing`.
fn choose(
    context: &RunContext,
    stage: Stage,
    request: &Request,
    mut missing: Option<&mut Vec<String>>,
) -> Result<Resolved> {
    let mut notes = vec![];
    let manifest = request.task.as_deref().map(|name| context.manifest(name)).transpose()?;
    ensure!(
        manifest.is_some() || stage == Stage::Pretrain,
        "which task? Give --task; `bench task list` shows them"
    );
    let (dataset, split, dataset_path) = dataset(context, stage, request, manifest.as_ref())?;
    let recipe = match (&request.recipe, &manifest, stage) {
        (Some(recipe), ..) => recipe.clone(),
        (None, Some(manifest), Stage::Transfer) => manifest.recipe.clone(),
        _ => PRETRAIN_RECIPE.into(),
    };
    let init = match (initial(context, stage, request.init.as_deref(), &mut notes), &mut missing) {
        (Err(error), Some(missing)) => {
            missing.push(format!("{error:#}"));
            InitialWeights::scratch()
        }
        (init, _) => init?,
    };
    let choice = context.choice(&request.set);
    let task = manifest.as_ref().map_or("", |manifest| &manifest.name);
    let (model_name, base) = match (&request.model, init.model(&choice)?) {
        (Some(name), _) => (name.clone(), None),
        (None, Some((name, model))) => (name, Some(model)),
        (None, None) => {
            (choice.recipe(stage, &recipe, ("", task))?.default_model.unwrap_or_else(|| MODEL.into()), None)
        }
    };
    let mut model = choice.model(&model_name, base.as_ref())?;
    let recipe_config = choice.recipe(stage, &recipe, (&stem(&model_name), task))?;
    let given = |key: &str| request.set.iter().any(|set| set.trim_start().starts_with(key));
    let image = recipe_config.transfer.as_ref().and_then(|transfer| transfer.image);
    if let Some(image) = image.filter(|_| !given("model.image")) {
        model.image = image;
    }
    if let Some(eps) = init.norm_eps(&model)?.filter(|eps| *eps != model.norm_eps && !given("model.norm_eps"))
    {
        notes.push(format!(
            "model.norm_eps {eps:e}: config.json beside the weights, not {:e}",
            model.norm_eps
        ));
        model.norm_eps = eps;
    }
    if let Some(normalize) = init.normalize.clone().filter(|_| !given("model.normalize")) {
        if model.normalize.as_ref() != Some(&normalize) {
            notes.push(format!(
                "model.normalize mean {:?}, std {:?}: what `{}` has seen",
                normalize.mean, normalize.std, init.source
            ));
        }
        model.normalize = Some(normalize);
    }
    let tokenizer = match (tokenizer(context, &recipe_config, &model), &mut missing) {
        (Err(error), Some(missing)) => {
            missing.push(format!("{error:#}"));
            None
        }
        (tokenizer, _) => tokenizer?,
    };
    let config = RunConfig {
        run: Run {
            stage,
            task: manifest.as_ref().filter(|_| stage == Stage::Transfer).map(|m| m.name.clone()),
            dataset: request_name(request, &dataset),
            split,
            init: init.source.clone(),
            init_hash: init.hash()?,
            tokenizer_hash: tokenizer.as_ref().map(InitialWeights::hash).transpose()?.flatten(),
            init_label: init.label.clone(),
            seed: request.seed.unwrap_or_default(),
            dtype: chosen_dtype(context, request.dtype)?,
            overrides: request.set.clone(),
            task_path: path_of(request.task.as_deref(), manifest.as_ref().map(|m| &m.name)),
            dataset_path,
            data: request.data.clone(),
            recipe: stem(&recipe),
            model: stem(&model_name),
        },
        recipe: recipe_config,
        model,
    };
    if request.recipe.is_none() || request.model.is_none() {
        notes.push(format!("model {model_name}, recipe {recipe}"));
    }
    let (warmup, epochs) = (config.recipe.schedule.warmup_epochs, config.recipe.epochs);
    if warmup > 0. && warmup >= epochs as f64 {
        notes.push(format!(
            "schedule.warmup_epochs is {warmup} and epochs {epochs}: the learning rate does not reach its peak"
        ));
    }
    let manifest = manifest.filter(|_| stage == Stage::Transfer);
    let origin = context.library.file("recipe", &recipe, &format!("configs/{}", stage.as_str()))?.origin;
    finish(context, config, manifest, dataset, (init, tokenizer), (origin, notes))
}

/// The tokenizer that the objective of a recipe needs.
fn tokenizer(context: &RunContext, recipe: &Recipe, model: &ModelConfig) -> Result<Option<InitialWeights>> {
    let Some(table) = &recipe.pretrain else { return Ok(None) };
    match context.registry.components().objectives.facts(table, model)?.tokenizer {
        TokenizerUse::None => Ok(None),
        TokenizerUse::Needed(Some(name)) => find(context, "pretrain.tokenizer =", &name).map(Some),
        TokenizerUse::Needed(None) => bail!(
            "tokens are predicted, but there is no tokenizer: give --set pretrain.tokenizer=RUN, a run of a recipe \
             `dvae_*`, or the file of a dVAE"
        ),
    }
}

/// The type of matrix products: the one asked for, or that of the device.
fn chosen_dtype(context: &RunContext, asked: Option<Dtype>) -> Result<Dtype> {
    let dtype = asked.unwrap_or_else(|| default_dtype(&context.device));
    ensure!(
        dtype != Dtype::Tf32 || context.device.is_cuda(),
        "--dtype tf32 needs an NVIDIA device (--device cuda); the CPU computes in f32 and bf16"
    );
    Ok(dtype)
}

fn finish(
    context: &RunContext,
    config: RunConfig,
    manifest: Option<Manifest>,
    dataset: Dataset,
    (init, tokenizer): (InitialWeights, Option<InitialWeights>),
    (recipe_origin, notes): (String, Vec<String>),
) -> Result<Resolved> {
    config.check()?;
    let config = with_checked_model(context, config)?;
    if let Some(path) = &init.path {
        fits(&context.choice(&[]), path, &config.run.model, &config.model)?;
    }
    let tokenizer = tokenizer.and_then(|tokenizer| tokenizer.path);
    Ok(Resolved { config, recipe_origin, manifest, dataset, init, tokenizer, notes })
}

/// `config` with the options of its backbone written out: the recipe may have changed the image.
fn with_checked_model(context: &RunContext, config: RunConfig) -> Result<RunConfig, ConfigError> {
    let components = context.registry.components();
    let RunConfig { run, model, recipe } = &config;
    let place = format!("model `{}`", run.model);
    let tune = recipe.transfer.as_ref().map(|transfer| transfer.tune);
    if tune != Some(Tune::Head) && !components.backbones.trainable(model)? {
        let backbone = &model.backbone;
        let message =
            format!("{backbone} is not trainable here: only recipes with transfer.tune = \"head\" take it");
        return Err(ConfigError::new(place, message));
    }
    let model = components.model(model).map_err(|error| error.within(place))?;
    Ok(RunConfig { model, ..config })
}

/// The finished run of a `config`, which was read from `path`, for evaluating its weights: model and recipe are those of the
/// configuration, and the initial weights need not exist any more.
///
/// # Errors
/// A task or data set that is not there any more.
pub fn resolve_finished(context: &RunContext, config: RunConfig, path: &Path) -> Result<Resolved> {
    let manifest = config.run.task_source().map(|name| context.manifest(&name)).transpose()?;
    let dataset = dataset_of(context, &config.run)?;
    let (init, recipe_origin) = (InitialWeights::scratch(), path.display().to_string());
    Ok(Resolved { config, recipe_origin, manifest, dataset, init, tokenizer: None, notes: vec![] })
}

/// The data set of a run.
fn dataset_of(context: &RunContext, run: &Run) -> Result<Dataset> {
    Ok(match (run.dataset.as_str(), &run.data) {
        (FOLDER, Some(path)) => Dataset::from_folder(path)?,
        _ => context.dataset(&run.dataset_source())?,
    })
}

/// The run of a resolved configuration once more.
fn repeat(context: &RunContext, stage: Stage, request: &Request, path: &Path) -> Result<Resolved> {
    let mut config: RunConfig = read::<RunConfig>(path)?.with(&request.set, context.registry.components())?;
    config.run.seed = request.seed.unwrap_or(config.run.seed);
    chosen_dtype(context, Some(config.run.dtype))?;
    ensure!(
        config.run.stage == stage,
        "`{}` is a configuration of `bench {}`",
        path.display(),
        config.run.stage.as_str()
    );
    if request.data.is_some() {
        config.run.data = request.data.clone();
    }
    let manifest = config.run.task_source().map(|name| context.manifest(&name)).transpose()?;
    let dataset = dataset_of(context, &config.run)?;
    let mut init = InitialWeights::scratch();
    if config.run.init != SCRATCH {
        init = find(context, INIT, &config.run.init)?;
        ensure!(
            init.hash()? == config.run.init_hash,
            "`{}` has changed since `{}` was written: other initial weights",
            config.run.init,
            path.display()
        );
    }
    let tokenizer = tokenizer(context, &config.recipe, &config.model)?;
    ensure!(
        tokenizer.as_ref().map(InitialWeights::hash).transpose()?.flatten() == config.run.tokenizer_hash,
        "the tokenizer has changed since `{}` was written",
        path.display()
    );
    let origin = path.display().to_string();
    finish(context, config, manifest, dataset, (init, tokenizer), (origin, vec![]))
}

/// The data set, the split to train on, and the path of the data set where it was named by one.
fn dataset(
    context: &RunContext,
    stage: Stage,
    request: &Request,
    manifest: Option<&Manifest>,
) -> Result<(Dataset, String, Option<PathBuf>)> {
    let name = match (&request.dataset, manifest) {
        (Some(_), Some(_)) => bail!("--task and --dataset both name data: give one of them"),
        (Some(name), None) => name.clone(),
        (None, Some(manifest)) => manifest.dataset.clone(),
        (None, None) => match &request.data {
            Some(path) => return Ok((Dataset::from_folder(path)?, "train".into(), None)),
            None => DATASET.into(),
        },
    };
    let dataset = context.dataset(&name)?;
    let split = match (stage, manifest) {
        (Stage::Transfer, Some(manifest)) => manifest.splits.train.clone(),
        (_, Some(Manifest { splits, .. })) if splits.pretrain.is_some() => {
            splits.pretrain.clone().unwrap_or_default()
        }
        _ if dataset.splits.contains_key("pretrain") => "pretrain".into(),
        _ => "train".into(),
    };
    let path = path_of(Some(&name), Some(&dataset.name));
    Ok((dataset, split, path))
}

/// The path that `asked` is, where it is not just the name that the file gives itself.
fn path_of(asked: Option<&str>, name: Option<&String>) -> Option<PathBuf> {
    let path = asked.filter(|asked| name.is_some_and(|name| name != asked))?;
    Some(std::path::absolute(path).unwrap_or(path.into()))
}

/// The name of a model or recipe that may have been given by its path.
fn stem(name: &str) -> String {
    match name.strip_suffix(".toml") {
        Some(path) => Path::new(path).file_name().unwrap_or_default().to_string_lossy().into_owned(),
        None => name.into(),
    }
}

fn request_name(request: &Request, dataset: &Dataset) -> String {
    let folder = request.dataset.is_none() && request.task.is_none() && request.data.is_some();
    if folder { FOLDER.into() } else { dataset.name.clone() }
}
