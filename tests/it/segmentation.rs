//! Segmentation from the command line: training, overlays, scoring of label PNGs, and invalid masks.

use crate::program::{Sandbox, fixture, repository};
use std::path::{Path, PathBuf};

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(std::fs::copy(entry.path(), target).unwrap()),
        }
    }
}

/// A copy of the fixture of `camvid`, which a test may modify.
fn camvid(sandbox: &Sandbox) -> PathBuf {
    let data = sandbox.path("data");
    copy(Path::new(&fixture("camvid")), &data);
    data
}

/// Of 32-pixel windows on images of 48×64 pixels; more flags may follow.
fn transfer(data: &Path) -> String {
    format!(
        "transfer --task camvid --model vit_tiny_test --recipe upernet_demo --init scratch --set epochs=2 \
         --set batch=2 --set schedule.warmup_epochs=0 --workers 2 --data {}",
        data.display()
    )
}

#[test]
fn labels_that_are_predicted_score_as_the_run_did() {
    let sandbox = Sandbox::new();
    let data = camvid(&sandbox);
    sandbox.ok(&transfer(&data));
    let record = std::fs::read_to_string(sandbox.only_run("runs").join("run.json")).unwrap();
    let record: serde_json::Value = serde_json::from_str(&record).unwrap();
    let id = record["id"].as_str().unwrap();
    let images = data.join("images/val");
    sandbox.ok(&format!("predict {} --weights {id} --out out", images.display()));
    let picture = image::open(sandbox.path("out/0016E5_07959.png")).unwrap().to_rgb8();
    // Eleven times its size, between a heading and a legend.
    let (left, top, width, height) = (16, 51, 528, 396);
    assert_eq!(picture.width(), width + 2 * left);
    assert!(picture.height() > top + height + 30, "{} pixels high", picture.height());
    let source = bench::data::Image::open(&images.join("0016E5_07959.jpg"), 3).unwrap();
    let source = image::RgbImage::from_raw(source.width as u32, source.height as u32, source.data).unwrap();
    let enlarged = image::imageops::resize(&source, width, height, image::imageops::FilterType::CatmullRom);
    let drawn = image::imageops::crop_imm(&picture, left, top, width, height).to_image();
    assert_ne!(drawn, enlarged, "nothing is drawn");
    // Stored with 9 × 14 pixels, and shown by viewers with 14 × 9.
    let golden = std::fs::read(repository().join("tests/golden/orientation.safetensors")).unwrap();
    let golden = safetensors::SafeTensors::deserialize(&golden).unwrap();
    std::fs::write(sandbox.path("turned.jpg"), golden.tensor("file.6.jpeg").unwrap().data()).unwrap();
    for (flag, size) in [("", (14, 9)), ("--ignore-orientation", (9, 14))] {
        sandbox.ok(&format!("predict turned.jpg --weights {id} --out turned {flag} --force"));
        let labels = image::open(sandbox.path("turned/labels/turned.png")).unwrap();
        assert_eq!((labels.height(), labels.width()), size, "{flag}");
    }
    let line =
        format!("eval --predictions out/labels --task camvid --data {} --json --by-class", data.display());
    let found: serde_json::Value = serde_json::from_str(&sandbox.ok(&line)).unwrap();
    assert_eq!(found["scores"], record["scores"]);
    let ious = found["by_class"].as_object().unwrap().values().map(|scores| scores["iou"].as_f64().unwrap());
    let (sum, count) = ious.fold((0., 0.), |(sum, count), iou| (sum + iou, count + 1.));
    let mean = record["scores"]["miou"]["value"].as_f64().unwrap();
    assert!((sum / count - mean).abs() < 1e-9, "{} of {count} classes, mIoU {mean}", sum / count);
    // The annotation is the best prediction.
    let line = line.replace("out/labels", &data.join("annotations/val").display().to_string());
    let error = sandbox.fails(2, &line);
    assert!(error.contains("id 11") && error.contains(".png"), "void is no class: {error}");
    std::fs::remove_file(sandbox.path("out/labels/0016E5_07961.png")).unwrap();
    let line = format!("eval --predictions out/labels --task camvid --data {}", data.display());
    assert!(sandbox.fails(2, &line).contains("0016E5_07961.png"));
}

#[test]
fn the_recipe_of_the_paper_reads_512_pixels_unless_it_is_told_otherwise() {
    let sandbox = Sandbox::new();
    let shown = sandbox.ok("config show transfer --task ade20k --init scratch");
    for line in ["image = [512, 512]", "relative_position = \"per_block\"", "patch = 16", "width = 768"] {
        assert!(shown.contains(line), "{line}: {shown}");
    }
    let shown = sandbox.ok("config show transfer --task ade20k --init scratch --set model.image=[640,640]");
    assert!(shown.contains("image = [640, 640]"), "{shown}");
}

#[test]
fn wrong_masks_are_named() {
    for (spoil, words) in [
        ((|mask: &Path| std::fs::remove_file(mask).unwrap()) as fn(&Path), "there is no mask for image"),
        (|mask| image::GrayImage::new(5, 4).save(mask).unwrap(), "has 4x5 pixels, but the image has 36x48"),
        (|mask| image::RgbImage::new(48, 36).save(mask).unwrap(), "has RGB colours"),
        (|mask| image::GrayImage::from_pixel(48, 36, [12].into()).save(mask).unwrap(), "id 12 at column 0"),
        (|mask| std::fs::write(mask, b"mask").unwrap(), "is not a PNG"),
    ] {
        let sandbox = Sandbox::new();
        let data = camvid(&sandbox);
        let mask = data.join("annotations/train/0001TP_006720.png");
        spoil(&mask);
        let output = sandbox.run(&transfer(&data));
        let error = crate::program::stderr(&output);
        assert!(
            !output.status.success() && error.contains(words) && error.contains("0001TP_006720"),
            "{error}"
        );
        let check = sandbox.run(&format!("data check camvid --decode --data {}", data.display()));
        let said = String::from_utf8(check.stdout).unwrap() + &String::from_utf8(check.stderr).unwrap();
        assert!(said.contains(words), "{said}");
    }
}

#[test]
fn both_encodings_of_ade20k_and_images_smaller_than_a_window() {
    let sandbox = Sandbox::new();
    let data = sandbox.path("data");
    copy(Path::new(&fixture("ade20k")), &data);
    // An image of one pixel, with its mask, stands among the others.
    let small = data.join("images/validation/ADE_val_00000009.jpg");
    image::RgbImage::new(1, 1).save_with_format(small, image::ImageFormat::Png).unwrap();
    image::GrayImage::from_pixel(1, 1, [3].into())
        .save(data.join("annotations/validation/ADE_val_00000009.png"))
        .unwrap();
    let line = format!("{} --task ade20k", transfer(&data).replace(" --task camvid", ""));
    assert!(sandbox.ok(&line).contains("miou"));
    sandbox.write(
        "mine/tasks/full/task.toml",
        "name = \"full\"\nversion = 1\nkind = \"segmentation\"\ndataset = \"ade20k\"\nprimary = \"miou\"\n\
         recipe = \"upernet_demo\"\n[splits]\ntrain = \"full_train\"\neval = \"full_val\"\n[options]\nstride = 1.0\n\
         scales = [0.5, 1.0]\nflip = true\n[[eval]]\nop = \"resize_within\"\n",
    );
    let line = line.replace("--task ade20k", "--task full --include mine --runs full");
    assert!(sandbox.ok(&line).contains("miou"));
}
