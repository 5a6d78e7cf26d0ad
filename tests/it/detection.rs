//! Detection from the command line: scoring of result files; training, evaluation and prediction.

use crate::program::{Sandbox, fixture, repository};
use serde_json::Value;

/// A task on the annotations of `tests/golden/coco`.
fn golden_task(sandbox: &Sandbox) -> String {
    let manifest = "name = \"golden\"\nversion = \"1\"\nlicense = \"none\"\n[split.val]\nimages = \"images\"\n\
                    annotations = { format = \"coco_json\", file = \"instances.json\" }\n";
    sandbox.write("mine/datasets/golden/dataset.toml", manifest);
    let task = "name = \"golden\"\nversion = 1\nkind = \"detection\"\ndataset = \"golden\"\nprimary = \"box_ap\"\n\
                recipe = \"maskrcnn_small\"\n[splits]\ntrain = \"val\"\neval = \"val\"\n[[eval]]\nop = \"resize_longest\"\n\
                [[eval]]\nop = \"pad\"\n";
    sandbox.write("mine/tasks/golden/task.toml", task);
    let data = repository().join("tests/golden/coco");
    format!("eval --include mine --task golden --data {}", data.display())
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

#[test]
fn files_of_results_are_scored_without_a_run() {
    let sandbox = Sandbox::new();
    let eval = golden_task(&sandbox);
    let golden = repository().join("tests/golden/coco");
    let expected = json(&std::fs::read_to_string(golden.join("expected.json")).unwrap());
    let file = golden.join("results.json");
    let found = json(&sandbox.ok(&format!("{eval} --json --predictions {}", file.display())));
    assert_eq!(found["images"], 30);
    for (name, kind) in [("box_ap", "box"), ("mask_ap", "mask")] {
        let (found, expected) = (&found["scores"][name]["value"], &expected[kind]["stats"][0]);
        assert!(
            (found.as_f64().unwrap() - 100. * expected.as_f64().unwrap()).abs() < 1e-9,
            "{name}: {found}"
        );
    }
    assert!(found["by_class"]["bottle"]["box_ap"].is_number(), "{found}");
    let shown = sandbox.ok(&format!("{eval} --by-class --predictions {}", file.display()));
    assert!(shown.contains("mask_ar_100") && shown.contains("toothbrush"), "{shown}");

    // Boxes and masks in separate files are scored separately, as on COCO's servers.
    let rows = json(&std::fs::read_to_string(&file).unwrap());
    let without = |key: &str| {
        let rows = rows.as_array().unwrap().iter().cloned().map(|mut row| {
            row.as_object_mut().unwrap().remove(key);
            row
        });
        Value::Array(rows.collect()).to_string()
    };
    sandbox.write("boxes.json", &without("segmentation"));
    sandbox.write("masks.json", &without("bbox"));
    let apart = json(&sandbox.ok(&format!("{eval} --json --predictions boxes.json masks.json")));
    assert_eq!(apart["scores"], found["scores"]);
    let boxes = json(&sandbox.ok(&format!("{eval} --json --predictions boxes.json")));
    assert_eq!(boxes["scores"]["mask_ap"]["value"], -1.);

    assert!(
        sandbox.fails(2, &format!("{eval} --predictions none.json")).contains("none.json: there is no such")
    );
    sandbox.write("wrong.json", r#"[{"image_id": 1, "category_id": 3, "bbox": [0, 0, 1, 1], "score": 0.5}]"#);
    let error = sandbox.fails(2, &format!("{eval} --predictions wrong.json"));
    assert!(error.contains("wrong.json") && error.contains("image 1 is not in the split"), "{error}");
    assert!(sandbox.fails(2, &format!("{eval} --predictions boxes.json --split x")).contains("no split `x`"));
    let data = fixture("shapes");
    let classes = format!("eval --task shapes_classification --data {data} --predictions boxes.json");
    let error = sandbox.fails(2, &classes);
    assert!(error.contains("kind `classification` does not read predictions"), "{error}");
}

#[test]
fn boxes_without_masks_are_refused_before_training_unless_the_task_asks_for_boxes_alone() {
    let sandbox = Sandbox::new();
    let fixture = std::path::PathBuf::from(fixture("coco"));
    for (split, masks) in [("train2017", true), ("val2017", false)] {
        let file = format!("annotations/instances_{split}.json");
        let mut instances = json(&std::fs::read_to_string(fixture.join(&file)).unwrap());
        for object in instances["annotations"].as_array_mut().unwrap() {
            object.as_object_mut().unwrap().retain(|key, _| masks || key != "segmentation");
        }
        sandbox.write(&format!("data/{file}"), &instances.to_string());
        std::os::unix::fs::symlink(fixture.join(split), sandbox.path("data").join(split)).unwrap();
    }
    let task = std::fs::read_to_string(repository().join("tasks/coco/task.toml")).unwrap();
    let include = sandbox.path("include");
    let write =
        |masks: &str| sandbox.write("include/tasks/coco/task.toml", &task.replace("masks = true", masks));
    let data = format!("--include {} --data {}", include.display(), sandbox.path("data").display());
    let train = format!(
        "transfer --task coco {data} --model vit_tiny_test --recipe maskrcnn_demo --init scratch \
         --set model.depth=4 --set epochs=1 --set batch=2"
    );
    write("masks = true");
    let error = sandbox.fails(2, &train);
    for words in ["tasks/coco/task.toml", "data set `coco`, split `val`: image `", "set `masks = false`"] {
        assert!(error.contains(words), "expected `{words}` in:\n{error}");
    }
    assert!(!sandbox.path("runs").exists());
    write("masks = false");
    sandbox.ok(&train);
}

#[test]
fn a_run_predicts_pictures_and_files() {
    let sandbox = Sandbox::new();
    sandbox.ok(&format!(
        "transfer --task shapes_detection --data {} --model vit_tiny_test --recipe maskrcnn_demo --init scratch \
         --set model.depth=4 --set epochs=1 --set batch=2 --workers 2",
        fixture("shapes")
    ));
    let run = sandbox.only_run("runs");
    let id = run.file_name().unwrap().to_str().unwrap().to_string();
    let record = json(&std::fs::read_to_string(run.join("run.json")).unwrap());
    assert_eq!(record["scores"].as_object().unwrap().len(), 24);

    // The weight file is sufficient: neither the run nor its data are needed.
    std::fs::copy(run.join("model.safetensors"), sandbox.path("weights.safetensors")).unwrap();
    let images = format!("{}/val/images", fixture("shapes"));
    let shown =
        sandbox.ok(&format!("predict --weights weights.safetensors --out seen --threshold 0 {images}"));
    assert!(shown.contains("11 images predicted") && shown.contains("11 drawn"), "{shown}");
    let picture = image::open(sandbox.path("seen/20000001.png")).unwrap();
    // Sixteen times its size, below a heading.
    assert_eq!(picture.width(), 16 * 24 + 2 * 16);
    assert!(picture.height() > 16 * 24 + 2 * 16 + 30, "{} pixels high", picture.height());
    let rows = json(&std::fs::read_to_string(sandbox.path("seen/detections.json")).unwrap());
    assert!(rows.as_array().unwrap().iter().all(|row| row["image_id"].as_u64().unwrap() > 20_000_000));
    let scored = json(&sandbox.ok(&format!(
        "eval --json --task shapes_detection --data {} --predictions seen/detections.json",
        fixture("shapes")
    )));
    let rescored = json(&sandbox.ok(&format!("eval {id} --json --data {}", fixture("shapes"))));
    assert_eq!(scored["scores"], rescored["scores"], "what was written is what was predicted");
    assert_eq!(rescored["scores"], record["scores"]);

    let error = sandbox.fails(2, &format!("predict --weights {id} --out seen {images}"));
    assert!(error.contains("would be overwritten") && error.contains("--force"), "{error}");
    sandbox.ok(&format!("predict --weights {id} --out seen --force {images}/20000001.png"));
    std::fs::create_dir(sandbox.path("empty")).unwrap();
    assert!(
        sandbox.fails(2, &format!("predict --weights {id} --out a empty")).contains("there are no images")
    );
    assert!(
        sandbox.fails(2, &format!("predict --weights {id} --out a none.png")).contains("neither an image")
    );
    // An unreadable image is named and counted; the others are predicted.
    sandbox.write("mixed/broken.png", "no image");
    std::fs::copy(format!("{images}/20000002.png"), sandbox.path("mixed/20000002.png")).unwrap();
    for batch in [1, 2] {
        let out = format!("b{batch}");
        let error = sandbox.fails(1, &format!("predict --weights {id} --out {out} --batch {batch} mixed"));
        assert!(error.contains("broken.png`: ") && error.contains("1 of 2 images cannot be read"), "{error}");
        assert!(sandbox.path(&format!("{out}/20000002.png")).is_file());
        assert!(!sandbox.path(&format!("{out}/broken.png")).exists());
    }
    assert!(!sandbox.path("a").exists());
}

#[test]
fn a_classifier_names_what_it_sees() {
    let sandbox = Sandbox::new();
    sandbox.ok(&format!(
        "transfer --task shapes_classification --data {} --model vit_tiny_test --recipe finetune_demo --init scratch \
         --set epochs=1 --set batch=5",
        fixture("shapes")
    ));
    let run = sandbox.only_run("runs");
    let images = format!("{}/val/images", fixture("shapes"));
    sandbox.ok(&format!("predict --weights {} --out seen {images}", run.display()));
    let table = std::fs::read_to_string(sandbox.path("seen/labels.csv")).unwrap();
    assert_eq!(table.lines().count(), 1 + 11 * 5, "{table}");
    assert!(table.starts_with("image,rank,label,class,probability\n20000001,1,"), "{table}");
    let probabilities = std::fs::read_to_string(sandbox.path("seen/probabilities.csv")).unwrap();
    assert_eq!(probabilities.lines().count(), 1 + 11);
    for line in probabilities.lines().skip(1) {
        let sum: f64 = line.split(',').skip(1).map(|value| value.parse::<f64>().unwrap()).sum();
        assert!((sum - 1.).abs() < 1e-5, "{line}");
    }
    assert!(image::open(sandbox.path("seen/20000011.png")).is_ok());
}

#[test]
fn an_annotation_for_another_image_is_found() {
    let sandbox = Sandbox::new();
    let root = sandbox.path("data");
    std::fs::create_dir_all(root.join("val2017")).unwrap();
    let fixture = std::path::PathBuf::from(fixture("coco"));
    for file in ["train2017", "annotations"] {
        std::os::unix::fs::symlink(fixture.join(file), root.join(file)).unwrap();
    }
    for k in 11..17 {
        let name = format!("val2017/{k:012}.jpg");
        if k != 12 {
            std::fs::copy(fixture.join(&name), root.join(&name)).unwrap();
        }
    }
    let other = image::RgbImage::new(60, 48);
    other.save_with_format(root.join("val2017/000000000011.jpg"), image::ImageFormat::Png).unwrap();
    let shown = sandbox.run(&format!("data check coco --data {}", root.display()));
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains("000000000012.jpg` is not there"), "{shown}");
    assert!(shown.contains("the image has 48x60 pixels, but its annotation says 48x64"), "{shown}");
}
