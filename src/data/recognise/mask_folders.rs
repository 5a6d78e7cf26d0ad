//! Layout *images and masks*: a PNG of class ids or colours for each image, in folders of the same structure (`images/train`,
//! `masks/train`; `train/images`, `train/masks`; `train`, `train_masks`) or beside the images.

use super::super::DataError;
use super::super::formats::image_files_below;
use super::super::raster::with_ending;
use super::found::{Fit, Labelling, Part, Purpose, Search, check_purposes, quoted};
use super::mask_values::annotation_keys;
use super::survey::{Survey, below, means_images, means_masks};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The name of the layout.
pub(super) const MASK_FOLDERS: &str = "images and masks";

/// Number of images of a part whose masks are searched for.
const SAMPLED: usize = 100;

/// A folder of images beside one of masks, which may be the same.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Folders {
    purpose: Option<Purpose>,
    images: String,
    masks: String,
}

/// Folders of images and masks with the endings by which the names of their files correspond.
struct Pairing {
    folders: Folders,
    /// Endings of the names of images and masks.
    suffix: [String; 2],
    /// Number of images.
    images: usize,
    /// All masks.
    masks: Vec<PathBuf>,
}

/// Looks for images with masks.
///
/// # Errors
/// A folder that cannot be listed.
pub(super) fn look(survey: &Survey) -> Result<Search, DataError> {
    let candidates = candidates(survey)?;
    if candidates.is_empty() {
        return Ok(Search::Absent("no folders such as `images` and `masks`".into()));
    }
    let (mut found, mut reasons) = (vec![], vec![]);
    for folders in candidates {
        match pair(survey, folders) {
            Ok(pairing) => found.push(pairing),
            Err(reason) => reasons.push(reason),
        }
    }
    let purposes: Vec<_> =
        found.iter().map(|pairing| (pairing.folders.purpose, pairing.folders.images.clone())).collect();
    if found.is_empty() {
        return Ok(Search::Absent(reasons.join("; ")));
    }
    if let Err(reason) = check_purposes(&purposes) {
        reasons.insert(0, reason);
        return Ok(Search::Absent(reasons.join("; ")));
    }
    let masks: Vec<&PathBuf> = found.iter().flat_map(|pairing| &pairing.masks).collect();
    let homes: Vec<&str> = found.iter().map(|pairing| pairing.folders.masks.as_str()).collect();
    let (keys, mut notes) = match annotation_keys(survey, &homes, &masks) {
        Ok(keys) => keys,
        Err(reason) => return Ok(Search::Absent(reason)),
    };
    notes.extend(reasons.into_iter().map(|reason| format!("left out: {reason}")));
    let evidence = found.iter().map(|Pairing { folders, images, .. }| {
        format!("{images} images in `{}` have masks in `{}`", folders.images, folders.masks)
    });
    let evidence = evidence.collect::<Vec<_>>().join(", ");
    let part = |Pairing { folders, suffix: [image, mask], .. }: &Pairing| {
        let suffix = format!("[{}, {}]", quoted(image), quoted(mask));
        let mut annotations =
            vec![("format", quoted("png_masks")), ("masks", quoted(&folders.masks)), ("suffix", suffix)];
        annotations.extend(keys.iter().cloned());
        Part { purpose: folders.purpose, images: folders.images.clone(), annotations }
    };
    let parts = found.iter().map(part).collect();
    Ok(Search::Found(Fit { layout: MASK_FOLDERS, labelling: Labelling::Pixels, evidence, parts, notes }))
}

