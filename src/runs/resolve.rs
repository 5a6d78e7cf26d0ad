//! Resolves a request to a complete configuration; all defaults are chosen here.

use super::initial::{InitialWeights, can_be_awaited, find, fits, initial};
use super::peers::peer_model;
use super::{RunContext, command, default_dtype};
use crate::config::{
    ConfigError, Dtype, FOLDER, Library, ModelConfig, Owners, Recipe, Reported, Run, RunConfig, SCRATCH,
    Stage, Tune, read,
};
use crate::data::Dataset;
use crate::engine::{IndexedSplits, RunInputs};
use crate::pretrain::TokenizerUse;
use crate::task::Manifest;
use anyhow::{Result, bail, ensure};
use std::path::{Path, PathBuf};

/// Data set for pre-training when the request names none.
const DATASET: &str = "imagenet";
/// Recipe for pre-training when the request names none.
const PRETRAIN_RECIPE: &str = "mae_800";
/// Model when neither the request, the recipe nor the initial weights name one.
pub const DEFAULT_MODEL: &str = "vit_b16";

/// A request for a run, from the flags of the command line or from an entry of a suite.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Request {
    /// A resolved configuration to repeat; all fields except `data`, `seed` and `set` are then taken from it.
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
    /// Seed; when absent, the seed of `config`, or else 0.
    pub seed: Option<u64>,
    /// Type of matrix products; the default of the device when absent.
    pub dtype: Option<Dtype>,
    /// Which split of the task is scored; when absent, that of `config`, or else the evaluation split.
    pub report: Option<Reported>,
    /// `--set KEY=VALUE` as typed.
    pub set: Vec<String>,
    /// Whether a transfer from random weights takes the model of the other runs of its task in the folder of runs, where the request
    /// names none. A plan must not depend on the runs that are there.
    pub like_other_runs: bool,
}

/// A request with all defaults filled in.
pub struct Resolved {
    /// The configuration of the run.
    pub config: RunConfig,
    /// The path of the recipe, for messages.
    pub recipe_origin: String,
    /// The task of a transfer.
    pub manifest: Option<Manifest>,
    /// The description of the data set.
    pub dataset: Dataset,
    /// Initial weights.
    pub init: InitialWeights,
    /// The weights of the tokenizer for pre-training, if the objective needs one.
    pub tokenizer: Option<InitialWeights>,
    /// The arguments of a command line of `bench` that makes this run.
    pub command: Vec<String>,
    /// Choices made on behalf of the user, to be printed.
    pub notes: Vec<String>,
}

impl Resolved {
    /// The inputs of the engine for this run.
    pub fn inputs<'r>(&'r self, context: &'r RunContext, splits: &'r IndexedSplits) -> RunInputs<'r> {
        let protocol = self.manifest.as_ref().map_or(&[][..], |manifest| &manifest.eval);
        RunInputs {
            init: self.init.path.as_deref(),
            tokenizer: self.tokenizer.as_ref().and_then(|tokenizer| tokenizer.path.as_deref()),
            ..context.inputs(&self.config, splits, protocol)
        }
    }
}

/// The stage of a request when the command does not give it: the stage of its configuration, if it has one; otherwise
/// transfer if the request names a task and its recipe is not one for pre-training; otherwise pre-training.
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

/// What a planned run waits for.
#[derive(Default)]
pub struct Awaited<'a> {
    /// The configuration of the planned run that will train the initial weights.
    pub init: Option<&'a RunConfig>,
    /// Whether a planned run will train the tokenizer.
    pub tokenizer: bool,
    /// Messages about other weights that do not exist yet; [`resolve_for_plan`] adds them.
    pub missing: Vec<String>,
}

/// Like [`resolve`](super::resolve), but for a plan: initial weights and tokenizers need not exist yet, and the configuration then names
/// random weights in their place.
///
/// # Errors
/// Any other error in the request, and initial weights that no name or path means.
pub fn resolve_for_plan(
    context: &RunContext,
    stage: Stage,
    request: &Request,
    awaited: &mut Awaited,
) -> Result<Resolved> {
    choose(context, stage, request, Some(awaited))
}

