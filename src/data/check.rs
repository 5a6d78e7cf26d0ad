//! `bench data check`: compares a data set on disk with its manifest, split by split.
//!
//! All problems are collected. A run, which reads its data with [`Dataset::index`], stops at the first one instead.

use super::classes::{label, list};
use super::{Annotation, Dataset, Entry, IGNORE, IgnoredFiles, Size, Split, TurnedFiles};
use rayon::prelude::*;
use std::collections::BTreeSet;
use std::path::Path;

/// Adds the number of objects to the report, and returns the number of their classes. A class without objects
/// is not a problem: many splits lack the rare ones.
fn objects_of(entries: &[Entry], report: &mut SplitReport) -> usize {
    let mut classes = BTreeSet::new();
    for entry in entries {
        if let Annotation::Objects(image) = &entry.annotation {
            report.objects += image.objects.len();
            classes.extend(image.objects.iter().map(|object| object.label));
        }
    }
    classes.len()
}

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
    let read = |entry: &Entry| -> Option<Result<BTreeSet<u16>, String>> {
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
    let mut classes = BTreeSet::new();
    for found in entries.par_iter().filter_map(read).collect::<Vec<_>>() {
        match found {
            Ok(labels) => classes.extend(labels),
            Err(problem) => report.problems.push(problem),
        }
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

impl Dataset {
    /// Reads the index of every split and checks that every image exists; with `decode`, also that it can be decoded and fits
    /// its annotation.
    pub fn check(&self, root: &Path, decode: bool) -> Vec<SplitReport> {
        self.splits.iter().map(|(name, split)| self.check_split(root, name, split, decode)).collect()
    }

    fn check_split(&self, root: &Path, name: &str, split: &Split, decode: bool) -> SplitReport {
        let mut report = SplitReport { split: name.into(), ..SplitReport::default() };
        let index = match self.index(root, name) {
            Ok(index) => index,
            Err(error) => {
                report.problems.push(error.to_string());
                return report;
            }
        };
        report.images = index.entries.len();
        report.ignored = index.ignored;
        let labels: BTreeSet<u32> = index.entries.iter().filter_map(label).collect();
        report.classes = labels.len() + objects_of(&index.entries, &mut report);
        if decode {
            report.classes += masks_of(&index.entries, &mut report);
            dense_maps_of(&index.entries, &mut report);
        }
        let names = self.class_names().or(index.classes.as_deref()).unwrap_or_default();
        let empty: Vec<&str> = (0..)
            .zip(names)
            .filter(|(label, _)| !labels.is_empty() && !labels.contains(label))
            .map(|(_, name)| name.as_str())
            .collect();
        if !empty.is_empty() {
            report.problems.push(format!(
                "{} of {} classes have images; without: {}",
                labels.len(),
                names.len(),
                list(empty.into_iter())
            ));
        }
        if let Some(count) = split.count.filter(|count| *count != report.images) {
            report.problems.push(format!("{} images, the manifest says {count}", report.images));
        }
        // Folders list what exists; other formats may name files that do not.
        let named = !index.images_listed;
        let problem = |entry: &Entry| match entry.image.path() {
            Some(_) if decode => match entry.image.decode(3) {
                Ok(image) => fits(entry, image.size()),
                Err(error) => Some(error),
            },
            Some(path) if named && !path.is_file() => Some(format!("`{}` is not there", path.display())),
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
        report
    }
}
