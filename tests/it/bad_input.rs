//! Wrong requests: a clear error that names the thing, the right exit code, and nothing written over.

use crate::program::{Sandbox, fixture, small_pretrain, small_transfer, stderr};
use std::path::Path;

fn contains(error: &str, words: &[&str]) {
    for word in words {
        assert!(error.contains(word), "expected `{word}` in:\n{error}");
    }
}

/// A folder for --include with one file, in which `from` became `to`.
fn with_typo(sandbox: &Sandbox, file: &str, from: &str, to: &str) -> String {
    let text = std::fs::read_to_string(crate::program::repository().join(file)).unwrap();
    assert!(text.contains(from), "{file}");
    sandbox.write(&format!("include/{file}"), &text.replacen(from, to, 1));
    format!("--include {}", sandbox.path("include").display())
}

#[test]
fn a_misspelt_key_is_named_with_its_file() {
    let transfer = format!("{} --init scratch", small_transfer());
    let pretrain = small_pretrain();
    for (file, from, to, line) in [
        ("configs/transfer/finetune_demo.toml", "weight_decay", "weight_decoy", transfer.as_str()),
        ("configs/transfer/finetune_demo.toml", "label_smoothing", "label_smothing", &transfer),
        ("configs/pretrain/mae_demo.toml", "mask_ratio", "mask_ration", &pretrain),
        ("configs/pretrain/mae_demo.toml", "scale = [", "scales = [", &pretrain),
        ("configs/models/vit_tiny_test.toml", "depth", "dept", &pretrain),
        ("tasks/shapes_classification/task.toml", "primary", "primery", &transfer),
        ("tasks/shapes_classification/task.toml", "pool =", "pol =", &transfer),
        ("datasets/shapes/dataset.toml", "license", "licence", &pretrain),
        ("configs/suites/demo.toml", "recipes", "recips", "suite plan demo"),
        ("configs/tables/demo.toml", "rows", "row", "table demo"),
    ] {
        let sandbox = Sandbox::new();
        let include = with_typo(&sandbox, file, from, to);
        let error = sandbox.fails(2, &format!("{line} {include}"));
        let key = to.split(' ').next().unwrap();
        contains(&error, &[key]);
        if !to.starts_with("label_sm") && !to.starts_with("pol") {
            contains(&error, &[file]);
        }
        assert!(!sandbox.path("runs").exists(), "{file}");
    }
}

#[test]
fn a_misspelt_set_is_named() {
    let sandbox = Sandbox::new();
    for (set, words) in [
        ("optim.bas_lr=1", &["--set optim.bas_lr=1", "bas_lr", "base_lr"][..]),
        ("model.depht=3", &["--set model.depht=3", "depht"]),
        ("epochs", &["--set epochs", "KEY=VALUE"]),
        ("epochs=many", &["--set epochs=many", "epochs"]),
        ("model.image=[30,32]", &["30", "patch"]),
        ("pretrain.mask_ratio=1.5", &["mask_ratio", "1.5"]),
        ("batch=0", &["batch"]),
        ("transfer.tune=all", &["transfer"]),
        ("eval=[]", &["eval"]),
    ] {
        contains(&sandbox.fails(2, &format!("{} --set {set}", small_pretrain())), words);
    }
    let error =
        sandbox.fails(2, &format!("{} --init scratch --set transfer.head.smoothing=1", small_transfer()));
    contains(&error, &["smoothing", "label_smoothing"]);
    assert!(!sandbox.path("runs").exists());
}

#[test]
fn unknown_names_suggest_near_misses() {
    let sandbox = Sandbox::new();
    for (line, words) in [
        ("transfer --task imagnet --init scratch", &["imagnet", "did you mean `imagenet`"][..]),
        ("pretrain --model vit_b61", &["vit_b61", "did you mean `vit_b16`"]),
        ("pretrain --recipe mae_80", &["mae_80", "did you mean `mae_800`"]),
        ("pretrain --dataset shaps", &["shaps", "did you mean `shapes`"]),
        ("suite plan dema", &["did you mean `demo`"]),
        ("table mian", &["did you mean `main`"]),
        ("transfer --task imagenet --init finetune-x", &["finetune-x", "scratch"]),
        ("transfer --task imagenet", &["--init scratch", "bench pretrain"]),
        (
            "transfer --task imagenet --init scratch --recipe mae_small",
            &["mae_small", "a recipe of `bench pretrain`"],
        ),
        ("eval nope", &["run nope: neither a file or folder, nor a run in `runs`"]),
        ("recipe show own/nope.toml", &["own/nope.toml", "No such file"]),
        ("predict a.png --weights nope --out o", &["a.png"]),
        ("reconstruct nope", &["weights nope", "neither a file"]),
        ("reconstruct nope --out rec.jpg", &["rec.jpg", ".png"]),
        ("pretrain --device cuda", &["cuda", "CPU"]),
        ("pretrain --include nowhere", &["nowhere", "no such folder"]),
    ] {
        contains(&sandbox.fails(2, line), words);
    }
}

