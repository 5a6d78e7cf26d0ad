//! A suite that is run: one line for every run, pictures, and what its table shows in words.

use crate::program::{Sandbox, fixture, stderr};
use image::RgbImage;

const SMALL: &str = "set = [\"epochs=1\", \"batch=2\", \"schedule.warmup_epochs=0\"]";

/// A sandbox with the data of `shapes` and a suite of one pre-training and `transfers`.
fn sandbox(transfers: &str) -> Sandbox {
    let sandbox = Sandbox::new();
    copy(fixture("shapes").as_ref(), &sandbox.path("data/shapes"));
    let pretrain = format!(
        "[[pretrain]]\nrecipe = \"mae_demo\"\ndataset = \"shapes\"\nmodel = \"vit_tiny_test\"\n{SMALL}\n"
    );
    sandbox.write(
        "own.toml",
        &format!("title = \"own\"\nseeds = [0]\ntable = \"own_table.toml\"\n{pretrain}{transfers}"),
    );
    let column = |title: &str, score: &str| {
        format!(
            "[[column]]\ntitle = \"{title}\"\nscore = \"{score}\"\nwhere = {{ primary = [\"{score}\"] }}\n"
        )
    };
    let difference =
        "[[difference]]\nkey = \"init\"\nof = \"mae\"\nminus = \"scratch\"\ntitle = \"mae − scratch\"\n";
    let table = [
        "title = \"own\"\nrows = [\"init\"]\n",
        &column("boxes", "box_ap50"),
        &column("regions", "miou"),
        difference,
    ];
    sandbox.write("own_table.toml", &table.concat());
    sandbox
}

fn transfers(task: &str, recipe: &str) -> String {
    format!(
        "[[transfer]]\ntask = \"{task}\"\nrecipes = [\"{recipe}\"]\ninit = [\"scratch\", \"mae_demo\"]\n\
         model = \"vit_tiny_test\"\n{SMALL}\n"
    )
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Runs the suite; returns standard output and the lines of standard error that begin runs.
fn run(sandbox: &Sandbox, flags: &str) -> (String, Vec<String>) {
    let line = format!("suite run own.toml --workers 1 {flags}");
    let output = sandbox.command(&line).env("BENCH_DATA", sandbox.path("data")).output().unwrap();
    let said = stderr(&output);
    assert!(output.status.success(), "{said}");
    let begins = said.lines().filter(|line| line.starts_with("run ")).map(String::from).collect();
    (String::from_utf8(output.stdout).unwrap(), begins)
}

fn picture(sandbox: &Sandbox, name: &str) -> RgbImage {
    image::open(sandbox.path(name)).unwrap().to_rgb8()
}

/// The columns of a picture that are not white at some row below the headings, as ranges at least `width` pixels wide.
fn tiles(picture: &RgbImage, width: u32) -> Vec<(u32, u32)> {
    let middle = picture.height() / 2;
    let near = |x: u32| (middle - 40..middle + 40).any(|y| picture.get_pixel(x, y).0 != [255; 3]);
    let mut found: Vec<(u32, u32)> = vec![];
    for x in (0..picture.width()).filter(|x| near(*x)) {
        match found.last_mut() {
            Some((_, end)) if *end == x => *end = x + 1,
            _ => found.push((x, x + 1)),
        }
    }
    found.retain(|(start, end)| end - start >= width);
    found
}

#[test]
fn a_suite_says_where_it_is_and_draws_every_kind_of_task_that_it_has() {
    let both =
        [transfers("shapes_detection", "maskrcnn_demo"), transfers("shapes_segmentation", "upernet_demo")];
    let sandbox = sandbox(&both.concat());
    let (shown, begins) = run(&sandbox, "--pictures seen");
    assert_eq!(begins.len(), 5, "{begins:?}");
    assert!(begins[0].starts_with("run 1 of 5, time left not known yet: pretrain shapes"), "{begins:?}");
    assert!(
        begins[1].starts_with("run 2 of 5, about ") && begins[1].contains(" left: transfer"),
        "{begins:?}"
    );
    assert!(begins[4].starts_with("run 5 of 5, ") && !begins[4].contains("about"), "{begins:?}");
    assert!(shown.contains("Without repetitions, which would give a standard error: boxes ("), "{shown}");
    assert!(shown.contains("seen/detections.png: detections of shapes_detection"), "{shown}");

    // Images of 24 pixels are drawn at sixteen times their size: the image, its annotation, and two predictions.
    for name in ["seen/detections.png", "seen/segmentation.png"] {
        let picture = picture(&sandbox, name);
        let found = tiles(&picture, 300);
        assert!(found.len() == 4 && found.iter().all(|(start, end)| end - start == 384), "{name}: {found:?}");
        let dark = |x: u32, y: u32| picture.get_pixel(x, y).0.iter().all(|v| *v < 100);
        // Title and headings are the only dark pixels above the first row of pictures.
        for (start, _) in &found {
            assert!(
                (start + 1..start + 100).any(|x| (45..80).any(|y| dark(x, y))),
                "{name}: heading at {start}"
            );
        }
        let pixels = |(start, end): (u32, u32)| -> Vec<_> {
            let middle = picture.height() / 2;
            (start..end)
                .flat_map(|x| (middle - 90..middle + 90).map(move |y| (x, y)))
                .map(|(x, y)| picture.get_pixel(x, y).0)
                .collect()
        };
        assert_ne!(pixels(found[0]), pixels(found[1]), "{name}: the annotation is drawn");
    }
    let reconstruction = picture(&sandbox, "seen/reconstruction.png");
    assert_eq!(tiles(&reconstruction, 200).len(), 4);

    let (again, begins) = run(&sandbox, "");
    assert!(begins.iter().all(|line| line.contains(" of 5, already done: ")), "{begins:?}");
    assert_eq!(again.lines().next(), shown.lines().next());
    let plan =
        sandbox.command("suite plan own.toml").env("BENCH_DATA", sandbox.path("data")).output().unwrap();
    assert!(String::from_utf8_lossy(&plan.stdout).contains("left: 0 images of training"));
}

#[test]
fn a_suite_without_detection_has_no_picture_of_it() {
    let sandbox = sandbox(&transfers("shapes_segmentation", "upernet_demo"));
    let plan = |said: &str| {
        let output =
            sandbox.command("suite plan own.toml").env("BENCH_DATA", sandbox.path("data")).output().unwrap();
        let shown = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(shown.contains(said), "{shown}");
    };
    plan("left: 24 images of training\n");
    run(&sandbox, "--pictures seen");
    let mut files: Vec<_> =
        std::fs::read_dir(sandbox.path("seen")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    files.sort();
    assert_eq!(files, ["reconstruction.png", "segmentation.png"]);
    // Another seed takes as long as the first one did.
    let text = std::fs::read_to_string(sandbox.path("own.toml")).unwrap();
    std::fs::write(sandbox.path("own.toml"), text.replace("seeds = [0]", "seeds = [0, 1]")).unwrap();
    plan(" left, by the time that finished runs took");
}
