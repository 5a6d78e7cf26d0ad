//! Format `image_folder`: one folder per class, as torchvision's `ImageFolder` reads it; or, without annotations, any
//! folder of images.
//!
//! Class folders are sorted by bytes; images may be in subfolders (`<class>/images/x.JPEG`). Symbolic links are
//! followed. Deviations from torchvision: hidden files and folders are ignored, and `.ppm` and `.pgm` files, which
//! cannot be decoded, are counted with the files of other endings ([`IgnoredFiles`]).

use super::super::{Annotation, DataError, IgnoredFiles, Index};
use super::format::{Format, SplitSource};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use walkdir::WalkDir;

/// File name extensions of images, in upper or lower case, of all formats that can be decoded.
const EXTENSIONS: [&str; 8] = ["jpg", "jpeg", "jfif", "png", "bmp", "tif", "tiff", "webp"];

/// `format = "image_folder"` of a manifest: each folder in `images` is a class.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ImageFolder {}

/// All images below the split's folder, without labels: a split without annotations.
pub(in crate::data) fn unlabelled(split: &SplitSource) -> Result<Index, DataError> {
    let (images, ignored) = image_files_below(&split.folder())?;
    let entry = |path| split.entry(path, Annotation::None);
    let entries = images.into_iter().map(entry).collect();
    Ok(Index { entries, ignored, images_listed: true, ..Index::default() })
}

impl Format for ImageFolder {
    const NAME: &'static str = "image_folder";

    fn index(&self, split: &SplitSource) -> Result<Index, DataError> {
        let folder = split.folder();
        let (mut index, classes) = (Index::default(), class_folders(&folder)?);
        for (label, class) in (0..).zip(&classes) {
            let (images, ignored) = image_files_below(&folder.join(class))?;
            let entry = |path| split.entry(path, Annotation::Label(label));
            index.entries.extend(images.into_iter().map(entry));
            index.ignored.extend(ignored);
        }
        index.entries.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(Index { classes: Some(classes), every_class: true, images_listed: true, ..index })
    }
}

/// Names of the folders directly in `folder`, sorted by bytes.
fn class_folders(folder: &Path) -> Result<Vec<String>, DataError> {
    let fail = |e: std::io::Error| DataError::file(folder, e);
    let mut names = vec![];
    for entry in std::fs::read_dir(folder).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        let name = entry.file_name().into_string().map_err(|name| {
            DataError::file(folder, format!("the name of class folder {name:?} is not UTF-8"))
        })?;
        if entry.path().is_dir() && !name.starts_with('.') {
            names.push(name);
        }
    }
    if names.is_empty() {
        return Err(DataError::file(folder, "there are no class folders and therefore no images"));
    }
    names.sort_unstable();
    Ok(names)
}

/// All images below `folder`, sorted by the bytes of their paths.
///
/// # Errors
/// A folder that cannot be read or contains no images.
pub fn images_below(folder: &Path) -> Result<Vec<PathBuf>, DataError> {
    Ok(image_files_below(folder)?.0)
}

/// Like [`images_below`], and also returns the files that are not images.
///
/// # Errors
/// A folder that cannot be read or contains no images.
pub fn image_files_below(folder: &Path) -> Result<(Vec<PathBuf>, IgnoredFiles), DataError> {
    let (mut paths, mut ignored) = (vec![], IgnoredFiles::default());
    let visible = |e: &walkdir::DirEntry| e.depth() == 0 || !e.file_name().to_string_lossy().starts_with('.');
    for entry in WalkDir::new(folder).follow_links(true).into_iter().filter_entry(visible) {
        let entry = entry.map_err(|e| DataError::file(folder, e))?;
        match entry.file_type().is_file() {
            true if has_image_extension(entry.path()) => paths.push(entry.into_path()),
            true => ignored.count(entry.path()),
            false => {}
        }
    }
    if paths.is_empty() {
        let known = EXTENSIONS.join(", ");
        let others = if ignored.is_empty() { String::new() } else { format!("; {ignored}") };
        let message = format!("there are no images (file names that end in {known}){others}");
        return Err(DataError::file(folder, message));
    }
    paths.sort_unstable_by(|a, b| a.as_os_str().as_encoded_bytes().cmp(b.as_os_str().as_encoded_bytes()));
    Ok((paths, ignored))
}