/// A suite of one pre-training run and one transfer from it, with `extra` at its end.
fn small_suite(sandbox: &Sandbox, table: &str, init: &str, extra: &str) {
    let text = format!(
        "title = \"T\"\nseeds = [0]\ntable = \"{table}\"\n[[pretrain]]\nrecipe = \"own/mine.toml\"\ndataset = \"shapes\"\n\
         model = \"vit_tiny_test\"\nset = [\"batch=4\", \"epochs=2\", \"schedule.warmup_epochs=1\"]\n[[transfer]]\n\
         task = \"shapes_classification\"\nrecipes = [\"finetune_demo\"]\ninit = [\"{init}\"]\n{extra}\n"
    );
    sandbox.write("suite.toml", &text);
    let recipe = crate::program::repository().join("configs/pretrain/mae_demo.toml");
    sandbox.write("own/mine.toml", &std::fs::read_to_string(recipe).unwrap());
    copy(Path::new(&fixture("shapes")), &sandbox.path("data/shapes"));
}

#[test]
fn a_wrong_suite_is_refused_before_anything_is_trained() {
    let small = "set = [\"batch=5\", \"epochs=1\", \"schedule.warmup_epochs=0\"]";
    for (table, init, extra, words) in [
        ("nosuch", "scratch", small, &["table `nosuch`", "known: "][..]),
        (
            "demo",
            "scrtch",
            small,
            &["--init scrtch", "`scratch`", "a run in `runs`", "a pre-training run of this suite (mine)"],
        ),
        ("demo", "own/nope.pth", small, &["own/nope.pth", "no such file or folder"]),
        (
            "demo",
            "mine",
            "set = [\"transfer.head.clasifier=1\"]",
            &["shapes_classification", "transfer.head", "clasifier"],
        ),
        ("demo", "mine", "set = [\"batch=999\"]", &["batch of 999"]),
    ] {
        for command in ["plan", "run"] {
            let sandbox = Sandbox::new();
            small_suite(&sandbox, table, init, extra);
            let line = format!("suite {command} suite.toml");
            let output = sandbox.command(&line).env("BENCH_DATA", sandbox.path("data")).output().unwrap();
            contains(&stderr(&output), words);
            assert_eq!(output.status.code(), Some(2), "{command} {init} {extra}");
            assert!(!sandbox.path("runs").exists(), "{command} {init} {extra}");
        }
    }
    let sandbox = Sandbox::new();
    small_suite(&sandbox, "demo", "mine", small);
    let output =
        sandbox.command("suite plan suite.toml").env("BENCH_DATA", sandbox.path("data")).output().unwrap();
    let shown = String::from_utf8(output.stdout).unwrap();
    contains(&shown, &["to do  pretrain shapes", "vit_tiny_test", "waits for run 1 of this suite"]);
    let shown = sandbox.ok("suite plan suite.toml");
    contains(&shown, &["waits for run 1 of this suite, [1]"]);
    assert_eq!(shown.matches("BENCH_DATA is not set").count(), 1, "{shown}");
}

#[test]
fn config_show_hides_no_error_but_missing_data() {
    let sandbox = Sandbox::new();
    let line = "config show transfer --task shapes_classification --init scratch --model vit_tiny_test";
    let data = format!("--data {}", fixture("shapes"));
    for (set, word) in
        [("clasifier=1", "clasifier"), ("label_smoothing=1.0", "label_smoothing is 1"), ("pool=avg", "avg")]
    {
        contains(&sandbox.fails(2, &format!("{line} {data} --set transfer.head.{set}")), &[word]);
    }
    contains(&sandbox.fails(2, &format!("{line} --set transfer.head.clasifier=1")), &["clasifier"]);
    contains(&sandbox.ok(line), &["# steps"]);
}

