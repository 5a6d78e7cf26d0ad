//! The guides of `docs/guides`: every command of a block marked `sh` runs, on files as the blocks before it describe them.
//! Blocks marked `bash` need the network, real data or this repository, and are not run.

use crate::program::{Sandbox, repository, stderr};
use std::path::Path;

/// In the order in which they build on each other.
const GUIDES: [&str; 6] = ["pretrain", "transfer", "dense", "large_runs", "record", "reproduce"];

#[test]
fn every_command_of_the_guides_runs() {
    let sandbox = Sandbox::new();
    sandbox.ok("data make shapes --out data/shapes --size 64 --pretrain 16 --train 20 --val 10");
    for (from, to) in [
        ("shapes/pretrain/images", "../photos"),
        ("shapes/classification/train", "flowers/train"),
        ("shapes/classification/val", "flowers/test"),
        ("shapes/train/images", "birds"),
        ("shapes/annotations", "parts/annotations"),
        ("shapes/train/images", "parts/train/images"),
        ("shapes/val/images", "parts/val/images"),
        ("shapes/train/images", "regions/images/train"),
        ("shapes/val/images", "regions/images/val"),
        ("shapes/semantic/train", "regions/masks/train"),
        ("shapes/semantic/val", "regions/masks/val"),
    ] {
        copy(&sandbox.path("data").join(from), &sandbox.path("data").join(to));
    }
    let mut birds: Vec<_> = std::fs::read_dir(sandbox.path("data/birds")).unwrap().collect();
    birds.sort_by_key(|entry| entry.as_ref().unwrap().file_name());
    let row = |(k, entry): (usize, std::io::Result<std::fs::DirEntry>)| {
        let label = if k % 2 == 0 { "arrow" } else { "wren" };
        format!("{},{label}\n", entry.unwrap().file_name().to_string_lossy())
    };
    let rows: String = birds.into_iter().enumerate().map(row).collect();
    sandbox.write("data/birds/labels.csv", &format!("file,label\n{rows}"));
    for guide in GUIDES {
        let path = repository().join(format!("docs/guides/{guide}.md"));
        let mut data = None;
        for (language, block) in blocks(&std::fs::read_to_string(path).unwrap()) {
            match language {
                "toml" | "text" => write(&sandbox, block),
                "sh" => block.lines().for_each(|line| run(&sandbox, line, guide, &mut data)),
                _ => {}
            }
        }
    }
}

/// Fenced blocks: language and content.
fn blocks(text: &str) -> Vec<(&str, &str)> {
    let parts: Vec<&str> = text.split("```").collect();
    assert_eq!(parts.len() % 2, 1, "a block is not closed");
    parts.into_iter().skip(1).step_by(2).filter_map(|block| block.split_once('\n')).collect()
}

/// Writes a block that begins with `# <path>`, without that line.
fn write(sandbox: &Sandbox, block: &str) {
    let Some((path, text)) = block.strip_prefix("# ").and_then(|block| block.split_once('\n')) else {
        return;
    };
    sandbox.write(path, text);
}

/// Runs a line; training is cut short.
fn run(sandbox: &Sandbox, line: &str, guide: &str, data: &mut Option<String>) {
    if let Some(root) = line.strip_prefix("export BENCH_DATA=") {
        *data = Some(root.into());
        return;
    }
    let words =
        line.strip_prefix("bench ").unwrap_or_else(|| panic!("{guide}: `{line}` is no command of bench"));
    let short = match words.split_once(' ') {
        Some((_, rest)) if rest.contains("--dry-run") || rest.contains("--max-steps") => "",
        Some(("pretrain" | "transfer", rest)) if rest.contains("--resume") => " --max-steps 2",
        Some(("pretrain" | "transfer", _)) => " --max-steps 1 --set batch=4",
        _ => "",
    };
    let mut command = sandbox.command(&format!("{words}{short}"));
    if let Some(root) = data {
        command.env("BENCH_DATA", root);
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{guide}: {line}\n{}", stderr(&output));
}

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

#[test]
fn the_functions_of_the_architecture_exist() {
    let page = std::fs::read_to_string(repository().join("docs/architecture.md")).unwrap();
    let hops: Vec<&str> =
        page.lines().filter(|line| line.starts_with(|c: char| c.is_ascii_digit())).collect();
    assert!((1..=8).contains(&hops.len()), "{} hops", hops.len());
    for hop in hops {
        // `1. [`Type::function`](../src/file.rs) does something.`
        let (_, link) = hop.split_once("[`").unwrap();
        let (function, rest) = link.split_once("`](../").unwrap();
        let (file, _) = rest.split_once(')').unwrap();
        let text = std::fs::read_to_string(repository().join(file)).unwrap_or_else(|e| panic!("{file}: {e}"));
        let name = function.rsplit("::").next().unwrap();
        let declared = ["(", "<"].iter().any(|open| text.contains(&format!("fn {name}{open}")));
        assert!(declared, "{file} has no `{function}`");
    }
}

#[test]
fn links_of_the_documentation_lead_somewhere() {
    let mut pages = vec![repository().join("README.md"), repository().join("CONTRIBUTING.md")];
    pages.extend(["SECURITY.md"].map(|name| repository().join(name)));
    for folder in ["docs", "docs/guides", "docs/reference"] {
        let entries = std::fs::read_dir(repository().join(folder)).unwrap();
        pages.extend(entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_file()));
    }
    for page in pages {
        let text = std::fs::read_to_string(&page).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link) {
            let target = link.split('#').next().unwrap();
            if !target.is_empty() && !target.contains(':') && !link.contains('<') {
                let path = page.parent().unwrap().join(target);
                assert!(path.exists(), "{}: `{link}` does not exist", page.display());
            }
        }
    }
}
