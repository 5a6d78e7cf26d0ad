//! Extensions of different authors in one program: the objective of the crate `rotation` pre-trains the backbone `mixer`.

#[allow(dead_code)]
#[path = "../src/main.rs"]
mod mixer;
#[allow(dead_code)]
#[path = "../../rotation/src/main.rs"]
mod rotation;

use bench::prelude::Registry;
use std::path::{Path, PathBuf};

#[test]
fn a_mixer_is_pretrained_by_rotations_and_transferred() {
    let registry = Registry::builtin().with_objective::<rotation::Rotation>().with_backbone::<mixer::Mixer>();
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("mixer_with_rotation");
    let _ = std::fs::remove_dir_all(&folder);
    let bench = |words: &str, paths: &[(&str, PathBuf)]| {
        let mut args: Vec<PathBuf> =
            ["bench"].into_iter().chain(words.split_whitespace()).map(Into::into).collect();
        paths.iter().for_each(|(flag, path)| args.extend([PathBuf::from(flag), path.clone()]));
        bench::cli::run(&registry, args)
    };
    let (data, runs, pretrained) = (folder.join("data"), folder.join("runs"), folder.join("runs/pretrained"));
    let make = "data make shapes --size 32 --pretrain 16 --train 20 --val 10";
    assert_eq!(bench(make, &[("--out", data.clone())]), 0);

    let include = |crate_name: &str| ("--include", here.join("..").join(crate_name).join("include"));
    let common = [include("mixer"), include("rotation"), ("--data", data), ("--runs", runs)];
    let pretrain = "pretrain --recipe rotation --dataset shapes --model mixer_tiny --set epochs=2 --workers 1 \
                    --set schedule.warmup_epochs=1";
    assert_eq!(bench(pretrain, &[&common[..], &[("--out", pretrained.clone())]].concat()), 0);
    let transfer = "transfer --task shapes_classification --recipe mixer --set epochs=2 --workers 1 \
                    --set schedule.warmup_epochs=1";
    assert_eq!(bench(transfer, &[&common[..], &[("--init", pretrained)]].concat()), 0);
}
