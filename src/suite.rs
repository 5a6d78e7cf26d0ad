//! [`Suite`]: a file that lists runs (pre-trainings × their seeds × transfers × their seeds). It is run in order and can be
//! resumed: finished runs are skipped, and interrupted ones continue.

mod forecast;
mod items;

pub use forecast::{Current, Forecast, TimeEstimate, Work};
pub use items::{Item, PretrainLine, Suite, Transfers};

use crate::config::{Library, RunConfig, SCRATCH, parse};
use crate::engine::Plan;
use crate::record::table::TableSpec;
use crate::record::{RunFolder, RunRecord, Status};
use crate::registry::AnyTask;
use crate::runs::{Awaited, NoWeights, RunContext, Start, index_if_there, prepare, resolve_for_plan};
use anyhow::{Context, Error, Result, bail};
use items::tokenizer;

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
    /// What is known of its cost.
    pub work: Work,
}

/// What happens while a suite is run.
#[derive(Debug)]
pub enum SuiteEvent<'a> {
    /// A run begins, or was already done.
    Begins {
        /// Its index among [`Suite::items`].
        index: usize,
        /// The run.
        item: &'a Item,
        /// Whether it was already done.
        done: bool,
    },
    /// A run has ended, or was already done.
    Ended {
        /// Its record.
        record: &'a RunRecord,
    },
}

impl Suite {
    /// Reads the suite `name`, or the file at that path.
    ///
    /// # Errors
    /// An unknown name, a file that cannot be read or has unknown keys, no seeds, seeds that contradict each other.
    pub fn load(library: &Library, name: &str) -> Result<Self> {
        let file = library.file("suite", name, "configs/suites")?;
        let suite: Self = parse(&file.text, &file.origin)?;
        suite.check_seeds().with_context(|| file.origin.clone())?;
        Ok(suite)
    }

    /// Finds what is wrong with the suite before anything is trained, and returns its plan. Data may be missing: a run that needs
    /// them fails when it begins.
    ///
    /// # Errors
    /// As [`Suite::plan`], and weights or a tokenizer that neither exist nor are trained by the suite.
    pub fn check(&self, context: &RunContext) -> Result<Vec<PlannedItem>> {
        let planned = self.plan(context)?;
        for PlannedItem { item, standing, .. } in &planned {
            if let Standing::Waits { weights, .. } = standing
                && !weights.is_empty()
            {
                bail!("{}: {}", item.title(), weights.join("; "));
            }
        }
        Ok(planned)
    }

