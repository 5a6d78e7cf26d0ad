//! The backbone `mixer` in the whole program.

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
    let make = "data make shapes --size 32 --pretrain 1 --train 20 --val 10 --out";
    let mut command = Command::new(env!("CARGO_BIN_EXE_mixer"));
    assert!(command.args(make.split_whitespace()).arg(&data).status().unwrap().success());
    format!("--data {}", data.display())
}

const TRANSFER: &str = "transfer --include include --task shapes_classification --recipe mixer --workers 1";

#[test]
fn it_trains_from_scratch_and_its_weights_are_initial_weights() {
    let runs = runs("trains");
    let transfer = format!("{TRANSFER} {} --set epochs=2 --set schedule.warmup_epochs=1", shapes(&runs));
    succeeds(&format!("{transfer} --init scratch"), &runs);
    let table = succeeds("table mixer --include include --format csv", &runs);
    assert!(table.lines().any(|line| line.starts_with("mixer_tiny,scratch,")), "{table}");

    let folders = std::fs::read_dir(&runs).unwrap().map(|folder| folder.unwrap().path());
    let run = folders.into_iter().find(|folder| folder.join("run.json").exists()).unwrap();
    // One block learns, the other is frozen; the mean of the last block's tokens is classified.
    let partial = "--set transfer.tune={blocks=1} --set transfer.head.pool=mean";
    succeeds(&format!("{transfer} {partial} --init {}", run.display()), &runs);
}

#[test]
fn a_segmentation_head_reads_its_taps() {
    let runs = runs("segmentation");
    let head =
        "--task shapes_segmentation --recipe upernet_demo --model mixer_tiny --init scratch --workers 1";
    let schedule = "--set epochs=1 --set batch=20 --set schedule.warmup_epochs=0";
    succeeds(&format!("transfer --include include {head} {schedule} {}", shapes(&runs)), &runs);
}

#[test]
fn the_published_model_has_the_size_of_the_paper() {
    let (code, text) = bench("model show mixer_b16 --include include", None);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("59.1"), "59 million parameters with the backbone alone: {text}");
}

#[test]
fn wrong_options_are_refused() {
    let runs = runs("refused");
    let transfer = format!("{TRANSFER} {} --init scratch", shapes(&runs));
    let error = refused(&format!("{transfer} --set model.options.token_hidden=0"), &runs);
    assert!(error.contains("mixer") && error.contains("options.token_hidden is 0"), "{error}");
    let error = refused(&format!("{transfer} --set model.options.tokens=1"), &runs);
    assert!(error.contains("[options] of backbone `mixer`") && error.contains("`tokens`"), "{error}");
    let error = refused(&format!("{transfer} --set model.heads=2"), &runs);
    assert!(error.contains("`heads`"), "{error}");
}
