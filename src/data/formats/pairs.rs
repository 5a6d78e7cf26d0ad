//! Images and maps in folder trees of the same structure: the name of a map is that of its image with another ending.

use super::super::DataError;
use super::super::raster::with_ending;
use super::format::SplitSource;
use super::image_folder::images_below;
use std::path::{Path, PathBuf};

/// Where images and their maps are.
pub(super) struct Pairs<'a> {
    /// Folder of the maps, relative to the data root.
    pub maps: &'a Path,
    /// The endings of the file names of images and of maps.
    pub suffix: &'a [String; 2],
    /// A file with the names of the split's images, one per line, without ending.
    pub list: Option<&'a Path>,
    /// The word for a map in messages.
    pub what: &'static str,
}

impl Pairs<'_> {
    /// Every image with its map, sorted, or in the order of the list. Files with another ending are not images of the split.
    ///
    /// # Errors
    /// An image without a map, or a name in the list without an image.
    pub fn find(&self, split: &SplitSource) -> Result<Vec<(PathBuf, PathBuf)>, DataError> {
        let (folder, maps) = (split.folder(), split.path(self.maps));
        let [image_end, map_end] = self.suffix;
        let mut pairs = vec![];
        for image in self.images(split, &folder)? {
            let below = image.strip_prefix(&folder).unwrap_or(&image);
            let Some(name) = with_ending(below, image_end, map_end) else { continue };
            let map = maps.join(name);
            if !map.is_file() {
                let message = format!("there is no {} for image `{}`", self.what, image.display());
                return Err(DataError::file(&map, message));
            }
            pairs.push((image, map));
        }
        Ok(pairs)
    }

    /// The split's images, sorted, or in the order of its list.
    fn images(&self, split: &SplitSource, folder: &Path) -> Result<Vec<PathBuf>, DataError> {
        let Some(list) = self.list else { return images_below(folder) };
        let file = split.root.join(list);
        let text = std::fs::read_to_string(&file).map_err(|e| DataError::file(&file, e))?;
        let names = text.lines().map(str::trim).filter(|name| !name.is_empty());
        let images: Vec<PathBuf> =
            names.map(|name| folder.join(format!("{name}{}", self.suffix[0]))).collect();
        match images.iter().find(|image| !image.is_file()) {
            Some(image) => {
                Err(DataError::file(&file, format!("names `{}`, which does not exist", image.display())))
            }
            None => Ok(images),
        }
    }
}
