//! [`TurnedFiles`]: which files of a split viewers show otherwise than they are stored, for `bench data check`.

use super::orientation::Turn;
use super::{Entry, ImageRef, SampleId};
use rayon::prelude::*;
use std::collections::BTreeMap;

/// Files that are turned by their EXIF orientation.
#[derive(Clone, Debug, Default)]
pub struct TurnedFiles {
    /// How many files have each turn, with the first of them.
    by_turn: BTreeMap<Turn, (usize, Option<SampleId>)>,
    /// Whether the turns are applied.
    applied: bool,
}

impl TurnedFiles {
    /// The turned files among `entries`, by their headers. Files that cannot be read have no turn.
    pub(super) fn among(entries: &[Entry]) -> Self {
        let turn = |entry: &Entry| match entry.image.header() {
            Some(Ok((_, turn))) if turn != Turn::NONE => Some((turn, entry.id.clone())),
            _ => None,
        };
        let found: Vec<(Turn, SampleId)> = entries.par_iter().filter_map(turn).collect();
        let mut by_turn: BTreeMap<Turn, (usize, Option<SampleId>)> = BTreeMap::new();
        for (turn, id) in found {
            let (count, first) = by_turn.entry(turn).or_default();
            *count += 1;
            first.get_or_insert(id);
        }
        let applied = entries.iter().any(|entry| matches!(entry.image, ImageRef::Upright(_)));
        Self { by_turn, applied }
    }

    /// Number of files.
    pub fn count(&self) -> usize {
        self.by_turn.values().map(|(count, _)| count).sum()
    }
}