    /// Runs all unfinished items, in order; [`Suite::check`] finds beforehand what is wrong. `tell` receives what happens.
    /// Returns the records of all runs, in the order of [`Suite::items`]; fewer if a stop was requested.
    pub fn run(&self, context: &RunContext, tell: &dyn Fn(SuiteEvent)) -> Result<Vec<RunRecord>> {
        let items = self.items();
        let mut records: Vec<RunRecord> = vec![];
        for (index, item) in items.iter().enumerate() {
            let mut request = item.request.clone();
            if let Some(before) = item.after {
                request.init = Some(records[before].id.clone());
            }
            if let Some(before) = item.tokenizer {
                request.set.push(tokenizer(&records[before].id));
            }
            let start =
                prepare(context, item.stage, &request, None, true, &|_| ()).with_context(|| item.title())?;
            let done = matches!(start, Start::Done(_));
            tell(SuiteEvent::Begins { index, item, done });
            let record = match start {
                Start::Done(record) => *record,
                Start::Ready(prepared) => prepared.run(context, None).with_context(|| item.title())?,
            };
            tell(SuiteEvent::Ended { record: &record });
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
        let data = index_if_there(context, &resolved);
        let fits = matches!(&data, Ok(Ok(data)) if data.task.as_ref().is_some_and(AnyTask::fits));
        let (standing, images) = match (found, data) {
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
        let plan = match images.map(|images| Plan::new(recipe, images)).transpose() {
            Err(_) if fits => None, // it takes no steps
            plan => plan?,
        };
        let images = plan.map(|plan| plan.steps * plan.batch);
        let work = Work::new(&resolved.config, images);
        Ok((PlannedItem { item: item.clone(), standing, images, work }, resolved.config))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Dtype;

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
        assert_eq!(
            items[0].request.seed,
            Some(0),
            "one pre-training of seed 0, unless the suite says otherwise"
        );
        let model: Suite =
            parse(&text.replace("dataset =", "model = \"vit_b16\"\ndataset ="), "test").unwrap();
        assert_eq!(model.items()[0].title(), "pretrain shapes · mae_demo · vit_b16 · seed 0");
    }

    /// A tokenizer, a pre-training that needs it, and two kinds of transfer.
    const SEEDS: &str = r#"
        title = "t"
        pretrain_seeds = [3, 4]
        seeds = [3, 4]
        table = "x"
        [[pretrain]]
        name = "tokenizer"
        recipe = "dvae_small"
        dataset = "shapes"
        [[pretrain]]
        recipe = "mae_token_demo"
        dataset = "shapes"
        tokenizer = "tokenizer"
        [[transfer]]
        task = "shapes_classification"
        recipes = ["a"]
        init = ["scratch", "mae_token_demo"]
    "#;

    #[test]
    fn transfers_start_from_every_pretraining_seed() {
        let suite: Suite = parse(SEEDS, "test").unwrap();
        suite.check_seeds().unwrap();
        let items = suite.items();
        let shown: Vec<_> =
            items.iter().map(|item| (item.request.seed.unwrap(), item.after, item.tokenizer)).collect();
        let expected = [
            (3, None, None),
            (4, None, None),
            (3, None, Some(0)), // the tokenizer of its seed
            (4, None, Some(1)),
            (3, None, None), // from scratch once for each seed
            (4, None, None),
            (3, Some(2), None),
            (4, Some(2), None),
            (3, Some(3), None),
            (4, Some(3), None),
        ];
        assert_eq!(shown, expected);
        assert_eq!(
            items[8].title(),
            "transfer shapes_classification · a · from mae_token_demo of seed 4 · seed 3"
        );
    }

    #[test]
    fn a_paired_transfer_starts_from_the_pretraining_of_its_seed() {
        let text = SEEDS.replace("table =", "paired = true\ntable =");
        let suite: Suite = parse(&text, "test").unwrap();
        suite.check_seeds().unwrap();
        let items = suite.items();
        let after: Vec<_> = items[4..].iter().map(|item| (item.request.seed.unwrap(), item.after)).collect();
        assert_eq!(after, [(3, None), (4, None), (3, Some(2)), (4, Some(3))]);
        let missing: Suite =
            parse(&text.replace("        seeds = [3, 4]", "        seeds = [3, 5]"), "test").unwrap();
        let error = missing.check_seeds().unwrap_err().to_string();
        assert!(error.contains("no pre-training has the seed 5"), "{error}");
    }

    #[test]
    fn every_run_has_the_dtype_of_the_suite() {
        let dtypes = |text: &str| -> Vec<Option<Dtype>> {
            let suite: Suite = parse(text, "test").unwrap();
            suite.items().iter().map(|item| item.request.dtype).collect()
        };
        let found = dtypes(&SEEDS.replace("table =", "dtype = \"bf16\"\ntable ="));
        assert!(!found.is_empty() && found.iter().all(|dtype| *dtype == Some(Dtype::Bf16)));
        assert!(dtypes(SEEDS).iter().all(Option::is_none));
    }

    #[test]
    fn a_line_with_a_seed_of_its_own_is_made_once() {
        let fixed = SEEDS.replace("name = \"tokenizer\"", "name = \"tokenizer\"\nseed = 9");
        let suite: Suite = parse(&fixed, "test").unwrap();
        suite.check_seeds().unwrap();
        let items = suite.items();
        assert_eq!(items.len(), 1 + 2 + 2 + 4);
        assert_eq!(items[0].request.seed, Some(9));
        assert_eq!([items[1].tokenizer, items[2].tokenizer], [Some(0), Some(0)]);
        let contradiction = SEEDS.replace("tokenizer = \"tokenizer\"", "tokenizer = \"tokenizer\"\nseed = 9");
        let error = parse::<Suite>(&contradiction, "test").unwrap().check_seeds().unwrap_err().to_string();
        assert!(error.contains("give `tokenizer` a seed"), "{error}");
        for (list, message) in [("[]", "`pretrain_seeds` is empty"), ("[1, 1]", "names a seed twice")] {
            let text = SEEDS.replace("pretrain_seeds = [3, 4]", &format!("pretrain_seeds = {list}"));
            let error = parse::<Suite>(&text, "test").unwrap().check_seeds().unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
    }
}
