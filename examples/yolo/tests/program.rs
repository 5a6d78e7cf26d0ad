//! The format `yolo` in the whole program.

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

const TASK: &str = "discs_and_squares_detection";

fn transfer(data: &str) -> String {
    format!("transfer --include include --task {TASK} --init scratch --data {data} --workers 1")
}

#[test]
fn it_trains_on_boxes_and_its_run_is_a_row_of_the_table() {
    let runs = runs("trains");
    succeeds(
        &format!("{} --set epochs=2 --set schedule.warmup_epochs=1", transfer("data/discs_and_squares")),
        &runs,
    );
    let table = succeeds("table yolo --include include --format csv", &runs);
    assert!(table.lines().any(|line| line.starts_with("vit_squares,scratch,")), "{table}");
}

/// A copy of the data set in which the line `line` is added to the text file of the first training image.
fn with_line(folder: &Path, line: &str) -> String {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/discs_and_squares");
    for part in ["images/train", "images/val", "labels/train", "labels/val"] {
        std::fs::create_dir_all(folder.join(part)).unwrap();
        for file in std::fs::read_dir(data.join(part)).unwrap() {
            let file = file.unwrap();
            std::fs::copy(file.path(), folder.join(part).join(file.file_name())).unwrap();
        }
    }
    std::fs::write(folder.join("labels/train/00.txt"), format!("0 0.5 0.5 0.25 0.25\n{line}\n")).unwrap();
    folder.display().to_string()
}

#[test]
fn a_wrong_line_is_named() {
    for (number, (line, message)) in [
        ("0 0.5 0.5 0.25", "line 2: has 4 fields, expected 5"),
        ("2 0.5 0.5 0.25 0.25", "line 2: label 2 is not below 2, the number of classes"),
        ("disc 0.5 0.5 0.25 0.25", "line 2: label `disc` is not a whole number"),
        ("0 32 0.5 0.25 0.25", "line 2: 32 is not a fraction of the image"),
        ("0 0.5 0.5 0.25 0", "line 2: the box has no area"),
    ]
    .into_iter()
    .enumerate()
    {
        let runs = runs(&format!("wrong_line_{number}"));
        let data = with_line(&runs.join("data"), line);
        let (code, error) = bench(&transfer(&data), Some(&runs));
        assert!(
            code != Some(0) && error.contains("labels/train/00.txt") && error.contains(message),
            "{error}"
        );
    }
}

#[test]
fn wrong_options_are_refused() {
    let runs = runs("refused");
    let manifest = std::fs::read_to_string("include/datasets/discs_and_squares/dataset.toml").unwrap();
    let folder = runs.join("mine/datasets/discs_and_squares");
    std::fs::create_dir_all(&folder).unwrap();
    for (from, to, message) in [
        ("drop_empty", "drop_emtpy", "`drop_emtpy`"),
        ("classes = \"classes.txt\"", "", "needs the class names of the manifest"),
    ] {
        std::fs::write(folder.join("dataset.toml"), manifest.replace(from, to)).unwrap();
        std::fs::write(folder.join("classes.txt"), "disc\nsquare\n").unwrap();
        let words = transfer("data/discs_and_squares").replace("--include include", "");
        let error =
            refused(&format!("{words} --include {} --include include", runs.join("mine").display()), &runs);
        let named =
            error.contains("discs_and_squares/dataset.toml") && error.contains("split.train.annotations");
        assert!(named && error.contains(message), "{error}");
    }
}
