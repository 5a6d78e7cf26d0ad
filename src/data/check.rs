//! `bench data check`: compares a data set on disk with its manifest, split by split.
//!
//! All problems are collected. A run, which reads its data with [`Dataset::index`], stops at the first one instead.

mod objects;

use super::classes::label;
use super::{Annotation, Dataset, Entry, IGNORE, IgnoredFiles, Size, Split, TurnedFiles};
use crate::files;
use objects::ObjectReport;
use rayon::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::mem::Discriminant;
use std::path::Path;

/// The name of the split that is trained on, or its beginning.
const TRAIN: &str = "train";

/// The reason why an image of this size does not fit its annotation; `None` if it fits.
fn fits(entry: &Entry, decoded: Size) -> Option<String> {
    match &entry.annotation {
        Annotation::Objects(image) => {
            let misfit = |e| format!("`{}`: {e}{}", entry.id, entry.image.remark_on_size());
            image.fits(decoded).err().map(misfit)
        }
        _ => None,
    }
}

/// Reads every map of numbers and compares its size with that of its image, by the header of the file, and adds
/// the problems to the report.
fn dense_maps_of(entries: &[Entry], report: &mut SplitReport) {
    let problem = |entry: &Entry| -> Option<String> {
        let (Annotation::DenseMap(file), Some(header)) = (&entry.annotation, entry.image.header()) else {
            return None;
        };
        let compare = || -> Result<(), String> {
            let map = file.read().map_err(|e| e.to_string())?;
            let (size, _) = header.map_err(|e| e.to_string())?;
            let misfit = |e| format!("`{}`: {e}{}", entry.id, entry.image.remark_on_size());
            file.check_size(map.size(), size).map_err(misfit)
        };
        compare().err()
    };
    report.problems.par_extend(entries.par_iter().filter_map(problem));
}

/// Reads every mask and compares its size with that of its image, by the header of the file. Adds the
/// problems to the report, and returns the number of classes that have pixels. A class without pixels is not a problem.
fn masks_of(entries: &[Entry], report: &mut SplitReport) -> usize {
    let labels_of = |entry: &Entry| -> Option<Result<BTreeSet<u16>, String>> {
        let (Annotation::Raster(mask), Some(header)) = (&entry.annotation, entry.image.header()) else {
            return None;
        };
        let labels = || -> Result<BTreeSet<u16>, String> {
            let raster = mask.read().map_err(|e| e.to_string())?;
            let (size, _) = header.map_err(|e| e.to_string())?;
            let misfit = |e| format!("`{}`: {e}{}", entry.id, entry.image.remark_on_size());
            mask.check_size(raster.size(), size).map_err(misfit)?;
            Ok(raster.labels.iter().copied().filter(|label| *label != IGNORE).collect())
        };
        Some(labels())
    };
    let (mut classes, mut read) = (BTreeSet::new(), 0);
    for found in entries.par_iter().filter_map(labels_of).collect::<Vec<_>>() {
        match found {
            Ok(labels) => {
                read += 1;
                classes.extend(labels);
            }
            Err(problem) => report.problems.push(problem),
        }
    }
    if read > 0 && classes.is_empty() {
        let message =
            format!("no pixel of the {read} masks has a label: nothing to learn and nothing to score");
        report.problems.push(message);
    }
    classes.len()
}

/// Largest number of problems that a report prints.
const SHOWN: usize = 10;

/// Largest number of images whose headers are read for nothing but their EXIF orientation.
const MOST_HEADERS: usize = 100_000;

/// The result of [`Dataset::check`] for a split.
#[derive(Clone, Debug, Default)]
pub struct SplitReport {
    /// The split.
    pub split: String,
    /// Number of images.
    pub images: usize,
    /// Number of classes that have images.
    pub classes: usize,
    /// Number of annotated objects, if the format annotates objects.
    pub objects: usize,
    /// Files among the images that are not images.
    pub ignored: IgnoredFiles,
    /// What was left out, with counts, and what looks odd without being wrong.
    pub notes: Vec<String>,
    /// Files that are turned by their EXIF orientation; not looked for among more than 100,000 images that are not decoded.
    pub turned: TurnedFiles,
    /// The problems, one message each.
    pub problems: Vec<String>,
}

impl std::fmt::Display for SplitReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:<10} {} images", self.split, self.images)?;
        if self.classes > 0 {
            write!(f, ", {} classes", self.classes)?;
        }
        if self.objects > 0 {
            write!(f, ", {} objects", self.objects)?;
        }
        if !self.ignored.is_empty() {
            write!(f, "; {}", self.ignored)?;
        }
        self.notes.iter().try_for_each(|note| write!(f, "\n  note: {note}"))?;
        if self.turned.count() > 0 {
            write!(f, "\n  note: {}", self.turned)?;
        }
        self.problems.iter().take(SHOWN).try_for_each(|problem| write!(f, "\n  problem: {problem}"))?;
        match self.problems.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            1 => write!(f, "\n  and 1 more problem"),
            more => write!(f, "\n  and {more} more problems"),
        }
    }
}

