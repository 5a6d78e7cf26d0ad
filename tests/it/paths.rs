//! Files that are named by their path: a task, a model, a recipe. Two files may have the same name.

use crate::program::{Sandbox, fixture, repository};
use std::path::Path;

fn built_in(file: &str) -> String {
    std::fs::read_to_string(repository().join(file)).unwrap()
}

/// A folder `own` with a task, a model and a recipe, and `photos` with the images and labels of the fixture.
fn own_files() -> Sandbox {
    let sandbox = Sandbox::new();
    let task = built_in("tasks/shapes_classification/task.toml");
    sandbox.write("own/mine/task.toml", &task.replace("name = \"shapes_classification\"", "name = \"mine\""));
    sandbox.write("own/small.toml", &built_in("configs/models/vit_tiny_test.toml"));
    sandbox.write("own/quick.toml", &built_in("configs/transfer/finetune_demo.toml"));
    copy(Path::new(&fixture("shapes")), &sandbox.path("photos"));
    sandbox
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => copy(&entry.path(), &to),
            false => drop(std::fs::copy(entry.path(), to).unwrap()),
        }
    }
}

const RUN: &str = "transfer --task own/mine/task.toml --model own/small.toml --recipe own/quick.toml --data photos \
                   --init scratch --set epochs=1 --set batch=5 --set schedule.warmup_epochs=0 --workers 1";

#[test]
fn a_finished_run_with_other_data_or_another_protocol_is_not_taken_for_this_one() {
    let sandbox = own_files();
    sandbox.ok(&format!("{RUN} --out run"));
    sandbox.ok(&format!("{RUN} --out run")); // nothing to do

    let labels = sandbox.path("photos/classification/train");
    let class = std::fs::read_dir(labels).unwrap().next().unwrap().unwrap().path();
    let image = std::fs::read_dir(class).unwrap().next().unwrap().unwrap().path();
    let further = image.with_file_name("further.png");
    std::fs::copy(&image, &further).unwrap();
    let error = sandbox.fails(2, &format!("{RUN} --out run"));
    assert!(error.contains("images or annotations of `shapes` are not those of the run in `run`"), "{error}");
    std::fs::remove_file(&further).unwrap();
    sandbox.ok(&format!("{RUN} --out run"));

    let task = std::fs::read_to_string(sandbox.path("own/mine/task.toml")).unwrap();
    sandbox.write("own/mine/task.toml", &task.replace("version = 1", "version = 2"));
    let error = sandbox.fails(2, &format!("{RUN} --out run"));
    assert!(error.contains("task `mine` has version 2 now") && error.contains("version 1"), "{error}");
}

#[test]
fn a_run_is_evaluated_and_predicts_by_the_task_at_its_path() {
    let sandbox = own_files();
    sandbox.ok(&format!("{RUN} --out run"));
    sandbox.ok("eval run --data photos --workers 1");
    sandbox.ok("predict --weights run --out seen photos/classification/val");
    assert!(sandbox.path("seen").is_dir());
}

#[test]
fn runs_of_different_files_with_one_name_are_not_averaged() {
    let sandbox = own_files();
    let recipe = built_in("configs/transfer/finetune_demo.toml");
    sandbox.write("own/other/quick.toml", &recipe.replace("weight_decay = ", "weight_decay = 1"));
    sandbox.ok(&format!("{RUN} --runs runs"));
    sandbox.ok(&format!("{RUN} --runs runs --seed 1"));
    let table = "title = \"t\"\nrows = [\"model\"]\n[[column]]\ntitle = \"ft\"\nscore = \"top1\"\n\
                 where = { recipe = [\"quick\"] }\n[filter]\ntask = [\"mine\"]\n";
    sandbox.write("own/table.toml", table);
    let text = sandbox.ok("table own/table.toml --runs runs");
    assert!(text.contains("small") && text.contains("(n=2)"), "{text}");
    let other = RUN.replace("own/quick.toml", "own/other/quick.toml");
    sandbox.ok(&format!("{other} --runs runs --seed 2"));
    let error = sandbox.fails(2, "table own/table.toml --runs runs");
    assert!(error.contains("come from different files with the same name"), "{error}");
}

#[test]
fn nothing_is_resumed_where_no_run_is() {
    let sandbox = own_files();
    let error = sandbox.fails(2, "transfer --out nowhere --resume");
    assert!(error.contains("there is no run in `nowhere`"), "{error}");
    let error = sandbox.fails(2, "pretrain --resume");
    assert!(error.contains("--out"), "{error}");
    sandbox.ok(&format!("{RUN} --out run --max-steps 1"));
    let error = sandbox.fails(2, "transfer --out run --resume --seed 3");
    assert!(error.contains("run.seed"), "{error}");
    sandbox.ok("transfer --out run --resume");
}

#[test]
fn wrong_operations_are_found_before_a_run_has_a_folder() {
    let sandbox = own_files();
    let recipe = built_in("configs/transfer/finetune_demo.toml");
    sandbox.write("own/quick.toml", &recipe.replace("p = 0.5", "p = 5.0"));
    let error = sandbox.fails(2, &format!("{RUN} --out run"));
    assert!(error.contains("recipe `quick`") && error.contains("flip"), "{error}");
    assert!(!sandbox.path("run").exists());
    sandbox.write("own/quick.toml", &recipe);
    let task = std::fs::read_to_string(sandbox.path("own/mine/task.toml")).unwrap();
    sandbox.write("own/mine/task.toml", &format!("{task}\n[[eval]]\nop = \"flip\"\np = 5.0\n"));
    let error = sandbox.fails(2, &format!("{RUN} --out run"));
    assert!(error.contains("evaluation protocol"), "{error}");
    assert!(!sandbox.path("run").exists());
}