/// Several lines without an end of line, or nothing if there are no such files.
impl std::fmt::Display for TurnedFiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Some((_, (_, Some(first)))) = self.by_turn.first_key_value() else { return Ok(()) };
        let turns: Vec<String> =
            self.by_turn.iter().map(|(turn, (count, _))| format!("{count} {turn}")).collect();
        let (count, turns) = (self.count(), turns.join(", "));
        let files = if count == 1 { "1 file is" } else { &format!("{count} files are") };
        write!(
            f,
            "{files} shown by viewers otherwise than stored, by EXIF orientation ({turns}; the first is `{first}`). "
        )?;
        f.write_str(match self.applied {
            true => {
                "This is applied here. If the annotations were made for the stored pixels, set `orientation = \"ignore\"` in \
                 dataset.toml"
            }
            false => {
                "This is ignored here, as by PyTorch's loaders. If the annotations were made for images as viewers show them, \
                 set `orientation = \"apply\"` in dataset.toml"
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use crate::config::Library;
    use crate::data::{Dataset, Formats, ImageRef, SplitReport};
    use candle_core::Device;
    use std::path::Path;

    /// Writes a file of the golden folder, which is stored with 9 × 14 pixels (height × width).
    fn image(golden: &str, path: &Path) {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/orientation.safetensors");
        let bytes =
            candle_core::safetensors::load(file, &Device::Cpu).unwrap()[&format!("file.{golden}")].clone();
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes.to_vec1::<u8>().unwrap()).unwrap();
    }

    /// A data set of one file in `folder`, with `keys` before its only split.
    fn dataset(folder: &Path, keys: &str, annotations: &str) -> Dataset {
        let text = format!(
            "name = 'own'\nversion = '1'\nlicense = 'none'\n{keys}\n[split.train]\nimages = 'images'\n{annotations}"
        );
        std::fs::write(folder.join("dataset.toml"), text).unwrap();
        Dataset::load(&Library::default(), folder.to_str().unwrap(), &Formats::builtin()).unwrap()
    }

    fn checked(dataset: &Dataset, folder: &Path) -> SplitReport {
        dataset.check(folder, true).remove(0)
    }

    /// A COCO file whose only image is annotated with this size.
    fn coco(
        golden: &str,
        (height, width): (usize, usize),
        keys: &str,
    ) -> (SplitReport, Dataset, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        image(golden, &folder.path().join("images/a.png"));
        let json = format!(
            r#"{{"images": [{{"id": 1, "file_name": "a.png", "width": {width}, "height": {height}}}],
            "annotations": [{{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "area": 12, "iscrowd": 0}}],
            "categories": [{{"id": 1, "name": "one"}}]}}"#
        );
        std::fs::write(folder.path().join("a.json"), json).unwrap();
        let dataset = dataset(folder.path(), keys, "annotations = { format = 'coco_json', file = 'a.json' }");
        (checked(&dataset, folder.path()), dataset, folder)
    }

    #[test]
    fn coco_s_format_applies_exif_unless_told_otherwise() {
        let (report, dataset, folder) = coco("6.png", (14, 9), "");
        assert_eq!((report.problems.len(), report.turned.count()), (0, 1), "{report}");
        let text = report.to_string();
        let note = "note: 1 file is shown by viewers otherwise than stored, by EXIF orientation (1 turned by 90° to the right; the \
                    first is `images/a.png`). This is applied here.";
        assert!(text.contains(note), "{text}");
        let applied = dataset.index(folder.path(), "train").unwrap().entries;
        assert_eq!(applied[0].image.decode(3).unwrap().size(), (14, 9));

        let (report, dataset, folder) = coco("6.png", (9, 14), "orientation = 'ignore'");
        assert!(report.problems.is_empty(), "{report}");
        assert!(report.to_string().contains("This is ignored here"), "{report}");
        let ignored = dataset.index(folder.path(), "train").unwrap().entries;
        assert!(matches!(ignored[0].image, ImageRef::File(_)));
        assert_ne!(Dataset::fingerprint(&applied), Dataset::fingerprint(&ignored));
    }

    #[test]
    fn a_size_that_does_not_fit_names_the_orientation_and_the_switch() {
        for (size, keys, words, switch) in [
            (
                (14, 9),
                "orientation = 'ignore'",
                "viewers show the file turned by 90° to the right",
                "\"apply\"",
            ),
            ((9, 14), "", "was turned by 90° to the right", "\"ignore\""),
        ] {
            let (report, ..) = coco("6.png", size, keys);
            let [problem] = &report.problems[..] else { panic!("{report}") };
            let all =
                ["but its annotation says", words, &format!("`orientation = {switch}` in dataset.toml")];
            assert!(all.iter().all(|words| problem.contains(words)), "{problem}");
        }
        let (report, ..) = coco("1.png", (14, 9), "");
        assert!(
            report.problems[0].ends_with("its annotation says 14x9: height and width are exchanged"),
            "{report}"
        );
    }

    #[test]
    fn a_turn_that_keeps_the_size_is_noticed() {
        for (keys, words) in
            [("", "This is applied here"), ("orientation = 'ignore'", "This is ignored here")]
        {
            let (report, ..) = coco("3.png", (9, 14), keys);
            assert!(report.problems.is_empty(), "{report}");
            let text = report.to_string();
            assert!(text.contains("1 turned by 180°") && text.contains(words), "{text}");
        }
        assert_eq!(coco("1.png", (9, 14), "").0.turned.count(), 0);
    }

    #[test]
    fn masks_fit_turned_images_where_that_is_asked_for() {
        let annotations = "annotations = { format = 'png_masks', masks = 'masks', suffix = ['.jpeg', '.png'], names = ['a', 'b'] }";
        let folder = tempfile::tempdir().unwrap();
        image("6.jpeg", &folder.path().join("images/1.jpeg"));
        std::fs::create_dir(folder.path().join("masks")).unwrap();
        let mask = ::image::GrayImage::from_fn(9, 14, |x, _| ::image::Luma([(x % 2) as u8]));
        mask.save(folder.path().join("masks/1.png")).unwrap();
        let report = checked(&dataset(folder.path(), "", annotations), folder.path());
        assert!(
            report.problems[0].contains("`orientation = \"apply\"` in dataset.toml turns it too"),
            "{report}"
        );
        let report = checked(&dataset(folder.path(), "orientation = 'apply'", annotations), folder.path());
        assert!(report.problems.is_empty(), "{report}");
    }
}
