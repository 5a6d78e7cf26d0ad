//! Output of predictions: an overlay with a legend, and PNG files with the class ids of the data set.

use crate::data::{Entry, Image, LabelEncoding, LabelTable, Raster, RasterFile};
use crate::draw::{Canvas, Color, Drawing, LegendEntry, class_colors};
use crate::record::write_atomic;
use crate::task::{DrawOptions, PredictedImage, PredictionWriter, Predictions};
use anyhow::{Context, Result, ensure};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Opacity of the classes.
const ALPHA: f32 = 0.5;
/// Maximum number of classes in the legend.
const SHOWN: usize = 12;
/// Name of the folder that [`LabelWriter`] writes to.
const FOLDER: &str = "labels";

/// Colors and outlines the pixels of each class, except a background. The legend lists the largest classes with their area in
/// percent. Pixels whose label is no class are not colored.
pub(super) fn draw(
    image: &Image,
    prediction: &Raster,
    classes: &[String],
    options: &DrawOptions,
) -> Result<Drawing> {
    let (found, size) = (prediction.size(), image.size());
    ensure!(found == size, "labels of {found:?} pixels do not fit the image of {size:?}");
    let mut areas = vec![0usize; classes.len()];
    for label in &prediction.labels {
        if let Some(area) = areas.get_mut(usize::from(*label)) {
            *area += 1;
        }
    }
    let mut shown: Vec<usize> = (0..classes.len()).filter(|label| areas[*label] > 0).collect();
    shown.sort_by_key(|label| (std::cmp::Reverse(areas[*label]), *label));
    let colors = class_colors(classes);
    let mut canvas = Canvas::new(image).map_err(anyhow::Error::msg)?;
    for (label, color) in shown.iter().filter_map(|label| Some((*label, colors[*label]?))) {
        let inside: Vec<u8> =
            prediction.labels.iter().map(|found| u8::from(usize::from(*found) == label)).collect();
        canvas.fill(&inside, color, ALPHA);
        canvas.outline(&inside, color);
    }
    let entry = |label: usize| LegendEntry {
        color: colors[label],
        name: classes[label].clone(),
        remark: format!("{:.1} %", 100. * areas[label] as f64 / prediction.labels.len() as f64),
    };
    Ok(Drawing {
        picture: canvas.into_image(),
        title: if options.truth { "annotated classes" } else { "predicted classes" }.into(),
        legend: shown.into_iter().take(SHOWN).map(entry).collect(),
    })
}

/// Writes `labels/<name>.png` for each image: a PNG with the class ids of the data set's masks, as indices into a palette of the colors
/// of the drawings where they fit into 8 bits.
pub(super) struct LabelWriter {
    folder: PathBuf,
    ids: Vec<u32>,
    colors: Vec<Option<Color>>,
}

impl LabelWriter {
    pub(super) fn new(folder: &Path, ids: &[u32], classes: &[String]) -> Self {
        Self { folder: folder.to_path_buf(), ids: ids.to_vec(), colors: class_colors(classes) }
    }
}

fn file(name: &str) -> PathBuf {
    Path::new(FOLDER).join(format!("{name}.png"))
}

impl PredictionWriter for LabelWriter {
    type Prediction = Raster;

    fn files(&self, names: &[String]) -> Vec<PathBuf> {
        names.iter().map(|name| file(name)).collect()
    }

    fn write(&mut self, image: &PredictedImage, prediction: &Raster) -> Result<()> {
        let path = self.folder.join(file(image.name));
        let png = prediction.to_png(&self.ids, &self.colors).map_err(anyhow::Error::msg)?;
        let folder = path.parent().context("the file has no parent folder")?;
        std::fs::create_dir_all(folder).with_context(|| format!("cannot create `{}`", folder.display()))?;
        write_atomic(&path, &png).with_context(|| format!("cannot write `{}`", path.display()))
    }

    fn finish(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

/// Reads `<stem of the image>.png` from a folder for each of `entries`: gray values (or palette indices) are class ids of
/// the data set.
pub(super) fn read<'a>(
    files: &[PathBuf],
    entries: &'a [Entry],
    ids: &[u32],
) -> Result<Predictions<'a, Raster>> {
    let folder = match files {
        [folder] if folder.is_dir() => folder.clone(),
        _ => anyhow::bail!("kind `segmentation` reads predictions from one folder of PNGs of ids"),
    };
    let mut names = BTreeSet::new();
    for entry in entries {
        let name = stem(entry)?;
        ensure!(
            names.insert(name.clone()),
            "`{name}.png` would be the prediction of two images, one of them `{}`: their names must differ",
            entry.id
        );
    }
    let labels = LabelTable::new(ids.iter().copied().zip(0..)).map_err(anyhow::Error::msg)?;
    let encoding = Arc::new(LabelEncoding::Ids(labels));
    let notes = others(&folder, &names)?;
    let missing = names.iter().filter(|name| !folder.join(format!("{name}.png")).exists()).count();
    let read = move |entry: &Entry| {
        let path = folder.join(format!("{}.png", stem(entry)?));
        ensure!(
            path.exists(),
            "`{}` has no prediction: there is no `{}` ({missing} of {} PNGs are missing); predict all images of the split, \
             or name each PNG after its image",
            entry.id,
            path.display(),
            entries.len()
        );
        Ok(RasterFile { path, encoding: encoding.clone() }.read()?)
    };
    Ok(Predictions { each: Box::new(entries.iter().map(read)), notes })
}

