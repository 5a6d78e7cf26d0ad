//! The commands in the order in which a newcomer types them.

use crate::program::{Sandbox, fixture, repository, small_pretrain, small_transfer};

#[test]
fn pretrain_transfer_eval_table_and_picture() {
    let sandbox = Sandbox::new();
    let shown = sandbox.ok(&small_pretrain());
    assert!(shown.contains("status  finished"), "{shown}");

    // Without --init the newest pre-training run is taken, with its model.
    let output = sandbox.run(&small_transfer());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    assert!(said.contains("newest finished pre-training run"), "{said}");
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(shown.contains("top1"), "{shown}");

    // The same again is done already, and nothing changes.
    let again = sandbox.run(&small_transfer());
    assert!(String::from_utf8_lossy(&again.stderr).contains("already finished"));

    let id = shown.split_whitespace().nth(1).unwrap();
    let record = std::fs::read_to_string(sandbox.path(&format!("runs/{id}/run.json"))).unwrap();
    let record: serde_json::Value = serde_json::from_str(&record).unwrap();
    let top1 = record["scores"]["top1"]["value"].as_f64().unwrap();
    assert_eq!(record["init"]["label"], "mae");
    assert!(record["init"]["run"].as_str().unwrap().starts_with("mae_demo-shapes-vit_tiny_test-s0-"));

    // Evaluation of the saved weights gives the score of the record.
    let scores = sandbox.ok(&format!("eval {id} --data {}", fixture("shapes")));
    assert!(scores.contains(&format!("top1 {top1:.2}")), "{scores} {top1}");

    let output = sandbox.run(&format!("eval {id} --data {} --split train --by-class", fixture("shapes")));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    for words in ["task shapes_classification, split train in ", "weights runs/"] {
        assert!(said.contains(words), "{words}: {said}");
    }
    let scores = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(scores.contains("accuracy ") && scores.contains("precision "), "{scores}");
    let error = sandbox.fails(2, &format!("eval {id} --task coco"));
    assert!(error.contains("--task"), "{error}");

    let table = sandbox.ok("table main --format markdown");
    assert!(table.contains("shapes_classification") && table.contains("mae"), "{table}");

    let pretrained = record["init"]["run"].as_str().unwrap();
    sandbox.ok(&format!("reconstruct {pretrained} --count 3"));
    let picture = image::open(sandbox.path("reconstruction.png")).unwrap();
    // Images of 32 pixels at eight times their size, below a title and headings.
    assert_eq!(picture.width(), 4 * 256 + 3 * 10 + 2 * 16);
    assert!((860..960).contains(&picture.height()), "{} pixels high", picture.height());
    let error = sandbox.fails(2, &format!("reconstruct {pretrained}"));
    assert!(error.contains("exists"), "{error}");
    let error = sandbox.fails(2, &format!("reconstruct {id} --out other.png"));
    assert!(error.contains("no decoder"), "{error}");

    for named in [format!("runs/{pretrained}"), pretrained.to_string()] {
        let inspected = sandbox.ok(&format!("inspect {named}"));
        assert!(inspected.contains("encoder and decoder") && inspected.contains(pretrained), "{inspected}");
    }
    sandbox.ok(&format!("convert {pretrained} --to fair --out fair.safetensors"));
    let error = sandbox.fails(2, &format!("convert {pretrained} --to fair --out fair.pth"));
    assert!(error.contains("`fair.pth`") && error.contains("`.safetensors`"), "{error}");
}

#[test]
fn a_configuration_fed_back_gives_the_same_weights() {
    let sandbox = Sandbox::new();
    sandbox.ok(&small_pretrain());
    let first = sandbox.only_run("runs");
    let config = first.join("config.toml");
    sandbox.ok(&format!("pretrain --config {} --runs again --workers 1", config.display()));
    let again = sandbox.only_run("again");
    for file in ["model.safetensors", "log.jsonl", "config.toml"] {
        assert_eq!(
            std::fs::read(first.join(file)).unwrap(),
            std::fs::read(again.join(file)).unwrap(),
            "{file}"
        );
    }
}

