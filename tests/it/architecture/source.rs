//! Rust source as tokens: enough of the language to find modules, imports and tests in it.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};
use std::sync::OnceLock;

/// Files of `src/` that are the root of a crate.
const ROOTS: [&str; 4] = ["build", "core", "lib", "main"];

/// A file under `src/`.
pub struct Source {
    /// Relative to `src/`.
    path: PathBuf,
    pub text: String,
    tokens: Vec<Token>,
    /// The tokens without those of tests.
    code: Vec<Token>,
}

impl Source {
    pub fn new(path: impl Into<PathBuf>, text: &str) -> Self {
        let tokens = tokens(text);
        Self { path: path.into(), text: text.to_owned(), code: without_tests(&tokens), tokens }
    }

    /// Every Rust file under `src/`, by name. Read once.
    pub fn all() -> &'static [Self] {
        static ALL: OnceLock<Vec<Source>> = OnceLock::new();
        ALL.get_or_init(|| Self::in_folder("src"))
    }

    /// Every Rust file under `folder` of the repository, by name; a file's name then begins with the folder.
    pub fn below(folder: &str) -> Vec<Self> {
        let up = |source: Self| Self { path: Path::new("..").join(folder).join(source.path), ..source };
        Self::in_folder(folder).into_iter().map(up).collect()
    }

    fn in_folder(folder: &str) -> Vec<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
        let entries = walkdir::WalkDir::new(&root).sort_by_file_name().into_iter();
        let paths = entries.map(|entry| entry.expect("src is readable").into_path());
        let read = |path: PathBuf| {
            let text = std::fs::read_to_string(&path).expect("source is UTF-8");
            Self::new(path.strip_prefix(&root).expect("below src"), &text)
        };
        paths.filter(|path| path.extension().is_some_and(|e| e == "rs")).map(read).collect()
    }

    /// As printed: `src/…` with `/`.
    pub fn name(&self) -> String {
        let name = ["src".to_owned()].into_iter().chain(self.parts()).collect::<Vec<_>>().join("/");
        name.trim_start_matches("src/../").to_owned()
    }

    fn parts(&self) -> Vec<String> {
        let part = |part: Component| part.as_os_str().to_string_lossy().into_owned();
        self.path.components().map(part).collect()
    }

    /// The path of the file's module from the root: empty for [`ROOTS`].
    pub fn module_path(&self) -> Vec<String> {
        let mut parts = self.parts();
        let file = parts.pop().unwrap_or_default();
        let stem = file.trim_end_matches(".rs");
        if stem != "mod" && !(parts.is_empty() && ROOTS.contains(&stem)) {
            parts.push(stem.to_owned());
        }
        parts
    }

    /// The module of the root that the file belongs to.
    pub fn module(&self) -> Option<String> {
        self.module_path().into_iter().next()
    }

    /// Every module of the root that a path of this file starts at.
    pub fn imports(&self) -> Vec<Token> {
        let tokens = &self.tokens;
        let is = |k: usize, text: &str| tokens.get(k).is_some_and(|token| token.text == text);
        let (mut depth, mut imports) = (self.module_path().len(), Vec::new());
        let (mut braces, mut inline) = (0, Vec::new()); // braces around each inline module
        for (k, token) in tokens.iter().enumerate() {
            match token.text.as_str() {
                "mod" if is(k + 2, "{") => {
                    inline.push(braces);
                    depth += 1;
                }
                "{" => braces += 1,
                "}" => {
                    braces -= 1;
                    if inline.last() == Some(&braces) {
                        inline.pop();
                        depth -= 1;
                    }
                }
                "crate" if is(k + 1, "::") => imports.extend(heads(&tokens[k + 2..])),
                "super" if k == 0 || !is(k - 1, "::") => {
                    let ups = (0..).take_while(|n| is(k + 2 * n, "super") && is(k + 2 * n + 1, "::")).count();
                    if ups >= depth {
                        imports.extend(heads(&tokens[k + 2 * ups..]));
                    }
                }
                _ => {}
            }
        }
        imports
    }

    /// Names called as `.name(`, and names behind `Tensor::`.
    pub fn methods(&self) -> impl Iterator<Item = &Token> {
        let windows = || self.tokens.windows(3);
        let called = windows().filter(|w| w[0].text == "." && ["(", "::"].contains(&w[2].text.as_str()));
        let named = windows().filter(|w| w[0].text == "Tensor" && w[1].text == "::");
        called.map(|w| &w[1]).chain(named.map(|w| &w[2]))
    }

    /// Paths that start at `root`, groups taken apart: the names of each, without `root`.
    pub fn paths(&self, root: &str) -> Vec<Vec<Token>> {
        let starts = self.tokens.windows(2).enumerate();
        let starts = starts.filter(|(_, pair)| pair[0].text == root && pair[1].text == "::");
        let mut paths = Vec::new();
        for (k, _) in starts {
            take_path(&self.tokens[k + 2..], &mut Vec::new(), &mut paths);
        }
        paths
    }

    /// Where `name` gets another name.
    pub fn renamed(&self, name: &str) -> impl Iterator<Item = &Token> {
        let pairs = self.tokens.windows(2);
        pairs.filter(move |pair| pair[0].text == name && pair[1].text == "as").map(|pair| &pair[0])
    }

    /// Lines outside of `#[cfg(test)] mod … { … }`.
    pub fn lines_without_tests(&self) -> usize {
        let mut lines = self.text.lines().count();
        for (k, first) in self.test_modules() {
            if self.tokens[k + 2].text != "{" {
                continue;
            }
            let mut open = 0;
            for token in &self.tokens[k + 2..] {
                open += i32::from(token.text == "{") - i32::from(token.text == "}");
                if open == 0 {
                    lines -= token.line - first + 1;
                    break;
                }
            }
        }
        lines
    }

    /// The tokens outside of `#[cfg(test)] mod … { … }`, and outside of single items under `#[cfg(test)]`.
    pub fn code(&self) -> &[Token] {
        &self.code
    }

    /// Names of the items that the file defines outside of functions and implementations.
    pub fn items(&self) -> BTreeSet<String> {
        const KEYWORDS: [&str; 9] =
            ["struct", "enum", "trait", "type", "fn", "const", "static", "union", "macro_rules"];
        let (mut depth, mut items) = (0, BTreeSet::new());
        for pair in self.code.windows(2) {
            match pair[0].text.as_str() {
                "{" => depth += 1,
                "}" => depth -= 1,
                keyword if depth == 0 && KEYWORDS.contains(&keyword) => {
                    items.insert(pair[1].text.clone());
                }
                _ => {}
            }
        }
        items
    }

    /// Which of `sources` are tests, as [`Source::is_test`] says.
    pub fn tests(sources: &[Self]) -> Vec<bool> {
        let roots: Vec<Vec<String>> = sources.iter().flat_map(Self::test_paths).collect();
        let is_test = |source: &Self| {
            let own = source.module_path();
            roots.iter().any(|root| own.starts_with(root))
        };
        sources.iter().map(is_test).collect()
    }

    /// Paths of the modules that the file declares under `#[cfg(test)]`.
    fn test_paths(&self) -> Vec<Vec<String>> {
        let path = |(k, _): (usize, usize)| {
            let mut path = self.module_path();
            path.push(self.tokens[k + 1].text.clone());
            path
        };
        self.test_modules().map(path).collect()
    }

    /// Absolute paths, without `crate`, that the code uses or re-exports (`true`): those that start with `crate`, `self`,
    /// `super` or a module that the file declares.
    pub fn code_paths(&self) -> Vec<(Vec<String>, bool)> {
        let code = &self.code;
        let is = |k: usize, text: &str| code.get(k).is_some_and(|token| token.text == text);
        let children: Vec<&str> = (0..code.len())
            .filter(|k| is(*k, "mod") && is(*k + 2, ";"))
            .map(|k| code[k + 1].text.as_str())
            .collect();
        let (mut module, mut braces, mut inline) = (self.module_path(), 0, Vec::new());
        let (mut exported, mut found) = (false, Vec::new());
        for (k, token) in code.iter().enumerate() {
            match token.text.as_str() {
                "mod" if is(k + 2, "{") => {
                    inline.push(braces);
                    module.push(code[k + 1].text.clone());
                }
                "{" => braces += 1,
                "}" => {
                    braces -= 1;
                    if inline.last() == Some(&braces) {
                        inline.pop();
                        module.pop();
                    }
                }
                "use" => exported = k > 0 && (is(k - 1, "pub") || is(k - 1, ")")),
                ";" => exported = false,
                _ => {}
            }
            if !is(k + 1, "::") || (k > 0 && is(k - 1, "::")) {
                continue;
            }
            let ups = (0..).take_while(|n| is(k + 2 * n, "super") && is(k + 2 * n + 1, "::")).count();
            let (base, rest) = match token.text.as_str() {
                "crate" => (vec![], k + 2),
                "self" => (module.clone(), k + 2),
                "super" => (module[..module.len().saturating_sub(ups)].to_vec(), k + 2 * ups),
                name if children.contains(&name) => (module.clone(), k),
                _ => continue,
            };
            let mut paths = Vec::new();
            take_path(&code[rest..], &mut Vec::new(), &mut paths);
            for path in paths {
                let path = path.into_iter().map(|token| token.text).filter(|text| text != "self");
                found.push((base.iter().cloned().chain(path).collect(), exported));
            }
        }
        found
    }

    /// Position of the `mod` of each module under `#[cfg(test)]`, and the line of its attribute.
    fn test_modules(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        const ATTRIBUTE: [&str; 8] = ["#", "[", "cfg", "(", "test", ")", "]", "mod"];
        let matches = |window: &[Token]| window.iter().map(|t| t.text.as_str()).eq(ATTRIBUTE);
        let windows = self.tokens.windows(ATTRIBUTE.len()).enumerate();
        windows.filter(move |(_, w)| matches(w)).map(|(k, w)| (k + ATTRIBUTE.len() - 1, w[0].line))
    }

    /// Whether one of `sources` declares this file, or a folder around it, as a module of tests.
    pub fn is_test(&self, sources: &[Self]) -> bool {
        let own = self.module_path();
        sources.iter().any(|source| source.test_paths().iter().any(|path| own.starts_with(path)))
    }

    /// Names of the file's own module, of those around it (at line 1) and of those declared in it.
    pub fn modules(&self) -> Vec<Token> {
        let own = self.module_path().into_iter().map(|text| Token { line: 1, text });
        let declared =
            self.tokens.windows(2).filter(|pair| pair[0].text == "mod").map(|pair| pair[1].clone());
        own.chain(declared).collect()
    }
}

