//! [`readable`]: whether the entries of a split that is scored can be read.

use super::{Annotation, Entry, IGNORE};
use rayon::prelude::*;

/// Files of at most so many bytes in total are decoded, which takes seconds. Of more, only the headers are read.
const MOST_BYTES: u64 = 1 << 28;

/// Number of entries that a message lists.
const SHOWN: usize = 10;

/// Checks that the entries of a split that is scored can be read: a damaged one would end a run at its last
/// step.
///
/// # Errors
/// A message with their number and the first ten.
pub fn readable<'a>(entries: impl IntoIterator<Item = &'a Entry>, channels: usize) -> Result<(), String> {
    let faults = unreadable(entries, channels);
    if faults.is_empty() {
        return Ok(());
    }
    let more = faults.len().saturating_sub(SHOWN);
    let mut lines: Vec<String> = faults.iter().take(SHOWN).cloned().collect();
    lines.extend((more > 0).then(|| format!("and {more} more")));
    Err(format!(
        "{} of the images to be scored cannot be used; repair them, or remove them from the split:\n  {}",
        faults.len(),
        lines.join("\n  ")
    ))
}

/// Says of every entry whose image or annotation cannot be read, or whose sizes do not fit each other, why. Of more than
/// 256 MiB of images, only the headers are read.
fn unreadable<'a>(entries: impl IntoIterator<Item = &'a Entry>, channels: usize) -> Vec<String> {
    let entries: Vec<&Entry> = entries.into_iter().collect();
    let size = |entry: &&Entry| entry.image.path()?.metadata().ok().map(|data| data.len());
    let whole = entries.par_iter().filter_map(size).sum::<u64>() <= MOST_BYTES;
    let found: Vec<Result<Labelled, String>> =
        entries.par_iter().map(|entry| labelled(entry, channels, whole)).collect();
    let nothing = !found.is_empty() && found.iter().all(|found| matches!(found, Ok(Labelled::Nothing)));
    let faults = found.into_iter().filter_map(Result::err);
    faults
        .chain(nothing.then(|| "no pixel of any mask has a label: there is nothing to score".into()))
        .collect()
}

/// Whether an annotation that was read has a value for any pixel.
enum Labelled {
    Something,
    Nothing,
}

fn labelled(entry: &Entry, channels: usize, whole: bool) -> Result<Labelled, String> {
    let Some(header) = entry.image.header() else { return Ok(Labelled::Something) };
    let size = match whole {
        true => entry.image.decode(channels)?.size(),
        false => header.map_err(|e| e.to_string())?.0,
    };
    let misfit = |e| format!("`{}`: {e}{}", entry.id, entry.image.remark_on_size());
    match &entry.annotation {
        Annotation::Objects(image) => image.fits(size).map_err(misfit)?,
        Annotation::Raster(mask) if whole => {
            let raster = mask.read().map_err(|e| e.to_string())?;
            mask.check_size(raster.size(), size).map_err(misfit)?;
            if raster.labels.iter().all(|label| *label == IGNORE) {
                return Ok(Labelled::Nothing);
            }
        }
        Annotation::DenseMap(file) if whole => {
            let map = file.read().map_err(|e| e.to_string())?;
            file.check_size(map.size(), size).map_err(misfit)?;
        }
        _ => {}
    }
    Ok(Labelled::Something)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{ImageRef, Objects, SampleId};
    use std::sync::Arc;

    #[test]
    fn images_and_sizes_that_cannot_be_used_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let good = folder.path().join("good.png");
        image::RgbImage::new(4, 3).save(&good).unwrap();
        let bytes = std::fs::read(&good).unwrap();
        std::fs::write(folder.path().join("cut.png"), &bytes[..bytes.len() / 2]).unwrap();
        let entry = |name: &str, annotation: Annotation| Entry {
            id: SampleId::new(name),
            image: ImageRef::File(folder.path().join(name)),
            annotation,
        };
        let objects = |size| {
            let (objects, absent, not_exhaustive) = (vec![], vec![], vec![]);
            Annotation::Objects(Arc::new(Objects {
                image_id: 1.into(),
                size,
                objects,
                absent,
                not_exhaustive,
            }))
        };
        let entries = [
            entry("good.png", objects((3, 4))),
            entry("good.png", objects((4, 3))),
            entry("cut.png", Annotation::Label(0)),
            entry("none.png", Annotation::Label(0)),
        ];
        assert!(readable(&entries[..1], 3).is_ok());
        let error = readable(&entries, 3).unwrap_err();
        assert!(error.starts_with("3 of the images to be scored cannot be used; repair them"), "{error}");
        let found = unreadable(&entries, 3);
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(
            found[0].contains("good.png") && found[1].contains("cut.png") && found[2].contains("none.png")
        );
    }
}
