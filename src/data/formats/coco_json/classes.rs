//! [`Classes`]: the entries of `categories`, in the order of labels.

use super::super::super::json::{NumberList, RecordId, Scalar};
use super::super::super::{Category, Frequency};
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};

/// An entry of `categories` as it is written.
#[derive(Deserialize)]
pub(super) struct CategoryRecord {
    #[serde(default)]
    id: Scalar,
    #[serde(default)]
    name: Scalar,
    #[serde(default)]
    frequency: Scalar,
}

/// The categories of a file.
#[derive(Default)]
pub(super) struct Classes {
    /// Labels by category id.
    pub label_of: HashMap<RecordId, u32>,
    /// Names in the order of labels, each once.
    pub names: Vec<String>,
    /// The rest in the order of labels.
    pub categories: Vec<Category>,
    /// What was left out or named here.
    pub notes: Vec<String>,
}

impl Classes {
    /// Reads the records; their flaws are added to `flaws`.
    pub(super) fn read(found: &[CategoryRecord], flaws: &mut Vec<String>) -> Self {
        let mut by_id: BTreeMap<RecordId, (String, Option<Frequency>)> = BTreeMap::new();
        let (mut repeated, mut nameless) = (0, vec![]);
        for (place, record) in found.iter().enumerate() {
            match record.read() {
                Ok((id, name, frequency)) => {
                    let class = (name.unwrap_or_else(|| plain(&id)), frequency);
                    match by_id.get(&id) {
                        Some(other) if *other == class => repeated += 1,
                        Some(_) => flaws
                            .push(format!("category {id} occurs twice, with different names or frequencies")),
                        None => {
                            if record.name == Scalar::Absent {
                                nameless.push(id.clone());
                            }
                            by_id.insert(id, class);
                        }
                    }
                }
                Err(flaw) => flaws.push(format!("categories[{place}]: {flaw}")),
            }
        }
        if let Some((first, other)) = by_id.keys().next().zip(by_id.keys().next_back())
            && !first.is_like(other)
        {
            flaws.push(format!(
                "ids of categories must be all numbers or all words to be scored: {first}, {other}"
            ));
        }
        let mut count: BTreeMap<&str, usize> = BTreeMap::new();
        by_id.values().for_each(|(name, _)| *count.entry(name).or_default() += 1);
        let several = |name: &str| count.get(name).is_some_and(|count| *count > 1);
        let name = |(id, (name, _)): (&RecordId, &(String, _))| match several(name) {
            true => format!("{name} (id {})", plain(id)),
            false => name.clone(),
        };
        let names: Vec<String> = by_id.iter().map(name).collect();
        let note = |(name, count): (&&str, &usize)| {
            format!("{count} categories are named `{name}`: they are told apart as `{name} (id …)`")
        };
        let mut notes: Vec<String> = count.iter().filter(|(name, _)| several(name)).map(note).collect();
        if repeated > 0 {
            notes.push(format!("categories that are listed twice are read once: {repeated}"));
        }
        if let Some(first) = nameless.first() {
            let count = nameless.len();
            notes.push(format!(
                "categories without a name are named by their ids: {count}; the first: {first}"
            ));
        }
        let category = |(id, (_, frequency)): (&RecordId, &(_, Option<Frequency>))| Category {
            id: id.clone(),
            frequency: *frequency,
        };
        let (label_of, categories) =
            (by_id.keys().cloned().zip(0..).collect(), by_id.iter().map(category).collect());
        Self { label_of, names, categories, notes }
    }

    /// The labels of a list of category ids in the field `name` of an image.
    pub(super) fn labels(&self, name: &str, ids: &NumberList) -> Result<Vec<u32>, String> {
        let ids = ids.clone().numbers().map_err(|flaw| format!("`{name}` {flaw}"))?.unwrap_or_default();
        let label = |id: &f64| {
            let label = self.label_of.get(&RecordId::Number(*id as i128)).filter(|_| id.fract() == 0.);
            label.copied().ok_or_else(|| format!("`{name}` has category {id}, which is not in `categories`"))
        };
        ids.iter().map(label).collect()
    }
}

/// An id as a name, without quotes.
fn plain(id: &RecordId) -> String {
    match id {
        RecordId::Number(number) => number.to_string(),
        RecordId::Word(word) => word.to_string(),
    }
}

impl CategoryRecord {
    /// Id, name, if there is one, and frequency.
    fn read(&self) -> Result<(RecordId, Option<String>, Option<Frequency>), String> {
        let id = self.id.id().map_err(|flaw| format!("`id` {flaw}"))?.ok_or("there is no `id`")?;
        let name = match &self.name {
            Scalar::Whole(number) => Some(number.to_string()),
            name => name.word().map_err(|flaw| format!("`name` {flaw}"))?.map(String::from),
        };
        let frequency = match self.frequency.word().map_err(|flaw| format!("`frequency` {flaw}"))? {
            None => None,
            Some("r") => Some(Frequency::Rare),
            Some("c") => Some(Frequency::Common),
            Some("f") => Some(Frequency::Frequent),
            Some(other) => return Err(format!("`frequency` is \"{other}\", expected \"r\", \"c\" or \"f\"")),
        };
        Ok((id, name, frequency))
    }
}