fn has_image_extension(path: &Path) -> bool {
    path.extension().is_some_and(|e| EXTENSIONS.iter().any(|known| e.eq_ignore_ascii_case(known)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{create_dir_all, write};

    fn touch(root: &Path, files: &[&str]) {
        for file in files {
            let path = root.join(file);
            create_dir_all(path.parent().unwrap()).unwrap();
            write(path, b"").unwrap();
        }
    }

    fn read(root: &Path, labelled: bool) -> Result<Index, DataError> {
        let split = SplitSource { root, images: Path::new("train"), class_names: None };
        if labelled { ImageFolder {}.index(&split) } else { unlabelled(&split) }
    }

    fn ids(index: &Index) -> Vec<&str> {
        index.entries.iter().map(|e| e.id.as_str()).collect()
    }

    #[test]
    fn classes_are_folders_and_images_may_lie_deeper() {
        let root = tempfile::tempdir().unwrap();
        let files =
            ["b/2.PNG", "b/1.txt", "b/.3.png", ".git/4.png", "B/images/5.JPEG", "a-b/6.tif", "a/7.WebP"];
        touch(&root.path().join("train"), &files);
        let index = read(root.path(), true).unwrap();
        assert_eq!(index.classes.as_deref().unwrap(), ["B", "a", "a-b", "b"]);
        assert_eq!(
            ids(&index),
            ["train/B/images/5.JPEG", "train/a-b/6.tif", "train/a/7.WebP", "train/b/2.PNG"]
        );
        let labels: Vec<_> = index.entries.iter().map(|e| format!("{:?}", e.annotation)).collect();
        assert_eq!(labels, ["Label(0)", "Label(2)", "Label(1)", "Label(3)"]);
        assert_eq!(ids(&read(root.path(), false).unwrap()), ids(&index));
    }

    #[test]
    fn other_files_are_counted_by_their_endings() {
        let root = tempfile::tempdir().unwrap();
        touch(
            &root.path().join("train"),
            &["a/1.jfif", "a/2.GIF", "a/3.avif", "b/4.jpg", "b/5.gif", "b/README"],
        );
        for labelled in [true, false] {
            let index = read(root.path(), labelled).unwrap();
            assert_eq!(ids(&index), ["train/a/1.jfif", "train/b/4.jpg"]);
            assert_eq!(
                index.ignored.to_string(),
                "4 other files ignored: 2 .gif, 1 .avif, 1 without an ending"
            );
        }
        touch(root.path(), &["train/c/6.ppm"]);
        let error = read(root.path(), true).unwrap_err().to_string();
        assert!(error.contains("train/c: there are no images"), "{error}");
        assert!(error.ends_with("; 1 other file ignored: 1 .ppm"), "{error}");
    }

    #[test]
    fn empty_folders_are_named() {
        let root = tempfile::tempdir().unwrap();
        touch(&root.path().join("train"), &["full/1.png", "notes.txt"]);
        create_dir_all(root.path().join("train/empty")).unwrap();
        let error = read(root.path(), true).unwrap_err().to_string();
        assert!(error.contains("train/empty: there are no images"), "{error}");
        std::fs::remove_dir_all(root.path().join("train/full")).unwrap();
        std::fs::remove_dir_all(root.path().join("train/empty")).unwrap();
        assert!(read(root.path(), true).unwrap_err().to_string().contains("no class folders"));
        assert!(read(root.path(), false).unwrap_err().to_string().contains("no images"));
    }

    #[cfg(unix)]
    #[test]
    fn links_are_followed() {
        let root = tempfile::tempdir().unwrap();
        touch(root.path(), &["elsewhere/1.png"]);
        create_dir_all(root.path().join("train")).unwrap();
        std::os::unix::fs::symlink("../elsewhere", root.path().join("train/a")).unwrap();
        assert_eq!(ids(&read(root.path(), true).unwrap()), ["train/a/1.png"]);
    }
}