/// `tokens` without the items under `#[cfg(test)]` and `#[cfg(all(test, …))]`.
fn without_tests(tokens: &[Token]) -> Vec<Token> {
    let is = |k: usize, text: &str| tokens.get(k).is_some_and(|token| token.text == text);
    let starts = |k: usize| {
        is(k, "#") && is(k + 1, "[") && is(k + 2, "cfg") && is(k + 3, "(") && {
            is(k + 4, "test") || (is(k + 4, "all") && is(k + 6, "test"))
        }
    };
    let (mut code, mut k) = (Vec::new(), 0);
    while k < tokens.len() {
        if !starts(k) {
            code.push(tokens[k].clone());
            k += 1;
            continue;
        }
        // Up to the `;` or the closing brace of the item, whichever ends it.
        let mut open = 0;
        while k < tokens.len() {
            match tokens[k].text.as_str() {
                "{" | "(" | "[" => open += 1,
                "}" | ")" | "]" => open -= 1,
                _ => {}
            }
            k += 1;
            let ends = is(k - 1, ";") || is(k - 1, "}") || (is(k - 1, ",") && open == 0);
            if open == 0 && ends {
                break;
            }
        }
    }
    code
}

/// A word, `::`, or any other character of code.
#[derive(Clone, Debug)]
pub struct Token {
    /// From 1.
    pub line: usize,
    pub text: String,
}

