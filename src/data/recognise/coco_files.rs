//! Layout *COCO files*: `annotations/instances_train.json`, `train/_annotations.coco.json` and the like, with images wherever
//! their file names are found.

use super::super::DataError;
use super::super::json::{NamedFields, Records, Scalar, parse};
use super::found::{Fit, Labelling, Part, Purpose, Search, check_purposes, quoted};
use super::survey::{Survey, below, means_masks};
use crate::files;
use serde::Deserialize;
use serde::de::IgnoredAny;

/// The name of the layout.
pub(super) const COCO_FILES: &str = "COCO files";

/// Largest number of `.json` files of a folder that are read: more of them are files of single images.
const MOST_FILES: usize = 50;
/// Number of images of a file that are searched for.
const SAMPLED: usize = 20;
/// Folders in which images are searched for, after those that the names of files and splits suggest.
const MOST_FOLDERS: usize = 200;

/// What a file says of itself.
#[derive(Deserialize)]
struct Summary {
    #[serde(default)]
    images: Records<ImageName>,
    #[serde(default)]
    annotations: Records<Shape>,
    #[serde(default)]
    categories: Records<IgnoredAny>,
}

#[derive(Deserialize)]
struct ImageName {
    #[serde(default)]
    file_name: Scalar,
}

#[derive(Deserialize)]
struct Shape {
    #[serde(default)]
    category_id: Option<IgnoredAny>,
    #[serde(default)]
    bbox: Option<IgnoredAny>,
}

/// A file in COCO's layout.
struct CocoFile {
    /// Path below the root.
    path: String,
    purpose: Option<Purpose>,
    /// Whether its annotations have boxes; otherwise they label whole images.
    boxes: bool,
    images: usize,
    annotations: usize,
    /// Names of a few images.
    names: Vec<String>,
}

/// Looks for COCO files.
///
/// # Errors
/// A folder that cannot be listed.
pub(super) fn look(survey: &Survey) -> Result<Search, DataError> {
    let (candidates, mut notes) = json_files(survey)?;
    if candidates.is_empty() {
        let crowd = notes.pop().map_or(String::new(), |note| format!("; {note}"));
        return Ok(Search::Absent(format!(
            "no .json file in the folder, in `annotations` or in folders of splits{crowd}"
        )));
    }
    let (mut files, mut reasons) = (vec![], vec![]);
    for path in candidates {
        match summary(survey, &path) {
            Ok(file) => files.push(file),
            Err(reason) => reasons.push(format!("`{path}` {reason}")),
        }
    }
    if files.is_empty() {
        return Ok(Search::Absent(reasons.join("; ")));
    }
    notes.extend(reasons.into_iter().map(|reason| format!("left out: {reason}")));
    // Files of other annotations of the same images have no boxes.
    if files.iter().any(|file| file.boxes) {
        files.retain(|file| file.boxes);
    }
    if files.iter().any(|file| file.purpose == Some(Purpose::Train)) {
        files.retain(|file| file.purpose.is_some());
    }
    preferred(&mut files, &mut notes);
    let purposes: Vec<_> = files.iter().map(|file| (file.purpose, file.path.clone())).collect();
    if let Err(reason) = check_purposes(&purposes) {
        return Ok(Search::Absent(reason));
    }
    let (mut parts, mut evidence) = (vec![], vec![]);
    for file in &files {
        match image_folder(survey, file)? {
            Ok(images) => {
                let format = if file.boxes { "coco_json" } else { "coco_labels" };
                let annotations = vec![("format", quoted(format)), ("file", quoted(&file.path))];
                parts.push(Part { purpose: file.purpose, images, annotations });
            }
            Err(reason) => return Ok(Search::Absent(reason)),
        }
        let kind = if file.boxes { "annotations with boxes" } else { "labels of images" };
        evidence.push(format!("`{}` has {} images and {} {kind}", file.path, file.images, file.annotations));
    }
    let labelling = if files.iter().any(|file| file.boxes) { Labelling::Objects } else { Labelling::Classes };
    Ok(Search::Found(Fit { layout: COCO_FILES, labelling, evidence: evidence.join(", "), parts, notes }))
}

/// Paths of `.json` files in the places where annotations are, and notes on folders that have too many.
fn json_files(survey: &Survey) -> Result<(Vec<String>, Vec<String>), DataError> {
    let mut folders = vec![".".to_string()];
    for name in &survey.top.folders {
        if means_masks(name) || Purpose::of_folder(name).is_some() {
            folders.push(name.clone());
        }
    }
    for split in survey.splits() {
        let inner = survey.list(split.1)?.folders;
        folders.extend(inner.iter().filter(|name| means_masks(name)).map(|name| below(split.1, name)));
    }
    let (mut found, mut notes) = (vec![], vec![]);
    for folder in folders {
        let files = survey.list(&folder)?.files;
        let json: Vec<String> = files
            .iter()
            .filter(|name| name.to_lowercase().ends_with(".json"))
            .map(|name| below(&folder, name))
            .collect();
        match json.len() > MOST_FILES {
            true => notes.push(format!("`{folder}` has {} .json files, which are not searched", json.len())),
            false => found.extend(json),
        }
    }
    Ok((found, notes))
}

