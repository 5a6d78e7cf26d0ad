//! [`Suite`]: a file of runs, pre-training × transfer × seeds, as a plan that can be resumed: what is done is skipped,
//! what was interrupted goes on.

use crate::config::{Library, SCRATCH, Stage, parse};
use crate::engine::Plan;
use crate::launch::{Request, Site, Start, index, prepare, resolve};
use crate::record::{RunFolder, RunRecord, Status};
use anyhow::{Context, Result, ensure};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `configs/suites/<name>.toml`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Suite {
    pub title: String,
    /// Every transfer is run with each of these, unless it has its own.
    pub seeds: Vec<u64>,
    /// The table of `configs/tables/` that shows the results.
    pub table: String,
    #[serde(default)]
    pub pretrain: Vec<PretrainLine>,
    #[serde(default)]
    pub transfer: Vec<Transfers>,
}

/// One pre-training run.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PretrainLine {
    /// What `init` and `tokenizer` call it; the recipe when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    pub recipe: String,
    pub dataset: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    #[serde(default)]
    pub seed: u64,
    /// The name of an earlier `[[pretrain]]`, which trains the tokenizer of this one; or a run or a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<String>,
    #[serde(default)]
    pub set: Vec<String>,
}

/// Transfers: every recipe from every init with every seed.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Transfers {
    pub task: String,
    pub recipes: Vec<String>,
    /// `scratch`, the name of a `[[pretrain]]`, a run or a weights file.
    pub init: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seeds: Option<Vec<u64>>,
    #[serde(default)]
    pub set: Vec<String>,
}

/// One run of a suite.
#[derive(Clone, Debug)]
pub struct Item {
    pub stage: Stage,
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

/// What is left of an item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    Done {
        id: String,
    },
    Interrupted {
        id: String,
    },
    Todo,
    /// Its initial weights are not there yet.
    Waits,
}

impl Suite {
    pub fn load(library: &Library, name: &str) -> Result<Self> {
        let Ok((text, origin)) = library.text(&format!("configs/suites/{name}.toml")) else {
            return Err(library.unknown("suite", name, "configs/suites").into());
        };
        let suite: Self = parse(&text, &origin)?;
        ensure!(!suite.seeds.is_empty(), "{origin}: `seeds` is empty");
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

    /// Runs what is left, in order. `begin` is told the index of each item, the item, and whether it is done already.
    /// Returns the records of all runs, in the order of [`Suite::items`]; fewer when a stop was asked for.
    pub fn run(&self, site: &Site, begin: &dyn Fn(usize, &Item, bool)) -> Result<Vec<RunRecord>> {
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
                prepare(site, item.stage, &request, None, true, &|_| ()).with_context(|| item.title())?;
            begin(i, item, matches!(start, Start::Done(_)));
            let record = match start {
                Start::Done(record) => *record,
                Start::Ready(prepared) => prepared.run(site, None).with_context(|| item.title())?,
            };
            let finished = record.status == Status::Finished;
            records.push(record);
            if !finished || site.control.stopped() {
                break;
            }
        }
        Ok(records)
    }

    /// Where each item stands, and the images that it will have seen in the end (unknown when its data is not there).
    pub fn plan(&self, site: &Site) -> Result<Vec<(Item, Standing, Option<usize>)>> {
        let mut planned: Vec<(Item, Standing, Option<usize>)> = vec![];
        for item in self.items() {
            let mut request = item.request.clone();
            let mut waits = false;
            if let Some(before) = item.after {
                match &planned[before].1 {
                    Standing::Done { id } => request.init = Some(id.clone()),
                    _ => {
                        waits = true;
                        request.init = Some(SCRATCH.into());
                    }
                }
            }
            if let Some(before) = item.tokenizer {
                match &planned[before].1 {
                    Standing::Done { id } => request.set.push(tokenizer(id)),
                    _ => {
                        // What it will compute is not known before its tokenizer is: no weights, no name.
                        planned.push((item, Standing::Waits, None));
                        continue;
                    }
                }
            }
            let resolved = resolve(site, item.stage, &request).with_context(|| item.title())?;
            let standing = match waits {
                true => Standing::Waits,
                false => standing(&RunFolder::at(site.store.path(&resolved.config.id()?)))?,
            };
            let images = index(site, &resolved).ok().and_then(|data| {
                let plan = Plan::new(&resolved.config.recipe, data.train.len()).ok()?;
                Some(plan.steps * plan.batch)
            });
            planned.push((item, standing, images));
        }
        Ok(planned)
    }
}

/// The override that names a tokenizer.
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

    /// `trained` is the item that trains the tokenizer; without one, `tokenizer` names it as it is.
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