/// Folders whose names say that they hold images and masks.
fn candidates(survey: &Survey) -> Result<Vec<Folders>, DataError> {
    let named = |names: &[String], means: fn(&str) -> bool| {
        names.iter().filter(|name| means(name)).cloned().collect::<Vec<_>>()
    };
    let top = &survey.top.folders;
    let mut found = vec![];
    // `images` and `masks`, perhaps with folders of splits in both.
    for images in named(top, means_images) {
        for masks in named(top, means_masks) {
            let inner = survey.list(&masks)?.folders;
            let splits: Vec<(Purpose, String)> =
                inner.into_iter().filter_map(|name| Some((Purpose::of_folder(&name)?, name))).collect();
            match splits.is_empty() {
                true => found.push(Folders { purpose: None, images: images.clone(), masks }),
                false => {
                    let of_images = survey.list(&images)?.folders;
                    let image_folder = |wanted: Purpose| {
                        of_images.iter().find(|name| Purpose::of_folder(name) == Some(wanted))
                    };
                    found.extend(splits.iter().filter_map(|(purpose, name)| {
                        let image_name = image_folder(*purpose)?;
                        let (images, masks) = (below(&images, image_name), below(&masks, name));
                        Some(Folders { purpose: Some(*purpose), images, masks })
                    }));
                }
            }
        }
    }
    // `train/images` and `train/masks`, or `train` and `train_masks`.
    for (purpose, split) in survey.splits() {
        let inner = survey.list(split)?;
        for images in named(&inner.folders, means_images) {
            for masks in named(&inner.folders, means_masks) {
                let (images, masks) = (below(split, &images), below(split, &masks));
                found.push(Folders { purpose: Some(purpose), images, masks });
            }
        }
        let of_split = |name: &&String| {
            let rest = name.strip_prefix(split).map(|rest| rest.trim_start_matches(['_', '-', ' ', '.']));
            rest.is_some_and(means_masks)
        };
        let beside = top.iter().filter(of_split).cloned();
        let same = beside_images(&inner.images).then(|| split.to_string());
        found.extend(beside.chain(same).map(|masks| Folders {
            purpose: Some(purpose),
            images: split.into(),
            masks,
        }));
    }
    if found.is_empty() && beside_images(&survey.top.images) {
        found.push(Folders { purpose: None, images: ".".into(), masks: ".".into() });
    }
    Ok(found)
}

/// Whether a folder holds photographs and PNGs together, which may be their masks.
fn beside_images(images: &[String]) -> bool {
    let png = images.iter().filter(|name| name.to_lowercase().ends_with(".png")).count();
    png > 0 && png < images.len()
}

/// Finds by which endings the names of images and masks correspond.
///
/// # Errors
/// The reason why they do not.
fn pair(survey: &Survey, folders: Folders) -> Result<Pairing, String> {
    let place = format!("`{}` and `{}`", folders.images, folders.masks);
    let (home, masks_home) = (survey.path(&folders.images), survey.path(&folders.masks));
    let below = |folder: &Path| image_files_below(folder).map(|(files, _)| files).map_err(|e| e.to_string());
    let files = below(&home).map_err(|_| format!("there are no images in `{}`", folders.images))?;
    let masks = below(&masks_home).map_err(|_| without_masks(survey, &folders.masks))?;
    let png: Vec<&PathBuf> = masks.iter().filter(|file| ending(file).eq_ignore_ascii_case(".png")).collect();
    if png.is_empty() {
        let other = masks.first().map_or(String::new(), |file| ending(file));
        return Err(format!(
            "the masks in `{}` are {other} files, but only a PNG keeps the numbers of pixels",
            folders.masks
        ));
    }
    // Images of the most frequent ending. Beside the images, masks are the PNGs.
    let together = folders.images == folders.masks;
    let mut endings: BTreeMap<String, usize> = BTreeMap::new();
    for file in &files {
        let ending = ending(file).to_lowercase();
        if !(together && ending == ".png") {
            *endings.entry(ending).or_default() += 1;
        }
    }
    let Some((usual, _)) = endings.into_iter().max_by_key(|(_, count)| *count) else {
        return Err(format!("there are no images beside the masks in `{}`", folders.masks));
    };
    let images: Vec<&PathBuf> =
        files.iter().filter(|file| ending(file).eq_ignore_ascii_case(&usual)).collect();
    let sample: Vec<&&PathBuf> = images.iter().step_by(images.len().div_ceil(SAMPLED)).collect();
    let mask_of = |image: &Path, [from, to]: &[String; 2]| {
        let name = image.strip_prefix(&home).ok()?;
        Some(masks_home.join(with_ending(name, from, to)?))
    };
    let with_mask = |suffix: &[String; 2]| {
        sample.iter().filter(|image| mask_of(image, suffix).is_some_and(|mask| mask.is_file())).count()
    };
    let mut best: (usize, Vec<[String; 2]>) = (0, vec![]);
    for suffix in endings_of(&home, &masks_home, sample.first().map_or(Path::new(""), |image| image), &png) {
        let count = with_mask(&suffix);
        match count.cmp(&best.0) {
            std::cmp::Ordering::Greater => best = (count, vec![suffix]),
            std::cmp::Ordering::Equal if count > 0 => best.1.push(suffix),
            _ => {}
        }
    }
    let (count, suffixes) = best;
    if count < sample.len() || suffixes.is_empty() {
        return Err(format!(
            "{place}: {count} of {} images have a mask of a corresponding name",
            sample.len()
        ));
    }
    let suffix = chosen(suffixes).map_err(|several| {
        format!("{place}: every image has several masks, with names that end in {several}; leave one of them there")
    })?;
    let masks =
        images.iter().filter_map(|image| mask_of(image, &suffix)).filter(|mask| mask.is_file()).collect();
    Ok(Pairing { folders, suffix, images: images.len(), masks })
}

