//! What a new user tries in the first hour: short flags, runs that are found and compared, mistakes that are explained.

use crate::program::{Sandbox, fixture, repository, small_pretrain, small_transfer, stderr};
use serde_json::Value;

fn contains(text: &str, parts: &[&str]) {
    parts.iter().for_each(|part| assert!(text.contains(part), "expected `{part}` in:\n{text}"));
}

/// A task with a split for choosing, on the fixture of `shapes`, in the folder `own`.
fn own_task(sandbox: &Sandbox) -> String {
    let task = std::fs::read_to_string(repository().join("tasks/shapes_classification/task.toml")).unwrap();
    let task = task
        .replace("name = \"shapes_classification\"", "name = \"mine\"")
        .replace("select = \"select\"", "select = \"train\"");
    sandbox.write("own/tasks/mine/task.toml", &task);
    format!(
        "transfer --task mine --include own --data {} --model vit_tiny_test --recipe finetune_demo --init scratch \
         --set batch=5 --set schedule.warmup_epochs=0 --workers 1",
        fixture("shapes")
    )
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn a_run_from_random_weights_takes_the_model_of_the_runs_that_it_is_compared_with() {
    let sandbox = Sandbox::new();
    sandbox.ok(&small_pretrain());
    let line = format!("{} --init scratch --max-steps 1", small_transfer());
    let scratch = sandbox.run(&line);
    contains(&stderr(&scratch), &["model vit_tiny_test", "the newest pre-training", "--model takes another"]);
    let given = sandbox.run(&format!("{line} --model vit_micro8 --seed 1"));
    assert!(given.status.success() && !stderr(&given).contains("--model takes"), "{}", stderr(&given));
    let runs = json(&sandbox.ok("runs --stage transfer --json"));
    let models: Vec<_> = runs.as_array().unwrap().iter().map(|run| run["model"].as_str().unwrap()).collect();
    assert_eq!(models.len(), 2);
    assert!(models.contains(&"vit_tiny_test") && models.contains(&"vit_micro8"), "{models:?}");
    // A transfer of the task that is complete comes before the pre-training.
    sandbox.ok(&format!("{} --init scratch --model vit_micro8 --seed 2", small_transfer()));
    let next = sandbox.run(&format!("{line} --seed 3"));
    contains(&stderr(&next), &["model vit_micro8", "the newest run of this task"]);
}

#[test]
fn short_flags_are_settings() {
    let sandbox = Sandbox::new();
    let flags = "--recipe finetune_demo --init scratch --epochs 7 --batch-size 6 --lr 2e-3 --weight-decay 0.01 --img-size 32x64";
    let line = format!("config show transfer --task shapes_classification --model vit_tiny_test {flags}");
    let shown = sandbox.ok(&line);
    contains(
        &shown,
        &[
            "epochs = 7",
            "batch = 6",
            "lr = 0.002",
            "weight_decay = 0.01",
            "image = [32, 64]",
            "# lr = 2e-3 at its peak",
        ],
    );
    contains(&shown, &["overrides = [\"epochs=7\"", "\"model.image=[32,64]\""]);
    let error = sandbox.fails(2, &format!("{line} --set epochs=3"));
    contains(&error, &["--epochs and --set epochs=3 set the same key"]);
    contains(&sandbox.fails(2, &line.replace("32x64", "big")), &["--img-size", "HEIGHTxWIDTH"]);
    let error = sandbox.fails(2, &format!("{line} --set learning_rate=1"));
    contains(&error, &["learning_rate", "did you mean `optim.lr`?"]);
    contains(
        &sandbox.ok("config keys weight_decay"),
        &["optim.weight_decay  (number; required)", "Weight decay"],
    );
    contains(&sandbox.ok("config keys mask_ratio"), &["pretrain.mask_ratio"]);
    contains(&sandbox.ok("config keys model.depth"), &["model.depth"]);
    contains(&sandbox.fails(2, "config keys zzzz"), &["no key contains `zzzz`"]);
}

#[test]
fn runs_are_listed_and_compared() {
    let sandbox = Sandbox::new();
    contains(&stderr(&sandbox.run("runs")), &["no runs in `runs`"]);
    contains(
        &stderr(&sandbox.run("table")),
        &["there are no transfer runs in `runs`; `bench transfer` makes them"],
    );
    sandbox.ok(&small_pretrain());
    sandbox.ok(&format!("{} --set optim.base_lr=1e-3 --max-steps 2", small_pretrain()));
    contains(&stderr(&sandbox.run("table")), &["2 pre-training runs, which `bench runs` lists"]);
    let shown = sandbox.ok("runs");
    contains(&shown, &["finished", "truncated", "2/3", "loss", "ago"]);
    let runs = json(&sandbox.ok("runs --json"));
    let ids: Vec<_> =
        runs.as_array().unwrap().iter().map(|run| run["id"].as_str().unwrap().to_string()).collect();
    assert_eq!(
        (ids.len(), json(&sandbox.ok("runs --status finished --json")).as_array().unwrap().len()),
        (2, 1)
    );
    contains(&sandbox.ok(&format!("runs {}", ids[1])), &[&ids[1]]);
    contains(&stderr(&sandbox.run("runs no-such")), &["no runs in `runs` match (2 there)"]);

    let compared = sandbox.ok(&format!("compare {} {} --csv both.csv", ids[0], ids[1]));
    contains(&compared, &["setting", "recipe.optim.base_lr", "0.001", "epoch", "loss of A", "lowest"]);
    let points = std::fs::read_to_string(sandbox.path("both.csv")).unwrap();
    contains(&points, &["run,step,epoch,kind,name,value\n", &format!("{},1,1,training,loss,", ids[0])]);
    let found = json(&sandbox.ok(&format!("compare {} runs/{} --json", ids[0], ids[1])));
    let log = std::fs::read_to_string(sandbox.path(&format!("runs/{}/log.jsonl", ids[0]))).unwrap();
    let first = json(log.lines().next().unwrap());
    assert_eq!(found["losses"][0][0]["loss"], first["reconstruction"]);
    contains(&sandbox.fails(2, &format!("compare {} nothing", ids[0])), &["there is no run `nothing`"]);
}

#[test]
fn scores_are_compared_run_by_run_and_seed_by_seed() {
    let sandbox = Sandbox::new();
    for (recipe, seed) in [("2", 0), ("2", 1), ("3", 0), ("3", 1)] {
        sandbox.ok(&format!(
            "{} --init scratch --model vit_tiny_test --set clip={recipe} --seed {seed}",
            small_transfer()
        ));
    }
    let runs = json(&sandbox.ok("runs --json"));
    let id = |clip: &str, seed: u64| {
        let mut found = runs.as_array().unwrap().iter().map(|run| run["id"].as_str().unwrap());
        found.find(|id| {
            let text = std::fs::read_to_string(sandbox.path(&format!("runs/{id}/run.json"))).unwrap();
            text.contains(&format!("clip={clip}")) && json(&text)["seed"] == seed
        })
    };
    let (a, b) = (id("2", 0).unwrap(), id("3", 0).unwrap());
    let score = |id: &str| {
        json(&std::fs::read_to_string(sandbox.path(&format!("runs/{id}/run.json"))).unwrap())["scores"]["top1"]["value"]
            .as_f64()
            .unwrap()
    };
    let found = json(&sandbox.ok(&format!("compare {a} {b} --json")));
    assert_eq!(found["scores"][0]["name"], "top1");
    assert_eq!(found["scores"][0]["difference"].as_f64().unwrap(), score(b) - score(a));
    assert_eq!(found["by_seed"]["seeds"], serde_json::json!([0, 1]));
    let mean = (score(b) - score(a) + score(id("3", 1).unwrap()) - score(id("2", 1).unwrap())) / 2.;
    assert!((found["by_seed"]["mean"].as_f64().unwrap() - mean).abs() < 1e-9);
    contains(
        &sandbox.ok(&format!("compare {a} {b}")),
        &["B − A", "over 2 pairs of runs with the same seed (0, 1)"],
    );
}

#[test]
fn training_stops_early_on_the_split_for_choosing() {
    let sandbox = Sandbox::new();
    let line = own_task(&sandbox);
    // Without a learning rate nothing gets better after the first evaluation.
    let early = "--epochs 20 --lr 1e-30 --set eval_epochs=1 --set early_stop=3";
    let shown = sandbox.ok(&format!("{line} {early}"));
    contains(
        &shown,
        &["status  finished, 8 of 40 steps", "best ", "after step 2 on `train`; best.safetensors"],
    );
    let record = json(&std::fs::read_to_string(sandbox.only_run("runs").join("run.json")).unwrap());
    assert_eq!(record["evaluation"]["best"]["step"], 2);
    contains(
        &record["notes"].to_string(),
        &["stopped early after step 8 of 40: 3 evaluations without a better score"],
    );
    let id = record["id"].as_str().unwrap();
    // Neither eval nor predict needs the folder that the run was started with.
    let best = sandbox.ok(&format!("eval {id} --best"));
    assert_eq!(best, sandbox.ok(&format!("eval {id} --weights runs/{id}/best.safetensors")));
    assert!(!stderr(&sandbox.run("table")).contains("left out"));
    let error = sandbox
        .fails(2, &format!("{} --init scratch --model vit_tiny_test --set early_stop=2", small_transfer()));
    contains(&error, &["early_stop needs evaluations", "eval_epochs"]);
    sandbox.write(
        "own/tasks/mine/task.toml",
        &std::fs::read_to_string(sandbox.path("own/tasks/mine/task.toml"))
            .unwrap()
            .replace("select = \"train\"\n", ""),
    );
    let error = sandbox.fails(2, &format!("{line} {early} --seed 5"));
    contains(&error, &["no split for choosing", "`select`"]);
}

#[test]
fn a_run_without_evaluations_has_no_best_weights() {
    let sandbox = Sandbox::new();
    sandbox.ok(&format!("{} --init scratch --model vit_tiny_test --max-steps 1", small_transfer()));
    let folder = sandbox.only_run("runs");
    let id = folder.file_name().unwrap().to_str().unwrap();
    contains(&sandbox.fails(2, &format!("eval {id} --best")), &["kept no best weights", "eval_epochs"]);
}

#[test]
fn mistakes_are_explained() {
    let sandbox = Sandbox::new();
    let transfer = small_transfer();
    let detector = transfer.replace("finetune_demo", "maskrcnn");
    let error = sandbox.fails(2, &format!("{detector} --init scratch --model vit_tiny_test"));
    contains(&error, &["recipe `maskrcnn` is for detection; for classification use", "finetune", "linear"]);
    contains(
        &sandbox.fails(2, &format!("{transfer} --init timm/vit_base")),
        &["no such file or folder", "write hub:timm/vit_base"],
    );
    let error = sandbox.fails(2, &format!("{transfer} --init weights/mae.pth"));
    assert!(error.contains("no such file or folder") && !error.contains("nearest"), "{error}");
    sandbox.ok(&small_pretrain());
    let shown = sandbox.run(&format!("{transfer} --max-steps 1"));
    contains(&stderr(&shown), &["loaded the ", "tensors of the backbone; ignored ", "(decoder "]);
    contains(&String::from_utf8_lossy(&shown.stdout), &["status  stopped at --max-steps"]);
}

#[test]
fn a_pretraining_reports_the_loss_of_images_that_it_holds_out() {
    let sandbox = Sandbox::new();
    let line = format!("{} --set batch=2 --set held_out=2 --set eval_epochs=1", small_pretrain());
    let shown = sandbox.ok(&line);
    contains(&shown, &["scores  held_out_loss ", "best ", "on `held out`"]);
    let folder = sandbox.only_run("runs");
    let record = json(&std::fs::read_to_string(folder.join("run.json")).unwrap());
    let score = record["scores"]["held_out_loss"]["value"].as_f64().unwrap();
    assert!(score > 0.5 && score < 3., "{score}");
    assert_eq!(record["evaluation"]["times"], 3);
    let log = std::fs::read_to_string(folder.join("log.jsonl")).unwrap();
    assert_eq!(log.lines().filter(|line| line.contains("held_out_loss")).count(), 3);
    assert!(folder.join("best.safetensors").is_file());
    // The images are not trained on, and another number of them is another run.
    let images = std::fs::read_dir(format!("{}/pretrain/images", fixture("shapes"))).unwrap().count() as u64;
    assert_eq!(record["steps_planned"], 3 * ((images - 2) / 2));
    assert_eq!(
        sandbox.ok(&format!("{line} --runs again")).lines().nth(3),
        shown.lines().nth(3),
        "the same draw of masks"
    );
    let error = sandbox.fails(2, &format!("{line} --set held_out={images}"));
    contains(&error, &["held_out is", "images"]);
    let stopped = sandbox.ok(&format!("{line} --epochs 30 --lr 1e-30 --set early_stop=2 --runs early")
        .replace("--set epochs=3 ", ""));
    contains(&stopped, &["finished, ", "best "]);
    let record = json(&std::fs::read_to_string(sandbox.only_run("early").join("run.json")).unwrap());
    contains(&record["notes"].to_string(), &["stopped early"]);
}

#[test]
fn a_classifier_explains_its_accuracy() {
    let sandbox = Sandbox::new();
    sandbox.ok(&format!("{} --model vit_tiny_test --init scratch", small_transfer()));
    let run = sandbox.only_run("runs");
    let files = |folder: &std::path::Path| {
        let mut names: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    let expected = [
        "by_class.csv",
        "calibration.csv",
        "confusion.csv",
        "confusion.png",
        "errors.png",
        "predictions.csv",
    ];
    assert_eq!(files(&run.join("report")), expected);
    assert!(run.join("by_class.json").is_file());
    let found = json(&sandbox.ok(&format!("eval {} --json", run.display())));
    let confusion = found["report"]["confusion"].as_array().unwrap();
    let counts =
        |row: &Value| row.as_array().unwrap().iter().map(|count| count.as_u64().unwrap()).sum::<u64>();
    assert_eq!(confusion.iter().map(counts).sum::<u64>(), found["images"].as_u64().unwrap());
    let right: u64 = confusion.iter().enumerate().map(|(class, row)| row[class].as_u64().unwrap()).sum();
    let top1 = 100. * right as f64 / found["images"].as_f64().unwrap();
    assert!((top1 - found["scores"]["top1"]["value"].as_f64().unwrap()).abs() < 1e-9, "{found}");

    let said = sandbox.ok(&format!("eval {} --split train --report seen", run.display()));
    contains(&said, &["mean accuracy of the classes", "expected calibration error", "report in seen"]);
    assert_eq!(files(&sandbox.path("seen")), expected);
    let again = sandbox.fails(2, &format!("eval {} --report seen", run.display()));
    contains(&again, &["--report seen: the folder is not empty"]);
}

#[test]
fn a_run_says_how_many_images_an_epoch_leaves_over() {
    let sandbox = Sandbox::new();
    let line = format!("{} --model vit_tiny_test --init scratch --max-steps 1", small_transfer());
    let said = stderr(&sandbox.run(&line.replace("batch=5", "batch=7")));
    contains(&said, &["10 images at batch 7: 1 step an epoch, 3 images left over"]);
    let said = stderr(&sandbox.run(&line));
    assert!(!said.contains("left over"), "{said}");
}
