//! Images and maps in folder trees of the same structure: the name of a map is that of its image with another ending.

use super::super::raster::with_ending;
use super::super::text::read_text;
use super::super::{DataError, IgnoredFiles};
use super::format::SplitSource;
use super::image_folder::image_files_below;
use crate::files;
use std::collections::HashSet;
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
    /// Every image with its map, sorted, or in the order of the list. Files with another ending are not images of the split
    /// and are counted. Endings may be in upper or lower case.
    ///
    /// # Errors
    /// Images without a map, or names in the list without an image; all of them are listed.
    pub fn find(&self, split: &SplitSource) -> Result<FoundPairs, DataError> {
        let (folder, maps) = (split.folder(), split.path(self.maps));
        let [image_end, map_end] = self.suffix;
        let (images, mut ignored) = self.images(split, &folder)?;
        let (mut pairs, mut flaws) = (vec![], vec![]);
        for image in images {
            let below = image.strip_prefix(&folder).unwrap_or(&image);
            let Some(name) = with_ending(below, image_end, map_end) else {
                ignored.count(&image);
                continue;
            };
            let map = in_any_case(maps.join(name), map_end);
            if !map.is_file() {
                let (image, map) = (image.display(), map.display());
                flaws.push(format!("there is no {} for image `{image}`; expected `{map}`", self.what));
                continue;
            }
            pairs.push((image, map));
        }
        if pairs.is_empty() && flaws.is_empty() {
            let message = format!("there is no image whose name ends in `{image_end}`; {ignored}");
            return Err(DataError::file(&folder, message));
        }
        if flaws.is_empty() { Ok((pairs, ignored)) } else { Err(DataError::flaws(&maps, flaws)) }
    }

    /// The split's images, sorted, or in the order of its list, and other files in their folder.
    fn images(&self, split: &SplitSource, folder: &Path) -> Result<(Vec<PathBuf>, IgnoredFiles), DataError> {
        let Some(list) = self.list else { return image_files_below(folder) };
        let file = split.root.join(list);
        let text = read_text(&file)?;
        let names = text.lines().map(str::trim).filter(|name| !name.is_empty());
        let ending = &self.suffix[0];
        let (mut images, mut flaws, mut seen) = (vec![], vec![], HashSet::new());
        for name in names {
            // A name may also be listed with its ending.
            let ends = name.to_lowercase().ends_with(&ending.to_lowercase());
            let listed = if ends { name.to_string() } else { format!("{name}{ending}") };
            let image = in_any_case(split.listed_image(&listed), ending);
            if !image.is_file() {
                let advice = match name.split_whitespace().count() {
                    1 => files::near(&split.listed_image(name)),
                    _ => format!(
                        "; a line of this list is the name of one image without its ending, and its {} is found by that name",
                        self.what
                    ),
                };
                flaws.push(format!("names `{}`, which does not exist{advice}", image.display()));
            } else if !seen.insert(image.clone()) {
                flaws.push(format!("names `{name}` twice, which would count twice; remove one"));
            }
            images.push(image);
        }
        match (flaws.is_empty(), images.is_empty()) {
            (false, _) => Err(DataError::flaws(&file, flaws)),
            (_, true) => Err(DataError::file(&file, "the list is empty")),
            _ => Ok((images, IgnoredFiles::default())),
        }
    }
}

/// Images with their maps, and the files that are neither.
pub(super) type FoundPairs = (Vec<(PathBuf, PathBuf)>, IgnoredFiles);

/// `path`, or the file of that name whose `ending` is in upper or lower case, if only that exists.
fn in_any_case(path: PathBuf, ending: &str) -> PathBuf {
    let other = |case: String| with_ending(&path, ending, &case).filter(|other| other.is_file());
    match path.is_file() {
        true => path,
        false => other(ending.to_lowercase()).or_else(|| other(ending.to_uppercase())).unwrap_or(path),
    }
}
