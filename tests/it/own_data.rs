//! `bench transfer --data DIR` and `bench task new`: folders of every layout, without a manifest.

use crate::program::{Sandbox, fixture, stderr};
use serde_json::Value;
use std::path::Path;

/// Copies the files of a folder of the fixture of `shapes`.
fn copy(sandbox: &Sandbox, from: &str, to: &str) {
    let (from, to) = (Path::new(&fixture("shapes")).join(from), sandbox.path(to));
    std::fs::create_dir_all(&to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        match entry.path().is_dir() {
            true => copy(
                sandbox,
                &entry.path().strip_prefix(fixture("shapes")).unwrap().display().to_string(),
                &to.join(entry.file_name())
                    .strip_prefix(sandbox.folder.path())
                    .unwrap()
                    .display()
                    .to_string(),
            ),
            false => drop(std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap()),
        }
    }
}

/// Folders of class folders, of COCO files, and of images and masks.
fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new();
    copy(&sandbox, "classification/train", "flowers/train");
    copy(&sandbox, "classification/val", "flowers/val");
    copy(&sandbox, "train/images", "parts/train/images");
    copy(&sandbox, "val/images", "parts/val/images");
    for split in ["train", "val"] {
        let file = format!("annotations/instances_{split}.json");
        let text = std::fs::read_to_string(Path::new(&fixture("shapes")).join(&file)).unwrap();
        sandbox.write(&format!("parts/{file}"), &text);
    }
    copy(&sandbox, "train/images", "regions/images");
    copy(&sandbox, "semantic/train", "regions/masks");
    sandbox
}

/// Two steps of a small model; returns what the program says beside its result, and the record.
fn transfer(sandbox: &Sandbox, flags: &str) -> (String, Value) {
    let line = format!("transfer --model vit_tiny_test --init scratch --max-steps 2 --workers 1 {flags}");
    let before = runs(sandbox);
    let output = sandbox.run(&line);
    assert!(output.status.success(), "bench {line}\n{}", stderr(&output));
    let run = runs(sandbox)
        .into_iter()
        .find(|run| !before.contains(run))
        .unwrap_or_else(|| panic!("{line}: no run"));
    let record = std::fs::read_to_string(sandbox.path("runs").join(run).join("run.json")).unwrap();
    (stderr(&output), serde_json::from_str(&record).unwrap())
}

/// Names of the folders of runs.
fn runs(sandbox: &Sandbox) -> Vec<String> {
    let entries = std::fs::read_dir(sandbox.path("runs")).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.path().join("config.toml").is_file())
        .map(|e| e.file_name().into_string().unwrap())
        .collect()
}

fn read(sandbox: &Sandbox, file: &str) -> String {
    std::fs::read_to_string(sandbox.path(file)).unwrap_or_else(|e| panic!("{file}: {e}"))
}

#[test]
fn class_folders_are_classified() {
    let sandbox = sandbox();
    let (said, record) = transfer(&sandbox, "--data flowers");
    for words in [
        "flowers: classification (class folders: `train` has 10 folders with images",
        "10 classes; train 10 images; val 10 images to score",
        "task `flowers` written: `runs/own/flowers/datasets/flowers/dataset.toml`",
        "10 training images: batch 2, 100 epochs of 5 steps, warm-up over 8.33",
    ] {
        assert!(said.contains(words), "{words}\n{said}");
    }
    assert_eq!(record["task"], "flowers");
    assert!(record["scores"]["top1"].is_object(), "{}", record["scores"]);
    // The record's command repeats the run, and evaluation finds the task.
    let command =
        record["command"].as_str().map(String::from).unwrap_or_else(|| record["command"].to_string());
    for words in ["batch=2", "epochs=100", "schedule.warmup_epochs=8.33", "--task", "flowers", "own/flowers"]
    {
        assert!(command.contains(words), "{command}");
    }
    let id = record["id"].as_str().unwrap();
    sandbox.ok(&format!("eval {id}"));
    sandbox.ok("table");
    // Again: the same run, which goes on.
    let line =
        "transfer --model vit_tiny_test --init scratch --data flowers --max-steps 3 --workers 1 --resume";
    let again = sandbox.run(line);
    assert!(again.status.success(), "{}", stderr(&again));
    assert!(
        stderr(&again).contains("task `flowers` unchanged") && stderr(&again).contains(id),
        "{}",
        stderr(&again)
    );
    assert_eq!(runs(&sandbox).len(), 1);
}

