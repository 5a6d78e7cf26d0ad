//! The architecture of `src/`, checked on its text: who may import whom, how files are named, opened and bounded.
//!
//! An import is a path that starts with `crate`, or with enough `super`s to reach the root, in a `use` or in an
//! expression, in code and in its tests; comments and strings do not count. The roots of crates (`lib.rs`, `core.rs`,
//! `main.rs`, `build.rs`) stand above the table. Macros that build paths are not seen; the crate has none.

mod candle;
mod files;
mod source;

use source::{Source, Token};
use std::collections::{BTreeMap, BTreeSet};

/// What one module of the root may import, besides itself and [`FOR_ALL`].
struct Row {
    module: &'static str,
    imports: &'static [&'static str],
    /// Modules that it may import together with all that they may import.
    through: &'static [&'static str],
}

const fn row(
    module: &'static str,
    imports: &'static [&'static str],
    through: &'static [&'static str],
) -> Row {
    Row { module, imports, through }
}

/// The import table: leaves first. `engine` never imports `kinds`, so that the loop cannot special-case one.
const TABLE: &[Row] = &[
    row("process", &[], &[]),
    row("rng", &[], &[]),
    row("files", &[], &[]),
    row("config", &[], &[]),
    row("ops", &[], &[]),
    row("record", &["config"], &[]),
    row("data", &["record", "config", "files"], &[]),
    row("draw", &["data"], &[]),
    row("metrics", &["data", "record"], &[]),
    row("nn", &["ops"], &[]),
    row("optim", &["nn", "ops", "config"], &[]),
    row("models", &["nn", "ops", "config"], &[]),
    row("pretrain", &["data", "draw", "models", "nn", "ops", "optim", "config"], &[]),
    row("weights", &["pretrain", "models", "nn", "record", "config", "files"], &[]),
    row("task", &["data", "draw", "metrics", "models", "nn", "record", "config"], &[]),
    row("components", &["config", "data", "models", "pretrain"], &[]),
    row("kinds", &["ops", "files"], &["task"]),
    row("engine", &[], &["task", "components", "optim", "weights"]),
    row("registry", &[], &["engine", "kinds", "task", "record"]),
    row("runs", &[], &["registry"]),
    row("suite", &[], &["runs"]),
    row("selftest", &[], &["runs"]),
    row("cli", &["process", "selftest"], &["suite"]),
];

/// Everyone may draw random numbers, but for [`LEAVES`].
const FOR_ALL: &str = "rng";
/// These import nothing of the crate.
const LEAVES: [&str; 2] = ["rng", "config"];

/// Lines of a file, without its tests.
const MOST_LINES: usize = 400;
/// Names that say nothing of what is in a module.
const VAGUE: [&str; 5] = ["utils", "common", "helpers", "misc", "manager"];

#[test]
fn modules_import_what_the_table_allows() {
    let sources = Source::all();
    assert!(sources.len() > 50, "only {} files found", sources.len());
    report(sources.iter().flat_map(forbidden_imports));
}

#[test]
fn the_table_has_the_modules_of_the_crate() {
    let modules: BTreeSet<String> = Source::all().iter().filter_map(Source::module).collect();
    let rows: BTreeSet<String> = TABLE.iter().map(|row| row.module.to_owned()).collect();
    assert_eq!(modules, rows, "left: modules under src; right: rows of the import table");
}

#[test]
fn the_table_has_no_circle() {
    let rank: BTreeMap<&str, usize> = TABLE.iter().enumerate().map(|(k, row)| (row.module, k)).collect();
    for (k, row) in TABLE.iter().enumerate() {
        for import in row.imports.iter().chain(row.through) {
            assert!(rank[import] < k, "`{}` imports `{import}`, which stands below it", row.module);
        }
    }
    assert!(!allowed("engine").unwrap().contains("kinds"));
    let all_but_cli: BTreeSet<&str> = rank.into_keys().filter(|module| *module != "cli").collect();
    assert_eq!(allowed("cli").unwrap(), all_but_cli);
}

#[test]
fn only_the_command_line_reads_the_environment() {
    report(Source::all().iter().flat_map(reads_of_the_environment));
    let found = |path: &str| {
        let text = "fn f() { std::env::var_os(NAME); env::args() } #[cfg(test)] mod tests { fn g() { env::var(NAME) } }";
        reads_of_the_environment(&Source::new(path, text)).len()
    };
    assert_eq!((found("engine/step.rs"), found("process.rs"), found("cli/flags.rs")), (2, 2, 0));
}

/// Calls of `env::var` and its siblings outside of `cli` and the roots of crates.
fn reads_of_the_environment(source: &Source) -> Vec<String> {
    if source.module().is_none_or(|module| module == "cli") {
        return vec![];
    }
    let reads = ["var", "var_os", "vars", "vars_os", "args", "args_os"];
    let calls = source.code().windows(3).filter(|window| {
        let [env, colons, name] = window else { return false };
        env.text == "env" && colons.text == "::" && reads.contains(&name.text.as_str())
    });
    let fault = |window: &[Token]| {
        let (name, line, call) = (source.name(), window[2].line, &window[2].text);
        format!("{name}:{line}: `env::{call}`: only `cli` reads the environment and the arguments")
    };
    calls.map(fault).collect()
}