/// Makes every choice. Weights that may come later are added to `awaited` if it is given, and are an error otherwise.
pub(super) fn choose(
    context: &RunContext,
    stage: Stage,
    request: &Request,
    mut awaited: Option<&mut Awaited>,
) -> Result<Resolved> {
    let mut notes = vec![];
    let manifest = request.task.as_deref().map(|name| context.manifest(name)).transpose()?;
    ensure!(
        manifest.is_some() || stage == Stage::Pretrain,
        "which task? Give --task; `bench task list` lists the tasks"
    );
    let (dataset, split, dataset_path) = dataset(context, stage, request, manifest.as_ref())?;
    let recipe = match (&request.recipe, &manifest, stage) {
        (Some(recipe), ..) => recipe.clone(),
        (None, Some(manifest), Stage::Transfer) => manifest.recipe.clone(),
        _ => PRETRAIN_RECIPE.into(),
    };
    let init = match (initial(context, stage, request.init.as_deref(), &mut notes), &mut awaited) {
        (Err(error), Some(awaited)) if can_be_awaited(&error) => {
            awaited.missing.push(format!("{error:#}"));
            InitialWeights::scratch()
        }
        (init, _) => init?,
    };
    let choice = context.choice(&request.set);
    let task = manifest.as_ref().map_or("", |manifest| &manifest.name);
    let trained = match awaited.as_ref().and_then(|awaited| awaited.init) {
        Some(config) => Some((config.run.model.clone(), config.model.clone())),
        None => init.model(&choice)?,
    };
    let asks_others = request.like_other_runs && stage == Stage::Transfer && request.model.is_none();
    let others = match (asks_others && init.source == SCRATCH, &trained) {
        (true, None) => peer_model(context, task)?,
        _ => None,
    };
    let (model_name, base) = match (&request.model, trained, &others) {
        (Some(name), ..) => (name.clone(), None),
        (None, Some((name, model)), _) => (name, Some(model)),
        (None, None, Some(other)) => (other.name.clone(), None),
        (None, None, None) => (
            choice.recipe(stage, &recipe, ("", task))?.default_model.unwrap_or_else(|| DEFAULT_MODEL.into()),
            None,
        ),
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
    let tokenizer = match &mut awaited {
        Some(awaited) if awaited.tokenizer => None,
        awaited => match (tokenizer(context, &recipe_config, &model), awaited) {
            (Err(error), Some(awaited)) if can_be_awaited(&error) => {
                awaited.missing.push(format!("{error:#}"));
                None
            }
            (tokenizer, _) => tokenizer?,
        },
    };
    let config = RunConfig {
        run: Run {
            stage,
            task: manifest.as_ref().filter(|_| stage == Stage::Transfer).map(|m| m.name.clone()),
            dataset: request_name(request, &dataset),
            split,
            report: request.report.unwrap_or_default(),
            init: init.source.clone(),
            init_hash: init.hash()?,
            tokenizer_hash: tokenizer.as_ref().map(InitialWeights::hash).transpose()?.flatten(),
            init_label: init.label.clone(),
            seed: request.seed.unwrap_or_default(),
            dtype: chosen_dtype(context, request.dtype)?,
            overrides: request.set.clone(),
            task_path: path_of(request.task.as_deref(), manifest.as_ref().map(|m| &m.name)),
            dataset_path,
            model_path: path_of(Some(&model_name), Some(&stem(&model_name))),
            recipe_path: path_of(Some(&recipe), Some(&stem(&recipe))),
            data: request.data.clone(),
            include: includes(context),
            recipe: stem(&recipe),
            model: stem(&model_name),
        },
        recipe: recipe_config,
        model,
    };
    if request.recipe.is_none() || request.model.is_none() {
        let reason = others.map(|other| format!(" ({}; --model takes another)", other.reason));
        notes.push(format!("model {model_name}{}, recipe {recipe}", reason.unwrap_or_default()));
    }
    let (warmup, epochs) = (config.recipe.schedule.warmup_epochs, config.recipe.epochs);
    if warmup > 0. && warmup >= epochs as f64 {
        notes.push(format!(
            "schedule.warmup_epochs is {warmup} and epochs {epochs}: the learning rate never reaches its peak"
        ));
    }
    let manifest = manifest.filter(|_| stage == Stage::Transfer);
    let origin = context.library.file("recipe", &recipe, &format!("configs/{}", stage.as_str()))?.origin;
    let command = command::arguments(context, (request.task.as_deref(), request.model.is_some()), &config);
    finish(context, config, (manifest, dataset), (init, tokenizer), (origin, command, notes))
}

/// Finds the tokenizer that the objective of a recipe needs.
pub(super) fn tokenizer(
    context: &RunContext,
    recipe: &Recipe,
    model: &ModelConfig,
) -> Result<Option<InitialWeights>> {
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

/// The requested type of matrix products, or the default of the device.
pub(super) fn chosen_dtype(context: &RunContext, asked: Option<Dtype>) -> Result<Dtype> {
    let dtype = asked.unwrap_or_else(|| default_dtype(&context.device));
    ensure!(
        dtype != Dtype::Tf32 || context.device.is_cuda(),
        "--dtype tf32 needs an NVIDIA device (--device cuda); the CPU computes in f32 and bf16"
    );
    Ok(dtype)
}

pub(super) fn finish(
    context: &RunContext,
    config: RunConfig,
    (manifest, dataset): (Option<Manifest>, Dataset),
    (init, tokenizer): (InitialWeights, Option<InitialWeights>),
    (recipe_origin, command, notes): (String, Vec<String>, Vec<String>),
) -> Result<Resolved> {
    config.check()?;
    if let Some(manifest) = &manifest {
        manifest.split(config.run.report)?;
        recipe_of_kind(context, &config, &manifest.kind)?;
    }
    let config = with_checked_model(context, config)?;
    if let Some(path) = &init.path {
        fits(&context.choice(&[]), path, &config.run.model, &config.model)?;
    }
    Ok(Resolved { config, recipe_origin, manifest, dataset, init, tokenizer, command, notes })
}

/// Refuses a recipe whose head belongs to another kind of task, and names recipes of this kind. Wrong options of this kind are found
/// later, with their keys.
fn recipe_of_kind(context: &RunContext, config: &RunConfig, kind: &str) -> Result<()> {
    let kinds = context.registry.kinds_of_head(&config.recipe.head());
    let known = context.registry.kinds().any(|known| known == kind);
    if !known || kinds.is_empty() || kinds.contains(&kind) {
        return Ok(());
    }
    let choice = context.choice(&[]);
    let of_kind = |name: &String| {
        let recipe = choice.recipe(Stage::Transfer, name, ("", "")).ok();
        recipe.is_some_and(|recipe| context.registry.kinds_of_head(&recipe.head()) == [kind])
    };
    let names: Vec<String> = context.library.list("configs/transfer").into_iter().filter(of_kind).collect();
    bail!(
        "recipe `{}` is for {}; for {kind} use {}",
        config.run.recipe,
        kinds.join(" or "),
        if names.is_empty() { "a recipe of your own".into() } else { names.join(", ") }
    )
}

/// Fills in the options of the backbone of `config` again, because the recipe may have changed the image size.
fn with_checked_model(context: &RunContext, config: RunConfig) -> Result<RunConfig, ConfigError> {
    let components = context.registry.components();
    let RunConfig { run, model, recipe } = &config;
    let place = format!("model `{}`", run.model);
    let tune = recipe.transfer.as_ref().map(|transfer| transfer.tune);
    if tune != Some(Tune::Head) && !components.backbones.trainable(model)? {
        let backbone = &model.backbone;
        let message = format!("{backbone} is not trainable here; use a recipe with transfer.tune = \"head\"");
        return Err(ConfigError::new(place, message));
    }
    let model = components.model(model).map_err(|error| error.within(place))?;
    Ok(RunConfig { model, ..config })
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
        (Stage::Transfer, Some(manifest)) => {
            manifest.splits.training(request.report.unwrap_or_default()).to_string()
        }
        (_, Some(Manifest { splits, .. })) if splits.pretrain.is_some() => {
            splits.pretrain.clone().unwrap_or_default()
        }
        _ if dataset.splits.contains_key("pretrain") => "pretrain".into(),
        _ => "train".into(),
    };
    let path = path_of(Some(&name), Some(&dataset.name));
    Ok((dataset, split, path))
}

/// The included folders, as absolute paths.
pub(super) fn includes(context: &RunContext) -> Vec<PathBuf> {
    let absolute = |path: &PathBuf| std::path::absolute(path).unwrap_or_else(|_| path.clone());
    context.library.includes().iter().map(absolute).collect()
}

/// The path in `asked`, unless it is only the name of the file.
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
