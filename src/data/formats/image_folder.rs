//! Format `image_folder`: one folder a class, as torchvision's `ImageFolder` reads it; or, without annotations, any
//! folder of images.
//!
//! Class folders are sorted by bytes; images may lie deeper (`<class>/images/x.JPEG`). Hidden files are ignored,
//! symbolic links are followed.

use super::super::{Annotation, DataError, Entry, Format, ImageRef, Index, SampleId, Split};
use std::path::{Path, PathBuf};
use walkdir::WalkDir;

/// Ends of file names that are taken for images (torchvision's list), in any case.
const EXTENSIONS: [&str; 9] = ["jpg", "jpeg", "png", "ppm", "bmp", "pgm", "tif", "tiff", "webp"];

/// Reads class folders, or with no annotations everything below the folder.
pub struct ImageFolder;

impl Format for ImageFolder {
    fn index(&self, root: &Path, split: &Split) -> Result<Index, DataError> {
        let folder = root.join(&split.images);
        if split.annotations.is_none() {
            let entry = |path| entry(root, path, Annotation::None);
            let entries = images_below(&folder)?.into_iter().map(entry).collect();
            return Ok(Index { entries, classes: None });
        }
        let (mut entries, mut classes) = (vec![], vec![]);
        for (label, class) in class_folders(&folder)?.into_iter().enumerate() {
            let images = images_below(&folder.join(&class))?;
            entries.extend(images.into_iter().map(|path| entry(root, path, Annotation::Label(label as u32))));
            classes.push(class);
        }
        if classes.is_empty() {
            return Err(DataError::file(&folder, "there are no class folders"));
        }
        Ok(Index { entries, classes: Some(classes) })
    }
}

fn entry(root: &Path, path: PathBuf, annotation: Annotation) -> Entry {
    let below = path.strip_prefix(root).unwrap_or(&path);
    let id = below.to_string_lossy().replace('\\', "/");
    Entry { id: SampleId::new(id), image: ImageRef::File(path), annotation }
}

/// Names of the folders directly below `folder`, sorted by bytes.
pub(super) fn class_folders(folder: &Path) -> Result<Vec<String>, DataError> {
    let entries = std::fs::read_dir(folder).map_err(|e| DataError::file(folder, e))?;
    let mut names = vec![];
    for entry in entries {
        let entry = entry.map_err(|e| DataError::file(folder, e))?;
        let name = entry.file_name().to_string_lossy().to_string();
        if entry.path().is_dir() && !name.starts_with('.') {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// All images below `folder`, sorted by the bytes of their paths.
///
/// # Errors
/// When the folder cannot be read or holds no image.
pub fn images_below(folder: &Path) -> Result<Vec<PathBuf>, DataError> {
    let mut paths = vec![];
    let visible = |e: &walkdir::DirEntry| e.depth() == 0 || !e.file_name().to_string_lossy().starts_with('.');
    for entry in WalkDir::new(folder).follow_links(true).into_iter().filter_entry(visible) {
        let entry = entry.map_err(|e| DataError::file(folder, e))?;
        let extension = entry.path().extension().map(|e| e.to_string_lossy().to_ascii_lowercase());
        if entry.file_type().is_file() && extension.is_some_and(|e| EXTENSIONS.contains(&e.as_str())) {
            paths.push(entry.into_path());
        }
    }
    if paths.is_empty() {
        let known = EXTENSIONS.join(", ");
        return Err(DataError::file(folder, format!("there are no images (file names that end in {known})")));
    }
    paths.sort_unstable_by(|a, b| a.as_os_str().as_encoded_bytes().cmp(b.as_os_str().as_encoded_bytes()));
    Ok(paths)
}