#[test]
fn values_that_are_given_stay_and_others_fit_the_recipe() {
    let sandbox = sandbox();
    let (said, record) = transfer(&sandbox, "--data flowers --recipe linear_small --set batch=5 --epochs 7");
    assert!(said.contains("batch 5, 7 epochs of 2 steps"), "{said}");
    let overrides = record["config"]["run"]["overrides"].to_string();
    assert_eq!(overrides, "[\"batch=5\",\"epochs=7\"]");
    let error = sandbox.fails(2, "transfer --data flowers --recipe maskrcnn_small --init scratch");
    assert!(error.contains("maskrcnn_small"), "{error}");
    assert!(runs(&sandbox).len() == 1 && !error.contains("panicked"));
    // k-nearest neighbours are fitted without steps.
    let output =
        sandbox.run("transfer --data flowers --recipe knn --init scratch --model vit_tiny_test --workers 1");
    assert!(output.status.success() && stderr(&output).contains("fitted in one pass"), "{}", stderr(&output));
}

#[test]
fn coco_files_are_detected() {
    let sandbox = sandbox();
    let (said, record) = transfer(&sandbox, "--data parts");
    assert!(said.contains("detection (COCO files: `annotations/instances_train.json` has"), "{said}");
    assert!(record["scores"]["mask_ap"].is_object(), "every object has an outline: {}", record["scores"]);
    let dataset = read(&sandbox, "runs/own/parts/datasets/parts/dataset.toml");
    assert!(
        dataset.contains("images = \"train/images\"") && dataset.contains("drop_empty = true"),
        "{dataset}"
    );
    sandbox.ok("data check parts --data parts --include runs/own/parts --decode");
    sandbox.ok("task check parts --data parts --include runs/own/parts");
}

#[test]
fn images_with_masks_are_segmented_and_a_part_is_held_out() {
    let sandbox = sandbox();
    sandbox.write(
        "regions/classes.txt",
        "background\narrow\ncircle\ncrescent\ncross\nheart\npentagon\nring\nsquare\nstar\ntriangle\n",
    );
    let (said, record) = transfer(&sandbox, "--data regions --set transfer.image=[32,32]");
    for words in [
        "segmentation (images and masks: 11 images in `images` have masks in `masks`)",
        "class names are those of `classes.txt`",
        "11 classes; train 9 images; val 2 images to score",
        "1 of 5 images is held out (`val`) and never trained on",
    ] {
        assert!(said.contains(words), "{words}\n{said}");
    }
    assert!(record["scores"]["miou"].is_object());
    let dataset = read(&sandbox, "runs/own/regions/datasets/regions/dataset.toml");
    assert!(dataset.contains("folds = { of = 5, keep = [0, 1, 2, 3] }"), "{dataset}");
    sandbox.ok("data check regions --data regions --include runs/own/regions --decode");
}

