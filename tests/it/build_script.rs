//! What the build script says of the sources: a small package with the script of this one, in a repository of its own.

use crate::program::repository;
use std::path::Path;
use std::process::{Command, Output};
use tempfile::TempDir;

/// Prints what the script found. It stands for `src/main.rs` of the program.
const MAIN: &str = r#"fn main() {
    let found = [env!("BENCH_COMMIT"), env!("BENCH_DIRTY"), env!("BENCH_SOURCES"), env!("BENCH_CANDLE"), env!("BENCH_VERSION")];
    println!("{}", found.join("|"));
}
"#;

/// A package with the script, and the files that it looks at.
struct Package(TempDir);

impl Package {
    fn new() -> Self {
        let package = Self(tempfile::tempdir().unwrap());
        std::fs::copy(repository().join("build.rs"), package.0.path().join("build.rs")).unwrap();
        for (name, text) in [
            ("Cargo.toml", "[package]\nname = \"p\"\nversion = \"1.2.3\"\nedition = \"2024\"\n[workspace]\n"),
            ("src/main.rs", MAIN),
            ("src/cli/table.rs", "// a command"),
            ("src/ops/gemm.rs", "// an operator"),
            ("src/ops/tests.rs", "// its tests"),
            ("src/ops/rows.cu", "// a kernel"),
            ("configs/a.toml", ""),
            ("tasks/t/task.toml", ""),
            ("tasks/t/README.md", ""),
            ("datasets/d/dataset.toml", ""),
            ("README.md", ""),
            (".gitignore", "/target\n"),
        ] {
            package.write(name, text);
        }
        package.cargo("generate-lockfile");
        package.git(&["init", "--quiet"]);
        package.commit();
        package
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.0.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Output {
        let mut command = Command::new(program);
        command.args(arguments).current_dir(self.0.path());
        command.env("CARGO_TARGET_DIR", self.0.path().join("target")).env_remove("CARGO_BUILD_TARGET_DIR");
        // The repository around a hook that runs the tests is not the one of the package.
        command.env_remove("GIT_DIR").env_remove("GIT_INDEX_FILE").env_remove("GIT_WORK_TREE");
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program} {arguments:?}\n{said}");
        output
    }

    fn git(&self, arguments: &[&str]) {
        let who = ["-c", "user.name=n", "-c", "user.email=e@e.e", "-c", "commit.gpgsign=false"];
        self.run("git", &[&who, arguments].concat());
    }

    fn commit(&self) {
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--allow-empty", "--message", "m"]);
    }

    fn cargo(&self, line: &str) -> String {
        let arguments: Vec<&str> = line.split(' ').chain(["--offline", "--quiet"]).collect();
        String::from_utf8(self.run(env!("CARGO"), &arguments).stdout).unwrap()
    }

    /// Builds, and returns commit, dirty, sources, candle and version.
    fn found(&self) -> [String; 5] {
        let text = self.cargo("run");
        let found: Vec<String> = text.trim().split('|').map(String::from).collect();
        found.try_into().unwrap()
    }

    fn dirty(&self) -> bool {
        self.found()[1] == "true"
    }
}

