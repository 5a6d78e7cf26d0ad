//! [`Suite`]: a file that lists runs (pre-training × transfer × seeds). It is run in order and can be resumed: finished
//! runs are skipped, and interrupted ones continue.

use crate::config::{Library, RunConfig, SCRATCH, Stage, parse};
use crate::engine::Plan;
use crate::record::table::TableSpec;
use crate::record::{RunFolder, RunRecord, Status};
use crate::runs::{
    Awaited, NoWeights, Request, RunContext, Start, index_if_there, prepare, resolve_for_plan,
};
use anyhow::{Context, Error, Result, bail, ensure};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// `configs/suites/<name>.toml`. All paths in it are relative to the working directory.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Suite {
    /// One line that says what the suite shows.
    pub title: String,
    /// Seeds with which every transfer is run, unless it has its own.
    pub seeds: Vec<u64>,
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
    /// Seed of all random numbers.
    #[serde(default)]
    pub seed: u64,
    /// The name of an earlier `[[pretrain]]`, which trains the tokenizer of this one; or a run or a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<String>,
    /// Overrides, as `--set` takes them.
    #[serde(default)]
    pub set: Vec<String>,
}

/// Transfers: every recipe from every init with every seed.
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
    /// Index of the item that trains its tokenizer.
    pub tokenizer: Option<usize>,
}

impl Item {
    /// `transfer shapes_classification · finetune_demo · vit_b16 · from mae_demo · seed 0`; the model is shown where the suite
    /// names it.
    pub fn title(&self) -> String {
        let r = &self.request;
        let on = r.task.as_ref().or(r.dataset.as_ref()).map_or("", String::as_str);
        let from = match self.stage {
            Stage::Pretrain => String::new(),
            Stage::Transfer => format!(" · from {}", r.init.as_deref().unwrap_or(SCRATCH)),
        };
        let set = if r.set.is_empty() { String::new() } else { format!(" · {}", r.set.join(" ")) };
        let model = r.model.as_ref().map_or(String::new(), |model| format!(" · {model}"));
        let recipe = r.recipe.as_deref().unwrap_or("");
        format!(
            "{} {on} · {recipe}{model}{set}{from} · seed {}",
            self.stage.as_str(),
            r.seed.unwrap_or_default()
        )
    }
}

/// The state of an item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The run is finished.
    Done {
        /// Id of the run.
        id: String,
    },
    /// It has been started and will be continued.
    Interrupted {
        /// Id of the run.
        id: String,
    },
    /// The run can start.
    Todo,
    /// It cannot start yet.
    Waits {
        /// Indexes of the items that have to be finished first.
        runs: Vec<usize>,
        /// Messages about weights and tokenizers that do not exist yet.
        weights: Vec<String>,
        /// Where data were looked for that are not on this machine.
        data: Option<String>,
    },
}

/// An item of a plan.
#[derive(Clone, Debug)]
pub struct PlannedItem {
    /// The run.
    pub item: Item,
    /// The state of the item.
    pub standing: Standing,
    /// Number of images that the whole run trains on, if the size of its data is known.
    pub images: Option<usize>,
}

impl Suite {
    /// Reads the suite `name`, or the file at that path.
    ///
    /// # Errors
    /// An unknown name, a file that cannot be read or has unknown keys, no seeds.
    pub fn load(library: &Library, name: &str) -> Result<Self> {
        let file = library.file("suite", name, "configs/suites")?;
        let suite: Self = parse(&file.text, &file.origin)?;
        ensure!(!suite.seeds.is_empty(), "{}: `seeds` is empty", file.origin);
        Ok(suite)
    }

    /// All runs, pre-training first, in the order in which they are run.
    pub fn items(&self) -> Vec<Item> {
        let trains = |i: usize, name: &str| self.pretrain[..i].iter().position(|p| p.is_called(name));
        let pretraining =
            |(i, p): (usize, &PretrainLine)| p.item(p.tokenizer.as_deref().and_then(|name| trains(i, name)));
        let mut items: Vec<Item> = self.pretrain.iter().enumerate().map(pretraining).collect();
        for transfer in &self.transfer {
            for init in &transfer.init {
                let after = self.pretrain.iter().position(|p| p.is_called(init));
                for recipe in &transfer.recipes {
                    for seed in transfer.seeds.as_ref().unwrap_or(&self.seeds) {
                        items.push(transfer.item(recipe, init, *seed, after));
                    }
                }
            }
        }
        items
    }

    /// Finds what is wrong with the suite before anything is trained. Data may be missing: a run that needs them fails when it
    /// begins.
    ///
    /// # Errors
    /// As [`Suite::plan`], and weights or a tokenizer that neither exist nor are trained by the suite.
    pub fn check(&self, context: &RunContext) -> Result<()> {
        for PlannedItem { item, standing, .. } in self.plan(context)? {
            if let Standing::Waits { weights, .. } = standing
                && !weights.is_empty()
            {
                bail!("{}: {}", item.title(), weights.join("; "));
            }
        }
        Ok(())
    }