#[test]
fn every_protocol_of_classification_runs() {
    let sandbox = Sandbox::new();
    sandbox.ok(&small_pretrain());
    for extra in [
        "--recipe linear_demo",
        "--recipe linear_demo --set transfer.cached_features=true",
        "--recipe partial_demo --set transfer.tune.blocks=0",
        "--recipe partial_demo --set transfer.tune.blocks=0.5",
        "--recipe partial_demo",
        "--recipe finetune_demo --set micro_batch=5 --set batch=10 --set ema=0.9 --set clip=1.0 --set eval_epochs=1 \
         --set transfer.head.mix.mixup=0.8 --set transfer.head.mix.cutmix=1.0",
        "--recipe finetune_demo --set transfer.head.pool=cls",
    ] {
        let line = small_transfer().replace("--recipe finetune_demo", extra);
        let shown = sandbox.ok(&line);
        assert!(shown.contains("scores  top1"), "{line}\n{shown}");
    }
    let knn = format!(
        "transfer --task shapes_classification --data {} --recipe knn --set batch=5",
        fixture("shapes")
    );
    assert!(sandbox.ok(&knn).contains("scores  top1"));
}

#[test]
fn tuning_all_blocks_is_full_fine_tuning() {
    let sandbox = Sandbox::new();
    let weights = |out: &str, tune: &str| {
        let line = small_transfer().replace("--recipe finetune_demo", "--recipe partial_demo");
        sandbox.ok(&format!(
            "{line} --model vit_tiny_test --init scratch --set transfer.tune={tune} --runs {out}"
        ));
        let path = sandbox.only_run(out).join("model.safetensors");
        candle_core::safetensors::load(path, &candle_core::Device::Cpu).unwrap()
    };
    let [all, blocks, last, none] =
        [("all", "all"), ("blocks", "{blocks=2}"), ("last", "{blocks=1}"), ("none", "head")]
            .map(|(out, tune)| weights(out, tune));
    assert_eq!(all.len(), blocks.len());
    let same = |a: &candle_core::Tensor, b: &candle_core::Tensor| {
        a.flatten_all().unwrap().to_vec1::<f32>().unwrap()
            == b.flatten_all().unwrap().to_vec1::<f32>().unwrap()
    };
    for (name, tensor) in &all {
        assert!(same(tensor, &blocks[name]), "{name}");
        let trained = !["patch_embed.", "pos_embed", "blocks.0."].iter().any(|part| name.starts_with(part));
        let moved = !same(&last[name], &none[name]);
        assert!(trained || !moved, "{name} is trained with one block");
        if ["patch_embed.proj.weight", "pos_embed", "blocks.0.mlp.fc1.weight"].contains(&name.as_str()) {
            assert!(!same(tensor, &last[name]), "{name} is not trained with all blocks");
        }
    }
}

#[test]
fn every_objective_of_table_1_runs() {
    let sandbox = Sandbox::new();
    for extra in [
        "--set pretrain.target=pixel",
        "--set pretrain.target=pca --set model.patch=4 --set model.image=[16,16]",
        "--set pretrain.mask=block --set pretrain.mask_ratio=0.5",
        "--set pretrain.mask=grid",
        "--set pretrain.loss_on=all",
        "--set pretrain.mask_tokens_in_encoder=true",
        "--set pretrain.decoder={width=32,depth=2,heads=2}",
        "--set model.image=[16,32] --set model.channels=1",
        "--set augment=[{op=\"center_crop\"}]",
        "--set micro_batch=2",
    ] {
        let shown = sandbox.ok(&format!("{} --max-steps 2 {extra}", small_pretrain()));
        assert!(shown.contains("stopped at --max-steps, 2 of"), "{extra}\n{shown}");
    }
}

#[test]
fn every_suite_is_planned_without_data_and_weights() {
    let sandbox = Sandbox::new();
    let folder = repository().join("configs/suites");
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        let line = format!("suite plan {name}");
        let plan = sandbox.ok(&line);
        assert!(plan.contains("left: "), "{name}: {plan}");
        let tokenizer = std::fs::read_to_string(&path).unwrap().contains("encoder.pkl");
        assert_eq!(plan.contains("pretrain.tokenizer = encoder.pkl"), tokenizer, "{name}: {plan}");
    }
}

