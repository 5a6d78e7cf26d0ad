//! The recipes of today are those with which the numbers of README.md and docs/results.md were made, or the tables say that
//! they are not. Configurations are compared here without [`bench::record::Today`], which makes the marks.

use crate::statistics::{committed, document};
use bench::config::{Choice, Library, ModelConfig, Recipe, SCRATCH, Stage};
use bench::record::table::TableSpec;
use bench::record::{RunRecord, Status};
use serde_json::Value;

/// Whether the files of `library` give the recipe and the model in the configuration of `record`.
fn as_today(record: &RunRecord, library: &Library) -> bool {
    let registry = bench::registry::Registry::builtin();
    let config = record.config.as_ref().unwrap();
    let text = |key: &str| config["run"][key].as_str().unwrap_or_default();
    let (Ok(recipe), Ok(mut model)) = (
        serde_json::from_value::<Recipe>(config["recipe"].clone()),
        serde_json::from_value::<ModelConfig>(config["model"].clone()),
    ) else {
        return false;
    };
    let choice = Choice { library, owners: registry.components(), overrides: &record.overrides };
    let stage = if record.stage == "transfer" { Stage::Transfer } else { Stage::Pretrain };
    // The record of a pre-training does not say for which task it was made.
    let tasks = match stage {
        Stage::Transfer => vec![text("task").to_string()],
        Stage::Pretrain => [vec![String::new()], library.list("tasks")].concat(),
    };
    let same_recipe = tasks.iter().any(|task| {
        choice.recipe(stage, text("recipe"), (text("model"), task)).is_ok_and(|today| today == recipe)
    });
    // Weights bring their model with them, and a recipe may set the size of the input.
    let today = choice.model(text("model"), None).unwrap();
    model.image = today.image;
    same_recipe && (text("init") != SCRATCH || today == model)
}

/// The records behind the cells of a table.
fn shown<'a>(spec: &TableSpec, records: &'a [RunRecord]) -> Vec<&'a RunRecord> {
    let selected = |run: &&RunRecord| {
        let column = spec.columns.iter().any(|column| column.selection.allows_run(run));
        run.stage == "transfer" && run.status == Status::Finished && spec.filter.allows_run(run) && column
    };
    records.iter().filter(selected).collect()
}

/// The tables of `document` that show numbers of another recipe without saying so, and the number of records examined.
fn unmarked(document: &str, records: &[RunRecord], library: &Library) -> (Vec<String>, usize) {
    let (mut faults, mut count) = (vec![], 0);
    for block in document.split("<!-- table: ").skip(1) {
        let (name, text) = block.split_once(" -->").unwrap();
        if name == "speed" {
            continue;
        }
        let text = text.split_once("<!-- /table -->").unwrap().0;
        for run in shown(&TableSpec::load(library, name).unwrap(), records) {
            let before = records.iter().filter(|other| run.init.run.as_ref() == Some(&other.id));
            for record in before.chain([run]) {
                count += 1;
                let mark = match record.config {
                    None => format!("made by {}, before records held", record.environment.made_by()),
                    Some(_) if as_today(record, library) => continue,
                    Some(_) => format!("recipe `{}` has changed since", record.recipe),
                };
                if !text.contains(&mark) {
                    faults.push(format!("table {name}, record {}: no mark `{mark} …`", record.id));
                }
            }
        }
    }
    (faults, count)
}

#[test]
fn the_tables_mark_records_of_other_recipes_than_those_of_today() {
    let records = committed();
    let mut total = 0;
    for name in ["README.md", "docs/results.md"] {
        let (faults, count) = unmarked(&document(name), &records, &Library::default());
        assert_eq!(faults, Vec::<String>::new(), "{name}: run `bench table --update {name}`");
        total += count;
    }
    assert!(total > 20, "{total} records");
}

#[test]
fn a_changed_recipe_and_a_missing_mark_are_found() {
    let folder = tempfile::tempdir().unwrap();
    let library = Library::new(&[folder.path().to_path_buf()]).unwrap();
    let write = |path: &str, text: &str| {
        let path = folder.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    let records = committed();
    let (record, before) = records
        .iter()
        .filter(|run| run.config.is_some() && run.stage == "transfer")
        .find_map(|run| Some((run, records.iter().find(|other| run.init.run.as_ref() == Some(&other.id))?)))
        .unwrap();
    write(
        "configs/tables/one.toml",
        &format!(
            "title = \"One\"\nrows = [\"model\"]\n[filter]\nmodel = [\"{}\"]\nrecipe = [\"{}\"]\ninit = [\"{}\"]\n[[column]]\ntitle = \"score\"\n",
            record.model, record.recipe, record.init.label,
        ),
    );
    // The recipes of the two records, written out as they were.
    let recipe = |record: &RunRecord, edit: &dyn Fn(&mut Value)| {
        let mut config = record.config.clone().unwrap();
        // `--set` is applied again.
        edit(&mut config["recipe"]);
        let path = format!("configs/{}/{}.toml", record.stage, record.recipe);
        write(&path, &toml::to_string(&config["recipe"]).unwrap());
    };
    let mut examined = records.clone();
    examined.retain(|run| [&record.id, &before.id].contains(&&run.id));
    let faults = |text: &str| {
        let document = format!("<!-- table: one -->\n{text}\n<!-- /table -->");
        let (faults, count) = unmarked(&document, &examined, &library);
        assert_eq!(count, 2);
        faults.len()
    };
    let set = |key: &'static str, value: f64| move |recipe: &mut Value| recipe["optim"][key] = value.into();
    recipe(record, &|_| {});
    recipe(before, &|_| {});
    assert_eq!(faults("| 1 |"), 0, "the recipes are those of the records");
    recipe(record, &set("weight_decay", 0.123));
    assert_eq!(faults("| 1 |"), 1);
    assert_eq!(faults(&format!("- recipe `{}` has changed since: optim.weight_decay", record.recipe)), 0);
    recipe(before, &set("eps", 0.5)); // which no suite sets
    assert_eq!(faults(&format!("- recipe `{}` has changed since: optim.weight_decay", record.recipe)), 1);
    // A record without a configuration.
    examined[0].config = None;
    let document = "<!-- table: one -->\n<!-- /table -->";
    let (faults, _) = unmarked(document, &examined, &library);
    assert!(faults.iter().any(|fault| fault.contains("before records held")), "{faults:?}");
}
