//! Own data without manifests: a task and a data set made of a folder of labelled images.
//!
//! [`OwnData::read`] recognises the layout and indexes the splits; [`OwnData::files`] is the text of both manifests, which
//! [`write_files`] puts where the library finds them; [`OwnData::defaults`] are overrides of the recipe that fit the data. The task is
//! then read and run like any other.

mod defaults;
mod files;
mod task_text;

pub use defaults::Defaults;
pub use files::{ManifestFile, Written, checked_name, name_of, write_files};

use crate::config::{Choice, Stage, parse};
use crate::data::recognise::{
    Counted, Fit, Labelling, Purpose, SplitPart, dataset_text, hold_out, recognise, splits_of,
};
use crate::data::{Annotation, Dataset, DatasetInfo, Entry, Image, Index};
use crate::registry::Registry;
use crate::task::Manifest;
use anyhow::{Context, Result, ensure};
use defaults::Facts;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use task_text::{TaskFacts, has_test, kind_of, recipe_of, task_text};

/// Number of images whose sizes are looked at.
const SIZES: usize = 200;

/// A folder of labelled images, understood.
pub struct OwnData {
    /// The layout and how it was recognised.
    pub fit: Fit,
    /// Kind of task.
    pub kind: &'static str,
    /// The splits, the first of which is trained on.
    pub splits: Vec<SplitPart>,
    /// What each split holds.
    pub counted: Vec<Counted>,
    /// The folder, absolute.
    root: PathBuf,
    /// Description of the training split.
    info: DatasetInfo,
    facts: Facts,
}

impl OwnData {
    /// Recognises the layout of the folder `root` and reads the lists of its images. `wanted` restricts the layouts.
    ///
    /// # Errors
    /// A folder that no layout fits, or several; annotations that their format refuses.
    pub fn read(registry: &Registry, root: &Path, wanted: Option<Labelling>) -> Result<Self> {
        let fit = recognise(root, wanted)?;
        let root = root.canonicalize().unwrap_or(root.into());
        let name = name_of(&root);
        let named = |splits: &[SplitPart]| {
            let text = dataset_text(&name, &fit, splits, &[], &root.display().to_string());
            let origin = format!("{} in `{}`", fit.layout, root.display());
            Dataset::of_text(&text, &origin, &registry.components().formats)
        };
        let whole = splits_of(&fit);
        let all = named(&whole)?.index(&root, Purpose::Train.as_str())?;
        let sizes = class_sizes(&all.entries);
        let splits = hold_out(whole, sizes.clone());
        let folds = splits.first().and_then(|split| split.folds.as_ref());
        ensure!(
            folds.is_none_or(|folds| sizes.iter().any(|size| *size >= folds.of)),
            "{}: there is no validation split, and too few images to hold some out; put some into a folder `val`",
            root.display()
        );
        let dataset = named(&splits)?;
        let train = match &splits.first().context("a layout has a training split")?.folds {
            None => all,
            Some(_) => dataset.index(&root, Purpose::Train.as_str())?,
        };
        let info = dataset.info(&train);
        let mut indices = vec![train];
        for split in splits.iter().skip(1) {
            let trained = (Purpose::Train.as_str(), &info.classes[..]);
            indices.push(dataset.index_scored(&root, split.purpose.as_str(), trained)?);
        }
        let mut counted: Vec<Counted> = indices.iter().map(|index| counted(index, &info.classes)).collect();
        for (split, counted) in splits.iter().zip(&mut counted) {
            counted.images -= split.left_out(counted);
        }
        let train = &indices[0];
        let facts = Facts {
            images: counted[0].images,
            sides: usual_size(&train.entries),
            masks: all_have_masks(&indices),
            object_sides: object_sides(&train.entries),
        };
        Ok(Self { kind: kind_of(fit.labelling), fit, splits, counted, root, info, facts })
    }

    /// Both manifests under the name `name`.
    ///
    /// # Errors
    /// A default recipe that does not fit the kind.
    pub fn files(&self, registry: &Registry, choice: &Choice, name: &str) -> Result<[ManifestFile; 2]> {
        let root = self.root.display().to_string();
        let task = self.task_facts(name);
        let bare = Choice { overrides: &[], ..*choice };
        let defaults = self.defaults(registry, &bare, name, None)?;
        let dataset = dataset_text(name, &self.fit, &self.splits, &self.counted, &root);
        Ok([
            ManifestFile::new(format!("datasets/{name}/dataset.toml"), dataset),
            ManifestFile::new(format!("tasks/{name}/task.toml"), task_text(&task, &defaults.sets)),
        ])
    }