#[test]
fn files_say_what_they_are_for_and_stay_readable() {
    let sources = Source::all();
    let tests = Source::tests(sources);
    report(sources.iter().zip(tests).flat_map(|(source, test)| {
        let mut faults = Vec::new();
        if !source.text.starts_with("//!") {
            faults.push(format!("{}:1: a file starts with `//!` and what it is for", source.name()));
        }
        let lines = source.lines_without_tests();
        if lines > MOST_LINES && !test {
            faults.push(format!(
                "{}: {lines} lines without tests, at most {MOST_LINES} are allowed",
                source.name()
            ));
        }
        faults.extend(vague_names(source));
        faults
    }));
}

#[test]
fn a_forbidden_import_is_found() {
    let text = r##"//! Made up: [`crate::cli`] in a comment is no import.
use crate::data::{Batch, crate_like};
use crate::{
    engine::train,
    record::{Scores, kinds},
    suite,
};
/* crate::cli /* nested */ crate::cli */
fn f<'a>(x: &'a str) -> String {
    let text = "crate::cli \" crate::cli";
    let raw = r#"crate::cli " crate::cli"#;
    let (quote, escaped) = ('"', '\'');
    crate::weights::read(x, text, raw)
}
mod inner {
    use super::super::accuracy;
    use super::super::super::registry;
    pub(super) fn g(m: super::Made) {}
}
use super::super::kinds as others;
"##;
    let source = Source::new("metrics/accuracy.rs", text);
    let found: Vec<String> = forbidden_imports(&source);
    let places = [(4, "engine"), (6, "suite"), (13, "weights"), (17, "registry"), (20, "kinds")];
    let expected = places.map(|(line, import)| {
        format!("src/metrics/accuracy.rs:{line}: `metrics` imports `{import}`; allowed: data, record, rng")
    });
    assert_eq!(found, expected);

    assert!(forbidden_imports(&Source::new("cli/accuracy.rs", text)).is_empty());
    assert!(forbidden_imports(&Source::new("lib.rs", text)).is_empty());
    let leaf = forbidden_imports(&Source::new("config/load.rs", "use crate::rng::Rng;"));
    assert_eq!(leaf, ["src/config/load.rs:1: `config` imports `rng`; allowed: nothing"]);
    let unknown = forbidden_imports(&Source::new("extra.rs", "use crate::data;"));
    assert_eq!(unknown, ["src/extra.rs: module `extra` is not in the import table"]);
    let glob = forbidden_imports(&Source::new("data/mod.rs", "use crate::*;"));
    assert_eq!(glob, ["src/data/mod.rs:1: `data` imports `*`; allowed: config, files, record, rng"]);
}

#[test]
fn tests_do_not_count_as_lines_and_vague_names_are_found() {
    let text =
        "//! Header\n#[cfg(test)]\nmod golden;\n\nfn f() {}\n#[cfg(test)]\nmod tests {\n    fn g() {}\n}\n";
    let source = Source::new("nn/mod.rs", text);
    assert_eq!(source.lines_without_tests(), 5);
    let files = [source, Source::new("nn/golden.rs", ""), Source::new("nn/linear.rs", "mod helpers {}")];
    assert_eq!(files.each_ref().map(|file| file.is_test(&files)), [false, true, false]);
    assert_eq!(
        vague_names(&files[2]),
        ["src/nn/linear.rs:1: `helpers` says nothing of what is in the module"]
    );
    assert_eq!(vague_names(&Source::new("nn/utils/a.rs", "")).len(), 1);
}

/// Panics with all of `faults` when there is one.
fn report(faults: impl Iterator<Item = String>) {
    let faults: Vec<String> = faults.collect();
    assert!(faults.is_empty(), "{} faults\n{}", faults.len(), faults.join("\n"));
}

/// What `module` may import besides itself; `None` for a module without a row.
fn allowed(module: &str) -> Option<BTreeSet<&'static str>> {
    let row = TABLE.iter().find(|row| row.module == module)?;
    let mut allowed: BTreeSet<&str> = row.imports.iter().chain(row.through).copied().collect();
    allowed.extend(row.through.iter().filter_map(|module| self::allowed(module)).flatten());
    if !LEAVES.contains(&module) {
        allowed.insert(FOR_ALL);
    }
    Some(allowed)
}

fn forbidden_imports(source: &Source) -> Vec<String> {
    let Some(module) = source.module() else { return Vec::new() };
    let Some(allowed) = allowed(&module) else {
        return vec![format!("{}: module `{module}` is not in the import table", source.name())];
    };
    let list = match allowed.is_empty() {
        true => "nothing".to_owned(),
        false => allowed.iter().copied().collect::<Vec<_>>().join(", "),
    };
    let imports = source.imports().into_iter();
    let forbidden = imports.filter(|import| import.text != module && !allowed.contains(import.text.as_str()));
    let message = |import: Token| {
        format!("{}:{}: `{module}` imports `{}`; allowed: {list}", source.name(), import.line, import.text)
    };
    forbidden.map(message).collect()
}

/// The file's own module, those around it and those inside of it, where they have a name of [`VAGUE`].
fn vague_names(source: &Source) -> Vec<String> {
    let vague = source.modules().into_iter().filter(|module| VAGUE.contains(&module.text.as_str()));
    let message = |module: Token| {
        format!("{}:{}: `{}` says nothing of what is in the module", source.name(), module.line, module.text)
    };
    vague.map(message).collect()
}
