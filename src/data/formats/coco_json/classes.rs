//! [`Classes`]: the entries of `categories`, in the order of labels.

use super::super::super::json::{NumberList, Scalar};
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
    pub label_of: HashMap<u64, u32>,
    /// Names in the order of labels, each once.
    pub names: Vec<String>,
    /// The rest in the order of labels.
    pub categories: Vec<Category>,
    /// Names that were told apart.
    pub notes: Vec<String>,
}

impl Classes {
    /// Reads the records; their flaws are added to `flaws`.
    pub(super) fn read(found: &[CategoryRecord], flaws: &mut Vec<String>) -> Self {
        let mut by_id: BTreeMap<u64, (String, Option<Frequency>)> = BTreeMap::new();
        for (place, record) in found.iter().enumerate() {
            match record.read() {
                Ok((id, class)) => {
                    if by_id.insert(id, class).is_some() {
                        flaws.push(format!("category {id} occurs twice"));
                    }
                }
                Err(flaw) => flaws.push(format!("categories[{place}]: {flaw}")),
            }
        }
        let mut count: BTreeMap<&str, usize> = BTreeMap::new();
        by_id.values().for_each(|(name, _)| *count.entry(name).or_default() += 1);
        let several = |name: &str| count.get(name).is_some_and(|count| *count > 1);
        let name = |(id, (name, _)): (&u64, &(String, _))| match several(name) {
            true => format!("{name} (id {id})"),
            false => name.clone(),
        };
        let names: Vec<String> = by_id.iter().map(name).collect();
        let note = |(name, count): (&&str, &usize)| {
            format!("{count} categories are named `{name}`: they are told apart as `{name} (id …)`")
        };
        let notes = count.iter().filter(|(name, _)| several(name)).map(note).collect();
        let category = |(id, (_, frequency)): (&u64, &(_, Option<Frequency>))| Category {
            id: *id,
            frequency: *frequency,
        };
        let (label_of, categories) =
            (by_id.keys().copied().zip(0..).collect(), by_id.iter().map(category).collect());
        Self { label_of, names, categories, notes }
    }

    /// The labels of a list of category ids in the field `name` of an image.
    pub(super) fn labels(&self, name: &str, ids: &NumberList) -> Result<Vec<u32>, String> {
        let ids = ids.clone().numbers().map_err(|flaw| format!("`{name}` {flaw}"))?.unwrap_or_default();
        let label = |id: &f64| {
            let label = self.label_of.get(&(*id as u64)).filter(|_| id.fract() == 0. && *id >= 0.);
            label.copied().ok_or_else(|| format!("`{name}` has category {id}, which is not in `categories`"))
        };
        ids.iter().map(label).collect()
    }
}

impl CategoryRecord {
    /// Id, name and frequency.
    fn read(&self) -> Result<(u64, (String, Option<Frequency>)), String> {
        let id = self.id.whole().map_err(|flaw| format!("`id` {flaw}"))?.ok_or("there is no `id`")?;
        let name = match &self.name {
            Scalar::Whole(number) => number.to_string(),
            name => name.word().map_err(|flaw| format!("`name` {flaw}"))?.ok_or("there is no `name`")?.into(),
        };
        let frequency = match self.frequency.word().map_err(|flaw| format!("`frequency` {flaw}"))? {
            None => None,
            Some("r") => Some(Frequency::Rare),
            Some("c") => Some(Frequency::Common),
            Some("f") => Some(Frequency::Frequent),
            Some(other) => return Err(format!("`frequency` is \"{other}\", expected \"r\", \"c\" or \"f\"")),
        };
        Ok((id, (name, frequency)))
    }
}
