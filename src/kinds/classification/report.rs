//! The report of an evaluation: a confusion matrix, scores of classes, calibration and errors, as tables and pictures.

use super::output::table;
use crate::data::Entry;
use crate::draw::{Figure, Heatmap, fitted};
use crate::metrics::Report;
use crate::metrics::classification::{BINS, ClassificationReport, ConfusedPair};
use crate::record::write_atomic;
use anyhow::{Context, Error, Result};
use image::{ImageFormat, RgbImage};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::Cursor;
use std::path::{Path, PathBuf};

/// Number of pairs and of classes in the summary.
const LISTED: usize = 3;
/// Number of errors in the picture, those in a row, and the length of the longer side of each in pixels.
const ERRORS: usize = 20;
const ROW: usize = 4;
const SIDE: u32 = 224;

impl Report for ClassificationReport {
    fn summary(&self) -> Vec<String> {
        let count = self.images().len();
        let wrong = self.images().iter().filter(|image| !image.is_right()).count();
        let mut lines = vec![format!(
            "mean accuracy of the classes {:.2} %, expected calibration error {:.2} % ({BINS} bins), log loss {:.3}",
            self.mean_class_accuracy(),
            self.calibration_error(),
            self.log_loss()
        )];
        if wrong == 0 {
            lines.push(format!("all {count} images are classified correctly"));
            return lines;
        }
        let by_class = self.by_class();
        let accuracy =
            |name: &String| by_class.0.get(name).and_then(|scores| scores.get("accuracy")).copied();
        let mut worst: Vec<(f64, &String)> =
            self.classes().iter().filter_map(|name| Some((accuracy(name)?, name))).collect();
        worst.sort_by(|a, b| a.0.total_cmp(&b.0));
        let worst: Vec<String> =
            worst.iter().take(LISTED).map(|(accuracy, name)| format!("{name} {accuracy:.1} %")).collect();
        lines.push(format!("classes of lowest accuracy: {}", worst.join(", ")));
        let pair = |pair: &ConfusedPair| {
            let [label, predicted] = [pair.label, pair.predicted].map(|class| &self.classes()[class]);
            format!("{label} as {predicted} ({} of {})", pair.images, self.images_of(pair.label))
        };
        let pairs: Vec<String> = self.most_confused(LISTED).iter().map(pair).collect();
        if !pairs.is_empty() {
            lines.push(format!("most often confused: {}", pairs.join(", ")));
        }
        lines
    }

    fn values(&self) -> Value {
        let pairs: Vec<Value> = self
            .most_confused(usize::MAX)
            .iter()
            .map(|pair| {
                let [class, predicted] = [pair.label, pair.predicted].map(|class| &self.classes()[class]);
                json!({ "class": class, "predicted": predicted, "images": pair.images })
            })
            .collect();
        json!({
            "classes": self.classes(),
            "confusion": self.matrix(),
            "confused": pairs,
            "mean_class_accuracy": self.mean_class_accuracy(),
            "expected_calibration_error": self.calibration_error(),
            "log_loss": self.log_loss(),
        })
    }

    fn write(&self, folder: &Path, entries: &[Entry]) -> Result<Vec<PathBuf>> {
        let files = [
            ("by_class.csv", self.class_table()?),
            ("confusion.csv", self.confusion_table()?),
            ("calibration.csv", self.calibration_table()?),
            ("predictions.csv", self.prediction_table()?),
            ("confusion.png", png(&self.confusion_picture())?),
            ("errors.png", png(&self.error_picture(entries)?.draw())?),
        ];
        let write = |(name, bytes): (&str, Vec<u8>)| {
            let path = folder.join(name);
            write_atomic(&path, &bytes).with_context(|| format!("cannot write `{}`", path.display()))?;
            Ok(path)
        };
        files.into_iter().map(write).collect()
    }
}

impl ClassificationReport {
    fn class_table(&self) -> Result<Vec<u8>> {
        const SCORES: [&str; 4] = ["images", "accuracy", "precision", "f1"];
        let by_class = self.by_class();
        let row = |name: &String| {
            let score = |score: &&str| by_class.0.get(name).and_then(|scores| scores.get(*score));
            let values = SCORES.iter().map(score).map(|value| value.map_or(String::new(), f64::to_string));
            std::iter::once(name.clone()).chain(values).collect()
        };
        table(std::iter::once("class").chain(SCORES), self.classes().iter().map(row))
    }

