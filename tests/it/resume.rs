//! A run that is killed and resumed ends in the bytes of one that was not, whatever the number of loader workers.

use crate::program::{Sandbox, fixture, small_pretrain, stderr};
use bench::rng::Rng;
use rand::Rng as _;
#[cfg(unix)]
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// Kills of one run.
const KILLS: usize = 20;

fn same(one: &Path, other: &Path) {
    for file in ["model.safetensors", "log.jsonl", "config.toml"] {
        let (a, b) = (std::fs::read(one.join(file)).unwrap(), std::fs::read(other.join(file)).unwrap());
        assert!(a == b, "{file} of `{}` and `{}` differ", one.display(), other.display());
    }
}

/// A folder with so many pictures, `0.png` and on.
fn photos(sandbox: &Sandbox, count: u8) -> PathBuf {
    let folder = sandbox.path("photos");
    std::fs::create_dir(&folder).unwrap();
    for i in 0..count {
        let picture = image::RgbImage::from_fn(32, 32, |x, y| image::Rgb([20 * i, 8 * x as u8, 8 * y as u8]));
        picture.save(folder.join(format!("{i}.png"))).unwrap();
    }
    folder
}

/// Waits at most so long; kills the program with SIGKILL if it still runs.
fn killed_after(mut child: Child, time: Duration) -> bool {
    let began = Instant::now();
    while began.elapsed() < time {
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success());
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    true
}

/// Kills the run `line` so many times at random moments, resumes it each time, and compares it with an undisturbed one.
fn kill_test(line: &str, kills: usize) {
    let sandbox = Sandbox::new();
    let began = Instant::now();
    sandbox.ok(&format!("{line} --runs whole --workers 1"));
    // Twice the mean time between two kills: they fall all along the run, on a fast machine as on a slow one.
    let mut longest = began.elapsed().div_f64(kills as f64);
    let mut rng = Rng::new(0, "kill test", &[]);
    for attempt in 0..4 {
        let runs = format!("killed{attempt}");
        let line = format!("{line} --runs {runs}");
        if (0..kills).all(|round| {
            killed_after(resumed(&sandbox, &line, round), longest.mul_f64(rng.random_range(0.05..1.0)))
        }) {
            assert!(
                !killed_after(resumed(&sandbox, &line, kills), Duration::from_secs(300)),
                "the run does not end"
            );
            return same(&sandbox.only_run("whole"), &sandbox.only_run(&runs));
        }
        // It ended before its last kill: a busy machine had measured the undisturbed run.
        longest /= 2;
    }
    panic!("the run ends before its {kills} kills: make it longer");
}

/// The run `line` going on, with another number of workers each round.
fn resumed(sandbox: &Sandbox, line: &str, round: usize) -> Child {
    let mut command = sandbox.command(&format!("{line} --workers {} --resume", 1 + round % 3));
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

#[test]
fn twenty_kills_change_nothing() {
    let line = small_pretrain().replace("epochs=3", "epochs=1500").replace(" --workers 2", "");
    kill_test(&format!("{line} --set save_steps=3 --set keep_epochs=100"), KILLS);
}

#[test]
fn a_transfer_with_averages_and_evaluation_survives_kills_too() {
    let line = format!(
        "transfer --task shapes_classification --data {} --recipe finetune_demo --model vit_tiny_test --init scratch \
         --set epochs=150 --set batch=5 --set ema=0.9 --set eval_epochs=40 --set save_steps=4",
        fixture("shapes")
    );
    kill_test(&line, 6);
}

#[test]
fn the_number_of_threads_changes_nothing_in_either_dtype() {
    let sandbox = Sandbox::new();
    let line = small_pretrain().replace("vit_tiny_test", "vit_micro8");
    for dtype in ["f32", "bf16"] {
        for threads in ["1", "2", "3"] {
            let line = format!("{line} --dtype {dtype} --runs {dtype}-{threads}");
            let output = sandbox.command(&line).env("RAYON_NUM_THREADS", threads).output().unwrap();
            assert!(output.status.success(), "bench {line}\n{}", stderr(&output));
            same(&sandbox.only_run(&format!("{dtype}-1")), &sandbox.only_run(&format!("{dtype}-{threads}")));
        }
    }
    let weights =
        |dtype: &str| std::fs::read(sandbox.only_run(&format!("{dtype}-1")).join("model.safetensors"));
    assert!(weights("f32").unwrap() != weights("bf16").unwrap(), "--dtype has no effect");
    let record = std::fs::read_to_string(sandbox.only_run("bf16-1").join("run.json")).unwrap();
    assert!(record.contains("\"dtype\": \"bf16\""), "{record}");
    assert!(sandbox.fails(2, &format!("{line} --dtype f16")).contains("f32, bf16"));
}

#[test]
fn max_steps_and_resume_go_all_the_way() {
    let sandbox = Sandbox::new();
    let line = small_pretrain();
    sandbox.ok(&format!("{line} --runs whole"));
    let shown = sandbox.ok(&format!("{line} --runs parts --max-steps 2"));
    assert!(shown.contains("stopped at --max-steps, 2 of"), "{shown}");
    let error = sandbox.fails(2, &format!("{line} --runs parts"));
    assert!(error.contains("--resume"), "{error}");
    sandbox.ok(&format!("{line} --runs parts --resume"));
    same(&sandbox.only_run("whole"), &sandbox.only_run("parts"));
    assert!(!sandbox.only_run("parts").join("state.safetensors").exists());
}

/// A shell reads the printed command as it was meant, also with a space in a path.
#[cfg(unix)]
#[test]
fn the_printed_command_goes_on() {
    let sandbox = Sandbox::new();
    let line = format!("{} --max-steps 2 --out", small_pretrain());
    let output = sandbox.command(&line).arg("my run").output().unwrap();
    let said = stderr(&output);
    let command = said.lines().find_map(|line| line.trim_start().strip_prefix("bench ")).expect(&said);
    assert_eq!(command, "pretrain --out 'my run' --resume --workers 2");
    let shell = format!("exec {} {command}", env!("CARGO_BIN_EXE_bench"));
    let mut shell_command = std::process::Command::new("sh");
    let output = shell_command.args(["-c", &shell]).current_dir(sandbox.folder.path()).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("status  finished"), "{}", stderr(&output));
}

