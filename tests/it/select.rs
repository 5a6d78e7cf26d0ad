//! Choosing on a split that is not reported: what the record says, and what tables show.

use crate::program::{Sandbox, fixture, repository, stderr};
use serde_json::{Value, json};

const RUN: &str = "transfer --task own/mine/task.toml --model vit_tiny_test --recipe finetune_demo --init scratch --set epochs=3 \
                   --set batch=5 --set schedule.warmup_epochs=0 --set eval_epochs=1 --workers 1 --runs runs";

/// A task with these splits on the fixture of `shapes`.
fn sandbox(splits: &str) -> (Sandbox, String) {
    let sandbox = Sandbox::new();
    let task = std::fs::read_to_string(repository().join("tasks/shapes_classification/task.toml")).unwrap();
    let task = task
        .replace("name = \"shapes_classification\"", "name = \"mine\"")
        .replace("select = \"select\"\n", "");
    sandbox.write("own/mine/task.toml", &task.replace("eval = \"val\"", splits));
    let line = format!("{RUN} --data {}", fixture("shapes"));
    (sandbox, line)
}

fn evaluation(sandbox: &Sandbox) -> Value {
    let record = std::fs::read_to_string(sandbox.only_run("runs").join("run.json")).unwrap();
    serde_json::from_str::<Value>(&record).unwrap()["evaluation"].clone()
}

/// The same without the best score, which must be there, reached at the end of an epoch.
fn without_best(mut evaluation: Value) -> Value {
    let best = evaluation.as_object_mut().unwrap().remove("best").unwrap();
    assert!(best["value"].is_f64() && best["step"].as_u64().unwrap() > 0, "{best}");
    evaluation
}

/// Evaluations in the log on the split for choosing, and on the reported one.
fn logged(sandbox: &Sandbox) -> [usize; 2] {
    let log = std::fs::read_to_string(sandbox.only_run("runs").join("log.jsonl")).unwrap();
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let scored = lines.iter().filter(|line| line.get("scores").is_some());
    let (select, eval): (Vec<_>, Vec<_>) = scored.partition(|line| line["split"] == "select");
    [select.len(), eval.len()]
}

#[test]
fn the_best_weights_are_chosen_without_a_look_at_what_is_reported() {
    let (sandbox, line) = sandbox("select = \"train\"\neval = \"val\"");
    sandbox.ok(&line);
    let expected = json!({ "split": "val", "role": "eval", "times": 1, "best_on": "train" });
    assert_eq!(without_best(evaluation(&sandbox)), expected);
    assert_eq!(logged(&sandbox), [3, 1]);
    assert!(sandbox.only_run("runs").join("best.safetensors").is_file());
    assert!(!sandbox.ok("table --runs runs").contains("reported split"));
}

#[test]
fn more_than_one_look_is_said() {
    let (sandbox, line) = sandbox("eval = \"val\"");
    sandbox.ok(&format!("{line} --max-steps 1"));
    assert_eq!(evaluation(&sandbox)["times"], 1, "a run that is cut short is evaluated, too");
    sandbox.ok(&format!("{line} --resume"));
    let expected = json!({ "split": "val", "role": "eval", "times": 4, "best_on": "val" });
    assert_eq!(without_best(evaluation(&sandbox)), expected);
    let table = sandbox.ok("table --runs runs");
    let note = "evaluated 4 times on the reported split, and its best weights were chosen there";
    assert!(table.contains(note), "{table}");
    let error = sandbox.fails(2, &format!("{line} --report select"));
    assert!(error.contains("task `mine` has no `select`"), "{error}");
}

#[test]
fn scores_of_the_split_for_choosing_stay_out_of_tables_of_results() {
    let (sandbox, line) = sandbox("select = \"train\"\neval = \"val\"");
    sandbox.ok(&format!("{line} --report select"));
    assert_eq!(evaluation(&sandbox)["role"], "select");
    assert_eq!(evaluation(&sandbox)["split"], "train");
    let output = sandbox.run("table --runs runs");
    assert!(String::from_utf8_lossy(&output.stdout).contains("No runs yet."));
    assert!(stderr(&output).contains("split select"), "{}", stderr(&output));
    let table = "title = \"t\"\nrows = [\"split\"]\n[[column]]\ntitle = \"ft\"\nscore = \"top1\"\n\
                 [filter]\nsplit = [\"select\"]\n";
    sandbox.write("own/table.toml", table);
    let shown = sandbox.ok("table own/table.toml --runs runs");
    assert!(shown.lines().any(|line| line.trim_start().starts_with("select ")), "{shown}");
    let record = std::fs::read_to_string(sandbox.only_run("runs").join("run.json")).unwrap();
    assert!(record.contains("--report select"), "the command that makes this run");
}
