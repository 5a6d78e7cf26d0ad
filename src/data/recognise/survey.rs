//! [`Survey`]: the folders and files of a data set as they are listed, without reading any.

use super::super::DataError;
use super::super::formats::has_image_extension;
use super::found::Purpose;
use std::path::{Path, PathBuf};
use walkdir::WalkDir;

/// Words for folders of images, in lower case.
const IMAGE_WORDS: [&str; 9] =
    ["images", "image", "imgs", "img", "jpegimages", "leftimg8bit", "frames", "input", "inputs"];
/// Words for folders of masks, in lower case.
const MASK_WORDS: [&str; 17] = [
    "masks",
    "mask",
    "labels",
    "label",
    "annotations",
    "annotation",
    "annot",
    "gt",
    "gtfine",
    "ground_truth",
    "groundtruth",
    "segmentation",
    "segmentations",
    "segmentationclass",
    "semantic",
    "seg",
    "targets",
];

/// Depth to which images of a class are searched for.
const DEPTH: usize = 4;

/// What a folder holds directly, sorted by name, without hidden names.
#[derive(Clone, Debug, Default)]
pub(super) struct Listing {
    pub folders: Vec<String>,
    /// Files that are images by their ending.
    pub images: Vec<String>,
    /// Other files.
    pub files: Vec<String>,
}

/// The folder of a data set.
#[derive(Debug)]
pub(super) struct Survey {
    pub root: PathBuf,
    /// What it holds directly.
    pub top: Listing,
}

impl Survey {
    /// # Errors
    /// A path that is not a folder, or cannot be listed.
    pub fn of(root: &Path) -> Result<Self, DataError> {
        if root.is_file() {
            return Err(DataError::file(root, "is a file; give the folder that holds the images"));
        }
        if !root.exists() {
            return Err(DataError::file(root, "there is no such folder"));
        }
        Ok(Self { root: root.into(), top: listing(root)? })
    }

    /// The listing of a folder below the root.
    ///
    /// # Errors
    /// A folder that cannot be listed.
    pub fn list(&self, folder: &str) -> Result<Listing, DataError> {
        listing(&self.path(folder))
    }

    /// A path of the data set; `.` is the root.
    pub fn path(&self, below: &str) -> PathBuf {
        self.root.join(below).components().collect()
    }

    /// Folders of the root that are named as splits.
    pub fn splits(&self) -> Vec<(Purpose, &str)> {
        let names = self.top.folders.iter().map(String::as_str);
        names.filter_map(|name| Some((Purpose::of_folder(name)?, name))).collect()
    }

    /// Whether there is an image in a folder, or not far below it.
    pub fn has_images(&self, folder: &str) -> bool {
        let visible =
            |e: &walkdir::DirEntry| !e.file_name().to_string_lossy().starts_with('.') || e.depth() == 0;
        let walk = WalkDir::new(self.path(folder)).follow_links(true).max_depth(DEPTH);
        let files = walk.into_iter().filter_entry(visible).flatten();
        files.filter(|entry| entry.file_type().is_file()).any(|entry| has_image_extension(entry.path()))
    }
}

/// `a/b`, or `b` in the root.
pub(super) fn below(folder: &str, name: &str) -> String {
    if folder == "." { name.into() } else { format!("{folder}/{name}") }
}

/// Whether folders of this name usually hold images.
pub(super) fn means_images(name: &str) -> bool {
    IMAGE_WORDS.contains(&name.to_lowercase().as_str())
}

/// Whether folders of this name usually hold masks or other annotations.
pub(super) fn means_masks(name: &str) -> bool {
    MASK_WORDS.contains(&name.to_lowercase().as_str())
}

fn listing(folder: &Path) -> Result<Listing, DataError> {
    let fail = |e: std::io::Error| DataError::file(folder, e);
    let mut found = Listing::default();
    for entry in std::fs::read_dir(folder).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        // A name that is not UTF-8 cannot be written to a manifest; the reader of the format says so.
        let Ok(name) = entry.file_name().into_string() else { continue };
        if name.starts_with('.') {
            continue;
        }
        let path = entry.path();
        match (path.is_dir(), has_image_extension(&path)) {
            (true, _) => found.folders.push(name),
            (_, true) => found.images.push(name),
            _ => found.files.push(name),
        }
    }
    [&mut found.folders, &mut found.images, &mut found.files]
        .into_iter()
        .for_each(|names| names.sort_unstable());
    Ok(found)
}