#[test]
fn missing_data_says_where_and_how() {
    let sandbox = Sandbox::new();
    contains(&sandbox.fails(2, "pretrain"), &["imagenet", "BENCH_DATA is not set", "bench demo"]);
    let output = sandbox.command("pretrain").env("BENCH_DATA", "/nowhere").output().unwrap();
    contains(&stderr(&output), &["/nowhere/imagenet", "how to get it", "bench demo"]);
    std::fs::create_dir(sandbox.path("empty")).unwrap();
    contains(&sandbox.fails(2, "pretrain --data empty"), &["empty", "no images"]);
    std::fs::create_dir_all(sandbox.path("shapes/pretrain/images")).unwrap();
    contains(&sandbox.fails(2, "pretrain --dataset shapes --data shapes"), &["pretrain/images", "no images"]);
    let error = sandbox.fails(2, &small_pretrain().replace("batch=4", "batch=64"));
    contains(&error, &["5 images", "batch of 64", "--set batch=4"]);
    let error =
        sandbox.fails(2, &small_pretrain().replacen("pretrain", "speed", 1).replace("batch=4", "batch=64"));
    contains(&error, &["5 images", "batch of 64"]);
    assert!(!sandbox.path("runs").exists());
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn one_corrupt_image_stops_the_run_unless_allowed() {
    let sandbox = Sandbox::new();
    let data = sandbox.path("data");
    copy(Path::new(&fixture("shapes")), &data);
    let images = data.join("pretrain/images");
    let mut names: Vec<_> = std::fs::read_dir(&images).unwrap().map(|e| e.unwrap().path()).collect();
    names.sort();
    std::fs::write(&names[2], b"no image").unwrap();
    let name = names[2].file_name().unwrap().to_str().unwrap();
    let line = small_pretrain().replace(&fixture("shapes"), data.to_str().unwrap());

    contains(&sandbox.fails(1, &line), &[name, "decode"]);
    let record = std::fs::read_to_string(sandbox.only_run("runs").join("run.json")).unwrap();
    contains(&record, &["\"failed\"", name]);

    contains(&sandbox.fails(1, &format!("{line} --resume")), &["--resume --set allowed_skips=N"]);

    // It is the same run with another number of them, and an image counts once however often it is read.
    let shown = sandbox.ok(&format!("{line} --resume --set allowed_skips=1"));
    assert!(shown.contains("skipped 1 unreadable image"), "{shown}");
    sandbox.only_run("runs");
    std::fs::write(&names[3], b"no image").unwrap();
    let error = sandbox.fails(1, &format!("{line} --set allowed_skips=1 --runs few"));
    contains(&error, &["2 unreadable images", "only 1 are allowed", "--set allowed_skips=N"]);
    std::fs::write(&names[3], std::fs::read(&names[4]).unwrap()).unwrap();
    let error = sandbox.fails(2, &format!("data check shapes --decode --data {}", data.display()));
    assert!(error.trim_end().ends_with("1 problem"), "{error}");
}

#[test]
fn weights_of_another_model_or_cut_short_are_refused() {
    let sandbox = Sandbox::new();
    sandbox.ok(&small_pretrain());
    let weights = sandbox.only_run("runs").join("model.safetensors");
    let transfer = small_transfer();

    let error = sandbox.fails(2, &format!("{transfer} --model vit_micro8 --init {}", weights.display()));
    contains(&error, &["another model", "vit_micro8", "width 32", "Give --model vit_tiny_test"]);
    let error = sandbox.fails(2, &format!("{transfer} --set model.depth=1 --init {}", weights.display()));
    contains(&error, &["another model", "depth 2"]);

    let bytes = std::fs::read(&weights).unwrap();
    let cut = sandbox.path("cut.safetensors");
    std::fs::write(&cut, &bytes[..bytes.len() / 2]).unwrap();
    let error = sandbox.fails(2, &format!("{transfer} --init {}", cut.display()));
    contains(&error, &["cut.safetensors", "truncated"]);
    std::fs::write(sandbox.path("text.pth"), "hello, this is no checkpoint").unwrap();
    contains(&sandbox.fails(2, &format!("{transfer} --init text.pth")), &["text.pth"]);
    contains(&sandbox.fails(2, "inspect nothing.pth"), &["nothing.pth"]);
    assert_eq!(std::fs::read(&weights).unwrap(), bytes);
}

#[test]
fn weights_that_are_no_numbers_are_shown_and_not_trained_from() {
    let sandbox = Sandbox::new();
    sandbox.ok(&small_pretrain());
    let weights = sandbox.only_run("runs").join("model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let place = |name: &str| {
        let data = tensors.tensor(name).unwrap().data();
        data.as_ptr() as usize - bytes.as_ptr() as usize
    };
    let (norm, decoder) = (place("blocks.1.norm1.weight"), place("decoder_pred.bias"));
    let mut with = |at: usize, value: f32, name: &str| {
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        std::fs::write(sandbox.path(name), &bytes).unwrap();
    };
    with(decoder, f32::INFINITY, "decoder.safetensors");
    with(norm, f32::NAN, "both.safetensors");

    let shown = sandbox.ok("inspect both.safetensors");
    contains(
        &shown,
        &["not finite  blocks.1.norm1.weight (1 NaN of 32)", "decoder_pred.bias (1 infinite of "],
    );
    let json: serde_json::Value =
        serde_json::from_str(&sandbox.ok("inspect --json both.safetensors")).unwrap();
    assert_eq!(json["not_finite"][0]["name"], "blocks.1.norm1.weight");
    let transfer = format!("{} --max-steps 1", small_transfer());
    let error = sandbox.fails(1, &format!("{transfer} --init both.safetensors --runs both"));
    contains(&error, &["both.safetensors", "NaN or infinity in `blocks.1.norm1.weight (1 NaN of 32)`"]);
    assert!(!error.contains("decoder_pred"), "the decoder is not read: {error}");
    sandbox.ok(&format!("{transfer} --init decoder.safetensors --runs decoder"));
}

#[test]
fn a_truncated_state_is_refused_and_kept() {
    let sandbox = Sandbox::new();
    let line = small_pretrain();
    sandbox.ok(&format!("{line} --max-steps 2"));
    let run = sandbox.only_run("runs");
    let state = run.join("state.safetensors");
    let bytes = std::fs::read(&state).unwrap();
    std::fs::write(&state, &bytes[..bytes.len() - 100]).unwrap();
    contains(&sandbox.fails(1, &format!("{line} --resume")), &["state.safetensors", "truncated"]);
    assert_eq!(std::fs::read(&state).unwrap().len(), bytes.len() - 100);
}

#[test]
fn a_folder_has_one_run_and_one_owner() {
    let sandbox = Sandbox::new();
    sandbox.ok(&format!("{} --out mine", small_pretrain()));
    let error = sandbox.fails(2, &format!("{} --out mine --seed 1", small_pretrain()));
    contains(&error, &["mine", "another run (other values of run.seed)", "--out"]);

    let long = small_pretrain().replace("epochs=3", "epochs=3000");
    let mut first =
        sandbox.command(&format!("{long} --out busy")).stderr(std::process::Stdio::null()).spawn().unwrap();
    let began = std::time::Instant::now();
    while !sandbox.path("busy/log.jsonl").exists() && began.elapsed().as_secs() < 60 {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let error = sandbox.fails(2, &format!("{long} --out busy --resume"));
    first.kill().unwrap();
    first.wait().unwrap();
    contains(&error, &["busy", "in use by"]);
}

#[test]
fn a_loss_that_is_not_finite_leaves_a_report() {
    let sandbox = Sandbox::new();
    let error = sandbox.fails(1, &format!("{} --set optim.base_lr=1e30 --set epochs=20", small_pretrain()));
    contains(&error, &["not finite", "failure.json"]);
    let report = std::fs::read_to_string(sandbox.only_run("runs").join("failure.json")).unwrap();
    contains(&report, &["\"step\"", "\"samples\"", "pretrain/images"]);
}

/// A limit on the size of files stands for a full disk: writing fails in the middle.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_an_error_and_keeps_what_was_there() {
    let sandbox = Sandbox::new();
    let line = small_pretrain();
    sandbox.ok(&format!("{line} --max-steps 1"));
    let state = sandbox.only_run("runs").join("state.safetensors");
    let before = std::fs::read(&state).unwrap();
    let shell = format!("trap '' XFSZ; ulimit -f 40; exec {} {line} --resume", env!("CARGO_BIN_EXE_bench"));
    let output = std::process::Command::new("bash")
        .args(["-c", &shell])
        .current_dir(sandbox.folder.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    contains(&stderr(&output), &["model.safetensors"]);
    assert_eq!(std::fs::read(&state).unwrap(), before);
    let left: Vec<_> =
        std::fs::read_dir(state.parent().unwrap()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().contains(".part")), "{left:?}");
    sandbox.ok(&format!("{line} --resume"));
}

#[test]
fn broken_manifests_are_told_apart() {
    let sandbox = Sandbox::new();
    let task = |sandbox: &Sandbox, from: &str, to: &str| {
        let include = with_typo(sandbox, "tasks/shapes_classification/task.toml", from, to);
        sandbox.fails(2, &format!("{} --init scratch {include}", small_transfer()))
    };
    contains(&task(&sandbox, "\"classification\"", "\"depth\""), &["depth", "known: classification"]);
    contains(&task(&sandbox, "primary = \"top1\"", "primary = \"top3\""), &["top3", "top1, top5"]);
    contains(
        &task(&sandbox, "eval = \"val\"", "eval = \"test\""),
        &["no split `test`", "it has: pretrain, "],
    );
    contains(&task(&sandbox, "version = 1", "version = "), &["task.toml", "version ="]);
}