#[test]
fn an_edit_of_anything_in_the_program_is_dirty_until_it_is_committed() {
    let package = Package::new();
    let [commit, dirty, sources, candle, version] = package.found();
    assert_eq!((commit.len(), dirty.as_str(), candle.as_str()), (12, "false", "unknown"));
    assert_eq!(version, format!("1.2.3 ({commit})"));
    for (name, operators) in [
        ("src/cli/table.rs", false),
        ("src/ops/gemm.rs", true),
        ("src/ops/rows.cu", true),
        ("tasks/t/task.toml", false),
    ] {
        let before = package.found();
        package.write(name, "# edited");
        let after = package.found();
        assert_eq!((after[0] == before[0], after[1].as_str()), (true, "true"), "{name}");
        assert!(after[4].ends_with(", changed)"), "{}", after[4]);
        assert_eq!(after[2] != before[2], operators, "{name}");
        package.commit();
        let committed = package.found();
        assert_eq!((committed[0] != before[0], committed[1].as_str()), (true, "false"), "{name}");
        assert_eq!(committed[2], after[2], "a commit does not change sources");
    }
    assert_ne!(package.found()[2], sources);
    // A new file, a deleted one and a staged one.
    package.write("src/ops/new.rs", "");
    assert!(package.dirty());
    package.git(&["add", "--all"]);
    assert!(package.dirty());
    package.commit();
    assert!(!package.dirty());
    std::fs::remove_file(package.0.path().join("configs/a.toml")).unwrap();
    assert!(package.dirty());
    package.git(&["checkout", "--", "configs"]);
    assert!(!package.dirty());
}

#[test]
fn what_does_not_go_into_the_program_is_not_dirty() {
    let package = Package::new();
    let before = package.found();
    for name in
        ["README.md", "tasks/t/README.md", "tasks/t/results/a.json", "datasets/d/fixture/a.png", "docs/a.md"]
    {
        package.write(name, "edited");
        assert!(!package.dirty(), "{name}");
    }
    package.write("src/ops/tests.rs", "// edited");
    let after = package.found();
    assert_eq!((after[1].as_str(), &after[2]), ("true", &before[2]), "a test is a source, but no operator");
    let unit_test = "// another comment\n\n#[cfg(test)]\nmod tests {\n    const N: usize = 1;\n}\n";
    package.write("src/ops/gemm.rs", unit_test);
    assert_eq!(package.found()[2], before[2], "comments and unit tests are no operators");
    package.write("src/ops/gemm.rs", &format!("const N: usize = 2;\n{unit_test}"));
    assert_ne!(package.found()[2], before[2]);
}

#[test]
fn without_a_repository_nobody_can_tell() {
    let package = Package::new();
    let [_, _, sources, ..] = package.found();
    std::fs::remove_dir_all(package.0.path().join(".git")).unwrap();
    // The folder for temporary files may lie in a repository.
    if Path::new(package.0.path()).ancestors().any(|folder| folder.join(".git").exists()) {
        return;
    }
    package.write("src/cli/table.rs", "// edited");
    let [commit, dirty, again, _, version] = package.found();
    assert_eq!(
        (commit.as_str(), dirty.as_str(), version.as_str()),
        ("", "true", "1.2.3 (unknown commit, changed)")
    );
    assert_eq!(again, sources, "the operators are the same");
}

#[test]
fn the_version_of_candle_is_that_of_the_lock_file() {
    let package = Package::new();
    let lock = std::fs::read_to_string(package.0.path().join("Cargo.lock")).unwrap();
    let before = package.found();
    package
        .write("Cargo.lock", &format!("{lock}\n[[package]]\nname = \"candle-core\"\nversion = \"0.11.1\"\n"));
    // Cargo would remove the unused entry, but has no reason to look before the script runs.
    let script = package.0.path().join("target/script");
    package.run("rustc", &["--edition=2024", "build.rs", "-o", script.to_str().unwrap()]);
    let mut command = Command::new(&script);
    command.env("CARGO_MANIFEST_DIR", package.0.path()).env("CARGO_PKG_VERSION", "1.2.3");
    let output = String::from_utf8(command.output().unwrap().stdout).unwrap();
    assert!(output.contains("BENCH_CANDLE=0.11.1\n"), "{output}");
    assert!(!output.contains(&format!("BENCH_SOURCES={}\n", before[2])), "another version, other operators");
    for name in ["src", "configs", "Cargo.lock", ".git/HEAD", ".git/logs/HEAD"] {
        assert!(
            output.contains(&format!("rerun-if-changed={}", package.0.path().join(name).display())),
            "{name}"
        );
    }
}