/// The first words of a path or of a group `{a::b, c}`, at which `tokens` begin.
fn heads(tokens: &[Token]) -> Vec<Token> {
    if tokens.first().is_none_or(|token| token.text != "{") {
        return tokens.first().cloned().into_iter().collect();
    }
    let (mut open, mut heads) = (0, Vec::new());
    for pair in tokens.windows(2) {
        match pair[0].text.as_str() {
            "{" => open += 1,
            "}" => open -= 1,
            _ => {}
        }
        if open == 0 {
            break;
        }
        if open == 1 && ["{", ","].contains(&pair[0].text.as_str()) && pair[1].text != "}" {
            heads.push(pair[1].clone());
        }
    }
    heads
}

/// Adds the path or the group of paths at which `tokens` begin, each behind `prefix`, to `paths`; how
/// many tokens that took.
fn take_path(tokens: &[Token], prefix: &mut Vec<Token>, paths: &mut Vec<Vec<Token>>) -> usize {
    let is = |k: usize, text: &str| tokens.get(k).is_some_and(|token| token.text == text);
    let Some(first) = tokens.first() else { return 0 };
    if first.text == "{" {
        let mut taken = 1;
        while taken < tokens.len() && !is(taken, "}") {
            let alone = [",", "as"].contains(&tokens[taken].text.as_str());
            taken += if alone { 1 } else { take_path(&tokens[taken..], prefix, paths).max(1) };
        }
        return taken + 1;
    }
    prefix.push(first.clone());
    let taken = if is(1, "::") {
        2 + take_path(&tokens[2..], prefix, paths)
    } else {
        paths.push(prefix.clone());
        1
    };
    prefix.pop();
    taken
}

