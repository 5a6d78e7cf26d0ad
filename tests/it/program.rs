//! The program, run in a folder of its own on the fixture of `shapes`.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

/// A folder to run in, deleted in the end.
pub struct Sandbox {
    pub folder: TempDir,
}

impl Sandbox {
    pub fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// `bench` with these words, split at spaces.
    pub fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bench"));
        command.current_dir(self.folder.path()).env_remove("BENCH_DATA").args(line.split_whitespace());
        command
    }

    pub fn run(&self, line: &str) -> Output {
        self.command(line).output().unwrap()
    }

    /// Runs what must succeed; returns standard output.
    pub fn ok(&self, line: &str) -> String {
        let output = self.run(line);
        assert!(output.status.success(), "bench {line}\n{}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs what must fail with this exit code; returns standard error.
    pub fn fails(&self, code: i32, line: &str) -> String {
        let output = self.run(line);
        let error = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "bench {line}\n{error}");
        error
    }

    /// Writes a file below the folder.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Whether a run in `runs` has saved a state to resume from.
    #[cfg(unix)]
    pub fn saved(&self, runs: &str) -> bool {
        let runs = std::fs::read_dir(self.path(runs)).into_iter().flatten();
        runs.flatten().any(|run| run.path().join("state.safetensors").exists())
    }

    /// The only run in `runs`.
    pub fn only_run(&self, runs: &str) -> PathBuf {
        let mut found: Vec<PathBuf> =
            std::fs::read_dir(self.path(runs)).unwrap().map(|e| e.unwrap().path()).collect();
        assert_eq!(found.len(), 1, "{found:?}");
        found.remove(0)
    }
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The root of a data set's fixture.
pub fn fixture(dataset: &str) -> String {
    format!("{}/datasets/{dataset}/fixture", env!("CARGO_MANIFEST_DIR"))
}

pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Pre-training of seconds; more flags may follow.
pub fn small_pretrain() -> String {
    format!(
        "pretrain --dataset shapes --data {} --model vit_tiny_test --recipe mae_demo --set epochs=3 --set batch=4 \
         --set schedule.warmup_epochs=1 --workers 2",
        fixture("shapes")
    )
}

/// Transfer of seconds; more flags may follow.
pub fn small_transfer() -> String {
    format!(
        "transfer --task shapes_classification --data {} --recipe finetune_demo --set epochs=2 --set batch=5 \
         --set schedule.warmup_epochs=1 --workers 2",
        fixture("shapes")
    )
}
