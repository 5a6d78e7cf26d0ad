//! The objective `rotation` in the whole program.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::Command;

/// An empty folder for the runs of a test.
fn runs(test: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(env!("CARGO_PKG_NAME")).join(test);
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// Runs the program with these words, split at spaces, and with `--runs`: its exit code and what it prints.
fn bench(words: &str, runs: Option<&Path>) -> (Option<i32>, String) {
    let mut command = Command::new(env!(concat!("CARGO_BIN_EXE_", env!("CARGO_PKG_NAME"))));
    command.current_dir(env!("CARGO_MANIFEST_DIR")).env_remove("BENCH_DATA").args(words.split_whitespace());
    if let Some(runs) = runs {
        command.arg("--runs").arg(runs);
    }
    let output = command.output().unwrap();
    let text =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    (output.status.code(), text)
}

/// Runs what must succeed: what it prints.
fn succeeds(words: &str, runs: &Path) -> String {
    let (code, text) = bench(words, Some(runs));
    assert_eq!(code, Some(0), "{words}\n{text}");
    text
}

/// Runs what must be refused: the message.
fn refused(words: &str, runs: &Path) -> String {
    let (code, text) = bench(words, Some(runs));
    assert_eq!(code, Some(2), "{words}\n{text}");
    text
}

/// Writes a small data set `shapes` into `runs`: its path as a flag.
fn shapes(runs: &Path) -> String {
    let data = runs.join("data");
    let make = "data make shapes --size 32 --pretrain 64 --train 20 --val 20 --out";
    let mut command = Command::new(env!("CARGO_BIN_EXE_rotation"));
    assert!(command.args(make.split_whitespace()).arg(&data).status().unwrap().success());
    format!("--data {}", data.display())
}

const PRETRAIN: &str = "pretrain --include include --recipe rotation --dataset shapes --workers 1";

/// The run whose folder begins with `stage`.
fn only_run(runs: &Path, stage: &str) -> PathBuf {
    let folders = std::fs::read_dir(runs).unwrap().map(|folder| folder.unwrap().path());
    let is_run = |folder: &PathBuf| {
        std::fs::read_to_string(folder.join("run.json"))
            .is_ok_and(|record| record.contains(&format!("\"{stage}\"")))
    };
    folders.into_iter().find(is_run).unwrap()
}

#[test]
fn it_pretrains_a_backbone_that_transfer_starts_from() {
    let runs = runs("pretrains");
    let data = shapes(&runs);
    succeeds(&format!("{PRETRAIN} {data} --set epochs=3"), &runs);
    let init = only_run(&runs, "pretrain");
    let init = init.file_name().unwrap().to_str().unwrap();
    let transfer =
        "transfer --include include --task shapes_classification --recipe linear_rotation --workers 1";
    succeeds(&format!("{transfer} {data} --init {init} --set epochs=2"), &runs);
    let table = succeeds("table rotation --include include --format csv", &runs);
    assert!(table.lines().any(|line| line.starts_with("vit_tiny_test,rotation,")), "{table}");
}

#[test]
fn what_cannot_work_is_refused() {
    let runs = runs("refused");
    let pretrain = format!("{PRETRAIN} {}", shapes(&runs));
    let error = refused(&format!("{pretrain} --set pretrain.rotations_per_image=5"), &runs);
    assert!(error.contains("pretrain.rotations_per_image is 5, expected 1 to 4"), "{error}");
    let error = refused(&format!("{pretrain} --set pretrain.rotations=2"), &runs);
    assert!(error.contains("pretrain") && error.contains("`rotations`"), "{error}");
    let (code, error) = bench(&format!("{pretrain} --set model.image=[32,16]"), Some(&runs));
    assert!(code != Some(0) && error.contains("needs square images"), "{error}");
}
