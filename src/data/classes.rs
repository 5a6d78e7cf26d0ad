//! Lists of class names, and the labels of the names in annotation files.

use super::{Annotation, Entry};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Largest number of names that an error message lists.
const SHOWN: usize = 5;

/// The class names in a file of one class per line, in label order. A name ends at the first `delimiter` or with the line; a
/// number after it must be the label. If every line begins with the number of its class, the name is what follows.
pub(super) fn names_in(text: &str, delimiter: char) -> Result<Vec<String>, String> {
    let mut names = vec![];
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if let Some(names) = numbered(text) {
        return unique(names);
    }
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (name, rest) = line.split_once(delimiter).unwrap_or((line, ""));
        if let Ok(label) = rest.trim().parse::<usize>()
            && label != names.len()
        {
            return Err(format!("class `{name}` has number {label}, expected {} in this line", names.len()));
        }
        names.push(name.to_string());
    }
    unique(names)
}

/// The names of a list in which every line begins with the number of its class, from 0: `0 cat`, `1: dog`.
fn numbered(text: &str) -> Option<Vec<String>> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let name = |(label, line): (usize, &str)| {
        let (number, rest) = line.split_once([' ', '\t', ',', ':', ';'])?;
        let name = rest.trim_start_matches([' ', '\t', ',', ':', ';']);
        (number.parse() == Ok(label) && !name.is_empty()).then(|| name.to_string())
    };
    let names: Vec<String> = lines.enumerate().map(name).collect::<Option<_>>()?;
    (!names.is_empty() && names.iter().any(|name| name.parse::<f64>().is_err())).then_some(names)
}

/// `names`, each of which occurs once.
fn unique(names: Vec<String>) -> Result<Vec<String>, String> {
    let mut seen = BTreeSet::new();
    match names.iter().find(|name| !seen.insert(name.as_str())) {
        Some(twice) => Err(format!("class `{twice}` occurs twice")),
        None => Ok(names),
    }
}

/// The distinct words, sorted by number if all are numbers, otherwise by bytes.
pub(super) fn distinct<'a>(words: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut words: Vec<&str> = words.collect::<BTreeSet<_>>().into_iter().collect();
    if let Some(mut numbers) =
        words.iter().map(|w| w.parse::<u64>().ok().map(|n| (n, *w))).collect::<Option<Vec<_>>>()
    {
        numbers.sort_unstable();
        words = numbers.into_iter().map(|(_, word)| word).collect();
    }
    words.into_iter().map(String::from).collect()
}

/// The label of each word: its index in `names`, or the word itself if all words are indices into `names`.
///
/// # Errors
/// Words that are neither; the message lists them.
pub(super) fn labels_of<'a>(
    words: impl Iterator<Item = &'a str> + Clone,
    names: &[String],
) -> Result<Vec<u32>, String> {
    let by_name: HashMap<&str, u32> = names.iter().map(String::as_str).zip(0..).collect();
    if let Some(labels) = words.clone().map(|word| by_name.get(word).copied()).collect() {
        return Ok(labels);
    }
    let index = |word: &str| word.parse::<u32>().ok().filter(|label| (*label as usize) < names.len());
    if let Some(labels) = words.clone().map(index).collect() {
        return Ok(labels);
    }
    let unknown = words.filter(|word| !by_name.contains_key(word)).collect::<BTreeSet<_>>();
    let near = |word: &&str| names.iter().find(|name| name.to_lowercase() == word.to_lowercase());
    let hint =
        unknown.iter().find_map(near).map_or(String::new(), |name| format!("; did you mean `{name}`?"));
    Err(format!("not among the {} classes: {}{hint}", names.len(), list(unknown.iter().copied())))
}

/// `` `a`, `b` are `` or `` `a` is ``, for a message.
pub(super) fn are(names: &[&str]) -> String {
    format!("{} {}", list(names.iter().copied()), if names.len() == 1 { "is" } else { "are" })
}

/// A note on the classes without images, if entries are labelled with single classes.
pub(super) fn without_images(entries: &[Entry], names: &[String]) -> Option<String> {
    let labels: BTreeSet<u32> = entries.iter().filter_map(label).collect();
    let empty: Vec<&str> = (0..)
        .zip(names)
        .filter(|(label, _)| !labels.is_empty() && !labels.contains(label))
        .map(|(_, name)| name.as_str())
        .collect();
    let (some, all) = (names.len() - empty.len(), names.len());
    let note = || format!("{some} of {all} classes have images; without: {}", list(empty.iter().copied()));
    (!empty.is_empty()).then(note)
}

