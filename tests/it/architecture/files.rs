//! The files of `src/`, checked on their text: none uses, directly or through others, a file that uses it; no two public
//! items have the same name; one function makes training steps, and one builds loaders.
//!
//! A file uses another if a path in its code leads to an item that is defined there; re-exports are followed, and are no use
//! of their own. Tests do not count. Globs and macros that build paths are not seen.

use super::report;
use super::source::{Source, Token};
use std::collections::{BTreeMap, BTreeSet};

/// Words between `pub` and the name of an item.
const ITEMS: [&str; 8] = ["struct", "enum", "trait", "type", "fn", "const", "static", "union"];

#[test]
fn files_have_no_circle() {
    report(circles(Source::all()).into_iter());
}

#[test]
fn a_circle_between_files_is_found() {
    let file = |path: &str, text: &str| Source::new(path, text);
    let sources = [
        file("lib.rs", "pub mod a; pub mod b;"),
        file("a/mod.rs", "mod one; mod two; pub use one::One; pub use two::Two;"),
        file("a/one.rs", "use super::Two; pub struct One(Two);"),
        file("a/two.rs", "pub struct Two; #[cfg(test)] mod tests { use super::super::One; }"),
        file("b.rs", "use crate::a::{One, Two}; pub fn f(_: One, _: Two) {}"),
    ];
    assert_eq!(circles(&sources), Vec::<String>::new(), "re-exports and tests make no circle");
    let mut sources = sources;
    sources[3] = file("a/two.rs", "pub struct Two; fn f() { let _ = super::one::One; }");
    assert_eq!(circles(&sources), ["src/a/one.rs and src/a/two.rs use each other"]);
    sources[3] = file("a/two.rs", "pub struct Two(fn() -> crate::b::Three);");
    sources[4] = file("b.rs", "use crate::a::One; pub struct Three(One);");
    assert_eq!(circles(&sources), ["src/a/one.rs, src/a/two.rs and src/b.rs use each other"]);
}

#[test]
fn public_items_have_names_of_their_own() {
    let mut owners: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let sources = Source::all();
    let tests = Source::tests(sources);
    for (source, _) in sources.iter().zip(tests).filter(|(_, test)| !test) {
        for name in public_items(source.code()) {
            owners.entry(name).or_default().insert(source.name());
        }
    }
    assert!(owners.len() > 300, "only {} public items found", owners.len());
    let shared = owners.into_iter().filter(|(_, files)| files.len() > 1);
    report(shared.map(|(name, files)| {
        format!("`{name}` is public in {}", files.into_iter().collect::<Vec<_>>().join(" and "))
    }));
}

#[test]
fn one_function_makes_a_step_and_one_builds_loaders() {
    let (benches, tests) = (Source::below("benches"), Source::tests(Source::all()));
    let found = |words: [&str; 3]| -> Vec<String> {
        let calls =
            |source: &&Source| source.code().windows(3).any(|w| w.iter().map(|t| t.text.as_str()).eq(words));
        let sources = Source::all().iter().zip(&tests).filter(|(_, test)| !**test).map(|(source, _)| source);
        sources.chain(&benches).filter(calls).map(Source::name).collect()
    };
    // `benches/optim.rs` measures the arithmetic of gradients alone.
    assert_eq!(found(["Gradients", "::", "collect"]), ["src/engine/step.rs", "benches/optim.rs"]);
    assert_eq!(found(["Loader", "::", "with_views"]), ["src/engine/loaders.rs"]);
    assert_eq!(found(["Loader", "::", "new"]), Vec::<String>::new());
}