    /// Overrides of `recipe`, or of the recipe of the task, that fit the data, without those that `choice` has already.
    ///
    /// # Errors
    /// An unknown recipe, or one of another kind of task.
    pub fn defaults(
        &self,
        registry: &Registry,
        choice: &Choice,
        name: &str,
        recipe: Option<&str>,
    ) -> Result<Defaults> {
        let facts = self.task_facts(name);
        let manifest: Manifest = parse(&task_text(&facts, &[]), format!("tasks/{name}/task.toml"))?;
        let recipe = recipe.unwrap_or(&manifest.recipe);
        let values = choice.recipe(Stage::Transfer, recipe, ("", name))?;
        let task = registry.task(&manifest, (&values.head(), &format!("recipe `{recipe}`")), &self.info)?;
        let fitted = task.fits();
        Ok(self.facts.defaults((recipe, &values), choice.overrides, (self.kind, fitted, task.least_batch())))
    }

    /// What a screen shows of the data, a line each.
    pub fn summary(&self) -> Vec<String> {
        let Fit { layout, evidence, notes, .. } = &self.fit;
        let mut lines = vec![format!("{}: {} ({layout}: {evidence})", self.root.display(), self.kind)];
        lines.extend(notes.iter().map(|note| format!("note: {note}")));
        let classes = self.info.classes.len();
        let splits = self.splits.iter().zip(&self.counted).map(|(split, counted)| {
            let objects =
                if counted.objects > 0 { format!(", {} objects", counted.objects) } else { String::new() };
            let role = match (split.purpose, has_test(&self.splits)) {
                (Purpose::Train, _) => "",
                (Purpose::Val, true) => " to choose by",
                _ => " to score",
            };
            format!("{} {} images{objects}{role}", split.purpose.as_str(), counted.images)
        });
        let splits = splits.collect::<Vec<_>>().join("; ");
        let classes = format!("{classes} {}", if classes == 1 { "class" } else { "classes" });
        lines.push(format!("{classes}; {splits}"));
        if let Some(folds) = self.splits.iter().find_map(|split| split.folds.as_ref()) {
            let each = if self.kind == "classification" { " of each class" } else { "" };
            let of = folds.of;
            lines.push(format!(
                "there is no validation split: 1 of {of} images{each} is held out (`val`) and never trained on"
            ));
        }
        lines
    }

    fn task_facts<'a>(&'a self, name: &'a str) -> TaskFacts<'a> {
        TaskFacts {
            name,
            labelling: self.fit.labelling,
            splits: &self.splits,
            counted: &self.counted,
            recipe: recipe_of(self.fit.labelling, self.facts.images),
            sides: self.facts.sides,
            masks: self.facts.masks,
        }
    }
}

/// Numbers of images of each class that has some, or of all together if they have no class of their own.
fn class_sizes(entries: &[Entry]) -> Vec<usize> {
    let mut sizes: BTreeMap<Option<u32>, usize> = BTreeMap::new();
    for entry in entries {
        let class = match entry.annotation {
            Annotation::Label(label) => Some(label),
            _ => None,
        };
        *sizes.entry(class).or_default() += 1;
    }
    sizes.into_values().collect()
}

/// What the index of a split holds, of `classes`.
fn counted(index: &Index, classes: &[String]) -> Counted {
    let objects = || {
        index.entries.iter().filter_map(|entry| match &entry.annotation {
            Annotation::Objects(objects) => Some(objects),
            _ => None,
        })
    };
    Counted {
        images: index.entries.len(),
        classes: classes.to_vec(),
        objects: objects().map(|image| image.objects.len()).sum(),
        empty: objects().filter(|image| image.objects.iter().all(|object| object.crowd)).count(),
    }
}

/// Medians of the shorter and the longer side of the images, of some of them; `None` if none can be read.
fn usual_size(entries: &[Entry]) -> Option<(usize, usize)> {
    let sample = entries.iter().step_by(entries.len().div_ceil(SIZES).max(1));
    let sizes: Vec<_> = sample.filter_map(|entry| Image::size_of(entry.image.path()?).ok()).collect();
    let median = |side: fn(&(usize, usize)) -> usize| {
        let mut sides: Vec<usize> = sizes.iter().map(side).collect();
        sides.sort_unstable();
        sides.get(sides.len() / 2).copied()
    };
    Some((median(|(h, w)| *h.min(w))?, median(|(h, w)| *h.max(w))?))
}

/// Whether every object has an outline, and there are objects.
fn all_have_masks(indices: &[Index]) -> bool {
    let mut objects =
        indices.iter().flat_map(|index| &index.entries).flat_map(|entry| match &entry.annotation {
            Annotation::Objects(image) => image.objects.iter(),
            _ => [].iter(),
        });
    let first = objects.next();
    first.is_some_and(|first| first.has_mask()) && objects.all(|object| object.has_mask())
}

/// Square roots of the areas of boxes as shares of the longer side of their image, sorted.
fn object_sides(entries: &[Entry]) -> Vec<f64> {
    let mut sides: Vec<f64> = vec![];
    for entry in entries {
        let Annotation::Objects(image) = &entry.annotation else { continue };
        let longer = image.size.0.max(image.size.1) as f64;
        let boxes = image.objects.iter().filter(|object| !object.crowd).map(|object| object.bbox);
        sides.extend(boxes.map(|[_, _, width, height]| (width * height).max(0.).sqrt() / longer));
    }
    sides.sort_by(f64::total_cmp);
    sides
}