#[cfg(unix)]
#[test]
fn a_signal_saves_and_says_how_to_go_on() {
    let sandbox = Sandbox::new();
    let line = format!("{} --set save_steps=20", small_pretrain().replace("epochs=3", "epochs=1500"));
    sandbox.ok(&format!("{line} --runs whole"));
    for (runs, signal, nohup) in [
        ("interrupted", libc::SIGINT, false),
        ("terminated", libc::SIGTERM, false),
        ("nohup", libc::SIGTERM, true),
    ] {
        let mut command = sandbox.command(&format!("{line} --runs {runs}"));
        if nohup {
            // SAFETY: `signal` may be called between fork and exec.
            unsafe {
                command.pre_exec(|| {
                    libc::signal(libc::SIGHUP, libc::SIG_IGN);
                    Ok(())
                });
            }
        }
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let began = Instant::now();
        while !sandbox.saved(runs) {
            assert!(child.try_wait().unwrap().is_none(), "the run ended before it was saved");
            assert!(began.elapsed() < Duration::from_secs(300), "the run saves nothing");
            std::thread::sleep(Duration::from_millis(1));
        }
        // SAFETY: sends a signal to a process that this test has started and not waited for.
        let send = |signal| assert_eq!(unsafe { libc::kill(child.id() as libc::pid_t, signal) }, 0);
        if nohup {
            send(libc::SIGHUP); // were it not ignored, the next signal would be the second one, with another exit code
            std::thread::sleep(Duration::from_millis(50));
        }
        send(signal);
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        let resume = said.lines().find(|line| line.trim_start().starts_with("bench pretrain")).expect(&said);
        sandbox.ok(resume.trim_start().trim_start_matches("bench "));
        same(&sandbox.only_run("whole"), &sandbox.only_run(runs));
    }
}

#[test]
fn a_run_goes_on_with_its_own_data_alone_and_weights_cut_short_are_noted() {
    let sandbox = Sandbox::new();
    let photos = photos(&sandbox, 12);
    let line = "pretrain --data photos --recipe mae_small --model vit_tiny_test --set batch=4 --out begun";
    sandbox.ok(&format!("{line} --max-steps 2"));
    let transfer = "transfer --task imagenet --recipe knn --init begun --out features --set batch=8";
    sandbox.ok(&format!("{transfer} --data {}", fixture("imagenet")));
    let record = std::fs::read_to_string(sandbox.path("features/run.json")).unwrap();
    for note in ["initial weights: 2 of 300 steps", "split `val` has 12 images, the manifest says 50000"] {
        assert!(record.contains(note), "{record}\nlacks: {note}");
    }
    std::fs::remove_file(photos.join("5.png")).unwrap();
    let error = sandbox.fails(2, &format!("{line} --max-steps 4 --resume"));
    assert!(error.contains("are not those of the run"), "{error}");
}

#[cfg(unix)]
#[test]
fn a_run_that_an_unreadable_image_stopped_goes_on_where_it_failed() {
    let sandbox = Sandbox::new();
    let photos = photos(&sandbox, 8);
    let line = "pretrain --data photos --recipe mae_small --model vit_tiny_test --set batch=2 --set epochs=1 \
                --set schedule.warmup_epochs=0";
    sandbox.ok(&format!("{line} --runs whole"));
    let mut saved = 0;
    for i in 0..8 {
        let (photo, runs) = (photos.join(format!("{i}.png")), format!("broken{i}"));
        let bytes = std::fs::read(&photo).unwrap();
        std::fs::write(&photo, b"no image").unwrap();
        sandbox.fails(1, &format!("{line} --runs {runs}"));
        saved += usize::from(sandbox.saved(&runs));
        std::fs::write(&photo, bytes).unwrap();
        sandbox.ok(&format!("{line} --runs {runs} --resume"));
        same(&sandbox.only_run("whole"), &sandbox.only_run(&runs));
        let record = std::fs::read_to_string(sandbox.only_run(&runs).join("run.json")).unwrap();
        assert!(record.contains("resumed after images or masks had changed"), "{record}");
    }
    // All but the two images of the first step, before which there is nothing to save.
    assert_eq!(saved, 6);
}