    /// Runs all unfinished items, in order; [`Suite::check`] finds beforehand what is wrong. Before each item, `begin`
    /// receives its index, the item, and whether it is already done. Returns the records of all runs, in the order of
    /// [`Suite::items`]; fewer if a stop was requested.
    pub fn run(&self, context: &RunContext, begin: &dyn Fn(usize, &Item, bool)) -> Result<Vec<RunRecord>> {
        let items = self.items();
        let mut records: Vec<RunRecord> = vec![];
        for (i, item) in items.iter().enumerate() {
            let mut request = item.request.clone();
            if let Some(before) = item.after {
                request.init = Some(records[before].id.clone());
            }
            if let Some(before) = item.tokenizer {
                request.set.push(tokenizer(&records[before].id));
            }
            let start =
                prepare(context, item.stage, &request, None, true, &|_| ()).with_context(|| item.title())?;
            begin(i, item, matches!(start, Start::Done(_)));
            let record = match start {
                Start::Done(record) => *record,
                Start::Ready(prepared) => prepared.run(context, None).with_context(|| item.title())?,
            };
            let finished = record.status == Status::Finished;
            records.push(record);
            if !finished || context.control.stopped() {
                break;
            }
        }
        Ok(records)
    }

    /// Returns the state of each item. Data, weights of unfinished runs and tokenizers need not exist: the items that need them
    /// are listed as waiting.
    ///
    /// # Errors
    /// An unknown table; an item that can never run, because its task, recipe, model, a key or its initial weights are unknown,
    /// or because its data do not suit it.
    pub fn plan(&self, context: &RunContext) -> Result<Vec<PlannedItem>> {
        TableSpec::load(context.library, &self.table)?;
        let mut planned: Vec<PlannedItem> = vec![];
        let mut configs: Vec<RunConfig> = vec![];
        for item in self.items() {
            let (planned_item, config) =
                self.plan_item(context, &item, &planned, &configs).with_context(|| item.title())?;
            planned.push(planned_item);
            configs.push(config);
        }
        Ok(planned)
    }

    /// The state of `item` and its configuration; `planned` and `configs` are those of the items before it.
    fn plan_item(
        &self,
        context: &RunContext,
        item: &Item,
        planned: &[PlannedItem],
        configs: &[RunConfig],
    ) -> Result<(PlannedItem, RunConfig)> {
        let mut request = item.request.clone();
        let (mut runs, mut awaited) = (vec![], Awaited::default());
        let mut id_of = |before: usize| match &planned[before].standing {
            Standing::Done { id } => Some(id.clone()),
            _ => {
                runs.push(before);
                None
            }
        };
        if let Some(before) = item.after {
            let id = id_of(before);
            awaited.init = id.is_none().then(|| &configs[before]);
            request.init = Some(id.unwrap_or(SCRATCH.into()));
        }
        if let Some(before) = item.tokenizer {
            let id = id_of(before);
            awaited.tokenizer = id.is_none();
            request.set.push(tokenizer(id.as_deref().unwrap_or("a run of this suite")));
        }
        let resolved = resolve_for_plan(context, item.stage, &request, &mut awaited)
            .map_err(|error| self.with_names(error))?;
        let weights = awaited.missing;
        let found = match runs.is_empty() && weights.is_empty() {
            true => standing(&RunFolder::at(context.store.path(&resolved.config.id()?)))?,
            false => Standing::Todo,
        };
        let recipe = &resolved.config.recipe;
        let declared = || resolved.dataset.splits.get(&resolved.config.run.split)?.count;
        let (standing, images) = match (found, index_if_there(context, &resolved)) {
            (done @ Standing::Done { .. }, data) => {
                let counted = data.ok().and_then(Result::ok).map(|data| data.splits.train.len());
                (done, counted.or_else(declared))
            }
            (found, data) => match data? {
                Ok(data) if runs.is_empty() && weights.is_empty() => (found, Some(data.splits.train.len())),
                Ok(data) => (Standing::Waits { runs, weights, data: None }, Some(data.splits.train.len())),
                Err(missing) => {
                    let text = missing.to_string();
                    let data = text.lines().next().map(String::from);
                    (Standing::Waits { runs, weights, data }, declared())
                }
            },
        };
        let plan = images.map(|images| Plan::new(recipe, images)).transpose()?;
        let images = plan.map(|plan| plan.steps * plan.batch);
        Ok((PlannedItem { item: item.clone(), standing, images }, resolved.config))
    }