#[test]
fn a_table_of_labels_is_classified_and_the_task_saved() {
    let sandbox = sandbox();
    let mut rows = String::from("file;label\n");
    let mut images: Vec<_> =
        std::fs::read_dir(sandbox.path("parts/train/images")).unwrap().map(|e| e.unwrap()).collect();
    images.sort_by_key(|entry| entry.file_name());
    for (k, image) in images.iter().enumerate() {
        let name = image.file_name().into_string().unwrap();
        std::fs::create_dir_all(sandbox.path("birds")).unwrap();
        std::fs::copy(image.path(), sandbox.path("birds").join(&name)).unwrap();
        rows += &format!("{name};{}\n", ["robin", "wren"][k % 2]);
    }
    sandbox.write("birds/labels.csv", &rows);
    let (said, record) = transfer(&sandbox, "--data birds --save-task my-birds");
    assert!(
        said.contains("classification (table of labels: `labels.csv` gives 11 images one of 2 labels)"),
        "{said}"
    );
    assert_eq!(record["task"], "my-birds");
    assert!(read(&sandbox, "datasets/my-birds/dataset.toml").contains("delimiter = \";\""));
    // It is a task like any other, and what somebody has written in it stays.
    sandbox.ok("task check my-birds --data birds --include .");
    let task =
        read(&sandbox, "tasks/my-birds/task.toml").replace("primary = \"top1\"", "primary = \"top1\" # mine");
    sandbox.write("tasks/my-birds/task.toml", &task);
    let error = sandbox.fails(2, "transfer --data birds --save-task my-birds --init scratch");
    assert!(error.contains("tasks/my-birds/task.toml` has been edited and is not overwritten"), "{error}");
    assert_eq!(read(&sandbox, "tasks/my-birds/task.toml"), task);
    let line = "transfer --task my-birds --data birds --include . --model vit_tiny_test --init scratch --max-steps 1 --set batch=4";
    sandbox.ok(line);
}

#[test]
fn a_task_is_written_without_a_run_and_never_under_a_name_that_is_taken() {
    let sandbox = sandbox();
    sandbox.ok("task new parts_new --kind detection --data parts --include mine");
    let task = read(&sandbox, "mine/tasks/parts_new/task.toml");
    for words in [
        "kind = \"detection\"",
        "recipe = \"maskrcnn_small\"",
        "masks = true",
        "op = \"resize_longest\"",
        "--set",
    ] {
        assert!(task.contains(words), "{task}");
    }
    assert!(sandbox.ok("task show parts_new --include mine").contains("box_ap"));
    let error = sandbox.fails(2, "task new coco --data parts");
    assert!(error.contains("of the program is called `coco`"), "{error}");
    let error = sandbox.fails(2, "task new x --data parts --kind segmentation");
    assert!(error.contains("COCO files (detection): found, but not asked for"), "{error}");
    assert!(!sandbox.path("tasks/x").exists());
    // A folder with the name of a task of the program.
    std::fs::rename(sandbox.path("flowers"), sandbox.path("imagenet")).unwrap();
    let (said, record) = transfer(&sandbox, "--data imagenet");
    assert!(said.contains("the one of this folder is called `imagenet_own`"), "{said}");
    assert_eq!(record["task"], "imagenet_own");
    // New images: the file is written anew. Another folder of the name: it is not.
    let image =
        std::fs::read_dir(sandbox.path("imagenet/train/arrow")).unwrap().next().unwrap().unwrap().path();
    std::fs::copy(&image, image.with_file_name("more.png")).unwrap();
    let (said, _) = transfer(&sandbox, "--data imagenet --seed 1");
    assert!(said.contains("task `imagenet_own` written anew, because the data have changed"), "{said}");
    copy(&sandbox, "classification/val", "other/imagenet");
    let error = sandbox.fails(2, "transfer --data other/imagenet --init scratch");
    assert!(error.contains("too few images to hold some out"), "{error}");
    copy(&sandbox, "classification/train", "other/imagenet");
    let error = sandbox.fails(2, "transfer --data other/imagenet --init scratch");
    assert!(error.contains("was made of another folder") && error.contains("--save-task"), "{error}");
}

#[test]
fn folders_without_labels_and_requests_without_sense_are_refused() {
    let sandbox = sandbox();
    let error = sandbox.fails(2, "transfer --data parts/train/images --init scratch");
    assert!(
        error.contains("cannot tell how the images are labelled") && error.contains("it holds 11 images"),
        "{error}"
    );
    assert!(sandbox.fails(2, "transfer --data nowhere").contains("nowhere: there is no such folder"));
    assert!(sandbox.fails(2, "transfer --data parts --task coco --kind detection").contains("--kind"));
    assert!(sandbox.fails(2, "transfer --kind detection").contains("--data"));
    assert!(!sandbox.path("runs").exists(), "nothing was written");
}
