//! [`Suite`], the content of a file, and [`Suite::items`], the runs that it lists as products.

use crate::config::{Dtype, Reported, SCRATCH, Stage};
use crate::runs::Request;
use anyhow::{Result, bail, ensure};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::path::Path;

/// `configs/suites/<name>.toml`. All paths in it are relative to the working directory.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Suite {
    /// One line that says what the suite shows.
    pub title: String,
    /// Seeds with which every transfer is run, unless it has its own.
    pub seeds: Vec<u64>,
    /// Seeds with which every `[[pretrain]]` is run, unless it has its own. Every transfer is run from each of them, so that
    /// tables can tell the variation between pre-trainings.
    #[serde(default = "one_seed")]
    pub pretrain_seeds: Vec<u64>,
    /// Whether a transfer with seed s starts from the pre-training with seed s alone, instead of from every pre-training:
    /// fewer runs, in which nothing is common to two pre-trainings.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub paired: bool,
    /// Number format of matrix products in all runs; that of the device when absent (f32 on a CPU, bf16 on CUDA devices).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dtype: Option<Dtype>,
    /// Name or path of the table that shows the results.
    pub table: String,
    /// `[[pretrain]]`: the pre-training runs, in order.
    #[serde(default)]
    pub pretrain: Vec<PretrainLine>,
    /// `[[transfer]]`: the transfer runs.
    #[serde(default)]
    pub transfer: Vec<Transfers>,
}

/// One pre-training run.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PretrainLine {
    /// Name of the run in `init` and `tokenizer`; when absent, the name of the recipe or, if it is given by its path, of its
    /// file without `.toml`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Name or path of the recipe.
    pub recipe: String,
    /// Name or path of the data set.
    pub dataset: String,
    /// Name or path of the model; that of the recipe when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Seed of all random numbers: the run is made once, with this seed. When absent, it is made with each of the suite's
    /// `pretrain_seeds`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// The name of an earlier `[[pretrain]]`, which trains the tokenizer of this one (with the same seed, unless it has one of
    /// its own); or a run or a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<String>,
    /// Overrides, as `--set` takes them.
    #[serde(default)]
    pub set: Vec<String>,
}

/// Transfers: every recipe from every init, from each of its pre-training seeds, with every seed.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Transfers {
    /// Name or path of the task.
    pub task: String,
    /// Names or paths of recipes.
    pub recipes: Vec<String>,
    /// `scratch`, the name of a `[[pretrain]]`, a run or a weights file.
    pub init: Vec<String>,
    /// Name or path of the model; that of the initial weights or of the recipe when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Which split of the task is scored: `eval`, or `select` for choosing hyper-parameters; `eval` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<Reported>,
    /// Seeds of these transfers; those of the suite when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seeds: Option<Vec<u64>>,
    /// Overrides, as `--set` takes them.
    #[serde(default)]
    pub set: Vec<String>,
}

/// One run of a suite.
#[derive(Clone, Debug)]
pub struct Item {
    /// Pre-training or transfer.
    pub stage: Stage,
    /// The request of the run.
    pub request: Request,
    /// Index of the item whose weights it starts from.
    pub after: Option<usize>,
    /// Seed of that item, if the suite makes that pre-training with several seeds.
    pub after_seed: Option<u64>,
    /// Index of the item that trains its tokenizer.
    pub tokenizer: Option<usize>,
}

impl Item {
    /// `transfer shapes_classification · finetune_demo · vit_b16 · from mae_demo of seed 1 · seed 0`; the model is shown where the
    /// suite names it, and the seed of pre-training where there are several.
    pub fn title(&self) -> String {
        let r = &self.request;
        let on = r.task.as_ref().or(r.dataset.as_ref()).map_or("", String::as_str);
        let from = match self.stage {
            Stage::Pretrain => String::new(),
            Stage::Transfer => {
                let of = self.after_seed.map_or(String::new(), |seed| format!(" of seed {seed}"));
                format!(" · from {}{of}", r.init.as_deref().unwrap_or(SCRATCH))
            }
        };
        let set = if r.set.is_empty() { String::new() } else { format!(" · {}", r.set.join(" ")) };
        let model = r.model.as_ref().map_or(String::new(), |model| format!(" · {model}"));
        let report = match r.report {
            Some(Reported::Select) => " · on select",
            _ => "",
        };
        let recipe = r.recipe.as_deref().unwrap_or("");
        format!(
            "{} {on}{report} · {recipe}{model}{set}{from} · seed {}",
            self.stage.as_str(),
            r.seed.unwrap_or_default()
        )
    }
}

/// Initial weights of transfers.
#[derive(Clone, Copy, Debug, Default)]
struct Source {
    /// Index of the item that trains them; `None` if no item does.
    item: Option<usize>,
    /// Its seed, if there are several.
    seed: Option<u64>,
    /// The only seed of transfers that start from them; `None` for all seeds.
    only: Option<u64>,
}