/// Splits Rust code into tokens, without comments and literals.
fn tokens(text: &str) -> Vec<Token> {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    let (mut rest, mut line, mut tokens) = (text, 1, Vec::new());
    while let Some(first) = rest.chars().next() {
        let length = if let Some(length) = skipped(rest) {
            length
        } else {
            let length = match first {
                c if word(c) => rest.find(|c| !word(c)).unwrap_or(rest.len()),
                ':' if rest.starts_with("::") => 2,
                c => c.len_utf8(),
            };
            tokens.push(Token { line, text: rest[..length].to_owned() });
            length
        };
        line += rest[..length].matches('\n').count();
        rest = &rest[length..];
    }
    tokens
}

/// Bytes of the blank, comment, string, character or lifetime at which `rest` begins.
fn skipped(rest: &str) -> Option<usize> {
    let first = rest.chars().next()?;
    let raw = rest.trim_start_matches('b').strip_prefix('r').map(|r| (r, r.trim_start_matches('#')));
    if first.is_whitespace() {
        Some(first.len_utf8())
    } else if rest.starts_with("//") {
        Some(rest.find('\n').unwrap_or(rest.len()))
    } else if rest.starts_with("/*") {
        let (mut open, mut at) = (0, 0);
        loop {
            match rest.as_bytes().get(at..at + 2) {
                Some(b"/*") => (open, at) = (open + 1, at + 2),
                Some(b"*/") => (open, at) = (open - 1, at + 2),
                Some(_) => at += 1,
                None => return Some(rest.len()),
            }
            if open == 0 {
                return Some(at);
            }
        }
    } else if let Some((hashed, quoted)) = raw.filter(|(_, quoted)| quoted.starts_with('"')) {
        let end = format!("\"{}", "#".repeat(hashed.len() - quoted.len()));
        let start = rest.len() - quoted.len() + 1;
        Some(rest[start..].find(&end).map_or(rest.len(), |at| start + at + end.len()))
    } else if first == '"' {
        Some(closing(rest, '"'))
    } else if first == '\'' {
        let second = rest[1..].chars().next()?;
        let is_character = second == '\\' || rest[1 + second.len_utf8()..].starts_with('\'');
        Some(if is_character { closing(rest, '\'') } else { 1 })
    } else {
        None
    }
}

/// Bytes up to and with the closing `quote` of a literal that begins with one.
fn closing(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return at + 1,
            _ => {}
        }
    }
    rest.len()
}
