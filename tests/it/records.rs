//! Records: publishing them, finding what cannot be true, and making their runs again.

use crate::program::{Sandbox, fixture, small_pretrain, small_transfer};
use serde_json::Value;
use std::path::PathBuf;

/// Two runs of seconds, the second from the weights of the first, made by a clean program.
struct Project {
    sandbox: Sandbox,
    before: String,
    after: String,
}

impl Project {
    fn new() -> Self {
        let sandbox = Sandbox::new();
        let id = |shown: String| shown.split_whitespace().nth(1).unwrap().to_string();
        let before = id(sandbox.ok(&small_pretrain()));
        let after = id(sandbox.ok(&format!("{} --init {before}", small_transfer())));
        sandbox.write("tasks/shapes_classification/README.md", "");
        let project = Self { sandbox, before, after };
        // The program of a test may be built from an edited tree or without a repository.
        for run in [&project.before, &project.after] {
            project.edit(&project.run_json(run), |record| {
                record["environment"]["dirty"] = false.into();
                record["environment"]["commit"] = "0123456789ab".into();
            });
        }
        project
    }

    fn run_json(&self, run: &str) -> PathBuf {
        self.sandbox.path(&format!("runs/{run}/run.json"))
    }

    fn committed(&self, run: &str) -> PathBuf {
        self.sandbox.path(&format!("tasks/shapes_classification/results/{run}.json"))
    }

    /// Edits a record as someone who also computes its digest again.
    fn edit(&self, path: &PathBuf, edit: impl FnOnce(&mut Value)) {
        let mut record: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        edit(&mut record);
        record["digest"] = bench::record::digest(&record).into();
        std::fs::write(path, format!("{record:#}\n")).unwrap();
    }

    fn publish(&self) {
        self.sandbox.ok(&format!("record add {}", self.after));
        self.sandbox.write("results.md", "<!-- table: main -->\n<!-- /table -->\n");
        self.sandbox.ok("table --update results.md");
        self.sandbox.ok("table --check results.md");
    }

    /// Runs `with`, and restores the committed record of `run` afterwards.
    fn meanwhile(&self, run: &str, with: impl FnOnce(&PathBuf)) {
        let path = self.committed(run);
        let text = std::fs::read(&path).unwrap();
        with(&path);
        std::fs::write(&path, text).unwrap();
        self.sandbox.ok("table --check results.md");
    }
}

#[test]
fn a_run_is_published_once_with_the_run_that_it_starts_from() {
    let project = Project::new();
    let Project { sandbox, before, after } = &project;
    let error = sandbox.fails(2, &format!("record add {before}"));
    assert!(error.contains("belongs to no task") && error.contains("--task"), "{error}");
    let error = sandbox.fails(2, &format!("record add {before} --task flowers"));
    assert!(error.contains("there is no folder `tasks/flowers`"), "{error}");
    assert!(!project.committed(before).exists());
    let shown = sandbox.ok(&format!("record add {after}"));
    assert!(shown.lines().count() == 2 && project.committed(before).exists(), "{shown}");
    let error = sandbox.fails(2, &format!("record add runs/{after}"));
    assert!(error.contains("is there already, and records are not overwritten"), "{error}");

    let listed = sandbox.ok("record list");
    assert!(listed.contains(before) && listed.contains("top1") && !listed.contains("wrong"), "{listed}");
    let shown = sandbox.ok(&format!("record show {after}"));
    let expected = format!(
        "bench transfer --task shapes_classification --recipe finetune_demo --init {before} --seed 0 --dtype f32 \
         --set epochs=2 --set batch=5 --set schedule.warmup_epochs=1"
    );
    assert!(shown.contains(&expected), "{expected}\n{shown}");
    for part in [
        "0123456789ab",
        "rustc ",
        "blake3 of their contents",
        "starts from  mae_demo-",
        "weights      blake3",
    ] {
        assert!(shown.contains(part), "no `{part}` in\n{shown}");
    }
    let json: Value = serde_json::from_str(&sandbox.ok(&format!("record show {after} --json"))).unwrap();
    let pretrained: Value =
        serde_json::from_str(&sandbox.ok(&format!("record show {before} --json"))).unwrap();
    assert_eq!(json["init"]["hash"], pretrained["weights_hash"]);
    assert_eq!((&json["config"]["recipe"]["epochs"], &json["init"]["seed"]), (&2.into(), &0.into()));
    let error = sandbox.fails(2, "record show zzz");
    assert!(error.contains("`zzz`") && error.contains("bench record list"), "{error}");
}

