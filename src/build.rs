//! Embeds the text files of `configs/`, `tasks/` and `datasets/`, so that one binary carries them, and with feature `cuda` the
//! kernels, compiled. The commit is the business of `../build.rs`: it must not compile this package again.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    let source = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let root = source.parent().expect("the repository holds src").to_path_buf();
    let out = PathBuf::from(std::env::var("OUT_DIR").expect("cargo sets it"));
    let mut files = Vec::new();
    for folder in ["configs", "tasks", "datasets"] {
        println!("cargo:rerun-if-changed=../{folder}");
        collect(&root.join(folder), &mut files);
    }
    files.sort();
    let mut table = String::from("&[\n");
    for file in &files {
        let name = file.strip_prefix(&root).expect("collected below root");
        let name = name.to_str().expect("file names are UTF-8").replace('\\', "/");
        writeln!(table, "    ({name:?}, include_str!({:?})),", file.display().to_string())
            .expect("to a string");
    }
    table.push_str("]\n");
    std::fs::write(out.join("library.rs"), table).expect("OUT_DIR is writable");

    if std::env::var_os("CARGO_FEATURE_CUDA").is_some() {
        kernels(&source.join("ops/cuda"), &out);
    }
}

/// Compiles the `.cu` files of `folder` to PTX of compute capability 8.0, which drivers translate for later devices.
fn kernels(folder: &Path, out: &Path) {
    println!("cargo:rerun-if-changed={}", folder.display());
    for variable in ["CUDA_HOME", "CUDA_PATH", "PATH"] {
        println!("cargo:rerun-if-env-changed={variable}");
    }
    let home = ["CUDA_HOME", "CUDA_PATH"].iter().find_map(std::env::var_os).map(PathBuf::from);
    let nvcc = home.map_or(PathBuf::from("nvcc"), |home| home.join("bin/nvcc"));
    let mut sources: Vec<PathBuf> = std::fs::read_dir(folder)
        .expect("kernels lie in src/ops/cuda")
        .map(|entry| entry.expect("a folder that can be listed").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "cu"))
        .collect();
    sources.sort();
    for source in sources {
        let ptx = out.join(source.file_stem().expect("a file has a name")).with_extension("ptx");
        let status = Command::new(&nvcc)
            .args(["-ptx", "-arch=compute_80", "-std=c++17", "-O3", "--expt-relaxed-constexpr", "-o"])
            .arg(&ptx)
            .arg(&source)
            .status();
        match status {
            Ok(status) if status.success() => {}
            Ok(status) => panic!("{}: nvcc ended with {status}", source.display()),
            Err(error) => panic!(
                "feature `cuda` needs the CUDA compiler, `{}` does not run: {error}. Set CUDA_HOME to a toolkit of \
                 version 12.4 or later, or get one by scripts/cuda_toolkit",
                nvcc.display()
            ),
        }
    }
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            if !path.ends_with("fixture") && !path.ends_with("results") {
                collect(&path, files);
            }
        } else if path.extension().is_some_and(|e| e == "toml" || e == "txt") {
            files.push(path);
        }
    }
}