/// A few names in back quotes, and how many more there are.
pub(super) fn list<'a>(names: impl ExactSizeIterator<Item = &'a str>) -> String {
    let more = names.len().saturating_sub(SHOWN);
    let shown: Vec<String> = names.take(SHOWN).map(|name| format!("`{name}`")).collect();
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    shown.join(", ") + &more
}

/// Keeps of every class the `most` entries that follow its first `skipped` ones, in order.
///
/// # Errors
/// An entry without a label; the message names it.
pub(super) fn keep_per_class(entries: &mut Vec<Entry>, skipped: usize, most: usize) -> Result<(), String> {
    if let Some(entry) = entries.iter().find(|entry| label(entry).is_none()) {
        return Err(format!("per_class needs labels, and `{}` has none", entry.id));
    }
    let mut counts: BTreeMap<u32, usize> = BTreeMap::new();
    entries.retain(|entry| {
        let count = label(entry).map_or(0, |label| {
            let count = counts.entry(label).or_default();
            *count += 1;
            *count
        });
        count > skipped && count - skipped <= most
    });
    Ok(())
}

pub(super) fn label(entry: &Entry) -> Option<u32> {
    match entry.annotation {
        Annotation::Label(label) => Some(label),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(words: &[&str]) -> Vec<String> {
        words.iter().map(|w| w.to_string()).collect()
    }

    #[test]
    fn lists_of_classes() {
        assert_eq!(names_in("cat\n\nblack dog\n", '\t').unwrap(), ["cat", "black dog"]);
        assert_eq!(names_in("\u{feff}cat\r\ndog", '\t').unwrap(), ["cat", "dog"]);
        assert_eq!(names_in("n1\ttench, fish\nn0\tgoldfish", '\t').unwrap(), ["n1", "n0"]);
        assert_eq!(names_in("/a/attic 0\n/b/bar 1\n", ' ').unwrap(), ["/a/attic", "/b/bar"]);
        assert!(names_in("/a/attic 1\n", ' ').unwrap_err().contains("number 1, expected 0"));
        for text in
            ["0 cat\n1 black dog\n", "0: cat\n1: black dog", "0,cat\n1,black dog\n", "0\tcat\n1\tblack dog"]
        {
            assert_eq!(names_in(text, ',').unwrap(), ["cat", "black dog"], "{text}");
        }
        assert_eq!(
            names_in("0 1\n1 2\n", ' ').unwrap_err(),
            "class `0` has number 1, expected 0 in this line"
        );
        assert!(names_in("cat\ncat", '\t').unwrap_err().contains("`cat` occurs twice"));
    }

    #[test]
    fn words_sort_by_number_or_bytes() {
        assert_eq!(distinct(["10", "9", "10", "0"].into_iter()), ["0", "9", "10"]);
        assert_eq!(distinct(["b", "10", "B", "9"].into_iter()), ["10", "9", "B", "b"]);
    }

    #[test]
    fn labels_are_names_or_indices_but_not_both() {
        let labels = |words: &[&str], names: &[&str]| labels_of(words.iter().copied(), &strings(names));
        assert_eq!(labels(&["b", "a", "b"], &["a", "b"]).unwrap(), [1, 0, 1]);
        assert_eq!(labels(&["1", "0"], &["a", "b"]).unwrap(), [1, 0]);
        // Names first: these count from 1.
        assert_eq!(labels(&["1", "2"], &["1", "2"]).unwrap(), [0, 1]);
        assert!(labels(&["1", "2"], &["a", "b"]).unwrap_err().contains("2 classes: `1`, `2`"));
        assert!(labels(&["a", "B"], &["a", "b"]).unwrap_err().ends_with("classes: `B`; did you mean `b`?"));
        assert!(labels(&["a", "0"], &["a", "b"]).unwrap_err().contains("classes: `0`"));
        let many: Vec<String> = (0..9).map(|k| format!("x{k}")).collect();
        let error = labels_of(many.iter().map(String::as_str), &[]).unwrap_err();
        assert!(error.ends_with("`x4` and 4 more"), "{error}");
    }
}
