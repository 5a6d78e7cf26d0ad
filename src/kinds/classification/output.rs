//! Output of predictions: the most likely classes drawn on the image, and CSV files of labels and probabilities.

use crate::data::Image;
use crate::draw::{Canvas, Drawing, color};
use crate::metrics::classification::ScoreKind;
use crate::record::write_atomic;
use crate::task::{PredictedImage, PredictionWriter};
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};

/// Number of classes that are shown for an image.
const SHOWN: usize = 5;
/// Names of the files that [`LabelWriter`] writes.
const LABELS: &str = "labels.csv";
const PROBABILITIES: &str = "probabilities.csv";

/// The probability of each class: 0 to 1.
fn probabilities(scores: &[f32], kind: ScoreKind) -> Vec<f32> {
    kind.log_probabilities(scores).into_iter().map(|log| log.exp() as f32).collect()
}

/// The most likely labels with their probabilities, best first; a class without votes is not listed.
fn best(scores: &[f32], kind: ScoreKind) -> Vec<(usize, f32)> {
    let probabilities = probabilities(scores, kind);
    let listed = |label: &usize| kind == ScoreKind::Logits || scores[*label] != f32::NEG_INFINITY;
    let mut labels: Vec<usize> = (0..scores.len()).filter(listed).collect();
    labels.sort_by(|a, b| probabilities[*b].total_cmp(&probabilities[*a]));
    labels.into_iter().take(SHOWN).map(|label| (label, probabilities[label])).collect()
}

/// What the probabilities are, as the name of a column.
fn column(kind: ScoreKind) -> &'static str {
    match kind {
        ScoreKind::Logits => "probability",
        ScoreKind::Votes => "share_of_votes",
    }
}

fn name(classes: &[String], label: usize) -> &str {
    classes.get(label).map_or("?", String::as_str)
}

/// Writes the names of the most likely classes into the upper left corner of the image.
pub(super) fn draw(image: &Image, scores: &[f32], kind: ScoreKind, classes: &[String]) -> Result<Drawing> {
    let mut canvas = Canvas::new(image).map_err(anyhow::Error::msg)?;
    let mut y = 0.;
    for (label, probability) in best(scores, kind) {
        let text = format!("{:.1} % {}", 100. * probability, name(classes, label));
        let (_, height) = canvas.caption(&text, 0., y, color(label));
        y += height;
    }
    let title = match kind {
        ScoreKind::Logits => "the most likely classes and their probabilities",
        ScoreKind::Votes => "the classes with the most votes of neighbours",
    };
    Ok(Drawing { title: title.into(), ..canvas.into_image().into() })
}

/// Writes two CSV files: the most likely labels of each image (image, rank from 1, label, class, probability), and the
/// probability of every class (a row for each image, a column for each class). Votes of neighbours are shares of all votes.
pub(super) struct LabelWriter {
    folder: PathBuf,
    classes: Vec<String>,
    kind: ScoreKind,
    labels: Vec<Vec<String>>,
    probabilities: Vec<Vec<String>>,
}

impl LabelWriter {
    pub(super) fn new(folder: &Path, classes: &[String], kind: ScoreKind) -> Self {
        let (folder, classes) = (folder.to_path_buf(), classes.to_vec());
        Self { folder, classes, kind, labels: vec![], probabilities: vec![] }
    }
}

impl PredictionWriter for LabelWriter {
    type Prediction = Vec<f32>;

    fn files(&self, _: &[String]) -> Vec<PathBuf> {
        vec![LABELS.into(), PROBABILITIES.into()]
    }

    fn write(&mut self, image: &PredictedImage, scores: &Vec<f32>) -> Result<()> {
        for (rank, (label, probability)) in best(scores, self.kind).into_iter().enumerate() {
            let class = name(&self.classes, label).to_string();
            let [rank, label] = [rank + 1, label].map(|number| number.to_string());
            self.labels.push(vec![image.name.into(), rank, label, class, probability.to_string()]);
        }
        let all = probabilities(scores, self.kind);
        self.probabilities
            .push(std::iter::once(image.name.into()).chain(all.iter().map(f32::to_string)).collect());
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<()> {
        let Self { folder, classes, kind, labels, probabilities } = *self;
        let labels = table(["image", "rank", "label", "class", column(kind)], labels)?;
        let header = std::iter::once("image").chain(classes.iter().map(String::as_str));
        let probabilities = table(header, probabilities)?;
        for (name, text) in [(LABELS, labels), (PROBABILITIES, probabilities)] {
            let file = folder.join(name);
            write_atomic(&file, &text).with_context(|| format!("cannot write `{}`", file.display()))?;
        }
        Ok(())
    }
}

/// A CSV table.
pub(super) fn table<'a>(
    header: impl IntoIterator<Item = &'a str>,
    rows: impl IntoIterator<Item = Vec<String>>,
) -> Result<Vec<u8>> {
    let mut table = csv::Writer::from_writer(vec![]);
    table.write_record(header)?;
    rows.into_iter().try_for_each(|row| table.write_record(row))?;
    table.into_inner().context("cannot format a table")
}

#[cfg(test)]
mod tests {
    use super::*;
    use ScoreKind::{Logits, Votes};

    #[test]
    fn probabilities_by_hand() {
        let found = best(&[0., 2f32.ln(), f32::NEG_INFINITY], Logits);
        assert_eq!(found.iter().map(|(label, _)| *label).collect::<Vec<_>>(), [1, 0, 2]);
        assert!((found[0].1 - 2. / 3.).abs() < 1e-6 && found[2].1 == 0., "{found:?}");
        assert_eq!(best(&[1., 3.], Votes), [(1, 0.75), (0, 0.25)]);
        assert_eq!(best(&[1., f32::NEG_INFINITY, 3.], Votes), [(2, 0.75), (0, 0.25)]);
        assert_eq!(best(&[0.; 9], Logits).len(), SHOWN);
    }

    #[test]
    fn tables_of_labels_and_of_probabilities() {
        for (kind, column) in [(Votes, "share_of_votes"), (Logits, "probability")] {
            let scores = if kind == Votes { [1., 3.] } else { [0., 3f32.ln()] };
            let folder = tempfile::tempdir().unwrap();
            let classes = ["cat, black".to_string(), "dog".into()];
            let mut writer = Box::new(LabelWriter::new(folder.path(), &classes, kind));
            for number in 1..3 {
                let image = PredictedImage { path: Path::new("x.png"), name: "x", number, size: (1, 1) };
                writer.write(&image, &scores.to_vec()).unwrap();
            }
            writer.finish().unwrap();
            let text = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
            let rows = "x,1,1,dog,0.75\nx,2,0,\"cat, black\",0.25\n";
            assert_eq!(text(LABELS), format!("image,rank,label,class,{column}\n{rows}{rows}"));
            let row = "x,0.25,0.75\n";
            assert_eq!(text(PROBABILITIES), format!("image,\"cat, black\",dog\n{row}{row}"));
        }
    }
}