/// What the file at `path` holds.
///
/// # Errors
/// The reason why it is not in COCO's layout.
fn summary(survey: &Survey, path: &str) -> Result<CocoFile, String> {
    let bytes = files::read(&survey.path(path)).map_err(|e| format!("cannot be read: {e}"))?;
    let NamedFields(Summary { images, annotations, categories }) = parse::<NamedFields<Summary>>(bytes)
        .map_err(|flaw| match flaw.starts_with("line ") {
            true => format!("is damaged: {flaw}"),
            false if flaw.starts_with("the file is ") => format!("cannot be read: {flaw}"),
            false => "is not in COCO's layout".to_string(),
        })?;
    let missing = [
        ("images", images.0.as_ref().is_none_or(Vec::is_empty)),
        ("annotations", annotations.0.as_ref().is_none_or(Vec::is_empty)),
        ("categories", categories.0.as_ref().is_none_or(Vec::is_empty)),
    ];
    let missing: Vec<String> =
        missing.iter().filter(|(_, missing)| *missing).map(|(name, _)| format!("`{name}`")).collect();
    if !missing.is_empty() {
        return Err(format!("has no {}", missing.join(", no ")));
    }
    let (images, annotations) = (images.0.unwrap_or_default(), annotations.0.unwrap_or_default());
    if annotations.iter().all(|shape| shape.category_id.is_none()) {
        return Err("has annotations without `category_id`".into());
    }
    let step = images.len().div_ceil(SAMPLED);
    let names = images
        .iter()
        .step_by(step)
        .filter_map(|image| image.file_name.word().ok().flatten().map(String::from));
    let mut folders = path.rsplit('/');
    let stem = folders.next().unwrap_or_default();
    let purpose = Purpose::of_file(stem).or_else(|| folders.find_map(Purpose::of_folder));
    Ok(CocoFile {
        path: path.into(),
        purpose,
        boxes: annotations.iter().any(|shape| shape.bbox.is_some()),
        images: images.len(),
        annotations: annotations.len(),
        names: names.collect(),
    })
}

/// Of several files for one purpose keeps the one called `instances`, if there is one, and notes the others.
fn preferred(files: &mut Vec<CocoFile>, notes: &mut Vec<String>) {
    let is_instances = |file: &CocoFile| file.path.to_lowercase().contains("instances");
    let purposes: Vec<_> = files.iter().filter(|file| is_instances(file)).map(|file| file.purpose).collect();
    files.retain(|file| {
        let keep = is_instances(file) || !purposes.contains(&file.purpose);
        if !keep {
            notes.push(format!("left out: `{}`", file.path));
        }
        keep
    });
}

/// The folder below which most of the file's images are.
///
/// # Errors
/// Inner: the reason why they are nowhere. Outer: a folder that cannot be listed.
fn image_folder(survey: &Survey, file: &CocoFile) -> Result<Result<String, String>, DataError> {
    if file.names.is_empty() {
        return Ok(Err(format!("`{}`: images have no `file_name`", file.path)));
    }
    let home = file.path.rsplit_once('/').map_or(".", |(folder, _)| folder);
    let fits = |folder: &str| match (file.purpose, folder.rsplit('/').find_map(Purpose::of_folder)) {
        // Images of training and validation may have the same names.
        (Some(purpose), Some(other)) => purpose == other,
        _ => true,
    };
    let mut folders = vec![home.to_string(), ".".into()];
    let mut at = 0;
    while at < folders.len() && folders.len() < MOST_FOLDERS {
        let folder = folders[at].clone();
        if folder.matches('/').count() < 2 {
            let inner = survey.list(&folder)?.folders;
            folders.extend(inner.iter().map(|name| below(&folder, name)));
        }
        at += 1;
    }
    let there = |folder: &String| {
        let exists = |name: &&String| {
            let name = name.replace('\\', "/");
            survey.path(folder).join(name.trim_start_matches('/')).is_file()
        };
        file.names.iter().filter(exists).count()
    };
    let mut best = (0, String::new());
    for folder in folders.into_iter().filter(|folder| fits(folder)) {
        let found = there(&folder);
        if found > best.0 {
            best = (found, folder);
        }
    }
    Ok(match best {
        (0, _) => Err(format!(
            "none of the images that `{}` lists was found, the first is `{}`",
            file.path,
            file.names.first().map_or("", String::as_str)
        )),
        (_, folder) => Ok(folder),
    })
}
