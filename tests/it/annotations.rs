//! Data as people have them, given to the program: read right, or refused before anything is trained with a message that
//! names file, place and remedy.

use crate::program::Sandbox;
use serde_json::{Value, json};
use std::path::Path;

const RECIPES: &str =
    "--init scratch --model vit_tiny_test --workers 2 --max-steps 1 --include mine --data data";

/// A task and a data set `toy` in `mine`, with this kind and these tables of the splits.
fn toy(sandbox: &Sandbox, kind: &str, splits: &str) {
    let (primary, recipe) = match kind {
        "detection" => ("box_ap", "maskrcnn_demo"),
        "segmentation" => ("miou", "upernet_demo"),
        _ => ("top1", "finetune_demo"),
    };
    let eval = match kind {
        "detection" => "[[eval]]\nop = \"resize_longest\"\n[[eval]]\nop = \"pad\"\n",
        "segmentation" => "[[eval]]\nop = \"resize\"\ninterpolation = \"bilinear\"\n",
        _ => "[[eval]]\nop = \"resize_short\"\ncrop_ratio = 0.875\n[[eval]]\nop = \"center_crop\"\n",
    };
    let tasks: &[&str] = if kind == "detection" { &["toy", "boxes"] } else { &["toy"] };
    for name in tasks {
        let options = if kind == "detection" { format!("masks = {}", *name == "toy") } else { String::new() };
        let task = format!(
            "name = \"{name}\"\nversion = 1\nkind = \"{kind}\"\ndataset = \"toy\"\nprimary = \"{primary}\"\n\
             recipe = \"{recipe}\"\n[splits]\ntrain = \"train\"\neval = \"val\"\n[options]\n{options}\n{eval}"
        );
        sandbox.write(&format!("mine/tasks/{name}/task.toml"), &task);
    }
    let manifest = format!("name = \"toy\"\nversion = \"1\"\nlicense = \"none\"\n{splits}\n");
    sandbox.write("mine/datasets/toy/dataset.toml", &manifest);
}

/// Writes an image of 64×48 pixels with a colour that depends on `seed`.
fn image(path: &Path, seed: u8) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let picture = image::RgbImage::from_fn(64, 48, |x, y| {
        image::Rgb([seed.wrapping_mul(53), (x * 3) as u8, (y * 5) as u8 ^ seed])
    });
    picture.save_with_format(path, image::ImageFormat::Png).unwrap();
}

fn detection(sandbox: &Sandbox, keys: &str) {
    let split = |name: &str| {
        format!(
            "[split.{name}]\nimages = \"images\"\nannotations = {{ format = \"coco_json\", file = \"{name}.json\"{keys} }}\n"
        )
    };
    toy(sandbox, "detection", &(split("train") + &split("val")));
    for k in 1..4 {
        image(&sandbox.path(&format!("data/images/00{k}.jpg")), k);
    }
}

/// Three images with one object each, of two classes.
fn instances() -> Value {
    let image = |k: u32| json!({"id": k, "width": 64, "height": 48, "file_name": format!("00{k}.jpg")});
    let object = |k: u32| {
        json!({"id": 10 + k, "image_id": k, "category_id": 1 + k % 2, "bbox": [10, 10, 30, 20], "area": 600, "iscrowd": 0,
               "segmentation": [[10, 10, 40, 10, 40, 30, 10, 30]]})
    };
    json!({"images": [image(1), image(2), image(3)], "annotations": [object(1), object(2), object(3)],
           "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]})
}

fn results() -> Value {
    let row =
        |k: u32| json!({"image_id": k, "category_id": 1 + k % 2, "bbox": [10, 10, 30, 20], "score": 0.9});
    json!([row(1), row(2), row(3)])
}

fn write_both(sandbox: &Sandbox, text: &str) {
    sandbox.write("data/train.json", text);
    sandbox.write("data/val.json", text);
}

fn contains(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "expected `{word}` in:\n{text}");
    }
}

const CHECK: &str = "data check toy --include mine --data data";
const BOXES: &str = "eval --task boxes --include mine --data data --json --predictions r.json";

fn box_ap(sandbox: &Sandbox) -> f64 {
    let found: Value = serde_json::from_str(&sandbox.ok(BOXES)).unwrap();
    found["scores"]["box_ap"]["value"].as_f64().unwrap()
}

