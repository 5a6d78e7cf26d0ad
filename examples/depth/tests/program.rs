//! The kind `depth` in the whole program.

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
fn bench(words: &str, runs: &Path) -> (Option<i32>, String) {
    let mut command = Command::new(env!(concat!("CARGO_BIN_EXE_", env!("CARGO_PKG_NAME"))));
    command.current_dir(env!("CARGO_MANIFEST_DIR")).env_remove("BENCH_DATA").args(words.split_whitespace());
    let output = command.arg("--runs").arg(runs).output().unwrap();
    let text =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    (output.status.code(), text)
}

/// Runs what must succeed: what it prints.
fn succeeds(words: &str, runs: &Path) -> String {
    let (code, text) = bench(words, runs);
    assert_eq!(code, Some(0), "{words}\n{text}");
    text
}

/// Runs what must be refused: the message.
fn refused(words: &str, runs: &Path) -> String {
    let (code, text) = bench(words, runs);
    assert_eq!(code, Some(2), "{words}\n{text}");
    text
}

const TRANSFER: &str =
    "transfer --include include --task scenes_depth --init scratch --data data/scenes --workers 1";

/// `abs_rel` of a constant prediction: the mean depth of the validation split for every pixel.
fn error_of_the_mean() -> f64 {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/scenes/val/depth");
    let images: Vec<Vec<f64>> = std::fs::read_dir(folder)
        .unwrap()
        .map(|file| {
            let bytes = std::fs::read(file.unwrap().path()).unwrap();
            let numbers = bytes[128..].chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()));
            numbers.map(f64::from).filter(|depth| !depth.is_nan()).collect()
        })
        .collect();
    let mean = |values: Vec<f64>| values.iter().sum::<f64>() / values.len() as f64;
    let guess = mean(images.concat());
    let error = |depths: &Vec<f64>| mean(depths.iter().map(|depth| (guess - depth).abs() / depth).collect());
    mean(images.iter().map(error).collect())
}

#[test]
fn it_learns_depth_and_its_run_is_a_row_of_the_table() {
    let runs = runs("learns");
    let constant = error_of_the_mean();
    succeeds(TRANSFER, &runs);
    let table = succeeds("table depth --include include --format csv", &runs);
    let score = |column: &str| -> f64 {
        let start = format!("vit_scenes,scratch,ours,{column},");
        let row = table.lines().find_map(|line| line.strip_prefix(&start)).expect(&table);
        row.split(',').next().unwrap().parse().unwrap()
    };
    let [abs_rel, rmse, delta1] = ["AbsRel", "RMSE", "δ < 1.25"].map(score);
    assert!(abs_rel < 0.5 * constant, "AbsRel {abs_rel}, of the mean depth {constant}");
    assert!(rmse < 1.5 && delta1 > 70., "{table}");
}

#[test]
fn the_best_scores_can_be_reached() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_depth"));
    command.current_dir(env!("CARGO_MANIFEST_DIR")).env("BENCH_DATA", "data");
    let output = command.args(["task", "check", "scenes_depth", "--include", "include"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && !text.contains("not checked"), "{text}");
}

#[test]
fn wrong_options_are_refused() {
    let runs = runs("refused");
    let error = refused(&format!("{TRANSFER} --set transfer.head.lambda=2"), &runs);
    assert!(error.contains("transfer.head.lambda is 2, expected 0 to 1"), "{error}");
    let error = refused(&format!("{TRANSFER} --set transfer.head.lambad=0"), &runs);
    assert!(error.contains("transfer.head") && error.contains("lambad"), "{error}");

    let task = std::fs::read_to_string("include/tasks/scenes_depth/task.toml").unwrap();
    let folder = runs.join("mine/tasks/scenes_depth");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("task.toml"), task.replace("max_depth", "max_detph")).unwrap();
    let mine = format!("--include {} --include include", runs.join("mine").display());
    let error = refused(&TRANSFER.replace("--include include", &mine), &runs);
    assert!(error.contains("scenes_depth/task.toml") && error.contains("max_detph"), "{error}");
}
