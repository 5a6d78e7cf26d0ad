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
const EXTENSIONS: [&str; 9] = ["jpg", "jpeg", "jpe", "jfif", "png", "bmp", "tif", "tiff", "webp"];

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
        let mut index = Index::default();
        let classes = class_folders(&folder, &mut index.ignored)?;
        for (label, class) in (0..).zip(&classes) {
            // A split may lack images of a class; whoever compares the splits says so.
            let (images, ignored) = files_below(&folder.join(class))?;
            let entry = |path| split.entry(path, Annotation::Label(label));
            index.entries.extend(images.into_iter().map(entry));
            index.ignored.extend(ignored);
        }
        if index.entries.is_empty() {
            return Err(no_images(&folder, &index.ignored));
        }
        index.entries.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(Index { classes: Some(classes), images_listed: true, ..index })
    }
}

/// Names of the folders directly in `folder`, sorted by bytes. Files beside them have no class and are counted.
fn class_folders(folder: &Path, ignored: &mut IgnoredFiles) -> Result<Vec<String>, DataError> {
    let fail = |e: std::io::Error| DataError::file(folder, e);
    let mut names = vec![];
    for entry in std::fs::read_dir(folder).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        let hidden = entry.file_name().to_string_lossy().starts_with('.');
        match entry.path().is_dir() {
            _ if hidden => {}
            true => names.push(entry.file_name().into_string().map_err(|name| {
                DataError::file(folder, format!("the name of class folder {name:?} is not UTF-8"))
            })?),
            false => ignored.count(&entry.path()),
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
    let (images, ignored) = files_below(folder)?;
    if images.is_empty() { Err(no_images(folder, &ignored)) } else { Ok((images, ignored)) }
}

fn no_images(folder: &Path, ignored: &IgnoredFiles) -> DataError {
    let known = EXTENSIONS.join(", ");
    let others = if ignored.is_empty() { String::new() } else { format!("; {ignored}") };
    DataError::file(folder, format!("there are no images (file names that end in {known}){others}"))
}

/// Images and other files below `folder`, which may have none. A link to an image that is not there counts as an image,
/// which cannot be read.
fn files_below(folder: &Path) -> Result<(Vec<PathBuf>, IgnoredFiles), DataError> {
    let (mut paths, mut ignored) = (vec![], IgnoredFiles::default());
    let visible = |e: &walkdir::DirEntry| e.depth() == 0 || !e.file_name().to_string_lossy().starts_with('.');
    for entry in WalkDir::new(folder).follow_links(true).into_iter().filter_entry(visible) {
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) => match error.path().filter(|path| dangles(path)) {
                Some(path) if has_image_extension(path) => {
                    paths.push(path.to_path_buf());
                    continue;
                }
                Some(path) => {
                    ignored.count(path);
                    continue;
                }
                None => return Err(DataError::file(folder, error)),
            },
        };
        match entry.file_type().is_file() {
            true if has_image_extension(entry.path()) => paths.push(entry.into_path()),
            true => ignored.count(entry.path()),
            false => {}
        }
    }
    paths.sort_unstable_by(|a, b| a.as_os_str().as_encoded_bytes().cmp(b.as_os_str().as_encoded_bytes()));
    Ok((paths, ignored))
}

/// Whether `path` is a symbolic link to something that does not exist.
fn dangles(path: &Path) -> bool {
    path.is_symlink() && path.metadata().is_err_and(|e| e.kind() == std::io::ErrorKind::NotFound)
}

/// Whether the name of a file is that of an image.
pub(in crate::data) fn has_image_extension(path: &Path) -> bool {
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
        // A class without images is a class; files beside the folders of classes have none.
        touch(root.path(), &["train/c/6.ppm", "train/list.txt"]);
        let index = read(root.path(), true).unwrap();
        assert_eq!(index.classes.unwrap(), ["a", "b", "c"]);
        assert!(index.ignored.to_string().contains("6 other files ignored"), "{}", index.ignored);
    }

    #[test]
    fn empty_folders_are_named() {
        let root = tempfile::tempdir().unwrap();
        touch(&root.path().join("train"), &["full/1.png", "notes.txt"]);
        create_dir_all(root.path().join("train/empty")).unwrap();
        assert_eq!(read(root.path(), true).unwrap().classes.unwrap(), ["empty", "full"]);
        std::fs::remove_dir_all(root.path().join("train/full")).unwrap();
        let error = read(root.path(), true).unwrap_err().to_string();
        assert!(error.contains("train: there are no images") && error.ends_with("1 .txt"), "{error}");
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
        // One that leads nowhere is an image that cannot be read, or a file that is no image.
        for (link, to) in [("train/a/2.JPG", "nowhere"), ("train/a/3.txt", "nowhere")] {
            std::os::unix::fs::symlink(to, root.path().join(link)).unwrap();
        }
        for labelled in [true, false] {
            let index = read(root.path(), labelled).unwrap();
            assert_eq!(ids(&index), ["train/a/1.png", "train/a/2.JPG"]);
            assert_eq!(index.ignored.to_string(), "1 other file ignored: 1 .txt");
        }
    }
}