#[test]
fn the_recorded_command_makes_the_same_run() {
    let project = Project::new();
    for run in [&project.before, &project.after] {
        let record: Value =
            serde_json::from_str(&std::fs::read_to_string(project.run_json(run)).unwrap()).unwrap();
        let command = record["command"].as_str().unwrap().strip_prefix("bench ").unwrap();
        let output = project.sandbox.run(command);
        let said = crate::program::stderr(&output);
        assert!(output.status.success() && said.contains("already finished"), "{command}\n{said}");
    }
    // Also of a run that was repeated from its configuration.
    let shown = project
        .sandbox
        .ok(&format!("transfer --config runs/{}/config.toml --seed 7 --max-steps 1", project.after));
    let id = shown.split_whitespace().nth(1).unwrap();
    let text = std::fs::read_to_string(project.run_json(id)).unwrap();
    assert!(
        text.contains("--recipe finetune_demo")
            && text.contains("--seed 7")
            && text.contains("--max-steps 1"),
        "{text}"
    );
}

#[test]
fn what_others_should_not_rely_on_is_not_published() {
    let project = Project::new();
    let Project { sandbox, before, after } = &project;
    let refused = |edit: &dyn Fn(&mut Value), expected: &str| {
        let path = project.run_json(after);
        let text = std::fs::read(&path).unwrap();
        project.edit(&path, edit);
        let error = sandbox.fails(2, &format!("record add {after}"));
        assert!(error.contains(after.as_str()) && error.contains(expected), "{expected}: {error}");
        assert!(!project.committed(before).exists() && !project.committed(after).exists());
        std::fs::write(&path, text).unwrap();
    };
    refused(&|r| r["environment"]["dirty"] = true.into(), "uncommitted changes");
    refused(&|r| r["environment"]["commit"] = Value::Null, "does not know its commit");
    refused(&|r| r["status"] = "truncated".into(), "not finished");
    refused(&|r| r["weights_hash"] = "00".into(), "is not the file of weights that its record describes");
    refused(&|r| r["config"]["recipe"]["epochs"] = 3.into(), "`config_hash` is not the hash of `config`");
    refused(&|r| r["task_version"] = 7.into(), "has version 7 of task");
    refused(&|r| r["init"]["run"] = "mae_gone".into(), "which has no record");
}

#[test]
fn what_cannot_be_true_makes_no_table() {
    let project = Project::new();
    project.publish();
    let Project { sandbox, before, after } = &project;
    let refused = |expected: &str| {
        let error = sandbox.fails(2, "table --check results.md");
        assert!(error.contains(expected), "{expected}: {error}");
        error
    };
    // A changed digit in a score.
    project.meanwhile(after, |path| {
        let mut record: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let top1 = record["scores"]["top1"]["value"].as_f64().unwrap();
        record["scores"]["top1"]["value"] = (top1 + 1.).into();
        std::fs::write(path, record.to_string()).unwrap();
        assert!(refused("the content was changed").contains(path.file_name().unwrap().to_str().unwrap()));
    });
    // Other initial weights, in the record of the run that made them and in that of the run that starts from them.
    let other = Value::from("ab".repeat(32));
    project.meanwhile(before, |path| {
        project.edit(path, |record| record["weights_hash"] = other.clone());
        refused("are not the weights of the record of run");
    });
    project.meanwhile(after, |path| {
        project.edit(path, |record| record["init"]["hash"] = other.clone());
        refused("`init.hash` is not that of `config`");
    });
    project.meanwhile(after, |path| {
        project.edit(path, |record| record["config_hash"] = other.clone());
        refused("its id ends in");
    });
    // An old version of the task.
    let task =
        std::fs::read_to_string(crate::program::repository().join("tasks/shapes_classification/task.toml"))
            .unwrap();
    assert!(task.contains("version = 1"));
    sandbox.write("newer/tasks/shapes_classification/task.toml", &task.replace("version = 1", "version = 2"));
    let error = sandbox.fails(2, "table --check results.md --include newer");
    assert!(error.contains("it has version 1 of task `shapes_classification`"), "{error}");
    assert!(sandbox.ok("record list --include newer").contains("wrong: it has version 1"));
}

#[test]
fn an_edited_recipe_is_marked_and_an_unmarked_table_is_out_of_date() {
    let project = Project::new();
    project.publish();
    let sandbox = &project.sandbox;
    let recipe =
        std::fs::read_to_string(crate::program::repository().join("configs/transfer/finetune_demo.toml"))
            .unwrap();
    let edited = recipe.replace("weight_decay = 0.05", "weight_decay = 0.1");
    assert_ne!(edited, recipe);
    sandbox.write("own/configs/transfer/finetune_demo.toml", &edited);
    let error = sandbox.fails(2, "table --check results.md --include own");
    assert!(error.contains("out of date"), "{error}");
    let mark = "recipe `finetune_demo` has changed since: optim.weight_decay";
    assert!(sandbox.ok("table main --committed --include own").contains(mark));
    sandbox.ok("table --update results.md --include own");
    sandbox.ok("table --check results.md --include own");
    // Other operators.
    project.edit(&project.committed(&project.after), |record| record["environment"]["sources"] = "00".into());
    let error = sandbox.fails(2, "table --check results.md");
    assert!(error.contains("out of date"), "{error}");
    assert!(
        sandbox.ok("table main --committed").contains("made by 0123456789ab; the program has changed since")
    );
}

