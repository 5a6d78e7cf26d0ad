//! Evaluation protocols that cannot work are refused before the first step, for each kind of task, with what works instead.

use crate::program::{Sandbox, fixture, repository};

/// The command of a transfer to `task` with the operations `eval` and the options `options` instead of its own.
fn transfer(sandbox: &Sandbox, task: &str, options: &str, eval: &str) -> String {
    let manifest = std::fs::read_to_string(repository().join(format!("tasks/{task}/task.toml"))).unwrap();
    let (head, rest) = manifest.split_once("[options]").unwrap();
    let own = rest.split_once("[[eval]]").unwrap().0;
    let text = head.replace("\n[splits]", &format!("\neval = {eval}\n[splits]"));
    sandbox
        .write("own/tasks/mine/task.toml", &format!("{text}[options]{own}{options}\n").replace(task, "mine"));
    let recipe = match task {
        "shapes_classification" => "finetune_demo",
        "shapes_detection" => "maskrcnn_demo",
        _ => "upernet_demo",
    };
    format!(
        "transfer --task mine --include own --data {} --model vit_tiny_test --recipe {recipe} --init scratch --set batch=2 \
         --max-steps 1 --workers 1",
        fixture("shapes")
    )
}

const FLIP: &str = "{ op = \"flip\", p = 0.5 }";

#[test]
fn protocols_that_cannot_work_are_refused_before_the_first_step() {
    let works = [
        (
            "shapes_classification",
            "eval = [{ op = \"resize_short\", crop_ratio = 0.875 }, { op = \"center_crop\" }]",
        ),
        ("shapes_detection", "eval = [{ op = \"resize_longest\" }, { op = \"pad\" }]"),
        ("shapes_segmentation", "`stride = 0.6667` in `[options]`"),
    ];
    let size = "{ op = \"resize\", size = [16, 16] }";
    let resize = "{ op = \"resize\" }";
    for (task, remedy) in works {
        for (eval, words) in [
            (
                "[]".to_string(),
                "there are no operations: an image of 24x24 pixels stays as it is, but the model takes 32x32",
            ),
            (
                format!("[{size}]"),
                "an image of 24x24 pixels has 16x16 pixels after `resize`, but the model takes 32x32",
            ),
            (format!("[{resize}, {FLIP}]"), "`flip` draws random numbers"),
        ] {
            let sandbox = Sandbox::new();
            let error = sandbox.fails(2, &transfer(&sandbox, task, "", &eval));
            for words in [words, remedy, "`[[eval]]`: this protocol cannot work", "tasks/mine/task.toml"] {
                assert!(error.contains(words), "{task}, {eval}: expected `{words}` in {error}");
            }
            assert!(!sandbox.path("runs").exists(), "{task}, {eval}: nothing is written");
        }
    }
}

#[test]
fn a_crop_hides_what_must_be_found() {
    let crop = "[{ op = \"resize_short\", crop_ratio = 0.5 }, { op = \"center_crop\" }]";
    for task in ["shapes_detection", "shapes_segmentation"] {
        let sandbox = Sandbox::new();
        let line = transfer(&sandbox, task, "", crop);
        let error = sandbox.fails(2, &line);
        assert!(error.contains("`center_crop` shows the model 25 % of an image of 24x24 pixels"), "{error}");
        let data = fixture("shapes");
        let checked = sandbox.fails(2, &format!("task check mine --include own --data {data}"));
        assert!(checked.contains("`center_crop` shows the model 25 %"), "{checked}");
        // Without the data, images of usual sizes are tried.
        let checked = sandbox.fails(2, "task check mine --include own");
        assert!(checked.contains("`center_crop` shows the model"), "{checked}");
    }
    let sandbox = Sandbox::new();
    sandbox.ok(&transfer(&sandbox, "shapes_classification", "", crop));
}

#[test]
fn sliding_windows_take_images_as_they_are() {
    let sandbox = Sandbox::new();
    sandbox.ok(&transfer(&sandbox, "shapes_segmentation", "stride = 0.5", "[]"));
    let error = sandbox.fails(2, &transfer(&sandbox, "shapes_segmentation", "stride = 1.5", "[]"));
    assert!(error.contains("stride is 1.5, expected a fraction of the window"), "{error}");
}
