//! [`Folds`]: equal parts of a split, one of which is held out where the data come without a validation split.

use crate::data::Entry;
use crate::data::classes::label;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Which of several equal parts of the images a split keeps, as in cross-validation. The images are numbered in the order of the
/// index, in each class by itself where they are labelled with single classes; image k is in fold k mod `of`. Two splits of
/// the same images that keep different folds share no image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Folds {
    /// Number of folds, at least 2.
    pub of: usize,
    /// The folds that the split keeps, counted from 0.
    pub keep: Vec<usize>,
}

impl Folds {
    /// # Errors
    /// Fewer than two folds, or a list of kept ones that is empty, repeats one or has one that does not exist.
    pub(super) fn check(&self) -> Result<(), String> {
        let Self { of, keep } = self;
        if *of < 2 {
            return Err(format!("`folds.of` is {of}, expected at least 2"));
        }
        if let Some(fold) = keep.iter().find(|fold| *fold >= of) {
            return Err(format!(
                "`folds.keep` has fold {fold}, but {of} folds are counted from 0 to {}",
                of - 1
            ));
        }
        let distinct: BTreeSet<&usize> = keep.iter().collect();
        if keep.is_empty() || distinct.len() < keep.len() {
            return Err(format!("`folds.keep` is {keep:?}, expected at least one fold, and each once"));
        }
        Ok(())
    }

    /// Keeps the entries of the kept folds, in order.
    pub(super) fn keep(&self, entries: &mut Vec<Entry>) {
        let mut next: BTreeMap<Option<u32>, usize> = BTreeMap::new();
        entries.retain(|entry| {
            let number = next.entry(label(entry)).or_default();
            let fold = *number % self.of;
            *number += 1;
            self.keep.contains(&fold)
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Annotation, Dataset, Formats, ImageRef, SampleId};

    fn entries(annotations: &[Annotation]) -> Vec<Entry> {
        let entry = |(k, annotation): (usize, &Annotation)| Entry {
            id: SampleId::new(k.to_string()),
            image: ImageRef::File(k.to_string().into()),
            annotation: annotation.clone(),
        };
        annotations.iter().enumerate().map(entry).collect()
    }

    fn kept(annotations: &[Annotation], of: usize, keep: &[usize]) -> Vec<usize> {
        let mut entries = entries(annotations);
        Folds { of, keep: keep.to_vec() }.keep(&mut entries);
        entries.iter().map(|entry| entry.id.as_str().parse().unwrap()).collect()
    }

    #[test]
    fn every_class_is_divided_by_itself() {
        let labels = [0, 0, 1, 0, 1, 1, 0].map(Annotation::Label);
        // Class 0 has the images 0, 1, 3, 6, class 1 the images 2, 4, 5.
        assert_eq!(kept(&labels, 3, &[2]), [3, 5]);
        assert_eq!(kept(&labels, 3, &[0, 1]), [0, 1, 2, 4, 6]);
        let without = [const { Annotation::None }; 7];
        assert_eq!(kept(&without, 3, &[2]), [2, 5]);
        assert_eq!(kept(&without, 3, &[1, 0]), [0, 1, 3, 4, 6]);
    }

    #[test]
    fn folds_that_mean_nothing_are_refused() {
        let error = |of, keep: &[usize]| Folds { of, keep: keep.to_vec() }.check().unwrap_err();
        assert!(error(1, &[0]).contains("`folds.of` is 1"));
        assert!(error(5, &[5]).contains("fold 5, but 5 folds are counted from 0 to 4"));
        assert!(error(5, &[]).contains("at least one fold"));
        assert!(error(5, &[1, 1]).contains("each once"));
        assert!(Folds { of: 2, keep: vec![1] }.check().is_ok());
    }

    #[test]
    fn a_manifest_with_wrong_folds_names_the_split() {
        let text = "name = \"a\"\nversion = \"1\"\nlicense = \"x\"\n[split.train]\nimages = \".\"\n\
                    folds = { of = 1, keep = [0] }\n";
        let error = Dataset::of_text(text, "a.toml", &Formats::empty()).unwrap_err().to_string();
        assert!(error.contains("a.toml: `split.train`: `folds.of` is 1"), "{error}");
    }
}
