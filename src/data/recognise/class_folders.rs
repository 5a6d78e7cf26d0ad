//! Layout *class folders*: `<class>/*.jpg`, or `train/<class>/*.jpg` beside `val` and `test`.

use super::super::DataError;
use super::super::classes::list;
use super::found::{Fit, Labelling, Part, Purpose, Search, check_purposes, quoted};
use super::survey::{Survey, below, means_images};

/// The name of the layout.
pub(super) const CLASS_FOLDERS: &str = "class folders";

/// Looks for class folders.
///
/// # Errors
/// A folder that cannot be listed.
pub(super) fn look(survey: &Survey) -> Result<Search, DataError> {
    let splits = survey.splits();
    if splits.is_empty() {
        return Ok(match classes(survey, ".", &survey.top.folders) {
            Ok(classes) if classes.len() < 2 => {
                Search::Absent(format!("{}, at least two are needed", count(classes.len())))
            }
            Ok(classes) => found(
                format!("{}: {}", count(classes.len()), list(classes.iter().map(String::as_str))),
                vec![part(None, ".")],
                vec![],
            ),
            Err(reason) => Search::Absent(reason),
        });
    }
    let (mut parts, mut evidence, mut notes) = (vec![], vec![], vec![]);
    for (purpose, folder) in splits {
        match classes(survey, folder, &survey.list(folder)?.folders) {
            Ok(classes) if purpose != Purpose::Train || classes.len() > 1 => {
                evidence.push(format!("`{folder}` has {}", count(classes.len())));
                parts.push((Some(purpose), folder.to_string()));
            }
            Ok(classes) => {
                return Ok(Search::Absent(format!(
                    "`{folder}` has {}, at least two are needed",
                    count(classes.len())
                )));
            }
            Err(reason) if purpose == Purpose::Train => return Ok(Search::Absent(reason)),
            Err(reason) => notes.push(format!("`{folder}` is left out: {reason}")),
        }
    }
    Ok(match check_purposes(&parts) {
        Err(reason) => Search::Absent(reason),
        Ok(()) => {
            let parts = parts.iter().map(|(purpose, folder)| part(*purpose, folder)).collect();
            found(evidence.join(", "), parts, notes)
        }
    })
}

fn found(evidence: String, parts: Vec<Part>, notes: Vec<String>) -> Search {
    Search::Found(Fit { layout: CLASS_FOLDERS, labelling: Labelling::Classes, evidence, parts, notes })
}

fn part(purpose: Option<Purpose>, images: &str) -> Part {
    Part { purpose, images: images.into(), annotations: vec![("format", quoted("image_folder"))] }
}

fn count(classes: usize) -> String {
    match classes {
        1 => "1 folder with images".into(),
        classes => format!("{classes} folders with images"),
    }
}

/// Those of `folders` in `parent` that hold images.
///
/// # Errors
/// The reason why they are no classes.
fn classes(survey: &Survey, parent: &str, folders: &[String]) -> Result<Vec<String>, String> {
    let place = if parent == "." { "the folder".to_string() } else { format!("`{parent}`") };
    let with: Vec<String> =
        folders.iter().filter(|name| survey.has_images(&below(parent, name))).cloned().collect();
    if with.is_empty() {
        return Err(format!("{place} has no folders with images"));
    }
    match with.iter().find(|name| means_images(name)) {
        Some(name) => Err(format!("`{}` is not the name of a class", below(parent, name))),
        None => Ok(with),
    }
}
