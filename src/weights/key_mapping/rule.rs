//! [`KeyMapping`]: the tensor names of one program as a list of rules, read from left to right to load its files and from
//! right to left to write them.

/// The name of a module in another program's files, and its name here. `{}` stands for a number; the last one is that of
/// the block. The rest of a tensor's name (`.weight`, `.bias`) is kept. A rule may also name a whole tensor. The first
/// rule that matches applies.
#[derive(Clone, Copy, Debug)]
pub(in crate::weights) struct Rule {
    /// Name in the other program.
    pub theirs: &'static str,
    /// Name here.
    pub ours: &'static str,
    /// The part of our tensor along the first dimension that theirs is, if it is one.
    pub part: Option<Part>,
}

/// A part of a tensor along its first dimension: its index among a number of equal parts. Of three parts, 0 are queries, 1
/// keys and 2 values; of two, 0 is the gate of a SwiGLU.
pub(in crate::weights) type Part = (usize, usize);

/// A rule for a whole tensor or module.
pub(in crate::weights) const fn rule(theirs: &'static str, ours: &'static str) -> Rule {
    Rule { theirs, ours, part: None }
}

/// A rule for the queries (0), keys (1) or values (2) of an attention layer.
pub(in crate::weights) const fn third(theirs: &'static str, ours: &'static str, third: usize) -> Rule {
    Rule { theirs, ours, part: Some((third, 3)) }
}

/// A rule for the gate (0) or the values (1) of a SwiGLU.
pub(in crate::weights) const fn half(theirs: &'static str, ours: &'static str, half: usize) -> Rule {
    Rule { theirs, ours, part: Some((half, 2)) }
}

/// The tensor names of one program.
#[derive(Debug)]
pub(in crate::weights) struct KeyMapping {
    /// Name of the program, used in messages.
    pub title: &'static str,
    /// Prefixes that the names of the backbone may have; the first one is written.
    pub prefixes: &'static [&'static str],
    /// Backbone tensors, without the prefix, that together identify files of this program.
    pub probes: &'static [&'static str],
    /// Tensors that identify another program even if all probes are present.
    pub never: &'static [&'static str],
    /// Rules for the backbone, applied after the prefix.
    pub rules: &'static [Rule],
    /// Rules for modules beside the backbone, which have no prefix.
    pub others: &'static [Rule],
    /// Rules for names that only some versions of the program use, with or without a prefix: loaded, never written.
    pub read: &'static [Rule],
    /// Modules that a ViT does not have; they are ignored.
    pub ignored: &'static [&'static str],
}

/// The rules of `a` followed by those of `b`; `N` is their number.
pub(in crate::weights) const fn joined<const A: usize, const B: usize, const N: usize>(
    a: [Rule; A],
    b: [Rule; B],
) -> [Rule; N] {
    let mut all = [a[0]; N];
    let mut i = 0;
    while i < N {
        all[i] = if i < A { a[i] } else { b[i - A] };
        i += 1;
    }
    all
}

impl Rule {
    /// Rewrites `name`, which matches the pattern `from`, with the pattern `to`; `None` if it does not match.
    fn apply(name: &str, from: &str, to: &str) -> Option<String> {
        let (mut number, mut pieces) = ("", from.split("{}"));
        let mut rest = name.strip_prefix(pieces.next()?)?;
        for piece in pieces {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            let tail;
            (number, tail) = rest.split_at(digits);
            rest = tail.strip_prefix(piece).filter(|_| digits > 0)?;
        }
        (rest.is_empty() || rest.starts_with('.')).then(|| to.replacen("{}", number, 1) + rest)
    }
}

/// Whether `name` is a buffer that follows from the window size, or the number of batches that a norm has seen: neither
/// is needed.
fn is_derived(name: &str) -> bool {
    [".relative_position_index", ".num_batches_tracked"].iter().any(|end| name.ends_with(end))
}

impl KeyMapping {
    /// The prefix that a file of this program uses; `None` for files of other programs. `has` says whether a file has a
    /// tensor.
    pub(crate) fn prefix(&self, has: &dyn Fn(&str) -> bool) -> Option<&'static str> {
        let below = |prefix: &str, name: &str| has(&format!("{prefix}{name}"));
        let fits = |prefix: &&&str| {
            let other = self.never.iter().any(|name| below(prefix, name) || has(name));
            self.probes.iter().all(|name| below(prefix, name)) && !other
        };
        self.prefixes.iter().find(fits).copied()
    }

    /// Our name for the tensor `theirs`, and which part of our tensor it is ([`Rule::part`]). `None` for tensors that have
    /// no name here.
    pub(crate) fn ours(&self, prefix: &str, theirs: &str) -> Option<(String, Option<Part>)> {
        let find = |rules: &[Rule], name: &str| {
            rules.iter().find_map(|r| Rule::apply(name, r.theirs, r.ours).map(|ours| (ours, r.part)))
        };
        if is_derived(theirs) {
            return None;
        }
        let inside = theirs
            .strip_prefix(prefix)
            .and_then(|name| find(self.rules, name).or_else(|| find(self.read, name)));
        inside.or_else(|| find(self.others, theirs)).or_else(|| find(self.read, theirs))
    }

    /// Whether the tensor `theirs` belongs to an ignored module.
    pub(crate) fn ignores(&self, prefix: &str, theirs: &str) -> bool {
        let names = [Some(theirs), theirs.strip_prefix(prefix)];
        let within = |name: &str, module: &str| {
            name.strip_prefix(module).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '/']))
        };
        is_derived(theirs)
            || names.iter().flatten().any(|name| self.ignored.iter().any(|module| within(name, module)))
    }

    /// Whether the module at the start of the name `theirs` is one that the program has beside the backbone.
    pub(crate) fn owns(&self, theirs: &str) -> bool {
        let module = |name: &'_ str| name.split('.').next().unwrap_or_default().to_string();
        self.others.iter().any(|rule| module(rule.theirs) == module(theirs))
    }

    /// The other program's names for our tensor `ours`, each with the part of it that it holds: one name, or one for each part.
    /// Backbone names get the first prefix.
    pub(crate) fn theirs(&self, ours: &str) -> Vec<(String, Option<Part>)> {
        let prefix = self.prefixes.first().copied().unwrap_or_default();
        let find = |rules: &[Rule], prefix: &str| -> Vec<(String, Option<Part>)> {
            let renamed =
                |r: &Rule| Some((prefix.to_string() + &Rule::apply(ours, r.ours, r.theirs)?, r.part));
            let mut found: Vec<_> = rules.iter().filter_map(renamed).collect();
            if found.iter().any(|(_, part)| part.is_none()) {
                found.truncate(1);
            }
            found
        };
        match find(self.rules, prefix) {
            found if found.is_empty() => find(self.others, ""),
            found => found,
        }
    }
}