    /// Rows are true classes, columns predicted ones; images without a prediction stand in a last column, if there are any.
    fn confusion_table(&self) -> Result<Vec<u8>> {
        let missing: Vec<usize> = self
            .matrix()
            .iter()
            .enumerate()
            .map(|(class, row)| self.images_of(class) - row.iter().sum::<usize>())
            .collect();
        let any_missing = missing.iter().any(|count| *count > 0);
        let columns = self.classes().iter().map(String::as_str);
        let header = std::iter::once("class").chain(columns).chain(any_missing.then_some("(none)"));
        let rows = self.classes().iter().zip(self.matrix()).zip(&missing).map(|((name, row), missing)| {
            let counts = row.iter().copied().chain(any_missing.then_some(*missing));
            std::iter::once(name.clone()).chain(counts.map(|count| count.to_string())).collect()
        });
        table(header, rows)
    }

    fn calibration_table(&self) -> Result<Vec<u8>> {
        let edge = |k: usize| k as f64 / BINS as f64;
        let rows = self.calibration().into_iter().enumerate().map(|(k, bin)| {
            let mean = |value: f64| if bin.images > 0 { value.to_string() } else { String::new() };
            vec![
                edge(k).to_string(),
                edge(k + 1).to_string(),
                bin.images.to_string(),
                mean(bin.confidence),
                mean(bin.accuracy),
            ]
        });
        table(["above", "up_to", "images", "confidence", "accuracy"], rows)
    }

    fn prediction_table(&self) -> Result<Vec<u8>> {
        let rows = self.images().iter().map(|image| {
            let predicted = image.predicted.map_or(String::new(), |class| self.classes()[class].clone());
            vec![
                image.id.as_str().to_string(),
                self.classes()[image.label].clone(),
                predicted,
                image.is_right().to_string(),
                (image.confidence as f32).to_string(),
                (image.probability as f32).to_string(),
            ]
        });
        table(["image", "class", "predicted", "right", "probability", "class_probability"], rows)
    }

    /// The confusion matrix, each row divided by the images of its class.
    fn confusion_picture(&self) -> RgbImage {
        let share = |(class, row): (usize, &Vec<usize>)| {
            let images = self.images_of(class).max(1) as f64;
            row.iter().map(|count| *count as f64 / images).collect()
        };
        let texts = |row: &Vec<usize>| {
            row.iter().map(|count| if *count > 0 { count.to_string() } else { String::new() }).collect()
        };
        Heatmap {
            title: format!(
                "{} images by class; the darker, the larger the share of the class",
                self.images().len()
            ),
            row_axis: "class".into(),
            column_axis: "predicted".into(),
            rows: self.classes().to_vec(),
            columns: self.classes().to_vec(),
            values: self.matrix().iter().enumerate().map(share).collect(),
            texts: self.matrix().iter().map(texts).collect(),
        }
        .draw()
    }

    /// The errors of which the model was surest.
    fn error_picture(&self, entries: &[Entry]) -> Result<Figure> {
        let by_id: BTreeMap<&str, &Entry> = entries.iter().map(|entry| (entry.id.as_str(), entry)).collect();
        let errors = self.surest_errors(ERRORS);
        let wrong = self.images().iter().filter(|image| !image.is_right()).count();
        let tile = |place: &usize| -> Result<RgbImage> {
            let image = &self.images()[*place];
            let id = image.id.as_str();
            let entry = by_id.get(id).with_context(|| format!("`{id}` is not in the evaluated split"))?;
            let pixels = entry.image.decode(3).map_err(Error::msg)?;
            let picture = fitted(&pixels, SIDE).map_err(Error::msg)?;
            let predicted = image.predicted.map_or("no prediction".into(), |class| {
                format!("predicted {} {:.1} %", self.classes()[class], 100. * image.confidence)
            });
            let class = format!("class {} {:.1} %", self.classes()[image.label], 100. * image.probability);
            Ok(Figure::tile(picture, &[&predicted, &class, id], SIDE))
        };
        let tiles: Vec<RgbImage> = errors.iter().map(tile).collect::<Result<_>>()?;
        Ok(Figure {
            title: match wrong {
                0 => format!("no errors in {} images", self.images().len()),
                _ => {
                    format!("the {} surest of {wrong} errors in {} images", tiles.len(), self.images().len())
                }
            },
            rows: tiles.chunks(ROW).map(<[RgbImage]>::to_vec).collect(),
            ..Figure::default()
        })
    }
}