/// Names of the items that are `pub` outside of any braces.
fn public_items(code: &[Token]) -> Vec<String> {
    let (mut depth, mut names) = (0, vec![]);
    for (k, token) in code.iter().enumerate() {
        match token.text.as_str() {
            "{" | "(" | "[" => depth += 1,
            "}" | ")" | "]" => depth -= 1,
            "pub" if depth == 0 => {
                let words = code[k + 1..].iter().map(|token| token.text.as_str());
                let words: Vec<&str> = words.take(4).collect();
                let keyword = words.iter().position(|word| ITEMS.contains(word));
                let qualified =
                    |n: usize| words[..n].iter().all(|w| ["unsafe", "const", "async"].contains(w));
                if let Some(n) = keyword.filter(|n| qualified(*n)) {
                    // `pub const fn name`: the last keyword counts.
                    let n = if words.get(n + 1) == Some(&"fn") { n + 1 } else { n };
                    names.extend(words.get(n + 1).map(ToString::to_string));
                }
            }
            _ => {}
        }
    }
    names
}

/// Groups of files that use each other, a line each.
fn circles(sources: &[Source]) -> Vec<String> {
    let graph = Graph::of(sources);
    let mut groups: BTreeSet<Vec<usize>> = BTreeSet::new();
    let reachable: Vec<BTreeSet<usize>> = (0..sources.len()).map(|file| graph.reachable(file)).collect();
    for file in 0..sources.len() {
        let group: Vec<usize> = (0..sources.len())
            .filter(|other| reachable[file].contains(other) && reachable[*other].contains(&file))
            .collect();
        if group.len() > 1 {
            groups.insert(group);
        }
    }
    let line = |group: Vec<usize>| {
        let mut names: Vec<String> = group.into_iter().map(|file| sources[file].name()).collect();
        let last = names.pop().unwrap_or_default();
        format!("{} and {last} use each other", names.join(", "))
    };
    groups.into_iter().map(line).collect()
}

/// Which file uses which.
struct Graph {
    /// File of each module.
    modules: BTreeMap<Vec<String>, usize>,
    /// Items that each file defines.
    items: Vec<BTreeSet<String>>,
    /// Paths in the code of each file, and whether they are re-exports.
    paths: Vec<Vec<(Vec<String>, bool)>>,
    uses: Vec<BTreeSet<usize>>,
}

impl Graph {
    fn of(sources: &[Source]) -> Self {
        let modules = sources.iter().enumerate().map(|(file, source)| (source.module_path(), file)).collect();
        let items = sources.iter().map(Source::items).collect();
        let paths = sources.iter().map(Source::code_paths).collect();
        let mut graph = Self { modules, items, paths, uses: vec![] };
        let uses = |(file, test): (usize, bool)| match test {
            true => BTreeSet::new(),
            false => {
                let used = graph.paths[file].iter().filter(|(_, exported)| !exported);
                used.filter_map(|(path, _)| graph.owner(path, 0)).filter(|other| *other != file).collect()
            }
        };
        let uses = Source::tests(sources).into_iter().enumerate().map(uses).collect();
        graph.uses = uses;
        graph
    }

    /// The file that defines what an absolute path leads to.
    fn owner(&self, path: &[String], hops: usize) -> Option<usize> {
        let length = (0..=path.len()).rev().find(|length| self.modules.contains_key(&path[..*length]))?;
        let file = self.modules[&path[..length]];
        let Some(item) = path.get(length).filter(|_| hops < 8) else { return Some(file) };
        if self.items[file].contains(item) {
            return Some(file);
        }
        let leads = |(path, _): &&(Vec<String>, bool)| path.last() == Some(item) && path.len() > 1;
        match self.paths[file].iter().find(leads) {
            Some((path, _)) if self.modules.get(&path[..path.len() - 1]) != Some(&file) => {
                self.owner(path, hops + 1)
            }
            _ => Some(file),
        }
    }

    fn reachable(&self, file: usize) -> BTreeSet<usize> {
        let (mut found, mut next) = (BTreeSet::new(), vec![file]);
        while let Some(file) = next.pop() {
            next.extend(self.uses[file].iter().filter(|other| found.insert(**other)));
        }
        found
    }
}