/// What is wrong with a folder of annotations that has no masks.
fn without_masks(survey: &Survey, folder: &str) -> String {
    let files = survey.list(folder).map(|listing| listing.files).unwrap_or_default();
    let has = |wanted: &str| files.iter().any(|name| name.to_lowercase().ends_with(wanted));
    let hint = match (has(".txt"), has(".xml")) {
        (true, _) => {
            ", but text files; boxes in the layout of YOLO are not read: convert them to COCO's JSON"
        }
        (_, true) => {
            ", but XML files; boxes in the layout of Pascal VOC are not read: convert them to COCO's JSON"
        }
        _ => "",
    };
    format!("there are no masks in `{folder}`{hint}")
}

/// The endings by which the names of the masks of `image` may differ from its own: what follows the beginning that both have.
fn endings_of(home: &Path, masks_home: &Path, image: &Path, masks: &[&PathBuf]) -> Vec<[String; 2]> {
    let folder = image.strip_prefix(home).ok().and_then(Path::parent).unwrap_or(Path::new(""));
    let folder = masks_home.join(folder);
    let (name, stem) = (file_name(image), stem(image));
    let mut found = vec![];
    for mask in masks.iter().filter(|mask| mask.parent() == Some(folder.as_path())) {
        let mask = file_name(mask);
        // The whole stem if the mask's name begins with it, otherwise up to the last separator that both have.
        let shared = match mask.strip_prefix(stem) {
            Some(_) => stem.len(),
            None => {
                let same = name.char_indices().zip(mask.chars()).take_while(|((_, a), b)| a == b);
                let parts = same.filter(|((_, c), _)| "_-.".contains(*c)).map(|((at, _), _)| at);
                parts.last().unwrap_or(0)
            }
        };
        if shared > 0 {
            found.push([name[shared..].to_string(), mask[shared..].to_string()]);
        }
    }
    found
}

/// The endings to use if several fit: the only ones, or those of ids in Cityscapes.
///
/// # Errors
/// Several masks for each image; the message lists their endings.
fn chosen(mut suffixes: Vec<[String; 2]>) -> Result<[String; 2], String> {
    if let Some(ids) = suffixes.iter().position(|[_, mask]| mask.to_lowercase().contains("labelids")) {
        return Ok(suffixes.swap_remove(ids));
    }
    match suffixes.len() {
        1 => Ok(suffixes.remove(0)),
        _ => Err(suffixes.iter().map(|[_, mask]| format!("`{mask}`")).collect::<Vec<_>>().join(", ")),
    }
}

fn file_name(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

fn stem(path: &Path) -> &str {
    path.file_stem().and_then(|name| name.to_str()).unwrap_or_default()
}

/// `.jpg`, as it is written.
fn ending(path: &Path) -> String {
    path.extension().map_or(String::new(), |ending| format!(".{}", ending.to_string_lossy()))
}
