//! Describes the sources that this program is built from, for records: the commit, whether the sources differ from it, a hash of
//! those that can change a result, and the compiler.
//!
//! It belongs to the package of the command line and watches the sources of both packages. Cargo therefore runs it after an edit of
//! any of them and after a commit, and then compiles the command line again, but not `bench-core`. Without dependencies, so that
//! a test can run it in a package of its own.

use std::path::{Path, PathBuf};
use std::process::Command;

/// What goes into the program.
const PROGRAM: [&str; 7] = ["build.rs", "Cargo.toml", "Cargo.lock", "src", "configs", "tasks", "datasets"];
/// Files below [`PROGRAM`] that do not go into the program: records, sample images and descriptions.
const BESIDE: [&str; 3] =
    [":(exclude,glob)tasks/*/results/**", ":(exclude,glob)datasets/*/fixture/**", ":(exclude,glob)**/*.md"];
/// Parts of `src` that no weight and no score depends on, or only by the resolved configuration, which records hold; and tests.
const HARMLESS: [&str; 17] = [
    "cli",
    "config",
    "draw",
    "record",
    "runs",
    "selftest",
    "build.rs",
    "lib.rs",
    "main.rs",
    "registry.rs",
    "suite",
    "suite.rs",
    "tests",
    "tests.rs",
    "golden.rs",
    "gradient_check.rs",
    "test_tolerance.rs",
];

fn main() {
    let root = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    for path in watched(&root) {
        println!("cargo:rerun-if-changed={}", path.display());
    }
    println!("cargo:rerun-if-env-changed=RUSTC");
    let version = std::env::var("CARGO_PKG_VERSION").expect("cargo sets it");
    let (commit, dirty) = (commit(&root), dirty(&root));
    let known = commit.clone().unwrap_or_else(|| "unknown commit".into());
    let changed = if dirty { ", changed" } else { "" };
    let variables = [
        ("COMMIT", commit.unwrap_or_default()),
        ("DIRTY", dirty.to_string()),
        ("VERSION", format!("{version} ({known}{changed})")),
        ("SOURCES", sources(&root)),
        ("RUSTC", compiler()),
        ("CANDLE", locked_version(&root, "candle-core")),
    ];
    for (name, value) in variables {
        println!("cargo:rustc-env=BENCH_{name}={value}");
    }
}

/// The files and folders whose changes can change what this script finds. A folder stands for all that it holds.
fn watched(root: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = PROGRAM.iter().map(|name| root.join(name)).collect();
    // In a worktree these files are elsewhere. `HEAD` changes with the branch, the other two with a commit.
    let branch = git(root, &["symbolic-ref", "--quiet", "HEAD"]);
    for name in ["HEAD", "logs/HEAD", "packed-refs"].into_iter().chain(branch.as_deref()) {
        paths.extend(git(root, &["rev-parse", "--git-path", name]).map(|path| root.join(path)));
    }
    paths.retain(|path| path.exists()); // cargo would build again every time
    paths
}

/// The first digits of the commit that is checked out; `None` outside of a repository.
fn commit(root: &Path) -> Option<String> {
    git(root, &["rev-parse", "--short=12", "HEAD"])
}

/// Whether what goes into the program differs from the commit: edited, deleted, staged or new files. `true` outside of a repository,
/// where nobody can tell.
fn dirty(root: &Path) -> bool {
    let mut arguments = vec!["status", "--porcelain", "--untracked-files=all", "--"];
    arguments.extend(PROGRAM.into_iter().filter(|name| root.join(name).exists()).chain(BESIDE));
    git(root, &arguments).is_none_or(|changes| !changes.is_empty())
}

/// Standard output of git; `None` if it fails or is not installed.
fn git(root: &Path, arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).current_dir(root).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim_end().to_string())
}

/// A hash of the sources that can change a weight or a score, and of the versions of all dependencies, in hexadecimal: FNV-1a of 128
/// bits over names and contents, without comments and unit tests. It tells versions apart, also without git; it does not resist
/// forgery.
fn sources(root: &Path) -> String {
    let mut files = vec![root.join("Cargo.lock")];
    collect(&root.join("src"), &mut files);
    files.sort();
    let mut hash: u128 = 0x6c62272e07bb014262b821756295c58d;
    let mut add = |bytes: &[u8]| {
        for byte in bytes {
            hash = (hash ^ u128::from(*byte)).wrapping_mul(0x0000000001000000000000000000013b);
        }
    };
    for file in files {
        let name = file.strip_prefix(root).expect("collected below root");
        let name: Vec<_> = name.iter().map(|part| part.to_string_lossy()).collect();
        let text = String::from_utf8_lossy(&std::fs::read(&file).unwrap_or_default()).replace('\r', ""); // of git on Windows
        let code = text.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        let lines: Vec<&str> = code.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
        let code = lines.join("\n");
        add(format!("{}\0{}\0", name.join("/"), code.len()).as_bytes());
        add(code.as_bytes());
    }
    format!("{hash:032x}")
}

/// Adds the sources below `folder` that can change a result.
fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if HARMLESS.iter().any(|name| path.ends_with(name)) {
            continue;
        }
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|e| ["rs", "cu", "cuh"].iter().any(|known| e == *known)) {
            files.push(path);
        }
    }
}

/// Version of the compiler: `1.91.0`.
fn compiler() -> String {
    let rustc = std::env::var_os("RUSTC").unwrap_or("rustc".into());
    let output = Command::new(rustc).arg("--version").output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    text.split_whitespace().nth(1).unwrap_or("unknown").to_string()
}

/// Version of a dependency by `Cargo.lock`.
fn locked_version(root: &Path, package: &str) -> String {
    let lock = std::fs::read_to_string(root.join("Cargo.lock")).unwrap_or_default();
    let mut lines = lock.lines().skip_while(|line| *line != format!("name = \"{package}\""));
    let version = lines.nth(1).and_then(|line| line.strip_prefix("version = "));
    version.map_or("unknown".into(), |version| version.trim_matches('"').to_string())
}