/// A note about the PNGs in `folder` that are not the prediction of an image, if there are any.
fn others(folder: &Path, names: &BTreeSet<String>) -> Result<Vec<String>> {
    let mut others = vec![];
    for file in std::fs::read_dir(folder).with_context(|| format!("cannot read `{}`", folder.display()))? {
        let path = file.with_context(|| format!("cannot read `{}`", folder.display()))?.path();
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        if path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("png"))
            && !names.contains(&*stem)
        {
            others.push(path.file_name().unwrap_or_default().to_string_lossy().to_string());
        }
    }
    others.sort();
    Ok(match others.first() {
        None => vec![],
        Some(first) => vec![format!(
            "{} of the PNGs in `{}` are of no image of the split, and not scored; the first: `{first}`",
            others.len(),
            folder.display()
        )],
    })
}

/// The name of the image of an entry, without ending.
fn stem(entry: &Entry) -> Result<String> {
    let Some(image) = entry.image.path() else {
        anyhow::bail!("`{}` is not a file, so the name of its prediction is unknown", entry.id)
    };
    Ok(image.file_stem().unwrap_or_default().to_string_lossy().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Annotation, ImageRef, SampleId};
    use crate::draw::color;

    #[test]
    fn classes_are_colored_and_stand_in_the_legend() {
        let image = Image::new(60, 80, 3, vec![0; 60 * 80 * 3]); // drawn at seven times its size
        let (sea, sky, void) = (1, 0, u16::MAX);
        let label = |i: usize| {
            if i / 80 == 59 {
                void
            } else if i % 80 < 60 {
                sea
            } else {
                sky
            }
        };
        let raster = Raster::new(60, 80, (0..60 * 80).map(label).collect());
        let names = ["sky".to_string(), "sea".into(), "sand".into()];
        let options = DrawOptions { threshold: 0.5, truth: false };
        let drawing = draw(&image, &raster, &names, &options).unwrap();
        let picture = &drawing.picture;
        let half = |label: usize| color(label).map(|v| (f32::from(v) * ALPHA).round() as u8);
        assert_eq!(picture.dimensions(), (560, 420));
        assert_eq!((picture.get_pixel(210, 200).0, picture.get_pixel(500, 200).0), (half(1), half(0)));
        assert_eq!(picture.get_pixel(0, 200).0, color(1), "outline");
        assert_eq!(picture.get_pixel(210, 418).0, [0; 3], "no class");
        assert_eq!(drawing.title, "predicted classes");
        let legend: Vec<_> =
            drawing.legend.iter().map(|e| (e.name.as_str(), e.remark.as_str(), e.color)).collect();
        assert_eq!(legend, [("sea", "73.8 %", Some(color(1))), ("sky", "24.6 %", Some(color(0)))]);
        let ground = ["background".to_string(), "sea".into(), "sand".into()];
        let drawing = draw(&image, &raster, &ground, &options).unwrap();
        assert_eq!(drawing.picture.get_pixel(500, 200).0, [0; 3], "the background keeps its colors");
        assert_eq!(drawing.picture.get_pixel(210, 200).0, half(0));
        let error = draw(&image, &Raster::new(1, 1, vec![0]), &names, &options).unwrap_err().to_string();
        assert!(error.contains("do not fit"), "{error}");
    }

    #[test]
    fn what_is_written_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let ids = [7, 8, 11];
        let raster = Raster::new(2, 2, vec![0, 1, 2, 0]);
        let mut writer =
            Box::new(LabelWriter::new(folder.path(), &ids, &["sky", "sea", "sand"].map(String::from)));
        let image = PredictedImage { path: Path::new("a/1.jpg"), name: "1", number: 1, size: (2, 2) };
        assert_eq!(
            writer.files(&["1".into(), "b/2".into()]),
            ["labels/1.png", "labels/b/2.png"].map(PathBuf::from)
        );
        writer.write(&image, &raster).unwrap();
        writer.finish().unwrap();
        let shown = image::open(folder.path().join("labels/1.png")).unwrap().into_rgb8();
        let colors: Vec<Color> = shown.pixels().map(|pixel| pixel.0).collect();
        assert_eq!(
            colors,
            [color(0), color(1), color(2), color(0)],
            "a picture of the classes for programs that show it"
        );
        let entry = |name: &str| Entry {
            id: SampleId::new(name),
            image: ImageRef::File(name.into()),
            annotation: Annotation::None,
        };
        let entries = [entry("a/1.jpg"), entry("a/2.jpg")];
        let labels = [folder.path().join("labels")];
        let mut found = read(&labels, &entries, &ids).unwrap();
        assert_eq!(found.notes, [""; 0]);
        assert_eq!(found.each.next().unwrap().unwrap(), raster);
        let error = found.each.next().unwrap().unwrap_err().to_string();
        assert!(error.contains("2.png` (1 of 2 PNGs are missing)"), "{error}");
        for other in ["3.png", "10.PNG", "notes.txt"] {
            std::fs::write(labels[0].join(other), "").unwrap();
        }
        let notes = read(&labels, &entries, &ids).unwrap().notes;
        assert!(notes.len() == 1 && notes[0].starts_with("2 of the PNGs in"), "{notes:?}");
        assert!(
            notes[0].ends_with("are of no image of the split, and not scored; the first: `10.PNG`"),
            "{notes:?}"
        );
        let twice = [entry("a/1.jpg"), entry("b/1.jpg")];
        let error = read(&labels, &twice, &ids).err().unwrap().to_string();
        assert!(
            error.contains("`1.png` would be the prediction of two images, one of them `b/1.jpg`"),
            "{error}"
        );
        assert!(read(&[], &entries, &ids).err().unwrap().to_string().contains("one folder"));
    }
}