#[test]
fn lists_and_descriptions() {
    let sandbox = Sandbox::new();
    assert!(sandbox.ok("task list").contains("imagenet"));
    assert!(sandbox.ok("task show imagenet").contains("Table 3"));
    assert!(sandbox.ok("task check --all").contains("shapes_classification"));
    assert!(sandbox.ok("data list").contains("shapes"));
    assert!(
        sandbox.ok(&format!("data check shapes --decode --data {}", fixture("shapes"))).contains("pretrain")
    );
    assert!(sandbox.ok("model list").contains("vit_h14"));
    assert!(sandbox.ok("model show vit_b16").contains("85798656"));
    assert!(sandbox.ok("model show vit_b16 --set image=[224,448]").contains("image = [224, 448]"));
    let config = sandbox.ok("config show pretrain --dataset imagenet --recipe mae_1600 --model vit_l16");
    assert!(config.contains("1.5e-4 * 4096 / 256 = 2.4e-3"), "{config}");
    // With its data, and without.
    for (task, images) in [("shapes_classification", "images of split"), ("imagenet", "images of split")] {
        let shown = sandbox
            .ok(&format!("config show transfer --task {task} --recipe knn --model vit_b16 --init scratch"));
        assert!(shown.contains("# the head is fitted in one pass over") && shown.contains(images), "{shown}");
        for absent in
            ["# lr =", "forward passes per step", "steps per epoch", "images seen", "fewer than the batch"]
        {
            assert!(!shown.contains(absent), "{shown}");
        }
    }
    let config = sandbox.ok("config show transfer --task imagenet --model vit_l16 --init scratch");
    assert!(config.contains("epochs = 50") && config.contains("layer_decay = 0.75"), "{config}");
    for file in ["model", "recipe", "task", "dataset", "suite", "table", "run"] {
        let schema: serde_json::Value =
            serde_json::from_str(&sandbox.ok(&format!("config schema {file}"))).unwrap();
        assert!(schema["properties"].is_object(), "{file}");
    }
    let recipes = sandbox.ok("recipe list");
    assert!(recipes.contains("mae_1600") && recipes.contains("arXiv:2111.06377 Table 8"), "{recipes}");
    assert!(sandbox.ok("recipe show finetune").contains("layer_decay"));
    assert!(sandbox.fails(2, "recipe show finetun").contains("did you mean `finetune`"));
    assert!(sandbox.ok("suite list").contains("10 runs, table demo"));
    assert!(sandbox.ok("table --list").contains("tiny_imagenet_20"));
    assert!(sandbox.ok("suite plan demo").contains("10 runs"));
    let found = sandbox.ok("doctor");
    assert!(found.contains("cpu") && found.contains("subnormal numbers are treated as zero"), "{found}");
    assert!(sandbox.ok("completions bash").contains("_bench"));
    assert!(sandbox.ok("man").contains(".TH"));
}

#[test]
fn files_are_named_by_their_paths() {
    let sandbox = Sandbox::new();
    let copy = |from: &str, to: &str| {
        sandbox.write(to, &std::fs::read_to_string(repository().join(from)).unwrap());
    };
    copy("configs/transfer/finetune_demo.toml", "own/ft.toml");
    copy("tasks/shapes_classification/task.toml", "own/any.toml");
    copy("tasks/shapes_classification/task.toml", "task.toml");
    assert!(sandbox.ok("recipe show own/ft.toml").contains("layer_decay"));
    for path in ["own/any.toml", ".", "./", "./task.toml"] {
        let shown = sandbox.ok(&format!("task check {path}"));
        assert!(shown.starts_with("shapes_classification: "), "{path}: {shown}");
    }
    let line = small_transfer().replace("--task shapes_classification", "--task own/any.toml");
    let line = line.replace("--recipe finetune_demo", "--recipe own/ft.toml");
    let shown = sandbox.ok(&format!("{line} --init scratch --model vit_tiny_test --max-steps 1"));
    assert!(shown.contains("ft-shapes_classification-vit_tiny_test-scratch"), "{shown}");
}