impl Suite {
    /// All runs, pre-training first, in the order in which they are run.
    pub fn items(&self) -> Vec<Item> {
        let mut items: Vec<Item> = vec![];
        // The runs of each line: seed and index.
        let mut trained: Vec<Vec<(u64, usize)>> = vec![];
        for (i, line) in self.pretrain.iter().enumerate() {
            let mut runs = vec![];
            for seed in line.seed.as_ref().map_or(self.pretrain_seeds.as_slice(), std::slice::from_ref) {
                let tokenizer = self.tokenizer_of(i).and_then(|other| {
                    let same = trained[other].iter().find(|(other, _)| other == seed);
                    same.or(trained[other].first()).map(|(_, index)| *index)
                });
                runs.push((*seed, items.len()));
                items.push(line.item(*seed, tokenizer));
            }
            trained.push(runs);
        }
        for transfer in &self.transfer {
            let seeds = transfer.seeds.as_ref().unwrap_or(&self.seeds);
            for init in &transfer.init {
                let sources = self.sources(init, &trained);
                for recipe in &transfer.recipes {
                    for source in &sources {
                        let starts = |seed: &&u64| source.only.is_none_or(|only| only == **seed);
                        items.extend(seeds.iter().filter(starts).map(|seed| Item {
                            after: source.item,
                            after_seed: source.seed,
                            ..transfer.item(recipe, init, *seed)
                        }));
                    }
                }
            }
        }
        items.iter_mut().for_each(|item| item.request.dtype = self.dtype);
        items
    }

    /// The runs of this suite that `init` names; one source without a run if it names none.
    fn sources(&self, init: &str, trained: &[Vec<(u64, usize)>]) -> Vec<Source> {
        let Some(line) = self.line(init) else { return vec![Source::default()] };
        let several = trained[line].len() > 1;
        let paired = self.paired && self.pretrain[line].seed.is_none();
        let source = |(seed, index): &(u64, usize)| Source {
            item: Some(*index),
            seed: several.then_some(*seed),
            only: paired.then_some(*seed),
        };
        trained[line].iter().map(source).collect()
    }

    /// # Errors
    /// Empty lists of seeds, seeds that occur twice, and seeds that leave a run without its tokenizer or initial weights.
    pub(super) fn check_seeds(&self) -> Result<()> {
        let own = self.transfer.iter().filter_map(|transfer| transfer.seeds.as_ref());
        let lists = [("seeds", &self.seeds), ("pretrain_seeds", &self.pretrain_seeds)];
        for (key, seeds) in lists.into_iter().chain(own.map(|seeds| ("seeds", seeds))) {
            ensure!(!seeds.is_empty(), "`{key}` is empty");
            let distinct: BTreeSet<u64> = seeds.iter().copied().collect();
            ensure!(distinct.len() == seeds.len(), "`{key}` names a seed twice");
        }
        for (i, line) in self.pretrain.iter().enumerate() {
            let Some(tokenizer) = self.tokenizer_of(i) else { continue };
            let every = self.pretrain_seeds.len() > 1 && self.pretrain[tokenizer].seed.is_none();
            ensure!(
                line.seed.is_none() || !every,
                "`{}` has a seed of its own, but its tokenizer is trained with every seed: give `{}` a seed, too",
                line.name(),
                self.pretrain[tokenizer].name()
            );
        }
        let from_seeds = |transfer: &Transfers| {
            let mut inits = transfer.init.iter().filter_map(|init| self.line(init));
            inits.any(|line| self.pretrain[line].seed.is_none())
        };
        for transfer in self.transfer.iter().filter(|transfer| self.paired && from_seeds(transfer)) {
            let seeds = transfer.seeds.as_ref().unwrap_or(&self.seeds);
            if let Some(seed) = seeds.iter().find(|seed| !self.pretrain_seeds.contains(seed)) {
                bail!(
                    "`paired`: no pre-training has the seed {seed} of the transfers to `{}`",
                    transfer.task
                );
            }
        }
        Ok(())
    }

    /// The index of the `[[pretrain]]` that `init` names.
    fn line(&self, init: &str) -> Option<usize> {
        self.pretrain.iter().position(|line| line.is_called(init))
    }

    /// The index of the `[[pretrain]]` that trains the tokenizer of line `i`.
    fn tokenizer_of(&self, i: usize) -> Option<usize> {
        let name = self.pretrain[i].tokenizer.as_deref()?;
        self.pretrain[..i].iter().position(|line| line.is_called(name))
    }
}

fn one_seed() -> Vec<u64> {
    vec![0]
}

/// The override key that names a tokenizer.
pub(super) fn tokenizer(name: &str) -> String {
    format!("pretrain.tokenizer={}", toml::Value::from(name))
}

impl PretrainLine {
    pub(super) fn name(&self) -> &str {
        let file = || Path::new(self.recipe.strip_suffix(".toml")?).file_name()?.to_str();
        self.name.as_deref().or_else(file).unwrap_or(&self.recipe)
    }

    /// Whether `init` and `tokenizer` mean this run by `name`: its name or, if it has none of its own, its recipe.
    fn is_called(&self, name: &str) -> bool {
        self.name() == name || (self.name.is_none() && self.recipe == name)
    }

    /// `trained` is the item that trains the tokenizer; if there is none, `tokenizer` names an existing one.
    fn item(&self, seed: u64, trained: Option<usize>) -> Item {
        let mut set = self.set.clone();
        set.extend(self.tokenizer.as_deref().filter(|_| trained.is_none()).map(tokenizer));
        let request = Request {
            dataset: Some(self.dataset.clone()),
            model: self.model.clone(),
            recipe: Some(self.recipe.clone()),
            seed: Some(seed),
            set,
            ..Request::default()
        };
        Item { stage: Stage::Pretrain, request, after: None, after_seed: None, tokenizer: trained }
    }
}

impl Transfers {
    fn item(&self, recipe: &str, init: &str, seed: u64) -> Item {
        let request = Request {
            task: Some(self.task.clone()),
            model: self.model.clone(),
            recipe: Some(recipe.into()),
            init: Some(init.into()),
            seed: Some(seed),
            report: self.report,
            set: self.set.clone(),
            ..Request::default()
        };
        Item { stage: Stage::Transfer, request, after: None, after_seed: None, tokenizer: None }
    }
}