#[test]
fn a_verified_run_gives_the_same_bytes_and_a_forged_score_is_found() {
    let project = Project::new();
    project.publish();
    let Project { sandbox, before, after } = &project;
    let data = format!("--data {}", fixture("shapes"));
    // The weights are in `runs`.
    let shown = sandbox.ok(&format!("record verify {after} {data}"));
    assert!(shown.contains(&format!("verified: {after}")) && shown.contains("the same bytes"), "{shown}");
    // They are made again.
    let shown = sandbox.ok(&format!("record verify --all {data} --runs nowhere --out again"));
    assert!(shown.contains("2 of 2 verified, 0 failed"), "{shown}");
    assert!(sandbox.path(&format!("again/{after}/model.safetensors")).is_file());
    // They are not there.
    let output = sandbox.run(&format!("record verify {after} {data} --runs nowhere"));
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(3), "{shown}");
    assert!(
        shown.contains("not verifiable")
            && shown.contains("are not on this machine")
            && shown.contains("--runs"),
        "{shown}"
    );
    // The data are not there.
    let output = sandbox.run(&format!("record verify {before}"));
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.code() == Some(3) && shown.contains("BENCH_DATA"), "{shown}");
    let output = sandbox.run("record verify --sample 1 --seed 3");
    assert!(String::from_utf8_lossy(&output.stdout).contains("0 of 1 verified, 0 failed, 1 not verifiable"));

    project.edit(&project.committed(after), |record| {
        let top1 = record["scores"]["top1"]["value"].as_f64().unwrap();
        record["scores"]["top1"]["value"] = (top1 + 0.5).into();
    });
    let output = sandbox.run(&format!("record verify {after} {data}"));
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "{shown}");
    assert!(
        shown.contains("FAILED") && shown.contains("the weights are the same, but not the scores"),
        "{shown}"
    );
}

#[test]
fn a_run_does_not_start_from_other_weights_than_its_source_recorded() {
    let project = Project::new();
    let Project { sandbox, before, .. } = &project;
    let weights = sandbox.path(&format!("runs/{before}/model.safetensors"));
    let mut bytes = std::fs::read(&weights).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&weights, bytes).unwrap();
    let start = |init: &str| format!("{} --seed 5 --init {init}", small_transfer());
    let error = sandbox.fails(2, &start(before));
    assert!(
        error.contains("is not the file of weights that the record of run") && error.contains("by its path"),
        "{error}"
    );
    sandbox.ok(&start(&format!("runs/{before}/model.safetensors")));
}

#[test]
fn the_committed_records_hold() {
    let sandbox = Sandbox::new();
    let tasks = crate::program::repository().join("tasks");
    let listed = sandbox.ok(&format!("record list --tasks {}", tasks.display()));
    assert!(listed.lines().filter(|line| !line.starts_with(' ')).count() > 50, "{listed}");
    assert!(!listed.contains("wrong:"), "{listed}");
    // Those of the old layout say so, and cannot be made again.
    let old = "upernet_demo-shapes_segmentation-vit_micro8-token-s0-744e1617";
    let output = sandbox.run(&format!("record verify {old} --tasks {}", tasks.display()));
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(3), "{shown}");
    assert!(shown.contains("before records held configurations; make the run again"), "{shown}");
}

#[test]
fn a_configuration_keeps_its_hash_as_json() {
    use bench::config::{Choice, Library, RunConfig, Stage};
    let library = Library::default();
    let registry = bench::registry::Registry::builtin();
    let project = Project::new();
    let text = std::fs::read_to_string(project.sandbox.path(&format!("runs/{}/config.toml", project.after)))
        .unwrap();
    let some: RunConfig = toml::from_str(&text).unwrap();
    let choice = Choice { library: &library, owners: registry.components(), overrides: &[] };
    let mut count = 0;
    for stage in [Stage::Pretrain, Stage::Transfer] {
        for recipe in library.list(&format!("configs/{}", stage.as_str())) {
            for model in library.list("configs/models") {
                let recipe = choice.recipe(stage, &recipe, (&model, "")).unwrap();
                let config = RunConfig { recipe, model: choice.model(&model, None).unwrap(), ..some.clone() };
                let json = config.to_json().unwrap().to_string();
                let json: Value = serde_json::from_str(&json).unwrap();
                assert!(RunConfig::has_hash(&json, &config.hash().unwrap()).unwrap(), "{model}");
                let read: RunConfig = serde_json::from_value(json).unwrap();
                assert_eq!(read.hash().unwrap(), config.hash().unwrap());
                count += 1;
            }
        }
    }
    assert!(count > 500, "{count}");
}