/// The classes of a split.
#[derive(Debug, Default)]
struct SplitClasses {
    /// The kind of its annotations: only splits of one kind belong to one task.
    kind: Option<Discriminant<Annotation>>,
    /// Names in label order.
    names: Vec<String>,
}

/// The split with annotations of the same kind as `split` that is trained on, by its name, with its classes, if those of
/// `split` are others.
fn trained_on<'a>(
    split: &str,
    classes: &'a BTreeMap<String, SplitClasses>,
) -> Option<(&'a str, &'a [String])> {
    let found = classes.get(split)?;
    let fits = |name: &&String| name.starts_with(TRAIN) && classes[*name].kind == found.kind;
    let exact = classes.keys().find(|name| *name == TRAIN).filter(fits);
    let trained = exact.or_else(|| classes.keys().find(fits))?;
    let names = &classes.get(trained)?.names;
    (!names.is_empty() && !found.names.is_empty() && found.names != *names).then_some((trained, names))
}

impl Dataset {
    /// Reads the index of every split and checks that every image exists, that boxes and outlines can be meant as they are
    /// written, and that the splits have the classes of the one that is trained on; with `decode`, also that every image can
    /// be decoded and fits its annotation.
    pub fn check(&self, root: &Path, decode: bool) -> Vec<SplitReport> {
        let mut classes = BTreeMap::new();
        let check = |(name, split): (&String, &Split)| {
            let (report, found) = self.check_split(root, name, split, decode);
            classes.insert(name.clone(), found);
            report
        };
        let mut reports: Vec<SplitReport> = self.splits.iter().map(check).collect();
        for report in &mut reports {
            let Some((trained, names)) = trained_on(&report.split, &classes) else { continue };
            // The comparison that a run makes of the splits that it trains on and scores.
            match self.index_scored(root, &report.split, (trained, names)) {
                Ok(index) => {
                    let new = index
                        .notes
                        .into_iter()
                        .filter(|note| !report.notes.contains(note))
                        .collect::<Vec<_>>();
                    report.notes.extend(new);
                }
                Err(error) => report.problems.push(error.to_string()),
            }
        }
        reports
    }

    /// The report of a split, and its classes.
    fn check_split(
        &self,
        root: &Path,
        name: &str,
        split: &Split,
        decode: bool,
    ) -> (SplitReport, SplitClasses) {
        let mut report = SplitReport { split: name.into(), ..SplitReport::default() };
        let index = match self.index(root, name) {
            Ok(index) => index,
            Err(error) => {
                report.problems = error.messages();
                return (report, SplitClasses::default());
            }
        };
        report.images = index.entries.len();
        report.ignored = index.ignored;
        report.notes = index.notes;
        let labels: BTreeSet<u32> = index.entries.iter().filter_map(label).collect();
        let objects = ObjectReport::of(&index.entries);
        report.classes = labels.len() + objects.classes;
        report.objects = objects.objects;
        report.notes.extend(objects.notes);
        report.problems.extend(objects.problems);
        if decode {
            report.classes += masks_of(&index.entries, &mut report);
            dense_maps_of(&index.entries, &mut report);
        }
        if let Some(count) = split.count.filter(|count| *count != report.images) {
            report.problems.push(format!("{} images, the manifest says {count}", report.images));
        }
        // Folders list what exists, but for links that lead nowhere; other formats may name files that do not exist.
        let named = !index.images_listed;
        let problem = |entry: &Entry| match entry.image.path() {
            Some(_) if decode => match entry.image.decode(3) {
                Ok(image) => fits(entry, image.size()),
                Err(error) => Some(error),
            },
            Some(path) if (named || path.is_symlink()) && !path.is_file() => {
                Some(format!("`{}` is not there{}", path.display(), files::near(path)))
            }
            // Reading the header is enough.
            Some(_) if matches!(entry.annotation, Annotation::Objects(_)) => match entry.image.header()? {
                Ok((size, _)) => fits(entry, size),
                Err(error) => Some(error.to_string()),
            },
            _ => None,
        };
        if decode || index.entries.len() <= MOST_HEADERS {
            report.turned = TurnedFiles::among(&index.entries);
        }
        report.problems.par_extend(index.entries.par_iter().filter_map(problem));
        let names = self.class_names().map(<[String]>::to_vec).or(index.classes).unwrap_or_default();
        let kind = index.entries.first().map(|entry| std::mem::discriminant(&entry.annotation));
        (report, SplitClasses { kind, names })
    }
}