#[test]
fn speed_of_either_stage() {
    let sandbox = Sandbox::new();
    let speed = |flags: &str, first: &str| {
        let shown = sandbox.ok(&format!("speed --seconds 0.1 {flags}"));
        for line in [first, "loader alone", "model alone", "end to end", "images take"] {
            assert!(shown.contains(line), "{flags}\n{shown}");
        }
    };
    let transfer = format!("{} --model vit_tiny_test", small_transfer().replace("transfer ", ""));
    speed(&small_pretrain().replace("pretrain ", ""), "recipe mae_demo");
    speed(&transfer, "recipe finetune_demo");
    // A recipe of pre-training with a task, a repeated configuration: either says which stage.
    speed(&transfer.replace("finetune_demo", "mae_demo"), "recipe mae_demo");
    sandbox.ok(&format!("{} --init scratch --model vit_tiny_test --max-steps 1 --out ft", small_transfer()));
    speed("--config ft/config.toml", "recipe finetune_demo");
}

#[test]
fn a_profile_shows_the_parts_of_a_step() {
    let sandbox = Sandbox::new();
    let shown =
        sandbox.ok(&format!("{} --seconds 0.1 --profile", small_pretrain().replace("pretrain", "speed")));
    let table = shown.split_once("share of the step in %").expect("a table").1;
    let rows: Vec<Vec<&str>> = table.lines().skip(1).map(|line| line.split_whitespace().collect()).collect();
    let (last, rows) = rows.split_last().unwrap();
    assert!(last.join(" ").contains("threads were at work"), "{shown}");
    for name in ["attention_branch", "mlp_branch", "patch_mse", "(loader)", "(optimizer)", "(rest)"] {
        assert!(rows.iter().any(|row| row[0] == name), "{name}\n{shown}");
    }
    // A name may have several words; the three numbers are at the end.
    let share =
        |row: &Vec<&str>| row[row.len() - 3..][..2].iter().map(|n| n.parse::<f64>().unwrap()).sum::<f64>();
    let all: f64 = rows.iter().map(share).sum();
    assert!((all - 100.).abs() < 2., "{all}\n{shown}");
}

#[test]
fn a_folder_of_images_needs_no_manifest() {
    let sandbox = Sandbox::new();
    let images = format!("{}/pretrain/images", fixture("shapes"));
    let line = format!(
        "pretrain --data {images} --model vit_tiny_test --recipe mae_demo --set epochs=1 --set batch=4 --max-steps 1"
    );
    assert!(sandbox.ok(&line).contains("mae_demo-folder-vit_tiny_test"));
}

