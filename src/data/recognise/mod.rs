//! Recognises how the images of a folder are labelled, by the layouts that people have: class folders, tables of labels, COCO
//! files, images with masks. The result is the text of a manifest, which is then read like any other.
//!
//! To add a layout: a file of its own with a function that looks for it, a line where all layouts are looked for, and one in
//! [`LAYOUTS`].

mod class_folders;
mod coco_files;
mod found;
mod manifest_text;
mod mask_folders;
mod mask_values;
mod survey;
mod table;

pub use found::{Fit, Labelling, Part, Purpose, quoted};
pub use manifest_text::{Counted, SplitPart, dataset_text, hold_out, splits_of};

use super::DataError;
use class_folders::CLASS_FOLDERS;
use coco_files::COCO_FILES;
use found::Search;
use mask_folders::MASK_FOLDERS;
use std::path::Path;
use survey::Survey;
use table::TABLE;

/// Layouts, what they say of an image, and what they look like.
pub const LAYOUTS: [(&str, &str, &str); 4] = [
    (CLASS_FOLDERS, "classification", "<class>/*.jpg, or train/<class>/*.jpg beside val/ and test/"),
    (
        TABLE,
        "classification",
        "labels.csv with a column of image files and one called `label`, or train.csv and val.csv",
    ),
    (
        COCO_FILES,
        "detection",
        "annotations/instances_train.json and instances_val.json, or train/_annotations.coco.json, and the images that \
         they list",
    ),
    (
        MASK_FOLDERS,
        "segmentation",
        "images/*.jpg and masks/*.png of the same names, perhaps in train/ and val/; or train/images and train/masks",
    ),
];

/// Largest number of inner folders that a message about an unknown layout looks into.
const MOST_INNER: usize = 10;

/// How the images in the folder `root` are labelled. `wanted` restricts the layouts.
///
/// # Errors
/// A folder that cannot be read; a folder that no layout fits, or several: the message says what was found, and what each layout
/// looks like.
pub fn recognise(root: &Path, wanted: Option<Labelling>) -> Result<Fit, DataError> {
    let survey = Survey::of(root)?;
    let (mut fits, absent) = searches(&survey, wanted)?;
    match fits.len() {
        1 => Ok(fits.remove(0)),
        0 => Err(DataError::file(root, unknown(&survey, wanted, &absent)?)),
        _ => {
            let lines = fits.iter().map(|fit| format!("\n  {}: {}", fit.layout, fit.evidence));
            let message = format!(
                "the images are labelled in more than one way:{}\nsay which one to use: --kind classification, detection \
                 or segmentation",
                lines.collect::<String>()
            );
            Err(DataError::file(root, message))
        }
    }
}

/// Layouts that are absent, with the reason.
type Absent = Vec<(&'static str, String)>;

/// The layouts that `survey` has, and those that it has not.
fn searches(survey: &Survey, wanted: Option<Labelling>) -> Result<(Vec<Fit>, Absent), DataError> {
    let (table, listed) = table::look(survey)?;
    let all = [
        (CLASS_FOLDERS, class_folders::look(survey)?),
        (TABLE, table),
        (COCO_FILES, coco_files::look(survey)?),
        (MASK_FOLDERS, mask_folders::look(survey)?),
    ];
    let (mut fits, mut absent) = (vec![], vec![]);
    for (layout, search) in all {
        match search {
            Search::Found(fit) if wanted.is_none_or(|wanted| wanted == fit.labelling) => fits.push(fit),
            Search::Found(fit) => {
                absent.push((layout, format!("found, but not asked for: {}", fit.evidence)))
            }
            Search::Absent(reason) => absent.push((layout, reason)),
        }
    }
    one_of_two_tables(&mut fits, &listed);
    Ok((fits, absent))
}

/// Labels of images that are told twice: folders of splits win, and folders that agree with a table. Otherwise the table does,
/// because folders may serve other purposes than to tell classes.
fn one_of_two_tables(fits: &mut Vec<Fit>, listed: &[(String, String)]) {
    let place = |layout: &str| fits.iter().position(|fit| fit.layout == layout);
    let (Some(folders), Some(table)) = (place(CLASS_FOLDERS), place(TABLE)) else { return };
    let split = fits[folders].parts.iter().any(|part| part.purpose.is_some());
    let agrees =
        |(image, label): &(String, String)| image.replace('\\', "/").split('/').any(|folder| folder == label);
    let (kept, left) = if split || listed.iter().all(agrees) { (folders, table) } else { (table, folders) };
    let note = format!("not used: {} ({})", fits[left].layout, fits[left].evidence);
    fits[kept].notes.push(note);
    fits.remove(left);
}

/// What is wrong with a folder that no layout fits.
fn unknown(
    survey: &Survey,
    wanted: Option<Labelling>,
    absent: &[(&str, String)],
) -> Result<String, DataError> {
    let top = &survey.top;
    let few = |names: &[String]| {
        let more = names.len().saturating_sub(3);
        let shown = names.iter().take(3).cloned().collect::<Vec<_>>().join(", ");
        if more > 0 { format!("{shown} and {more} more") } else { shown }
    };
    let counted = [("folder", &top.folders), ("image", &top.images), ("other file", &top.files)];
    let holds: Vec<String> = counted
        .iter()
        .filter(|(_, names)| !names.is_empty())
        .map(|(what, names)| {
            format!("{} {what}{} ({})", names.len(), if names.len() == 1 { "" } else { "s" }, few(names))
        })
        .collect();
    let holds = if holds.is_empty() {
        "the folder is empty".into()
    } else {
        format!("it holds {}", holds.join(", "))
    };
    let mut lines = vec![format!("cannot tell how the images are labelled; {holds}")];
    for (layout, kind, looks) in LAYOUTS {
        let Some((_, reason)) = absent.iter().find(|(name, _)| *name == layout) else { continue };
        lines.push(format!("  {layout} ({kind}): {reason}\n    looks like {looks}"));
    }
    let inner = top.folders.iter().take(MOST_INNER);
    for name in inner {
        let (fits, _) = searches(&Survey::of(&survey.path(name))?, wanted)?;
        if let [fit] = &fits[..] {
            lines.push(format!(
                "`{}` has the layout {}: give that folder",
                survey.path(name).display(),
                fit.layout
            ));
        }
    }
    if !top.images.is_empty() {
        lines.push("`bench pretrain --data` needs no labels".into());
    }
    lines.push("other layouts need two files, which docs/guides/transfer.md describes".into());
    Ok(lines.join("\n"))
}

#[cfg(test)]
mod tests;
