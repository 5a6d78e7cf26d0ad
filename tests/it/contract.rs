//! What every task of `tasks/` keeps to, by its fixture: it trains with a finite, falling loss, evaluation returns the
//! declared scores, and a perfect prediction scores the maximum.

use crate::program::{Sandbox, fixture, repository};
use std::path::Path;

/// Names of folders, sorted.
fn folders(of: &str) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(repository().join(of))
        .unwrap()
        .map(|e| e.unwrap())
        .filter(|e| e.path().is_dir())
        .map(|e| e.file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// A folder whose entries are the fixtures, by name of the data set.
fn bench_data(sandbox: &Sandbox) -> std::path::PathBuf {
    let root = sandbox.path("data");
    std::fs::create_dir(&root).unwrap();
    for name in folders("datasets") {
        std::os::unix::fs::symlink(fixture(&name), root.join(name)).unwrap();
    }
    root
}

#[test]
fn every_task_trains_on_its_fixture_and_can_reach_its_maximum() {
    let sandbox = Sandbox::new();
    let data = bench_data(&sandbox);
    for task in folders("tasks") {
        let (recipe, more) = match kind(&task).as_str() {
            "detection" => ("maskrcnn_demo", "--set model.depth=4"),
            "segmentation" => ("upernet_demo", ""),
            _ => ("finetune_small", ""),
        };
        let line = format!(
            "transfer --task {task} --model vit_tiny_test --recipe {recipe} --init scratch --runs {task} \
             --set epochs=12 --set batch=2 --set schedule.warmup_epochs=0 --set drop_path=0.0 \
             --set schedule.name=constant --set optim.base_lr=0.2 {more}"
        );
        let output = sandbox.command(&line).env("BENCH_DATA", &data).output().unwrap();
        assert!(output.status.success(), "{task}: {}", crate::program::stderr(&output));
        let run = sandbox.only_run(&task);
        let log = std::fs::read_to_string(run.join("log.jsonl")).unwrap();
        let losses: Vec<f64> = log.lines().filter_map(total_loss).collect();
        assert!(losses.iter().all(|loss| loss.is_finite()), "{task}: {losses:?}");
        let quarter = losses.len() / 4;
        let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
        let (first, last) = (mean(&losses[..quarter]), mean(&losses[losses.len() - quarter..]));
        assert!(last < first, "{task}: loss from {first} to {last}");

        let check = sandbox.command(&format!("task check {task}")).env("BENCH_DATA", &data).output().unwrap();
        let said = String::from_utf8(check.stdout).unwrap();
        let best: f64 = said.trim().rsplit(' ').next().unwrap().parse().unwrap();
        assert!(check.status.success() && (best - 100.).abs() < 1e-9, "{task}: {said}");
    }
}

/// The kind that a manifest names.
fn kind(task: &str) -> String {
    let path = repository().join("tasks").join(task).join("task.toml");
    let manifest: toml::Table = std::fs::read_to_string(path).unwrap().parse().unwrap();
    manifest["kind"].as_str().unwrap().into()
}

/// The sum of the losses in a line of the log; `None` in a line of scores.
fn total_loss(line: &str) -> Option<f64> {
    let line: serde_json::Value = serde_json::from_str(line).unwrap();
    let is_loss = |key: &str| key.starts_with("loss_") || key == "cross_entropy";
    let losses = line.as_object()?.iter().filter(|(key, _)| is_loss(key));
    losses.map(|(_, loss)| loss.as_f64()).reduce(|sum, loss| Some(sum? + loss?)).flatten()
}

#[test]
fn every_task_and_data_set_has_its_files() {
    for task in folders("tasks") {
        for file in ["task.toml", "README.md", "reference.toml"] {
            let path = repository().join("tasks").join(&task).join(file);
            let optional = file == "reference.toml"; // nothing is published on a set of our own
            assert!(path.is_file() || optional, "{}", path.display());
        }
    }
    for dataset in folders("datasets") {
        let folder = repository().join("datasets").join(&dataset);
        for file in ["dataset.toml", "README.md"] {
            assert!(folder.join(file).is_file(), "{}", folder.join(file).display());
        }
        let bytes = size(&folder.join("fixture"));
        assert!(bytes > 0 && bytes < 150_000, "{dataset}: a fixture of {bytes} bytes");
    }
}

fn size(path: &Path) -> u64 {
    if path.is_dir() {
        let entries = std::fs::read_dir(path).unwrap();
        return entries.map(|e| size(&e.unwrap().path())).sum();
    }
    path.metadata().unwrap().len()
}