#[test]
#[cfg(unix)]
fn a_closed_pipe_is_no_error() {
    let sandbox = Sandbox::new();
    for line in ["task show imagenet", "completions bash", "man", "table imagenet"] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = sandbox.command(line).stdout(writer).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{line}");
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_standard_output_is_an_error() {
    let sandbox = Sandbox::new();
    for line in ["task list", "completions bash", "man", "table imagenet", "doctor"] {
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let output = sandbox.command(line).stdout(full).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{line}: {said}");
        assert!(said.starts_with("error: cannot write to standard output: "), "{line}: {said}");
        assert_eq!(said.lines().count(), 1, "{line}: {said}");
    }
}

#[test]
fn a_table_says_what_it_leaves_out() {
    let sandbox = Sandbox::new();
    sandbox.ok(&format!("{} --model vit_tiny_test --init scratch --max-steps 1", small_transfer()));
    let id = sandbox.only_run("runs").file_name().unwrap().to_str().unwrap().to_string();
    let spec = "title = \"T\"\nrows = [\"init\"]\n[filter]\nmodel = [\"vit_b16\"]\n\
                [[column]]\ntitle = \"top1\"\nwhere = { task = [\"shapes_classification\"] }\n";
    sandbox.write("mine/configs/tables/narrow.toml", spec);
    sandbox.write("mine/configs/tables/other.toml", &spec.replace("shapes_classification", "imagenet"));
    let said = |line: &str| String::from_utf8_lossy(&sandbox.run(line).stderr).into_owned();
    assert_eq!(
        said("table narrow --include mine"),
        "1 run of shapes_classification is not in this table (model vit_tiny_test); `bench table` shows all runs\n"
    );
    assert_eq!(said("table other --include mine"), "");

    sandbox.write("runs/broken/run.json", "{");
    let output = sandbox.run("table");
    assert!(String::from_utf8_lossy(&output.stdout).contains("vit_tiny_test"), "{id}");
    let warning = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(warning.starts_with("warning: ") && warning.contains("broken/run.json"), "{warning}");
    sandbox.write("mine/tasks/broken/task.toml", "name = ");
    let output = sandbox.run("task list --include mine");
    assert!(output.status.success() && String::from_utf8_lossy(&output.stdout).contains("shapes_detection"));
    assert!(String::from_utf8_lossy(&output.stderr).contains("mine/tasks/broken/task.toml"));
}

#[test]
fn a_configuration_with_another_seed_is_another_run() {
    let sandbox = Sandbox::new();
    sandbox.ok(&format!("{} --out first", small_pretrain()));
    sandbox.ok("pretrain --config first/config.toml --seed 3 --set optim.base_lr=1e-4 --out second");
    let config = std::fs::read_to_string(sandbox.path("second/config.toml")).unwrap();
    assert!(config.contains("seed = 3") && config.contains("base_lr = 0.0001"), "{config}");
    let direct = sandbox.ok(&format!("{} --seed 3 --set optim.base_lr=1e-4 --out second", small_pretrain()));
    assert!(direct.contains("status  finished"), "the same run as by its flags: {direct}");
    let error = sandbox.fails(2, "pretrain --config first/config.toml --set optim.bas_lr=1 --out third");
    assert!(error.contains("bas_lr"), "{error}");
}

#[test]
fn the_block_of_a_readme_shows_the_committed_speed() {
    let sandbox = Sandbox::new();
    let write = |path: &str, text: &str| {
        let path = sandbox.path(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    let run = |program: &str, ms: f64| {
        let peak = 100.0;
        serde_json::json!({ "program": program, "variant": "f32", "median_ms": ms, "min_ms": ms, "peak_mb": peak })
    };
    let record = serde_json::json!({
        "schema": 1, "date": "2026-01-01", "device": "cpu", "threads": 1, "rounds": 1,
        "machine": { "cpu": "CPU", "cores": 2, "flags": [], "memory_gb": 8.0, "system": "Linux" },
        "versions": { "torch": "2.0" }, "idle_mb": { "bench": 1.0, "pytorch": 2.0 },
        "cases": [{
            "case": "mae_vit_s16", "images": 8, "parameters": 1, "trainable": 1, "threads": 1,
            "runs": [run("bench", 500.0), run("pytorch", 1000.0)],
        }],
    });
    write("benches/results/laptop.json", &record.to_string());
    write("README.md", "<!-- table: speed -->\n<!-- /table -->\n");
    let error = sandbox.fails(2, "table --check README.md");
    assert!(error.contains("table `speed` is out of date") && error.contains("mae_vit_s16"), "{error}");
    sandbox.ok("table --update README.md");
    sandbox.ok("table --check README.md");
    let shown = sandbox.ok("table --speed benches/results/laptop.json");
    assert!(shown.contains("bench f32") && shown.contains("2.00"), "{shown}");
}

#[test]
fn the_committed_reference_is_that_of_the_program() {
    let sandbox = Sandbox::new();
    sandbox.ok(&format!("docs --check --out {}", repository().join("docs/reference").display()));
    let shown = sandbox.ok("docs --out reference");
    assert!(shown.contains("pages in reference"), "{shown}");
    sandbox.ok("docs --check --out reference");
    let recipe = std::fs::read_to_string(sandbox.path("reference/recipe.md")).unwrap();
    assert!(recipe.contains("| `base_lr` | number | required |"), "{recipe}");
    sandbox.write("reference/recipe.md", "edited");
    let error = sandbox.fails(2, "docs --check --out reference");
    assert!(error.contains("recipe.md") && !error.contains("task.md"), "{error}");
}