    /// Adds the names of the suite's own runs to an error about unknown weights.
    fn with_names(&self, error: Error) -> Error {
        let Some(NoWeights::Unknown { name, .. }) = error.downcast_ref() else { return error };
        let known: Vec<&str> = self.pretrain.iter().map(PretrainLine::name).collect();
        let known = if known.is_empty() { "it has none".into() } else { known.join(", ") };
        let message = format!("`{name}` is not a pre-training run of this suite ({known})");
        error.context(message)
    }
}

/// The override key that names a tokenizer.
fn tokenizer(name: &str) -> String {
    format!("pretrain.tokenizer={}", toml::Value::from(name))
}

fn standing(folder: &RunFolder) -> Result<Standing> {
    if !folder.record().is_file() {
        return Ok(Standing::Todo);
    }
    let record = folder.read_record()?;
    Ok(match record.status {
        Status::Finished => Standing::Done { id: record.id },
        _ => Standing::Interrupted { id: record.id },
    })
}

impl PretrainLine {
    fn name(&self) -> &str {
        let file = || Path::new(self.recipe.strip_suffix(".toml")?).file_name()?.to_str();
        self.name.as_deref().or_else(file).unwrap_or(&self.recipe)
    }

    /// Whether `init` and `tokenizer` mean this run by `name`: its name or, if it has none of its own, its recipe.
    fn is_called(&self, name: &str) -> bool {
        self.name() == name || (self.name.is_none() && self.recipe == name)
    }

    /// `trained` is the item that trains the tokenizer; if there is none, `tokenizer` names an existing one.
    fn item(&self, trained: Option<usize>) -> Item {
        let mut set = self.set.clone();
        set.extend(self.tokenizer.as_deref().filter(|_| trained.is_none()).map(tokenizer));
        let request = Request {
            dataset: Some(self.dataset.clone()),
            model: self.model.clone(),
            recipe: Some(self.recipe.clone()),
            seed: Some(self.seed),
            set,
            ..Request::default()
        };
        Item { stage: Stage::Pretrain, request, after: None, tokenizer: trained }
    }
}

impl Transfers {
    fn item(&self, recipe: &str, init: &str, seed: u64, after: Option<usize>) -> Item {
        let request = Request {
            task: Some(self.task.clone()),
            model: self.model.clone(),
            recipe: Some(recipe.into()),
            init: Some(init.into()),
            seed: Some(seed),
            set: self.set.clone(),
            ..Request::default()
        };
        Item { stage: Stage::Transfer, request, after, tokenizer: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tokenizer_is_an_earlier_run_or_a_name() {
        let text = r#"
            title = "t"
            seeds = [0]
            table = "x"
            [[pretrain]]
            recipe = "dvae_small"
            dataset = "shapes"
            [[pretrain]]
            recipe = "mae_token_demo"
            dataset = "shapes"
            tokenizer = "dvae_small"
            [[pretrain]]
            name = "deeper"
            recipe = "mae_demo"
            dataset = "shapes"
            set = ["pretrain.mask_ratio=0.5"]
            [[transfer]]
            task = "shapes_classification"
            recipes = ["finetune_demo"]
            init = ["deeper"]
            [[pretrain]]
            recipe = "beit_demo"
            dataset = "shapes"
            tokenizer = "encoder.pkl"
        "#;
        let items = parse::<Suite>(text, "test").unwrap().items();
        assert_eq!(
            items.iter().map(|item| item.tokenizer).collect::<Vec<_>>(),
            [None, Some(0), None, None, None]
        );
        assert_eq!(items[4].after, Some(2), "by its name");
        assert!(items[1].request.set.is_empty());
        assert_eq!(items[3].request.set, ["pretrain.tokenizer=\"encoder.pkl\""]);
    }

    #[test]
    fn items_are_the_product_and_know_what_they_wait_for() {
        let text = r#"
            title = "t"
            seeds = [0, 1]
            table = "x"
            [[pretrain]]
            recipe = "mae_demo"
            dataset = "shapes"
            [[transfer]]
            task = "shapes_classification"
            recipes = ["a", "b"]
            init = ["scratch", "mae_demo"]
        "#;
        let suite: Suite = parse(text, "test").unwrap();
        let items = suite.items();
        assert_eq!(items.len(), 1 + 2 * 2 * 2);
        assert_eq!(items.iter().filter(|item| item.after == Some(0)).count(), 4);
        assert_eq!(items[8].title(), "transfer shapes_classification · b · from mae_demo · seed 1");
        assert!(parse::<Suite>(&text.replace("seeds", "seed"), "test").is_err());
        let by_path: Suite =
            parse(&text.replacen("\"mae_demo\"", "\"own/mae_demo.toml\"", 1), "test").unwrap();
        assert_eq!(by_path.items()[8].after, Some(0), "by the name of the recipe's file");
        let model: Suite =
            parse(&text.replace("dataset =", "model = \"vit_b16\"\ndataset ="), "test").unwrap();
        assert_eq!(model.items()[0].title(), "pretrain shapes · mae_demo · vit_b16 · seed 0");
    }
}