fn png(picture: &RgbImage) -> Result<Vec<u8>> {
    let mut png = Cursor::new(vec![]);
    picture.write_to(&mut png, ImageFormat::Png)?;
    Ok(png.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Annotation, ImageRef, SampleId};
    use crate::metrics::classification::ScoreKind;

    /// Three images of two classes: one right, one wrong, one without a prediction.
    fn example(folder: &Path) -> (ClassificationReport, Vec<Entry>) {
        let classes = ["cat, black".to_string(), "dog".into()];
        let mut report = ClassificationReport::new(&classes, ScoreKind::Votes);
        let none = f32::NEG_INFINITY;
        let mut entries = vec![];
        for (id, votes, label) in [("a", [1., 3.], 1), ("b", [none, 2.], 0), ("c", [none, none], 0)] {
            let file = folder.join(format!("{id}.png"));
            RgbImage::from_pixel(20, 10, image::Rgb([200, 10, 10])).save(&file).unwrap();
            let (id, image) = (SampleId::new(id), ImageRef::File(file));
            report.add(&id, &votes, label);
            entries.push(Entry { id, image, annotation: Annotation::Label(label as u32) });
        }
        (report, entries)
    }

    #[test]
    fn tables_and_pictures_are_written() {
        let folder = tempfile::tempdir().unwrap();
        let (report, entries) = example(folder.path());
        let files = report.write(folder.path(), &entries).unwrap();
        let text = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
        assert_eq!(
            text("by_class.csv"),
            "class,images,accuracy,precision,f1\n\"cat, black\",2,0,,0\ndog,1,100,50,66.66666666666667\n"
        );
        assert_eq!(
            text("confusion.csv"),
            "class,\"cat, black\",dog,(none)\n\"cat, black\",0,1,1\ndog,0,1,0\n"
        );
        assert_eq!(
            text("predictions.csv"),
            "image,class,predicted,right,probability,class_probability\na,dog,dog,true,0.75,0.75\n\
             b,\"cat, black\",dog,false,1,0\nc,\"cat, black\",,false,0,0\n"
        );
        let calibration = text("calibration.csv");
        assert_eq!(calibration.lines().count(), BINS + 1);
        assert!(calibration.contains("\n0,0.06666666666666667,1,0,0\n"), "{calibration}");
        assert_eq!(files.len(), 6);
        for name in ["confusion.png", "errors.png"] {
            let picture = image::open(folder.path().join(name)).unwrap().to_rgb8();
            assert!(picture.width() > 200 && picture.height() > 100, "{name}: {:?}", picture.dimensions());
        }
        let errors = image::open(folder.path().join("errors.png")).unwrap().to_rgb8();
        let red = errors.pixels().filter(|pixel| pixel.0 == [200, 10, 10]).count();
        assert_eq!(red, 2 * 224 * 112, "both errors are shown, enlarged");
    }

    #[test]
    fn the_summary_names_classes() {
        let folder = tempfile::tempdir().unwrap();
        let (report, _) = example(folder.path());
        let lines = report.summary();
        assert!(lines[0].starts_with("mean accuracy of the classes 50.00 %"), "{lines:?}");
        assert_eq!(lines[1], "classes of lowest accuracy: cat, black 0.0 %, dog 100.0 %");
        assert_eq!(lines[2], "most often confused: cat, black as dog (1 of 2)");
        assert_eq!(report.values()["confusion"], json!([[0, 1], [0, 1]]));
        assert_eq!(report.values()["log_loss"], Value::Null, "infinite");
    }

    #[test]
    fn an_image_of_another_split_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let (report, entries) = example(folder.path());
        let error = report.write(folder.path(), &entries[..1]).unwrap_err().to_string();
        assert!(error.contains("is not in the evaluated split"), "{error}");
    }
}