/// With a zero-width truth, pycocotools gives 0.6262 (one of the two dogs cannot be found).
#[test]
fn annotations_without_area_are_counted_and_scored() {
    let sandbox = Sandbox::new();
    detection(&sandbox, "");
    let mut truths = instances();
    truths["annotations"][0]["bbox"] = json!([10, 10, 0, 20]);
    truths["annotations"][0]["segmentation"] = json!([]);
    write_both(&sandbox, &truths.to_string());
    sandbox.write("r.json", &results().to_string());
    contains(
        &sandbox.fails(2, BOXES),
        &["val.json: annotation 11 (image 1)", "has no area", "`allowed_degenerate`"],
    );
    detection(&sandbox, ", allowed_degenerate = 10");
    assert!((box_ap(&sandbox) - 62.623_762_376).abs() < 1e-6, "{}", box_ap(&sandbox));
    contains(&sandbox.ok(CHECK), &["note: annotations without area", "annotation 11 (image 1)"]);
}

#[test]
fn a_stray_point_leaves_out_neither_object_nor_polygon() {
    let sandbox = Sandbox::new();
    detection(&sandbox, "");
    let mut truths = instances();
    truths["annotations"][0]["segmentation"] = json!([[10, 10, 40, 10, 40, 30, 10, 30], [20, 20]]);
    write_both(&sandbox, &truths.to_string());
    sandbox.write("r.json", &results().to_string());
    assert!((box_ap(&sandbox) - 100.).abs() < 1e-9);
    contains(
        &crate::program::stderr(&sandbox.run(BOXES)),
        &["split `val`: polygons of fewer than 3 points left out, their objects kept: 1"],
    );
    contains(&sandbox.ok(CHECK), &["note: polygons of fewer than 3 points left out, their objects kept: 1"]);
    // The run says so, and so does its record.
    let train = format!(
        "transfer --task toy --recipe maskrcnn_demo {RECIPES} --set model.depth=4 --set batch=2 --out out"
    );
    let output = sandbox.run(&train);
    assert!(output.status.success(), "{}", crate::program::stderr(&output));
    let words =
        "data set `toy`, split `train`: polygons of fewer than 3 points left out, their objects kept: 1";
    contains(&crate::program::stderr(&output), &[words]);
    let record: Value =
        serde_json::from_str(&std::fs::read_to_string(sandbox.path("out/run.json")).unwrap()).unwrap();
    contains(&record["data_notes"].to_string(), &[words]);
}

#[test]
fn results_with_anything_behind_them_are_refused() {
    let sandbox = Sandbox::new();
    detection(&sandbox, "");
    write_both(&sandbox, &instances().to_string());
    let row = results()[0].to_string();
    for text in [format!("[{row}][{row}]"), format!("[{row}]\nNone\n")] {
        sandbox.write("r.json", &text);
        contains(&sandbox.fails(2, BOXES), &["r.json", "more text follows the end of the document"]);
    }
    sandbox.write("r.json", &format!("\u{feff}{}", results()));
    assert!((box_ap(&sandbox) - 100.).abs() < 1e-9);
}

#[test]
fn words_as_ids_and_other_spellings_are_read() {
    let sandbox = Sandbox::new();
    detection(&sandbox, "");
    let mut truths = instances();
    let mut found = results();
    for k in 0..3 {
        let name = format!("img_{k}");
        truths["images"][k]["id"] = json!(name);
        truths["annotations"][k]["image_id"] = json!(name);
        truths["annotations"][k]["id"] = json!(format!("7c1d-{k}"));
        truths["annotations"][k]["iscrowd"] = [json!(null), json!("0"), json!(0.0)][k].clone();
        truths["annotations"][k]["segmentation"] = json!([10, 10, 40, 10, 40, 30, 10, 30]);
        found[k]["image_id"] = json!(name);
    }
    let text = truths.to_string().replace("\"area\":600", "\"area\":600,\"score\":NaN");
    write_both(&sandbox, &format!("\u{feff}{text}"));
    sandbox.write("r.json", &found.to_string());
    sandbox.ok(CHECK);
    assert!((box_ap(&sandbox) - 100.).abs() < 1e-9);
    let train = format!(
        "transfer --task toy --recipe maskrcnn_demo {RECIPES} --set model.depth=4 --set batch=2 --out out"
    );
    sandbox.ok(&train);
}

#[test]
fn checks_tell_everything_at_once() {
    let sandbox = Sandbox::new();
    detection(&sandbox, "");
    let mut truths = instances();
    truths["annotations"][0]["bbox"] = json!([10, 10, 0, 20]);
    truths["annotations"][1]["category_id"] = json!(9);
    truths["annotations"][2]["segmentation"] = json!([[1, 2, 3]]);
    write_both(&sandbox, &truths.to_string());
    let output = sandbox.run(CHECK);
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(2));
    contains(
        &shown,
        &["annotation 11", "annotation 12 is of category 9", "annotation 13", "val.json", "train.json"],
    );

    let mut corners = instances();
    corners["annotations"][0]["bbox"] = json!([10, 10, 40, 30]);
    corners["annotations"][1]["bbox"] = json!([100, 100, 30, 20]);
    corners["annotations"][2]["bbox"] = json!([40, 20, 30, 30]);
    corners["annotations"][2]["segmentation"] = json!([]);
    write_both(&sandbox, &corners.to_string());
    let shown = String::from_utf8(sandbox.run(CHECK).stdout).unwrap();
    contains(&shown, &["contradict their outlines", "outside of their images", "reach beyond their images"]);
}

