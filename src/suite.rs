//! [`Suite`]: a file that lists runs (pre-training × transfer × seeds). It is run in order and can be resumed: finished
//! runs are skipped, and interrupted ones continue.

use crate::config::{Library, SCRATCH, Stage, parse};
use crate::engine::Plan;
use crate::record::{RunFolder, RunRecord, Status};
use crate::runs::{Request, RunContext, Start, index, prepare, resolve_for_plan};
use anyhow::{Context, Result, ensure};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `configs/suites/<name>.toml`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Suite {
    /// One line that says what the suite shows.
    pub title: String,
    /// Seeds with which every transfer is run, unless it has its own.
    pub seeds: Vec<u64>,
    /// The table of `configs/tables/` that shows the results.
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
    /// Name of the run in `init` and `tokenizer`; the name of the recipe when absent.
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
    /// `transfer shapes_classification · finetune_demo · from mae_demo · seed 0`
    pub fn title(&self) -> String {
        let r = &self.request;
        let on = r.task.as_ref().or(r.dataset.as_ref()).map_or("", String::as_str);
        let from = match self.stage {
            Stage::Pretrain => String::new(),
            Stage::Transfer => format!(" · from {}", r.init.as_deref().unwrap_or(SCRATCH)),
        };
        let set = if r.set.is_empty() { String::new() } else { format!(" · {}", r.set.join(" ")) };
        let recipe = r.recipe.as_deref().unwrap_or("");
        format!("{} {on} · {recipe}{set}{from} · seed {}", self.stage.as_str(), r.seed.unwrap_or_default())
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
        /// What is missing: runs of the suite, weights, tokenizers or data.
        reasons: Vec<String>,
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
        let trains = |i: usize, name: &str| self.pretrain[..i].iter().position(|p| p.name() == name);
        let pretraining =
            |(i, p): (usize, &PretrainLine)| p.item(p.tokenizer.as_deref().and_then(|name| trains(i, name)));
        let mut items: Vec<Item> = self.pretrain.iter().enumerate().map(pretraining).collect();
        for transfer in &self.transfer {
            for init in &transfer.init {
                let after = self.pretrain.iter().position(|p| p.name() == init);
                for recipe in &transfer.recipes {
                    for seed in transfer.seeds.as_ref().unwrap_or(&self.seeds) {
                        items.push(transfer.item(recipe, init, *seed, after));
                    }
                }
            }
        }
        items
    }

    /// Runs all unfinished items, in order. Before each item, `begin` receives its index, the item, and whether it is
    /// already done. Returns the records of all runs, in the order of [`Suite::items`]; fewer if a stop was requested.
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

    /// Returns the state of each item. Data, weights and tokenizers need not exist: the items that need them are listed
    /// as waiting.
    ///
    /// # Errors
    /// An item that can never run, because its task, recipe, model or a key is unknown.
    pub fn plan(&self, context: &RunContext) -> Result<Vec<PlannedItem>> {
        let mut planned: Vec<PlannedItem> = vec![];
        for item in self.items() {
            let mut request = item.request.clone();
            let mut reasons = vec![];
            let mut done = |before: usize| match &planned[before].standing {
                Standing::Done { id } => Some(id.clone()),
                _ => {
                    reasons.push(format!("run {} of this suite", before + 1));
                    None
                }
            };
            if let Some(before) = item.after {
                request.init = Some(done(before).unwrap_or(SCRATCH.into()));
            }
            let trained = item.tokenizer.map(&mut done);
            if let Some(Some(id)) = &trained {
                request.set.push(tokenizer(id));
            }
            let (resolved, missing) =
                resolve_for_plan(context, item.stage, &request).with_context(|| item.title())?;
            // The item already waits for a tokenizer that this suite trains.
            reasons.extend(missing.into_iter().filter(|_| trained != Some(None)));
            let images = match index(context, &resolved) {
                Ok(data) => Some(data.splits.train.len()),
                Err(error) => {
                    let text = error.to_string();
                    reasons.push(text.lines().next().unwrap_or_default().to_string());
                    resolved.dataset.splits.get(&resolved.config.run.split).and_then(|split| split.count)
                }
            };
            let images = images.and_then(|images| Plan::new(&resolved.config.recipe, images).ok());
            let standing = match reasons.is_empty() {
                false => Standing::Waits { reasons },
                true => standing(&RunFolder::at(context.store.path(&resolved.config.id()?)))?,
            };
            planned.push(PlannedItem { item, standing, images: images.map(|plan| plan.steps * plan.batch) });
        }
        Ok(planned)
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
        self.name.as_deref().unwrap_or(&self.recipe)
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
    }
}