#[test]
fn a_data_set_of_crowds_is_refused_by_every_command() {
    let sandbox = Sandbox::new();
    detection(&sandbox, "");
    let mut truths = instances();
    for k in 0..3 {
        truths["annotations"][k]["iscrowd"] = json!(1);
    }
    write_both(&sandbox, &truths.to_string());
    let shown = String::from_utf8(sandbox.run(CHECK).stdout).unwrap();
    contains(&shown, &["every object is a crowd"]);
    let train = format!(
        "transfer --task toy --recipe maskrcnn_demo {RECIPES} --set model.depth=4 --set batch=2 --out out"
    );
    contains(&sandbox.fails(2, &train), &["split `train`", "nothing to learn and nothing to score"]);
    assert!(!sandbox.path("out").exists());
    std::fs::create_dir(sandbox.path("sets")).unwrap();
    std::fs::rename(sandbox.path("data"), sandbox.path("sets/toy")).unwrap();
    let output = sandbox
        .command("task check toy --include mine")
        .env("BENCH_DATA", sandbox.path("sets"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    contains(&crate::program::stderr(&output), &["nothing to score"]);
}

fn folders(sandbox: &Sandbox, files: &[&str]) {
    let split = |name: &str| {
        format!("[split.{name}]\nimages = \"{name}\"\nannotations = {{ format = \"image_folder\" }}\n")
    };
    toy(sandbox, "classification", &(split("train") + &split("val")));
    for (k, file) in files.iter().enumerate() {
        image(&sandbox.path("data").join(file), k as u8);
    }
}

const ANIMALS: [&str; 5] =
    ["train/cat/1.png", "train/dog/1.png", "train/eel/1.png", "val/cat/1.png", "val/dog/1.png"];

#[test]
fn a_split_may_lack_a_class_but_not_have_one_more() {
    let sandbox = Sandbox::new();
    folders(&sandbox, &ANIMALS);
    let train = format!("transfer --task toy --recipe finetune_demo {RECIPES} --set batch=2");
    contains(&sandbox.ok(CHECK), &["note: there is nothing of the class `eel`"]);
    let output = sandbox.run(&format!("{train} --out lacks"));
    assert!(output.status.success(), "{}", crate::program::stderr(&output));
    contains(&crate::program::stderr(&output), &["split `val`: there is nothing of the class `eel`"]);
    std::fs::create_dir(sandbox.path("data/val/eel")).unwrap();
    contains(&sandbox.ok(CHECK), &["2 of 3 classes have images; without: `eel`"]);
    sandbox.ok(&format!("{train} --out empty"));
    image(&sandbox.path("data/val/fox/1.png"), 9);
    let words = "`fox` is not among the classes of split `train`";
    contains(&sandbox.fails(2, &format!("{train} --out more")), &["split `val`", words]);
    contains(&String::from_utf8(sandbox.run(CHECK).stdout).unwrap(), &["split `val`", words]);
}

#[test]
fn images_that_cannot_be_scored_are_found_before_training() {
    let sandbox = Sandbox::new();
    folders(&sandbox, &ANIMALS);
    sandbox.write("data/val/cat/1.png", "x");
    sandbox.write("data/val/dog/1.png", "");
    let train = format!("transfer --task toy --recipe finetune_demo {RECIPES} --set batch=2 --out out");
    let error = sandbox.fails(2, &train);
    contains(&error, &["2 of the images to be scored cannot be used", "val/cat/1.png", "val/dog/1.png"]);
    assert!(!sandbox.path("out").exists());
}

/// An evaluation that fails after the last step leaves weights that can be scored when its cause is repaired.
#[test]
fn weights_are_saved_before_they_are_scored() {
    let sandbox = Sandbox::new();
    folders(&sandbox, &ANIMALS);
    let train = format!(
        "transfer --task toy --recipe finetune_demo {RECIPES} --set batch=2 --set epochs=400 --out out"
    );
    let train = train.replace("--max-steps 1 ", "");
    let mut run = sandbox.command(&train).stderr(std::process::Stdio::piped()).spawn().unwrap();
    while !sandbox.path("out/log.jsonl").exists() {
        assert!(run.try_wait().unwrap().is_none(), "ended before its first line");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let damaged = sandbox.path("data/val/cat/1.png");
    let good = std::fs::read(&damaged).unwrap();
    std::fs::write(&damaged, "x").unwrap();
    let output = run.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let words =
        ["the weights are trained and saved in `out/model.safetensors`", "`bench eval`", "val/cat/1.png"];
    contains(&crate::program::stderr(&output), &words);
    std::fs::write(&damaged, good).unwrap();
    contains(&sandbox.ok("eval out --include mine --data data"), &["top1"]);
    contains(&sandbox.ok(&format!("{train} --resume")), &["top1"]);
}

#[cfg(unix)]
#[test]
fn a_link_to_nowhere_is_an_image_that_cannot_be_read() {
    let sandbox = Sandbox::new();
    folders(&sandbox, &ANIMALS);
    std::os::unix::fs::symlink("nowhere", sandbox.path("data/train/cat/9.jpg")).unwrap();
    let train = format!("transfer --task toy --recipe finetune_demo {RECIPES} --set batch=4 --out out");
    contains(&sandbox.fails(1, &train), &["train/cat/9.jpg"]);
    contains(&String::from_utf8(sandbox.run(CHECK).stdout).unwrap(), &["9.jpg` is not there"]);
    sandbox.ok(&format!("{train} --set allowed_skips=1").replace("--out out", "--out skipped"));
}

#[test]
fn nearest_neighbours_need_no_batch_and_rank_only_what_has_votes() {
    let sandbox = Sandbox::new();
    let classes: Vec<String> = (0..7).map(|k| format!("c{k}")).collect();
    let files: Vec<String> = classes
        .iter()
        .flat_map(|class| ["train", "val"].map(|split| format!("{split}/{class}/0.png")))
        .collect();
    folders(&sandbox, &files.iter().map(String::as_str).collect::<Vec<_>>());
    // Every image of `val` is one that `train` has under the next class: its only neighbour is wrong.
    for k in 0..7 {
        let from = sandbox.path("data/train").join(&classes[(k + 1) % 7]).join("0.png");
        std::fs::copy(from, sandbox.path("data/val").join(&classes[k]).join("0.png")).unwrap();
    }
    let knn = "transfer --task toy --recipe knn --init scratch --model vit_tiny_test --workers 2 --include mine --data data \
               --set transfer.head.neighbours=1 --out out";
    sandbox.ok(knn);
    let record: Value =
        serde_json::from_str(&std::fs::read_to_string(sandbox.path("out/run.json")).unwrap()).unwrap();
    assert_eq!(record["scores"]["top1"]["value"], 0.);
    assert_eq!(record["scores"]["top5"]["value"], 0.);
}

#[test]
fn endings_have_no_case_and_a_batch_norm_needs_two_images() {
    let sandbox = Sandbox::new();
    let split = |name: &str| {
        format!(
            "[split.{name}]\nimages = \"images/{name}\"\n[split.{name}.annotations]\nformat = \"png_masks\"\n\
             masks = \"masks/{name}\"\nsuffix = [\".jpg\", \".png\"]\nnames = [\"background\", \"object\"]\n"
        )
    };
    toy(&sandbox, "segmentation", &(split("train") + &split("val")));
    for split in ["train", "val"] {
        for (k, (file, mask)) in
            [("0.JPG", "0.png"), ("1.jpg", "1.PNG"), ("2.jpeg", "2.png")].into_iter().enumerate()
        {
            image(&sandbox.path(&format!("data/images/{split}/{file}")), k as u8);
            let mask = sandbox.path(&format!("data/masks/{split}/{mask}"));
            std::fs::create_dir_all(mask.parent().unwrap()).unwrap();
            let picture = image::GrayImage::from_fn(64, 48, |x, _| image::Luma([u8::from(x > 30)]));
            picture.save_with_format(mask, image::ImageFormat::Png).unwrap();
        }
    }
    contains(&sandbox.ok(CHECK), &["train      2 images; 1 other file ignored: 1 .jpeg"]);
    let train = format!("transfer --task toy --recipe upernet_demo {RECIPES} --set model.depth=4 --out out");
    for batch in ["--set batch=1", "--set batch=2 --set micro_batch=1"] {
        let error = sandbox.fails(2, &format!("{train} {batch}"));
        contains(
            &error,
            &["a forward pass has 1 image", "batch norm", "--set batch=2", "transfer.head.norm=group"],
        );
        assert!(!sandbox.path("out").exists());
    }
    sandbox.ok(&format!("{train} --set batch=2"));
}
